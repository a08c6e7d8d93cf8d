//! Erased transactions: what goes, what stays, what still holds.

use super::*;
use crate::proof::ProofFile;

/// Seals after each operation; returns the transactions.
fn stated(fixture: &mut Fixture, ops: Vec<FileOp>) -> Vec<TxId> {
    let each = ops.into_iter().map(|op| {
        let txid = fixture.submit(vec![op])[0];
        fixture.seal().unwrap();
        txid
    });
    each.collect()
}

#[track_caller]
fn erased(fixture: &Fixture) -> u64 {
    let report = fixture.ledger.fsck(&mut |_| ControlFlow::Continue(())).unwrap();
    assert_eq!(report.problems, vec![]);
    report.erased
}

#[test]
fn a_replaced_version_is_erased_and_everything_else_holds() {
    let mut fixture = Fixture::new();
    let ops = vec![put("a/secret", 1), put("a/secret", 2), put("b", 3), remove("a/secret"), put("c", 4)];
    let txids = stated(&mut fixture, ops);
    let proofs: Vec<ProofFile> = txids.iter().map(|txid| fixture.ledger.prove(txid).unwrap().unwrap()).collect();
    let refused = |txid: &TxId| matches!(fixture.ledger.forget(txid), Err(LedgerError::Refused(_)));
    assert!(refused(&txids[2]), "the current version of b");
    assert!(refused(&crate::Hash::ZERO) && refused(&fixture.bucket));
    let old = fixture.ledger.transaction(&txids[0]).unwrap().unwrap();
    let gone = fixture.ledger.forget(&txids[0]).unwrap();
    assert_eq!((Some(gone.index), Some(gone.block)), (old.index, old.block));
    assert!(refused(&txids[0]));
    assert_eq!(erased(&fixture), 1);

    let now = fixture.ledger.transaction(&txids[0]).unwrap().unwrap();
    assert_eq!((now.txid, now.time_us, now.transaction), (old.txid, old.time_us, None));
    assert!(fixture.ledger.prove(&txids[0]).is_err());
    for (txid, proof) in txids.iter().zip(&proofs).skip(1) {
        assert_eq!(proof.check().unwrap().txid, *txid);
        assert!(fixture.ledger.prove(txid).unwrap().unwrap().check().is_ok());
    }
    assert!(matches!(fixture.ledger.bundle(0, 1), Ok(Bundle::Entries(_))));
    assert_eq!(fixture.ledger.bundle(0, gone.index as usize + 1).unwrap(), Bundle::Erased { index: gone.index });
    assert!(fixture.ledger.tile(0, 0, gone.index as usize + 1).unwrap().is_some());
    let history = History::Path(fixture.bucket, path("a/secret"));
    let left = fixture.ledger.history(&history, Order::OldestFirst, None, 9).unwrap();
    assert_eq!(left.iter().map(|logged| logged.txid).collect::<Vec<_>>(), [txids[1], txids[3]]);
    let stored = fixture.store.rows();
    assert!(!stored.0.values().any(|value| value.windows(6).any(|at| at == b"secret") && value.first() == Some(&0)));
}

fn delete(fixture: &Fixture) {
    let statement = Statement::DeleteBucket { bucket: fixture.bucket };
    fixture.ledger.submit(&options().wallet, vec![Draft { time_us: 9, statement }], &[]).unwrap();
}

/// Whether a row of the state, or its key, holds these bytes.
fn state_holds(rows: &Rows, secret: &[u8]) -> bool {
    let holds = |bytes: &[u8]| bytes.windows(secret.len()).any(|at| at == secret);
    rows.0.iter().any(|((column, key), value)| *column == Column::State && (holds(key) || holds(value)))
}

#[test]
fn what_a_deleted_bucket_held_is_erased_and_the_state_is_vouched_for() {
    let mut fixture = Fixture::new();
    let ops = vec![
        put("d/secret", 77),
        put("kept", 3),
        put("formerly", 78),
        rename("formerly", "private"),
        mkdir("d", 0o700),
    ];
    let txids = stated(&mut fixture, ops);
    delete(&fixture);
    assert!(matches!(fixture.ledger.forget(&txids[0]), Err(LedgerError::Refused(_))), "it is not sealed yet");
    fixture.seal().unwrap();
    for (number, txid) in (1..).zip([txids[0], txids[2], txids[3]]) {
        fixture.ledger.forget(&txid).unwrap();
        assert_eq!(erased(&fixture), number);
    }
    let rows = fixture.store.rows();
    for gone in [&b"secret"[..], b"formerly", b"private", &[77; 32], &[78; 32]] {
        assert!(!state_holds(&rows, gone), "{:?}", String::from_utf8_lossy(gone));
    }
    assert!(state_holds(&rows, b"kept"));
    // The chain goes on from there, and what stands for the rows is checked.
    create(&fixture.ledger, "docs").unwrap();
    fixture.seal().unwrap();
    assert_eq!(erased(&fixture), 3);
    assert_eq!(Ledger::open_store(fixture.store.clone(), options()).unwrap().poisoned(), None);
    let rows = fixture.store.rows();
    let hidden = rows.0.keys().filter(|(column, key)| *column == Column::State && key.first() == Some(&b'x'));
    let hidden: Vec<_> = hidden.cloned().collect();
    assert_eq!(hidden.len(), 2);
    for key in hidden {
        let mut altered = rows.clone();
        altered.0.get_mut(&key).unwrap()[7] ^= 1;
        let report = crate::fsck::check(&altered, None, &mut |_| ControlFlow::Continue(())).unwrap();
        assert!(!report.problems.is_empty());
    }
}

#[test]
fn a_chain_with_many_holes_is_still_vouched_for() {
    let mut fixture = Fixture::new();
    let ops =
        vec![put("x", 1), put("x", 2), rename("x", "y"), put("y", 3), remove("y"), put("z", 1), mkdir("d", 0o755)];
    let txids = stated(&mut fixture, ops);
    for (number, txid) in (1..).zip([txids[1], txids[0], txids[3], txids[2], txids[4]]) {
        fixture.ledger.forget(&txid).unwrap();
        assert_eq!(erased(&fixture), number);
    }
    let more = stated(&mut fixture, vec![put("x", 9), rename("z", "w"), put("y", 1)]);
    assert_eq!(erased(&fixture), 5);
    fixture.submit(vec![put("pending", 1)]);
    assert_eq!(erased(&fixture), 5);
    let again = Ledger::open_store(fixture.store.clone(), options()).unwrap();
    assert_eq!(again.poisoned(), None);
    assert!(again.prove(&more[0]).unwrap().unwrap().check().is_ok());
}

#[test]
fn damage_is_found_beside_an_erased_transaction() {
    let mut fixture = Fixture::new();
    let txids = stated(&mut fixture, vec![put("x", 1), put("x", 2), put("x", 3), put("z", 1)]);
    fixture.ledger.forget(&txids[0]).unwrap();
    let rows = fixture.store.rows();
    let keys: Vec<_> = rows
        .0
        .keys()
        .filter(|(column, _)| [Column::Transactions, Column::State, Column::Nodes].contains(column))
        .cloned()
        .collect();
    for key in keys {
        let mut altered = rows.clone();
        let value = altered.0.remove(&key).unwrap();
        let report = crate::fsck::check(&altered, None, &mut |_| ControlFlow::Continue(())).unwrap();
        assert!(!report.problems.is_empty(), "{key:?} removed");
        altered.0.insert(key.clone(), value);
        let value = altered.0.get_mut(&key).unwrap();
        let last = value.len() - 1;
        value[last] ^= 1;
        let report = crate::fsck::check(&altered, None, &mut |_| ControlFlow::Continue(())).unwrap();
        assert!(!report.problems.is_empty(), "{key:?}");
    }
}

#[test]
fn an_erasure_that_is_broken_off_is_ended_by_the_next_one() {
    let mut fixture = Fixture::new();
    let txid = stated(&mut fixture, vec![put("x", 1), put("x", 2)])[0];
    // The stub is written, what it stands for taken from the files, and that noted.
    for writes in 0..3 {
        let store = Arc::new(CrashStore::new(fixture.store.rows(), writes));
        let ledger = Ledger::open_store(store.clone(), options()).unwrap();
        assert!(ledger.forget(&txid).is_err(), "{writes}");
        let store = Arc::new(MemoryStore::new(store.restart(Unsynced::Kept)));
        let ledger = Ledger::open_store(store.clone(), options()).unwrap();
        let place = ledger.may_forget(&txid).unwrap();
        assert_eq!(ledger.forget(&txid).unwrap(), place, "{writes}");
        let mut left = 0;
        scan_prefix(&*store, Column::Meta, b"purge", &mut |_, _| {
            left += 1;
            ControlFlow::Continue(())
        })
        .unwrap();
        assert_eq!(left, 0, "{writes}");
        assert!(matches!(ledger.forget(&txid), Err(LedgerError::Refused(_))), "{writes}");
        assert_clean(&ledger);
    }
}
