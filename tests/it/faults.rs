//! What goes wrong around the program: configuration, locks, ports, keys, the ledger's files.

use crate::root::{TestRoot, finish};
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

#[test]
fn a_corrupted_configuration_is_named_and_left_alone() {
    let root = TestRoot::new();
    root.run("create docs").expect(0);
    for (file, commands) in [
        ("wizedb.conf", &["list", "status", "create more", "mount docs", "put - docs/a", "delete docs"][..]),
        ("buckets/docs/wizefs.conf", &["mount docs", "put - docs/a", "verify docs", "sync"][..]),
        ("node.conf", &["status", "mount docs"][..]),
    ] {
        let good = fs::read(root.path(file)).ok();
        for text in ["", "{", "[]", "{\"created\": 7}", "\0\0\0"] {
            fs::write(root.path(file), text).unwrap();
            for command in commands {
                let ran = root.run(command).expect(21);
                assert!(ran.stderr.contains(root.path(file).to_str().unwrap()), "{ran:?}");
                assert_eq!(fs::read_to_string(root.path(file)).unwrap(), text, "{command} changed {file}");
            }
        }
        match good {
            Some(good) => fs::write(root.path(file), good).unwrap(),
            None => fs::remove_file(root.path(file)).unwrap(),
        }
    }
    root.run("verify docs").expect(0);
}

#[test]
fn a_bucket_whose_configuration_is_damaged_keeps_nobody_from_the_others() {
    let root = TestRoot::new();
    let tree = root.outside().join("tree");
    fs::create_dir(&tree).unwrap();
    fs::write(tree.join("kept"), "1").unwrap();
    for line in ["create docs", "create more", "create ours --from tree", "put - docs/a"] {
        root.run(line).expect(0);
    }
    let confs = ["buckets/docs/wizefs.conf", "buckets/ours/wizefs.conf"].map(|conf| root.path(conf));
    let good = confs.clone().map(|conf| fs::read_to_string(conf).unwrap());
    for conf in &confs {
        fs::write(conf, "{").unwrap();
    }
    for command in ["list", "status"] {
        let shown = root.run(&format!("{command} --json")).expect(0).json();
        let buckets = shown["buckets"].as_array().unwrap();
        let odd: Vec<_> = buckets.iter().filter(|bucket| !bucket["problem"].is_null()).collect();
        assert_eq!((buckets.len(), odd.len(), &odd[0]["origin"]), (3, 2, &"docs".into()), "{shown}");
        assert_eq!((&odd[0]["files"], &odd[1]["files"]), (&1.into(), &1.into()), "{shown}");
    }
    root.run("put - more/a").expect(0);
    root.run("sync").expect(21);
    let problems = root.run("check docs --json").expect(1).json()["problems"].to_string();
    assert!(problems.contains("wizefs.conf") && problems.contains("move the file away"), "{problems}");

    // They are made anew from what is known elsewhere.
    for conf in &confs {
        fs::rename(conf, conf.with_extension("damaged")).unwrap();
    }
    root.run("verify").expect(0);
    assert_eq!(confs.clone().map(|conf| fs::read_to_string(conf).unwrap()), good);
    // Or it goes, and what was adopted stays.
    for (bucket, conf) in ["docs", "ours"].iter().zip(&confs) {
        fs::write(conf, "{").unwrap();
        root.run(&format!("delete {bucket}")).expect(0);
    }
    assert_eq!(fs::read_to_string(tree.join("kept")).unwrap(), "1");
    assert_eq!(root.run("list --json").expect(0).json()["buckets"].as_array().unwrap().len(), 1);
}

#[test]
fn a_locked_root_is_waited_for_and_then_its_holder_is_named() {
    let root = TestRoot::new();
    root.run("create docs").expect(0);
    let lock = fs::OpenOptions::new().write(true).open(root.path("node.lock")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    fs::write(root.path("node.lock"), "4242\n").unwrap();
    let waiting = root.start("list");
    let refused = root.run("create more --json").expect(8);
    assert_eq!(refused.error(), (8, "root-locked".to_owned()));
    assert!(refused.stderr.contains("process 4242"), "{refused:?}");
    finish(waiting).expect(8);
    let waiting = root.start("list");
    drop(lock);
    finish(waiting).expect(0);
}

#[test]
fn who_follows_the_log_keeps_nobody_from_the_root() {
    let root = TestRoot::new();
    root.run("create docs").expect(0);
    root.run("put - docs/before").expect(0);
    let mut follower = root.start("log docs --follow --json -n 1");
    let mut lines = BufReader::new(follower.stdout.take().unwrap()).lines();
    let mut next = || {
        serde_json::from_str::<serde_json::Value>(&lines.next()?.unwrap()).unwrap()["path"].as_str().map(str::to_owned)
    };
    assert_eq!(next().as_deref(), Some("before"));
    for path in ["first", "second"] {
        root.run(&format!("put - docs/{path}")).expect(0);
        assert_eq!(next().as_deref(), Some(path));
    }
    root.run("node --listen off --grpc-listen off").expect(0);
    root.run("put - docs/served").expect(0);
    assert_eq!(next().as_deref(), Some("served"));
    root.run("stop").expect(0);
    assert_eq!(next(), None);
    finish(follower).expect(0);
}

#[test]
fn a_signal_ends_who_follows_the_log_without_a_node() {
    let root = TestRoot::new();
    root.run("create docs").expect(0);
    let mut follower = root.start("log --follow --json");
    let mut lines = BufReader::new(follower.stdout.take().unwrap()).lines();
    assert!(lines.next().is_some());
    // It waits for others to change something once it has let go of the root.
    let lock = fs::File::open(root.path("node.lock")).unwrap();
    root.wait_for("the follower to let go of the root", || {
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_ok()
    });
    let pid = rustix::process::Pid::from_child(&follower);
    root.wait_for("the signal to end it", || {
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        follower.try_wait().unwrap().is_some()
    });
    finish(follower).expect(128 + 15);
}

#[test]
fn commands_at_the_same_time_wait_for_each_other() {
    let root = TestRoot::new();
    root.run("create docs").expect(0);
    let all: Vec<_> = (0..8).map(|i| root.start(&format!("put - docs/file{i}"))).collect();
    for child in all {
        finish(child).expect(0);
    }
    assert_eq!(root.run("list docs --json").expect(0).json()["entries"].as_array().unwrap().len(), 8);
    root.run("verify docs").expect(0);
}

#[test]
fn a_taken_port_is_said_by_the_background_node_too() {
    let Some(root) = TestRoot::with_fuse() else { return };
    root.run("create docs").expect(0);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    for line in ["mount docs", "mount docs --fg", "node", "node --fg"] {
        let ran = root.run(&format!("{line} --listen {address}")).expect(8);
        assert!(ran.stderr.contains(&address.to_string()), "{ran:?}");
    }
    root.expect_no_node();
    assert!(root.mounts().is_empty());
    root.run(&format!("mount docs --listen {address} --json")).expect(8);
    root.run("node --listen 0.0.0.0:0").expect(2);
    root.run("node --listen 127.0.0.1:0").expect(0);
    let rest = root.run("status --json").expect(0).json()["node"]["rest"].as_str().unwrap().to_owned();
    assert!(!rest.ends_with(":0"), "{rest}");
    root.run("stop").expect(0);
}

#[test]
fn a_missing_key_is_not_replaced() {
    let root = TestRoot::new();
    root.run("create docs").expect(0);
    for key in ["wallets/default", "wallets/log.key"] {
        let kept = fs::read(root.path(key)).unwrap();
        fs::remove_file(root.path(key)).unwrap();
        let ran = root.run("list").expect(20);
        assert!(ran.stderr.contains(key), "{ran:?}");
        assert!(!root.path(key).exists());
        fs::write(root.path(key), "nonsense").unwrap();
        root.run("list").expect(21);
        fs::write(root.path(key), kept).unwrap();
    }
    root.run("list").expect(0);
}

#[test]
fn a_ledger_that_does_not_open_is_not_written_and_is_checked() {
    let root = TestRoot::new();
    root.run("create docs").expect(0);
    let manifest = fs::read_dir(root.path("ledger")).unwrap().flatten();
    let manifest = manifest.map(|e| e.path()).find(|p| p.to_string_lossy().contains("MANIFEST")).unwrap();
    let good = fs::read(&manifest).unwrap();
    fs::write(&manifest, &good[..good.len() / 2]).unwrap();
    let refused = root.run("put - docs/a --json").expect(26);
    assert_eq!(refused.error().1, "ledger-damaged");
    let report = root.run("integrity --json").expect(26).json();
    assert_eq!(report["ok"], false);
    assert!(!report["problems"].as_array().unwrap().is_empty());
    fs::write(&manifest, &good).unwrap();
    root.run("integrity").expect(0);
    root.run("put - docs/a").expect(0);
}

#[test]
fn a_root_with_a_long_path_works() {
    let Some(root) = TestRoot::with_fuse() else { return };
    let long = root.outside().join("x".repeat(120)).join("y".repeat(120));
    let flag = format!("--root={}", long.display());
    root.run_args(&["create", "docs", &flag]).expect(0);
    root.run_args(&["node", &flag]).expect(0);
    assert_eq!(root.run_args(&["status", "--json", &flag]).expect(0).json()["node"]["running"], true);
    root.run_args(&["stop", &flag]).expect(0);
}

#[test]
fn a_ledger_that_vanished_is_not_made_anew() {
    let root = TestRoot::new();
    root.run("create docs").expect(0);
    let (ledger, away) = (root.path("ledger"), root.outside().join("away"));
    fs::rename(&ledger, &away).unwrap();
    for _ in ["the folder is gone", "the folder is empty"] {
        for line in ["status", "list", "put - docs/a", "log"] {
            let refused = root.run(&format!("{line} --json")).expect(26);
            assert_eq!(refused.error().1, "ledger-damaged");
            assert!(refused.stderr.contains("restore it"), "{refused:?}");
        }
        root.run("integrity").expect(26);
        assert_eq!(fs::read_dir(&ledger).unwrap().count(), 0);
    }
    fs::remove_dir(&ledger).unwrap();
    fs::rename(&away, &ledger).unwrap();
    root.run("put - docs/a").expect(0);
}

#[test]
fn a_ledger_from_before_the_bucket_takes_no_change_of_it_and_says_so() {
    let Some(root) = TestRoot::with_fuse() else { return };
    root.run("create other").expect(0);
    let copy = |from: &Path, to: &Path| {
        let copied = Command::new("cp").arg("-a").args([from, to]).status();
        assert!(copied.unwrap().success());
    };
    let (ledger, older, newer) = (root.path("ledger"), root.outside().join("older"), root.outside().join("newer"));
    copy(&ledger, &older);
    root.run("create docs").expect(0);
    root.run("put - docs/a").expect(0);
    fs::rename(&ledger, &newer).unwrap();
    copy(&older, &ledger);
    for line in ["put - docs/b", "put - docs/a", "accept docs/a"] {
        let refused = root.run(&format!("{line} --json")).expect(26);
        assert!(refused.stderr.contains("does not know this bucket"), "{line}: {refused:?}");
    }
    root.run("put - other/b").expect(0);
    root.run("mount docs").expect(0);
    let stored = fs::write(root.path("mnt/docs/c"), "content");
    assert_eq!(stored.unwrap_err().raw_os_error(), Some(libc::EROFS));
    assert_eq!(fs::read(root.path("mnt/docs/a")).unwrap(), b"", "what is there can be read");
    root.run("unmount docs").expect(0);
    fs::remove_dir_all(&ledger).unwrap();
    fs::rename(&newer, &ledger).unwrap();
    root.run("verify docs").expect(0);
    root.run("put - docs/b").expect(0);
}

/// What it leaves: the folders; the wallet too; also the key of a log that is not begun, with a store or without.
#[test]
fn a_first_start_that_was_broken_off_is_gone_on_with() {
    let root = TestRoot::new();
    root.run("status").expect(0);
    let (key, begun, ledger) = (root.path("wallets/log.key"), root.path("wallets/.log.key"), root.path("ledger"));
    let vkey = |root: &TestRoot| root.run("status --json").expect(0).json()["ledger"]["vkey"].to_string();
    fs::rename(&key, &begun).unwrap();
    let first = vkey(&root);
    assert!(key.exists() && !begun.exists());
    fs::rename(&key, &begun).unwrap();
    fs::remove_dir_all(&ledger).unwrap();
    assert_ne!(vkey(&root), first, "another chain");
    fs::remove_file(&key).unwrap();
    fs::remove_dir_all(&ledger).unwrap();
    root.run("create docs").expect(0);
    assert_eq!(root.run("integrity --json").expect(0).json()["height"], 1);
}
