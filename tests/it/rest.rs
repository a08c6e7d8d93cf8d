//! The services on TCP: the predecessor's routes as curl used them, and who is refused.

use crate::root::TestRoot;
use std::io::{Read, Write};
use std::net::TcpStream;

/// A node on a free port.
struct Service {
    root: TestRoot,
    address: String,
}

impl Service {
    fn start(root: TestRoot) -> Service {
        root.run("node --listen 127.0.0.1:0").expect(0);
        let address = root.run("status --json").expect(0).json()["node"]["rest"].as_str().unwrap().to_owned();
        Service { root, address }
    }

    /// Status and body. `head` holds further header lines, each ended by CRLF.
    fn ask(&self, method: &str, path: &str, head: &str, body: &str) -> (u16, String) {
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
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.trim_end().to_owned())
    }

    #[track_caller]
    fn check(&self, method: &str, path: &str, body: &str, expect: (u16, &str)) {
        let (status, reply) = self.ask(method, path, "", body);
        assert_eq!((status, reply.as_str()), expect, "{method} {path}");
    }
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
