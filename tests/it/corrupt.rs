//! A damaged ledger: whatever byte of it is lost, it is noticed, nothing is written on it, and nothing panics.

use crate::root::TestRoot;
use std::fs;
use std::path::{Path, PathBuf};

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    all.retain(|path| path.is_file() && path.metadata().unwrap().len() < 16 << 20);
    all.sort();
    all
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for file in files(from) {
        fs::copy(&file, to.join(file.file_name().unwrap())).unwrap();
    }
}

/// The content of a damaged file; none: it is gone.
type Damage = fn(&[u8]) -> Option<Vec<u8>>;

const DAMAGES: [(&str, Damage); 4] = [
    ("gone", |_| None),
    ("empty", |_| Some(Vec::new())),
    ("cut in half", |good| Some(good[..good.len() / 2].to_vec())),
    ("a bit in the middle", |good| {
        let mut bad = good.to_vec();
        bad[good.len() / 2] ^= 4;
        Some(bad)
    }),
];

fn txids(root: &TestRoot) -> Vec<String> {
    let lines = root.run("log --json").expect(0).json_lines();
    lines.iter().map(|line| line["txid"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn every_file_of_the_ledger_may_be_damaged_and_it_is_noticed_or_does_not_matter() {
    let root = TestRoot::new();
    root.run("create docs").expect(0);
    fs::write(root.outside().join("FILE"), vec![b'f'; 10_000]).unwrap();
    for i in 0..5 {
        root.run(&format!("put FILE docs/{i}")).expect(0);
    }
    let recorded = txids(&root);
    let (ledger, good) = (root.path("ledger"), root.outside().join("good"));
    copy(&ledger, &good);
    let (mut noticed, mut wrong) = (0, Vec::new());
    for file in files(&good) {
        let name = file.file_name().unwrap();
        let content = fs::read(&file).unwrap();
        // LOCK, LOG and an unused file are nobody's loss.
        for (what, damage) in DAMAGES {
            if content.is_empty() && what != "gone" {
                continue;
            }
            let when = format!("{name:?} {what}");
            match damage(&content) {
                None => fs::remove_file(ledger.join(name)).unwrap(),
                Some(bad) => fs::write(ledger.join(name), bad).unwrap(),
            }
            let checked = root.run("integrity --json");
            assert!(matches!(checked.code, 0 | 26), "{when}: {checked:#?}");
            let report = checked.json();
            assert_eq!(
                (report["ok"] == true, report["exit"].as_i64()),
                (checked.code == 0, Some(checked.code.into())),
                "{when}"
            );
            let put = root.run("put FILE docs/new --json");
            if checked.code == 26 {
                noticed += 1;
                assert!(!report["problems"].as_array().unwrap().is_empty(), "{when}: {report}");
                assert_eq!(put.code, 26, "{when}: written on a damaged ledger: {put:#?}");
                assert_eq!(put.error().1, "ledger-damaged", "{when}");
            } else {
                if put.code != 0 {
                    wrong.push(format!("{when}: integrity finds nothing, put says {}", put.stderr));
                    fs::remove_dir_all(&ledger).unwrap();
                    copy(&good, &ledger);
                    continue;
                }
                let now = txids(&root);
                let lost = recorded.iter().filter(|txid| !now.contains(txid)).count();
                if lost > 0 {
                    wrong.push(format!("{when}: {lost} transactions are lost, and integrity finds nothing"));
                }
                root.run("remove new docs").expect(0);
            }
            fs::remove_dir_all(&ledger).unwrap();
            copy(&good, &ledger);
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(noticed >= 4, "{noticed} damages noticed");
    // Restored from the copy, as long as nothing was written since.
    fs::remove_dir_all(&ledger).unwrap();
    copy(&good, &ledger);
    let restored = root.run("integrity --json");
    assert!(matches!(restored.code, 0 | 26), "{restored:#?}");
}

#[test]
fn a_flipped_bit_of_the_write_ahead_log_takes_no_block_with_it() {
    let root = TestRoot::new();
    root.run("create docs").expect(0);
    root.run("node").expect(0);
    fs::write(root.outside().join("FILE"), "x").unwrap();
    for i in 0..6 {
        root.run(&format!("put FILE docs/{i}")).expect(0);
    }
    let recorded = txids(&root);
    root.kill_node();
    let mut logs = files(&root.path("ledger"));
    logs.retain(|path| path.extension().is_some_and(|ending| ending == "log"));
    let log = logs.last().unwrap();
    let whole = fs::read(log).unwrap();
    let mut rotten = whole.clone();
    rotten[whole.len() / 3] ^= 1;
    fs::write(log, &rotten).unwrap();
    let checked = root.run("integrity").expect(26);
    assert!(checked.stdout.contains("was sealed") && checked.stderr.contains("from a copy"), "{checked:?}");
    for line in ["log", "status", "put FILE docs/7", "node"] {
        root.run(line).expect(26);
    }
    assert!(fs::read(log).unwrap() == rotten, "nothing is touched");
    fs::write(log, &whole).unwrap();
    assert_eq!(txids(&root), recorded);
    root.run("integrity").expect(0);
}
