//! Every kind of damage to the chain is named, with its first bad block and transaction, by a check beside a node that serves.

use crate::root::TestRoot;
use serde_json::Value;
use std::fs;
use std::ops::ControlFlow;
use wizefs_ledger::store::rocks::RocksStore;
use wizefs_ledger::store::{Batch, Column, Direction, Durability, Read, Store};
use wizefs_ledger::{Block, Transaction};

/// The ledger's rows, to be looked at and altered while no node has them.
struct Rows(RocksStore);

impl Rows {
    fn of(root: &TestRoot) -> Rows {
        Rows(RocksStore::open_existing(&root.path("ledger")).unwrap())
    }

    fn get(&self, column: Column, key: &[u8]) -> Vec<u8> {
        self.0.get(column, key).unwrap().unwrap()
    }

    fn set(&self, column: Column, key: &[u8], value: Option<Vec<u8>>) {
        let mut batch = Batch::default();
        match value {
            Some(value) => batch.put(column, key, value),
            None => batch.delete(column, key),
        }
        self.0.write(batch, Durability::Synced).unwrap();
    }

    fn flip(&self, column: Column, key: &[u8], at: impl Fn(usize) -> usize) {
        let mut bytes = self.get(column, key);
        let at = at(bytes.len());
        bytes[at] ^= 1;
        self.set(column, key, Some(bytes));
    }

    /// The first key of a column that is wanted, from the end.
    fn last(&self, column: Column, wanted: impl Fn(&[u8], &[u8]) -> bool) -> Vec<u8> {
        let mut found = None;
        let mut visit = |key: &[u8], value: &[u8]| match wanted(key, value) {
            true => {
                found = Some(key.to_vec());
                ControlFlow::Break(())
            }
            false => ControlFlow::Continue(()),
        };
        self.0.scan(column, &[0xff; 64], Direction::Backward, &mut visit).unwrap();
        found.unwrap()
    }
}

/// What is done to the rows, and the block, transaction and words of the first problem.
type Kind = (&'static str, fn(&Rows, u64, u64), bool, &'static str);

fn number(number: u64) -> [u8; 8] {
    number.to_be_bytes()
}

/// `block` is the third, `index` its last transaction.
const KINDS: [Kind; 11] = [
    ("a bit of a transaction", |rows, _, index| rows.flip(Column::Transactions, &number(index), |n| n / 2), true, ""),
    ("a bit of its signature", |rows, _, index| rows.flip(Column::Transactions, &number(index), |n| n - 1), true, ""),
    ("a bit of a header", |rows, block, _| rows.flip(Column::Blocks, &number(block), |_| 190), false, ""),
    ("a block's signature", |rows, block, _| rows.flip(Column::Blocks, &number(block), |n| n - 1), false, "signature"),
    ("a stamp", |rows, block, _| rows.flip(Column::Blocks, &number(block), |_| 231), false, "stamp"),
    ("a missing block", |rows, block, _| rows.set(Column::Blocks, &number(block), None), false, "missing"),
    ("a missing transaction", |rows, _, index| rows.set(Column::Transactions, &number(index), None), true, "missing"),
    (
        "reordered transactions",
        |rows, _, index| {
            let (a, b) =
                (rows.get(Column::Transactions, &number(index)), rows.get(Column::Transactions, &number(index + 2)));
            rows.set(Column::Transactions, &number(index), Some(b));
            rows.set(Column::Transactions, &number(index + 2), Some(a));
        },
        true,
        "",
    ),
    (
        "a replayed sequence number",
        |rows, _, index| {
            let before = rows.get(Column::Transactions, &number(index - 2));
            rows.set(Column::Transactions, &number(index), Some(before));
        },
        true,
        "sequence",
    ),
    ("a tile", |rows, _, index| rows.flip(Column::Tiles, &[0; 9], |_| index as usize * 32), true, "tile"),
    (
        "a row of the index",
        |rows, _, index| {
            let txid = Transaction::id(&rows.get(Column::Transactions, &number(index)));
            let key = rows.last(Column::Index, |key, _| key[0] == b't' && key[1..] == txid.0[..16]);
            rows.set(Column::Index, &key, None);
        },
        true,
        "index",
    ),
];

fn copy(from: &std::path::Path, to: &std::path::Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap).filter(|entry| entry.file_name() != "reserve") {
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[test]
fn each_kind_of_damage_is_named_beside_a_node_that_serves() {
    let root = TestRoot::new();
    root.run("create docs").expect(0);
    for name in ["a", "b", "c", "d", "e", "f"] {
        fs::write(root.outside().join(name), name).unwrap();
        root.run(&format!("put {name} docs")).expect(0);
    }
    root.run("integrity").expect(0);
    let (ledger, good) = (root.path("ledger"), root.outside().join("good"));
    copy(&ledger, &good);
    for (what, damage, names_transaction, words) in KINDS {
        let rows = Rows::of(&root);
        let block = Block::from_bytes(&rows.get(Column::Blocks, &number(3))).unwrap();
        let index = block.header.log_size - 1;
        damage(&rows, 3, index);
        drop(rows);
        root.run("node").expect(0);
        let report = root.run("integrity --json").expect(26).json();
        let first = &report["problems"][0];
        assert_eq!(first["block"], 3, "{what}: {report}");
        let expected = if names_transaction { Value::from(index) } else { Value::Null };
        assert_eq!(first["index"], expected, "{what}: {report}");
        assert!(first["problem"].as_str().unwrap().contains(words), "{what}: {report}");
        // It goes on serving what can be read, and signs nothing more.
        root.run("status").expect(0);
        assert_eq!(root.run("log -n 1 --json").expect(0).json_lines().len(), 1, "{what}");
        if what == "a missing transaction" {
            assert_eq!(root.run("block 3 --json").expect(26).error().1, "ledger-damaged");
        }
        assert_eq!(root.run("put a docs/new --json").expect(26).error().1, "ledger-damaged", "{what}");
        root.run("stop").expect(0);
        fs::remove_dir_all(&ledger).unwrap();
        copy(&good, &ledger);
    }
    root.run("integrity").expect(0);
}

#[test]
fn a_damaged_node_of_the_state_map_is_named_by_the_block_that_wrote_it() {
    let root = TestRoot::new();
    root.run("create docs").expect(0);
    for name in ["a", "b", "c", "d"] {
        fs::write(root.outside().join(name), name).unwrap();
        root.run(&format!("put {name} docs")).expect(0);
    }
    let rows = Rows::of(&root);
    // The deepest, which is a leaf.
    let key = rows.last(Column::Nodes, |_, _| true);
    let block = u64::from_be_bytes(*rows.get(Column::Nodes, &key).first_chunk().unwrap());
    rows.flip(Column::Nodes, &key, |n| n - 1);
    drop(rows);
    root.run("node").expect(0);
    let report = root.run("integrity --json").expect(26).json();
    let first = &report["problems"][0];
    assert_eq!((first["block"].as_u64(), first["derived"].as_bool()), (Some(block), Some(true)), "{report}");
    assert!(first["problem"].as_str().unwrap().contains("state map"), "{report}");
    root.run("stop").expect(0);
    root.run("integrity --rebuild").expect(0);
    root.run("put a docs/new").expect(0);
    root.run("integrity").expect(0);
}

#[test]
fn a_check_tells_how_far_it_is() {
    let rest = crate::rest::Service::start(TestRoot::new());
    rest.root.run("create docs").expect(0);
    let (status, lines) = rest.ask("GET", "/v1/integrity?progress=true", "", "");
    let last: Value = serde_json::from_str(lines.lines().last().unwrap()).unwrap();
    assert_eq!((status, last["ok"].as_bool(), last["exit"].as_u64()), (200, Some(true), Some(0)), "{lines}");
    let (_, whole) = rest.ask("GET", "/v1/integrity", "", "");
    assert_eq!(serde_json::from_str::<Value>(&whole).unwrap(), last);
}
