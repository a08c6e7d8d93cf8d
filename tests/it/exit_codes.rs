//! Every exit code, shown by a real command.

use crate::proofs::recorded;
use crate::root::{Ran, TestRoot, finish};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::process::Command;
use wizefs::error::EXIT_CODES;

/// A command fails with this code, which `--json` tells too, in one line on stderr and nothing on stdout.
#[track_caller]
fn check(root: &TestRoot, line: &str, code: i32, kind: &str) {
    let plain = root.run(line).expect(code);
    assert!(plain.stderr.lines().any(|said| said.starts_with("error: ")), "{line}: {plain:#?}");
    let told = root.run(&format!("{line} --json")).expect(code);
    assert_eq!(told.error(), (code.into(), kind.to_owned()), "{line}");
    assert_eq!((told.stdout.as_str(), told.stderr.lines().count()), ("", 1), "{line}: {told:#?}");
}

/// A script around the program, which is `$WIZEFS` in it.
#[track_caller]
fn script(root: &TestRoot, words: &[&str], text: &str) -> Ran {
    let mut shell = Command::new(words[0]);
    shell.args(&words[1..]).args(["bash", "-uc", text]).env("WIZEFS", env!("CARGO_BIN_EXE_wizefs")).current_dir("/");
    shell
        .env("WIZEFS_ROOT", root.path(""))
        .env("WIZEFS_LISTEN", "off")
        .env("WIZEFS_GRPC_LISTEN", "off")
        .env("LC_ALL", "C.UTF-8");
    shell.output().unwrap().into()
}

#[test]
fn each_code_has_its_test_here() {
    let source = include_str!("exit_codes.rs");
    for (code, meaning) in EXIT_CODES {
        assert!(source.contains(&format!("fn exit_{code}_")), "no test shows {code}: {meaning}");
    }
    assert!(source.contains("fn exit_128_"));
}

#[test]
fn exit_0_is_success() {
    let root = TestRoot::new();
    root.run("create docs").expect(0);
    root.run("--help").expect(0);
}

#[test]
fn exit_1_is_failure() {
    check(&TestRoot::new(), "block 4711", 1, "not-found");
}

#[test]
fn exit_2_is_usage() {
    check(&TestRoot::new(), "bogus", 2, "usage");
}

#[test]
fn exit_6_is_about_the_bucket() {
    let root = TestRoot::new();
    check(&root, "list nosuch", 6, "bucket-unknown");
    check(&root, "create .hidden", 6, "bucket-name");
    root.run("create docs").expect(0);
    check(&root, "create docs", 6, "bucket-exists");
}

#[test]
fn exit_7_is_about_the_mountpoint() {
    let Some(root) = TestRoot::with_fuse() else { return };
    root.run("create docs").expect(0);
    check(&root, "unmount docs", 7, "not-mounted");
    check(&root, "mount docs nosuch", 7, "mountpoint");
    fs::create_dir_all(root.outside().join("full/x")).unwrap();
    check(&root, "mount docs full", 7, "mountpoint-not-empty");
    root.run("mount docs").expect(0);
    check(&root, "mount docs", 7, "already-mounted");
    check(&root, "delete docs", 7, "already-mounted");
    check(&root, "delete docs --dry-run", 7, "already-mounted");
    root.run("unmount docs").expect(0);
}

#[test]
fn exit_8_is_about_starting() {
    let root = TestRoot::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    check(&root, &format!("node --listen {address}"), 8, "port-taken");
    root.run("node").expect(0);
    check(&root, "node", 8, "root-locked");
    root.run("stop").expect(0);
}

#[test]
fn exit_9_is_what_is_not_supported() {
    let root = TestRoot::new();
    root.run("create docs").expect(0);
    check(&root, "create safe --encrypt", 9, "unsupported");
    check(&root, "bucket passwd docs", 9, "unsupported");
    check(&root, "export docs docs.zip --aes", 9, "unsupported");
    assert!(!root.outside().join("docs.zip").exists());
}

#[test]
fn exit_10_is_about_the_archive() {
    let root = TestRoot::new();
    fs::write(root.outside().join("odd.zip"), "this is no archive").unwrap();
    check(&root, "create photos --kind zip --from odd.zip", 10, "archive");
}

#[test]
fn exit_11_is_about_the_file() {
    let root = TestRoot::new();
    fs::write(root.outside().join("a"), "a").unwrap();
    root.run("create docs").expect(0);
    root.run("put a docs/sub/").expect(0);
    check(&root, "get nosuch docs", 11, "file-missing");
    check(&root, "get sub/a docs a", 11, "file-exists");
    check(&root, "get sub docs b", 11, "not-a-file");
    check(&root, "remove sub docs --dry-run", 11, "not-a-file");
    check(&root, "remove nosuch docs --dry-run", 11, "file-missing");
    check(&root, "put a docs/../b", 11, "bad-path");
}

#[test]
fn exit_12_is_about_the_passphrase() {
    let root = TestRoot::new();
    fs::write(root.outside().join("pass"), "correct horse\n").unwrap();
    fs::write(root.outside().join("wrong"), "battery staple\n").unwrap();
    root.run("create docs").expect(0);
    root.run("wallet new safe --passfile pass").expect(0);
    check(&root, "wallet export safe --reveal --passfile wrong", 12, "passphrase");
    check(&root, "wallet export safe --reveal", 12, "passphrase");
}

#[test]
fn exit_13_is_busy() {
    let Some(root) = TestRoot::with_fuse() else { return };
    root.run("create docs").expect(0);
    root.run("mount docs").expect(0);
    let mut held = fs::File::create(root.mnt("docs", "held")).unwrap();
    held.write_all(b"still writing").unwrap();
    check(&root, "unmount docs", 13, "busy");
    check(&root, "sync docs --strict", 13, "busy");
    drop(held);
    root.run("unmount docs").expect(0);
}

#[test]
fn exit_20_is_a_configuration_that_does_not_open() {
    let root = TestRoot::new();
    fs::create_dir_all(root.path("node.conf")).unwrap();
    check(&root, "list", 20, "config-open");
}

#[test]
fn exit_21_is_a_configuration_that_makes_no_sense() {
    let root = TestRoot::new();
    fs::create_dir_all(root.path("")).unwrap();
    fs::write(root.path("node.conf"), "{").unwrap();
    check(&root, "list", 21, "config-parse");
}

#[test]
fn exit_22_is_a_configuration_that_cannot_be_saved() {
    let root = TestRoot::new();
    root.run("create docs").expect(0);
    fs::create_dir(root.path("wizedb.conf.tmp")).unwrap();
    check(&root, "create more", 22, "config-save");
}

#[test]
fn exit_23_is_a_change_that_the_configuration_does_not_take() {
    let root = TestRoot::new();
    fs::create_dir_all(root.outside().join("tree/sub")).unwrap();
    root.run("create tree --from tree").expect(0);
    check(&root, "create again --from tree/sub", 23, "config-change");
}

#[test]
fn exit_26_is_damage() {
    let root = recorded();
    fs::write(root.path("buckets/docs/data/a.bin"), "tampered").unwrap();
    root.run("verify docs").expect(26);
    let lines = root.run("verify docs --json").expect(26).json_lines();
    assert_eq!(lines.last().unwrap()["exit"], 26);
    check(&root, "get a.bin docs -", 26, "damaged");
}

#[test]
fn exit_27_is_a_signer_whom_nobody_knows() {
    let root = recorded();
    root.run("proof docs/a.bin -o a.p").expect(0);
    let mut stranger = root.command(&["verify", "a.bin", "--proof", "a.p", "--json"]);
    let ran = Ran::from(stranger.env("WIZEFS_ROOT", root.outside().join("no")).output().unwrap()).expect(27);
    assert_eq!((&ran.json()["ok"], &ran.json()["exit"]), (&true.into(), &27.into()));
}

/// A node that is killed while it starts: by the limit of the size of files, when it makes the ledger.
#[test]
fn exit_31_is_a_background_node_that_dies_without_a_word() {
    let root = TestRoot::new();
    fs::create_dir_all(root.path("")).unwrap();
    let ran = script(&root, &["env"], "ulimit -f 1; exec \"$WIZEFS\" node --json").expect(31);
    assert_eq!(ran.error(), (31, "background".to_owned()));
    root.expect_no_node();
}

/// A machine whose /dev/fuse is something else.
#[test]
fn exit_40_is_about_fuse() {
    let Some(root) = TestRoot::with_fuse() else { return };
    root.run("create docs").expect(0);
    let ran = if rustix::process::geteuid().is_root() {
        let text = "mount --bind /dev/null /dev/fuse && exec \"$WIZEFS\" mount docs --json";
        script(&root, &["unshare", "--mount"], text)
    } else {
        root.command(&["mount", "docs", "--json"]).env("PATH", "/nowhere").output().unwrap().into()
    };
    assert_eq!(ran.expect(40).error(), (40, "fuse".to_owned()));
    root.expect_no_node();
}

/// A node that talks nonsense, which ours never does.
#[test]
fn exit_50_is_a_defect() {
    let root = TestRoot::new();
    fs::create_dir_all(root.path("")).unwrap();
    let socket = UnixListener::bind(root.path("node.sock")).unwrap();
    let node = std::thread::spawn(move || {
        for _ in 0..2 {
            let (mut stream, _) = socket.accept().unwrap();
            let mut request = [0; 4096];
            let length = stream.read(&mut request).unwrap();
            assert!(request[..length].starts_with(b"GET /v1/status "));
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nnonsense").unwrap();
        }
    });
    check(&root, "status", 50, "internal");
    node.join().unwrap();
}

#[test]
fn exit_60_is_a_node_that_is_not_there() {
    check(&TestRoot::new(), "stop", 60, "unreachable");
}

/// A node of another user.
#[test]
fn exit_61_is_what_one_may_not_do() {
    let root = TestRoot::new();
    root.run("node").expect(0);
    let ran = if rustix::process::geteuid().is_root() {
        fs::set_permissions(root.outside(), Permissions::from_mode(0o755)).unwrap();
        // The program where everybody may run it.
        let program = root.outside().join("wizefs");
        fs::copy(env!("CARGO_BIN_EXE_wizefs"), &program).unwrap();
        let nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
        script(&root, &nobody, &format!("exec {} status --json", program.display()))
    } else {
        fs::set_permissions(root.path("node.sock"), Permissions::from_mode(0o0)).unwrap();
        root.run("status --json")
    };
    assert_eq!(ran.expect(61).error(), (61, "unauthorised".to_owned()));
    fs::set_permissions(root.path("node.sock"), Permissions::from_mode(0o600)).unwrap();
    root.run("stop").expect(0);
}

#[test]
fn exit_128_and_more_is_a_signal() {
    let root = TestRoot::new();
    root.run("node").expect(0);
    for signal in [Signal::INT, Signal::TERM, Signal::HUP, Signal::QUIT] {
        let mut follower = root.start("log --follow --json");
        let mut first = [0];
        follower.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
        // How far it is, is no question that ends it.
        kill_process(Pid::from_child(&follower), Signal::USR1).unwrap();
        kill_process(Pid::from_child(&follower), signal).unwrap();
        finish(follower).expect(128 + signal.as_raw());
    }
    root.run("stop").expect(0);
}
