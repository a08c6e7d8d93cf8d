//! WebDAV requests that could cost files: those that are refused or fail leave everything as it was, and what is replaced is
//! replaced in one step.

use crate::rest::Service;
use crate::root::TestRoot;
use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;

/// A node with the buckets `docs` and `other`, and some files in them; the content of each is its path.
fn with_files() -> Service {
    let rest = Service::start_with(TestRoot::new(), "--grpc-listen off");
    rest.root.run("create docs").expect(0);
    rest.root.run("create other").expect(0);
    for path in
        ["docs/d/one", "docs/d/sub/two", "docs/e/three", "docs/keep", "docs/damaged", "other/keep", "other/d/four"]
    {
        let (bucket, below) = path.split_once('/').unwrap();
        assert_eq!(rest.ask("PUT", &format!("/v1/buckets/{bucket}/files/{below}"), "", path).0, 200, "{path}");
    }
    rest
}

/// Every file in a folder, with its content; but for what an upload that was given up has not cleared away yet.
fn files(folder: &Path, found: &mut BTreeMap<String, String>) {
    let paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    for path in paths.filter(|path| !path.file_name().unwrap().to_str().unwrap().starts_with(".wizefs-")) {
        match path.is_dir() {
            true => files(&path, found),
            false => drop(found.insert(path.to_str().unwrap().to_owned(), fs::read_to_string(&path).unwrap())),
        }
    }
}

/// All that may not change: the files, and the number of transactions.
fn state(rest: &Service) -> (BTreeMap<String, String>, usize) {
    let mut found = BTreeMap::new();
    for bucket in ["docs", "other"] {
        files(&rest.root.path(format!("buckets/{bucket}/data")), &mut found);
    }
    let changes = |bucket| rest.root.run(&format!("log {bucket} --json")).expect(0).stdout.lines().count();
    (found, changes("docs") + changes("other"))
}

impl Service {
    /// Status of a COPY or MOVE below `/dav`, with further header lines.
    #[track_caller]
    fn transfer(&self, method: &str, from: &str, to: &str, head: &str) -> u16 {
        let head = format!("Destination: http://{}{to}\r\n{head}", self.address);
        self.exchange(method, &format!("/dav/{from}"), &head, b"").0
    }

    /// Status of a PUT without Content-Length, in these chunks.
    fn put_in_chunks(&self, path: &str, head: &str, chunks: &[&str]) -> u16 {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        let start = format!("PUT /dav/{path} HTTP/1.1\r\nHost: {}\r\n{head}", self.address);
        let body: String = chunks.iter().map(|chunk| format!("{:x}\r\n{chunk}\r\n", chunk.len())).collect();
        let request = format!("{start}Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n{body}0\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).unwrap();
        reply.split(' ').nth(1).unwrap().parse().unwrap()
    }

    /// The token of a lock that is got with this status.
    #[track_caller]
    fn lock(&self, path: &str, status: u16) -> Option<String> {
        let wanted = r#"<?xml version="1.0"?><D:lockinfo xmlns:D="DAV:"><D:lockscope><D:exclusive/></D:lockscope><D:locktype><D:write/></D:locktype></D:lockinfo>"#;
        let (got, head, _) = self.exchange("LOCK", path, "Depth: 0\r\n", wanted.as_bytes());
        assert_eq!(got, status, "LOCK {path}: {head}");
        head.lines().find_map(|line| line.strip_prefix("lock-token: ")).map(str::to_owned)
    }
}

#[test]
fn what_is_refused_or_fails_leaves_everything_as_it_was() {
    let rest = with_files();
    fs::write(rest.root.path("buckets/docs/data/damaged"), "DOCS/damaged").unwrap();
    let before = state(&rest);
    let requests = [
        // Out of the bucket's files, and onto the bucket itself.
        ("MOVE", "docs/d/one", "/dav/docs/x/..", 400),
        ("COPY", "docs/d/one", "/dav/docs/x/..", 400),
        ("COPY", "docs/d/one", "/dav/docs/.", 400),
        ("COPY", "docs/d/one", "/dav/docs/%2e/?x", 400),
        ("COPY", "docs/d/one", "/dav/docs/d/%2e%2e/%2E%2e/other/d", 400),
        ("COPY", "docs/d/one", "/dav/./docs", 400),
        ("COPY", "docs/d/one", "/dav//docs", 400),
        ("COPY", "docs/d/one", "/dav/x/..", 400),
        ("MOVE", "docs/d/one", "/dav/x/..", 400),
        ("MOVE", "docs/d/one", "/dav/other/d//x", 400),
        ("MOVE", "docs/d/one", "/dav/docs/", 403),
        ("MOVE", "docs/d/one", "/dav", 403),
        ("MOVE", "docs/d/one", "/v1/buckets/docs/files/new", 403),
        ("COPY", "docs/d/one", "", 403),
        // The same, or one in the other.
        ("COPY", "docs/d/one", "/dav/docs/d", 403),
        ("MOVE", "docs/d/one", "/dav/docs/d/", 403),
        ("MOVE", "docs/d", "/dav/docs/d/sub", 403),
        ("COPY", "docs/d/", "/dav/docs/%64/sub", 403),
        ("COPY", "docs/d/one", "/dav/docs/d/one", 403),
        ("MOVE", "docs/d", "/dav/docs/d/", 403),
        // What cannot be done.
        ("MOVE", "docs/keep", "/dav/other/keep", 502),
        ("MOVE", "docs/d", "/dav/other/d", 502),
        ("COPY", "docs/damaged", "/dav/other/keep", 500),
        ("COPY", "docs/damaged", "/dav/other/d", 500),
        ("COPY", "docs/none", "/dav/other/keep", 404),
        ("MOVE", "docs/none", "/dav/docs/d", 404),
        ("COPY", "docs/keep", "/dav/none/keep", 409),
        ("MOVE", "docs/keep", "/dav/docs/none/keep", 409),
        // A bucket by other names.
        ("DELETE", "./docs", "", 400),
        ("DELETE", "%2e/docs", "", 400),
        ("DELETE", "/docs", "", 400),
        ("DELETE", "docs/%2e", "", 400),
        ("DELETE", "docs/", "", 403),
    ];
    for (method, from, to, status) in requests {
        assert_eq!(rest.transfer(method, from, to, ""), status, "{method} {from} {to}");
        assert_eq!(state(&rest), before, "{method} {from} {to}");
    }
    for head in ["", "Destination: \r\n", "Destination: http://[/\r\n"] {
        assert_eq!(rest.exchange("MOVE", "/dav/docs/keep", head, b"").0, 400, "{head}");
    }
    std::os::unix::fs::symlink("keep", rest.root.path("buckets/docs/data/link")).unwrap();
    assert_eq!(rest.transfer("COPY", "docs/d/one", "/dav/docs/link", "Overwrite: F\r\n"), 409);
    fs::remove_file(rest.root.path("buckets/docs/data/link")).unwrap();
    assert_eq!(state(&rest), before);
    let log = fs::read_to_string(rest.root.path("node.log")).unwrap();
    assert!(!log.contains("panic"), "{log}");
}

#[test]
fn a_file_is_replaced_in_one_step_and_only_where_that_is_wanted() {
    let rest = with_files();
    let before = state(&rest).1;
    let text = |path: &str| String::from_utf8(rest.bytes(&format!("/dav/{path}")).2).unwrap();
    let refused = "Overwrite: F\r\n";
    assert_eq!(rest.transfer("COPY", "docs/d/one", "/dav/docs/keep", refused), 412);
    assert_eq!(rest.transfer("MOVE", "docs/d/one", "/dav/docs/keep", refused), 412);
    assert_eq!(rest.transfer("COPY", "docs/d/one", "/dav/docs/new%20%5Bone%5D", refused), 201);
    assert_eq!(rest.transfer("COPY", "docs/d/one", "/dav/other/keep", ""), 204);
    assert_eq!(rest.transfer("MOVE", "docs/d/one", "/dav/docs/keep", ""), 204);
    assert_eq!(rest.transfer("MOVE", "docs/keep", "/dav/docs/moved", ""), 201);
    assert_eq!(state(&rest).1, before + 4, "each is one change: nothing was removed before");
    for path in ["docs/new%20%5bone%5d", "other/keep", "docs/moved"] {
        assert_eq!(text(path), "docs/d/one", "{path}");
    }
    for path in ["docs/d/one", "docs/keep"] {
        assert_eq!(rest.bytes(&format!("/dav/{path}")).0, 404, "{path}");
    }
    // Folders give way, too.
    assert_eq!(rest.transfer("COPY", "docs/d", "/dav/other/d", ""), 204);
    assert_eq!(text("other/d/sub/two"), "docs/d/sub/two");
    assert_eq!(rest.bytes("/dav/other/d/four").0, 404);
    assert_eq!(rest.transfer("COPY", "docs/moved", "/dav/docs/e", ""), 204);
    assert_eq!(text("docs/e"), "docs/d/one");
    assert_eq!(rest.transfer("MOVE", "docs/d", "/dav/docs/e", ""), 204);
    assert_eq!(text("docs/e/sub/two"), "docs/d/sub/two");
    rest.root.run("verify docs").expect(0);
    rest.root.run("verify other").expect(0);
}

#[test]
fn a_lock_holds_also_where_nothing_was() {
    let rest = with_files();
    rest.lock("/dav/docs/none/new", 409);
    rest.lock("/dav/new", 403);
    let token = rest.lock("/dav/docs/new", 201).unwrap();
    let (status, head, content) = rest.bytes("/dav/docs/new");
    assert_eq!((status, content.len()), (200, 0), "{head}");
    rest.lock("/dav/docs/new", 423);
    assert_eq!(rest.ask("PUT", "/dav/docs/new", "", "x").0, 423);
    for method in ["COPY", "MOVE"] {
        assert_eq!(rest.transfer(method, "docs/keep", "/dav/docs/new", ""), 423, "{method}");
    }
    assert_eq!(rest.transfer("MOVE", "docs/new", "/dav/docs/keep", ""), 423);
    let holder = format!("If: <http://{}/dav/docs/new> ({token})\r\n", rest.address);
    assert_eq!(rest.ask("PUT", "/dav/docs/new", &holder, "mine").0, 204);
    assert_eq!(rest.ask("UNLOCK", "/dav/docs/new", &format!("Lock-Token: {token}\r\n"), "").0, 204);
    assert_eq!(rest.bytes("/dav/docs/new").2, b"mine");

    // What is there already keeps its content.
    let token = rest.lock("/dav/docs/keep", 200).unwrap();
    assert_eq!(rest.bytes("/dav/docs/keep").2, b"docs/keep");
    let holder = format!("If: <http://{}/dav/docs/keep> ({token})\r\n", rest.address);
    assert_eq!(rest.transfer("MOVE", "docs/new", "/dav/docs/keep", &holder), 204);
    assert_eq!(rest.bytes("/dav/docs/keep").2, b"mine");
    rest.root.run("verify docs").expect(0);
}

#[test]
fn what_is_not_as_long_as_was_said_is_not_stored() {
    let rest = with_files();
    let before = state(&rest);
    let said = "X-Expected-Entity-Length: 5\r\n";
    for chunks in [&["abc"][..], &["abc", "defg"], &["abcde", "f"], &[]] {
        for path in ["docs/new", "docs/keep"] {
            assert_eq!(rest.put_in_chunks(path, said, chunks), 400, "{chunks:?}");
        }
        assert_eq!(state(&rest), before, "{chunks:?}");
    }
    assert_eq!(rest.put_in_chunks("docs/new", said, &["abc", "de"]), 201);
    assert_eq!(rest.put_in_chunks("docs/keep", "", &["abc", "defg"]), 204);
    assert_eq!(rest.bytes("/dav/docs/new").2, b"abcde");
    assert_eq!(rest.bytes("/dav/docs/keep").2, b"abcdefg");
}
