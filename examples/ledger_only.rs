//! The ledger without a file system: state changes, seal them, check the chain, and prove one of them offline.
//!
//! `cargo run --release --example ledger_only`

use std::error::Error;
use std::ops::ControlFlow;

use wizefs_ledger::{
    BucketKind, Cause, Checkpoint, Content, Draft, Evidence, FileOp, Hash, Hashes, History, Label, Ledger, LogKey,
    OpenOptions, Order, Put, Statement, TreePath, Vkey, Wallet,
};

fn main() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let (wallet, log_key) = (Wallet::generate()?, LogKey::generate()?);
    let ledger = Ledger::open(dir.path(), OpenOptions::new(wallet.clone(), log_key).create())?;
    println!("chain {}, owned by {}", ledger.chain_id(), wallet.address());

    // A bucket is named by the transaction that creates it.
    let create = Statement::CreateBucket { name: Label::new("docs")?, kind: BucketKind::Loopback };
    let bucket = ledger.submit(&wallet, vec![Draft { time_us: 1, statement: create }], &[])?[0];
    let change = |number, op| {
        let statement = Statement::File { bucket, change: number, cause: Cause::Put, op };
        Draft { time_us: number, statement }
    };
    let changes = vec![
        change(1, FileOp::Put(file("notes/today.txt", b"hello")?)),
        change(2, FileOp::Put(file("notes/today.txt", b"hello again")?)),
        change(3, FileOp::Rename { from: TreePath::new("notes")?, to: TreePath::new("diary")? }),
    ];
    let txids = ledger.submit(&wallet, changes, &[])?;

    // Until it is sealed a transaction is pending; the seal makes all of them final with one fsync.
    let cut = ledger.pending().next;
    let block = ledger.seal(cut)?.ok_or("nothing to seal")?;
    println!("block {} of {} transactions: {}", block.header.height, block.header.count, block.hash());

    // A file's history goes on through the rename of its directory.
    let path = TreePath::new("diary/today.txt")?;
    for logged in ledger.history(&History::Path(bucket, path), Order::NewestFirst, None, 10)? {
        println!("log entry {:?}: {}", logged.index, logged.txid);
    }

    // Everything again from genesis: signatures, roots, state.
    let report = ledger.fsck(&mut |_| ControlFlow::Continue(()))?;
    println!("{} transactions checked, {} problems", report.transactions, report.problems.len());

    // What a stranger needs: the checkpoint, the key it trusts, the transaction, and a few hashes.
    let (note, key) = (ledger.checkpoint(), ledger.vkey());
    let logged = ledger.transaction(&txids[1])?.ok_or("not on the ledger")?;
    let proof = ledger.inclusion_proof(logged.index.ok_or("not sealed")?, ledger.size())?;
    let bytes = logged.transaction.ok_or("erased")?.to_bytes();
    drop(ledger);

    print!("{note}");
    let trusted = Vkey::parse(&key).ok_or("no key")?;
    let checkpoint = Checkpoint::verify(&note, &trusted)?;
    if proof.size != checkpoint.size || !proof.verify(&Hash::leaf(&bytes), &checkpoint.root) {
        return Err("the proof does not hold".into());
    }
    println!("entry {} of {}, proven with {} hashes", proof.index, proof.size, proof.path.len());
    Ok(())
}

/// The state of a file with this content.
fn file(path: &str, content: &[u8]) -> Result<Put, Box<dyn Error>> {
    let hashes = Hashes { blake3: blake3::hash(content).into(), sha256: Hash::of(&[content]).0 };
    Ok(Put {
        path: TreePath::new(path)?,
        content: Content::File { size: content.len() as u64, hashes: Some(hashes) },
        mode: 0o644,
        uid: 1000,
        gid: 1000,
        mtime_ns: 0,
        evidence: Evidence::Stat,
    })
}
