//! The transcript of the first issue, in its order: what a user does on the first day, and what must happen.

use crate::fold::walk;
use crate::root::TestRoot;
use serde_json::{Value, json};
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

/// Run programs in the mount as a user would.
#[track_caller]
pub(crate) fn shell(folder: &Path, script: &str) -> String {
    let done = Command::new("bash").args(["-euc", script]).current_dir(folder).output().unwrap();
    assert!(done.status.success(), "{script}: {done:#?}");
    String::from_utf8(done.stdout).unwrap()
}

#[track_caller]
fn expect_hex(value: &Value, digits: usize) {
    let text = value.as_str().unwrap_or_else(|| panic!("no text: {value}"));
    assert!(text.len() == digits && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')), "{text}");
}

/// Seconds of an RFC 3339 time lie in this century, in UTC.
#[track_caller]
fn expect_time(value: &Value) {
    let text = value.as_str().unwrap_or_else(|| panic!("no time: {value}"));
    assert!(text.starts_with("20") && text.as_bytes()[10] == b'T' && text.ends_with('Z'), "{text}");
}

/// The lines of the log of one path, newest first, each with all fields that the contract names.
#[track_caller]
fn log(root: &TestRoot, target: &str) -> Vec<Value> {
    let lines = root.run(&format!("--json log {target}")).expect(0).json_lines();
    let fields = [
        "v", "index", "txid", "block", "status", "time", "author", "op", "bucket", "path", "from", "kind", "target",
        "size", "mode", "blake3", "sha256", "cause", "evidence",
    ];
    for line in &lines {
        for field in fields {
            assert!(line.get(field).is_some(), "no {field} in {line}");
        }
        assert_eq!((&line["v"], &line["bucket"]), (&json!(1), &json!("docs")));
        expect_hex(&line["txid"], 64);
        expect_time(&line["time"]);
        assert!(line["author"].as_str().is_some_and(|author| !author.is_empty()), "{line}");
    }
    lines
}

fn ops(lines: &[Value]) -> Vec<&str> {
    lines.iter().map(|line| line["op"].as_str().unwrap()).collect()
}

/// Copied, unpacked, moved, removed, linked, appended: what programs do all day.
fn work_in(mount: &Path, sources: &Path) {
    let src = sources.display();
    shell(mount, &format!("cp -r {src} tree && diff -r {src} tree"));
    shell(mount, &format!("tar -C {src} -cf packed.tar . && mkdir unpacked && tar -C unpacked -xf packed.tar"));
    shell(mount, &format!("diff -r {src} unpacked"));
    shell(mount, "mv unpacked moved && mv packed.tar moved/ && rm moved/packed.tar && rm -r moved/loopback");
    shell(mount, "ln -s tree/lib.rs link && ln tree/lib.rs hard && echo one >notes && echo two >>notes");
    // As vim does, and as emacs does.
    shell(mount, "echo first >edited && mv edited edited~ && echo second >edited && rm edited~");
    let temporary = mount.join(".saved.swp");
    let mut file = File::create(&temporary).unwrap();
    file.write_all(b"saved\n").unwrap();
    file.sync_all().unwrap();
    drop(file);
    fs::rename(temporary, mount.join("saved")).unwrap();
}

#[test]
fn the_first_day() {
    let Some(root) = TestRoot::with_fuse() else { return };
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("fs/src");
    let created = root.run("create docs").expect(0);
    assert!(created.stderr.contains("bucket docs created") && created.stderr.contains("hint: "), "{created:?}");
    root.run("mount docs").expect(0);
    let mount = root.mnt("docs", "");
    work_in(&mount, &sources);
    fs::write(mount.join("large"), vec![b'w'; 100_000]).unwrap();

    let synced = root.run("sync --json").expect(0).json();
    assert_eq!((&synced["v"], &synced["open_writers"]), (&json!(1), &json!([])));
    expect_logged(&root, &sources);
    let fold = root.expect_log_is_backing("docs");
    assert_eq!(fold.causes.keys().collect::<Vec<_>>(), ["mount"]);

    let summary = &root.run("verify docs --json").expect(0).json_lines()[0];
    assert_eq!((&summary["type"], &summary["exit"], &summary["pending"]), (&json!("summary"), &json!(0), &json!(0)));
    assert_eq!(summary["files"], summary["ok"]);
    assert!(root.run("verify docs").expect(0).stdout.contains("all match the ledger"));
    expect_damage_found(&root);
    expect_integrity(&root, synced["height"].as_u64().unwrap());
    for mounted in [true, false] {
        if !mounted {
            let unmounted = root.run("unmount docs --json").expect(0).json();
            assert_eq!((&unmounted["v"], &unmounted["bucket"]), (&json!(1), &json!("docs")));
            root.expect_no_node();
        }
        put_get_remove(&root);
        expect_status(&root, mounted);
    }
    root.run("verify docs").expect(0);
    let deleted = root.run("delete docs --json").expect(0).json();
    assert_eq!((&deleted["bucket"], &deleted["released"]), (&json!("docs"), &Value::Null));
    expect_hex(&deleted["txid"], 64);
    assert_eq!(root.run("list --json").expect(0).json(), json!({"v": 1, "buckets": []}));
    assert!(root.mounts().is_empty());
}

/// Each operation is on the ledger as what it was.
fn expect_logged(root: &TestRoot, sources: &Path) {
    let source = fs::read(sources.join("lib.rs")).unwrap();
    let hash = blake3::hash(&source).to_hex().to_string();
    let put = &log(root, "docs/tree/lib.rs")[0];
    assert_eq!((&put["op"], &put["kind"], &put["cause"]), (&json!("put"), &json!("file"), &json!("mount")));
    assert_eq!((&put["size"], &put["blake3"], &put["status"]), (&json!(source.len()), &json!(hash), &json!("final")));
    assert!(put["block"].is_u64() && put["index"].is_u64() && put["mode"].is_u64(), "{put}");
    assert!(matches!(put["evidence"].as_str(), Some("lease" | "stat")), "{put}");
    expect_hex(&put["sha256"], 64);

    let hard = &log(root, "docs/hard")[0];
    assert_eq!((&hard["op"], &hard["blake3"]), (&put["op"], &put["blake3"]));
    let link = &log(root, "docs/link")[0];
    assert_eq!(
        (&link["op"], &link["kind"], &link["target"]),
        (&json!("put"), &json!("symlink"), &json!("tree/lib.rs"))
    );
    let moved = log(root, "docs/moved");
    let rename = moved.iter().find(|line| line["op"] == "rename" && line["path"] == "moved").unwrap();
    assert_eq!(rename["from"], "unpacked");
    assert!(moved.iter().any(|line| line["op"] == "rmdir" && line["path"] == "moved/loopback"), "{moved:#?}");
    assert!(moved.iter().any(|line| line["op"] == "remove" && line["path"] == "moved/packed.tar"), "{moved:#?}");
    for (path, content) in [("notes", "one\ntwo\n"), ("edited", "second\n"), ("saved", "saved\n")] {
        let newest = &log(root, &format!("docs/{path}"))[0];
        let hash = blake3::hash(content.as_bytes()).to_hex().to_string();
        assert_eq!((&newest["op"], &newest["blake3"]), (&json!("put"), &json!(hash)), "{path}");
    }
    assert_eq!(ops(&log(root, "docs/saved")), ["put"], "one put of the final name");
    assert_eq!(log(root, "docs -n 3").len(), 3);
    let whole = root.run("log --json").expect(0).json_lines();
    assert!(whole.iter().any(|line| line["op"] == "coinbase"), "the whole chain has its coinbases");
}

/// Edited behind the mount: found, named, with the range, also when the times do not tell.
fn expect_damage_found(root: &TestRoot) {
    let backing = root.path("buckets/docs/data/large");
    let before = fs::metadata(&backing).unwrap().modified().unwrap();
    let file = File::options().write(true).open(&backing).unwrap();
    file.write_all_at(b"X", 70_000).unwrap();
    file.set_modified(before).unwrap();
    drop(file);
    let shown = root.run("verify docs").expect(26);
    assert!(shown.stdout.contains("docs/large") && shown.stdout.contains("65536-81919"), "{shown:?}");
    let lines = root.run("verify docs --json").expect(26).json_lines();
    assert_eq!((&lines[0]["type"], &lines[0]["path"]), (&json!("damaged"), &json!("large")));
    assert_eq!((&lines[0]["ranges"], &lines[0]["fields"]), (&json!([[65536, 81919]]), &json!(["content"])));
    assert_ne!(lines[0]["expected"], lines[0]["found"]);
    expect_hex(&lines[0]["found"], 64);
    let summary = lines.last().unwrap();
    assert_eq!((&summary["damaged"], &summary["exit"], lines.len()), (&json!(1), &json!(26), 2));
    let file = File::options().write(true).open(&backing).unwrap();
    file.write_all_at(b"w", 70_000).unwrap();
    drop(file);
    root.run("verify docs").expect(0);
}

fn expect_integrity(root: &TestRoot, height: u64) {
    let report = root.run("integrity --json").expect(0).json();
    assert_eq!((&report["v"], &report["ok"], &report["exit"]), (&json!(1), &json!(true), &json!(0)));
    assert_eq!((&report["problems"], &report["erased"]), (&json!([]), &json!(0)));
    assert!(report["height"].as_u64().unwrap() >= height && report["transactions"].as_u64().unwrap() > 10, "{report}");
    assert!(!root.run("integrity").expect(0).stdout.is_empty());
}

fn put_get_remove(root: &TestRoot) {
    fs::write(root.outside().join("FILE"), "put and got").unwrap();
    let hash = blake3::hash(b"put and got").to_hex().to_string();
    let put = root.run("put FILE docs --json").expect(0).json();
    assert_eq!((&put["v"], &put["bucket"], &put["path"]), (&json!(1), &json!("docs"), &json!("FILE")));
    assert_eq!((&put["size"], &put["blake3"]), (&json!(11), &json!(hash)));
    assert!(matches!(put["status"].as_str(), Some("pending" | "final")), "{put}");
    expect_hex(&put["sha256"], 64);
    expect_hex(&put["txid"], 64);
    let got = root.run("get FILE docs GOT --json").expect(0).json();
    assert_eq!((&got["verified"], &got["blake3"], &got["txid"]), (&json!(true), &put["blake3"], &put["txid"]));
    assert_eq!(fs::read(root.outside().join("GOT")).unwrap(), b"put and got");
    root.run("get FILE docs GOT").expect(11);
    fs::remove_file(root.outside().join("GOT")).unwrap();
    let removed = root.run("remove FILE docs --json").expect(0).json();
    assert_eq!(removed["path"], "FILE");
    root.run("get FILE docs GOT").expect(11);
    assert!(!walk(&root.path("buckets/docs/data")).contains_key(&b"FILE"[..]));
    // Aliases.
    root.run("p FILE docs/copy/").expect(0);
    assert_eq!(root.run("g copy/FILE docs -").expect(0).stdout, "put and got");
    root.run("r copy/FILE docs").expect(0);
    root.run("sync").expect(0);
}

fn expect_status(root: &TestRoot, mounted: bool) {
    let status = root.run("status --json").expect(0).json();
    assert_eq!((&status["v"], &status["node"]["running"]), (&json!(1), &json!(mounted)));
    assert_eq!(status["node"]["pid"].is_u64(), mounted, "{status}");
    assert_eq!((&status["node"]["rest"], &status["node"]["grpc"]), (&Value::Null, &Value::Null), "ports are off");
    let ledger = &status["ledger"];
    assert!(ledger["vkey"].as_str().is_some_and(|vkey| vkey.split('+').count() >= 3), "{ledger}");
    assert!(ledger["height"].as_u64() > Some(0) && ledger["transactions"].as_u64() > Some(0), "{ledger}");
    assert_eq!((&ledger["pending"], &ledger["unsettled"]), (&json!(0), &json!(0)));
    expect_hex(&ledger["head"], 64);
    let bucket = &status["buckets"][0];
    let state = if mounted { "mounted" } else { "unmounted" };
    assert_eq!((&bucket["origin"], &bucket["kind"]), (&json!("docs"), &json!("loopback")));
    assert_eq!((bucket["state"].as_str(), bucket["mountpoint"].is_string()), (Some(state), mounted));
    assert_eq!(root.run("list --json").expect(0).json()["buckets"], status["buckets"]);

    let entries = root.run("ls docs --json").expect(0).json();
    let found = entries["entries"].as_array().unwrap();
    let entry =
        |path: &str| found.iter().find(|entry| entry["path"] == path).unwrap_or_else(|| panic!("{path}: {found:#?}"));
    let notes = entry("notes");
    assert_eq!((&notes["kind"], &notes["size"]), (&json!("file"), &json!(8)));
    expect_time(&notes["modified"]);
    expect_hex(&notes["blake3"], 64);
    assert!(notes["block"].is_u64() && notes["mode"].is_u64(), "{notes}");
    assert_eq!((&entry("link")["kind"], &entry("tree")["kind"]), (&json!("symlink"), &json!("directory")));
    assert_eq!(entry("tree")["blake3"], Value::Null);
    for (line, word) in [("status", "docs"), ("list", "docs"), ("list docs", "notes"), ("log docs -n 2", "WHEN")] {
        assert!(root.run(line).expect(0).stdout.contains(word), "{line}");
    }
}
