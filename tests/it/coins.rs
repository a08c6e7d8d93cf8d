//! Wallets, coins, blocks and mining through the real program, and the predecessor's chain routes.

use crate::rest::Service;
use crate::root::{Ran, TestRoot};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use wizefs_ledger::{Envelope, Hash, Output, OutputRef, Transaction, Wallet};

fn balance(root: &TestRoot, wallet: &str) -> u64 {
    root.run(&format!("wallet show {wallet} --json")).expect(0).json()["balance"].as_u64().unwrap()
}

fn mode(root: &TestRoot, name: &str) -> u32 {
    fs::metadata(root.path("wallets").join(name)).unwrap().permissions().mode() & 0o777
}

#[test]
fn coins_go_from_wallet_to_wallet() {
    let root = TestRoot::new();
    assert_eq!(balance(&root, "default"), 1_000_000);
    let alice = root.run("wallet new alice").expect(0).stdout.trim().to_owned();
    assert_eq!((mode(&root, "alice"), balance(&root, "alice")), (0o600, 0));
    // A small disk has no reserve.
    let mode_of = |file: &str| Some(fs::metadata(root.path("ledger").join(file)).ok()?.permissions().mode() & 0o777);
    assert!(mode_of("reserve").is_none_or(|mode| mode == 0o600));
    let sent = root.run("send default alice 250 --minenow --json").expect(0).json();
    assert_eq!((sent["status"].as_str(), sent["block"].as_u64()), (Some("final"), Some(1)));
    assert_eq!((balance(&root, "alice"), balance(&root, "default")), (250, 999_760));
    assert_eq!(mode_of("tip"), Some(0o600));
    // By address, from and to; sealed when the command's own node ends.
    let own = root.run("wallet show --json").expect(0).json()["address"].as_str().unwrap().to_owned();
    root.run(&format!("send {alice} {own} 100")).expect(0);
    assert_eq!(balance(&root, &alice), 150);
    let log = root.run("log -n 1 --json").expect(0).json_lines();
    assert_eq!((log[0]["op"].as_str(), log[0]["status"].as_str()), (Some("transfer"), Some("final")));

    let refused = root.run("send alice default 151 --json").expect(1);
    assert!(refused.stderr.contains("has 150 coins, not 151"), "{refused:#?}");
    // A name may have 255 bytes.
    let long = "w".repeat(255);
    root.run(&format!("wallet new {long}")).expect(0);
    assert_eq!((mode(&root, &long), balance(&root, &long)), (0o600, 0));
    for (line, code) in [
        ("send alice default 0", 2),
        ("send alice default -5", 2),
        ("send alice default 18446744073709551616", 2),
        ("send alice alice 1", 2),
        ("send nobody alice 1", 1),
        ("send alice nobody 1", 1),
        ("wallet show nobody", 1),
        ("wallet new alice", 11),
        ("wallet new default", 11),
        ("wallet new log.key", 2),
        ("wallet new ../x", 2),
    ] {
        root.run(line).expect(code);
    }
    root.run("integrity").expect(0);
}

#[test]
fn keys_are_protected_and_can_be_moved() {
    let root = TestRoot::new();
    fs::write(root.outside().join("pass"), "correct horse\n").unwrap();
    fs::write(root.outside().join("wrong"), "battery\n").unwrap();
    let address = root.run("wallet new safe --passfile pass").expect(0).stdout.trim().to_owned();
    assert_eq!(mode(&root, "safe"), 0o600);
    root.run("send default safe 40 --minenow").expect(0);
    assert_eq!(balance(&root, "safe"), 40);
    root.run("send safe default 1").expect(12);
    root.run("send safe default 1 --passfile wrong").expect(12);
    root.run("send safe default 1 --passfile pass --minenow").expect(0);
    root.run_args(&["send", "safe", "default", "1", "--extpass", "echo correct horse"]).expect(0);
    root.run("wallet export safe --reveal").expect(12);
    root.run("wallet export safe").expect(2);

    let secret = root.run("wallet export safe --reveal --passfile pass").expect(0).stdout.trim().to_owned();
    assert_eq!(secret.len(), 64);
    fs::write(root.outside().join("hex"), &secret).unwrap();
    root.run("wallet export safe --passfile pass -o copy").expect(0);
    root.run("wallet export safe --passfile pass -o copy").expect(11);
    assert_eq!(fs::metadata(root.outside().join("copy")).unwrap().permissions().mode() & 0o777, 0o600);
    let other = TestRoot::new();
    let outside = |name: &str| root.outside().join(name).display().to_string();
    for (name, file) in [("a", "hex"), ("b", "copy")] {
        let line = format!("wallet import {name} {} --passfile {}", outside(file), outside("pass"));
        assert_eq!(other.run(&line).expect(0).stdout.trim(), address);
    }
    other.run(&format!("wallet import c {}", outside("pass"))).expect(2);
    // Read once, so that it may come through a pipe.
    let pipe = ["sh".to_owned(), "-c".to_owned(), format!("\"$@\" < {}", outside("copy")), "sh".to_owned()];
    let import = other.command(&["wallet", "import", "piped", "-", "--passfile", &outside("pass")]);
    let mut piped = Command::new(&pipe[0]);
    piped.args(&pipe[1..]).arg(import.get_program()).args(import.get_args()).current_dir(other.outside());
    piped.envs(import.get_envs().filter_map(|(name, value)| Some((name, value?))));
    assert_eq!(Ran::from(piped.output().unwrap()).expect(0).stdout.trim(), address);
    fs::remove_file(other.path("wallets/piped")).unwrap();
    // One that is damaged is not passed over in silence.
    fs::write(other.path("wallets/rotten"), &fs::read(other.path("wallets/b")).unwrap()[1..]).unwrap();
    let list = other.run("wallet list").expect(0);
    assert!(list.stderr.contains("rotten") && !list.stdout.contains("rotten"), "{list:?}");
    assert_eq!(list.stderr.lines().count(), 1, "{list:?}");
    let listed = other.run("wallet list --json").expect(0).json();
    let names: Vec<_> = listed["wallets"].as_array().unwrap().iter().map(|wallet| wallet["name"].clone()).collect();
    assert_eq!(names, ["a", "b", "default"]);
    // No secret in anything the node says.
    let said = root.run("wallet list --json").expect(0).stdout + &root.run("log --json").expect(0).stdout;
    assert!(!said.contains(&secret));
}

/// A command on a terminal, at whose prompts these answers are typed.
fn typed(root: &TestRoot, answers: &[&str], line: &str) -> Ran {
    let wizefs = root.command(&line.split(' ').collect::<Vec<_>>());
    let mut typist = Command::new("python3");
    typist.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/typist.py")).args(answers).arg("--");
    typist.arg(wizefs.get_program()).args(wizefs.get_args()).current_dir(root.outside());
    typist.envs(wizefs.get_envs().filter_map(|(name, value)| Some((name, value?))));
    typist.output().unwrap().into()
}

#[test]
fn a_passphrase_is_asked_for_on_the_terminal_and_not_shown() {
    let root = TestRoot::new();
    let new = typed(&root, &["correct horse", "correct horse"], "wallet new safe --passphrase").expect(0);
    assert!(new.stdout.contains("Passphrase of the new wallet safe: ") && new.stdout.contains("Again: "), "{new:#?}");
    let differ = typed(&root, &["correct horse", "battery"], "wallet new other --passphrase").expect(12);
    assert!(differ.stdout.contains("not the same"), "{differ:#?}");
    let right = typed(&root, &["correct horse"], "wallet export safe --reveal").expect(0);
    let wrong = typed(&root, &["battery"], "wallet export safe --reveal").expect(12);
    for (key, signal) in [("\u{3}", 2), ("\u{1c}", 3)] {
        let broken_off = typed(&root, &[key], "wallet export safe --reveal").expect(128 + signal);
        assert!(broken_off.stderr.contains("shows what is typed"), "{broken_off:?}");
    }
    // What was sealed stays so.
    typed(&root, &["correct horse"], "wallet export safe -o copy").expect(0);
    let imported = typed(&root, &["correct horse"], "wallet import again copy --json").expect(0);
    assert!(imported.stdout.contains("\"sealed\":true"), "{imported:#?}");
    root.run("wallet export again --reveal").expect(12);
    for ran in [new, differ, right, wrong, imported] {
        assert!(!ran.stdout.contains("horse") && !ran.stdout.contains("battery"), "{ran:#?}");
    }
    assert!(!root.path("wallets/other").exists());
}

#[test]
fn a_key_is_exported_to_where_there_are_no_hard_links() {
    let Some(root) = TestRoot::with_fuse() else { return };
    root.run("create docs.zip").expect(0);
    root.run("mount docs.zip").expect(0);
    let export = format!("wallet export default -o {}", root.mnt("docs.zip", "key").display());
    root.run(&export).expect(0);
    root.run(&export).expect(11);
    let kept = [root.mnt("docs.zip", "key"), root.path("wallets/default")].map(|path| fs::read(path).unwrap());
    assert_eq!(kept[0], kept[1]);
    assert_eq!(fs::read_dir(root.mnt("docs.zip", "")).unwrap().count(), 1);
    root.run("unmount docs.zip").expect(0);
}

#[test]
fn a_block_is_mined_with_or_without_work() {
    let root = TestRoot::new();
    let first = root.run("mine --json").expect(0).json();
    assert_eq!((first["height"].as_u64(), first["count"].as_u64()), (Some(1), Some(1)));
    assert_eq!(balance(&root, "default"), 1_000_010);
    root.run("create docs").expect(0);
    let block = root.run("block --json").expect(0).json();
    assert_eq!(block["height"], 2);
    assert_eq!(block["previous"], first["hash"]);
    let hash = block["hash"].as_str().unwrap();
    assert_eq!(root.run(&format!("block {hash} --json")).expect(0).json(), block);
    assert_eq!(root.run("block 1 --json").expect(0).json(), first);
    assert_eq!(block["transactions"][1]["op"], "create");
    root.run("block 99").expect(1);
    root.run("block nonsense").expect(2);
    root.run("block 2").expect(0);
}

#[test]
fn the_stamp_is_chosen_before_the_chain_is_made() {
    for (bits, code) in [(0, 0), (20, 0), (25, 21)] {
        let root = TestRoot::new();
        fs::create_dir_all(root.path("")).unwrap();
        fs::write(root.path("node.conf"), format!("{{\"stamp-bits\": {bits}}}")).unwrap();
        let ran = root.run("mine --json").expect(code);
        if code == 0 {
            assert_eq!(ran.json()["stamp_bits"], bits);
            root.run("integrity").expect(0);
        }
    }
}

/// POST with a JSON body; the reply's status and text.
fn post(rest: &Service, path: &str, body: &Value) -> (u16, String) {
    rest.ask("POST", path, "", &body.to_string())
}

fn posted(rest: &Service, path: &str, body: &Value) -> Value {
    let (status, text) = post(rest, path, body);
    assert_eq!(status, 200, "{path}: {text}");
    serde_json::from_str(&text).unwrap()
}

fn got(rest: &Service, path: &str) -> Value {
    let (status, text) = rest.ask("GET", path, "", "");
    assert_eq!(status, 200, "{path}: {text}");
    serde_json::from_str(&text).unwrap()
}

#[test]
fn the_predecessors_chain_routes_answer() {
    let rest = Service::start_with(TestRoot::new(), "--chain-listen 127.0.0.1:0");
    let status = rest.root.run("status --json").expect(0).json();
    let chain = Service { address: status["node"]["chain"].as_str().unwrap().to_owned(), ..rest };
    assert_ne!(chain.address, status["node"]["rest"].as_str().unwrap());
    assert!(chain.ask("GET", "/", "", "").1.starts_with("\"Hello wize"));

    let own = got(&chain, "/wallets/list")["listWallets"][0].as_str().unwrap().to_owned();
    assert_eq!(got(&chain, &format!("/wallet/{own}")), json!({"credit": 1_000_000, "success": true}));
    let made = posted(&chain, "/wallet/new", &json!({}));
    let (address, pubkey) = (made["address"].as_str().unwrap(), made["pubkey"].as_str().unwrap());
    assert_eq!((pubkey.len(), made["privkey"].as_str().unwrap().len()), (128, 64));
    assert_eq!(got(&chain, "/wallets/list")["listWallets"].as_array().unwrap().len(), 1, "no copy is kept");

    let sent = json!({"From": own, "TO": address, "Amount": 70, "mineNow": true});
    assert_eq!(posted(&chain, "/send", &sent), json!({"success": true}));
    assert_eq!(got(&chain, &format!("/wallet/{address}"))["credit"], 70);

    // The client keeps its key: it signs the hash it is told.
    let prepared = posted(&chain, "/prepare", &json!({"from": address, "to": own, "amount": 30, "pubkey": pubkey}));
    let hash: Hash = prepared["hashes"][0].as_str().unwrap().parse().unwrap();
    let mut secret = [0; 32];
    for (byte, digits) in secret.iter_mut().zip(made["privkey"].as_str().unwrap().as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).unwrap();
    }
    let signature = format!("{:?}", Wallet::from_secret(&secret).unwrap().sign_hash(&hash));
    let signed = json!({"txid": prepared["txid"], "signatures": [signature], "minenow": true});
    let wrong = json!({"txid": prepared["txid"], "signatures": ["00".repeat(64)], "minenow": true});
    let refused = post(&chain, "/sign", &wrong);
    assert_eq!((refused.0, refused.1.contains("not signed by its author")), (400, true), "{refused:?}");
    assert_eq!(posted(&chain, "/sign", &signed), json!({"success": true}), "a wrong signature uses no handle up");
    assert_eq!(got(&chain, &format!("/wallet/{address}"))["credit"], 40);
    assert_eq!(posted(&chain, "/sign", &signed), json!({"success": true}), "who did not hear the answer asks again");
    assert_eq!(got(&chain, &format!("/wallet/{address}"))["credit"], 40, "and pays once");
    assert_eq!(post(&chain, "/sign", &wrong).0, 400);

    let printed = got(&chain, "/blockchain/print");
    let blocks = printed["chainlist"].as_array().unwrap();
    assert_eq!((blocks.len(), printed["success"].as_bool()), (3, Some(true)));
    assert_eq!((blocks[0]["Height"].as_u64(), &blocks[0]["PrevBlockHash"]), (Some(2), &blocks[1]["Hash"]));
    assert_eq!(blocks[0]["Transactions"][1]["Vout"][0]["Value"], 30);
    let hash = blocks[1]["Hash"].as_str().unwrap();
    assert_eq!(got(&chain, &format!("/block/{hash}"))["credit"], blocks[1]);
    assert_eq!(got(&chain, "/block/some-hash"), json!({"credit": null, "success": true}));
    complaints(&chain, &own, address, pubkey);
    assert_eq!(chain.ask("GET", "/buckets/O/state", "", "").0, 404, "the chain routes alone");
    assert_eq!(chain.ask("GET", &format!("/wallet/{own}"), "Host: evil.example\r\n", "").0, 403);
}

/// What is refused, in the predecessor's words.
fn complaints(chain: &Service, own: &str, address: &str, pubkey: &str) {
    let check = |path: &str, body: Value, text: &str| {
        let (status, reply) = post(chain, path, &body);
        assert_eq!((status, reply.contains(text)), (400, true), "{path} {body}: {reply}");
    };
    check("/prepare", json!({"from": address}), "Please check your prepare request");
    check("/prepare", json!([1]), "Could not decode the request body as JSON");
    let prepare =
        |from: &str, to: &str, amount: i64| json!({"from": from, "to": to, "amount": amount, "pubkey": pubkey});
    check("/prepare", prepare(address, address, 1), "Sender address is equal to Recipient address");
    check("/prepare", prepare("x", own, 1), "Sender address is not valid");
    check("/prepare", prepare(address, "", 1), "Recipient address is not valid");
    check("/prepare", prepare(own, address, 1), "Sender address is not the public key's");
    check("/prepare", prepare(address, own, 9_999), "has 40 coins, not 9999");
    check("/prepare", prepare(address, own, -1), "Please check your prepare request");
    check("/sign", json!({"txid": "00", "signatures": ["00".repeat(64)]}), "Could not get transaction by txid");
    check("/sign", json!({"txid": "00", "signatures": []}), "Please check your sign request");
    check("/send", json!({"from": own, "to": own, "amount": 1}), "Sender address is equal");
    assert_eq!(chain.ask("GET", "/wallet/nonsense", "", "").0, 400);
}

#[test]
fn one_address_in_two_spellings_is_one_address() {
    let rest = Service::start(TestRoot::new());
    let of =
        |number: u64| Wallet::from_secret(&[[0; 24].as_slice(), &number.to_be_bytes()].concat().try_into().unwrap());
    let wallet = (1..).map(|number| of(number).unwrap()).find(|wallet| wallet.address().0[0] == 0).unwrap();
    let (short, pubkey) = (wallet.address().to_string(), wallet.public().to_string());
    let long = format!("1{short}");
    rest.root.run(&format!("send default {long} 9 --minenow")).expect(0);
    let own = got(&rest, "/wallets/list")["listWallets"][0].as_str().unwrap().to_owned();
    for from in [&short, &long] {
        assert_eq!(got(&rest, &format!("/wallet/{from}"))["credit"], 9);
        posted(&rest, "/prepare", &json!({"from": from, "to": own, "amount": 1, "pubkey": pubkey}));
    }
    for path in ["/prepare", "/send"] {
        let (status, reply) = post(&rest, path, &json!({"from": short, "to": long, "amount": 1, "pubkey": pubkey}));
        assert_eq!((status, reply.contains("Sender address is equal")), (400, true), "{path}: {reply}");
    }
}

#[test]
fn a_signed_transfer_that_is_handed_in_again_is_answered_as_at_first() {
    let rest = Service::start(TestRoot::new());
    let wallet = Wallet::load(&rest.root.path("wallets/default")).unwrap();
    let to = rest.root.run("wallet new other").expect(0).stdout.trim().to_owned();
    let request = json!({"from": wallet.public().to_string(), "to": to, "amount": 5});
    let draft = posted(&rest, "/v1/transfers/draft", &request);
    let draft = STANDARD.decode(draft["bytes"].as_str().unwrap()).unwrap();
    let bytes = STANDARD.encode(Transaction::from_bytes(&draft).unwrap().signed_by(&wallet));
    let first = posted(&rest, "/v1/transfers", &json!({"bytes": bytes}));
    let sealed = posted(&rest, "/v1/transfers", &json!({"bytes": bytes, "minenow": true}));
    let again = posted(&rest, "/v1/transfers", &json!({"bytes": bytes}));
    assert_eq!((&sealed["txid"], &again), (&first["txid"], &sealed));
    assert_eq!((again["status"].as_str(), balance(&rest.root, "other")), (Some("final"), 5));
}

#[test]
fn many_send_from_one_wallet_at_once() {
    let rest = Service::start(TestRoot::new());
    rest.root.run("wallet new other").expect(0);
    let own = got(&rest, "/wallets/list")["listWallets"][0].as_str().unwrap().to_owned();
    let to = rest.root.run("wallet show other --json").expect(0).json()["address"].as_str().unwrap().to_owned();
    let commands = (0..12).map(|_| {
        let mut command = rest.root.command(&["send", "default", "other", "1"]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    });
    let commands: Vec<_> = commands.collect();
    std::thread::scope(|scope| {
        for _ in 0..12 {
            scope.spawn(|| posted(&rest, "/send", &json!({"from": own, "to": to, "amount": 1})));
        }
    });
    for command in commands {
        Ran::from(command.wait_with_output().unwrap()).expect(0);
    }
    assert_eq!(balance(&rest.root, "other"), 24);
}

/// Makes the chain so long, when it is printed, that it does not fit into the buffers of a connection.
fn lengthen(rest: &Service) {
    let wallet = Wallet::load(&rest.root.path("wallets/default")).unwrap();
    let request = json!({"from": wallet.public().to_string(), "to": wallet.address().to_string(), "amount": 1_000_000});
    let draft = posted(rest, "/v1/transfers/draft", &request);
    let bytes = STANDARD.decode(draft["bytes"].as_str().unwrap()).unwrap();
    let mut transaction = Transaction::from_bytes(&bytes).unwrap();
    let mut left = 1_000_000;
    for _ in 0..400 {
        let Envelope::Transfer(transfer) = &mut transaction.envelope else { panic!("no transfer") };
        transfer.outputs = vec![Output { amount: 1, address: wallet.address() }; 256];
        left -= 255;
        transfer.outputs[0].amount = left;
        let bytes = transaction.clone().signed_by(&wallet);
        let Envelope::Transfer(transfer) = &mut transaction.envelope else { panic!("no transfer") };
        transfer.inputs = vec![OutputRef { txid: Transaction::id(&bytes), index: 0 }];
        posted(rest, "/v1/transfers", &json!({"bytes": STANDARD.encode(bytes)}));
    }
    rest.root.run("mine").expect(0);
}

#[test]
fn slow_readers_of_the_whole_chain_are_bounded_and_the_node_answers_others() {
    let rest = Service::start(TestRoot::new());
    lengthen(&rest);
    let begun = || {
        let mut stream = TcpStream::connect(&rest.address).unwrap();
        write!(stream, "GET /blockchain/print HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", rest.address)
            .unwrap();
        let mut start = [0; 12];
        stream.read_exact(&mut start).unwrap();
        (String::from_utf8(start.to_vec()).unwrap(), stream)
    };
    let slow: Vec<_> = (0..140).map(|_| begun()).collect();
    let of = |status: &str| slow.iter().filter(|(start, _)| start == status).count();
    assert_eq!((of("HTTP/1.1 200"), of("HTTP/1.1 503")), (128, 12));
    rest.root.run("status").expect(0);
    assert_eq!(rest.ask("GET", "/blockchain/print", "", "").0, 503);
    // Who reads on gets it whole, in pieces that are sent as they come.
    let (_, mut one) = slow.into_iter().next().unwrap();
    let mut reply = String::new();
    one.read_to_string(&mut reply).unwrap();
    assert!(reply.ends_with("\"success\":true}\n\r\n0\r\n\r\n"), "{}", &reply[reply.len() - 100..]);
    let largest =
        reply.split("\r\n").filter_map(|size| (size.len() < 9).then(|| usize::from_str_radix(size, 16).ok())?);
    assert!(largest.max().unwrap() < 20_000);
}
