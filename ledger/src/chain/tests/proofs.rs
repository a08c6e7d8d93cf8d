//! Proof files: what is proven, and that no altered one is believed.

use super::*;
use crate::checkpoint::CheckpointError;
use crate::hash::Hash;
use crate::proof::{ConsistencyFile, Policy, ProofFile, StateProof, Trust};

/// A history with files at several depths, a rename of a directory, and enough names for a map of some depth.
fn history() -> Fixture {
    let mut fixture = Fixture::new();
    for number in 0..40 {
        fixture.submit(vec![put(&format!("dir/sub/{number}.txt"), number)]);
    }
    fixture.seal().unwrap();
    fixture.submit(vec![put("a.txt", 7)]);
    fixture.submit(vec![rename("dir", "moved")]);
    fixture.submit(vec![remove("moved/sub/3.txt")]);
    fixture.seal().unwrap();
    fixture
}

fn policy(fixture: &Fixture) -> Policy {
    Policy::parse(&fixture.ledger.vkey()).unwrap()
}

/// Whether a proof's text is believed by somebody who trusts the log.
fn believes(policy: &Policy, text: &str) -> Option<TxId> {
    let proof = ProofFile::parse(text).ok()?;
    let logged = proof.check().ok()?;
    matches!(policy.judge(&proof.checkpoint), Ok(Trust::Trusted(_))).then_some(logged.txid)
}

fn state_holds(policy: &Policy, text: &str) -> Option<(u64, String, Option<TxId>)> {
    let proof = StateProof::parse(text).ok()?;
    let standing = proof.check().ok()?;
    let entry = standing.entry.map(|entry| entry.content_txid());
    let path = proof.path.to_string();
    matches!(policy.judge(&proof.coinbase.checkpoint), Ok(Trust::Trusted(_))).then_some((proof.block, path, entry))
}

/// The text with one bit of one byte flipped, for each byte.
fn altered(text: &str) -> impl Iterator<Item = String> {
    (0..text.len()).flat_map(move |at| {
        [0, 2, 5].into_iter().filter_map(move |bit| {
            let mut bytes = text.as_bytes().to_vec();
            bytes[at] ^= 1 << bit;
            String::from_utf8(bytes).ok()
        })
    })
}

#[test]
fn a_proof_file_holds_and_no_altered_one_does() {
    let fixture = history();
    let ours = policy(&fixture);
    for index in 0..fixture.ledger.size() {
        let txid = fixture.ledger.transaction_at(index).unwrap().unwrap().txid;
        let proof = fixture.ledger.prove(&txid).unwrap().unwrap();
        let text = proof.to_text();
        assert_eq!(ProofFile::parse(&text), Ok(proof));
        assert_eq!(believes(&ours, &text), Some(txid));
        if index == 9 {
            assert!(text.len() < 4096, "{} bytes", text.len());
            for other in altered(&text) {
                assert_eq!(believes(&ours, &other), None, "{other}");
            }
            for cut in 0..text.len() {
                assert_eq!(believes(&ours, text.get(..cut).unwrap_or_default()), None, "cut at {cut}");
            }
        }
    }
    assert_eq!(fixture.ledger.prove(&Hash::ZERO).unwrap(), None);
}

#[test]
fn a_pending_transaction_has_no_proof_yet() {
    let mut fixture = history();
    let txid = fixture.submit(vec![put("b.txt", 1)])[0];
    assert_eq!(fixture.ledger.prove(&txid).unwrap(), None);
    fixture.seal().unwrap();
    assert!(fixture.ledger.prove(&txid).unwrap().is_some());
}

#[test]
fn the_state_at_a_path_is_proven() {
    let fixture = history();
    let ours = policy(&fixture);
    let there = ["a.txt", "moved/sub/0.txt", "moved/sub/39.txt", "moved/sub", "moved"];
    let gone = ["b.txt", "dir", "dir/sub/1.txt", "moved/sub/3.txt", "moved/sub/3.txt/x", "a.txt/b/c", "moved/x/y"];
    for (text, is_there) in there.iter().map(|p| (p, true)).chain(gone.iter().map(|p| (p, false))) {
        let expected = fixture.ledger.entry(&fixture.bucket, &path(text)).unwrap().map(|entry| entry.content_txid());
        assert_eq!(expected.is_some(), is_there, "{text}");
        let proof = fixture.ledger.prove_state(&fixture.bucket, &path(text)).unwrap();
        let height = fixture.ledger.tip().header.height - 1;
        let file = proof.to_text();
        assert_eq!(StateProof::parse(&file), Ok(proof.clone()), "{file}");
        assert_eq!(state_holds(&ours, &file), Some((height, (*text).to_owned(), expected)));
        if let Some(txid) = expected {
            let beside = fixture.ledger.prove_beside(&txid, &proof).unwrap().unwrap();
            assert_eq!(beside.checkpoint, proof.coinbase.checkpoint);
            assert_eq!(believes(&ours, &beside.to_text()), Some(txid));
        }
    }
    assert!(fixture.ledger.fsck(&mut |_| ControlFlow::Continue(())).unwrap().problems.is_empty());
}

#[test]
fn no_altered_state_proof_is_believed() {
    let fixture = history();
    let ours = policy(&fixture);
    for text in ["moved/sub/8.txt", "moved/sub/3.txt"] {
        let file = fixture.ledger.prove_state(&fixture.bucket, &path(text)).unwrap().to_text();
        assert!(state_holds(&ours, &file).is_some());
        for other in altered(&file) {
            assert_eq!(state_holds(&ours, &other), None, "{other}");
        }
    }
    // Rows left out, doubled, or of another path.
    let proof = fixture.ledger.prove_state(&fixture.bucket, &path("moved/sub/8.txt")).unwrap();
    let mut short = proof.clone();
    short.rows.pop();
    assert!(short.check().is_err());
    let mut long = proof.clone();
    long.rows.push(proof.rows[3].clone());
    assert!(long.check().is_err());
    let elsewhere = StateProof { path: path("moved/sub/9.txt"), ..proof.clone() };
    assert!(elsewhere.check().is_err());
    let earlier = StateProof { block: proof.block - 1, ..proof };
    assert!(earlier.check().is_err());
}

#[test]
fn the_state_is_proven_anew_without_another_block_until_something_happens() {
    let mut fixture = history();
    let (ours, places) = (policy(&fixture), ["moved/sub/9.txt", "moved/sub/3.txt", "a.txt", "none/x"]);
    for round in 0..3 {
        let mut height = fixture.ledger.tip().header.height;
        let mut first = None;
        for place in places.iter().chain(&places) {
            let proof = fixture.ledger.prove_state(&fixture.bucket, &path(place)).unwrap();
            if first.replace(proof.block).is_none() {
                height += 1;
            }
            assert_eq!((fixture.ledger.tip().header.height, proof.block), (height, height - 1), "{round} {place}");
            let entry = fixture.ledger.entry(&fixture.bucket, &path(place)).unwrap();
            let expected = (height - 1, (*place).to_owned(), entry.map(|entry| entry.content_txid()));
            assert_eq!(state_holds(&ours, &proof.to_text()), Some(expected), "{round} {place}");
        }
        fixture.submit(vec![put("a.txt", round), put(&format!("more/{round}"), 1)]);
        fixture.seal().unwrap();
    }
    assert_clean(&fixture.ledger);
}

#[test]
fn nothing_is_at_a_path_of_a_deleted_bucket() {
    let fixture = history();
    let draft = Draft { time_us: 1, statement: Statement::DeleteBucket { bucket: fixture.bucket } };
    fixture.ledger.submit(&fixture.ledger.wallet, vec![draft], &[]).unwrap();
    fixture.seal().unwrap();
    let proof = fixture.ledger.prove_state(&fixture.bucket, &path("a.txt")).unwrap();
    let standing = proof.check().unwrap();
    assert!(standing.bucket.closed && standing.entry.is_none());
}

#[test]
fn one_log_is_the_beginning_of_another_or_not() {
    let mut fixture = history();
    let old_note = fixture.ledger.checkpoint();
    let old = Checkpoint::unchecked(&old_note).unwrap();
    fixture.submit(vec![put("c.txt", 1)]);
    fixture.seal().unwrap();
    let file = fixture.ledger.prove_since(old.size).unwrap();
    assert_eq!(ConsistencyFile::parse(&file.to_text()), Ok(file.clone()));
    assert!(ConsistencyFile::is_one(&file.to_text()));
    assert_eq!(file.check(&old).unwrap().size, fixture.ledger.size());
    // The same chain, rewritten from an old copy.
    let other = Checkpoint { root: Hash([3; 32]), ..old.clone() };
    assert!(file.check(&other).is_err());
    let elsewhere = Checkpoint { origin: "example.org".into(), ..old.clone() };
    assert_eq!(file.check(&elsewhere), Err(CheckpointError::Origin.into()));
    assert!(fixture.ledger.prove_since(fixture.ledger.size() + 1).is_err());
    assert!(ConsistencyFile::parse("old 01\n\nx").is_err());
}

#[test]
fn tiles_and_bundles_are_those_of_the_log() {
    let mut fixture = Fixture::new();
    for number in 0..300u32 {
        fixture.submit(vec![put(&format!("{number}"), 1)]);
    }
    fixture.seal().unwrap();
    let size = fixture.ledger.size();
    let leaf = |index: u64| fixture.ledger.transaction_at(index).unwrap().unwrap().txid;
    let full = fixture.ledger.tile(0, 0, 256).unwrap().unwrap();
    assert_eq!((full.len(), &full[32..64]), (8192, &leaf(1).0[..]));
    let width = (size - 256) as usize;
    let partial = fixture.ledger.tile(0, 1, width).unwrap().unwrap();
    assert_eq!(&partial[partial.len() - 32..], &leaf(size - 1).0[..]);
    assert_eq!(fixture.ledger.tile(1, 0, 1).unwrap().map(|tile| tile.len()), Some(32));
    for (level, number, wide) in [(0, 1, width + 1), (0, 2, 1), (1, 0, 2), (0, 0, 0), (0, 0, 257), (63, 0, 1)] {
        assert_eq!(fixture.ledger.tile(level, number, wide).unwrap(), None, "{level}/{number}/{wide}");
    }
    let Bundle::Entries(bundle) = fixture.ledger.bundle(1, width).unwrap() else { panic!("entries") };
    let mut rest = bundle.as_slice();
    for index in 256..size {
        let (length, after) = rest.split_first_chunk::<2>().unwrap();
        let (entry, after) = after.split_at(u16::from_be_bytes(*length).into());
        assert_eq!(Hash::leaf(entry), leaf(index));
        rest = after;
    }
    assert!(rest.is_empty());
    assert_eq!(fixture.ledger.bundle(1, 256).unwrap(), Bundle::Absent);
}

mod texts {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Whatever is read, nothing panics.
        #[test]
        fn any_text_is_read_without_a_panic(lines in prop::collection::vec(prop::sample::select(vec![
            "c2sp.org/tlog-proof@v1", "wizefs.invalid/state-proof@v1", "extra AQID", "index 7", "index 007", "old 3", "",
            "block 5", "path YQ==", "row AA== empty", "row AA== value AA==", "row AA== other AA== AA==", "quorum none",
            "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", "wizefs.invalid/x", "12", "\u{2014} x AAAAAAAA",
            "bucket 0000000000000000000000000000000000000000000000000000000000000000", "group a 1 b", "witness a b",
        ]), 0..14), junk in ".{0,40}") {
            let text = format!("{}\n{junk}\n", lines.join("\n"));
            drop(ProofFile::parse(&text).map(|proof| proof.check()));
            drop(StateProof::parse(&text).map(|proof| proof.check()));
            drop(ConsistencyFile::parse(&text));
            drop(Checkpoint::unchecked(&text));
            drop(Policy::parse(&text).map(|policy| policy.judge(&text)));
        }
    }
}
