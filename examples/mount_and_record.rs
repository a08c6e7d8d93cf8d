//! The parts put together by hand: a directory is mounted, written to like any folder, and every change becomes a signed
//! transaction.
//!
//! `cargo run --release --example mount_and_record`

use std::error::Error;
use std::sync::Arc;

use wizefs::notary::Notary;
use wizefs_fs::{Bucket, BucketOptions, Durability, MountOptions};
use wizefs_ledger::{
    BucketKind, Content, Draft, FileOp, Hash, History, Label, Ledger, LogKey, OpenOptions, Order, Statement, Wallet,
};

fn main() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let folder = |name: &str| -> std::io::Result<_> {
        let path = dir.path().join(name);
        std::fs::create_dir(&path)?;
        Ok(path)
    };

    // A chain of its own, and on it a bucket.
    let wallet = Wallet::generate()?;
    let options = OpenOptions::new(wallet.clone(), LogKey::generate()?).create();
    let ledger = Arc::new(Ledger::open(&folder("ledger")?, options)?);
    let create = Statement::CreateBucket { name: Label::new("docs")?, kind: BucketKind::Loopback };
    let id = ledger.submit(&wallet, vec![Draft { time_us: 1, statement: create }], &[])?[0];

    // The bucket as a file system. It knows no ledger: the notary takes its changes there.
    let notary = Arc::new(Notary::new(Arc::clone(&ledger), wallet, id)?);
    let options = BucketOptions {
        backing: folder("backing")?,
        state: folder("state")?,
        adopted: false,
        exclusive: false,
        read_only: false,
        durability: Durability::Relaxed,
    };
    let (bucket, _recovery) = Bucket::open(options, notary)?;
    let options = MountOptions { name: "docs".into(), allow_other: false, noexec: false, read_only: false, threads: 2 };
    let mount = bucket.mount(&folder("mountpoint")?, options)?;
    println!("mounted at {}", mount.mountpoint().display());

    // Any program may do this. Written under a temporary name and then renamed, a file is one put of its final name, unless it
    // rests so long in between that the temporary name is recorded too.
    let at = |name: &str| mount.mountpoint().join(name);
    std::fs::create_dir(at("notes"))?;
    std::fs::write(at("notes/.today.tmp"), "hello")?;
    std::fs::rename(at("notes/.today.tmp"), at("notes/today.txt"))?;
    std::os::unix::fs::symlink("notes/today.txt", at("latest"))?;
    std::fs::rename(at("notes"), at("diary"))?;

    // The barrier, and then the order that keeps a ledger from ever being ahead of its data: first what is written is on
    // the disk, then the block is, and then the intents are not needed any more.
    let report = bucket.sync()?;
    bucket.persist()?;
    let block = ledger.seal(ledger.pending().next)?.ok_or("nothing to seal")?;
    bucket.retire(report.through);
    println!("block {} holds {} transactions", block.header.height, block.header.count);

    for logged in ledger.history(&History::Bucket(id), Order::OldestFirst, None, 100)? {
        let transaction = logged.transaction.ok_or("erased")?;
        let what = transaction.file().map_or("create docs".to_owned(), |file| describe(&file.op));
        println!("{} {what}", logged.txid);
    }

    mount.unmount().map_err(|failed| failed.1)?;
    bucket.close()?;
    Ok(())
}

fn describe(op: &FileOp) -> String {
    match op {
        FileOp::Put(put) => match &put.content {
            Content::File { size, hashes: Some(hashes) } => {
                format!("put {:?}, {size} bytes, sha256 {}", put.path, Hash(hashes.sha256))
            }
            Content::File { size, hashes: None } => format!("put {:?}, {size} bytes, still written", put.path),
            Content::Symlink { target } => format!("put {:?} -> {}", put.path, String::from_utf8_lossy(target)),
        },
        FileOp::Rename { from, to } => format!("rename {from:?} -> {to:?}"),
        FileOp::Mkdir { path, mode } => format!("mkdir {path:?}, mode {mode:o}"),
        other => format!("{other:?}"),
    }
}
