//! The README's quick start, run as it stands.

use crate::root::{TestRoot, finish};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};

/// A command of a console block and what the README says it prints.
struct Shown<'a> {
    command: &'a str,
    lines: Vec<&'a str>,
}

/// The commands of every `console` block. A line that begins with `#` is for readers.
fn transcript(text: &str) -> Vec<Shown<'_>> {
    let mut shown: Vec<Shown<'_>> = Vec::new();
    let blocks = text.split("```console\n").skip(1).filter_map(|block| block.split("```").next());
    for line in blocks.flat_map(str::lines).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        match line.strip_prefix("$ ") {
            Some(command) => shown.push(Shown { command, lines: Vec::new() }),
            None => shown.last_mut().expect("a command before its output").lines.push(line),
        }
    }
    shown
}

/// Whether a line is the one shown: `…` stands for anything, any number of spaces for one.
fn is_as_shown(line: &str, shown: &str) -> bool {
    let one_space = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let (line, shown) = (one_space(line), one_space(shown));
    let mut parts = shown.split('…');
    let Some(mut rest) = parts.next().and_then(|first| line.strip_prefix(first)) else { return false };
    let parts: Vec<&str> = parts.collect();
    let Some((last, inner)) = parts.split_last() else { return rest.is_empty() };
    for part in inner {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

#[test]
fn the_quick_start_does_what_it_shows() {
    let Some(root) = TestRoot::with_fuse() else { return };
    // The README uses the default root, below the user's home.
    let usual = root.outside().join(".local/share/wize/fs");
    fs::create_dir_all(&usual).unwrap();
    symlink(&usual, root.outside().join("root")).unwrap();
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let shown = transcript(&text);
    assert!(shown.len() >= 8, "the README shows {} commands", shown.len());
    for Shown { command, lines } in shown {
        let program = Path::new(env!("CARGO_BIN_EXE_wizefs")).parent().unwrap();
        let path = format!("{}:{}", program.display(), std::env::var("PATH").unwrap());
        let mut shell = Command::new("bash");
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"WIZEFS_")) {
            shell.env_remove(name);
        }
        shell.args(["-c", &format!("exec 2>&1\n{command}")]).env("PATH", path).env("LC_ALL", "C.UTF-8");
        shell
            .env("HOME", root.outside())
            .env("WIZEFS_LISTEN", "off")
            .env("WIZEFS_GRPC_LISTEN", "off")
            .current_dir(root.outside());
        let ran = finish(shell.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap());
        let printed: Vec<&str> = ran.stdout.lines().collect();
        let same =
            printed.len() == lines.len() && printed.iter().zip(&lines).all(|(line, shown)| is_as_shown(line, shown));
        assert!(same, "$ {command}\nprinted {printed:#?}\nthe README shows {lines:#?}");
    }
    root.expect_no_node();
    assert!(root.mounts().is_empty());
}

#[test]
fn shown_lines_are_compared_by_what_they_say() {
    fn check(line: &str, shown: &str, expect: bool) {
        assert_eq!(is_as_shown(line, shown), expect, "{line} / {shown}");
    }
    check("a  b", "a b", true);
    check("mounted at /x/y (pid 7)", "mounted at …/y (pid …)", true);
    check("mounted at /x/z (pid 7)", "mounted at …/y (pid …)", false);
    check("abc", "ab", false);
    check("ab", "…ab…", true);
}
