//! Buckets and their files without a mount.

use crate::rest::Service;
use crate::root::{TestRoot, finish};
use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};

#[test]
fn a_bucket_that_is_deleted_while_it_is_read_does_not_come_back() {
    let rest = Service::start(TestRoot::new());
    let folder = rest.root.outside().join("folder");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("one"), "1").unwrap();
    for round in 0..10 {
        let adopted = rest.root.run("create docs --from folder --json").expect(0).json();
        assert_eq!(adopted["imported"]["files"], round + 1);
        let is_gone = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    while !is_gone.load(Ordering::Acquire) {
                        let (status, said) = rest.ask("GET", "/v1/buckets/docs/entries", "", "");
                        assert!(matches!(status, 200 | 404 | 423), "{status} {said}");
                    }
                });
            }
            let deleted = rest.ask("DELETE", "/v1/buckets/docs", "", "");
            is_gone.store(true, Ordering::Release);
            assert_eq!(deleted.0, 200, "{deleted:?}");
        });
        assert_eq!(rest.ask("GET", "/v1/buckets/docs/entries", "", "").0, 404);
        assert_eq!(rest.ask("PUT", "/v1/buckets/docs/files/late", "", "late").0, 404);
        fs::write(folder.join(format!("more-{round}")), "more").unwrap();
    }
}

/// A root that was copied has files of its own, and one that was moved still has them.
#[test]
fn a_copied_root_leaves_its_original_alone() {
    let root = TestRoot::new();
    root.run("create docs").expect(0);
    root.run("create docs.zip").expect(0);
    for content in ["first", "second"] {
        fs::write(root.outside().join(content), content).unwrap();
    }
    root.run("put first docs/f").expect(0);
    root.run("put first docs.zip/f").expect(0);
    let copied = std::process::Command::new("cp").arg("-a").args([root.path(""), root.outside().join("copy")]).status();
    assert!(copied.unwrap().success());
    root.run("put second docs/f --root copy").expect(0);
    root.run("put second docs.zip/f --root copy").expect(0);
    root.run("delete docs --yes --root copy").expect(0);
    root.run("verify").expect(0);
    for bucket in ["docs", "docs.zip"] {
        assert_eq!(root.run(&format!("get f {bucket} -")).expect(0).stdout, "first");
    }
    fs::rename(root.path(""), root.outside().join("moved")).unwrap();
    root.run("verify --root moved").expect(0);
    assert_eq!(root.run("get f docs - --root moved").expect(0).stdout, "first");
}

#[test]
fn a_copy_of_a_mounted_root_does_not_say_that_it_unmounted_its_original() {
    let Some(root) = TestRoot::with_fuse() else { return };
    root.run("create docs").expect(0);
    root.run("mount docs").expect(0);
    fs::write(root.path("mnt/docs/f"), "content").unwrap();
    root.run("sync docs").expect(0);
    let (original, copy) = (root.path(""), root.outside().join("copy"));
    let copied = std::process::Command::new("cp").args(["-a", "--one-file-system"]).args([&original, &copy]).status();
    assert!(copied.unwrap().success());
    assert_eq!(root.run("unmount docs --root copy --json").expect(7).error().1, "not-mounted");
    assert_eq!(fs::read_to_string(root.path("mnt/docs/f")).unwrap(), "content");
    root.run("unmount docs --root copy").expect(7);
    root.run("unmount docs").expect(0);
}

#[test]
fn a_pipe_is_removed_and_nothing_is_said_of_it() {
    let root = TestRoot::new();
    root.run("create docs").expect(0);
    fs::write(root.outside().join("f"), "content").unwrap();
    root.run("put f docs/p").expect(0);
    root.run("remove p docs").expect(0);
    let pipe = root.path("buckets/docs/data/p");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o644.into(), 0).unwrap();
    root.run("accept docs/p").expect(11);
    let removed = root.run("remove p docs --json").expect(0).json();
    assert_eq!((&removed["txid"], &removed["block"]), (&serde_json::Value::Null, &serde_json::Value::Null));
    assert!(!pipe.exists());
    root.run("remove p docs").expect(11);
}

#[test]
fn a_file_goes_in_and_comes_out() {
    let root = TestRoot::new();
    let file = root.outside().join("report.pdf");
    fs::write(&file, "hello").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o751)).unwrap();
    root.run("create docs").expect(0);

    let put = root.run("put report.pdf docs --json").expect(0).json();
    assert_eq!(put["status"], "final");
    assert_eq!(put["path"], "report.pdf");
    assert_eq!(put["size"], 5);
    assert_eq!(put["sha256"], "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824");
    let txid = put["txid"].as_str().unwrap();
    assert_eq!(root.run("put report.pdf docs/copies/").expect(0).stdout.trim().len(), 64, "the transaction id");

    root.run("get report.pdf docs").expect(11);
    let got = root.run("get report.pdf docs out --json").expect(0).json();
    assert_eq!((got["verified"].as_bool(), got["txid"].as_str()), (Some(true), Some(txid)));
    assert_eq!(fs::read(root.outside().join("out")).unwrap(), b"hello");
    assert_eq!(fs::metadata(root.outside().join("out")).unwrap().permissions().mode() & 0o777, 0o751);
    assert_eq!(root.run("get copies/report.pdf docs -").expect(0).stdout, "hello");
    root.run("get report.pdf docs --force").expect(0);

    root.run("remove report.pdf docs").expect(0);
    root.run("remove report.pdf docs").expect(11);
    root.run("get report.pdf docs other").expect(11);
    assert!(!root.outside().join("other").exists());
    root.run("get copies docs other").expect(11);
    root.run("put nosuch docs").expect(11);
    root.run("put report.pdf docs/copies").expect(11);
    root.run("put report.pdf docs/../x").expect(11);
    root.run("put report.pdf nosuch").expect(6);

    let log = root.run("log docs --json").expect(0).json_lines();
    let ops: Vec<_> = log.iter().map(|line| (line["op"].as_str().unwrap(), line["path"].as_str())).collect();
    assert_eq!(
        ops,
        [
            ("remove", Some("report.pdf")),
            ("put", Some("copies/report.pdf")),
            ("put", Some("report.pdf")),
            ("create", None)
        ]
    );
    assert_eq!(log[2]["txid"].as_str(), Some(txid));
    assert_eq!(root.run("log docs/report.pdf -n 1 --json").expect(0).json_lines()[0]["op"], "remove");
    root.run("verify docs").expect(0);
    root.run("integrity").expect(0);
}

#[test]
fn what_is_put_from_a_pipe_is_got_into_a_pipe_byte_for_byte() {
    let root = TestRoot::new();
    root.run("create docs").expect(0);
    // Colours, half a character, all bytes: nothing of it is for a terminal here.
    let mut bytes = b"\x1b[31mred\x1b[0m \xff\xfe\x80 \xc3".to_vec();
    bytes.extend((0..1 << 20).map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 24) as u8));
    let mut put = root.command(&["put", "-", "docs/bytes"]).stdin(Stdio::piped()).spawn().unwrap();
    put.stdin.take().unwrap().write_all(&bytes).unwrap();
    finish(put).expect(0);
    let got = root.command(&["get", "bytes", "docs", "-"]).output().unwrap();
    assert!(got.stdout == bytes, "{} bytes of {}", got.stdout.len(), bytes.len());
}

#[test]
fn standard_input_and_empty_files_are_files() {
    let root = TestRoot::new();
    root.run("create docs").expect(0);
    let mut child = root.command(&["put", "-", "docs/in/deep"]).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"from a pipe").unwrap();
    finish(child).expect(0);
    assert_eq!(root.run("get in/deep docs -").expect(0).stdout, "from a pipe");
    root.run("put - docs/empty").expect(0);
    assert_eq!(root.run("get empty docs -").expect(0).stdout, "");
    root.run("put - docs").expect(2);
    let entries = root.run("list docs --json").expect(0).json();
    let names: Vec<_> = entries["entries"].as_array().unwrap().iter().map(|e| e["path"].as_str().unwrap()).collect();
    assert_eq!(names, ["empty", "in"]);
    assert_eq!(root.run("list docs/in --json").expect(0).json()["entries"][0]["path"], "in/deep");
    root.run("list docs/nosuch").expect(11);
}

#[test]
fn names_that_are_not_text_keep_their_bytes() {
    let root = TestRoot::new();
    root.run("create docs").expect(0);
    fs::write(root.outside().join("plain"), "x").unwrap();
    let target = OsStr::from_bytes(b"docs/odd \xff\n?%2F name");
    root.run_args(&[OsStr::new("put"), OsStr::new("plain"), target]).expect(0);
    let listed = root.run("list docs --json").expect(0).json();
    assert_eq!(listed["entries"][0]["path"], "odd \u{fffd}\n?%2F name");
    assert_eq!(listed["entries"][0]["path_b64"], "b2RkIP8KPyUyRiBuYW1l");
    assert!(!root.run("list docs").expect(0).stdout.contains("\n?"), "control characters are escaped");
    let name = OsStr::from_bytes(&target.as_bytes()[5..]);
    let got = root.run_args(&[OsStr::new("get"), name, OsStr::new("docs"), OsStr::new("-")]).expect(0);
    assert_eq!(got.stdout, "x");
}

#[test]
fn damage_behind_the_bucket_is_found_and_not_handed_out() {
    let root = TestRoot::new();
    root.run("create docs").expect(0);
    let content = vec![b'a'; 100_000];
    fs::write(root.outside().join("big"), &content).unwrap();
    root.run("put big docs").expect(0);
    root.run("verify docs").expect(0);
    let backing = root.path("buckets/docs/data/big");
    let mut changed = content;
    changed[40_000] = b'b';
    fs::write(&backing, &changed).unwrap();

    let found = root.run("verify docs --json").expect(26).json_lines();
    assert_eq!((found[0]["type"].as_str(), found[0]["path"].as_str()), (Some("damaged"), Some("big")));
    assert_eq!(found[0]["ranges"], serde_json::json!([[32768, 49151]]));
    assert_eq!((found[1]["type"].as_str(), found[1]["exit"].as_i64()), (Some("summary"), Some(26)));
    root.run("get big docs out").expect(26);
    assert!(!root.outside().join("out").exists());

    root.run("accept docs/big").expect(0);
    root.run("verify docs").expect(0);
    fs::remove_file(&backing).unwrap();
    fs::write(root.path("buckets/docs/data/stranger"), "x").unwrap();
    let types: Vec<_> = root.run("verify docs --json").expect(26).json_lines();
    let types: Vec<_> = types.iter().map(|line| line["type"].as_str().unwrap()).collect();
    assert_eq!(types, ["missing", "foreign", "summary"]);
}

#[test]
fn a_folder_is_adopted_where_it_is_and_released_again() {
    let root = TestRoot::new();
    let tree = root.outside().join("tree");
    fs::create_dir_all(tree.join("sub")).unwrap();
    fs::write(tree.join("sub/a"), "aa").unwrap();
    fs::write(tree.join("b"), "b").unwrap();
    let created = root.run("create work --from tree").expect(0);
    assert!(created.stderr.contains("2 files"), "{created:?}");
    root.run("verify work").expect(0);
    let line = &root.run("log work/sub/a --json").expect(0).json_lines()[0];
    assert_eq!((line["cause"].as_str(), line["size"].as_u64()), (Some("import"), Some(2)));
    root.run("create other --from tree/sub").expect(23);
    root.run("create other --from nosuch").expect(11);
    root.run("create other --from root").expect(23);
    let deleted = root.run("delete work --json").expect(0).json();
    assert_eq!(
        deleted["released"].as_str().map(std::path::Path::new),
        Some(fs::canonicalize(&tree).unwrap().as_path())
    );
    assert!(tree.join("sub/a").is_file());
}

#[test]
fn a_deleted_bucket_is_gone_and_its_name_is_free() {
    let root = TestRoot::new();
    root.run("create docs").expect(0);
    root.run("put - docs/a").expect(0);
    root.run("delete docs").expect(0);
    assert_eq!(fs::read_dir(root.path("buckets")).unwrap().count(), 0);
    for line in ["delete docs", "list docs", "log docs", "verify docs", "check docs", "get a docs", "sync docs"] {
        root.run(line).expect(6);
    }
    root.run("create docs").expect(0);
    assert_eq!(root.run("log docs --json").expect(0).json_lines().len(), 1, "a new bucket of the same name");
    let ops = root.run("log --json").expect(0).json_lines();
    assert!(ops.iter().any(|line| line["op"] == "delete" && line["bucket"] == "docs"));
}

#[test]
fn the_name_or_the_user_decides_the_kind() {
    let root = TestRoot::new();
    let kind = |line: &str| root.run(&format!("{line} --json")).expect(0).json()["kind"].as_str().unwrap().to_owned();
    assert_eq!(kind("create a.zip"), "lz");
    assert_eq!(kind("create a --kind lz"), "lz");
    assert_eq!(kind("create b.zip --kind loopback"), "loopback");
    assert_eq!(kind("create image.jpg"), "loopback");
    assert!(root.path("buckets/a.zip/a.zip").is_file() && root.path("buckets/a/a.zip").is_file());
}
