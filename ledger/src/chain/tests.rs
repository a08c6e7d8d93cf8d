//! The ledger as a whole, on stores in memory.

use super::*;
use crate::mempool::{Draft, Statement};
use crate::state::row;
use crate::store::crash::{CrashStore, Unsynced};
use crate::store::memory::{MemoryStore, Rows};
use crate::store::{Batch, Durability};
use crate::transaction::{BucketKind, Cause, Content, Evidence, FileOp, Hashes, Put};

mod coins;
mod crashes;
mod forgets;
mod histories;
mod hostile;
mod paths;
mod proofs;

pub(crate) fn options() -> OpenOptions {
    let wallet = Wallet::from_secret(&[1; 32]).unwrap();
    OpenOptions { create: true, stamp_bits: 4, ..OpenOptions::new(wallet, LogKey::from_seed(&[2; 32])) }
}

pub(crate) fn path(text: &str) -> TreePath {
    TreePath::new(text).unwrap()
}

pub(crate) fn put(text: &str, content: u8) -> FileOp {
    let hashes = Some(Hashes { blake3: [content; 32], sha256: [content; 32] });
    FileOp::Put(Put {
        path: path(text),
        content: Content::File { size: content.into(), hashes },
        mode: 0o644,
        uid: 1000,
        gid: 1000,
        mtime_ns: 5,
        evidence: Evidence::Lease,
    })
}

pub(crate) fn remove(text: &str) -> FileOp {
    FileOp::Remove { path: path(text) }
}

pub(crate) fn rename(from: &str, to: &str) -> FileOp {
    FileOp::Rename { from: path(from), to: path(to) }
}

pub(crate) fn mkdir(text: &str, mode: u32) -> FileOp {
    FileOp::Mkdir { path: path(text), mode }
}

/// A ledger in memory with one bucket.
pub(crate) struct Fixture {
    pub(crate) ledger: Ledger,
    pub(crate) store: Arc<MemoryStore>,
    pub(crate) bucket: BucketId,
    change: u64,
}

impl Fixture {
    pub(crate) fn new() -> Fixture {
        let store = Arc::new(MemoryStore::default());
        let ledger = Ledger::open_store(store.clone(), options()).unwrap();
        let bucket = create(&ledger, "docs").unwrap();
        Fixture { ledger, store, bucket, change: 0 }
    }

    pub(crate) fn drafts(&mut self, ops: Vec<FileOp>) -> Vec<Draft> {
        let draft = |op| {
            self.change += 1;
            drafted(self.bucket, self.change, op)
        };
        ops.into_iter().map(draft).collect()
    }

    pub(crate) fn submit(&mut self, ops: Vec<FileOp>) -> Vec<TxId> {
        let drafts = self.drafts(ops);
        self.ledger.submit(&options().wallet, drafts, &[]).unwrap()
    }

    pub(crate) fn seal(&self) -> Option<Block> {
        self.ledger.seal(u64::MAX).unwrap()
    }

    /// Every path with what is recorded there, from the walk.
    pub(crate) fn tree(&self) -> Vec<String> {
        let mut tree = Vec::new();
        let mut visit = |path: &TreePath, entry: &crate::state::Entry| {
            tree.push(format!("{path}{}", if entry.is_directory() { "/" } else { "" }));
            ControlFlow::Continue(())
        };
        self.ledger.entries(&self.bucket, &mut visit).unwrap();
        tree
    }
}

pub(crate) fn drafted(bucket: BucketId, change: u64, op: FileOp) -> Draft {
    Draft { time_us: 7, statement: Statement::File { bucket, change, cause: Cause::Mount, op } }
}

pub(crate) fn create(ledger: &Ledger, name: &str) -> Result<BucketId> {
    let name = crate::codec::Label::new(name).unwrap();
    let statement = Statement::CreateBucket { name, kind: BucketKind::Loopback };
    Ok(ledger.submit(&options().wallet, vec![Draft { time_us: 1, statement }], &[])?[0])
}

pub(crate) fn assert_clean(ledger: &Ledger) {
    let report = ledger.fsck(&mut |_| ControlFlow::Continue(())).unwrap();
    assert_eq!(report.problems, vec![]);
    assert_eq!((report.height, report.transactions), (ledger.tip().header.height, ledger.size()));
}

#[test]
fn a_chain_starts_grows_and_opens_again() {
    let mut fixture = Fixture::new();
    assert_eq!(fixture.ledger.size(), 1);
    assert_eq!(fixture.ledger.pending(), Pending { first: 0, next: 1 });
    let block = fixture.seal().unwrap();
    assert_eq!((block.header.height, block.header.count), (1, 2));
    assert!(fixture.seal().is_none());
    fixture.submit(vec![put("a/b", 1), mkdir("a", 0o755), put("a/b", 2), rename("a", "c"), remove("never")]);
    assert_eq!(fixture.tree(), ["c/", "c/b"]);
    let before = fixture.seal().unwrap();
    assert!(before.hash().leading_zero_bits() >= 4 && before.signature_holds());
    fixture.submit(vec![put("pending", 3)]);
    assert_clean(&fixture.ledger);
    let again = Ledger::open_store(fixture.store.clone(), options()).unwrap();
    assert_eq!(again.tip(), before);
    assert_eq!(again.pending(), fixture.ledger.pending());
    assert_eq!(again.poisoned(), None);
    let counts = again.bucket_named("docs").unwrap().unwrap().counts;
    assert_eq!((counts.files, counts.directories, counts.bytes), (2, 1, 5));
    assert_eq!(again.balance(&options().wallet.address()).unwrap(), 1_000_020);
    again.seal(u64::MAX).unwrap().unwrap();
    assert_clean(&again);
}

#[test]
fn other_keys_and_absent_ledgers_are_refused() {
    let fixture = Fixture::new();
    let stranger = Wallet::from_secret(&[3; 32]).unwrap();
    let wrong = |options| Ledger::open_store(fixture.store.clone(), options).err();
    assert!(matches!(
        wrong(OpenOptions { wallet: stranger.clone(), ..options() }),
        Some(OpenError::WrongKey("wallet"))
    ));
    let log_key = LogKey::from_seed(&[9; 32]);
    assert!(matches!(wrong(OpenOptions { log_key, ..options() }), Some(OpenError::WrongKey("log key"))));
    let absent = Ledger::open_store(Arc::new(MemoryStore::default()), OpenOptions { create: false, ..options() });
    assert!(matches!(absent.err(), Some(OpenError::Absent)));
    let drafts = vec![drafted(fixture.bucket, 1, put("a", 1))];
    assert!(matches!(fixture.ledger.submit(&stranger, drafts, &[]), Err(LedgerError::Refused(_))));
}

#[test]
fn a_ledger_whose_genesis_rotted_is_damaged_and_not_absent_or_anothers() {
    let fixture = Fixture::new();
    let stranger = Wallet::from_secret(&[3; 32]).unwrap();
    let other = Genesis { wallet: *stranger.public(), ..fixture.ledger.genesis().clone() };
    let why = |genesis: Option<Vec<u8>>, options| {
        let store = MemoryStore::new(fixture.store.rows());
        let mut batch = Batch::default();
        match genesis {
            Some(bytes) => batch.put(Column::Meta, GENESIS, bytes),
            None => batch.delete(Column::Meta, GENESIS),
        }
        store.write(batch, Durability::Synced).unwrap();
        match Ledger::open_store(Arc::new(store), options).err() {
            Some(OpenError::Damaged(why)) => why,
            opened => panic!("{opened:?}"),
        }
    };
    assert_eq!(why(Some(encode(&other)), options()), "the genesis parameters are not those of the last block");
    // Not even where a new chain may be made.
    assert_eq!(why(None, options().create()), "the genesis parameters are missing");
    assert!(why(Some(b"\x01x".to_vec()), options()).starts_with("genesis parameters: malformed"));
    let newer = [&[2], &encode(fixture.ledger.genesis())[1..]].concat();
    assert!(why(Some(newer), options()).starts_with("genesis parameters: of version 2: written by a newer program"));
}

#[test]
fn a_refused_batch_leaves_nothing() {
    let mut fixture = Fixture::new();
    fixture.seal();
    let before = fixture.store.rows().0;
    let drafts = fixture.drafts(vec![put("a", 1), rename("nothing", "b")]);
    let rows = [(b"key".to_vec(), Some(b"value".to_vec()))];
    assert!(matches!(fixture.ledger.submit(&options().wallet, drafts, &rows), Err(LedgerError::Refused(_))));
    assert_eq!(fixture.store.rows().0, before);
    assert_eq!(fixture.tree(), Vec::<String>::new());
    assert!(matches!(create(&fixture.ledger, "docs"), Err(LedgerError::Refused(_))));
    fixture.submit(vec![put("a", 1)]);
    fixture.seal();
    assert_clean(&fixture.ledger);
}

#[test]
fn sequences_are_gapless_and_priors_chain() {
    let mut fixture = Fixture::new();
    let many = (0..40).map(|number| put("same", number)).collect();
    let txids = fixture.submit(many);
    fixture.seal();
    fixture.submit(vec![put("same", 99)]);
    let mut prior = None;
    for (sequence, txid) in (1..).zip(&txids) {
        let logged = fixture.ledger.transaction(txid).unwrap().unwrap();
        let transaction = logged.transaction.unwrap();
        assert_eq!(transaction.file().unwrap().prior, prior);
        let crate::transaction::Envelope::Authored(authored) = &transaction.envelope else { panic!("authored") };
        assert_eq!(authored.sequence, sequence);
        assert_eq!((logged.index, logged.block), (Some(sequence + 2), Some(1)));
        prior = Some(*txid);
    }
    let entry = fixture.ledger.entry(&fixture.bucket, &path("same")).unwrap().unwrap();
    let last = fixture.ledger.transaction(&entry.txid).unwrap().unwrap();
    assert_eq!(last.transaction.unwrap().file().unwrap().prior, prior);
    assert_eq!((last.index, last.block), (None, None));
}

#[test]
fn private_rows_travel_with_their_batch() {
    let mut fixture = Fixture::new();
    let drafts = fixture.drafts(vec![put("a", 1)]);
    let rows = [(b"t/a".to_vec(), Some(b"1".to_vec())), (b"t/b".to_vec(), Some(b"2".to_vec()))];
    fixture.ledger.submit(&options().wallet, drafts, &rows).unwrap();
    fixture.ledger.write_local(&[(b"t/a".to_vec(), None), (b"u".to_vec(), Some(b"3".to_vec()))]).unwrap();
    assert_eq!(fixture.ledger.local(b"t/a").unwrap(), None);
    let mut seen = Vec::new();
    let mut visit = |key: &[u8], value: &[u8]| {
        seen.push((key.to_vec(), value.to_vec()));
        ControlFlow::Continue(())
    };
    fixture.ledger.local_scan(b"t/", &mut visit).unwrap();
    assert_eq!(seen, [(b"t/b".to_vec(), b"2".to_vec())]);
}

#[test]
fn a_cut_seals_a_prefix_and_tells_the_changes_below_it() {
    let mut fixture = Fixture::new();
    let other = create(&fixture.ledger, "other").unwrap();
    fixture.submit(vec![put("a", 1), put("b", 2)]);
    let cut = fixture.ledger.pending().next;
    fixture.submit(vec![put("c", 3)]);
    fixture.ledger.submit(&options().wallet, vec![drafted(other, 1, put("x", 1))], &[]).unwrap();
    assert_eq!(fixture.ledger.pending_changes(cut), [(fixture.bucket, 2)]);
    let mut all = vec![(fixture.bucket, 3), (other, 1)];
    all.sort_unstable();
    assert_eq!(fixture.ledger.pending_changes(u64::MAX), all);
    fixture.ledger.seal(cut).unwrap().unwrap();
    assert_eq!(fixture.ledger.pending(), Pending { first: cut, next: cut + 2 });
    assert_eq!(fixture.tree(), ["a", "b", "c"]);
    assert_clean(&fixture.ledger);
    fixture.ledger.truncate_pending(cut + 1, &[(b"k".to_vec(), Some(vec![]))]).unwrap();
    assert_eq!(fixture.ledger.pending(), Pending { first: cut, next: cut + 1 });
    assert_eq!(fixture.ledger.pending_from(0).len(), 1);
    assert_eq!(fixture.ledger.local(b"k").unwrap(), Some(vec![]));
    fixture.ledger.submit(&options().wallet, vec![drafted(other, 1, put("y", 1))], &[]).unwrap();
    fixture.seal();
    assert_clean(&fixture.ledger);
    assert_eq!(fixture.ledger.list(&other, &TreePath::root()).unwrap().unwrap().len(), 1);
}

#[test]
fn a_full_mempool_blocks_until_a_seal_and_loses_nothing() {
    let store = Arc::new(MemoryStore::default());
    let ledger = Ledger::open_store(store, OpenOptions { mempool_limit: 4, ..options() }).unwrap();
    let bucket = create(&ledger, "docs").unwrap();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for change in 1..=50 {
                let op = put(&format!("f{change}"), 1);
                ledger.submit(&options().wallet, vec![drafted(bucket, change, op)], &[]).unwrap();
            }
        });
        while !writer.is_finished() {
            let pending = ledger.wait_pending(4, Duration::from_millis(20));
            assert!(pending.count() <= 4);
            ledger.seal(pending.next).unwrap();
        }
    });
    ledger.seal(u64::MAX).unwrap();
    assert_eq!(ledger.bucket(&bucket).unwrap().unwrap().counts.files, 50);
    assert_clean(&ledger);
}

#[test]
fn a_clock_that_goes_back_does_not_take_blocks_along() {
    // A chain that was made while the clock was a day ahead.
    let store = Arc::new(MemoryStore::default());
    let ahead = now_us() + 86_400_000_000;
    let options = options();
    let genesis = Genesis { time_us: ahead, ..Ledger::open_store(store.clone(), options.clone()).unwrap().genesis };
    let store = Arc::new(MemoryStore::default());
    let batch = seal::genesis_block(&*store, &genesis, &options.wallet, &options.log_key).unwrap();
    store.write(batch, crate::store::Durability::Synced).unwrap();
    let ledger = Ledger::open_store(store, options).unwrap();
    create(&ledger, "docs").unwrap();
    let block = ledger.seal(u64::MAX).unwrap().unwrap();
    assert_eq!((block.header.height, block.header.time_us), (1, ahead));
    assert_eq!(ledger.seal_always(u64::MAX).unwrap().header.time_us, ahead);
    assert_clean(&ledger);
}

#[test]
fn nothing_is_sealed_upon_a_damaged_node_of_the_state_map() {
    let mut fixture = Fixture::new();
    let all = |content: u8| (0..40).map(|number| put(&format!("{number}"), content)).collect::<Vec<_>>();
    fixture.submit(all(1));
    fixture.seal().unwrap();
    let again = fixture.drafts(all(2));
    let rows = fixture.store.rows();
    let is_entry = |(column, row): &(Column, Vec<u8>)| *column == Column::State && row[0] == b'e';
    let entries: Vec<_> = rows.0.keys().filter(|key| is_entry(key)).filter_map(|(_, row)| row::map_key(row)).collect();
    // Leaves that are about to change, and the inner nodes above them: the others, as the bucket's, nobody reads.
    let nibble = |bytes: &[u8], at: usize| bytes[at / 2] >> (4 - at % 2 * 4) & 15;
    let is_above = |key: &[u8], entry: &[u8]| (0..key[0].into()).all(|at| nibble(&key[1..], at) == nibble(entry, at));
    let is_read = |key: &[u8], node: &[u8]| match node[8] {
        1 => entries.iter().any(|entry| is_above(key, &entry.0)),
        _ => entries.iter().any(|entry| entry.0 == node[9..41]),
    };
    let nodes =
        rows.0.iter().filter(|((column, key), node)| *column == Column::Nodes && key[0] > 0 && is_read(key, node));
    let nodes: Vec<_> = nodes.map(|(key, _)| key.clone()).collect();
    assert!(nodes.len() > 40);
    for node in nodes {
        let mut altered = rows.clone();
        // In the hash of a child, or in the key of a leaf.
        altered.0.get_mut(&node).unwrap()[12] ^= 1;
        let ledger = Ledger::open_store(Arc::new(MemoryStore::new(altered)), options()).unwrap();
        ledger.submit(&options().wallet, again.clone(), &[]).unwrap();
        let height = ledger.tip().header.height;
        assert!(ledger.seal(u64::MAX).is_err(), "{node:?}");
        assert!(ledger.poisoned().is_some() && ledger.tip().header.height == height, "{node:?}");
    }
}

#[test]
fn several_sealers_at_once_make_one_chain() {
    let mut fixture = Fixture::new();
    let mut blocks = Vec::new();
    for round in 0..10u8 {
        fixture.submit((0..20).map(|number| put(&format!("{round}/{number}"), number)).collect());
        let ledger = &fixture.ledger;
        std::thread::scope(|scope| {
            let seal = |number: usize| match number % 2 {
                0 => ledger.seal(u64::MAX).unwrap(),
                _ => ledger.seal_always(u64::MAX).map(Some).unwrap(),
            };
            let running: Vec<_> = (0..4).map(|number| scope.spawn(move || seal(number))).collect();
            blocks.extend(running.into_iter().filter_map(|thread| thread.join().unwrap()));
        });
    }
    let heights: std::collections::BTreeSet<u64> = blocks.iter().map(|block| block.header.height).collect();
    assert_eq!(heights.len(), blocks.len(), "two blocks of one height");
    assert_eq!(heights.last(), Some(&fixture.ledger.tip().header.height));
    for block in blocks {
        assert_eq!(fixture.ledger.block(block.header.height).unwrap(), Some(block));
    }
    assert_clean(&fixture.ledger);
}

#[test]
fn proofs_and_checkpoints_verify_offline() {
    let mut fixture = Fixture::new();
    let mut roots = vec![(fixture.ledger.size(), fixture.ledger.tip().header.log_root)];
    for round in 0..6u8 {
        let txids = fixture.submit((0..=round).map(|n| put(&format!("{round}/{n}"), n)).collect());
        fixture.seal();
        let tip = fixture.ledger.tip().header;
        let vkey = Vkey::parse(&fixture.ledger.vkey()).unwrap();
        let checkpoint = Checkpoint::verify(&fixture.ledger.checkpoint(), &vkey).unwrap();
        assert_eq!((checkpoint.size, checkpoint.root), (tip.log_size, tip.log_root));
        for txid in txids {
            let index = fixture.ledger.transaction(&txid).unwrap().unwrap().index.unwrap();
            let proof = fixture.ledger.inclusion_proof(index, tip.log_size).unwrap();
            assert!(proof.verify(&txid, &checkpoint.root));
        }
        for (size, root) in &roots {
            let proof = fixture.ledger.consistency_proof(*size, tip.log_size).unwrap();
            assert!(proof.verify(root, &checkpoint.root));
        }
        roots.push((tip.log_size, tip.log_root));
    }
    let size = fixture.ledger.size();
    assert!(matches!(fixture.ledger.inclusion_proof(size, size), Err(LedgerError::Refused(_))));
    assert!(matches!(fixture.ledger.consistency_proof(0, size + 1), Err(LedgerError::Refused(_))));
}

#[test]
fn a_full_disk_refuses_and_later_writes_work_again() {
    let store = Arc::new(CrashStore::new(Rows::default(), u64::MAX));
    let ledger = Ledger::open_store(store.clone(), options()).unwrap();
    let bucket = create(&ledger, "docs").unwrap();
    let submit = |change, op| ledger.submit(&options().wallet, vec![drafted(bucket, change, op)], &[]);
    submit(1, put("a", 1)).unwrap();
    store.set_full(true);
    assert!(matches!(submit(2, put("b", 1)), Err(LedgerError::Full)));
    assert!(matches!(ledger.seal(u64::MAX), Err(LedgerError::Full)));
    assert_eq!(ledger.space(), Space::Full);
    assert!(ledger.entry(&bucket, &path("b")).unwrap().is_none());
    store.set_full(false);
    submit(2, put("b", 1)).unwrap();
    ledger.seal(u64::MAX).unwrap().unwrap();
    assert_eq!(ledger.space(), Space::Ample);
    assert_clean(&ledger);
    assert_eq!(ledger.bucket(&bucket).unwrap().unwrap().counts.files, 2);
}

/// Of a quota the free space of the disk knows nothing.
#[test]
fn a_disk_that_refuses_with_space_left_is_given_the_reserve_too() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(CrashStore::new(Rows::default(), u64::MAX));
    let mut ledger = Ledger::open_store(store.clone(), options()).unwrap();
    ledger.reserve = Some(Reserve::new(dir.path()));
    store.set_free(u64::MAX);
    let bucket = create(&ledger, "docs").unwrap();
    let submit = |change, op| ledger.submit(&options().wallet, vec![drafted(bucket, change, op)], &[]);
    let reserve = dir.path().join("reserve");
    assert_eq!((ledger.space(), reserve.exists()), (Space::Ample, true));
    store.set_full(true);
    assert!(matches!(submit(1, put("a", 1)), Err(LedgerError::Full)));
    assert!(!reserve.exists());
    store.set_full(false);
    // Where it was taken from something else is now: what frees space goes on, and nothing else.
    std::fs::create_dir(&reserve).unwrap();
    submit(1, put("a", 1)).unwrap();
    assert_eq!(ledger.space(), Space::Reserve);
    std::fs::remove_dir(&reserve).unwrap();
    assert_eq!((ledger.space(), std::fs::metadata(&reserve).unwrap().len()), (Space::Ample, 64 << 20));
}

#[test]
fn a_store_that_lost_its_end_on_a_full_disk_takes_no_more_writes() {
    let store = Arc::new(CrashStore::new(Rows::default(), u64::MAX));
    let ledger = Ledger::open_store(store.clone(), options()).unwrap();
    let bucket = create(&ledger, "docs").unwrap();
    let submit = |change, op| ledger.submit(&options().wallet, vec![drafted(bucket, change, op)], &[]);
    ledger.seal(u64::MAX).unwrap().unwrap();
    let older = store.restart(Unsynced::Kept);
    submit(1, put("a", 1)).unwrap();
    ledger.seal(u64::MAX).unwrap().unwrap();
    store.set_full(true);
    assert!(matches!(submit(2, put("b", 1)), Err(LedgerError::Full)));
    store.set_rows(older);
    store.set_full(false);
    let seen = ledger.revision();
    let refused = submit(2, put("b", 1));
    let why = "block 2 was sealed, but the store ends with block 1";
    assert!(matches!(&refused, Err(LedgerError::Poisoned(reason)) if reason == why), "{refused:?}");
    assert!(matches!(ledger.seal_always(u64::MAX), Err(LedgerError::Poisoned(_))));
    assert_ne!(ledger.revision(), seen, "what was read before holds no more");
}

#[test]
fn a_check_tells_what_was_met_in_service() {
    let fixture = Fixture::new();
    assert_clean(&fixture.ledger);
    fixture.ledger.poison("a write failed".into());
    let report = fixture.ledger.fsck(&mut |_| ControlFlow::Continue(())).unwrap();
    assert_eq!(report.problems.iter().map(|problem| &problem.problem[..]).collect::<Vec<_>>(), ["a write failed"]);
}
