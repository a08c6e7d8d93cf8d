//! Zip archives against the tools people have: `cargo bench -p wizefs-fs --bench archives`. Needs /dev/fuse; fuse-zip and
//! mount-zip and ratarmount take part where they are installed, `zip` and `unzip` must be. Every figure is the median of the runs.
//!
//! `WIZEFS_BENCH_MEMBERS` (default 1000,100000,1000000) are the sizes of the archives walked, `WIZEFS_BENCH_MIB` (default
//! 1024) is the size of the member read and of the file written, `WIZEFS_BENCH_FILES` (default 10000) how many files are copied in and
//! renamed, `WIZEFS_BENCH_ADD_MIB` (default 1024,10240) are the sizes of the archives that a file is added to.

mod archives;
mod mounts;
mod writes;

use mounts::{Contender, Mounted};
use std::error::Error;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Runs of each measurement.
const RUNS: usize = 3;
/// Reads at random places.
const READS: usize = 1000;
const READ_BYTES: usize = 4096;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().collect();
    if let [_, how, backing, mountpoint] = &args[..]
        && how.starts_with("--serve-")
    {
        return mounts::serve(how, backing.as_ref(), mountpoint.as_ref());
    }
    let dir = tempfile::Builder::new().prefix("wizefs-bench-").tempdir()?;
    let contenders = mounts::contenders();
    let members = setting("WIZEFS_BENCH_MEMBERS", "1000,100000,1000000");
    println!("| members | program | mount s | walk s | peak MiB |");
    println!("|---|---|---|---|---|");
    for count in members.split(',') {
        let archive = dir.path().join("many.zip");
        archives::many(&archive, count.parse()?)?;
        for contender in &contenders {
            walks(contender, &archive, dir.path(), count)?;
        }
        std::fs::remove_file(&archive)?;
    }
    let mib: u64 = setting("WIZEFS_BENCH_MIB", "1024").parse()?;
    println!("\n| member of {mib} MiB | program | MB/s | 4 KiB at random: median ms | p99 ms | peak MiB |");
    println!("|---|---|---|---|---|---|");
    for method in ["deflated", "stored"] {
        let archive = archives::one(dir.path(), method, mib)?;
        unzip(method, &archive, mib)?;
        // ratarmount begins a deflated member anew for each read: a thousand take hours.
        for contender in contenders.iter().filter(|contender| contender.name != "ratarmount") {
            match reads(contender, method, &archive, dir.path(), mib) {
                Err(error) if contender.name != "wizefs" => {
                    println!("| {method} | {} | failed: {error} | | | |", contender.name);
                }
                ours => ours?,
            }
        }
        std::fs::remove_file(&archive)?;
    }
    writes::all(dir.path())
}

fn setting(name: &str, default: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| default.to_owned())
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort();
    times[times.len() / 2].as_secs_f64()
}

/// Names and attributes of everything, as `find -ls` looks at them.
fn walk(dir: &Path) -> Result<u64> {
    use std::os::unix::fs::MetadataExt;
    let mut seen = 0;
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir)? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            seen += u64::from(metadata.size() < u64::MAX);
            if metadata.is_dir() {
                dirs.push(entry.path());
            }
        }
    }
    Ok(seen)
}

fn walks(contender: &Contender, archive: &Path, dir: &Path, count: &str) -> Result<()> {
    let (mut mounting, mut walking, mut memory) = (Vec::new(), Vec::new(), 0);
    for _ in 0..RUNS {
        let begun = Instant::now();
        let mounted = Mounted::new(contender, archive, dir)?;
        mounting.push(begun.elapsed());
        let begun = Instant::now();
        let seen = walk(mounted.mountpoint())?;
        walking.push(begun.elapsed());
        assert!(seen >= count.parse()?, "{} shows {seen} of {count}", contender.name);
        memory = memory.max(mounted.peak_memory()?);
        mounted.end()?;
    }
    let (mount, walk, mib) = (median(mounting), median(walking), memory >> 20);
    println!("| {count} | {} | {mount:.3} | {walk:.3} | {mib} |", contender.name);
    Ok(())
}

fn drain(mut from: impl Read) -> Result<u64> {
    let mut buffer = vec![0; 1 << 20];
    let mut bytes = 0;
    loop {
        match from.read(&mut buffer)? {
            0 => return Ok(bytes),
            read => bytes += read as u64,
        }
    }
}

fn unzip(method: &str, archive: &Path, mib: u64) -> Result<()> {
    let mut times = Vec::new();
    for _ in 0..RUNS {
        let begun = Instant::now();
        let mut child = Command::new("unzip").arg("-p").arg(archive).stdout(Stdio::piped()).spawn()?;
        let bytes = child.stdout.take().map(drain).transpose()?;
        assert_eq!(bytes, Some(mib << 20));
        child.wait()?;
        times.push(begun.elapsed());
    }
    println!("| {method} | unzip -p | {:.0} | - | - | - |", (mib << 20) as f64 / 1e6 / median(times));
    Ok(())
}

fn reads(contender: &Contender, method: &str, archive: &Path, dir: &Path, mib: u64) -> Result<()> {
    let (mut passes, mut places, mut memory) = (Vec::new(), Vec::new(), 0);
    for run in 0..RUNS as u64 {
        let mounted = Mounted::new(contender, archive, dir)?;
        let member = mounted.mountpoint().join("member");
        let begun = Instant::now();
        assert_eq!(drain(File::open(&member)?)?, mib << 20);
        passes.push(begun.elapsed());
        let file = File::open(&member)?;
        // Not from the kernel's memory.
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::Random)?;
        let mut state = run + 1;
        let mut buffer = [0; READ_BYTES];
        for _ in 0..READS {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let at = (state >> 16) % ((mib << 20) - READ_BYTES as u64);
            let begun = Instant::now();
            file.read_exact_at(&mut buffer, at)?;
            places.push(begun.elapsed());
        }
        memory = memory.max(mounted.peak_memory()?);
        drop(file);
        mounted.end()?;
    }
    places.sort();
    let ms = |at: usize| places[at].as_secs_f64() * 1e3;
    println!(
        "| {method} | {} | {:.0} | {:.3} | {:.3} | {} |",
        contender.name,
        (mib << 20) as f64 / 1e6 / median(passes),
        ms(places.len() / 2),
        ms(places.len() * 99 / 100),
        memory >> 20,
    );
    Ok(())
}
