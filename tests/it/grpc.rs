//! gRPC as a stock client sees it. `./start.sh test` makes the Python environment with grpcio.

use crate::root::{PATIENCE, TestRoot, finish_within};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The interpreter with the clients of others; none, loudly, where it is not required.
pub(crate) fn python() -> Option<PathBuf> {
    let target = Path::new(env!("CARGO_BIN_EXE_wizefs")).ancestors().nth(2).unwrap();
    let found = Some(target.join("tools/python/bin/python3")).filter(|python| python.is_file());
    if found.is_none() {
        eprintln!("SKIPPED, this test needs Python packages, which ./start.sh test installs");
    }
    found
}

#[test]
fn a_stock_client_learns_and_uses_every_call() {
    let Some(python) = python() else { return };
    let Some(root) = TestRoot::with_fuse() else { return };
    root.run("node --grpc-listen 127.0.0.1:0").expect(0);
    let status = root.run("status --json").expect(0).json();
    let address = status["node"]["grpc"].as_str().unwrap();
    assert!(!address.ends_with(":0"), "{address}");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/grpc_client.py");
    let mut client = Command::new(python);
    client.arg(script).arg(address).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let ran = finish_within(PATIENCE * 15, client.spawn().unwrap()).expect(0);
    assert_eq!(ran.stdout.lines().last(), Some("foreign_name"), "{ran:?}");
    let log = root.run("log --json").expect(0).json_lines();
    assert!(log.iter().all(|line| line["path"] != "broken"), "half a file is never stored");
    root.run("integrity").expect(0);
    root.run("stop").expect(0);
    root.expect_no_node();
    assert!(root.mounts().is_empty());
}

#[test]
fn a_taken_grpc_port_is_said_with_its_flag() {
    let root = TestRoot::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    for line in ["node", "node --fg"] {
        let ran = root.run(&format!("{line} --grpc-listen {address}")).expect(8);
        assert!(ran.stderr.contains(&address.to_string()) && ran.stderr.contains("--grpc-listen off"), "{ran:?}");
    }
    root.run("node --grpc-listen 0.0.0.0:0").expect(2);
    root.expect_no_node();
}

#[test]
fn grpc_asks_for_the_token() {
    let Some(python) = python() else { return };
    let root = TestRoot::new();
    root.run("node --grpc-listen 127.0.0.1:0 --token-file token").expect(0);
    let status = root.run("status --json").expect(0).json();
    let token = std::fs::read_to_string(root.outside().join("token")).unwrap();
    let script = "import sys, grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
with grpc.insecure_channel(sys.argv[1]) as channel:
    check = health_pb2_grpc.HealthStub(channel).Check
    request = health_pb2.HealthCheckRequest()
    for token, known in [('', False), ('Bearer wrong', False), ('Bearer ' + sys.argv[2], True)]:
        try:
            check(request, metadata=[('authorization', token)])
            assert known, token
        except grpc.RpcError as error:
            assert not known and error.code() == grpc.StatusCode.UNAUTHENTICATED, error
";
    let mut client = Command::new(python);
    client.args(["-c", script, status["node"]["grpc"].as_str().unwrap(), token.trim()]);
    client.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    finish_within(PATIENCE * 5, client.spawn().unwrap()).expect(0);
    root.run("stop").expect(0);
    root.expect_no_node();
}
