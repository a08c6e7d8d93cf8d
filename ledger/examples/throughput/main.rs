//! How fast the ledger takes, seals, proves and checks file puts, beside its floors: raw signing, and raw writes of the same
//! bytes.
//!
//! `cargo run --release -p wizefs-ledger --example throughput [TRANSACTIONS [PLOT.svg]]`

mod plot;

use std::error::Error;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Duration, Instant};

use wizefs_ledger::store::rocks::RocksStore;
use wizefs_ledger::store::{Batch, Column, Durability, Read, Store};
use wizefs_ledger::{
    BucketId, BucketKind, Cause, Content, Draft, Evidence, FileOp, Hashes, Label, Ledger, LogKey, OpenOptions, Policy,
    ProofFile, Put, Statement, TreePath, Trust, Wallet,
};

/// Drafts per submit, and transactions per block.
const BATCH: u64 = 256;
const BLOCK: u64 = 4_096;
/// Proofs made and checked at each size.
const PROOFS: u64 = 200;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let count: u64 = args.next().map_or(Ok(32_768), |text| text.parse())?;
    let plot = args.next();
    let dir = tempfile::tempdir()?;
    let wallet = Wallet::generate()?;
    let sign = raw_signing(&wallet);
    let verify = raw_verifying(&wallet);
    let raw = raw_batches(&dir.path().join("raw"), count.min(32_768))?;

    let options = || -> Result<OpenOptions, Box<dyn Error>> { Ok(OpenOptions::new(wallet.clone(), log_key())) };
    let path = dir.path().join("ledger");
    let ledger = Ledger::open(&path, options()?.create())?;
    println!("{:>9} {:>10} {:>9} {:>9} {:>9}", "size", "put/s", "proof", "make", "check");
    let (took, proofs) = fill(&ledger, &wallet, count)?;
    println!("sign     {sign:>9.0} /s on one core (k256)");
    println!("verify   {verify:>9.0} /s on one core (libsecp256k1)");
    println!("batches  {raw:>9.0} /s of 400 bytes, one fsync per {BLOCK}");
    let both = per_second(count, took);
    println!("put      {both:>9.0} /s to final = {:.2} of signing, {:.2} of batches", both / sign, both / raw);
    println!("memory   {}", memory());
    let started = Instant::now();
    let report = ledger.fsck(&mut |_| ControlFlow::Continue(()))?;
    println!("fsck     {:>9.0} /s, {} problems", per_second(count, started.elapsed()), report.problems.len());
    println!("memory   {}, the check included", memory());
    drop(ledger);
    let started = Instant::now();
    let ledger = Ledger::open(&path, options()?)?;
    println!("open     {:.0?} at {} transactions", started.elapsed(), ledger.size());
    drop(ledger);
    disk(&path, count)?;
    if let Some(file) = plot {
        std::fs::write(file, plot::svg(&proofs))?;
    }
    Ok(())
}

/// Puts `count` files; how long that took until all were final, and what proofs are like at each power of ten.
fn fill(ledger: &Ledger, wallet: &Wallet, count: u64) -> Result<(Duration, Vec<plot::Point>), Box<dyn Error>> {
    let name = Label::new("docs")?;
    let create = Draft { time_us: 0, statement: Statement::CreateBucket { name, kind: BucketKind::Loopback } };
    let bucket = ledger.submit(wallet, vec![create], &[])?[0];
    let (mut took, mut next, mut points) = (Duration::ZERO, 1_000, Vec::new());
    let mut first = 0;
    while first < count {
        let end = (first + BATCH).min(count).min(next);
        let drafts = (first..end).map(|number| put(bucket, number)).collect();
        let started = Instant::now();
        ledger.submit(wallet, drafts, &[])?;
        if ledger.pending().count() >= BLOCK || end == next || end == count {
            ledger.seal(u64::MAX)?;
        }
        took += started.elapsed();
        first = end;
        if first == next || first == count {
            let point = proofs(ledger)?;
            let rate = per_second(first, took);
            let plot::Point { size, bytes, make, check } = point;
            println!("{size:>9} {rate:>10.0} {bytes:>7} B {:>6.0} us {:>6.0} us", make * 1e6, check * 1e6);
            points.push(point);
            next *= 10;
        }
    }
    Ok((took, points))
}

fn per_second(count: u64, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64()
}

/// Makes and checks proofs of transactions spread over the log.
fn proofs(ledger: &Ledger) -> Result<plot::Point, Box<dyn Error>> {
    let (size, policy) = (ledger.size(), Policy::parse(&ledger.vkey())?);
    let (mut bytes, mut making, mut checking) = (0, Duration::ZERO, Duration::ZERO);
    for number in 0..PROOFS {
        let index = number * (size - 1) / PROOFS;
        let txid = ledger.transaction_at(index)?.ok_or("missing")?.txid;
        let started = Instant::now();
        let text = ledger.prove(&txid)?.ok_or("missing")?.to_text();
        making += started.elapsed();
        bytes = bytes.max(text.len());
        let started = Instant::now();
        let proof = ProofFile::parse(&text)?;
        let proven = proof.check()?.txid == txid && matches!(policy.judge(&proof.checkpoint)?, Trust::Trusted(_));
        checking += started.elapsed();
        assert!(proven, "a proof of {txid} does not hold");
    }
    let each = |time: Duration| time.as_secs_f64() / PROOFS as f64;
    Ok(plot::Point { size, bytes, make: each(making), check: each(checking) })
}

/// What the folder takes, and what of that the rows of each column are.
fn disk(path: &Path, count: u64) -> Result<(), Box<dyn Error>> {
    let bytes: u64 = std::fs::read_dir(path)?.flatten().filter_map(|file| file.metadata().ok()).map(|m| m.len()).sum();
    println!(
        "disk     {} bytes per put, reserve apart; its rows, before compression:",
        bytes.saturating_sub(64 << 20) / count
    );
    let store = RocksStore::open(path)?;
    for column in Column::ALL {
        let (mut rows, mut length) = (0u64, 0u64);
        store.scan(column, b"", wizefs_ledger::store::Direction::Forward, &mut |key, value| {
            rows += 1;
            length += (key.len() + value.len()) as u64;
            ControlFlow::Continue(())
        })?;
        println!("         {:>6} {} ({rows} rows)", length / count, column.name());
    }
    Ok(())
}

fn log_key() -> LogKey {
    LogKey::from_seed(&[7; 32])
}

fn put(bucket: BucketId, number: u64) -> Draft {
    let path = format!("some-source-tree/directory-{}/file-{number}.txt", number / 100);
    let hashes = Some(Hashes { blake3: [number as u8; 32], sha256: [number as u8; 32] });
    let put = Put {
        path: TreePath::new(path).unwrap_or_default(),
        content: Content::File { size: number, hashes },
        mode: 0o644,
        uid: 1000,
        gid: 1000,
        mtime_ns: number as i64,
        evidence: Evidence::Lease,
    };
    let statement = Statement::File { bucket, change: number + 1, cause: Cause::Mount, op: FileOp::Put(put) };
    Draft { time_us: number, statement }
}

/// Signatures per second of one core.
fn raw_signing(wallet: &Wallet) -> f64 {
    let (count, started) = (4_000u64, Instant::now());
    for number in 0..count {
        std::hint::black_box(wallet.sign(&[&number.to_le_bytes(), &[0; 400]]));
    }
    count as f64 / started.elapsed().as_secs_f64()
}

/// Checked signatures per second of one core.
fn raw_verifying(wallet: &Wallet) -> f64 {
    let signature = wallet.sign(&[&[0; 400]]);
    let (count, started) = (4_000u64, Instant::now());
    for _ in 0..count {
        std::hint::black_box(wallet.public().verify(&[&[0; 400]], &signature));
    }
    per_second(count, started.elapsed())
}

/// Rows per second of batched writes, nothing else done.
fn raw_batches(dir: &std::path::Path, count: u64) -> Result<f64, Box<dyn Error>> {
    std::fs::create_dir(dir)?;
    let store = RocksStore::open(dir)?;
    let started = Instant::now();
    for first in (0..count).step_by(BATCH as usize) {
        let mut batch = Batch::default();
        for number in first..first + BATCH {
            batch.put(Column::Transactions, number.to_be_bytes(), [number as u8; 400]);
        }
        let durability = if (first + BATCH).is_multiple_of(BLOCK) { Durability::Synced } else { Durability::Buffered };
        store.write(batch, durability)?;
    }
    Ok(count as f64 / started.elapsed().as_secs_f64())
}

/// Resident memory of this process, as the kernel tells it.
fn memory() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.map_or_else(|| "unknown".into(), |line| format!("{} at most", line.trim()))
}
