//! Mounts: made, used, taken away, in the background and in front, found dead, and ended by signals.

use crate::root::{Ran, TestRoot, finish};
use rustix::process::Signal;
use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};

#[test]
fn the_folder_is_there_while_it_is_mounted() {
    let Some(root) = TestRoot::with_fuse() else { return };
    root.run("create docs").expect(0);
    let mounted = root.run("mount docs --json").expect(0).json();
    assert_eq!(mounted["mountpoint"].as_str(), root.mnt("docs", "").to_str().map(|path| path.trim_end_matches('/')));
    fs::write(root.mnt("docs", "a"), "through the mount").unwrap();
    root.run("sync docs").expect(0);
    assert_eq!(root.run("get a docs -").expect(0).stdout, "through the mount");
    let line = &root.run("log docs/a --json").expect(0).json_lines()[0];
    assert_eq!(
        (line["op"].as_str(), line["cause"].as_str(), line["status"].as_str()),
        (Some("put"), Some("mount"), Some("final"))
    );

    let status = root.run("status --json").expect(0).json();
    assert_eq!(status["node"]["running"], true);
    assert_eq!(status["buckets"][0]["state"], "mounted");
    let mode = |name: &str| fs::metadata(root.path(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!(
        (mode("node.sock"), mode("node.log"), mode("wallets"), mode("wallets/default")),
        (0o600, 0o600, 0o700, 0o600)
    );

    root.run("mount docs").expect(7);
    root.run("delete docs").expect(7);
    root.run("unmount docs").expect(0);
    assert!(!root.mnt("docs", "").exists(), "the mountpoint goes with the mount");
    assert!(root.mounts().is_empty());
    root.expect_no_node();
    root.run("unmount docs").expect(7);
    root.run("verify docs").expect(0);
}

#[test]
fn places_that_must_not_be_mounted_on_are_refused() {
    let Some(root) = TestRoot::with_fuse() else { return };
    fs::create_dir_all(root.outside().join("full/x")).unwrap();
    fs::create_dir_all(root.outside().join("tree")).unwrap();
    fs::write(root.outside().join("file"), "").unwrap();
    root.run("create docs --from tree").expect(0);
    for place in ["nosuch", "full", "file", "tree", "root", "root/mnt", "root/buckets", "."] {
        let ran = root.run(&format!("mount docs {place} --json")).expect(7);
        assert_eq!(ran.error().0, 7);
    }
    root.expect_no_node();
    root.run("mount nosuch").expect(6);
    fs::create_dir(root.outside().join("free")).unwrap();
    root.run("mount docs free").expect(0);
    root.run("unmount docs").expect(0);
    assert!(root.outside().join("free").is_dir(), "the user's own folder stays");
}

#[test]
fn a_busy_folder_is_named_refused_and_can_be_detached() {
    let Some(root) = TestRoot::with_fuse() else { return };
    root.run("create docs --mount").expect(0);
    let mut holder = Command::new("cat").current_dir(root.mnt("docs", "")).stdin(Stdio::piped()).spawn().unwrap();
    let busy = root.run("unmount docs").expect(13);
    assert!(busy.stderr.contains(&format!("cat ({})", holder.id())), "{busy:?}");
    root.run("unmount docs --lazy").expect(0);
    assert!(root.mounts().is_empty());
    assert!(root.is_node_alive(), "it is served to those who use it");
    drop(holder.stdin.take());
    holder.wait().unwrap();
    root.expect_no_node();
}

#[test]
fn a_folder_that_is_mounted_elsewhere_too_is_detached_and_served_there() {
    let Some(root) = TestRoot::with_fuse() else { return };
    if !rustix::process::geteuid().is_root() {
        return;
    }
    root.run("create docs --mount").expect(0);
    let elsewhere = root.outside().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    let bind = |from: &std::path::Path| rustix::mount::mount_bind(from, &elsewhere).unwrap();
    let unbind = || rustix::mount::unmount(&elsewhere, rustix::mount::UnmountFlags::empty()).unwrap();
    bind(&root.mnt("docs", ""));
    fs::write(root.mnt("docs", "a"), "a").unwrap();
    let unmounted = root.run("unmount docs").expect(0);
    assert!(unmounted.stderr.contains("mounted elsewhere too"), "{unmounted:?}");
    fs::write(elsewhere.join("b"), "b").unwrap();
    // It can be mounted again meanwhile, and the same holds when another program takes that mount away.
    root.run("mount docs").expect(0);
    unbind();
    assert_eq!(fs::read(root.mnt("docs", "b")).unwrap(), b"b");
    bind(&root.mnt("docs", ""));
    assert!(Command::new("umount").arg(root.mnt("docs", "")).status().unwrap().success());
    root.run("mount docs").expect(0);
    unbind();
    root.run("unmount docs").expect(0);
    root.expect_no_node();
    // And at the end of a node.
    root.run("mount docs").expect(0);
    bind(&root.mnt("docs", ""));
    root.run("stop").expect(0);
    root.expect_no_node();
    unbind();
    root.run("verify docs").expect(0);
}

#[test]
fn what_is_mounted_in_a_folder_is_named_when_it_is_busy() {
    let Some(root) = TestRoot::with_fuse() else { return };
    root.run("create docs --mount").expect(0);
    root.run("create inner").expect(0);
    fs::create_dir(root.mnt("docs", "below")).unwrap();
    let below = root.mnt("docs", "below");
    root.run(&format!("mount inner {}", below.display())).expect(0);
    let busy = root.run("unmount docs").expect(13);
    assert!(busy.stderr.contains(&format!("the mount at {}", below.display())), "{busy:?}");
    root.run("unmount inner").expect(0);
    root.run("unmount docs").expect(0);
}

#[test]
fn somebody_else_may_unmount_it() {
    let Some(root) = TestRoot::with_fuse() else { return };
    root.run("create docs --mount").expect(0);
    fs::write(root.mnt("docs", "a"), "a").unwrap();
    assert!(Command::new("umount").arg(root.mnt("docs", "")).status().unwrap().success());
    root.expect_no_node();
    assert_eq!(root.run("get a docs -").expect(0).stdout, "a");
}

#[test]
fn signals_end_the_node_also_with_a_shell_in_the_mount() {
    let Some(root) = TestRoot::with_fuse() else { return };
    root.run("create docs").expect(0);
    for signal in [Signal::INT, Signal::TERM, Signal::HUP, Signal::QUIT] {
        let child = root.start("mount docs --fg");
        root.wait_for("the mount", || !root.mounts().is_empty());
        root.run("status").expect(0);
        let mut shell = Command::new("cat").current_dir(root.mnt("docs", "")).stdin(Stdio::piped()).spawn().unwrap();
        fs::write(root.mnt("docs", "a"), format!("{signal:?}")).unwrap();
        rustix::process::kill_process(rustix::process::Pid::from_child(&child), signal).unwrap();
        let ran = finish(child).expect(128 + signal.as_raw());
        assert!(!ran.stderr.contains("error") && ran.stderr.contains("ended by signal"), "{ran:?}");
        assert!(root.mounts().is_empty(), "no dead mount is left");
        drop(shell.stdin.take());
        shell.wait().unwrap();
    }
    root.run("sync").expect(0);
    root.run("verify docs").expect(0);
}

#[test]
fn a_killed_node_leaves_a_stale_mount_that_the_next_one_clears() {
    let Some(root) = TestRoot::with_fuse() else { return };
    root.run("create docs --mount").expect(0);
    fs::write(root.mnt("docs", "a"), "before the kill").unwrap();
    root.kill_node();
    assert_eq!(root.run("status --json").expect(0).json()["buckets"][0]["state"], "stale");
    let mounted = root.run("mount docs").expect(0);
    assert!(mounted.stderr.contains("cleared"), "{mounted:?}");
    assert_eq!(fs::read_to_string(root.mnt("docs", "a")).unwrap(), "before the kill");
    root.run("sync").expect(0);
    root.run("verify docs").expect(0);
    root.kill_node();
    root.run("unmount docs").expect(0);
    assert!(root.mounts().is_empty());
}

#[test]
fn a_signal_tells_that_the_folder_is_usable() {
    let Some(root) = TestRoot::with_fuse() else { return };
    root.run("create docs").expect(0);
    for flag in ["", "--fg"] {
        // The shell says "ready" when it is told, and only then is the folder looked at.
        let script = "trap 'echo ready; exit 0' USR1; echo $$; while :; do read -t 1 _ <&3; done 3<>\"$0\"";
        let fifo = root.outside().join(format!("fifo{flag}"));
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        let mut shell = Command::new("bash").args(["-c", script]).arg(&fifo).stdout(Stdio::piped()).spawn().unwrap();
        let mut said = shell.stdout.take().unwrap();
        let mut line = Vec::new();
        while !line.ends_with(b"\n") {
            let mut byte = [0];
            said.read_exact(&mut byte).unwrap();
            line.push(byte[0]);
        }
        let child = root.start(&format!("mount docs {flag} --notifypid {}", shell.id()));
        let mut ready = String::new();
        said.read_to_string(&mut ready).unwrap();
        assert_eq!((ready.as_str(), shell.wait().unwrap().code()), ("ready\n", Some(0)));
        fs::write(root.mnt("docs", "a"), "x").unwrap();
        root.run("unmount docs").expect(0);
        finish(child).expect(0);
    }
}

#[test]
fn a_mount_in_the_foreground_stays_also_when_another_process_is_the_node() {
    let Some(root) = TestRoot::with_fuse() else { return };
    root.run("create docs").expect(0);
    root.run("node").expect(0);
    for signal in [None, Some(Signal::INT)] {
        let mut child = root.start("mount docs --fg");
        root.wait_for("the mount", || !root.mounts().is_empty());
        fs::write(root.mnt("docs", "a"), format!("{signal:?}")).unwrap();
        assert!(child.try_wait().unwrap().is_none(), "it stays");
        match signal {
            None => drop(root.run("unmount docs").expect(0)),
            Some(signal) => {
                rustix::process::kill_process(rustix::process::Pid::from_child(&child), signal).unwrap();
            }
        }
        finish(child).expect(signal.map_or(0, |signal| 128 + signal.as_raw()));
        assert!(root.mounts().is_empty() && root.is_node_alive());
    }
    root.run("stop").expect(0);
    root.run("verify docs").expect(0);
}

#[test]
fn the_last_unmount_and_the_next_mount_do_not_wait_for_each_other() {
    let Some(root) = TestRoot::with_fuse() else { return };
    for bucket in ["a", "b", "c"] {
        root.run(&format!("create {bucket}")).expect(0);
    }
    std::thread::scope(|scope| {
        for bucket in ["a", "b", "c"] {
            let root = &root;
            scope.spawn(move || {
                for _ in 0..8 {
                    root.run(&format!("mount {bucket}")).expect(0);
                    let start = std::time::Instant::now();
                    root.run(&format!("unmount {bucket}")).expect(0);
                    assert!(start.elapsed() < wizefs::root::LOCK_PATIENCE, "{:?}", start.elapsed());
                }
            });
        }
    });
    root.expect_no_node();
}

/// `flock FILE wizefs mount docs`, or a pipe in a script, whose reader would wait for the end of the node.
#[test]
fn a_node_in_the_background_keeps_nothing_open_of_who_started_it() {
    let Some(root) = TestRoot::with_fuse() else { return };
    root.run("create docs").expect(0);
    let lock = root.outside().join("lock");
    let mount = root.command(&["mount", "docs"]);
    let mut shell = Command::new("sh");
    shell.args(["-c", "exec 9>\"$0\"; exec \"$@\""]).arg(&lock).arg(mount.get_program()).args(mount.get_args());
    shell.envs(mount.get_envs().filter_map(|(name, value)| Some((name, value?)))).stdin(Stdio::null());
    Ran::from(shell.output().unwrap()).expect(0);
    let node = root.node().unwrap().as_raw_nonzero();
    let open = fs::read_dir(format!("/proc/{node}/fd")).unwrap();
    let open: Vec<_> = open.filter_map(|entry| fs::read_link(entry.unwrap().path()).ok()).collect();
    assert!(open.contains(&root.path("node.lock")) && !open.contains(&lock), "{open:?}");
}

/// Between two looks of a command that wants to be the node, another one may be it and end.
#[test]
fn a_node_that_came_and_went_meanwhile_is_not_in_the_way() {
    let Some(root) = TestRoot::with_fuse() else { return };
    root.run("create docs").expect(0);
    for line in ["mount docs", "mount docs --fg"] {
        let lock = fs::File::open(root.path("node.lock")).unwrap();
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
        let mut mount = root.start(line);
        // It finds this one listen while it waits for the root, and nobody any more when it wants to ask.
        let listener = UnixListener::bind(root.path("node.sock")).unwrap();
        listener.accept().unwrap();
        fs::remove_file(root.path("node.sock")).unwrap();
        drop((listener, lock));
        root.wait_for("the mount", || {
            assert!(mount.try_wait().unwrap().is_none_or(|status| status.success()), "{line}");
            root.mounts() == [root.path("mnt/docs")]
        });
        root.run("unmount docs").expect(0);
        finish(mount).expect(0);
        root.expect_no_node();
    }
}

#[test]
fn one_node_serves_several_mounts_and_a_service_stays_without_any() {
    let Some(root) = TestRoot::with_fuse() else { return };
    root.run("create a").expect(0);
    root.run("create b").expect(0);
    root.run("mount a").expect(0);
    let node = root.node();
    root.run("mount b").expect(0);
    assert_eq!(root.node(), node);
    root.run("unmount a").expect(0);
    assert!(root.is_node_alive());
    root.run("delete b --unmount").expect(0);
    root.expect_no_node();

    root.run("node").expect(0);
    root.run("node").expect(8);
    root.run("mount a").expect(0);
    root.run("unmount a").expect(0);
    assert!(root.is_node_alive());
    root.run("mount a --read-only").expect(0);
    assert!(fs::write(root.mnt("a", "x"), "x").is_err());
    root.run("stop").expect(0);
    root.expect_no_node();
    assert!(root.mounts().is_empty());
    root.run("stop").expect(60);
}
