//! What stands on a terminal and what does not: colours, progress, wide and hostile characters, questions. A terminal is made
//! by script(1).

use crate::root::{Ran, TestRoot, finish};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A command line on a terminal of its own, with variables. Its standard input is what is written to the child.
fn on_terminal(root: &TestRoot, line: &str, variables: &[(&str, &str)]) -> Child {
    let program = Path::new(env!("CARGO_BIN_EXE_wizefs")).parent().unwrap();
    let path = format!("{}:{}", program.display(), std::env::var("PATH").unwrap());
    let mut command = Command::new("script");
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"WIZEFS_")) {
        command.env_remove(name);
    }
    command.args(["--quiet", "--return", "--command", line, "/dev/null"]).env("PATH", path).env("TERM", "xterm");
    command.env("HOME", root.outside()).env("LC_ALL", "C.UTF-8").env("WIZEFS_ROOT", root.path(""));
    command.env("WIZEFS_LISTEN", "off").env("WIZEFS_GRPC_LISTEN", "off").env("SHELL", "/bin/bash");
    // These would decide about colours, too.
    for name in ["NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "CI"] {
        command.env_remove(name);
    }
    command.envs(variables.iter().copied()).current_dir(root.outside());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Read from a terminal until it shows a text; what was read.
#[track_caller]
fn read_until(from: &mut impl Read, text: &str) -> String {
    let mut shown = Vec::new();
    let mut byte = [0];
    while from.read(&mut byte).unwrap() == 1 {
        shown.push(byte[0]);
        if shown.ends_with(text.as_bytes()) {
            return String::from_utf8(shown).unwrap();
        }
    }
    panic!("{text} is not in {}", String::from_utf8_lossy(&shown));
}

#[test]
fn colours_are_for_terminals_that_want_them() {
    let root = TestRoot::new();
    root.run("create docs").expect(0);
    let coloured = |variables: &[(&str, &str)], flags: &str| {
        let shown = finish(on_terminal(&root, &format!("wizefs list nosuch {flags}"), variables)).expect(6).stdout;
        assert!(shown.contains("error:") && shown.contains("nosuch"), "{shown:?}");
        shown.contains("\u{1b}[")
    };
    assert!(coloured(&[], ""));
    assert!(!coloured(&[("NO_COLOR", "1")], ""));
    assert!(!coloured(&[("TERM", "dumb")], ""));
    assert!(!coloured(&[], "--color never"));
    assert!(coloured(&[("NO_COLOR", "1")], "--color always"));

    let piped = |variables: &[(&str, &str)], flags: &[&str]| {
        let mut command = root.command(&[&["list", "nosuch"], flags].concat());
        let ran = Ran::from(command.env_remove("NO_COLOR").envs(variables.iter().copied()).output().unwrap());
        ran.expect(6).stderr.contains("\u{1b}[")
    };
    assert!(!piped(&[], &[]));
    assert!(piped(&[("CLICOLOR_FORCE", "1")], &[]));
    assert!(piped(&[], &["--color", "always"]));
}

#[test]
fn a_bar_is_drawn_and_vanishes() {
    let root = TestRoot::new();
    root.run("create docs").expect(0);
    for (variables, flags, drawn) in [
        (&[][..], "", true),
        (&[("TERM", "dumb")][..], "", false),
        (&[][..], "--quiet", false),
        (&[][..], "--json", false),
    ] {
        // The content comes through a pipe that stays open as long as this test likes.
        let pipe = root.outside().join("pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::from_raw_mode(0o600)).unwrap();
        let line = format!("cat pipe | wizefs put - docs/film {flags}; echo code $?");
        let mut child = on_terminal(&root, &line, variables);
        let mut feed = fs::OpenOptions::new().write(true).open(&pipe).unwrap();
        feed.write_all(&[7; 4096]).unwrap();
        let mut shown = String::new();
        if drawn {
            shown = read_until(child.stdout.as_mut().unwrap(), "storing docs/film: 4.0 KiB, ");
        }
        drop(feed);
        let rest = finish(child).expect(0).stdout;
        assert!(rest.contains("code 0"), "{shown}{rest}");
        assert_eq!((shown + &rest).contains("storing"), drawn, "{flags} {variables:?} {rest:?}");
        if drawn {
            let after = rest.split("stored: 4.0 KiB").nth(1).expect(&rest);
            assert!(!after.contains("storing"), "nothing of the bar stands behind the result: {rest:?}");
            assert!(rest.contains("\u{1b}[2K"), "the line of the bar is cleared: {rest:?}");
        }
        fs::remove_file(pipe).unwrap();
    }
}

/// Wait until a process has a handler for a signal.
fn wait_for_handler(root: &TestRoot, child: &Child, signal: Signal) {
    let bit = 1_u64 << (signal.as_raw() - 1);
    root.wait_for("a handler of a signal", || {
        let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:\t"));
        caught.and_then(|mask| u64::from_str_radix(mask, 16).ok()).is_some_and(|mask| mask & bit != 0)
    });
}

/// The line that a running command prints when it is asked how far it is.
fn ask(root: &TestRoot, child: &mut Child) -> String {
    wait_for_handler(root, child, Signal::USR1);
    kill_process(Pid::from_child(child), Signal::USR1).unwrap();
    let mut line = String::new();
    BufReader::with_capacity(1, child.stderr.as_mut().unwrap()).read_line(&mut line).unwrap();
    line
}

#[test]
fn sigusr1_asks_for_a_line_of_progress() {
    let root = TestRoot::new();
    fs::write(root.outside().join("a"), "content").unwrap();
    root.run("create docs").expect(0);
    root.run("put a docs").expect(0);
    root.run("node").expect(0);
    // A node that stands still makes every command long.
    for (line, expect) in [
        ("put a docs/b", "storing docs/b: "),
        ("get a docs c", "fetching docs/a: 0 B, "),
        ("verify docs", "verifying docs: 0 B, "),
        ("integrity", "checking the chain: 0 transactions, "),
        ("create tree --from tree", "adopting "),
    ] {
        fs::create_dir_all(root.outside().join("tree")).unwrap();
        root.signal(Signal::STOP);
        let mut child = root.start(line);
        let told = ask(&root, &mut child);
        assert!(told.starts_with(expect) && told.ends_with(" s\n"), "{line}: {told:?}");
        root.signal(Signal::CONT);
        let ran = finish(child).expect(0);
        assert!(
            !ran.stderr.contains(expect) && !ran.stdout.contains(expect),
            "off a terminal nothing else is said: {ran:#?}"
        );
    }
    root.signal(Signal::STOP);
    let mut child = root.start("verify docs --json");
    let told: serde_json::Value = serde_json::from_str(&ask(&root, &mut child)).unwrap();
    assert_eq!((&told["progress"]["what"], &told["progress"]["done"]), (&"verifying docs".into(), &0.into()));
    root.signal(Signal::CONT);
    assert_eq!(finish(child).expect(0).json_lines().len(), 1, "progress is no result");
    root.run("stop").expect(0);
}

#[test]
fn a_signal_ends_a_put_whose_content_does_not_and_stores_nothing() {
    let root = TestRoot::new();
    root.run("create docs").expect(0);
    fs::write(root.outside().join("a"), "the good one").unwrap();
    root.run("put a docs").expect(0);
    for node in [false, true] {
        if node {
            root.run("node").expect(0);
        }
        for signal in [Signal::INT, Signal::TERM] {
            let mut put = root.command(&["put", "-", "docs/a"]).stdin(Stdio::piped()).spawn().unwrap();
            // It stays open, as that of a person who types nothing more.
            let mut feed = put.stdin.take().unwrap();
            feed.write_all(b"half of").unwrap();
            wait_for_handler(&root, &put, signal);
            kill_process(Pid::from_child(&put), signal).unwrap();
            let ran = finish(put).expect(128 + signal.as_raw());
            assert!(ran.stderr.contains("interrupted"), "{ran:?}");
            drop(feed);
            assert_eq!(root.run("get a docs -").expect(0).stdout, "the good one");
        }
    }
    root.run("stop").expect(0);
    let log = root.run("log docs/a --json").expect(0).json_lines();
    assert_eq!(log.len(), 1, "{log:#?}");
}

#[test]
fn a_question_is_ended_by_a_signal_and_keeps_nobody_from_the_root() {
    let root = TestRoot::new();
    root.run("create docs").expect(0);
    let mut child = on_terminal(&root, "wizefs delete docs", &[]);
    read_until(child.stdout.as_mut().unwrap(), "[y/N] ");
    root.run("check docs").expect(0);
    // Ctrl-C, as it is typed.
    child.stdin.as_mut().unwrap().write_all(b"\x03").unwrap();
    finish(child).expect(128 + Signal::INT.as_raw());
    root.run("check docs").expect(0);
}

#[test]
fn questions_are_for_people() {
    let root = TestRoot::new();
    root.run("create docs").expect(0);
    for (answer, code, left) in [("n\n", 1, 1), ("\n", 1, 1), ("y\n", 0, 0)] {
        let mut child = on_terminal(&root, "wizefs delete docs", &[]);
        read_until(child.stdout.as_mut().unwrap(), "[y/N] ");
        child.stdin.as_mut().unwrap().write_all(answer.as_bytes()).unwrap();
        finish(child).expect(code);
        assert_eq!(root.run("list --json").expect(0).json()["buckets"].as_array().unwrap().len(), left, "{answer:?}");
    }
    root.run("create docs").expect(0);
    finish(on_terminal(&root, "wizefs delete docs --yes", &[])).expect(0);
    root.run("create docs").expect(0);
    root.run("delete docs").expect(0);
}

#[test]
fn hostile_names_do_not_reach_the_terminal() {
    let root = TestRoot::new();
    let odd = "a\u{1b}]0;owned\u{7}\n\u{202e}b\u{9b}c";
    fs::write(root.outside().join("a"), "content").unwrap();
    root.run("create docs").expect(0);
    root.run_args(&["put", "a", &format!("docs/{odd}")]).expect(0);
    let hash = blake3::hash(b"content").to_hex();
    for line in
        ["list docs", "log docs", "log", "search owned", &format!("search {hash}"), "verify docs --verbose", "block"]
    {
        for text in [root.run(line).expect(0).stdout, root.run(line).stderr] {
            let bad = |c: char| c != '\n' && (c.is_control() || c == '\u{202e}');
            assert!(!text.contains(bad), "{line}: {text:?}");
            assert!(
                text.is_empty() || !text.contains("owned") || text.contains("\\u{1b}]0;owned\\u{7}\\n"),
                "{line}: {text:?}"
            );
        }
        let json = format!("{line} --json");
        assert!(root.run(&json).expect(0).json_lines().iter().any(|line| line.to_string().contains("owned")), "{json}");
    }
    for args in [["get", odd, "nosuch"], ["remove", odd, "docs"], ["get", odd, "docs"]] {
        let said = root.run_args(&args).stderr;
        assert!(!said.trim_end().replace('\n', "").contains(|c: char| c.is_control() || c == '\u{202e}'), "{said:?}");
    }
}

#[test]
fn names_that_are_not_text_keep_their_bytes() {
    use std::os::unix::ffi::OsStrExt;
    let root = TestRoot::new();
    let name = std::ffi::OsStr::from_bytes(b"docs/odd \xff");
    fs::write(root.outside().join("a"), "content").unwrap();
    root.run("create docs").expect(0);
    let put = root.run_args(&[std::ffi::OsStr::new("put"), "a".as_ref(), name, "--json".as_ref()]).expect(0).json();
    let encoded = "b2RkIP8=";
    assert_eq!((&put["path"], &put["path_b64"]), (&"odd \u{fffd}".into(), &encoded.into()));
    for line in ["list docs --json", "search odd --json"] {
        assert_eq!(root.run(line).expect(0).json()["entries"][0]["path_b64"], encoded, "{line}");
    }
    assert_eq!(root.run("log docs --json -n 1").expect(0).json()["path_b64"], encoded);
    assert_eq!(root.run("verify docs --verbose --json").expect(0).json_lines()[0]["path_b64"], encoded);
    assert!(root.run("list docs").expect(0).stdout.contains("odd \u{fffd}"));
}

#[test]
fn quiet_means_errors_only() {
    let root = TestRoot::new();
    fs::write(root.outside().join("a"), "content").unwrap();
    for line in [
        "create docs",
        "put a docs",
        "get a docs b",
        "sync",
        "verify docs",
        "integrity",
        "check docs",
        "mine",
        "wallet new w",
        "send default w 3",
        "accept docs/a",
        "proof docs/a -o p",
        "witness -o w",
        "node",
        "stop",
        "man pages",
        "remove a docs",
        "delete docs",
    ] {
        let ran = root.run(&format!("{line} --quiet")).expect(0);
        assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("", ""), "{line}");
    }
    assert!(root.run("list nosuch --quiet").expect(6).stderr.starts_with("error: "));
    let told = root.run("create docs --quiet --json").expect(0);
    assert_eq!((told.json()["bucket"].as_str(), told.stderr.as_str()), (Some("docs"), ""));
}
