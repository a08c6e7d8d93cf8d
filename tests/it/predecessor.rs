//! The mistakes of the predecessor (WizeFS and WizeBlock 0.2.1), and for each the tests that it is absent here.
//!
//! Those that have no test elsewhere are below the table. Of its desktop program wizefs has no counterpart: what that did with
//! keys, ciphers and names is shown to be otherwise where wizefs does the like.

use crate::rest::Service;
use crate::root::TestRoot;
use serde_json::json;
use std::fs;
use std::path::Path;
use std::process::Command;

/// What it did, and `FILE FUNCTION` of each test that wizefs does not.
const MISTAKES: [(&str, &[&str]); 40] = [
    // File systems.
    (
        "a mount entry left by a kill blocks mount and unmount",
        &["tests/it/mount.rs a_killed_node_leaves_a_stale_mount_that_the_next_one_clears"],
    ),
    ("mount of what is mounted is not refused", &["tests/it/exit_codes.rs exit_7_is_about_the_mountpoint"]),
    ("an unknown bucket is a panic", &["tests/it/predecessor.rs an_unknown_bucket_is_an_error_of_every_command"]),
    (
        "a bucket's name leads out of the root, for create and for delete, which removes all",
        &["tests/it/predecessor.rs no_bucket_is_outside_of_the_root"],
    ),
    ("members of an archive are unpacked outside of it", &["fs/tests/it/hostile.rs names_cannot_leave_the_bucket"]),
    (
        "create of an archive's bucket that is there empties the archive",
        &["tests/it/predecessor.rs creating_a_bucket_again_leaves_its_archive_alone"],
    ),
    (
        "the archive is deleted before it is written anew",
        &[
            "fs/tests/it/archive/killed.rs a_kill_leaves_a_whole_archive_with_every_commit_that_returned",
            "tests/it/lz.rs twenty_kills_under_load_lose_nothing_and_leave_whole_archives",
        ],
    ),
    (
        "what cannot be read when an archive is written is left out without a word",
        &["tests/it/lz.rs what_an_archive_cannot_hold_is_refused"],
    ),
    (
        "a temporary file left of a configuration makes every later save fail",
        &["tests/it/predecessor.rs a_temporary_file_left_of_the_configuration_does_not_matter"],
    ),
    (
        "processes overwrite each other's configuration",
        &["tests/it/faults.rs commands_at_the_same_time_wait_for_each_other"],
    ),
    (
        "REST does not know buckets made by a command later",
        &["tests/it/predecessor.rs commands_and_services_know_the_same"],
    ),
    (
        "the bucket's configuration is read and removed as a file of it",
        &["tests/it/predecessor.rs the_configuration_is_no_file_of_the_bucket"],
    ),
    (
        "get overwrites",
        &["tests/it/exit_codes.rs exit_11_is_about_the_file", "tests/it/bucket.rs a_file_goes_in_and_comes_out"],
    ),
    ("the service needs another server to start", &["tests/it/predecessor.rs a_node_reaches_for_nobody"]),
    (
        "empty content over gRPC or REST is a file of the server's",
        &[
            "tests/it/grpc.rs a_stock_client_learns_and_uses_every_call",
            "tests/it/predecessor.rs an_empty_upload_is_an_empty_file",
        ],
    ),
    // The chain.
    ("any key spends any output", &["ledger/src/chain/tests/coins.rs only_the_owner_spends"]),
    ("outputs may be more than inputs", &["ledger/src/chain/tests/coins.rs no_coin_is_made_or_spent_twice"]),
    (
        "an output is spent twice",
        &[
            "ledger/src/chain/tests/coins.rs no_coin_is_made_or_spent_twice",
            "ledger/src/chain/tests/coins.rs two_spenders_at_once_never_both_succeed",
        ],
    ),
    ("blocks are not checked", &["tests/it/damage.rs each_kind_of_damage_is_named_beside_a_node_that_serves"]),
    (
        "the stamp is not checked",
        &["ledger/src/fsck/tests.rs a_block_without_its_stamp_is_named_also_when_its_signature_holds"],
    ),
    (
        "the previous block's hash is not checked",
        &["ledger/src/fsck/tests.rs a_forged_header_is_named_also_when_its_stamp_and_signature_hold"],
    ),
    ("a coinbase may make any reward", &["ledger/src/fsck/tests.rs a_coinbase_of_another_reward_is_named"]),
    (
        "outputs move up when a sibling is spent",
        &["ledger/src/chain/tests/coins.rs an_output_keeps_its_place_when_its_sibling_is_spent"],
    ),
    (
        "keys and signatures lack their leading zeros, so that one in a hundred fails",
        &["ledger/src/chain/tests/coins.rs keys_and_signatures_have_one_length"],
    ),
    ("a long address is decoded for ever, an empty one panics", &["ledger/src/address.rs other_text_is_refused"]),
    (
        "mining a transaction that does not hold stops the node",
        &["tests/it/predecessor.rs what_cannot_be_mined_is_refused_and_the_node_goes_on"],
    ),
    (
        "the mempool and prepared transactions are used by several threads without a lock",
        &[
            "ledger/src/chain/tests/coins.rs two_spenders_at_once_never_both_succeed",
            "ledger/src/chain/tests.rs several_sealers_at_once_make_one_chain",
            "src/node/coins.rs many_signers_of_a_handle_make_one_transfer",
        ],
    ),
    (
        "anybody fills the memory with prepared transactions",
        &["src/node/coins.rs prepared_transfers_are_bounded_and_may_be_signed_again"],
    ),
    // The desktop.
    (
        "one key and one counter encrypt everything",
        &["ledger/src/wallet.rs a_sealed_wallet_opens_with_its_passphrase_alone"],
    ),
    ("a passphrase is hashed once", &["ledger/src/wallet.rs a_sealed_wallet_opens_with_its_passphrase_alone"]),
    ("altered ciphertext is not noticed", &["ledger/src/wallet.rs a_sealed_wallet_opens_with_its_passphrase_alone"]),
    (
        "a private key is sent to a server",
        &["tests/it/coins.rs keys_are_protected_and_can_be_moved", "tests/it/predecessor.rs a_node_reaches_for_nobody"],
    ),
    (
        "what is read, changed and written back loses what others wrote",
        &["tests/it/uploads.rs a_thousand_puts_at_once_are_all_on_the_ledger"],
    ),
    (
        "a file whose bytes are lost in one place is handed out",
        &["tests/it/bucket.rs damage_behind_the_bucket_is_found_and_not_handed_out"],
    ),
    (
        "names of more than 126 bytes are too long",
        &["tests/it/predecessor.rs names_may_have_255_bytes_and_any_but_two_of_them"],
    ),
    (
        "a passphrase is judged by its number",
        &["tests/it/predecessor.rs a_passphrase_of_zeros_is_one_and_an_empty_one_is_none"],
    ),
    (
        "the date of a file is read from a field that is not there",
        &["tests/it/predecessor.rs a_listing_tells_when_a_file_was_changed"],
    ),
    // All services.
    ("there is no TLS", &["tests/it/hostile.rs a_token_is_asked_for_where_there_is_one_and_tls_is_spoken"]),
    ("there is no login", &["tests/it/hostile.rs a_token_is_asked_for_where_there_is_one_and_tls_is_spoken"]),
    (
        "an error is 500 and the text of a panic",
        &[
            "tests/it/predecessor.rs errors_have_their_status_and_no_panic_is_told",
            "tests/it/coins.rs the_predecessors_chain_routes_answer",
        ],
    ),
];

#[test]
fn each_mistake_has_its_test() {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (mistake, tests) in MISTAKES {
        for test in tests {
            let (file, function) = test.split_once(' ').unwrap();
            let source = fs::read_to_string(package.join(file)).unwrap_or_else(|e| panic!("{file}: {e}"));
            let before = source.split_once(&format!("fn {function}(")).map(|(before, _)| before.trim_end());
            let is_test = before.is_some_and(|before| before.ends_with("#[test]"));
            assert!(is_test, "{mistake}: there is no test {function} in {file}");
        }
    }
}

#[test]
fn an_unknown_bucket_is_an_error_of_every_command() {
    let root = TestRoot::new();
    fs::write(root.outside().join("f"), "f").unwrap();
    for line in [
        "mount", "unmount", "delete", "list", "check", "log", "verify", "sync", "compact", "put f", "get g",
        "remove f", "search *",
    ] {
        for when in ["without a node", "with one"] {
            let ran = root.run(&format!("{line} nosuch --json")).expect(6);
            assert_eq!(ran.error().1, "bucket-unknown", "{line} {when}");
            if when == "without a node" {
                root.run("node").expect(0);
            } else {
                root.run("stop").expect(0);
            }
        }
    }
}

#[test]
fn no_bucket_is_outside_of_the_root() {
    let rest = Service::start(TestRoot::new());
    let root = &rest.root;
    let victim = root.path("victim");
    fs::create_dir(&victim).unwrap();
    fs::write(victim.join("precious"), "precious").unwrap();
    fs::create_dir(root.outside().join("victim")).unwrap();
    for name in ["../victim", "../../victim", "victim/..", "..", ".", "/victim", "a/b", "a\u{1}", ""] {
        for command in ["create", "delete", "mount", "unmount"] {
            let told = root.run_args(&[command, name, "--json"]);
            assert!([2, 6].contains(&told.code), "{command} {name:?}: {told:#?}");
        }
        let escaped: String = name.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let (status, reply) = rest.ask("POST", "/buckets", "", &json!({"data": {"origin": name}}).to_string());
        assert_eq!(status, 400, "{name:?}: {reply}");
        let (status, reply) = rest.ask("DELETE", &format!("/buckets/{escaped}"), "", "");
        assert!([400, 404, 405].contains(&status), "{name:?}: {status} {reply}");
    }
    assert_eq!(fs::read(victim.join("precious")).unwrap(), b"precious");
    assert!(root.outside().join("victim").is_dir());
    assert_eq!(root.run("list --json").expect(0).json()["buckets"], json!([]));
}

#[test]
fn creating_a_bucket_again_leaves_its_archive_alone() {
    let root = TestRoot::new();
    fs::write(root.outside().join("f"), "kept").unwrap();
    root.run("create a.zip").expect(0);
    root.run("put f a.zip").expect(0);
    let before = root.run("list a.zip --json").expect(0).json();
    for line in ["create a.zip", "create a.zip --kind lz", "create a.zip --kind loopback"] {
        root.run(line).expect(6);
    }
    assert_eq!(root.run("list a.zip --json").expect(0).json(), before);
    assert_eq!(root.run("get f a.zip -").expect(0).stdout, "kept");
    root.run("verify a.zip").expect(0);
}

#[test]
fn a_temporary_file_left_of_the_configuration_does_not_matter() {
    let root = TestRoot::new();
    root.run("create docs").expect(0);
    for left in ["wizedb.conf.tmp", "buckets/docs/wizefs.conf.tmp", "wizedb.tmp"] {
        fs::write(root.path(left), "{ torn").unwrap();
    }
    root.run("create other").expect(0);
    root.run("delete docs --yes").expect(0);
    let listed = root.run("list --json").expect(0).json();
    let names: Vec<_> = listed["buckets"].as_array().unwrap().iter().map(|bucket| bucket["origin"].clone()).collect();
    assert_eq!(names, ["other"]);
}

#[test]
fn commands_and_services_know_the_same() {
    let rest = Service::start(TestRoot::new());
    fs::write(rest.root.outside().join("f"), "by command").unwrap();
    rest.root.run("create later").expect(0);
    rest.root.run("put f later").expect(0);
    assert_eq!(rest.ask("GET", "/buckets/later/files/f", "", ""), (200, "by command".to_owned()));
    let body = json!({"data": {"name": "g", "content": "by service"}}).to_string();
    assert_eq!(rest.ask("POST", "/buckets/later/put", "", &body).0, 200);
    assert_eq!(rest.root.run("get g later -").expect(0).stdout, "by service");
}

#[test]
fn the_configuration_is_no_file_of_the_bucket() {
    let Some(root) = TestRoot::with_fuse() else { return };
    let rest = Service::start(root);
    rest.root.run("create docs").expect(0);
    rest.root.run("mount docs").expect(0);
    let kept = fs::read(rest.root.path("buckets/docs/wizefs.conf")).unwrap();
    for name in ["wizefs.conf", "..%2Fwizefs.conf", "../wizefs.conf"] {
        for method in ["GET", "DELETE"] {
            let (status, reply) = rest.ask(method, &format!("/buckets/docs/files/{name}"), "", "");
            assert!([400, 404].contains(&status), "{method} {name}: {status} {reply}");
        }
    }
    rest.root.run("get wizefs.conf docs -").expect(11);
    rest.root.run("remove wizefs.conf docs").expect(11);
    assert_eq!(fs::read_dir(rest.root.mnt("docs", "")).unwrap().count(), 0);
    assert_eq!(fs::read(rest.root.path("buckets/docs/wizefs.conf")).unwrap(), kept);
    // A file of that name is one like others.
    fs::write(rest.root.mnt("docs", "wizefs.conf"), "mine").unwrap();
    rest.root.run("remove wizefs.conf docs").expect(0);
    rest.root.run("unmount docs").expect(0);
}

/// System calls of a whole life: none connects to anything but this root's own socket.
#[test]
fn a_node_reaches_for_nobody() {
    let root = TestRoot::new();
    let trace = root.outside().join("trace");
    let is_there = Command::new("strace").arg("-V").output().is_ok_and(|output| output.status.success());
    if !is_there {
        eprintln!("SKIPPED, this test needs strace");
        return;
    }
    let traced = |line: &str| {
        let wizefs = root.command(&line.split(' ').collect::<Vec<_>>());
        let mut strace = Command::new("strace");
        strace.args(["-f", "-A", "-qq", "-e", "trace=connect,sendto,sendmsg", "-o"]).arg(&trace);
        strace.arg(wizefs.get_program()).args(wizefs.get_args()).current_dir(root.outside());
        strace.envs(wizefs.get_envs().filter_map(|(name, value)| Some((name, value?))));
        assert!(strace.output().unwrap().status.success(), "{line}");
    };
    for line in ["create docs", "wallet new safe", "send default safe 5 --minenow", "wallet show safe", "integrity"] {
        traced(line);
    }
    let calls = fs::read_to_string(&trace).unwrap();
    let abroad: Vec<&str> =
        calls.lines().filter(|call| call.contains("AF_INET") || call.contains("AF_INET6")).collect();
    assert!(abroad.is_empty(), "{abroad:?}");
}

#[test]
fn an_empty_upload_is_an_empty_file() {
    let rest = Service::start(TestRoot::new());
    rest.root.run("create docs").expect(0);
    // A file of this name is where the node runs: it must not be read in the upload's place.
    fs::write(rest.root.outside().join("passwd"), "of the server").unwrap();
    let form =
        "--EDGE\r\nContent-Disposition: form-data; name=\"filename\"; filename=\"passwd\"\r\n\r\n\r\n--EDGE--\r\n";
    let (status, reply) =
        rest.ask("POST", "/buckets/docs/putfile", "Content-Type: multipart/form-data; boundary=EDGE\r\n", form);
    assert_eq!(status, 200, "{reply}");
    let body = json!({"data": {"name": "other", "content": ""}}).to_string();
    assert_eq!(rest.ask("POST", "/buckets/docs/put", "", &body).0, 200);
    for name in ["passwd", "other"] {
        let listed = rest.root.run(&format!("list docs/{name} --json")).expect(0).json();
        assert_eq!(listed["entries"][0]["size"], 0, "{name}: {listed}");
        assert_eq!(rest.ask("GET", &format!("/buckets/docs/files/{name}"), "", ""), (200, String::new()));
    }
}

#[test]
fn what_cannot_be_mined_is_refused_and_the_node_goes_on() {
    let rest = Service::start(TestRoot::new());
    let own = rest.root.run("wallet show --json").expect(0).json()["address"].as_str().unwrap().to_owned();
    let other = rest.root.run("wallet new other").expect(0).stdout.trim().to_owned();
    for amount in [json!(1_000_001), json!(u64::MAX), json!(-1), json!(0), json!(1.5), json!("5"), json!(null)] {
        let body = json!({"from": own, "to": other, "amount": amount, "minenow": true}).to_string();
        let (status, reply) = rest.ask("POST", "/send", "", &body);
        assert_eq!(status, 400, "{amount}: {reply}");
    }
    let nothing = json!({"from": other, "to": own, "amount": 1, "minenow": true}).to_string();
    assert_eq!(rest.ask("POST", "/send", "", &nothing).0, 400);
    let before = rest.root.run("block --json").expect(0).json()["height"].as_u64().unwrap();
    rest.root.run("mine").expect(0);
    assert_eq!(rest.root.run("block --json").expect(0).json()["height"], before + 1);
    rest.root.run("integrity").expect(0);
}

#[test]
fn names_may_have_255_bytes_and_any_but_two_of_them() {
    let root = TestRoot::new();
    let bucket = "b".repeat(255);
    fs::write(root.outside().join("f"), "f").unwrap();
    root.run(&format!("create {bucket}")).expect(0);
    for name in ["n".repeat(255), "\u{e9}".repeat(127), "a b\n\"c\" \\ % ?#".to_owned()] {
        let target = format!("{bucket}/{name}");
        root.run_args(&["put", "f", &target]).expect(0);
        assert_eq!(root.run_args(&["get", &name, &bucket, "-"]).expect(0).stdout, "f");
    }
    root.run_args(&["put", "f", &format!("{bucket}/{}", "n".repeat(256))]).expect(11);
    root.run(&format!("create {}", "b".repeat(256))).expect(6);
    root.run(&format!("verify {bucket}")).expect(0);
}

#[test]
fn a_passphrase_of_zeros_is_one_and_an_empty_one_is_none() {
    let root = TestRoot::new();
    for (name, passphrase, code) in [("zeros", "0000\n", 0), ("empty", "\n", 12), ("nothing", "", 12)] {
        fs::write(root.outside().join(name), passphrase).unwrap();
        root.run(&format!("wallet new {name} --passfile {name}")).expect(code);
        assert_eq!(root.path(format!("wallets/{name}")).exists(), code == 0, "{name}");
    }
    fs::write(root.outside().join("number"), "0\n").unwrap();
    root.run("wallet export zeros --reveal --passfile number").expect(12);
    root.run("wallet export zeros --reveal --passfile zeros").expect(0);
}

#[test]
fn a_listing_tells_when_a_file_was_changed() {
    let root = TestRoot::new();
    root.run("create docs").expect(0);
    let file = root.outside().join("f");
    fs::write(&file, "f").unwrap();
    root.run("put f docs").expect(0);
    let stored = root.path("buckets/docs/data/f");
    let when = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
    fs::File::open(&stored).unwrap().set_modified(when).unwrap();
    let listed = root.run("list docs --json").expect(0).json();
    let modified = listed["entries"][0]["modified"].as_str().unwrap();
    assert!(modified.starts_with("2001-09-09T01:46:40"), "{listed}");
}

#[test]
fn errors_have_their_status_and_no_panic_is_told() {
    let rest = Service::start(TestRoot::new());
    rest.root.run("create docs").expect(0);
    for (method, path, body, expected) in [
        ("POST", "/buckets", "{\"data\":{\"origin\":\"docs\"}}", 409),
        ("POST", "/buckets", "no json", 400),
        ("DELETE", "/buckets/nosuch", "", 404),
        ("POST", "/buckets/nosuch/mount", "", 404),
        ("GET", "/buckets/docs/files/nosuch", "", 404),
        ("GET", "/wallet/nonsense", "", 400),
        ("POST", "/sign", "{}", 400),
        ("GET", "/no/such/route", "", 404),
        ("PUT", "/buckets", "", 405),
    ] {
        let (status, reply) = rest.ask(method, path, "", body);
        assert_eq!(status, expected, "{method} {path}: {reply}");
        let text = reply.to_lowercase();
        assert!(
            !text.contains("panic") && !text.contains(".rs:") && !text.contains("stack"),
            "{method} {path}: {reply}"
        );
    }
}
