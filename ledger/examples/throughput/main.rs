//! How fast the ledger takes, seals, proves and checks file puts, beside its floors: raw signing, and raw writes of the same
//! rows.
//!
//! `cargo run --release -p wizefs-ledger --example throughput [TRANSACTIONS [PLOT.svg]]`: proofs are measured at each power of
//! ten from 1,000 on. TMPDIR says on which disk.

// Memory is that of a node.
#[path = "../../../src/allocator.rs"]
mod allocator;
mod floors;
mod plot;

use std::error::Error;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use wizefs_ledger::store::Read;
use wizefs_ledger::store::rocks::RocksStore;
use wizefs_ledger::{
    BucketId, BucketKind, Cause, Content, Draft, Evidence, FileOp, Hashes, Label, Ledger, LedgerError, LogKey,
    OpenOptions, Policy, ProofFile, Put, Statement, TreePath, Trust, Wallet,
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
    let dir = tempfile::tempdir_in(std::env::var_os("TMPDIR").unwrap_or_else(|| "/tmp".into()))?;
    let wallet = Wallet::generate()?;
    let (sign, verify) = (floors::signing(&wallet), floors::verifying(&wallet));
    let options = || OpenOptions::new(wallet.clone(), LogKey::from_seed(&[7; 32]));
    let path = dir.path().join("ledger");
    let ledger = Ledger::open(&path, options().create())?;
    println!("{:>9} {:>10} {:>9} {:>9} {:>9}", "size", "put/s", "proof", "make", "check");
    let (took, proofs) = fill(&ledger, &wallet, count)?;
    let peak = memory();
    forget_peak();
    let started = Cost::now();
    let report = ledger.fsck(&mut |_| ControlFlow::Continue(()))?;
    let check = started.elapsed();
    let peak_checked = memory();
    drop(ledger);
    let started = Instant::now();
    let ledger = Ledger::open(&path, options())?;
    let (opened, size) = (started.elapsed(), ledger.size());
    drop(ledger);
    let raw = per_second(count, floors::same_rows(&path, &dir.path().join("raw"), count, BLOCK)?);
    let put = per_second(count, took.wall);
    println!("sign     {sign:>9.0} /s on one core (k256)");
    println!("verify   {verify:>9.0} /s on one core (libsecp256k1)");
    println!("rows     {raw:>9.0} /s: the same rows in batches alone, one fsync per {BLOCK}");
    println!("put      {put:>9.0} /s to final = {:.2} of signing, {:.2} of the rows alone", put / sign, put / raw);
    println!("         {:>9.0} for a second of one processor", took.rate(count));
    println!("memory   {peak} at most");
    println!("fsck     {:>9.0} /s, {} problems", per_second(count, check.wall), report.problems.len());
    println!("         {:>9.0} for a second of one processor", check.rate(count));
    println!("memory   {peak_checked} at most during the check, the open ledger included");
    println!("open     {opened:.0?} at {size} transactions");
    disk(&path, count)?;
    if let Some(file) = plot {
        std::fs::write(file, plot::svg(&proofs))?;
    }
    Ok(())
}

/// Puts `count` files; how long that took until all were final, and what proofs are like at each power of ten.
fn fill(ledger: &Ledger, wallet: &Wallet, count: u64) -> Result<(Cost, Vec<plot::Point>), Box<dyn Error>> {
    let name = Label::new("docs")?;
    let create = Draft { time_us: 0, statement: Statement::CreateBucket { name, kind: BucketKind::Loopback } };
    let bucket = ledger.submit(wallet, vec![create], &[])?[0];
    let (mut took, mut first, mut points) = (Cost::default(), 0, Vec::new());
    for power in (3..).map(|power| 10u64.pow(power)) {
        let end = power.min(count);
        let started = Cost::now();
        put_all(ledger, wallet, bucket, first, end)?;
        let step = started.elapsed();
        took = took.plus(step);
        let point = proofs(ledger, per_second(end - first, step.wall))?;
        let plot::Point { size, bytes, make, check, rate } = point;
        println!("{size:>9} {rate:>10.0} {bytes:>7} B {:>6.0} us {:>6.0} us", make * 1e6, check * 1e6);
        points.push(point);
        first = end;
        if end == count {
            break;
        }
    }
    Ok((took, points))
}

/// Puts files as a node does: whoever submits waits for room only, a sealer makes blocks meanwhile. All are final at the end.
fn put_all(ledger: &Ledger, wallet: &Wallet, bucket: BucketId, first: u64, end: u64) -> Result<(), Box<dyn Error>> {
    let submitted = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let sealer = scope.spawn(|| {
            while !submitted.load(Ordering::Acquire) {
                let pending = ledger.wait_pending(BLOCK, Duration::from_millis(50));
                if pending.count() >= BLOCK {
                    ledger.seal(pending.first + BLOCK)?;
                }
            }
            while ledger.seal(ledger.pending().first + BLOCK)?.is_some() {}
            Ok::<_, LedgerError>(())
        });
        let drafts = |from: u64| (from..(from + BATCH).min(end)).map(|number| put(bucket, number)).collect();
        let all = (first..end)
            .step_by(BATCH as usize)
            .try_for_each(|from| ledger.submit(wallet, drafts(from), &[]).map(drop));
        submitted.store(true, Ordering::Release);
        let sealed = sealer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Ok(all.and(sealed)?)
    })
}

/// What something took: of the clock, and of all processors together, which does not depend on what else runs.
#[derive(Debug, Clone, Copy, Default)]
struct Cost {
    wall: Duration,
    processors: Duration,
    started: Option<Instant>,
}

impl Cost {
    fn now() -> Cost {
        Cost { wall: Duration::ZERO, processors: processor_time(), started: Some(Instant::now()) }
    }

    fn elapsed(self) -> Cost {
        let wall = self.started.map_or(Duration::ZERO, |started| started.elapsed());
        Cost { wall, processors: processor_time().saturating_sub(self.processors), started: None }
    }

    fn plus(self, other: Cost) -> Cost {
        Cost { wall: self.wall + other.wall, processors: self.processors + other.processors, started: None }
    }

    fn rate(&self, count: u64) -> f64 {
        per_second(count, self.processors)
    }
}

/// User and system time of this process: fields 14 and 15 of its `stat`, in hundredths of a second.
fn processor_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit_once(") ").unwrap_or_default().1.split(' ').skip(11).take(2);
    Duration::from_millis(10 * fields.filter_map(|field| field.parse::<u64>().ok()).sum::<u64>())
}

fn per_second(count: u64, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64()
}

/// Makes and checks proofs of transactions spread over the log.
fn proofs(ledger: &Ledger, rate: f64) -> Result<plot::Point, Box<dyn Error>> {
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
    Ok(plot::Point { size, bytes, make: each(making), check: each(checking), rate })
}

/// What the folder takes once compacted, and what of that each column does.
fn disk(path: &Path, count: u64) -> Result<(), Box<dyn Error>> {
    let before = folder(path)?;
    let columns = RocksStore::open_existing(path)?.compact()?;
    let bytes = folder(path)? as f64 / count as f64;
    let before = before / count;
    println!(
        "disk     {bytes:.0} bytes per put, reserve apart ({before} before compaction); its columns, and before compression:"
    );
    let store = RocksStore::open_existing(path)?;
    for (column, stored) in columns {
        let (mut rows, mut length) = (0u64, 0u64);
        store.scan(column, b"", wizefs_ledger::store::Direction::Forward, &mut |key, value| {
            rows += 1;
            length += (key.len() + value.len()) as u64;
            ControlFlow::Continue(())
        })?;
        println!("         {:>6} {:>6} {} ({rows} rows)", stored / count, length / count, column.name());
    }
    Ok(())
}

/// Bytes of the files in a folder, without what is kept for the day the disk is full.
fn folder(path: &Path) -> std::io::Result<u64> {
    let files =
        std::fs::read_dir(path)?.filter(|file| file.as_ref().map_or(true, |file| file.file_name() != "reserve"));
    files.map(|file| Ok(file?.metadata()?.len())).sum()
}

fn put(bucket: BucketId, number: u64) -> Draft {
    let path = format!("some-source-tree/directory-{}/file-{number}.txt", number / 100);
    let hashes = Some(Hashes { blake3: random_looking(number), sha256: random_looking(number + (1 << 40)) });
    let put = Put {
        path: TreePath::new(path).unwrap_or_default(),
        content: Content::File { size: number, hashes },
        mode: 0o644,
        uid: 1000,
        gid: 1000,
        mtime_ns: 1_700_000_000_000_000_000 + (number * 1_234_567) as i64,
        evidence: Evidence::Lease,
    };
    let statement = Statement::File { bucket, change: number + 1, cause: Cause::Mount, op: FileOp::Put(put) };
    Draft { time_us: 1_700_000_000_000_000 + number * 87, statement }
}

/// Bytes that do not compress, as hashes do not: SplitMix64.
fn random_looking(seed: u64) -> [u8; 32] {
    let mut bytes = [0; 32];
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    for chunk in bytes.chunks_exact_mut(8) {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        chunk.copy_from_slice(&(mixed ^ (mixed >> 31)).to_le_bytes());
    }
    bytes
}

/// Lets the kernel count the most resident memory from now on.
fn forget_peak() {
    if let Err(error) = std::fs::write("/proc/self/clear_refs", "5") {
        eprintln!("the peak of memory is that of the whole run: {error}");
    }
}

/// The most resident memory of this process, as the kernel tells it.
fn memory() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.map_or_else(|| "unknown".into(), |line| line.trim().to_owned())
}
