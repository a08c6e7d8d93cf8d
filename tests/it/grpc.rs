//! gRPC as a stock client sees it. `./start.sh test` makes the Python environment with grpcio.

use crate::root::{PATIENCE, Ran, TestRoot, finish_within};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
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
    let ran = run_python(&python, &[script.to_str().unwrap(), address]).expect(0);
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

/// Asks for health with no, a wrong and the right token; with a certificate to trust, over TLS.
const HEALTH: &str = "import sys, grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
address, token, certificate = sys.argv[1:]
if certificate:
    channel = grpc.secure_channel(address, grpc.ssl_channel_credentials(open(certificate, 'rb').read()))
else:
    channel = grpc.insecure_channel(address)
with channel:
    check = health_pb2_grpc.HealthStub(channel).Check
    request = health_pb2.HealthCheckRequest()
    for sent, known in [('', False), ('Bearer wrong', False), ('Bearer ' + token, True)]:
        try:
            check(request, metadata=[('authorization', sent)])
            assert known, sent
        except grpc.RpcError as error:
            assert not known and error.code() == grpc.StatusCode.UNAUTHENTICATED, error
";

/// The address of gRPC and the token of a node that was just started with `--token-file token`.
fn address_and_token(root: &TestRoot) -> (String, String) {
    let status = root.run("status --json").expect(0).json();
    let token = std::fs::read_to_string(root.outside().join("token")).unwrap();
    (status["node"]["grpc"].as_str().unwrap().to_owned(), token.trim().to_owned())
}

pub(crate) fn run_python(python: &Path, args: &[&str]) -> Ran {
    let mut client = Command::new(python);
    client.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    finish_within(PATIENCE * 15, client.spawn().unwrap())
}

#[test]
fn grpc_asks_for_the_token() {
    let Some(python) = python() else { return };
    let root = TestRoot::new();
    root.run("node --grpc-listen 127.0.0.1:0 --token-file token").expect(0);
    let (address, token) = address_and_token(&root);
    run_python(&python, &["-c", HEALTH, &address, &token, ""]).expect(0);
    root.run("stop").expect(0);
    root.expect_no_node();
}

#[test]
fn a_stock_client_speaks_tls_and_brings_the_token() {
    let Some(python) = python() else { return };
    let Some(root) = TestRoot::with_fuse() else { return };
    root.run("node --grpc-listen 127.0.0.1:0 --tls --token-file token").expect(0);
    let (address, token) = address_and_token(&root);
    let certificate = root.path("tls/cert.pem");
    let certificate = certificate.to_str().unwrap();
    run_python(&python, &["-c", HEALTH, &address, &token, certificate]).expect(0);
    // The whole story again, over TLS.
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/grpc_client.py");
    let ran = run_python(&python, &[script.to_str().unwrap(), &address, &token, certificate]).expect(0);
    assert_eq!(ran.stdout.lines().last(), Some("foreign_name"), "{ran:?}");
    // A client that speaks plainly, and one that does not know the certificate, get nowhere.
    for channel in ["grpc.insecure_channel(address)", "grpc.secure_channel(address, grpc.ssl_channel_credentials())"] {
        let text = format!(
            "import sys, grpc\naddress = sys.argv[1]\ncall = {channel}.unary_unary('/grpc.health.v1.Health/Check')\n\
             try:\n    call(b'', metadata=[('authorization', 'Bearer ' + sys.argv[2])])\n\
             except grpc.RpcError as error:\n    assert error.code() == grpc.StatusCode.UNAVAILABLE, error\n\
             else:\n    raise AssertionError('let in')\n"
        );
        run_python(&python, &["-c", &text, &address, &token]).expect(0);
    }
    root.run("stop").expect(0);
    root.expect_no_node();
    assert!(root.mounts().is_empty());
}

#[test]
fn a_connection_that_does_not_begin_is_hung_up_on() {
    let root = TestRoot::new();
    root.run("node --grpc-listen 127.0.0.1:0").expect(0);
    let status = root.run("status --json").expect(0).json();
    let address = status["node"]["grpc"].as_str().unwrap();
    // Nothing, and half of what HTTP/2 begins with.
    for begin in ["", "PRI * HTTP"] {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(begin.as_bytes()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        assert_eq!(stream.read_to_end(&mut Vec::new()).unwrap(), 0, "hung up on, without a word");
    }
    root.run("stop").expect(0);
}

/// A stream that begins, and does not go on. The messages are as proto/wizefs.proto has them: name, content, bucket.
const STILL: &str = "
import sys, threading, grpc
def parts():
    yield b'\\x0a\\x01f\\x12\\x05begun\\x1a\\x04docs'
    threading.Event().wait()
with grpc.insecure_channel(sys.argv[1], options=[('grpc.enable_http_proxy', 0)]) as channel:
    try:
        channel.stream_unary('/wizefsservice.WizeFsService/PutStream')(parts())
        raise AssertionError('stored')
    except grpc.RpcError as error:
        more = dict(error.trailing_metadata() or ()) | dict(error.initial_metadata() or ())
        assert (error.code(), more['wizefs-kind']) == (grpc.StatusCode.DEADLINE_EXCEEDED, 'too-slow'), error
import os
os._exit(0)
";

/// A place for uploads is nobody's for ever.
#[test]
fn a_stream_that_stands_still_is_cut_off() {
    let Some(python) = python() else { return };
    let root = TestRoot::new();
    root.run("create docs").expect(0);
    root.run("node --grpc-listen 127.0.0.1:0").expect(0);
    let status = root.run("status --json").expect(0).json();
    run_python(&python, &["-c", STILL, status["node"]["grpc"].as_str().unwrap()]).expect(0);
    root.run("stop").expect(0);
    root.run("get f docs").expect(11);
}
