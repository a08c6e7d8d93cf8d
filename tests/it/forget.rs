//! Erased transactions through the real program.

use crate::rest::Service;
use crate::root::TestRoot;
use std::fs;

/// The files of the ledger that hold these bytes.
fn holding(root: &TestRoot, secret: &[u8]) -> Vec<std::path::PathBuf> {
    let files = fs::read_dir(root.path("ledger")).unwrap().map(|file| file.unwrap().path());
    let holds = |path: &std::path::PathBuf| fs::read(path).unwrap().windows(secret.len()).any(|at| at == secret);
    files.filter(|path| path.is_file()).filter(holds).collect()
}

#[test]
fn what_a_deleted_bucket_held_can_be_erased() {
    let root = TestRoot::new();
    root.run("create docs").expect(0);
    fs::write(root.outside().join("f"), "content").unwrap();
    let put = root.run("put f docs/very-private-name --json").expect(0).json();
    let (txid, sha256) = (put["txid"].as_str().unwrap(), put["sha256"].as_str().unwrap());
    root.run(&format!("forget --yes {txid}")).expect(1);
    root.run("delete docs").expect(0);
    root.run(&format!("forget --yes {txid}")).expect(0);
    // Names at the borders of tables go when the ledger is opened again.
    let integrity = root.run("integrity --json").expect(0).json();
    assert_eq!((integrity["erased"].as_u64(), integrity["ok"].as_bool()), (Some(1), Some(true)));
    let hash: Vec<u8> = (0..32).map(|at| u8::from_str_radix(&sha256[at * 2..at * 2 + 2], 16).unwrap()).collect();
    assert_eq!(holding(&root, &hash), Vec::<std::path::PathBuf>::new());
    assert_eq!(holding(&root, b"very-private-name"), Vec::<std::path::PathBuf>::new());
    // A bucket of that name begins anew, and a rebuild keeps what stands for the erased.
    root.run("create docs").expect(0);
    root.run("put f docs").expect(0);
    fs::remove_file(root.path("ledger/tip")).unwrap();
    root.run("integrity --rebuild").expect(0);
    root.run("verify docs").expect(0);
}

#[test]
fn what_a_transaction_said_is_gone_and_the_rest_holds() {
    let rest = Service::start(TestRoot::new());
    let root = &rest.root;
    root.run("create docs").expect(0);
    let put = |content: &str| {
        fs::write(root.outside().join("f"), content).unwrap();
        let put = root.run("put f docs/very-private-name --json").expect(0).json();
        (put["txid"].as_str().unwrap().to_owned(), put["sha256"].as_str().unwrap().to_owned())
    };
    let ((first, sha256), (second, _)) = (put("one"), put("two"));
    root.run("proof docs/very-private-name -o p").expect(0);
    fs::copy(root.outside().join("f"), root.outside().join("kept")).unwrap();
    root.run(&format!("forget {first}")).expect(2);
    root.run(&format!("forget --yes {second}")).expect(1);
    root.run("forget --yes 00").expect(2);
    let gone = root.run(&format!("forget --yes {first} --json")).expect(0).json();
    assert_eq!(gone["txid"], first);
    root.run(&format!("forget --yes {first}")).expect(1);

    let integrity = root.run("integrity --json").expect(0).json();
    assert_eq!((integrity["erased"].as_u64(), integrity["ok"].as_bool()), (Some(1), Some(true)));
    let log = root.run("log --json").expect(0).json_lines();
    let line = log.iter().find(|line| line["txid"] == first).unwrap();
    assert_eq!((line["op"].as_str(), line["path"].as_str(), line["sha256"].as_str()), (Some("erased"), None, None));
    root.run("verify kept --proof p").expect(0);
    root.run("verify docs").expect(0);
    let size = log.len();
    assert_eq!(rest.ask("GET", &format!("/log/tile/entries/000.p/{size}"), "", "").0, 410);
    assert_eq!(rest.bytes(&format!("/log/tile/0/000.p/{size}")).0, 200);

    // The name is still a file's, and in none of the notes that were made before it was stored.
    let names = |file: &str| {
        let bytes = fs::read(root.path(file)).unwrap();
        bytes.windows(17).any(|at| at == b"very-private-name")
    };
    assert!(!names("buckets/docs/intents"));
    // Nor where no node runs, and the bucket is not open.
    root.run("stop").expect(0);
    let (third, _) = put("three");
    root.run("remove very-private-name docs").expect(0);
    assert!(names("buckets/docs/intents"));
    root.run(&format!("forget --yes {third}")).expect(0);
    assert!(!names("buckets/docs/intents"));

    // Its bytes are in no file of the ledger.
    let hash: Vec<u8> = (0..32).map(|at| u8::from_str_radix(&sha256[at * 2..at * 2 + 2], 16).unwrap()).collect();
    for file in
        fs::read_dir(root.path("ledger")).unwrap().map(|file| file.unwrap().path()).filter(|path| path.is_file())
    {
        let bytes = fs::read(&file).unwrap();
        assert!(!bytes.windows(32).any(|at| at == hash), "{}", file.display());
    }
    root.run("integrity").expect(0);
}
