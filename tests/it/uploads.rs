//! Uploads: streamed, atomic, many at once, and none lost to a kill.

use crate::rest::Service;
use crate::root::TestRoot;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::{Barrier, Mutex};

/// Files that as many clients store at once.
const FILES: usize = 1000;

fn content(number: usize) -> Vec<u8> {
    format!("file {number} ").repeat(number % 50 + 1).into_bytes()
}

/// Status of a PUT, or nothing when the node went away over it.
fn put(address: &str, path: &str, body: &[u8]) -> Option<u16> {
    put_at(address, &format!("/v1/buckets/docs/files/{path}"), body)
}

fn put_at(address: &str, uri: &str, body: &[u8]) -> Option<u16> {
    let mut stream = TcpStream::connect(address).ok()?;
    let head =
        format!("PUT {uri} HTTP/1.1\r\nHost: {address}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    stream.write_all(head.as_bytes()).ok()?;
    stream.write_all(body).ok()?;
    let mut reply = String::new();
    stream.read_to_string(&mut reply).ok()?;
    reply.split(' ').nth(1)?.parse().ok()
}

/// Each of these files from a client of its own, all at once; the numbers of those that were confirmed. `each` hears of every
/// confirmation.
fn store_all(rest: &Service, numbers: &[usize], each: impl Fn(usize) + Sync) -> Vec<usize> {
    let (together, confirmed) = (Barrier::new(numbers.len()), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for number in numbers {
            let (together, confirmed, each) = (&together, &confirmed, &each);
            let client = move || {
                together.wait();
                let status = put(&rest.address, &format!("d{}/f{number}", number % 7), &content(*number));
                // Of a node that was killed, silence is the answer.
                assert!(matches!(status, None | Some(200)), "{number}: {status:?}");
                if status == Some(200) {
                    let mut confirmed = confirmed.lock().unwrap();
                    confirmed.push(*number);
                    each(confirmed.len());
                }
            };
            std::thread::Builder::new().stack_size(256 << 10).spawn_scoped(scope, client).unwrap();
        }
    });
    confirmed.into_inner().unwrap()
}

/// Every confirmed file is there as it was sent, and on the ledger.
fn expect_all(root: &TestRoot, confirmed: &[usize]) {
    let log = root.run_long("log docs --json").expect(0).json_lines();
    let put =
        |path: &str| log.iter().any(|line| line["op"] == "put" && line["path"] == path && line["status"] == "final");
    for number in confirmed {
        let path = format!("d{}/f{number}", number % 7);
        assert!(put(&path), "{path} is not on the ledger");
        let there = std::fs::read(root.path("buckets/docs/data").join(&path)).unwrap();
        assert!(there == content(*number), "{path} is not what was sent");
    }
    let verified = root.run_long("verify docs --json").expect(0).json_lines();
    let summary = verified.last().unwrap();
    assert!(summary["ok"].as_u64().unwrap() as usize >= confirmed.len(), "{summary}");
}

#[test]
fn a_thousand_puts_at_once_are_all_on_the_ledger() {
    let rest = Service::start(TestRoot::new());
    rest.root.run("create docs").expect(0);
    let confirmed = store_all(&rest, &Vec::from_iter(0..FILES), |_| ());
    assert_eq!(confirmed.len(), FILES);
    expect_all(&rest.root, &confirmed);
}

#[test]
fn a_thousand_puts_survive_a_kill_in_their_middle() {
    let rest = Service::start(TestRoot::new());
    rest.root.run("create docs").expect(0);
    let mut confirmed = store_all(&rest, &Vec::from_iter(0..FILES), |count| {
        if count == FILES / 3 {
            rest.root.signal(rustix::process::Signal::KILL);
        }
    });
    assert!(confirmed.len() >= FILES / 3 && confirmed.len() < FILES, "{}", confirmed.len());
    rest.root.expect_no_node();
    rest.root.run_long("sync").expect(0);
    expect_all(&rest.root, &confirmed);
    let left = walk(&rest.root.path("buckets/docs/data"));
    let strange: Vec<_> = left.iter().filter(|name| name.starts_with(".wizefs-")).collect();
    assert!(strange.is_empty(), "left behind: {strange:?}");

    // Clients that heard nothing ask the next node; then nothing is missing, and nothing is there that nobody sent.
    let rest = Service::start(rest.root);
    let unheard: Vec<usize> = (0..FILES).filter(|number| !confirmed.contains(number)).collect();
    confirmed.extend(store_all(&rest, &unheard, |_| ()));
    assert_eq!(confirmed.len(), FILES);
    expect_all(&rest.root, &confirmed);
    assert_eq!(walk(&rest.root.path("buckets/docs/data")).len(), FILES);
    rest.root.run_long("integrity").expect(0);
}

/// Every one of these puts of one path is on the ledger, and the last of them there is what the file holds.
#[track_caller]
fn check_one_path(create: &str, url: &str) {
    const PUTS: usize = 40;
    let rest = Service::start(TestRoot::new());
    rest.root.run(create).expect(0);
    let together = Barrier::new(PUTS);
    std::thread::scope(|scope| {
        for number in 0..PUTS {
            let (together, address) = (&together, &rest.address);
            scope.spawn(move || {
                together.wait();
                assert_eq!(put_at(address, &format!("{url}/f"), &content(number)), Some(200), "{number}");
            });
        }
    });
    let log = rest.root.run("log docs/f -n 100 --json").expect(0).json_lines();
    let mut told: Vec<_> = log.iter().map(|line| line["blake3"].as_str().unwrap()).collect();
    let (_, _, there) = rest.bytes("/v1/buckets/docs/files/f");
    assert_eq!(told[0], blake3::hash(&there).to_hex().as_str());
    told.sort_unstable();
    let mut sent = Vec::from_iter((0..PUTS).map(|number| blake3::hash(&content(number)).to_hex().to_string()));
    sent.sort_unstable();
    assert_eq!(told, sent);
    rest.root.run("verify docs").expect(0);
}

#[test]
fn forty_puts_of_one_path_at_once_are_all_on_the_ledger() {
    check_one_path("create docs", "/v1/buckets/docs/files");
    check_one_path("create docs --kind lz", "/v1/buckets/docs/files");
}

#[test]
fn a_part_of_a_file_does_not_replace_it() {
    let rest = Service::start(TestRoot::new());
    rest.root.run("create docs").expect(0);
    for url in ["/v1/buckets/docs/files/f", "/dav/docs/f"] {
        rest.ask("PUT", url, "", "all of it");
        for (field, status) in [("Content-Range: bytes 4-8/9", 400), ("Content-Encoding: gzip", 415)] {
            assert_eq!(rest.ask("PUT", url, &format!("{field}\r\n"), "part").0, status, "{url} {field}");
        }
        assert_eq!(rest.bytes("/v1/buckets/docs/files/f").2, b"all of it");
    }
}

/// Names of all files below a folder.
pub(crate) fn walk(folder: &std::path::Path) -> Vec<String> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            names.extend(walk(&entry.path()));
        } else {
            names.push(entry.file_name().into_string().unwrap());
        }
    }
    names
}

/// Most bytes of memory that the node has had.
fn most_memory(root: &TestRoot) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", root.node().unwrap().as_raw_nonzero())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

#[test]
fn long_texts_in_json_stream_in_little_memory() {
    let rest = Service::start(TestRoot::new());
    rest.root.run("create docs").expect(0);
    let line = "one line of ä text\n";
    let lines = (40 << 20) / line.len();
    let json = format!(r#"{{"data":{{"name":"long","content":"{}"}}}}"#, r"one line of \u00e4 text\n".repeat(lines));
    std::thread::scope(|scope| {
        for number in 0..4 {
            let json = json.replacen("long", &format!("long{number}"), 1);
            let rest = &rest;
            scope.spawn(move || {
                let (status, reply) = rest.ask("POST", "/buckets/docs/put", "", &json);
                assert_eq!((status, reply.contains("was upload")), (200, true), "{reply}");
            });
        }
    });
    let stored = std::fs::read(rest.root.path("buckets/docs/data/long3")).unwrap();
    assert!(stored == line.repeat(lines).as_bytes());
    assert!(most_memory(&rest.root) < 100_000_000, "{}", most_memory(&rest.root));
    // One that is broken in the end stores nothing.
    let broken = format!("{},", json.trim_end_matches('}').replacen("long", "broken", 1));
    let (status, reply) = rest.ask("POST", "/buckets/docs/put", "", &broken);
    assert_eq!((status, reply.contains(r#""exitcode":2"#)), (400, true), "{reply}");
    assert!(!rest.root.path("buckets/docs/data/broken").exists());
    rest.root.run_long("verify docs").expect(0);
}

#[test]
fn an_upload_that_breaks_off_changes_nothing() {
    let rest = Service::start(TestRoot::new());
    rest.root.run("create docs").expect(0);
    rest.store("f", b"before");
    let forms = [
        "PUT /v1/buckets/docs/files/f HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nafter",
        "PUT /v1/buckets/docs/files/f HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nafter\r\n",
        "POST /buckets/docs/putfile HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=b\r\n\
         Content-Length: 1000\r\n\r\n--b\r\nContent-Disposition: form-data; name=\"filename\"; filename=\"f\"\r\n\r\nafter",
    ];
    for form in forms {
        let mut stream = TcpStream::connect(&rest.address).unwrap();
        stream.write_all(form.as_bytes()).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut reply = Vec::new();
        // The node may answer or hang up.
        drop(stream.read_to_end(&mut reply));
        assert!(!reply.starts_with(b"HTTP/1.1 200"), "{form}");
        assert_eq!(rest.bytes("/v1/buckets/docs/files/f").2, b"before");
    }
    rest.root.wait_for("the end of the uploads", || walk(&rest.root.path("buckets/docs/data")) == ["f"]);
    rest.root.run("verify docs").expect(0);
}

#[test]
fn a_form_whose_parts_do_not_begin_is_not_held_in_memory() {
    let rest = Service::start(TestRoot::new());
    rest.root.run("create docs").expect(0);
    let head = "POST /buckets/docs/putfile HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=b\r\n\
                Content-Length: 900000000\r\n\r\n";
    let part = "--b\r\nContent-Disposition: form-data; name=\"filename\"; filename=\"f\"\r\n";
    for begin in ["before the first part".to_owned(), format!("{part}X: "), format!("{part}\r\ncontent\r\n--b\r\nX: ")]
    {
        let mut stream = TcpStream::connect(&rest.address).unwrap();
        stream.write_all(format!("{head}{begin}").as_bytes()).unwrap();
        let piece = [b'y'; 1 << 16];
        // The kernel takes some megabytes that nobody reads.
        let sent = (0..1000).take_while(|_| stream.write_all(&piece).is_ok()).count();
        assert!(sent < 500, "{begin:?}: all was taken");
    }
    // What is understood may be long.
    let content = b"\r\n-".repeat(1 << 20);
    let other = [b"--b\r\nContent-Disposition: form-data; name=\"x\"\r\n\r\n", &content[..], b"\r\n"].concat();
    let form = [&other[..], part.as_bytes(), b"\r\n", &content, b"\r\n", &other, b"--b--\r\n"].concat();
    let kind = "Content-Type: multipart/form-data; boundary=b\r\n";
    assert_eq!(rest.exchange("POST", "/buckets/docs/putfile", kind, &form).0, 200);
    assert!(rest.bytes("/v1/buckets/docs/files/f").2 == content);
    // And in pieces of a byte.
    let form = format!("{part}\r\n\r\n--b--\r\n");
    let body: String = form.chars().map(|byte| format!("1\r\n{byte}\r\n")).collect();
    let kind = format!("{kind}Transfer-Encoding: chunked\r\nConnection: close\r\n");
    let mut stream = TcpStream::connect(&rest.address).unwrap();
    let request = format!("POST /buckets/docs/putfile HTTP/1.1\r\nHost: localhost\r\n{kind}\r\n{body}0\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    assert!(reply.starts_with("HTTP/1.1 200"), "{reply}");
    assert_eq!(rest.bytes("/v1/buckets/docs/files/f").2, b"");
}

#[test]
fn what_cannot_be_read_to_its_end_is_not_stored_and_nobody_elses_fault() {
    let root = TestRoot::new();
    root.run("create docs").expect(0);
    // Nothing is mapped at its beginning.
    let refused = root.run("put /proc/self/mem docs/f").expect(11);
    assert!(refused.stderr.contains("cannot read"), "{}", refused.stderr);
    let rest = Service::start(root);
    let refused = rest.root.run("put /proc/self/mem docs/f").expect(11);
    assert!(refused.stderr.contains("cannot read"), "{}", refused.stderr);
    assert!(!rest.root.path("buckets/docs/data/f").exists());
}

/// curl waits so with all that is larger than a megabyte.
#[test]
fn a_client_that_waits_to_be_asked_is_refused_without_sending_anything() {
    let rest = Service::start(TestRoot::new());
    let mut stream = TcpStream::connect(&rest.address).unwrap();
    let head = "PUT /v1/buckets/docs/files/f HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9000000\r\nExpect: 100-continue\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    let mut said = [0; 12];
    stream.read_exact(&mut said).unwrap();
    assert_eq!(String::from_utf8_lossy(&said), "HTTP/1.1 404");
}

/// The node of whoever sends a file for hours, such as `tail -f FILE | wizefs put - docs/FILE`.
#[test]
fn an_upload_that_does_not_end_keeps_nobody_from_the_node() {
    let Some(root) = TestRoot::with_fuse() else { return };
    let rest = Service::start(root);
    for bucket in ["docs", "archive.zip", "other"] {
        rest.root.run(&format!("create {bucket}")).expect(0);
    }
    rest.root.run("mount archive.zip").expect(0);
    let mut sending: Vec<TcpStream> = Vec::new();
    for bucket in ["docs", "archive.zip"] {
        let head = format!("PUT /v1/buckets/{bucket}/files/f HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n");
        let mut stream = TcpStream::connect(&rest.address).unwrap();
        stream.write_all(head.as_bytes()).unwrap();
        sending.push(stream);
    }
    let has_begun = |name: &String| name.starts_with(".wizefs-put-");
    rest.root.wait_for("the uploads", || walk(&rest.root.path("buckets/docs/data")).iter().any(has_begun));
    for line in ["mount docs --durability close", "mount docs --read-only", "delete docs --yes"] {
        let told = rest.root.run(line).expect(13).stderr;
        assert!(told.contains("docs is in use"), "{line}: {told}");
    }
    rest.root.run("create third").expect(0);
    rest.root.run("mount other").expect(0);
    rest.root.run("list docs").expect(0);
    rest.root.run("unmount archive.zip").expect(0);
    for stream in &mut sending {
        stream.write_all(b"ab").unwrap();
        let mut reply = [0; 12];
        stream.read_exact(&mut reply).unwrap();
        assert_eq!(&reply, b"HTTP/1.1 200");
    }
    assert_eq!(rest.bytes("/v1/buckets/archive.zip/files/f").2, b"ab");
    rest.root.run("mount docs --durability close").expect(0);
    rest.root.run("verify").expect(0);
}

#[test]
fn what_a_program_writes_into_an_upload_is_recorded_as_it_is_in_the_end() {
    let Some(root) = TestRoot::with_fuse() else { return };
    let rest = Service::start(root);
    rest.root.run("create docs --mount").expect(0);
    let sent = vec![b'a'; 600_000];
    let mut stream = TcpStream::connect(&rest.address).unwrap();
    let head = "PUT /v1/buckets/docs/files/f HTTP/1.1\r\nHost: localhost\r\nContent-Length: 600000\r\nConnection: close\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(&sent[..300_000]).unwrap();
    // It has a name of its own while it comes, and its first piece is there.
    let (data, mounted) = (rest.root.path("buckets/docs/data"), rest.root.mnt("docs", ""));
    let has_begun = |name: &String| std::fs::metadata(data.join(name)).is_ok_and(|it| it.len() >= 131_072);
    rest.root.wait_for("the beginning of the upload", || walk(&data).iter().any(has_begun));
    let coming = mounted.join(&walk(&data)[0]);
    let writer = std::fs::File::options().write(true).open(coming).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&writer, b"bbbb", 100).unwrap();
    drop(writer);
    stream.write_all(&sent[300_000..]).unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    assert!(reply.starts_with("HTTP/1.1 200"), "{reply}");
    let there = std::fs::read(mounted.join("f")).unwrap();
    assert_eq!((there.len(), &there[98..106]), (600_000, &b"aabbbbaa"[..]));
    rest.root.run("sync docs").expect(0);
    // It came neither from the client nor from that program: it is marked, with the hash of what is there.
    rest.root.run("verify docs").expect(26);
    let log = rest.root.run("log docs/f --json").expect(0).json_lines();
    assert_eq!(log[0]["blake3"], blake3::hash(&there).to_hex().as_str(), "{log:?}");
    rest.root.run("unmount docs").expect(0);
}

#[test]
fn a_bucket_that_is_mounted_read_only_refuses_uploads_and_is_no_failure_of_the_server() {
    let Some(root) = TestRoot::with_fuse() else { return };
    let rest = Service::start(root);
    rest.root.run("create docs").expect(0);
    rest.store("f", b"before");
    rest.root.run("mount docs --read-only").expect(0);
    for (method, path) in [("PUT", "/v1/buckets/docs/files/f"), ("DELETE", "/buckets/docs/files/f")] {
        let (status, reply) = rest.ask(method, path, "", "after");
        assert_eq!((status, reply.contains("mounted read-only")), (409, true), "{method} {path}: {reply}");
    }
    assert_eq!(rest.bytes("/v1/buckets/docs/files/f").2, b"before");
    rest.root.run("unmount docs").expect(0);
    assert_eq!(rest.ask("PUT", "/v1/buckets/docs/files/f", "", "after").0, 200);
}

#[test]
fn clients_at_the_same_time_create_and_mount_once() {
    let Some(root) = TestRoot::with_fuse() else { return };
    let rest = Service::start(root);
    let all = |path: &str, body: &str| {
        let mut statuses: Vec<(u16, String)> = std::thread::scope(|scope| {
            let asking: Vec<_> = (0..16).map(|_| scope.spawn(|| rest.ask("POST", path, "", body))).collect();
            asking.into_iter().map(|one| one.join().unwrap()).collect()
        });
        statuses.sort();
        statuses
    };
    let made = all("/buckets", r#"{"data":{"origin":"O"}}"#);
    assert_eq!(made.iter().filter(|(status, _)| *status == 201).count(), 1, "{made:?}");
    assert!(made[1..].iter().all(|(status, body)| *status == 409 && body.contains("\"exitcode\":6")), "{made:?}");
    let mounted = all("/buckets/O/mount", "");
    assert_eq!(mounted.iter().filter(|(status, _)| *status == 200).count(), 1, "{mounted:?}");
    assert!(mounted[1..].iter().all(|(status, body)| *status == 409 && body.contains("\"exitcode\":7")), "{mounted:?}");
    assert_eq!(rest.root.mounts().len(), 1);
}
