//! What a user types: help, usage, names, flags and variables.

use crate::root::{Ran, TestRoot, finish};
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::os::unix::ffi::OsStrExt;

#[test]
fn help_names_every_command_and_exits_well() {
    let root = TestRoot::new();
    let help = root.run("--help").expect(0).stdout;
    for word in ["create (c)", "mount (m)", "verify", "integrity", "Examples:", "Exit codes:"] {
        assert!(help.contains(word), "{word} is not in\n{help}");
    }
    assert!(root.run("--version").expect(0).stdout.starts_with("wizefs "));
    assert!(root.run("mount --help").expect(0).stdout.contains("--notifypid"));
    let alone = root.run("").expect(2);
    assert!(alone.stdout.contains("Examples:"), "{alone:?}");
}

#[test]
fn mistakes_exit_with_2() {
    let root = TestRoot::new();
    for line in ["bogus", "mount", "create", "put only-one", "log -n x docs", "--color sometimes list", "list --bogus"]
    {
        root.run(line).expect(2);
    }
    let ran = root.run("bogus --json").expect(2);
    assert_eq!(ran.error(), (2, "usage".to_owned()));
    assert!(root.run("crate docs").expect(2).stderr.contains("create"), "a similar command is suggested");
}

/// A file on a full disk, or a reader that has gone.
#[test]
fn what_cannot_be_said_changes_no_result() {
    let root = TestRoot::new();
    for (line, code) in [("bogus", 2), ("check docs", 6), ("check docs --json", 6), ("create docs", 0), ("stop", 60)] {
        let words: Vec<_> = line.split(' ').collect();
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        finish(root.command(&words).stderr(full).spawn().unwrap()).expect(code);
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let code = if line == "create docs" { 6 } else { code };
        finish(root.command(&words).stderr(writer).spawn().unwrap()).expect(code);
    }
}

#[test]
fn hints_can_be_pasted_as_they_stand() {
    let root = TestRoot::new();
    let other = ["--root", "two words"];
    let run = |args: &[&str], code| root.run_args(&[&other[..], args].concat()).expect(code).stderr;
    assert!(run(&["create", "docs"], 0).contains("hint: wizefs --root 'two words' mount docs\n"));
    let told = run(&["check", "none"], 6);
    assert!(told.contains("wizefs --root 'two words' list shows the buckets"), "{told}");
    let told = run(&["check", "none", "--json"], 6);
    assert!(told.contains("wizefs --root 'two words' list shows the buckets"), "{told}");
    let data = root.outside().join("two words/buckets/docs/data");
    fs::write(data.join("a; touch b"), "").unwrap();
    let told = run(&["verify", "docs"], 26);
    assert!(told.contains("hint: wizefs --root 'two words' accept 'docs/a; touch b' signs it as yours"), "{told}");
    assert!(!root.run("check none").expect(6).stderr.contains("--root"), "a variable says it for the next one, too");
}

#[test]
fn what_cannot_be_read_is_not_the_nodes_fault() {
    let root = TestRoot::new();
    root.run("create docs").expect(0);
    let put = || -> Ran {
        let folder = File::open(root.outside()).unwrap();
        finish(root.command(&["put", "-", "docs/f"]).stdin(folder).spawn().unwrap()).expect(11)
    };
    assert!(put().stderr.contains("cannot read what is to be stored"));
    root.run("node").expect(0);
    put();
    root.run("get f docs -").expect(11);
    root.run("stop").expect(0);
}

#[test]
fn a_root_that_the_configuration_cannot_hold_is_refused_before_the_ledger_is_told() {
    let root = TestRoot::new();
    let odd = OsStr::from_bytes(b"odd\xff");
    let run = |args: &[&str], code| {
        let args: Vec<&OsStr> = [OsStr::new("--root"), odd].into_iter().chain(args.iter().map(OsStr::new)).collect();
        finish(root.command(&args).spawn().unwrap()).expect(code)
    };
    run(&["create", "docs"], 23);
    assert_eq!(run(&["status", "--json"], 0).json()["ledger"]["height"], 0);
}

#[test]
fn bad_names_exit_with_6_and_make_nothing() {
    let root = TestRoot::new();
    let long = "x".repeat(300);
    for name in ["../x", "", ".", "..", "a/b", "-x", ".hidden", "a b", "a\nb", "a\u{7f}", "ä", &long] {
        for command in ["create", "delete", "mount", "unmount", "check"] {
            let ran = root.run_args(&["--json", command, "--", name]).expect(6);
            assert_eq!(ran.error(), (6, "bucket-name".to_owned()), "{command} {name:?}");
        }
    }
    assert_eq!(std::fs::read_dir(root.outside()).unwrap().count(), 0);
}

#[test]
fn global_flags_stand_anywhere_and_have_variables() {
    let root = TestRoot::new();
    root.run("create docs").expect(0);
    let before = root.run("--json list").expect(0).json();
    assert_eq!(root.run("list --json").expect(0).json(), before);
    let by_variable = root.command(&["list"]).env("WIZEFS_JSON", "1").output().unwrap();
    assert_eq!(crate::root::Ran::from(by_variable).json(), before);
    assert_eq!(before["buckets"][0]["origin"], "docs");

    let quiet = root.run("create more -q").expect(0);
    assert_eq!((quiet.stdout.as_str(), quiet.stderr.as_str()), ("", ""));
    let other = root.outside().join("other");
    let elsewhere = root.run_args(&["list", "--json", "--root", other.to_str().unwrap()]).expect(0).json();
    assert_eq!(elsewhere["buckets"].as_array().unwrap().len(), 0);
}

#[test]
fn results_and_errors_are_one_line_and_a_hint() {
    let root = TestRoot::new();
    let created = root.run("create docs").expect(0);
    assert_eq!(created.stdout, "");
    assert_eq!(created.stderr, "✓ bucket docs created (loopback), block 1\nhint: wizefs mount docs\n");
    let again = root.run("create docs").expect(6);
    assert_eq!(
        again.stderr,
        "error: the bucket docs exists already\nhint:  choose another name, or delete it first: wizefs delete docs\n"
    );
    let plain = root.command(&["create", "plain"]).env("LC_ALL", "C").output().unwrap();
    assert!(String::from_utf8(plain.stderr).unwrap().starts_with("+ bucket plain"));
}

#[test]
fn the_root_is_below_home_unless_told() {
    let root = TestRoot::new();
    let created = root.command(&["create", "docs"]).env_remove("WIZEFS_ROOT").output().unwrap();
    assert!(created.status.success());
    assert!(root.outside().join(".local/share/wize/fs/wizedb.conf").is_file());
    let nowhere = root.command(&["list"]).env_remove("WIZEFS_ROOT").env_remove("HOME").output().unwrap();
    assert_eq!(nowhere.status.code(), Some(2));
}

#[test]
fn variables_of_flags_take_the_same_words() {
    let root = TestRoot::new();
    for name in ["WIZEFS_TLS", "WIZEFS_INSECURE", "WIZEFS_READ_ONLY", "WIZEFS_EXCLUSIVE", "WIZEFS_ALLOW_OTHER"] {
        for value in ["1", "yes", "0", "false", ""] {
            // There is no such bucket, which is found out when everything else is understood.
            let told = root.command(&["mount", "none"]).env(name, value).output().unwrap();
            assert_eq!(told.status.code(), Some(6), "{name}={value}: {}", String::from_utf8_lossy(&told.stderr));
        }
    }
}

#[test]
fn a_filter_that_is_none_is_told_and_silences_nobody() {
    let root = TestRoot::new();
    let told = root.command(&["list"]).env("WIZEFS_TRACE", "debgu").output().unwrap();
    let told = String::from_utf8(told.stderr).unwrap();
    assert!(told.contains("WIZEFS_TRACE") && told.contains("debgu"), "{told}");
}

#[test]
fn who_asks_for_none_of_a_log_is_not_told_that_there_is_nothing() {
    let root = TestRoot::new();
    root.run("create docs").expect(0);
    assert_eq!(root.run("log docs -n 0").expect(0).stderr, "");
    assert!(root.run("log docs/none").expect(0).stderr.contains("no transaction tells of docs/none"));
}
