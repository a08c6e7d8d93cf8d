//! Rebuilds that are broken off.

use super::*;
use crate::fsck::rebuild::rebuild;
use crate::store::crash::{CrashStore, Unsynced};
use crate::store::rocks::RocksStore;

/// A chain of two tiles, with these of its transactions erased: 0 to 7 are in the first, 6 and 7 in a block in both.
fn holed(holes: &[usize]) -> Stored {
    let mut fixture = Fixture::new();
    let mut gone = Vec::new();
    for round in 0..5u8 {
        let txids = fixture.submit(vec![put("a", round), put("b/c", round), remove("a"), remove("b")]);
        gone.extend([txids[0], txids[2]]);
        fixture.submit((0..60).map(|number| put(&format!("many/{number}"), number)).collect());
        fixture.seal();
    }
    for hole in holes {
        fixture.ledger.forget(&gone[*hole]).unwrap();
    }
    fixture.submit(vec![put("late", 1)]);
    fixture.store.rows()
}

fn rebuilt(store: &dyn Store, checked: &Report) -> std::result::Result<(), StoreError> {
    rebuild(store, checked, &mut |_| ControlFlow::Continue(()))
}

/// Cuts a rebuild of damaged rows after each of its operations: another one always makes it whole.
fn survives_any_end(sound: &Stored, damaged: &Stored) {
    let before = checked(damaged);
    assert!(!before.problems.is_empty() && before.problems.iter().all(|problem| problem.derived), "{before:?}");
    for unsynced in [Unsynced::Kept, Unsynced::Lost] {
        for operations in 0.. {
            let store = CrashStore::new(damaged.clone(), operations);
            let ended = rebuilt(&store, &before);
            let left = store.restart(unsynced);
            let between = checked(&left);
            assert!(between.problems.iter().all(|problem| problem.derived), "{operations} {unsynced:?}: {between:?}");
            let store = MemoryStore::new(left);
            rebuilt(&store, &between).unwrap();
            let rows = store.rows();
            assert_eq!(checked(&rows).problems, vec![], "{operations} {unsynced:?}");
            assert!(rows.0 == sound.0, "{operations} {unsynced:?}: the rows are not those there were");
            if ended.is_ok() {
                assert!(operations > 5);
                break;
            }
        }
    }
}

#[test]
fn a_rebuild_may_be_broken_off_anywhere() {
    for holes in [&[][..], &[0, 7, 8, 9]] {
        let sound = holed(holes);
        assert_eq!((checked(&sound).problems, checked(&sound).erased), (vec![], holes.len() as u64));
        let mut damaged = sound.clone();
        damaged.clear(Column::Index);
        // Names and counts of buckets.
        damaged.0.retain(|(column, key), _| *column != Column::State || !b"nc".contains(&key[0]));
        survives_any_end(&sound, &damaged);
    }
}

#[test]
fn a_state_that_cannot_be_made_anew_beside_what_is_erased_is_not_said_to_be() {
    for (holes, is_curable) in [(&[][..], true), (&[0][..], false)] {
        let sound = holed(holes);
        for column in [Column::State, Column::Nodes] {
            let mut damaged = sound.clone();
            let is_it = |(found, key): &(Column, Vec<u8>)| *found == column && !b"nc".contains(&key[0]);
            let (_, value) = damaged.0.iter_mut().rfind(|(key, _)| is_it(key)).unwrap();
            *value.last_mut().unwrap() ^= 1;
            let problems = checked(&damaged).problems;
            let curable = problems.iter().all(|problem| problem.derived);
            assert!(!problems.is_empty() && curable == is_curable, "{column:?} {holes:?}: {problems:?}");
        }
    }
}

#[test]
fn the_hash_of_an_erased_transaction_is_damage_only_where_its_own_tile_is_lost() {
    let sound = holed(&[0, 7]);
    let without = |number| {
        let mut altered = sound.clone();
        altered.0.remove(&(Column::Tiles, crate::log::tile_key(0, number)));
        checked(&altered).problems
    };
    let named =
        |problem: &Problem| !problem.derived && problem.problem.contains("hash of the erased transaction is lost");
    assert!(without(0).iter().any(named), "{:?}", without(0));
    let problems = without(1);
    assert!(!problems.is_empty() && problems.iter().all(|problem| problem.derived), "{problems:?}");
}

/// A crash while a column is emptied leaves it missing.
#[test]
fn a_derived_column_that_is_missing_is_named_and_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    for column in Column::ALL.into_iter().filter(|column| column.is_derived()) {
        let ledger = Ledger::open(dir.path(), options()).unwrap();
        ledger.seal_always(u64::MAX).unwrap();
        assert_eq!(ledger.poisoned(), None);
        drop(ledger);
        RocksStore::open_existing(dir.path()).unwrap().drop_column(column).unwrap();
        assert!(matches!(Ledger::open(dir.path(), options()).err(), Some(OpenError::Damaged(_))), "{column:?}");
        let report = fsck_dir(dir.path(), &mut |_| ControlFlow::Continue(())).unwrap();
        assert!(!report.problems.is_empty() && report.problems.iter().all(|p| p.derived), "{column:?}: {report:?}");
        let report = rebuild_dir(dir.path(), &mut |_| ControlFlow::Continue(())).unwrap();
        assert_eq!(report.problems, vec![], "{column:?}");
    }
    assert_eq!(Ledger::open(dir.path(), options()).unwrap().poisoned(), None);
}
