//! Clients that mean harm, or are broken: the node goes on serving the others, and nobody gets out of a bucket.

use crate::rest::Service;
use crate::root::{PATIENCE, TestRoot};
use crate::uploads::walk;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

/// A node that answers in this time is not held up: a slow body may take longer than that.
const AT_ONCE: Duration = PATIENCE;

fn connect(rest: &Service) -> TcpStream {
    let stream = TcpStream::connect(&rest.address).unwrap();
    stream.set_write_timeout(Some(AT_ONCE)).unwrap();
    stream
}

#[track_caller]
fn expect_serving(rest: &Service) {
    let start = Instant::now();
    rest.store("served", b"still");
    assert_eq!(rest.bytes("/v1/buckets/docs/files/served").2, b"still");
    assert!(start.elapsed() < AT_ONCE, "{:?}", start.elapsed());
}

/// Status of whatever comes; none when the connection is closed without.
fn status(stream: &mut TcpStream) -> Option<u16> {
    let mut reply = Vec::new();
    drop(stream.read_to_end(&mut reply));
    String::from_utf8_lossy(&reply).split(' ').nth(1)?.parse().ok()
}

#[test]
fn slow_bodies_header_floods_and_half_closed_connections_leave_the_node_serving() {
    let rest = Service::start(TestRoot::new());
    rest.root.run("create docs").expect(0);

    // More slow uploads than are served at once, and slow bodies of other kinds.
    let mut held = Vec::new();
    for number in 0..40 {
        let mut stream = connect(&rest);
        let head = match number % 4 {
            0 => format!(
                "PUT /v1/buckets/docs/files/slow{number} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\nx"
            ),
            1 => "POST /buckets HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\n{".to_owned(),
            2 => "GET /v1/status HTTP/1.1\r\nHost: localho".to_owned(),
            _ => "POST /buckets/docs/put HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n"
                .to_owned(),
        };
        stream.write_all(head.as_bytes()).unwrap();
        held.push(stream);
    }
    expect_serving(&rest);

    // Fields without end: refused before they are taken in.
    for field in [format!("X: {}\r\n", "y".repeat(1000)), "A: b\r\n".to_owned()] {
        let mut stream = connect(&rest);
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n").unwrap();
        let mut sent = 0;
        while stream.write_all(field.as_bytes()).is_ok() && sent < 64 << 20 {
            sent += field.len();
        }
        assert!(sent < 32 << 20, "{sent} bytes of fields were taken");
        assert!(matches!(status(&mut stream), None | Some(431 | 400)), "a flood is answered");
    }
    let mut stream = connect(&rest);
    stream
        .write_all(format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "x".repeat(200_000)).as_bytes())
        .unwrap_or(());
    assert!(matches!(status(&mut stream), None | Some(414 | 431 | 400)));

    // Half closed: some get their answer, some are hung up on; none stays.
    for _ in 0..100 {
        let mut stream = connect(&rest);
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        assert!(matches!(status(&mut stream), None | Some(200)));
    }
    expect_serving(&rest);
    drop(held);
    expect_serving(&rest);
    let data = rest.root.path("buckets/docs/data");
    rest.root.wait_for("the end of the uploads", || walk(&data) == ["served"]);
    rest.root.run("verify docs").expect(0);
}

#[test]
fn a_client_that_does_not_say_what_it_wants_is_hung_up_on() {
    let rest = Service::start(TestRoot::new());
    let mut stream = connect(&rest);
    stream.write_all(b"GET /healthz HT").unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let start = Instant::now();
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply).unwrap();
    assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
}

#[test]
fn no_path_leads_out_of_a_bucket_in_any_encoding() {
    let rest = Service::start(TestRoot::new());
    rest.root.run("create docs").expect(0);
    rest.root.run("create other").expect(0);
    std::fs::write(rest.root.outside().join("secret"), "secret").unwrap();
    std::fs::create_dir(rest.root.path("buckets/docs/data/d")).unwrap();
    std::os::unix::fs::symlink(rest.root.outside(), rest.root.path("buckets/docs/data/out")).unwrap();
    let before = std::fs::read_dir(rest.root.outside()).unwrap().count();
    let up = "%2e%2e%2f".repeat(4);
    let paths = [
        "../../../../secret".to_owned(),
        "%2e%2e/%2e%2e/%2e%2e/%2e%2e/secret".to_owned(),
        format!("{up}secret"),
        format!("d/{up}{up}secret"),
        "%2fetc%2fpasswd".to_owned(),
        "//etc/passwd".to_owned(),
        "..%5c..%5csecret%00".to_owned(),
        "a%00b".to_owned(),
        "%c0%ae%c0%ae/%c0%ae%c0%ae/secret".to_owned(),
        "%252e%252e%252fsecret".to_owned(),
        "./secret".to_owned(),
        "d/./../../../secret".to_owned(),
        "out/secret".to_owned(),
        "x".repeat(300),
        "d/".repeat(9000),
    ];
    for path in &paths {
        for route in
            ["/v1/buckets/docs/files/", "/buckets/docs/files/", "/v1/buckets/docs/entries/", "/v1/buckets/docs/log/"]
        {
            let (status, _, body) = rest.exchange("GET", &format!("{route}{path}"), "", b"");
            let body = String::from_utf8_lossy(&body);
            let refused = (400..500).contains(&status) || (route.ends_with("/log/") && body.trim() == "0");
            assert!(refused && !body.contains("root:") && !body.ends_with("secret"), "{route}{path}: {status} {body}");
        }
        let (status, _, _) = rest.exchange("DELETE", &format!("/buckets/docs/files/{path}"), "", b"");
        assert!((400..500).contains(&status), "{path}: {status}");
        let (status, _, _) = rest.exchange("PUT", &format!("/v1/buckets/docs/files/{path}"), "", b"mine");
        // Names that are odd but allowed stay in the bucket.
        assert!(status < 500, "{path}: {status}");
        let form = format!(
            "--b\r\nContent-Disposition: form-data; name=\"filename\"; filename=\"{}\"\r\n\r\nmine\r\n--b--\r\n",
            "../".repeat(4) + "secret"
        );
        let head = "Content-Type: multipart/form-data; boundary=b\r\n";
        assert_eq!(rest.exchange("POST", "/buckets/docs/putfile", head, form.as_bytes()).0, 400);
        let name = serde_json::json!({"data": {"name": "../".repeat(4) + "secret", "content": "mine"}}).to_string();
        assert_eq!(rest.ask("POST", "/buckets/docs/put", "", &name).0, 400);
    }
    for bucket in ["..", "%2e%2e", "docs%2f..%2fother", ".", "%00", "docs%20"] {
        let (status, _) = rest.ask("GET", &format!("/v1/buckets/{bucket}/check"), "", "");
        assert!((400..500).contains(&status), "{bucket}: {status}");
    }
    assert_eq!(std::fs::read_to_string(rest.root.outside().join("secret")).unwrap(), "secret");
    assert_eq!(std::fs::read_dir(rest.root.outside()).unwrap().count(), before);
}

#[test]
fn bodies_have_limits() {
    let rest = Service::start(TestRoot::new());
    let large = "x".repeat((2 << 20) + 100);
    let (status, body) = rest.ask("POST", "/buckets", "", &large);
    assert_eq!((status, body.contains("\"status\":413")), (413, true), "{body}");
    let (status, body) = rest.ask("POST", "/v1/buckets", "", &large);
    assert_eq!((status, body.contains("\"kind\":\"too-large\"")), (413, true), "{body}");
}

#[test]
fn a_token_is_asked_for_where_there_is_one_and_tls_is_spoken() {
    let root = TestRoot::new();
    let token_file = root.outside().join("token");
    let rest = Service::start_with(root, &format!("--token-file {}", token_file.display()));
    let token = std::fs::read_to_string(&token_file).unwrap();
    let token = token.trim();
    assert_eq!(rest.ask("GET", "/healthz", "", "").0, 200);
    assert_eq!(rest.ask("GET", "/v1/status", "", "").0, 401);
    assert_eq!(rest.ask("GET", "/v1/status", "Authorization: Bearer wrong\r\n", "").0, 401);
    assert_eq!(rest.ask("GET", "/v1/status", &format!("Authorization: Bearer {token}\r\n"), "").0, 200);
    // The socket's owner needs none.
    rest.root.run("status").expect(0);
    rest.root.run("stop").expect(0);
    rest.root.expect_no_node();

    let rest = Service::start_with(rest.root, &format!("--tls --token-file {}", token_file.display()));
    let fingerprint = rest.root.run("status --json").expect(0).json()["node"]["tls"].as_str().unwrap().to_owned();
    let certificate = rest.root.path("tls/cert.pem");
    let curl = |args: &[&str]| {
        let mut curl = std::process::Command::new("curl");
        curl.args(["-s", "-o", "/dev/null", "-w", "%{http_code}"]).args(args);
        curl.arg(format!("https://{}/v1/status", rest.address)).output().unwrap()
    };
    let known = ["--cacert", certificate.to_str().unwrap(), "-H"];
    let answered = curl(&[known.as_slice(), &[&format!("Authorization: Bearer {token}")]].concat());
    assert_eq!(String::from_utf8_lossy(&answered.stdout), "200", "{answered:?}");
    assert_eq!(String::from_utf8_lossy(&curl(&[known.as_slice(), &["X: y"]].concat()).stdout), "401");
    assert!(!curl(&[]).status.success(), "an unknown certificate is refused by curl");
    let shown = std::process::Command::new("openssl")
        .args(["x509", "-noout", "-fingerprint", "-sha256", "-in"])
        .arg(&certificate)
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&shown.stdout).contains(&fingerprint), "{shown:?}");
    // Plain HTTP to it is no request.
    let mut stream = connect(&rest);
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    assert_eq!(status(&mut stream), None);
}

#[test]
fn an_address_for_others_is_refused_without_protection() {
    let root = TestRoot::new();
    for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:0"] {
        let refused = root.run(&format!("node --json --listen {address}")).expect(2);
        assert_eq!(refused.error(), (2, "usage".to_owned()), "{refused:?}");
        root.run(&format!("node --json --listen {address} --tls")).expect(2);
    }
    root.run_args(&["node", "--tls", "--name", "\u{e4}.example"]).expect(2);
    assert!(!root.path("node.sock").exists());
}

#[test]
fn the_certificate_is_for_the_address_that_clients_reach() {
    let root = TestRoot::new();
    root.run("node --listen 127.0.0.2:0 --tls").expect(0);
    let status = root.run("status --json").expect(0).json();
    let url = format!("https://{}/healthz", status["node"]["rest"].as_str().unwrap());
    let curl = ["-sS", "--fail", "--noproxy", "*", "--cacert", root.path("tls/cert.pem").to_str().unwrap(), &url]
        .map(str::to_owned);
    let ran = std::process::Command::new("curl").args(curl).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&ran.stdout), "ok\n", "{ran:?}");
    root.run("stop").expect(0);
}
