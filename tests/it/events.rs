//! `/v1/events`: everything that happens, in order, and nothing lost over a break.

use crate::rest::Service;
use crate::root::{PATIENCE, TestRoot};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;

/// A client that watches.
struct Watcher(BufReader<TcpStream>);

/// An event: its name, id and data.
struct Seen {
    name: String,
    id: String,
    data: serde_json::Value,
}

impl Watcher {
    fn new(rest: &Service, last: Option<&str>) -> Watcher {
        let mut stream = TcpStream::connect(&rest.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let last = last.map(|id| format!("Last-Event-ID: {id}\r\n")).unwrap_or_default();
        let request = format!("GET /v1/events HTTP/1.1\r\nHost: {}\r\n{last}\r\n", rest.address);
        stream.write_all(request.as_bytes()).unwrap();
        let mut watcher = Watcher(BufReader::new(stream));
        let head = std::iter::from_fn(|| Some(watcher.line())).take_while(|line| !line.is_empty());
        let head: Vec<String> = head.collect();
        assert!(head[0].contains(" 200 "), "{head:?}");
        assert!(head.iter().any(|line| line.eq_ignore_ascii_case("content-type: text/event-stream")), "{head:?}");
        watcher
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// The next event; the lines that frame chunks are passed over.
    fn next(&mut self) -> Seen {
        let (mut name, mut id, mut data) = (String::new(), String::new(), None);
        loop {
            let line = self.line();
            match line.split_once(": ") {
                Some(("event", value)) => value.clone_into(&mut name),
                Some(("id", value)) => value.clone_into(&mut id),
                Some(("data", value)) => data = Some(serde_json::from_str(value).unwrap()),
                _ => {}
            }
            if let Some(data) = data.take_if(|_| !name.is_empty() && !id.is_empty()) {
                return Seen { name, id, data };
            }
        }
    }

    fn until(&mut self, wanted: impl Fn(&Seen) -> bool) -> Vec<Seen> {
        let mut seen = Vec::new();
        loop {
            seen.push(self.next());
            if seen.last().is_some_and(&wanted) {
                return seen;
            }
        }
    }
}

fn put_of(path: &'static str) -> impl Fn(&Seen) -> bool {
    move |seen| seen.name == "transaction" && seen.data["op"] == "put" && seen.data["path"] == path
}

#[test]
fn blocks_transactions_and_mounts_are_told_and_taken_up_again() {
    let Some(root) = TestRoot::with_fuse() else { return };
    let rest = Service::start(root);
    let mut watcher = Watcher::new(&rest, None);
    rest.root.run("create docs").expect(0);
    let seen = watcher.until(|seen| seen.data["op"] == "create");
    assert_eq!(seen[0].name, "block");
    assert_eq!(seen[1].data["op"], "coinbase");
    rest.root.run("mount docs").expect(0);
    let mounted = watcher.until(|seen| seen.name == "mount").pop().unwrap();
    assert_eq!(mounted.data["bucket"], "docs");
    drop(watcher);

    // Nobody watches while these happen.
    std::fs::write(rest.root.mnt("docs", "a"), "a").unwrap();
    rest.root.run("sync").expect(0);
    rest.root.run("unmount docs").expect(0);
    let mut watcher = Watcher::new(&rest, Some(&mounted.id));
    let mut names = Vec::new();
    let mut last = mounted.id.clone();
    while !(names.contains(&"put".to_owned()) && names.contains(&"unmount".to_owned())) {
        let seen = watcher.next();
        assert_ne!(seen.name, "mount", "told twice");
        names.push(seen.data["op"].as_str().unwrap_or(&seen.name).to_owned());
        last = seen.id;
    }
    let at = |name: &str| names.iter().position(|one| one == name);
    assert!(at("put") < at("unmount"), "{names:?}");
    drop(watcher);

    // Another process goes on where this one was.
    rest.root.run("stop").expect(0);
    rest.root.expect_no_node();
    let rest = Service::start(rest.root);
    std::fs::write(rest.root.outside().join("b"), "b").unwrap();
    rest.root.run("put b docs").expect(0);
    let mut watcher = Watcher::new(&rest, Some(&last));
    let seen = watcher.until(put_of("b"));
    assert!(!seen.iter().any(|seen| put_of("a")(seen)), "told twice");
    // So does who was ahead of this ledger, from now on.
    let mut ahead = Watcher::new(&rest, Some("9999-0-abc-0"));
    rest.root.run("put b docs/c").expect(0);
    ahead.until(put_of("c"));
    assert_eq!(rest.ask("GET", "/v1/events", "Last-Event-ID: nonsense\r\n", "").0, 400);
    // A block that a state proof or `mine` sealed is told as it comes.
    for line in ["proof docs/c --state -o c.p", "mine"] {
        let before = rest.root.run("block --json").expect(0).json()["height"].as_u64().unwrap();
        rest.root.run(line).expect(0);
        ahead.until(|seen| seen.name == "block" && seen.data["height"] == before + 1);
    }
    // A watcher does not keep the node from ending.
    let start = std::time::Instant::now();
    rest.root.run("stop").expect(0);
    rest.root.expect_no_node();
    assert!(start.elapsed().as_secs() < 5, "{:?}", start.elapsed());
}
