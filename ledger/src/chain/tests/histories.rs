//! Histories of paths through renames, in the log and in the mempool.

use std::collections::BTreeSet;

use super::paths::some_op;
use super::*;
use crate::chain::history::{Trails, walk_back};
use proptest::prelude::*;

fn of(fixture: &Fixture, text: &str, order: Order) -> Vec<TxId> {
    let which = History::Path(fixture.bucket, path(text));
    let history = fixture.ledger.history(&which, order, None, usize::MAX).unwrap();
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

/// The history of a file by the plainest walk: each trail by itself, asking every transaction before it.
fn plainly(fixture: &Fixture, of: &TreePath) -> Vec<TxId> {
    let all = fixture.ledger.history(&History::Bucket(fixture.bucket), Order::OldestFirst, None, usize::MAX).unwrap();
    let mut trails = vec![(of.clone(), true, all.len())];
    let (mut seen, mut found) = (BTreeSet::new(), BTreeSet::new());
    while let Some(trail) = trails.pop() {
        if !seen.insert(trail.clone()) {
            continue;
        }
        let (here, whole, before) = trail;
        let last = all[..before].iter().enumerate().rev().find_map(|(at, logged)| {
            let file = logged.transaction.as_ref()?.file()?;
            let (path, other) = file.op.paths();
            let touches = |path: &TreePath| !path.is_root() && here.below(path).is_some();
            (touches(path) || other.is_some_and(touches)).then_some((at, file))
        });
        let Some((at, file)) = last else { continue };
        let mut on = Trails::new();
        if walk_back(here, whole, &file.op, file.prior.is_none(), &mut on) {
            found.insert(at);
        }
        trails.extend(on.into_iter().map(|(path, whole)| (path, whole, at)));
    }
    found.into_iter().rev().map(|at| all[at].txid).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn merged_trails_find_what_each_finds_by_itself(
        batches in prop::collection::vec((prop::collection::vec(some_op(), 1..30), any::<bool>()), 1..5),
    ) {
        let mut fixture = Fixture::new();
        let mut paths = BTreeSet::new();
        for (ops, seal) in batches {
            for op in ops.into_iter().filter(|op| op.check_shape().is_ok()) {
                let (path, other) = op.paths();
                paths.extend([Some(path), other].into_iter().flatten().filter(|path| !path.is_root()).cloned());
                let drafts = fixture.drafts(vec![op]);
                match fixture.ledger.submit(&options().wallet, drafts, &[]) {
                    Ok(_) | Err(LedgerError::Refused(_)) => {}
                    Err(error) => panic!("{error}"),
                }
            }
            if seal {
                fixture.seal();
            }
        }
        for path in paths {
            if fixture.ledger.entry(&fixture.bucket, &path).unwrap().is_some_and(|entry| entry.is_directory()) {
                continue;
            }
            let expected = plainly(&fixture, &path);
            let text = path.to_string();
            prop_assert_eq!(&of(&fixture, &text, Order::NewestFirst), &expected);
            let newest = fixture.ledger.history(&History::Path(fixture.bucket, path), Order::NewestFirst, None, 2).unwrap();
            prop_assert!(expected.iter().take(2).eq(newest.iter().map(|logged| &logged.txid)));
            let oldest = of(&fixture, &text, Order::OldestFirst);
            prop_assert!(oldest.iter().rev().eq(&expected));
        }
    }
}

#[test]
fn a_file_that_goes_to_and_fro_is_followed_in_as_many_steps_as_it_went() {
    let mut fixture = Fixture::new();
    let there_and_back = (0..500).flat_map(|_| [rename("a", "b"), rename("b", "a")]);
    let txids = fixture.submit(std::iter::once(put("a", 1)).chain(there_and_back).collect());
    fixture.seal();
    let visited = |order, from, most: usize| {
        let (mut looked, mut found) = (0, Vec::new());
        let history = History::Path(fixture.bucket, path("a"));
        fixture
            .ledger
            .visit_history(&history, order, from, &mut |logged| {
                looked += 1;
                found.extend(logged.map(|logged| logged.txid));
                if looked < most { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            })
            .unwrap();
        (looked, found)
    };
    let newest: Vec<TxId> = txids.iter().rev().copied().collect();
    assert_eq!(visited(Order::NewestFirst, None, usize::MAX), (txids.len(), newest));
    assert_eq!(visited(Order::OldestFirst, None, usize::MAX), (2 * txids.len(), txids.clone()));
    // Oldest first, the way back ends where the history is to begin; and it ends when nobody wants to know any more.
    let end = fixture.ledger.size();
    assert_eq!(visited(Order::OldestFirst, Some(end - 3), usize::MAX), (6, txids[txids.len() - 3..].to_vec()));
    assert_eq!(visited(Order::OldestFirst, None, 7), (7, Vec::new()));
}
