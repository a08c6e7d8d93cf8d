//! The services on TCP: the predecessor's routes as curl used them, and who is refused.

use crate::root::TestRoot;
use std::io::{Read, Write};
use std::net::TcpStream;

/// A node on a free port.
pub(crate) struct Service {
    pub(crate) root: TestRoot,
    pub(crate) address: String,
}

impl Service {
    pub(crate) fn start(root: TestRoot) -> Service {
        Service::start_with(root, "")
    }

    /// The same with further flags.
    pub(crate) fn start_with(root: TestRoot, flags: &str) -> Service {
        root.run(&format!("node --listen 127.0.0.1:0 {flags}")).expect(0);
        let address = root.run("status --json").expect(0).json()["node"]["rest"].as_str().unwrap().to_owned();
        Service { root, address }
    }

    /// Status and body. `head` holds further header lines, each ended by CRLF.
    pub(crate) fn ask(&self, method: &str, path: &str, head: &str, body: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        let host = if head.contains("Host:") { String::new() } else { format!("Host: {}\r\n", self.address) };
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\n{host}{head}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
        );
        stream.write_all(request.as_bytes()).unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).unwrap();
        let (head, body) = reply.split_once("\r\n\r\n").unwrap();
        let is_chunked = head.to_lowercase().contains("transfer-encoding: chunked");
        let body = if is_chunked { joined(body) } else { body.to_owned() };
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.trim_end().to_owned())
    }

    /// Status, head in lower case, and body, which may be cut short. `head` holds further header lines, each ended by CRLF.
    pub(crate) fn exchange(&self, method: &str, path: &str, head: &str, body: &[u8]) -> (u16, String, Vec<u8>) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        let (host, length) = (&self.address, body.len());
        let start = format!(
            "{method} {path} HTTP/1.1\r\nHost: {host}\r\n{head}Content-Length: {length}\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(start.as_bytes()).unwrap();
        stream.write_all(body).unwrap();
        let mut reply = Vec::new();
        // A reply that is broken off may end with a reset.
        if let Err(e) = stream.read_to_end(&mut reply) {
            assert_eq!(e.kind(), std::io::ErrorKind::ConnectionReset, "{e}");
        }
        let end = reply.windows(4).position(|at| at == b"\r\n\r\n").unwrap();
        let head = String::from_utf8(reply[..end].to_vec()).unwrap().to_lowercase();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), head, reply[end + 4..].to_vec())
    }

    /// Status, head and body of a GET.
    pub(crate) fn bytes(&self, path: &str) -> (u16, String, Vec<u8>) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.address);
        stream.write_all(request.as_bytes()).unwrap();
        let mut reply = Vec::new();
        stream.read_to_end(&mut reply).unwrap();
        let end = reply.windows(4).position(|at| at == b"\r\n\r\n").unwrap();
        let head = String::from_utf8(reply[..end].to_vec()).unwrap().to_lowercase();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), head, reply[end + 4..].to_vec())
    }

    #[track_caller]
    pub(crate) fn check(&self, method: &str, path: &str, body: &str, expect: (u16, &str)) {
        let (status, reply) = self.ask(method, path, "", body);
        assert_eq!((status, reply.as_str()), expect, "{method} {path}");
    }
}

/// The chunks of a body of unknown length, in one.
fn joined(mut body: &str) -> String {
    let mut whole = String::new();
    while let Some((length, rest)) = body.split_once("\r\n") {
        let length = usize::from_str_radix(length, 16).unwrap();
        whole.push_str(&rest[..length]);
        body = rest[length..].strip_prefix("\r\n").unwrap();
    }
    whole
}

#[test]
fn the_predecessors_clients_still_work() {
    let Some(root) = TestRoot::with_fuse() else { return };
    let rest = Service::start(root);
    let origin = r#"{"data":{"origin":"O"}}"#;
    let done = |text: &str| format!(r#"{{"success":true,"message":"{text}","bucket":{{"data":{{"origin":"O"}}}}}}"#);
    rest.check("GET", "/", "", (200, "\"HOME\""));
    rest.check("GET", "/buckets/O/state", "", (200, r#"{"success":true,"created":false,"mounted":false}"#));
    rest.check("POST", "/buckets", origin, (201, &done("Bucket was created!")));
    assert_eq!(rest.ask("POST", "/buckets", "", origin).0, 409);
    rest.check("POST", "/buckets/O/mount", "", (200, &done("Bucket was mounted!")));
    let (status, again) = rest.ask("POST", "/buckets/O/mount", "", "");
    assert_eq!((status, again.contains(r#""exitcode":7"#)), (409, true), "{again}");
    rest.check("GET", "/buckets/O/state", "", (200, r#"{"success":true,"created":true,"mounted":true}"#));
    let file = r#"{"data":{"name":"F","content":"text"}}"#;
    rest.check("POST", "/buckets/O/put", file, (200, &done("File F was upload to Bucket!")));
    let nameless = rest.ask("POST", "/buckets/O/put", "", r#"{"data":{"name":"","content":"text"}}"#);
    assert_eq!(nameless.0, 400, "{nameless:?}");
    rest.check("GET", "/buckets/O/files/F", "", (200, "text"));
    assert_eq!(std::fs::read_to_string(rest.root.mnt("O", "F")).unwrap(), "text");
    rest.check("DELETE", "/buckets/O/files/F", "", (200, &done("File F was removed from Bucket!")));
    assert_eq!(rest.ask("GET", "/buckets/O/files/F", "", "").0, 404);
    rest.check("POST", "/buckets/O/unmount", "", (200, &done("Bucket was unmounted!")));
    rest.check("DELETE", "/buckets/O", "", (200, &done("Bucket was deleted!")));
    let missing = r#"{"data":{"error":"no bucket is called O","message":"Error: no bucket is called O. Exit code: 6","status":404,"exitcode":6}}"#;
    rest.check("DELETE", "/buckets/O", "", (404, missing));
    assert_eq!(rest.ask("POST", "/buckets", "", "nonsense").0, 400);
    assert_eq!(rest.ask("POST", "/buckets", "", r#"{"data":{"origin":"../x"}}"#).0, 400);
}

#[test]
fn foreign_pages_are_refused() {
    let rest = Service::start(TestRoot::new());
    assert_eq!(rest.ask("GET", "/healthz", "", "").0, 200);
    assert_eq!(rest.ask("GET", "/readyz", "", "").0, 200);
    for head in ["Host: evil.example\r\n", "Origin: http://evil.example\r\n", "Sec-Fetch-Site: cross-site\r\n"] {
        let (status, body) = rest.ask("POST", "/buckets", head, r#"{"data":{"origin":"O"}}"#);
        assert_eq!((status, body.contains("\"exit\":61")), (403, true), "{head}");
    }
    rest.check("GET", "/buckets/O/state", "", (200, r#"{"success":true,"created":false,"mounted":false}"#));
    assert_eq!(rest.ask("GET", "/v1/nothing", "", "").0, 404);
}

#[test]
fn the_log_is_served_as_tiles() {
    let rest = Service::start(TestRoot::new());
    rest.root.run("create docs").expect(0);
    std::fs::write(rest.root.outside().join("a"), "a").unwrap();
    rest.root.run("put a docs").expect(0);
    let (status, checkpoint) = rest.ask("GET", "/log/checkpoint", "", "");
    let size: usize = checkpoint.lines().nth(1).unwrap().parse().unwrap();
    assert_eq!(status, 200);
    let missing = |path: &str| assert_eq!(rest.ask("GET", path, "", "").0, 404, "{path}");
    missing("/log/tile/0/000");
    missing(&format!("/log/tile/0/000.p/{}", size + 1));
    missing("/log/tile/64/000.p/1");
    missing("/log/tile/0/0.p/1");
    missing("/log/tile/x/000.p/1");
    missing("/log/tile/entries/000");
    let (status, head, tile) = rest.bytes(&format!("/log/tile/0/000.p/{size}"));
    assert_eq!((status, tile.len()), (200, size * 32));
    assert!(head.contains("content-type: application/octet-stream"), "{head}");
    let (status, _, entries) = rest.bytes(&format!("/log/tile/entries/000.p/{size}"));
    assert_eq!(status, 200);
    let mut rest = entries.as_slice();
    for hash in tile.chunks(32) {
        let (length, after) = rest.split_first_chunk::<2>().unwrap();
        let (entry, after) = after.split_at(u16::from_be_bytes(*length).into());
        assert_eq!(wizefs_ledger::Hash::leaf(entry).0, hash);
        rest = after;
    }
    assert!(rest.is_empty());
}
