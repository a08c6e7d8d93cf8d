//! Damaged and forged bytes of every kind that is read: values or errors come of them, and never a panic.
//!
//! Sound bytes are edited and read; CI does so for seconds. `PROPTEST_CASES=1000000` makes an afternoon of it, and
//! `PROPTEST_RNG_SEED=7` the same afternoon again; a case that fails is kept in `proptest-regressions` and tried first from then on.
//! `WIZEFS_TEST_CASES` and `WIZEFS_TEST_SEED` do so where proptest is not used (*).
//!
//! | what is read | where it is fuzzed |
//! |---|---|
//! | transactions, erased ones, genesis, entries, buckets' rows | `edited_values_are_read_or_refused`, `arbitrary_bytes_never_panic` |
//! | blocks and headers | the same |
//! | checkpoints, notes, verifier keys, policies | `edited_proofs_are_read_or_refused`, `proofs.rs` any_text_is_read_without_a_panic |
//! | proofs, consistency proofs, state proofs | the same |
//! | addresses, public keys, signatures, paths | the same |
//! | key files | `edited_key_files_are_read_or_refused` |
//! | tiles, nodes of the state map, index, mempool, meta | `edited_stores_are_read_or_refused`, `fsck/tests.rs` a_flipped_bit_anywhere_is_found |
//! | the whole store as files | `ledger/tests/on_disk.rs` damaged_files_are_reported_and_never_panic, `ledger/tests/torn.rs` |
//! | addresses of tiles in URLs | `src/rest/proofs.rs` any_address_of_a_tile_is_read_or_refused (*) |
//! | bao slices | `src/slice.rs` edited_slices_are_refused (*) |
//! | intents | `fs/src/intent/record.rs` edited_intents_are_read_or_refused |
//! | zip archives, names in them, what is noted of commits | `fs/tests/it/hostile.rs`, `fs/tests/it/archive/foreign.rs`, `fs/src/zip/name.rs` |

use super::*;
use crate::block::Genesis;
use crate::codec::decode;
use crate::hash::decode_hex;
use crate::proof::{ConsistencyFile, Policy, ProofFile, StateProof};
use crate::state::{Bucket, BucketRecord, Counts, Entry};
use crate::transaction::Erased;
use crate::wallet::{PublicKey, Signature, WalletFile};
use proptest::prelude::*;
use sha2::{Digest, Sha256};

/// What happens to bytes at a place, which is taken modulo their length.
#[derive(Debug, Clone)]
enum Edit {
    Flip(usize, u8),
    Set(usize, Vec<u8>),
    Insert(usize, Vec<u8>),
    Cut(usize, usize),
    Truncate(usize),
    Double(usize, usize),
}

/// Bytes that decoders find hard: lengths without end, signs, separators, what is no text.
fn hard() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        Just(vec![0xff; 4]),
        Just(vec![0xff; 8]),
        Just(vec![0; 8]),
        Just(0x8000_0000u32.to_le_bytes().to_vec()),
        Just(b"/../".to_vec()),
        Just(b"\n".to_vec()),
        Just(b"\n\n".to_vec()),
        Just(b"=".to_vec()),
        Just("\u{2014} ".as_bytes().to_vec()),
        Just(b"18446744073709551616".to_vec()),
        prop::collection::vec(any::<u8>(), 1..9),
    ]
}

fn edits() -> impl Strategy<Value = Vec<Edit>> {
    let edit = prop_oneof![
        4 => (any::<usize>(), 0u8..8).prop_map(|(at, bit)| Edit::Flip(at, 1 << bit)),
        3 => (any::<usize>(), hard()).prop_map(|(at, bytes)| Edit::Set(at, bytes)),
        2 => (any::<usize>(), hard()).prop_map(|(at, bytes)| Edit::Insert(at, bytes)),
        1 => (any::<usize>(), 1usize..40).prop_map(|(at, length)| Edit::Cut(at, length)),
        1 => any::<usize>().prop_map(Edit::Truncate),
        1 => (any::<usize>(), 1usize..100).prop_map(|(at, length)| Edit::Double(at, length)),
    ];
    prop::collection::vec(edit, 1..6)
}

fn edited(good: &[u8], edits: &[Edit]) -> Vec<u8> {
    let mut bytes = good.to_vec();
    for edit in edits {
        let place = |at: &usize| at % (bytes.len() + 1);
        let end = |at: usize, length: usize| (at + length).min(bytes.len());
        match edit {
            Edit::Flip(at, mask) => {
                let at = place(at);
                bytes.get_mut(at).into_iter().for_each(|byte| *byte ^= mask);
            }
            Edit::Set(at, new) => {
                let at = place(at);
                let end = end(at, new.len());
                bytes[at..end].copy_from_slice(&new[..end - at]);
            }
            Edit::Insert(at, new) => {
                let at = place(at);
                bytes.splice(at..at, new.iter().copied());
            }
            Edit::Cut(at, length) => {
                let at = place(at);
                let end = end(at, *length);
                bytes.drain(at..end);
            }
            Edit::Truncate(at) => bytes.truncate(at % (bytes.len() + 1)),
            Edit::Double(at, length) => {
                let at = place(at);
                let again = bytes[at..end(at, *length)].to_vec();
                bytes.splice(at..at, again);
            }
        }
    }
    bytes
}

/// Every binary vector of FORMAT.md.
fn vectors() -> Vec<Vec<u8>> {
    let lines = include_str!("../../../testdata/vectors.txt").lines();
    let bytes = |line: &str| {
        let hex = line.split_once(' ')?.1;
        let mut bytes = vec![0; hex.len() / 2];
        decode_hex(hex, &mut bytes).map(|()| bytes)
    };
    lines.filter_map(bytes).filter(|bytes| bytes.len() > 64).collect()
}

/// One value has one encoding: what is read is written as it was.
fn same<T: borsh::BorshDeserialize + borsh::BorshSerialize>(bytes: &[u8]) {
    if let Ok(value) = decode::<T>(bytes) {
        assert_eq!(encode(&value), bytes);
    }
}

/// A ledger's rows with something of everything, and its proofs as texts.
fn sample() -> (Rows, Vec<String>) {
    let mut fixture = Fixture::new();
    let txids = fixture.submit(vec![put("a/b", 1), mkdir("d", 0o700), put("d/e", 2), put("a/b", 3), remove("d/e")]);
    let old = fixture.seal().unwrap().header.log_size;
    fixture.ledger.forget(&txids[0]).unwrap();
    let address = crate::address::AddressHash([9; 20]);
    let draft = fixture.ledger.draft_transfer(options().wallet.public(), address, 5).unwrap();
    fixture.ledger.submit_transfer(draft.signed_by(&options().wallet)).unwrap();
    fixture.seal();
    let state = fixture.ledger.prove_state(&fixture.bucket, &path("a/b")).unwrap();
    let texts = vec![
        fixture.ledger.prove(&txids[3]).unwrap().unwrap().to_text(),
        state.to_text(),
        fixture.ledger.prove_since(old).unwrap().to_text(),
        fixture.ledger.checkpoint(),
        fixture.ledger.vkey(),
        format!("log {}\nwitness w {}\ngroup g 1 w\nquorum g\n", fixture.ledger.vkey(), fixture.ledger.vkey()),
    ];
    fixture.submit(vec![put("late", 1), rename("a", "z")]);
    (fixture.store.rows(), texts)
}

/// Everything that reads a ledger, and what writes to it.
fn exercise(rows: Rows) {
    let Ok(ledger) = Ledger::open_store(Arc::new(MemoryStore::new(rows)), options()) else { return };
    let size = ledger.size().min(64);
    for index in 0..size {
        drop(ledger.inclusion_proof(index, ledger.size()));
        drop(ledger.consistency_proof(index, ledger.size()));
        drop(ledger.block_of(index));
        if let Ok(Some(logged)) = ledger.transaction_at(index) {
            drop(ledger.prove(&logged.txid));
            drop(ledger.transaction(&logged.txid));
        }
    }
    for level in 0..3 {
        drop(ledger.tile(level, 0, size as usize));
        drop(ledger.bundle(0, size as usize));
    }
    drop(ledger.history(&History::All, Order::NewestFirst, None, 100));
    let buckets: Vec<Bucket> = ledger.bucket_named("docs").into_iter().flatten().collect();
    for bucket in buckets {
        drop(ledger.entries(&bucket.id, &mut |_, _| ControlFlow::Continue(())));
        drop(ledger.history(&History::Path(bucket.id, path("z/b")), Order::OldestFirst, None, 100));
        drop(ledger.prove_state(&bucket.id, &path("z/b")));
        drop(ledger.submit(&options().wallet, vec![drafted(bucket.id, 9, put("z/b/new", 1))], &[]));
    }
    drop(ledger.balance(&options().wallet.address()));
    drop(ledger.seal(u64::MAX));
    let report = ledger.fsck(&mut |_| ControlFlow::Continue(())).unwrap();
    assert!(report.problems.is_empty() || ledger.poisoned().is_some(), "{report:?}");
}

proptest! {
    #[test]
    fn edited_values_are_read_or_refused(which in any::<prop::sample::Index>(), edits in edits()) {
        let seeds = vectors();
        let bytes = edited(which.get::<Vec<u8>>(&seeds), &edits);
        if let Ok(transaction) = Transaction::from_bytes(&bytes) {
            prop_assert_eq!(&transaction.to_bytes(), &bytes);
            // Whatever it says, a signature is judged.
            let _judged = transaction.signature_holds(&bytes);
        }
        if let Ok(block) = Block::from_bytes(&bytes) {
            prop_assert_eq!(&block.to_bytes(), &bytes);
            let _judged = block.signature_holds();
        }
        same::<Genesis>(&bytes);
        same::<Erased>(&bytes);
        same::<Entry>(&bytes);
        same::<BucketRecord>(&bytes);
        same::<Counts>(&bytes);
    }

    #[test]
    fn edited_proofs_are_read_or_refused(which in any::<prop::sample::Index>(), edits in edits()) {
        static SAMPLE: std::sync::LazyLock<Vec<String>> = std::sync::LazyLock::new(|| sample().1);
        let policy = Policy::parse(&SAMPLE[4]).unwrap();
        let bytes = edited(which.get::<String>(&SAMPLE).as_bytes(), &edits);
        let text = String::from_utf8_lossy(&bytes);
        if let Ok(proof) = ProofFile::parse(&text) {
            prop_assert_eq!(&proof.to_text(), &*text);
            if proof.check().is_ok() && matches!(policy.judge(&proof.checkpoint), Ok(crate::Trust::Trusted(_))) {
                // Lines of other signers may come and go; what ours signed may not.
                prop_assert_eq!(proof.bytes, ProofFile::parse(&SAMPLE[0]).unwrap().bytes);
            }
        }
        if let Ok(proof) = StateProof::parse(&text) {
            prop_assert_eq!(&proof.to_text(), &*text);
            drop(proof.check());
        }
        if let Ok(proof) = ConsistencyFile::parse(&text) {
            prop_assert_eq!(&proof.to_text(), &*text);
            drop(Checkpoint::unchecked(&SAMPLE[3]).map(|old| proof.check(&old)));
        }
        drop(Checkpoint::unchecked(&text));
        drop(Vkey::parse(&text).map(|vkey| Checkpoint::verify(&SAMPLE[3], &vkey)));
        drop(Policy::parse(&text).map(|policy| policy.judge(&SAMPLE[3])));
        let _address = text.parse::<crate::address::AddressHash>();
        let _key = text.parse::<PublicKey>();
        let _signature = text.parse::<Signature>();
        drop(TreePath::new(bytes.clone()));
    }

    #[test]
    fn edited_key_files_are_read_or_refused(sealed in any::<bool>(), mend in any::<bool>(), edits in edits()) {
        static FILES: std::sync::LazyLock<[Vec<u8>; 2]> = std::sync::LazyLock::new(|| {
            let (dir, wallet) = (tempfile::tempdir().unwrap(), Wallet::from_secret(&[5; 32]).unwrap());
            wallet.save(&dir.path().join("plain")).unwrap();
            wallet.save_sealed(&dir.path().join("sealed"), b"pass").unwrap();
            ["plain", "sealed"].map(|name| std::fs::read(dir.path().join(name)).unwrap())
        });
        let good = &FILES[usize::from(sealed)];
        let (body, sum) = good.split_at(good.len() - 32);
        let mut bytes = edited(if mend { body } else { good }, &edits);
        if mend {
            // Past the sum, which is against bit rot alone.
            let sum = Sha256::digest(&bytes);
            bytes.extend_from_slice(&sum);
        } else {
            prop_assume!(bytes != *good && bytes.len() != body.len() + sum.len() * 2);
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &bytes).unwrap();
        match WalletFile::read(file.path()) {
            Ok(read) => {
                prop_assert!(mend, "a wrong sum is refused");
                let _key = read.public();
            }
            Err(error) => prop_assert!(!error.to_string().is_empty()),
        }
        drop(LogKey::load(file.path()));
        drop(Wallet::load(file.path()));
    }

    /// Rows of the store edited, removed, or exchanged: tiles, nodes, index, state, blocks, transactions.
    #[test]
    fn edited_stores_are_read_or_refused(
        rows in prop::collection::vec((any::<prop::sample::Index>(), prop::option::weighted(0.8, edits())), 1..4),
    ) {
        static SAMPLE: std::sync::LazyLock<Rows> = std::sync::LazyLock::new(|| sample().0);
        let mut altered = SAMPLE.clone();
        let keys: Vec<_> = SAMPLE.0.keys().cloned().collect();
        for (which, edits) in rows {
            let key = which.get(&keys);
            match edits {
                Some(edits) => drop(altered.0.insert(key.clone(), edited(&SAMPLE.0[key], &edits))),
                None => drop(altered.0.remove(key)),
            }
        }
        exercise(altered);
    }
}
