//! The process or the machine stops at every write; what comes back is consistent and goes on.

use super::*;

/// A small life: buckets, changes, seals. Stops at the first failure and says what was acknowledged: the blocks that seal
/// returned, genesis before them, and the changes that were accepted.
fn live(store: Arc<dyn Store>) -> (Vec<Block>, u64) {
    let (mut sealed, mut accepted) = (Vec::new(), 0);
    let mut run = || -> std::result::Result<(), Box<dyn std::error::Error>> {
        let ledger = Ledger::open_store(store.clone(), options())?;
        sealed.push(ledger.tip());
        let bucket = create(&ledger, "docs")?;
        for round in 0..4u8 {
            for step in 0..3 {
                let change = accepted + 1;
                let ops =
                    [put(&format!("d{round}/f{step}"), step), put("same", round), rename("same", &format!("s{step}"))];
                let drafts = ops.into_iter().map(|op| drafted(bucket, change, op)).collect();
                ledger.submit(&options().wallet, drafts, &[(b"last".to_vec(), Some(change.to_be_bytes().to_vec()))])?;
                accepted = change;
            }
            ledger.sync()?;
            sealed.extend(ledger.seal(u64::MAX)?);
        }
        Ok(())
    };
    // A crash ends it early; what matters is what had been acknowledged.
    run().unwrap_or_default();
    (sealed, accepted)
}

/// Writes of that life: a crash after the last of them is none.
fn writes() -> u64 {
    (0..).find(|writes| live(Arc::new(CrashStore::new(Rows::default(), *writes))).0.len() == 5).unwrap()
}

#[test]
fn a_crash_at_any_write_loses_nothing_acknowledged() {
    for unsynced in [Unsynced::Kept, Unsynced::Lost] {
        for writes in 0..=writes() {
            let store = Arc::new(CrashStore::new(Rows::default(), writes));
            let (sealed, accepted) = live(store.clone());
            let rows = store.restart(unsynced);
            let ledger = Ledger::open_store(Arc::new(MemoryStore::new(rows)), options()).unwrap();
            assert_eq!(ledger.poisoned(), None);
            // The blocks that seal returned are there, and no others at their heights; one more may be, written as the crash came.
            let tip = ledger.tip().header.height;
            assert!((sealed.len().max(1) as u64).abs_diff(tip + 1) <= 1 && tip + 1 >= sealed.len() as u64, "{writes}");
            for block in sealed {
                assert_eq!(ledger.block(block.header.height).unwrap(), Some(block), "{writes}");
            }
            let last = ledger.local(b"last").unwrap();
            let last = last.map_or(0, |bytes| u64::from_be_bytes(bytes.try_into().unwrap()));
            if unsynced == Unsynced::Kept {
                assert!(last >= accepted, "{writes}");
            }
            // Rows and transactions came back together: the last change on the ledger is the row's.
            if let Some(bucket) = ledger.bucket_named("docs").unwrap() {
                let history = ledger.history(&History::Bucket(bucket.id), Order::NewestFirst, None, 1).unwrap();
                let newest = history[0].transaction.as_ref().and_then(|transaction| transaction.file());
                assert_eq!(newest.map_or(0, |file| file.change), last);
                let next = vec![drafted(bucket.id, last + 1, put("after", 1))];
                ledger.submit(&options().wallet, next, &[]).unwrap();
                ledger.seal(u64::MAX).unwrap().unwrap();
            }
            assert_clean(&ledger);
        }
    }
}
