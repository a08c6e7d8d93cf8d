//! Histories of paths through renames, in the log and in the mempool.

use super::*;

fn of(fixture: &Fixture, text: &str, order: Order) -> Vec<TxId> {
    let which = History::Path(fixture.bucket, path(text));
    let history = fixture.ledger.history(&which, order, None, 100).unwrap();
    history.into_iter().map(|logged| logged.txid).collect()
}

/// Runs `check` with nothing sealed, with part of it sealed, and with all of it sealed.
fn at_every_cut(ops: Vec<FileOp>, check: impl Fn(&Fixture, &[TxId])) {
    for cut in 0..=ops.len() {
        let mut fixture = Fixture::new();
        let mut txids = fixture.submit(ops[..cut].to_vec());
        fixture.seal();
        if cut < ops.len() {
            txids.extend(fixture.submit(ops[cut..].to_vec()));
        }
        check(&fixture, &txids);
    }
}

fn pick(txids: &[TxId], positions: &[usize]) -> Vec<TxId> {
    positions.iter().map(|position| txids[*position]).collect()
}

#[test]
fn a_file_is_followed_through_its_renames() {
    let ops =
        vec![put("x", 9), remove("x"), put("x", 1), put("old", 2), rename("x", "a"), put("x", 3), rename("a", "old")];
    at_every_cut(ops, |fixture, txids| {
        // Its own life under each name, and what it replaced; not the others that were called x.
        assert_eq!(of(fixture, "old", Order::NewestFirst), pick(txids, &[6, 4, 3, 2]));
        assert_eq!(of(fixture, "old", Order::OldestFirst), pick(txids, &[2, 3, 4, 6]));
        assert_eq!(of(fixture, "x", Order::NewestFirst), pick(txids, &[5, 4, 2, 1, 0]));
    });
}

#[test]
fn a_file_is_followed_through_renames_of_directories_above() {
    let ops =
        vec![put("d/e/f", 1), rename("d/e", "g"), put("g/f", 2), put("d/e/f", 7), rename("g", "d/h"), put("d/h/f", 3)];
    at_every_cut(ops, |fixture, txids| {
        assert_eq!(of(fixture, "d/h/f", Order::NewestFirst), pick(txids, &[5, 2, 0]));
        assert_eq!(of(fixture, "d/h", Order::NewestFirst), pick(txids, &[5, 4, 2, 1, 0]));
        assert_eq!(of(fixture, "d/e/f", Order::NewestFirst), pick(txids, &[3, 0]));
    });
}

#[test]
fn exchanged_and_removed_files_keep_their_histories() {
    let exchange = FileOp::Exchange { a: path("a"), b: path("b") };
    let ops = vec![put("a", 1), put("b", 2), exchange, put("d/f", 3), FileOp::Rmdir { path: path("d") }, put("b", 4)];
    at_every_cut(ops, |fixture, txids| {
        assert_eq!(of(fixture, "a", Order::NewestFirst), pick(txids, &[2, 1, 0]));
        assert_eq!(of(fixture, "b", Order::NewestFirst), pick(txids, &[5, 2, 1, 0]));
        assert_eq!(of(fixture, "d/f", Order::NewestFirst), pick(txids, &[3]));
    });
}

#[test]
fn whole_histories_page_in_both_orders() {
    let mut fixture = Fixture::new();
    fixture.submit((0..9).map(|n| put(&format!("f{n}"), n)).collect());
    fixture.seal();
    fixture.submit(vec![put("late", 1)]);
    let positions = |which: &History, order, from, limit| -> Vec<Option<u64>> {
        let history = fixture.ledger.history(which, order, from, limit).unwrap();
        history.iter().map(|logged| logged.index).collect()
    };
    for which in [History::All, History::Bucket(fixture.bucket)] {
        assert_eq!(positions(&which, Order::NewestFirst, None, 3), [None, Some(11), Some(10)]);
        assert_eq!(positions(&which, Order::NewestFirst, Some(4), 2), [Some(4), Some(3)]);
        assert_eq!(positions(&which, Order::OldestFirst, Some(10), 9), [Some(10), Some(11), None]);
        assert_eq!(positions(&which, Order::OldestFirst, Some(13), 9), []);
    }
    assert_eq!(positions(&History::All, Order::OldestFirst, None, 2), [Some(0), Some(1)]);
    assert_eq!(positions(&History::Bucket(fixture.bucket), Order::OldestFirst, None, 2), [Some(2), Some(3)]);
    let one = History::Path(fixture.bucket, path("f3"));
    assert_eq!(positions(&one, Order::NewestFirst, Some(5), 9), []);
    let all = History::Path(fixture.bucket, TreePath::root());
    assert_eq!(positions(&all, Order::NewestFirst, None, 99).len(), 11);
}
