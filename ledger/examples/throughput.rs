//! How fast the ledger takes and seals file puts, beside its floors: raw signing, and raw writes of the same bytes.
//!
//! `cargo run --release -p wizefs-ledger --example throughput [TRANSACTIONS]`

use std::error::Error;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use wizefs_ledger::store::rocks::RocksStore;
use wizefs_ledger::store::{Batch, Column, Durability, Store};
use wizefs_ledger::{
    BucketId, BucketKind, Cause, Content, Draft, Evidence, FileOp, Hashes, Label, Ledger, LogKey, OpenOptions, Put,
    Statement, TreePath, Wallet,
};

/// Drafts per submit, and transactions per block.
const BATCH: u64 = 256;
const BLOCK: u64 = 4_096;

fn main() -> Result<(), Box<dyn Error>> {
    let count: u64 = std::env::args().nth(1).map_or(Ok(32_768), |text| text.parse())?;
    let dir = tempfile::tempdir()?;
    let wallet = Wallet::generate()?;
    let sign = raw_signing(&wallet);
    let raw = raw_batches(&dir.path().join("raw"), count.min(32_768))?;

    let options = || -> Result<OpenOptions, Box<dyn Error>> { Ok(OpenOptions::new(wallet.clone(), log_key())) };
    let path = dir.path().join("ledger");
    let ledger = Ledger::open(&path, options()?.create())?;
    let name = Label::new("docs")?;
    let create = Draft { time_us: 0, statement: Statement::CreateBucket { name, kind: BucketKind::Loopback } };
    let bucket = ledger.submit(&wallet, vec![create], &[])?[0];

    let (mut submitting, mut sealing, mut slowest) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
    for first in (0..count).step_by(BATCH as usize) {
        let drafts = (first..(first + BATCH).min(count)).map(|number| put(bucket, number)).collect();
        let started = Instant::now();
        ledger.submit(&wallet, drafts, &[])?;
        submitting += started.elapsed();
        if ledger.pending().count() >= BLOCK {
            let started = Instant::now();
            ledger.seal(u64::MAX)?;
            sealing += started.elapsed();
            slowest = slowest.max(started.elapsed());
            if (first + BATCH).is_multiple_of(25 * BLOCK) {
                let (accepted, sealed) = (submitting.as_secs_f64(), sealing.as_secs_f64());
                eprintln!("{:>9} after {accepted:.1} s of submit, {sealed:.1} s of seal", first + BATCH);
            }
        }
    }
    ledger.seal(u64::MAX)?;
    let per_second = |count: u64, time: Duration| count as f64 / time.as_secs_f64();
    let submit = per_second(count, submitting);
    println!("sign     {sign:>9.0} /s on one core");
    println!("batches  {raw:>9.0} /s of 400 bytes, one fsync per {BLOCK}");
    println!("submit   {submit:>9.0} /s = {:.2} of signing on one core", submit / sign);
    println!("seal     {:>9.0} /s, slowest block {slowest:.0?}", per_second(count, sealing));
    let both = per_second(count, submitting + sealing);
    println!("together {both:>9.0} /s = {:.2} of signing, {:.2} of batches", both / sign, both / raw);

    println!("memory   {}", memory());
    let started = Instant::now();
    let report = ledger.fsck(&mut |_| ControlFlow::Continue(()))?;
    println!("fsck     {:>9.0} /s, {} problems", per_second(count, started.elapsed()), report.problems.len());
    let size = ledger.size();
    let started = Instant::now();
    for index in (0..size).step_by((size / 1_000).max(1) as usize) {
        ledger.inclusion_proof(index, size)?;
    }
    println!("proof    {:.0?} each at {size}", started.elapsed() / size.min(1_000) as u32);
    drop(ledger);
    let started = Instant::now();
    let ledger = Ledger::open(&path, options()?)?;
    println!("open     {:.0?} at {size} transactions", started.elapsed());
    drop(ledger);
    let bytes: u64 = std::fs::read_dir(&path)?.flatten().filter_map(|file| file.metadata().ok()).map(|m| m.len()).sum();
    println!("disk     {} bytes per put, reserve apart, not compacted", bytes.saturating_sub(64 << 20) / count.max(1));
    println!("memory   {}, the check included", memory());
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
