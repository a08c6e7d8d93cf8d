//! Bytes against proof files: no node, no root folder, no network.

use crate::error::{Error, Kind, Result};
use crate::name::escape;
use crate::rest::logged;
use crate::rest::wire::{self, Standing, Verified};
use crate::slice;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use wizefs_ledger::{
    Checkpoint, ConsistencyFile, Content, EntryNode, FileOp, Hashes, Policy, ProofError, ProofFile, StateProof,
    Transaction, Trust,
};

/// Standing of what is at its path.
const CURRENT: &str = "current";
/// Standing of what is not.
const ABSENT: &str = "absent";
/// Bytes read of a checkpoint: none is longer.
const MOST_NOTE: u64 = 65_536;
/// Bytes read at a time.
const CHUNK: usize = 1 << 20;

/// What is to be shown of a file.
pub struct Claim<'a> {
    /// The file, folder, symbolic link, or the place where nothing must be.
    pub file: &'a Path,
    /// The proof file's text.
    pub proof: &'a str,
    /// A state proof's text.
    pub state: Option<&'a str>,
    /// A bao slice, and the range of which `file` holds the bytes.
    pub slice: Option<(&'a [u8], u64, u64)>,
    /// Whose checkpoints count.
    pub policy: &'a Policy,
}

/// Check a file against its proofs.
///
/// # Errors
/// [`Kind::Damaged`] when anything does not hold; [`Kind::FileMissing`] when there is no such file. A signer whom nobody
/// vouches for is no error but said in the reply.
pub fn check(claim: &Claim<'_>) -> Result<Verified> {
    let proof = ProofFile::parse(claim.proof).map_err(refuted)?;
    let proven = proof.check().map_err(refuted)?;
    let mut verified = judged("proof", claim.policy, &proof.checkpoint)?;
    describe(&mut verified, &proven.transaction, proof.index, &proven.txid.to_string());
    verified.state = claim.state.map(|state| standing(state, &proven)).transpose()?;
    compare(claim, &proven.transaction, verified.state.as_ref().map(|state| state.standing))?;
    verified.range = claim.slice.map(|(_, first, last)| (first, last));
    Ok(verified)
}

/// Check that the log of the checkpoint in `file` is the beginning of the one in a consistency proof.
///
/// # Errors
/// [`Kind::Damaged`] when it is not.
pub fn check_consistency(file: &Path, proof: &str, policy: &Policy) -> Result<Verified> {
    let mut old = String::new();
    let read = File::open(file).and_then(|file| file.take(MOST_NOTE + 1).read_to_string(&mut old));
    read.map_err(|e| missing(file, &e))?;
    let stated = Checkpoint::unchecked(&old).map_err(|e| damaged(format!("{}: {e}", file.display())))?;
    policy.judge(&old).map_err(|e| damaged(format!("{}: {e}", file.display())))?;
    let proof = ConsistencyFile::parse(proof).map_err(refuted)?;
    proof.check(&stated).map_err(refuted)?;
    judged("consistency", policy, &proof.checkpoint)
}

/// Check a file against a state proof alone: that it is what was there after a block, or that nothing was.
///
/// # Errors
/// As [`check`].
pub fn check_state(file: &Path, text: &str, policy: &Policy) -> Result<Verified> {
    let state = StateProof::parse(text).map_err(refuted)?;
    let found = state.check().map_err(refuted)?;
    let mut verified = judged("state", policy, &state.coinbase.checkpoint)?;
    let standing = match found.entry.as_ref().map(|entry| &entry.node) {
        None if is_gone(file)? => ABSENT,
        None => {
            return Err(damaged(format!("the proof says that nothing was there, but {} is", file.display())));
        }
        Some(EntryNode::Leaf(leaf)) => {
            let claim = Claim { file, proof: "", state: None, slice: None, policy };
            compare_with(&claim, &leaf.content)?;
            CURRENT
        }
        Some(EntryNode::Directory { .. }) if is_folder(file)? => CURRENT,
        Some(EntryNode::Directory { .. }) => return Err(no_folder(file)),
    };
    verified.state = Some(told(&state, &found, standing));
    Ok(verified)
}

/// What the policy says of a checkpoint.
fn judged(kind: &'static str, policy: &Policy, note: &str) -> Result<Verified> {
    let stated = Checkpoint::unchecked(note).map_err(|e| damaged(e.to_string()))?;
    let (signer, keys) = match policy.judge(note).map_err(|e| damaged(e.to_string()))? {
        Trust::Trusted(key) => ("trusted", vec![key.to_string()]),
        Trust::NoTrustedKey(ids) => ("unchecked", ids.iter().map(|id| format!("{}+{id}", stated.origin)).collect()),
        Trust::TooFewWitnesses(key) => ("too-few-witnesses", vec![key.to_string()]),
    };
    Ok(Verified {
        v: wire::V,
        r#type: kind,
        ok: true,
        signer,
        keys,
        log: stated.origin,
        log_size: stated.size,
        txid: None,
        index: None,
        time: None,
        author: None,
        op: None,
        bucket_id: None,
        path: wire::WirePath::default(),
        size: None,
        blake3: None,
        sha256: None,
        range: None,
        state: None,
        exit: if signer == "trusted" { 0 } else { Kind::Untrusted.exit() },
    })
}

fn describe(verified: &mut Verified, transaction: &Transaction, index: u64, txid: &str) {
    let micros = transaction.time_us().and_then(|time| i64::try_from(time).ok());
    let line = logged::of_transaction(transaction);
    verified.txid = Some(txid.to_owned());
    verified.index = Some(index);
    verified.time = micros.map(wire::time);
    verified.author = transaction.author().map(|author| author.address().to_string());
    verified.op = Some(line.op);
    verified.bucket_id = transaction.file().map(|file| file.bucket.to_string());
    verified.path = line.path;
    verified.size = line.size;
    verified.blake3 = line.blake3;
    verified.sha256 = line.sha256;
}

/// The file against what the transaction states; `standing` says what it means for the path of the state proof beside it.
fn compare(claim: &Claim<'_>, transaction: &Transaction, standing: Option<&str>) -> Result<()> {
    let file = claim.file;
    let change = transaction.file().ok_or_else(|| damaged("the transaction is not about a file".to_owned()))?;
    let (is_gone, is_folder) = (is_gone(file)?, is_folder(file)?);
    match (&change.op, standing) {
        (FileOp::Put(put) | FileOp::Accept(put), None | Some(CURRENT)) => compare_with(claim, &put.content),
        // Without a state proof it may be what went from the one path or, being a folder, what came to the other.
        (FileOp::Rename { .. } | FileOp::Exchange { .. }, None) if is_gone || is_folder => Ok(()),
        (FileOp::Mkdir { .. }, None) | (_, Some(CURRENT)) => {
            if is_folder {
                Ok(())
            } else {
                Err(no_folder(file))
            }
        }
        _ if is_gone => Ok(()),
        _ => Err(damaged(format!("the proof says that the file was taken away, but {} is there", file.display()))),
    }
}

/// Whether nothing is there. What cannot be looked at may well be there.
fn is_gone(file: &Path) -> Result<bool> {
    match file.symlink_metadata() {
        Ok(_) => Ok(false),
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(true),
        Err(e) => Err(missing(file, &e)),
    }
}

fn is_folder(file: &Path) -> Result<bool> {
    Ok(!is_gone(file)? && file.is_dir())
}

fn compare_with(claim: &Claim<'_>, content: &Content) -> Result<()> {
    match content {
        Content::File { size, hashes: Some(hashes) } => compare_content(claim, *size, hashes),
        Content::File { hashes: None, .. } => {
            Err(damaged("the file was still being written: its content is not on the ledger".to_owned()))
        }
        Content::Symlink { target } => {
            let found = std::fs::read_link(claim.file).map_err(|e| missing(claim.file, &e))?;
            if found.as_os_str().as_bytes() == target.as_slice() { Ok(()) } else { Err(differs(claim.file)) }
        }
    }
}

fn compare_content(claim: &Claim<'_>, size: u64, hashes: &Hashes) -> Result<()> {
    let path = claim.file;
    let mut file = File::open(path).map_err(|e| missing(path, &e))?;
    if let Some((slice, first, last)) = claim.slice {
        let proven = slice::decode(slice, &hashes.blake3, size, first, last);
        let proven = proven.ok_or_else(|| damaged(format!("the slice does not prove bytes {first}-{last}")))?;
        let mut found = Vec::new();
        let read = file.by_ref().take(slice::MOST + 1).read_to_end(&mut found);
        read.map_err(|e| missing(path, &e))?;
        return if found == proven { Ok(()) } else { Err(differs(path)) };
    }
    let (mut hashing, mut chunk) = (wizefs_fs::hashing::plain(), vec![0; CHUNK]);
    let found = loop {
        let count = file.read(&mut chunk).map_err(|e| missing(path, &e))?;
        if count == 0 {
            break hashing.finish();
        }
        hashing.update(&chunk[..count]).map_err(|e| missing(path, &e))?;
    };
    let found = found.map_err(|e| missing(path, &e))?;
    let same = (found.hashes.blake3, found.hashes.sha256) == (hashes.blake3, hashes.sha256);
    let equal = found.size == size && same;
    if equal { Ok(()) } else { Err(differs(path)) }
}

/// What a state proof says, if it is about the same thing as the proof beside it.
fn standing(text: &str, proven: &wizefs_ledger::proof::Logged) -> Result<Standing> {
    let state = StateProof::parse(text).map_err(refuted)?;
    let found = state.check().map_err(refuted)?;
    // Not their texts: witnesses may have signed one of them.
    if found.checkpoint != proven.checkpoint {
        return Err(damaged("the state proof is by another checkpoint than the proof".to_owned()));
    }
    let change = proven.transaction.file().filter(|change| change.bucket == state.bucket);
    let standing = match (&found.entry, change) {
        (Some(entry), Some(change))
            if entry.content_txid() == proven.txid && entry.is_stated_by(&change.op, &state.path) =>
        {
            CURRENT
        }
        (None, Some(change)) if change.op.takes_away(&state.path) => ABSENT,
        _ => return Err(damaged(format!("at block {} another version was there, or none", state.block))),
    };
    Ok(told(&state, &found, standing))
}

fn told(state: &StateProof, found: &wizefs_ledger::proof::Standing, standing: &'static str) -> Standing {
    let (bucket, path) = (found.bucket.name.to_string(), wire::path_of(state.path.as_bytes()));
    Standing { block: state.block, bucket, path, standing }
}

fn no_folder(file: &Path) -> Error {
    damaged(format!("the proof is of a folder, and {} is none", file.display()))
}

fn refuted(error: ProofError) -> Error {
    damaged(error.to_string())
}

fn damaged(text: String) -> Error {
    Error::new(Kind::Damaged, escape(&text)).without_hint()
}

fn differs(file: &Path) -> Error {
    damaged(format!("{} is not what was proven", file.display()))
}

fn missing(file: &Path, error: &std::io::Error) -> Error {
    Error::io(Kind::FileMissing, format!("cannot read {}", file.display()), error).without_hint()
}
