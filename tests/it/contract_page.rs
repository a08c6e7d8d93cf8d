//! docs/CLI.md against the program: commands, flags, exit codes and the fields of `--json`.

use crate::proofs::recorded;
use crate::root::TestRoot;
use clap::{Arg, Command, CommandFactory};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use wizefs::cli::Cli;
use wizefs::error::EXIT_CODES;

/// The heading of flags that the page tells of once for all.
const OF_THE_NODE: &str = "If this starts the node";

fn page() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/CLI.md")).unwrap()
}

/// The cells of the table below a heading, without its first two rows. `\|` is no border.
fn table(page: &str, heading: &str) -> Vec<Vec<String>> {
    let (_, below) = page.split_once(&format!("## {heading}\n")).unwrap();
    let below = below.split("\n## ").next().unwrap();
    let rows = below.lines().filter(|line| line.starts_with('|')).skip(2);
    let cells = |row: &str| -> Vec<String> {
        let row = row.replace("\\|", "\u{0}");
        row.trim_matches('|').split('|').map(|cell| cell.trim().replace('\u{0}', "|")).collect()
    };
    rows.map(cells).collect()
}

/// What stands between backquotes.
fn codes(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

/// Every command, and of those with commands below these instead.
fn commands() -> BTreeMap<String, Command> {
    let mut top = Cli::command();
    top.build();
    let mut all = BTreeMap::new();
    for command in top.get_subcommands() {
        if command.has_subcommands() {
            for below in command.get_subcommands().filter(|below| below.get_name() != "help") {
                all.insert(format!("{} {}", command.get_name(), below.get_name()), below.clone());
            }
        } else {
            all.insert(command.get_name().to_owned(), command.clone());
        }
    }
    all
}

fn own_arguments(command: &Command) -> impl Iterator<Item = &Arg> {
    let own = |arg: &&Arg| {
        !arg.is_hide_set() && arg.get_help_heading().is_none() && !["help", "version"].contains(&arg.get_id().as_str())
    };
    command.get_arguments().filter(own)
}

/// `FILE ORIGIN [DEST]`.
fn positionals(command: &Command) -> String {
    let name = |arg: &Arg| {
        let name = arg.get_value_names().unwrap()[0].to_string();
        // A proof needs a path unless it is of the whole log.
        if !arg.is_required_set() && name != "ORIGIN/PATH" { format!("[{name}]") } else { name }
    };
    command.get_positionals().map(name).collect::<Vec<_>>().join(" ")
}

#[test]
fn the_page_has_every_command_with_its_flags_and_no_other() {
    let page = page();
    let mut commands = commands();
    for row in table(&page, "Commands") {
        let usage = codes(&row[0])[0];
        let words = if ["wallet", "bucket"].contains(&usage.split(' ').next().unwrap()) { 2 } else { 1 };
        let name: Vec<&str> = usage.split(' ').take(words).collect();
        let rest: Vec<&str> = usage.split(' ').skip(words).collect();
        let command = commands.remove(&name.join(" ")).unwrap_or_else(|| panic!("{usage} is no command"));
        assert_eq!(positionals(&command), rest.join(" "), "{usage}");

        let alias = row[0].split_once(" (").map(|(_, alias)| alias.trim_end_matches(')'));
        assert_eq!(command.get_visible_aliases().next(), alias, "{usage}");

        let mut told: BTreeSet<String> =
            codes(&row[1]).iter().map(|flag| flag.split(' ').next().unwrap().to_owned()).collect();
        for arg in own_arguments(&command).filter(|arg| !arg.is_positional()) {
            let names =
                [arg.get_long().map(|long| format!("--{long}")), arg.get_short().map(|short| format!("-{short}"))];
            for flag in names.into_iter().flatten() {
                assert!(told.remove(&flag), "the page does not tell of {flag} of {usage}");
            }
        }
        assert!(told.is_empty(), "{usage} has no {told:?}");
    }
    assert!(commands.is_empty(), "the page does not tell of {:?}", commands.keys());
}

#[test]
fn the_page_has_the_flags_of_the_node_and_the_variables() {
    let page = page();
    for command in commands().values() {
        for arg in command.get_arguments() {
            if arg.get_help_heading() == Some(OF_THE_NODE) {
                let flag = format!("`--{}", arg.get_long().unwrap());
                let told = codes(&page).iter().any(|code| code.split(' ').next() == Some(&flag[1..]));
                assert!(told, "{flag} of {}", command.get_name());
            } else if let Some(variable) = arg.get_env() {
                let variable = format!("`{}`", variable.display());
                assert!(page.contains(&variable), "{variable} of {}", command.get_name());
            }
        }
    }
}

#[test]
fn page_help_and_manual_have_the_same_exit_codes() {
    let mut expected: Vec<(String, &str)> = EXIT_CODES.iter().map(|(code, text)| (code.to_string(), *text)).collect();
    expected.push(("128+n".to_owned(), "ended by signal n"));
    let rows = table(&page(), "Exit codes");
    let told: Vec<(String, &str)> = rows.iter().map(|row| (row[0].clone(), row[1].as_str())).collect();
    assert_eq!(told, expected);

    let root = TestRoot::new();
    let help = root.run("--help").expect(0).stdout;
    root.run("man pages").expect(0);
    let manual = fs::read_to_string(root.outside().join("pages/wizefs.1")).unwrap().replace("\\-", "-");
    for (code, meaning) in &expected {
        let line = help.lines().find(|line| line.trim_start().starts_with(&format!("{code}  ")));
        assert_eq!(line.map(|line| line.trim_start()), Some(&*format!("{code}  {meaning}")), "in the help");
        assert!(manual.contains(&format!("\\fB{code}\\fR\n{meaning}\n")), "{code} {meaning} in the manual");
    }
}

#[test]
fn every_command_has_a_manual_page_like_its_help() {
    let root = TestRoot::new();
    let files = root.run("man pages --json").expect(0).json();
    for (name, command) in commands() {
        let file = format!("pages/wizefs-{}.1", name.replace(' ', "-"));
        assert!(files["files"].as_array().unwrap().iter().any(|path| path == &file), "{file}");
        let manual = fs::read_to_string(root.outside().join(&file)).unwrap().replace("\\-", "-");
        let help = root.run(&format!("{name} --help")).expect(0).stdout;
        for arg in command.get_arguments().filter(|arg| !arg.is_hide_set()) {
            if let Some(long) = arg.get_long() {
                let flag = format!("--{long}");
                assert!(help.contains(&flag) && manual.contains(&flag), "{flag} of {name}");
            }
        }
        for section in [".SH NAME", ".SH SYNOPSIS", ".SH DESCRIPTION", "EXIT STATUS", ".SH \"SEE ALSO\""] {
            assert!(manual.contains(section), "{section} of {name}\n{manual}");
        }
    }
}

/// The fields that the page promises of a command, from the first group up to a `;`, nested ones after their name.
fn promised(row: &str) -> Vec<&str> {
    let first = row.split(';').next().unwrap();
    codes(first)
}

/// All names of fields in a document.
fn names(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => map.iter().for_each(|(name, value)| {
            found.insert(name.clone());
            names(value, found);
        }),
        Value::Array(all) => all.iter().for_each(|value| names(value, found)),
        _ => {}
    }
}

#[test]
fn json_has_the_fields_that_the_page_promises() {
    let root = recorded();
    root.run("proof docs/a.bin -o a.p").expect(0);
    fs::create_dir(root.outside().join("tree")).unwrap();
    let page = page();
    let rows = table(&page, "`--json`");
    let check = |command: &str, line: &str| {
        let row =
            rows.iter().find(|row| codes(&row[0]).contains(&command)).unwrap_or_else(|| panic!("no row {command}"));
        let ran = root.run(&format!("{line} --json"));
        let mut found = BTreeSet::new();
        ran.json_lines().iter().for_each(|document| names(document, &mut found));
        for field in promised(&row[1]).iter().filter(|field| **field != "status" || command != "list") {
            assert!(found.contains(*field), "{line}: no {field} in {ran:#?}");
        }
    };
    check("create", "create tree --from tree");
    check("list", "list");
    check("check", "check docs");
    check("put", "put b.txt docs");
    check("get", "get b.txt docs c.txt");
    check("search", "search b.txt");
    check("log", "log docs");
    check("verify", "verify docs --verbose");
    check("verify --proof", "verify a.bin --proof a.p");
    check("sync", "sync");
    check("integrity", "integrity");
    check("proof", "proof docs/a.bin");
    check("witness", "witness");
    check("block", "block");
    check("mine", "mine");
    check("wallet new", "wallet new w");
    check("wallet list", "wallet list");
    check("wallet show", "wallet show");
    check("send", "send default w 3");
    check("accept", "accept docs/b.txt");
    check("remove", "remove b.txt docs");
    check("status", "status");
    check("node", "node");
    check("stop", "stop");
    check("doctor", "doctor --listen off");
    check("man", "man pages");
    check("completions", "completions bash");
    check("delete", "delete tree");
    let removed = root.run("log docs --json").expect(0).json_lines();
    let put = removed.iter().find(|line| line["path"] == "b.txt" && line["op"] == "put").unwrap();
    check("forget", &format!("forget {} --yes", put["txid"].as_str().unwrap()));
}

#[test]
fn dry_runs_say_what_the_page_promises_and_do_nothing() {
    let root = recorded();
    let before = root.run("list docs --json").expect(0).stdout;
    let removal = root.run("remove a.bin docs --dry-run --json").expect(0).json();
    assert_eq!((&removal["dry_run"], &removal["entry"]["path"]), (&true.into(), &"a.bin".into()));
    assert!(
        root.run("remove a.bin docs --dry-run").expect(0).stdout.starts_with("would remove docs/a.bin (195.3 KiB)")
    );
    let deletion = root.run("delete docs --dry-run --json").expect(0).json();
    assert_eq!((&deletion["files"], &deletion["released"]), (&2.into(), &Value::Null));
    assert_eq!(root.run("list docs --json").expect(0).stdout, before);

    fs::create_dir(root.outside().join("tree")).unwrap();
    root.run("create tree --from tree").expect(0);
    let released = root.run("delete tree --dry-run --json").expect(0).json();
    assert_eq!(released["released"], released["backing"]);
    assert!(root.run("delete tree --dry-run").expect(0).stdout.contains("leave "));

    let current = root.run("list docs --json").expect(0);
    assert!(current.json()["entries"].is_array());
    let line = root.run("log docs/a.bin --json -n 1").expect(0).json();
    let txid = line["txid"].as_str().unwrap();
    let refused = root.run(&format!("forget {txid} --dry-run")).expect(1);
    assert!(refused.stderr.contains("it states what a path holds now"), "{refused:?}");
    root.run("remove a.bin docs").expect(0);
    let would = root.run(&format!("forget {txid} --dry-run --json")).expect(0).json();
    assert_eq!((&would["dry_run"], &would["index"]), (&true.into(), &line["index"]));
    assert!(
        root.run("log docs --json").expect(0).stdout.contains(line["blake3"].as_str().unwrap()),
        "nothing is erased"
    );
    root.run(&format!("forget {txid} --dry-run --yes")).expect(2);
}
