//! Proofs through the real program, and a stranger's checker of them.

use crate::root::{Ran, TestRoot};
use serde_json::Value;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

/// A root with the bucket `docs`, a file in it, and the log's verifier key in `keys`.
pub(crate) fn recorded() -> TestRoot {
    let root = TestRoot::new();
    root.run("create docs").expect(0);
    let bytes: Vec<u8> = (0..200_000u32).map(|at| (at * 31 % 251) as u8).collect();
    fs::write(root.outside().join("a.bin"), bytes).unwrap();
    fs::write(root.outside().join("b.txt"), "other").unwrap();
    root.run("put a.bin docs").expect(0);
    root.run("put b.txt docs/sub/").expect(0);
    let status = root.run("status --json").expect(0).json();
    fs::write(root.outside().join("keys"), status["ledger"]["vkey"].as_str().unwrap()).unwrap();
    root
}

/// Run in another place that has no root.
fn elsewhere(root: &TestRoot, line: &str) -> Ran {
    let mut command = root.command(&line.split(' ').collect::<Vec<_>>());
    command.env("WIZEFS_ROOT", root.outside().join("no/root")).output().unwrap().into()
}

#[test]
fn a_file_is_proven_to_a_stranger() {
    let root = recorded();
    let made = root.run("proof docs/a.bin -o a.p --json").expect(0).json();
    assert_eq!((made["bucket"].as_str(), made["path"].as_str()), (Some("docs"), Some("a.bin")));
    assert_eq!(made["proof"].as_str().unwrap(), fs::read_to_string(root.outside().join("a.p")).unwrap());
    assert_eq!(root.run("proof docs/a.bin").expect(0).stdout, made["proof"].as_str().unwrap());

    root.run("verify a.bin --proof a.p").expect(0);
    let trusted = elsewhere(&root, "verify a.bin --proof a.p --policy keys --json").expect(0).json();
    assert_eq!((trusted["signer"].as_str(), trusted["txid"].as_str()), (Some("trusted"), made["txid"].as_str()));
    let unknown = elsewhere(&root, "verify a.bin --proof a.p").expect(27);
    assert!(unknown.stderr.contains("signer not checked: wizefs.invalid/"), "{unknown:#?}");
    assert!(!root.outside().join("no").exists(), "verifying needs no root");
    let renamed = made["proof"].as_str().unwrap().replace("\u{2014} wizefs.invalid/", "\u{2014} else.invalid/");
    fs::write(root.outside().join("renamed.p"), renamed).unwrap();
    let unsigned = elsewhere(&root, "verify a.bin --proof renamed.p --policy keys").expect(27);
    assert!(unsigned.stderr.contains("signer not checked: no signature is the log's own"), "{unsigned:#?}");

    for bad in ["verify b.txt --proof a.p --policy keys", "verify a.bin --proof b.txt --policy keys"] {
        assert_eq!(elsewhere(&root, &format!("{bad} --json")).expect(26).error(), (26, "damaged".into()));
    }
    elsewhere(&root, "verify nosuch --proof a.p --policy keys").expect(11);
    elsewhere(&root, "verify a.bin --proof nosuch --policy keys").expect(11);
    elsewhere(&root, "verify a.bin --proof a.p --policy b.txt").expect(2);
    root.run("proof docs/nosuch").expect(11);
    let bucket = root.run("proof docs -o whole.p --json").expect(2);
    assert!(bucket.stderr.contains("docs is a bucket: name a path in it"), "{bucket:#?}");
    root.run("proof nosuch/a").expect(6);
    root.run("proof docs/a.bin -o b.txt").expect(11);
    assert_eq!(fs::read_to_string(root.outside().join("b.txt")).unwrap(), "other", "only proofs are replaced");
    root.run("proof docs/a.bin -o a.p").expect(0);
}

#[test]
fn the_current_version_and_absence_are_proven() {
    let root = recorded();
    root.run("proof docs/a.bin --state -o a.p").expect(0);
    let said = elsewhere(&root, "verify a.bin --proof a.p --policy keys --json").expect(0).json();
    let state = &said["state"];
    assert_eq!((state["standing"].as_str(), state["bucket"].as_str()), (Some("current"), Some("docs")));
    let text = fs::read_to_string(root.outside().join("a.p.state")).unwrap();
    let before = fs::read_to_string(root.outside().join("a.p")).unwrap();

    root.run("remove a.bin docs").expect(0);
    root.run("proof docs/a.bin --state -o gone.p").expect(0);
    let said = elsewhere(&root, "verify nothing --proof gone.p --policy keys --json").expect(0).json();
    assert_eq!((said["op"].as_str(), said["state"]["standing"].as_str()), (Some("remove"), Some("absent")));
    elsewhere(&root, "verify a.bin --proof gone.p --policy keys").expect(26);

    // What was never there has no transaction: the state says it alone.
    root.run("proof docs/never").expect(11);
    let made = root.run("proof docs/sub/never --state -o never.p --json").expect(0).json();
    assert_eq!(
        (&made["txid"], &made["proof"], made["files"].as_array().unwrap().len()),
        (&Value::Null, &Value::Null, 1)
    );
    for proof in ["never.p", "never.p.state"] {
        let said = elsewhere(&root, &format!("verify nothing --proof {proof} --policy keys --json")).expect(0).json();
        assert_eq!((said["type"].as_str(), said["state"]["standing"].as_str()), (Some("state"), Some("absent")));
        assert_eq!(said["state"]["path"], "sub/never");
        elsewhere(&root, &format!("verify a.bin --proof {proof} --policy keys")).expect(26);
        elsewhere(&root, &format!("verify nothing --proof {proof}")).expect(27);
    }
    // Alone, it proves what is there as well.
    root.run("proof docs/sub/b.txt --state -o b.p").expect(0);
    let said = elsewhere(&root, "verify b.txt --proof b.p.state --policy keys --json").expect(0).json();
    assert_eq!((said["type"].as_str(), said["state"]["standing"].as_str()), (Some("state"), Some("current")));
    elsewhere(&root, "verify a.bin --proof b.p.state --policy keys").expect(26);

    // What cannot be looked at may well be there.
    std::os::unix::fs::symlink("loop", root.outside().join("loop")).unwrap();
    for proof in ["gone.p", "never.p"] {
        elsewhere(&root, &format!("verify loop/a.bin --proof {proof} --policy keys")).expect(11);
        elsewhere(&root, &format!("verify a.bin/x --proof {proof} --policy keys")).expect(0);
    }

    // The state of one moment beside the proof of another, and a row altered.
    fs::write(root.outside().join("gone.p.state"), &text).unwrap();
    elsewhere(&root, "verify nothing --proof gone.p --policy keys").expect(26);
    fs::write(root.outside().join("a.p.state"), text.replacen(" value A", " value B", 1)).unwrap();
    elsewhere(&root, "verify a.bin --proof a.p --policy keys").expect(26);
    assert_eq!(before, fs::read_to_string(root.outside().join("a.p")).unwrap());
    root.run("integrity").expect(0);
}

#[test]
fn folders_and_what_moved_are_proven_as_what_they_are() {
    let root = TestRoot::new();
    root.run("create docs").expect(0);
    root.run("mount docs").expect(0);
    let (inside, outside) = (|name: &str| root.path("mnt/docs").join(name), |name: &str| root.outside().join(name));
    let proven = |path: &str| {
        let files = root.run(&format!("proof docs/{path} -o p --state --json")).expect(0).json()["files"].take();
        files.as_array().unwrap().len()
    };
    let verified = |file: &str, code: i32| {
        let said = root.run(&format!("verify {file} --proof p --json")).expect(code);
        (code == 0).then(|| said.json()["state"]["standing"].as_str().unwrap().to_owned())
    };
    fs::create_dir(outside("folder")).unwrap();
    for (name, content) in [("old", "old"), ("new", "new")] {
        fs::write(outside(name), content).unwrap();
        root.run(&format!("put {name} docs/a/b.txt")).expect(0);
    }
    // A folder that came with what is in it: the put says nothing of it.
    assert_eq!(proven("a"), 1);
    verified("old", 26);
    assert_eq!(verified("folder", 0).as_deref(), Some("current"));
    let unsaid = root.run("proof docs/a").expect(11);
    assert!(unsaid.stderr.contains("--state"), "{unsaid:#?}");

    fs::create_dir(inside("d1")).unwrap();
    fs::write(inside("d1/x"), "x").unwrap();
    fs::write(outside("x"), "x").unwrap();
    root.run("sync").expect(0);
    fs::rename(inside("d1"), inside("d2")).unwrap();
    assert_eq!(proven("d2"), 2);
    assert_eq!(verified("folder", 0).as_deref(), Some("current"));
    verified("nosuch", 26);
    assert_eq!(proven("d1"), 2);
    assert_eq!(verified("nosuch", 0).as_deref(), Some("absent"));
    verified("folder", 26);
    // It went with the folder above it, and is at the new place.
    assert_eq!(proven("d1/x"), 2);
    assert_eq!(verified("nosuch", 0).as_deref(), Some("absent"));
    verified("x", 26);
    assert_eq!(proven("d2/x"), 2);
    assert_eq!(verified("x", 0).as_deref(), Some("current"));
    verified("nosuch", 11);

    // What took it away is erased: its state alone says that it is not there.
    let gone = root.run("remove d2/x docs --json").expect(0).json()["txid"].as_str().unwrap().to_owned();
    assert_eq!(proven("d2/x"), 2);
    root.run(&format!("forget --yes {gone}")).expect(0);
    assert_eq!(proven("d2/x"), 1);
    assert_eq!(verified("nosuch", 0).as_deref(), Some("absent"));
    verified("x", 26);
    root.run("unmount docs").expect(0);
}

#[test]
fn a_part_of_a_file_is_proven() {
    let root = recorded();
    root.run("proof docs/a.bin --range 70000-90000 -o a.p").expect(0);
    let whole = fs::read(root.outside().join("a.bin")).unwrap();
    fs::write(root.outside().join("part"), &whole[70_000..=90_000]).unwrap();
    elsewhere(&root, "verify part --proof a.p --range 70000-90000 --policy keys").expect(0);
    elsewhere(&root, "verify part --proof a.p --range 70001-90001 --policy keys").expect(26);
    elsewhere(&root, "verify part --proof a.p --policy keys").expect(26);
    elsewhere(&root, "verify part --proof a.p --range 5 --policy keys").expect(2);
    root.run("proof docs/a.bin --range 0-200000 -o beyond.p").expect(2);
    assert!(!root.outside().join("beyond.p").exists(), "all of it or nothing");
}

#[test]
fn proofs_are_written_over_proofs_alone_and_all_of_them_or_none() {
    let root = recorded();
    let outside = |name: &str| root.outside().join(name);
    // A slice has no mark of its own.
    fs::write(outside("a.p.slice"), "my thesis").unwrap();
    root.run("proof docs/a.bin --range 0-9 -o a.p").expect(11);
    assert!(!outside("a.p").exists());
    assert_eq!(fs::read_to_string(outside("a.p.slice")).unwrap(), "my thesis");
    root.run("proof docs/a.bin --range 0-9 -o b.p").expect(0);
    root.run("proof docs/a.bin --range 0-19 -o b.p").expect(0);
    // A proof that goes with what stands in the way of its state is not renewed alone.
    let before = fs::read_to_string(outside("b.p")).unwrap();
    fs::write(outside("b.p.state"), "mine").unwrap();
    root.run("remove sub/b.txt docs").expect(0);
    root.run("proof docs/a.bin --state -o b.p").expect(11);
    assert_eq!(fs::read_to_string(outside("b.p")).unwrap(), before);
}

#[test]
fn a_huge_file_is_no_proof_and_takes_little_memory() {
    let root = recorded();
    fs::File::create(root.outside().join("huge")).unwrap().set_len(1 << 40).unwrap();
    root.run("proof docs/sub/b.txt -o b.p").expect(0);
    root.run("proof --since 1 -o grown").expect(0);
    for line in ["verify b.txt --proof huge", "verify b.txt --proof b.p --policy huge", "verify huge --proof grown"] {
        let refused = elsewhere(&root, line).expect(26);
        assert!(refused.stderr.lines().count() == 1, "{refused:#?}");
    }
}

#[test]
fn nothing_is_read_from_a_pipe_that_a_proof_or_a_checkpoint_is_to_be_written_to() {
    let root = recorded();
    let pipe = root.outside().join("pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o644.into(), 0).unwrap();
    for line in ["proof docs/a.bin -o pipe --json", "proof --since 1 -o pipe --json", "witness -o pipe --json"] {
        assert_eq!(root.run(line).expect(11).error().1, "file-exists", "{line}");
    }
    // Standard output is a pipe here.
    root.run("proof docs/a.bin -o /dev/stdout").expect(11);
}

#[test]
fn a_rewritten_history_is_refused() {
    let root = recorded();
    root.run("witness -o kept").expect(0);
    let old = fs::read_to_string(root.outside().join("kept")).unwrap();
    let copied = Command::new("cp").arg("-a").arg(root.path("")).arg(root.outside().join("copy")).status().unwrap();
    assert!(copied.success());
    root.run("remove a.bin docs").expect(0);
    root.run("witness -o kept").expect(0);
    for name in ["old", "begun"] {
        fs::write(root.outside().join(name), &old).unwrap();
    }
    let size = root.run("witness -o old --json").expect(0).json()["since"].as_u64().unwrap();
    let grown = root.run(&format!("proof --since {size} -o grown --json")).expect(0).json();
    assert_eq!(grown["proof"].as_str().unwrap(), fs::read_to_string(root.outside().join("grown")).unwrap());
    let other = root.run("verify kept --proof grown").expect(26);
    assert!(other.stderr.contains("goes on from a log of"), "{other:#?}");
    root.run("verify begun --proof grown").expect(0);
    elsewhere(&root, "verify begun --proof grown --policy keys").expect(0);
    elsewhere(&root, "verify begun --proof grown").expect(27);
    let status = root.run("status --json").expect(0).json();
    let last = root.run("witness --json").expect(0).json();
    assert_eq!((&status["ledger"]["witnessed"], &status["ledger"]["witnessed_root"]), (&last["size"], &last["root"]));
    assert!(status["ledger"]["witnessed_time"].is_string(), "{status}");
    assert!(root.run("status").expect(0).stdout.contains(" last witnessed: the first "));
    root.run("proof --since 99999").expect(2);

    // The old copy goes its own way; whoever kept the newer checkpoint notices, whichever log is longer.
    for line in ["status", "put b.txt docs/1", "put b.txt docs/2"] {
        let copy = root.outside().join("copy");
        Ran::from(root.command(&line.split(' ').collect::<Vec<_>>()).env("WIZEFS_ROOT", &copy).output().unwrap())
            .expect(0);
        let witness = ["witness", "-o", "kept", "--json"];
        let refused = Ran::from(root.command(&witness).env("WIZEFS_ROOT", &copy).output().unwrap());
        assert_eq!(refused.expect(26).error(), (26, "ledger-damaged".into()), "{line}");
    }
    root.run("witness -o kept").expect(0);
    let taken = root.run("witness -o b.txt").expect(11);
    assert!(taken.stderr.contains("choose another name") && !taken.stderr.contains("--force"), "{taken:?}");
}

/// The checker's interpreter; none, loudly, where python3 lacks the Ed25519 library and nobody requires it.
pub(crate) fn python() -> Option<&'static str> {
    // The second has what Debian's packages install, also where the first is another one.
    for python in ["python3", "/usr/bin/python3"] {
        let there = Command::new(python).args(["-c", "import cryptography"]).output();
        if there.is_ok_and(|output| output.status.success()) {
            return Some(python);
        }
    }
    let required = ["WIZEFS_REQUIRE_FUSE", "CI"].iter().any(|name| std::env::var_os(name).is_some());
    assert!(!required, "python3 with the package cryptography is required");
    eprintln!("SKIPPED, this test needs python3 with the package cryptography");
    None
}

#[test]
fn an_independent_checker_agrees() {
    let Some(python) = python() else { return };
    let root = recorded();
    root.run("proof docs/a.bin -o a.p").expect(0);
    let good = fs::read(root.outside().join("a.p")).unwrap();
    let mut files = vec![PathBuf::from("a.p")];
    for at in 0..good.len() {
        let mut bytes = good.clone();
        bytes[at] ^= [1, 2, 32][at % 3];
        files.push(format!("altered-{at}").into());
        fs::write(root.outside().join(&files[at + 1]), bytes).unwrap();
    }
    let checker = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/proof_checker.py");
    let mut command = Command::new(python);
    command.current_dir(root.outside()).args([checker, "keys", "a.bin"]).args(&files);
    let ran = Ran::from(command.output().unwrap()).expect(0);
    let verdicts: Vec<&str> = ran.stdout.lines().collect();
    assert_eq!((verdicts.len(), verdicts[0]), (files.len(), "ok"));
    for (verdict, file) in verdicts.iter().zip(&files).skip(1) {
        assert!(verdict.starts_with("refused"), "{}: {verdict}", file.display());
    }
    let ran =
        Command::new(python).current_dir(root.outside()).args([checker, "keys", "b.txt", "a.p"]).output().unwrap();
    assert_eq!(Ran::from(ran).expect(0).stdout.trim(), "refused: another content");
}

#[test]
fn a_stranger_with_the_format_page_agrees() {
    let Some(python) = python() else { return };
    let root = recorded();
    root.run("proof docs/sub/b.txt --state -o b.p").expect(0);
    root.run("remove a.bin docs").expect(0);
    root.run("proof docs/a.bin --state -o a.p").expect(0);
    let checker = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/format_checker.py");
    let said = |proof: &str, files: &[String]| {
        let mut command = Command::new(python);
        command.current_dir(root.outside()).args([checker, "keys", "b.txt", proof]).args(files);
        let ran = Ran::from(command.output().unwrap()).expect(0);
        ran.stdout.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let there = said("b.p", &["b.p.state".to_owned(), "a.p.state".to_owned()]);
    assert!(there[0].starts_with("ok put sub/b.txt current "), "{there:?}");
    assert!(there[1].starts_with("refused: "), "{there:?}");
    assert!(said("a.p", &["a.p.state".to_owned()])[0].starts_with("ok remove a.bin absent "));
    let good = fs::read(root.outside().join("b.p.state")).unwrap();
    let altered = (0..good.len()).step_by(3).map(|at| {
        let mut bytes = good.clone();
        bytes[at] ^= [1, 2, 32][at / 3 % 3];
        fs::write(root.outside().join(format!("altered-{at}")), bytes).unwrap();
        format!("altered-{at}")
    });
    let files: Vec<String> = altered.collect();
    for (verdict, file) in said("b.p", &files).iter().zip(&files) {
        assert!(verdict.starts_with("refused: "), "{file}: {verdict}");
    }
}

#[test]
fn a_policy_asks_for_witnesses_that_others_wrote() {
    let Some(python) = python() else { return };
    let root = recorded();
    root.run("proof docs/sub/b.txt -o b.p").expect(0);
    root.run("proof docs/sub/b.txt --state -o current.p").expect(0);
    let log = fs::read_to_string(root.outside().join("keys")).unwrap();
    let cosign = |name: &str, seed: char, file: &str| {
        let program = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/witness.py");
        let mut command = Command::new(python);
        command.current_dir(root.outside()).args([program, name, &seed.to_string().repeat(64), file]);
        Ran::from(command.output().unwrap()).expect(0).stdout.trim().to_owned()
    };
    fs::copy(root.outside().join("b.p"), root.outside().join("seen.p")).unwrap();
    let (one, two) = (cosign("witness.example/1", '1', "seen.p"), cosign("witness.example/2", '2', "seen.p"));
    // A witness signs the proof, not the state proof beside it.
    cosign("witness.example/1", '1', "current.p");
    let said = elsewhere(&root, "verify b.txt --proof current.p --policy keys --json").expect(0).json();
    assert_eq!(said["state"]["standing"], "current");
    // A third, that has not seen this checkpoint.
    fs::copy(root.outside().join("b.p"), root.outside().join("other.p")).unwrap();
    let three = cosign("witness.example/3", '3', "other.p");
    for (needed, seen) in [(1, 0), (2, 0), (3, 27)] {
        let policy = format!(
            "log {log}\nwitness a {one}\nwitness b {two}\nwitness c {three}\ngroup all {needed} a b c\nquorum all\n"
        );
        // A comment may be of any bytes.
        fs::write(root.outside().join("policy"), [b"# caf\xe9\n", policy.as_bytes()].concat()).unwrap();
        elsewhere(&root, "verify b.txt --proof seen.p --policy policy").expect(seen);
        elsewhere(&root, "verify b.txt --proof b.p --policy policy").expect(27);
    }
    // A cosignature of another checkpoint is no opinion but a forgery.
    fs::write(root.outside().join("a.txt"), "a").unwrap();
    root.run("put a.txt docs").expect(0);
    root.run("proof docs/sub/b.txt -o later.p").expect(0);
    let seen = fs::read_to_string(root.outside().join("seen.p")).unwrap();
    let line = seen.lines().find(|line| line.contains("witness.example/1")).unwrap();
    let later = fs::read_to_string(root.outside().join("later.p")).unwrap();
    fs::write(root.outside().join("later.p"), format!("{later}{line}\n")).unwrap();
    fs::write(root.outside().join("policy"), format!("log {log}\nwitness a {one}\nquorum a\n")).unwrap();
    elsewhere(&root, "verify b.txt --proof later.p --policy policy").expect(26);
}
