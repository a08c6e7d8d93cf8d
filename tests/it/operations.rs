//! What the node tells those who run it: metrics, tracing, a service manager.

use crate::rest::Service;
use crate::root::TestRoot;
use rustix::process::{Pid, Signal};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixStream};
use std::path::Path;
use std::process::Stdio;

/// Samples by name and labels, from a text that must be whole OpenMetrics.
fn samples(rest: &Service) -> BTreeMap<String, f64> {
    let (status, text) = rest.ask("GET", "/metrics", "", "");
    assert_eq!(status, 200, "{text}");
    assert!(text.ends_with("# EOF"), "{text}");
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let sample = |line: &str| {
        let (name, value) = line.rsplit_once(' ').unwrap();
        (name.to_owned(), value.parse().unwrap())
    };
    lines.map(sample).collect()
}

#[test]
fn metrics_count_what_happens() {
    let Some(root) = TestRoot::with_fuse() else { return };
    root.run("create docs").expect(0);
    let rest = Service::start(root);
    let before = samples(&rest);
    assert_eq!(before["wizefs_bucket_mounted{bucket=\"docs\"}"], 0.0);
    rest.root.run("mount docs").expect(0);
    for number in 0..20 {
        fs::write(rest.root.mnt("docs", &number.to_string()), "content").unwrap();
    }
    rest.root.run("sync").expect(0);
    rest.root.run("verify docs").expect(0);
    fs::write(rest.root.path("buckets/docs/data/7"), "tampered").unwrap();
    rest.root.run("verify docs").expect(26);
    let after = samples(&rest);
    let is = |name: &str, expect: f64| assert_eq!(after.get(name), Some(&expect), "{name} in {after:#?}");
    is("wizefs_bucket_mounted{bucket=\"docs\"}", 1.0);
    is("wizefs_bucket_files{bucket=\"docs\"}", 20.0);
    is("wizefs_bucket_bytes{bucket=\"docs\"}", 140.0);
    is("wizefs_fuse_operation_duration_seconds_count{operation=\"create\"}", 20.0);
    is("wizefs_settle_lag_seconds_count", 20.0);
    is("wizefs_verify_runs_total", 2.0);
    is("wizefs_verify_paths_total{result=\"ok\"}", 39.0);
    is("wizefs_verify_paths_total{result=\"damaged\"}", 1.0);
    is("wizefs_ledger_pending_transactions", 0.0);
    is("wizefs_unsettled_files", 0.0);
    is("wizefs_problem", 0.0);
    is("wizefs_request_duration_seconds_count{service=\"rest\",method=\"GET\",code=\"200\"}", 1.0);
    let status = rest.root.run("status --json").expect(0).json();
    is("wizefs_ledger_height", status["ledger"]["height"].as_f64().unwrap());
    is("wizefs_ledger_transactions_total", status["ledger"]["transactions"].as_f64().unwrap());
    assert!(after["wizefs_ledger_transactions_total"] >= before["wizefs_ledger_transactions_total"] + 20.0);
    assert!(after["process_resident_memory_bytes"] > 1e6);
    every_name_is_documented(after.keys());
}

/// docs/OPERATIONS.md lists each metric.
fn every_name_is_documented<'a>(names: impl Iterator<Item = &'a String>) {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/OPERATIONS.md")).unwrap();
    for name in names {
        let name = name.split('{').next().unwrap();
        let family = ["_bucket", "_count", "_sum"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
        assert!(text.contains(&format!("`{family}`")), "{family} is not in docs/OPERATIONS.md");
    }
}

#[test]
fn the_file_of_tracing_is_put_aside_opened_anew_and_filled_more() {
    let root = TestRoot::new();
    let line = ["node", "--listen", "127.0.0.1:0"];
    let started = root.command(&line).env("WIZEFS_TRACE_BYTES", "1024").spawn().unwrap();
    crate::root::finish(started).expect(0);
    let log = root.path("node.log");
    let read = |path: &Path| fs::read_to_string(path).unwrap_or_default();
    assert!(!read(&log).contains("DEBUG"));

    root.signal(Signal::USR2);
    root.wait_for("more tracing", || read(&log).contains("tracing: debug"));
    root.run("create docs").expect(0);
    fs::write(root.outside().join("a"), "a").unwrap();
    // Blocks are told of at that level, so the file is full soon.
    let aside = root.path("node.log.1");
    root.wait_for("a file that is put aside", || {
        root.run("put a docs").expect(0);
        aside.exists()
    });
    assert!(read(&aside).len() <= 1024, "{}", read(&aside).len());

    fs::rename(&log, root.outside().join("moved")).unwrap();
    root.signal(Signal::HUP);
    root.wait_for("a new file", || {
        root.run("put a docs").expect(0);
        !read(&log).is_empty()
    });
    root.run("stop").expect(0);
    root.expect_no_node();
    assert!(!root.path("node.log.4").exists(), "three are kept");
}

#[test]
fn a_node_that_is_asked_how_it_is_says_so_and_goes_on() {
    let root = TestRoot::new();
    root.run("create docs").expect(0);
    root.run("node").expect(0);
    root.signal(Signal::USR1);
    let told = || fs::read_to_string(root.path("node.log")).unwrap_or_default();
    root.wait_for("a line about the node", || told().contains("the node runs height=1 "));
    assert!(told().contains("buckets=1 mounted=0"), "{}", told());
    root.run("stop").expect(0);
}

#[test]
fn a_running_node_is_not_taken_for_one_with_other_flags() {
    let rest = Service::start(TestRoot::new());
    let node = |flags: &str, code| rest.root.run(&format!("node --trace info {flags}")).expect(code).stderr;
    node(&format!("--listen {} --grpc-listen off", rest.address), 0);
    node("--listen 127.0.0.1:0", 0);
    for flags in ["--listen 127.0.0.1:1", "--grpc-listen 127.0.0.1:0", "--token-file token", "--tls"] {
        let told = node(flags, 8);
        assert!(told.contains(flags.split(' ').next().unwrap()) && told.contains("wizefs stop"), "{told}");
    }
    rest.root.run("stop").expect(0);
    let rest = Service::start_with(rest.root, "--tls --token-file token");
    rest.root.run("node --trace info --tls --token-file token").expect(0);
    rest.root.run("stop").expect(0);
}

/// A command, or a node that does not serve yet or no more.
#[test]
fn whoever_has_the_root_without_serving_it_is_waited_for_by_stop() {
    let root = TestRoot::new();
    root.run("create docs").expect(0);
    let mut put = root.command(&["put", "-", "docs/f"]).stdin(Stdio::piped()).spawn().unwrap();
    root.wait_for("the command to have the root", || root.node().is_some_and(|pid| pid == Pid::from_child(&put)));
    let stop = root.start("stop");
    let stat = format!("/proc/{}/stat", stop.id());
    root.wait_for("the other to wait", || fs::read_to_string(&stat).is_ok_and(|stat| stat.contains(") S ")));
    drop(put.stdin.take());
    crate::root::finish(put).expect(0);
    crate::root::finish(stop).expect(60);
}

#[test]
fn a_node_that_has_lost_its_socket_is_ended_by_the_signal_that_is_named() {
    let root = TestRoot::new();
    root.run("node").expect(0);
    fs::remove_file(root.path("node.sock")).unwrap();
    let told = root.run("stop").expect(8).stderr;
    assert!(told.contains(&format!("kill {} ", root.node().unwrap().as_raw_nonzero())), "{told}");
    root.signal(Signal::TERM);
    root.expect_no_node();
    root.run("stop").expect(60);
}

#[test]
fn the_level_is_asked_and_set_by_a_route() {
    let rest = Service::start(TestRoot::new());
    assert_eq!(rest.ask("GET", "/v1/trace", "", ""), (200, r#"{"v":1,"filter":"info"}"#.to_owned()));
    let (status, reply) = rest.ask("PUT", "/v1/trace", "", r#"{"filter":"debug"}"#);
    assert_eq!((status, reply.as_str()), (200, r#"{"v":1,"filter":"debug"}"#));
    assert_eq!(rest.ask("PUT", "/v1/trace", "", r#"{"filter":"loud=wrong"}"#).0, 400);
    assert!(rest.ask("GET", "/v1/trace", "", "").1.contains("debug"));
    rest.root.run("node --trace info").expect(0);
    assert!(rest.ask("GET", "/v1/trace", "", "").1.contains("info"));
    for odd in ["loud=wrong", "debgu"] {
        rest.root.run(&format!("node --trace {odd}")).expect(2);
    }
    rest.root.run_args(&["node", "--trace", ""]).expect(2);
    rest.root.run("stop").expect(0);
}

#[test]
fn a_service_manager_hears_when_the_node_is_ready_lives_and_ends() {
    let root = TestRoot::new();
    let path = root.outside().join("notify");
    expect_told(&root, &UnixDatagram::bind(&path).unwrap(), path.as_os_str());
    // A socket without a path, as container managers use it.
    let name = format!("wizefs-it-{}", std::process::id());
    let manager = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    expect_told(&root, &manager, OsStr::new(&format!("@{name}")));
}

fn expect_told(root: &TestRoot, manager: &UnixDatagram, address: &OsStr) {
    manager.set_read_timeout(Some(crate::root::PATIENCE)).unwrap();
    let mut command = root.command(&["node", "--fg"]);
    command.env("NOTIFY_SOCKET", address).env("WATCHDOG_USEC", "200000");
    let node = command.spawn().unwrap();
    let hear = || {
        let mut text = [0; 4096];
        let length = manager.recv(&mut text).unwrap();
        String::from_utf8(text[..length].to_vec()).unwrap()
    };
    let until = |wanted: &str| while !hear().lines().any(|line| line == wanted) {};
    until("READY=1");
    root.run("status").expect(0);
    until("WATCHDOG=1");
    until("WATCHDOG=1");
    root.run("stop").expect(0);
    until("STOPPING=1");
    crate::root::finish(node).expect(0);
}

/// A command that comes when the last mount goes, for instance: it asks the next node, or is that itself.
#[test]
fn who_has_just_connected_to_a_node_that_ends_is_told() {
    let root = TestRoot::new();
    root.run("node").expect(0);
    let mut late = UnixStream::connect(root.path("node.sock")).unwrap();
    let mut stop = UnixStream::connect(root.path("node.sock")).unwrap();
    stop.write_all(b"POST /v1/stop HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n").unwrap();
    // The socket goes first.
    root.wait_for("the beginning of the end", || !root.path("node.sock").exists());
    late.write_all(b"PUT /v1/buckets/docs/files/f HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nx").unwrap();
    let mut told = String::new();
    late.read_to_string(&mut told).unwrap();
    assert!(told.starts_with("HTTP/1.1 503") && told.contains("\"kind\":\"stopping\""), "{told}");
    root.expect_no_node();
}
