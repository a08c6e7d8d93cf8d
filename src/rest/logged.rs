//! A transaction of the ledger as a line of the log.

use crate::rest::wire::{LogLine, TxStatus, V, WirePath, hex, text_and_bytes, time};
use wizefs_ledger::{
    Authored, Body, BucketId, Cause, Content, Envelope, Evidence, FileBody, FileOp, Logged, Put, Transaction, TreePath,
};

/// The bucket a transaction is about.
pub(crate) fn bucket_id(logged: &Logged) -> Option<BucketId> {
    match &logged.transaction.as_ref()?.envelope {
        Envelope::Authored(Authored { body, .. }) => Some(match body {
            Body::CreateBucket { .. } => logged.txid,
            Body::DeleteBucket { bucket } => *bucket,
            Body::File(file) => file.bucket,
        }),
        Envelope::Transfer(_) | Envelope::Coinbase(_) => None,
    }
}

/// What a transaction states, as far as it says so itself.
pub(crate) fn of_transaction(transaction: &Transaction) -> LogLine {
    let time_us = transaction.time_us().unwrap_or_default();
    let txid = Default::default();
    line(&Logged { txid, index: None, block: None, time_us, transaction: Some(transaction.clone()) }, None)
}

/// The line of a transaction in the bucket of that name.
pub(crate) fn line(logged: &Logged, bucket: Option<String>) -> LogLine {
    let mut line = LogLine {
        v: V,
        index: logged.index,
        txid: logged.txid.to_string(),
        block: logged.block,
        status: if logged.index.is_some() { TxStatus::Final } else { TxStatus::Pending },
        time: time(i64::try_from(logged.time_us).unwrap_or(i64::MAX)),
        author: logged.transaction.as_ref().and_then(|tx| Some(tx.author()?.address().to_string())),
        wallet: None,
        op: "erased".to_owned(),
        bucket,
        path: WirePath::default(),
        from: None,
        from_b64: None,
        kind: None,
        target: None,
        size: None,
        mode: None,
        blake3: None,
        sha256: None,
        cause: None,
        evidence: None,
        amount: None,
    };
    match logged.transaction.as_ref().map(|tx| &tx.envelope) {
        None => {}
        Some(Envelope::Coinbase(coinbase)) => {
            "coinbase".clone_into(&mut line.op);
            line.author = Some(coinbase.address.to_string());
            line.amount = Some(coinbase.reward);
        }
        Some(Envelope::Transfer(transfer)) => {
            "transfer".clone_into(&mut line.op);
            line.amount = Some(transfer.outputs.iter().fold(0, |sum: u64, output| sum.saturating_add(output.amount)));
        }
        Some(Envelope::Authored(Authored { body, .. })) => match body {
            Body::CreateBucket { .. } => "create".clone_into(&mut line.op),
            Body::DeleteBucket { .. } => "delete".clone_into(&mut line.op),
            Body::File(file) => fill_file(&mut line, file),
        },
    }
    line
}

fn fill_file(line: &mut LogLine, file: &FileBody) {
    line.cause = Some(cause_name(file.cause).to_owned());
    match &file.op {
        FileOp::Put(put) => fill_put(line, "put", put),
        FileOp::Accept(put) => fill_put(line, "accept", put),
        FileOp::Remove { path } => fill_path(line, "remove", path),
        FileOp::Rmdir { path } => fill_path(line, "rmdir", path),
        FileOp::Mkdir { path, mode } => {
            fill_path(line, "mkdir", path);
            line.mode = Some(*mode);
        }
        FileOp::Rename { from, to } => fill_move(line, "rename", from, to),
        FileOp::Exchange { a, b } => fill_move(line, "exchange", a, b),
    }
}

fn fill_path(line: &mut LogLine, op: &str, path: &TreePath) {
    op.clone_into(&mut line.op);
    let (text, bytes) = text_and_bytes(path.as_bytes());
    line.path = WirePath { path: Some(text), path_b64: bytes };
}

fn fill_move(line: &mut LogLine, op: &str, from: &TreePath, to: &TreePath) {
    fill_path(line, op, to);
    let (text, bytes) = text_and_bytes(from.as_bytes());
    line.from = Some(text);
    line.from_b64 = bytes;
}

fn fill_put(line: &mut LogLine, op: &str, put: &Put) {
    fill_path(line, op, &put.path);
    line.mode = Some(put.mode);
    line.evidence = Some(evidence_name(put.evidence).to_owned());
    match &put.content {
        Content::File { size, hashes } => {
            line.kind = Some("file".to_owned());
            line.size = Some(*size);
            line.blake3 = hashes.map(|hashes| hex(&hashes.blake3));
            line.sha256 = hashes.map(|hashes| hex(&hashes.sha256));
        }
        Content::Symlink { target } => {
            line.kind = Some("symlink".to_owned());
            line.target = Some(text_and_bytes(target).0);
        }
    }
}

fn cause_name(cause: Cause) -> &'static str {
    match cause {
        Cause::Mount => "mount",
        Cause::Put => "put",
        Cause::Import => "import",
        Cause::Recovered => "recovered",
        Cause::Foreign => "foreign",
    }
}

fn evidence_name(evidence: Evidence) -> &'static str {
    match evidence {
        Evidence::Lease => "lease",
        Evidence::Stat => "stat",
        Evidence::OpenWriters => "open-writers",
    }
}
