//! The curl lines of the original description, as they were written: port, quotes and all.

use crate::rest::Service;
use crate::root::TestRoot;
use std::process::Command;

/// From its chapter on the REST API; `/PATH` is where the test keeps its files.
const CREATE: &str = r#"curl -X POST localhost:13000/buckets -d '{"data":{"origin":"ORIGIN"}}'"#;
const DELETE: &str = "curl -X DELETE localhost:13000/buckets/ORIGIN";
const MOUNT: &str = "curl -X POST localhost:13000/buckets/ORIGIN/mount";
const UNMOUNT: &str = "curl -X POST localhost:13000/buckets/ORIGIN/unmount";
const PUT: &str = r#"curl -F "filename=@/PATH/FILE" -X POST localhost:13000/buckets/ORIGIN/putfile"#;
const GET: &str = "curl -X GET localhost:13000/buckets/ORIGIN/files/FILE --output /PATH/FILE";
const REMOVE: &str = "curl -X DELETE localhost:13000/buckets/ORIGIN/files/FILE";

/// Run a line. Port 13000 may be somebody else's, so curl is told to connect to this node for it; what it sends is the same.
fn run(rest: &Service, line: &str) -> String {
    let home = rest.root.outside();
    let elsewhere = format!("silent\nshow-error\nconnect-to = \"localhost:13000:{}\"\n", rest.address);
    std::fs::write(home.join(".curlrc"), elsewhere).unwrap();
    let line = line.replace("/PATH", home.to_str().unwrap());
    let output = Command::new("sh").args(["-c", &line]).env("HOME", home).env_remove("CURL_HOME").output().unwrap();
    assert!(output.status.success(), "{line}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_lines_of_the_original_description_work_as_written() {
    let Some(root) = TestRoot::with_fuse() else { return };
    let rest = Service::start(root);
    let check = |line: &str, text: &str| {
        let expect =
            format!("{{\"success\":true,\"message\":\"{text}\",\"bucket\":{{\"data\":{{\"origin\":\"ORIGIN\"}}}}}}\n");
        assert_eq!(run(&rest, line), expect, "{line}");
    };
    let file = rest.root.outside().join("FILE");
    let content: Vec<u8> = (0..3_000_000_u32).map(|i| (i % 253) as u8).collect();
    check(CREATE, "Bucket was created!");
    check(MOUNT, "Bucket was mounted!");
    std::fs::write(&file, &content).unwrap();
    check(PUT, "File FILE was upload to Bucket!");
    assert!(std::fs::read(rest.root.mnt("ORIGIN", "FILE")).unwrap() == content);
    std::fs::remove_file(&file).unwrap();
    assert_eq!(run(&rest, GET), "");
    assert!(std::fs::read(&file).unwrap() == content);
    check(REMOVE, "File FILE was removed from Bucket!");
    check(UNMOUNT, "Bucket was unmounted!");
    check(DELETE, "Bucket was deleted!");
    let refused = run(&rest, DELETE);
    assert!(refused.contains("\"status\":404,\"exitcode\":6"), "{refused}");
}
