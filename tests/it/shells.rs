//! Shell completion as the shells ask for it.

use crate::root::{Ran, TestRoot};
use std::fs;
use std::path::Path;
use std::process::Command;

/// What bash offers for a line, through the script it sources.
fn bash(root: &TestRoot, words: &[&str]) -> Vec<String> {
    let line = words.join(" ");
    let text = format!(
        "source <(wizefs completions bash)\n\
         COMP_WORDS=(wizefs {line}); COMP_CWORD={}; COMP_TYPE=9; COMP_LINE=\"wizefs {line}\"; COMP_POINT=${{#COMP_LINE}}\n\
         _clap_complete_wizefs wizefs \"${{COMP_WORDS[COMP_CWORD]-}}\" ''\n\
         printf '%s\\n' \"${{COMPREPLY[@]}}\"",
        words.len()
    );
    let program = Path::new(env!("CARGO_BIN_EXE_wizefs")).parent().unwrap();
    let mut shell = Command::new("bash");
    shell.args(["-c", &text]).env("PATH", format!("{}:{}", program.display(), std::env::var("PATH").unwrap()));
    shell.env("WIZEFS_ROOT", root.path("")).env("LC_ALL", "C.UTF-8").current_dir(root.outside());
    let ran = Ran::from(shell.output().unwrap()).expect(0);
    assert_eq!(ran.stderr, "");
    ran.stdout.lines().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect()
}

/// What the program answers to zsh and fish for the last of these words.
fn answer(root: &TestRoot, shell: &str, words: &[&str]) -> String {
    let args = [&["--", "wizefs"], words].concat();
    let mut command = root.command(&args);
    command.env("WIZEFS_COMPLETE", shell).env("_CLAP_COMPLETE_INDEX", words.len().to_string()).env("_CLAP_IFS", "\n");
    Ran::from(command.output().unwrap()).expect(0).stdout
}

fn filled() -> TestRoot {
    let root = TestRoot::new();
    fs::write(root.outside().join("file"), "x").unwrap();
    for bucket in ["docs", "draft", "work"] {
        root.run(&format!("create {bucket}")).expect(0);
    }
    for path in ["docs/a.txt", "docs/sub/two words.txt", "docs/sub/other", "work/unique"] {
        root.run_args(&["put", "file", path]).expect(0);
    }
    root
}

#[test]
fn bash_offers_commands_flags_buckets_and_files() {
    let root = filled();
    assert_eq!(bash(&root, &["unm"]), ["unmount"]);
    assert_eq!(bash(&root, &["sync", "--str"]), ["--strict"]);
    assert_eq!(bash(&root, &["mount", "d"]), ["docs", "draft"]);
    assert_eq!(bash(&root, &["mount", "docs", "--durability", "r"]), ["relaxed"]);
    assert_eq!(bash(&root, &["list", "docs/"]), ["docs/a.txt", "docs/sub/"].map(str::to_owned));
    let mut found = bash(&root, &["verify", "docs/sub/"]);
    found.sort();
    assert_eq!(found, ["docs/sub/other", "docs/sub/two\\ words.txt"]);
    assert_eq!(bash(&root, &["log", "docs/sub/two\\\\"]), ["docs/sub/two\\ words.txt"]);
    for quote in ["\"", "'"] {
        // The shell itself closes the quote.
        assert_eq!(bash(&root, &["log", &format!("\\{quote}docs/sub/two")]), ["docs/sub/two words.txt"]);
    }
    assert_eq!(bash(&root, &["get", "un"]), ["unique"]);
    assert_eq!(bash(&root, &["send", "def"]), ["default"]);
    let elsewhere = root.outside().join("elsewhere");
    assert!(bash(&root, &["--root", elsewhere.to_str().unwrap(), "mount", "d"]).is_empty());
    assert!(!elsewhere.exists(), "asking makes nothing");
}

#[test]
fn the_other_shells_are_answered_and_have_scripts() {
    let root = filled();
    for shell in ["zsh", "fish"] {
        let told = answer(&root, shell, &["list", "docs/sub/"]);
        assert!(told.contains("docs/sub/two words.txt") && told.contains("docs/sub/other"), "{shell}: {told}");
    }
    for (shell, word) in [("bash", "complete "), ("zsh", "#compdef wizefs"), ("fish", "complete --keep-order")] {
        let script = root.run(&format!("completions {shell}")).expect(0).stdout;
        assert!(script.contains(word) && script.contains("WIZEFS_COMPLETE"), "{script}");
    }
    root.run("completions csh").expect(2);
}

#[test]
fn a_running_node_tells_what_is_in_an_archive() {
    let Some(root) = TestRoot::with_fuse() else { return };
    let archive = Path::new(env!("CARGO_MANIFEST_DIR")).join("fs/tests/data/photos.zip");
    root.run_args(&["create", "photos", "--kind", "zip", "--from", archive.to_str().unwrap()]).expect(0);
    let listed = root.run("list photos --json").expect(0).json();
    let first = listed["entries"][0]["path"].as_str().unwrap().to_owned();
    assert!(bash(&root, &["list", "photos/"]).is_empty(), "without a node the archive would have to be read");
    root.run("node").expect(0);
    let offered = bash(&root, &["list", "photos/"]);
    assert!(offered.iter().any(|path| path.trim_end_matches('/') == format!("photos/{first}")), "{first}: {offered:?}");
    root.run("stop").expect(0);
}
