//! Archives that are written: a tree copied in, a small file added to a large archive, a directory renamed, a file written.

use crate::mounts::{self, Contender, Mounted, SERVE_LZ};
use crate::{RUNS, Result, archives, median, setting};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use wizefs_fs::BucketPath;
use wizefs_fs::lz::Archive;

/// All of them.
pub(crate) fn all(dir: &Path) -> Result<()> {
    let files: u32 = setting("WIZEFS_BENCH_FILES", "10000").parse()?;
    let tree = grow(dir, files)?;
    let zipped = dir.join("tree.zip");
    let status = Command::new("zip").args(["-q", "-r", "-6"]).arg(&zipped).arg(".").current_dir(&tree).status()?;
    assert!(status.success(), "zip failed");
    println!("\n| {files} files copied in | cp s | until all is in the archive s | peak MiB | archive, of zip -6 |");
    println!("|---|---|---|---|---|");
    let length = fs::metadata(&zipped)?.len();
    for contender in mounts::writers() {
        copies(&contender, &tree, dir, length)?;
    }
    println!("\n| a directory of {files} renamed | rename ms | until it is in the archive s | MiB written |");
    println!("|---|---|---|---|");
    for contender in mounts::writers() {
        renames(&contender, &zipped, dir)?;
    }
    fs::remove_file(&zipped)?;
    fs::remove_dir_all(&tree)?;
    println!("\n| 1 KiB added to an archive of | program | until it is in the archive ms | KiB written |");
    println!("|---|---|---|---|");
    for mib in setting("WIZEFS_BENCH_ADD_MIB", "1024,10240").split(',') {
        let archive = archives::one(dir, "stored", mib.parse()?)?;
        adds(&archive, dir, mib)?;
        for contender in mounts::writers().iter().filter(|contender| contender.name != "wizefs") {
            adds_mounted(contender, &archive, dir, mib)?;
        }
        fs::remove_file(&archive)?;
    }
    writes(dir)
}

/// A tree like source text: files of 100 bytes to 20 KiB in directories of 100.
fn grow(dir: &Path, files: u32) -> Result<PathBuf> {
    let tree = dir.join("tree");
    let mut state = 1_u64;
    for number in 0..files {
        let folder = tree.join(format!("top/part-{:03}", number / 100));
        if number % 100 == 0 {
            fs::create_dir_all(&folder)?;
        }
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let mut text = String::new();
        while (text.len() as u64) < 100 + (state >> 40) % 20_000 {
            text += &format!("fn name_{}(argument: &str) -> usize {{ {} }}\n", text.len() % 97, state % 1000);
            state = state.wrapping_add(7919);
        }
        fs::write(folder.join(format!("file-{number:05}.rs")), text)?;
    }
    Ok(tree)
}

/// An archive without members.
fn empty(dir: &Path) -> Result<PathBuf> {
    let archive = dir.join("written.zip");
    if archive.exists() {
        fs::remove_file(&archive)?;
    }
    Archive::create(&archive)?;
    Ok(archive)
}

fn copies(contender: &Contender, tree: &Path, dir: &Path, zipped: u64) -> Result<()> {
    let (mut copying, mut durable, mut memory, mut length) = (Vec::new(), Vec::new(), 0, 0);
    for _ in 0..RUNS {
        let archive = empty(dir)?;
        let mounted = Mounted::new(contender, &archive, dir)?;
        let begun = Instant::now();
        let status = Command::new("cp").arg("-r").arg(tree).arg(mounted.mountpoint()).status()?;
        assert!(status.success(), "cp failed");
        copying.push(begun.elapsed());
        memory = memory.max(mounted.peak_memory()?);
        mounted.end()?;
        durable.push(begun.elapsed());
        length = fs::metadata(&archive)?.len();
    }
    let (copy, all) = (median(copying), median(durable));
    println!("| {} | {copy:.2} | {all:.2} | {} | {:.2} |", contender.name, memory >> 20, length as f64 / zipped as f64);
    Ok(())
}

fn renames(contender: &Contender, zipped: &Path, dir: &Path) -> Result<()> {
    let (mut renaming, mut durable, mut bytes) = (Vec::new(), Vec::new(), 0);
    for _ in 0..RUNS {
        let archive = dir.join("written.zip");
        fs::copy(zipped, &archive)?;
        File::open(&archive)?.sync_all()?;
        let mounted = Mounted::new(contender, &archive, dir)?;
        let begun = Instant::now();
        fs::rename(mounted.mountpoint().join("top"), mounted.mountpoint().join("renamed"))?;
        renaming.push(begun.elapsed());
        bytes = mounted.written()?;
        mounted.end()?;
        durable.push(begun.elapsed());
        assert!(fs::metadata(&archive)?.len() > 0);
        bytes = bytes.max(fs::metadata(&archive)?.len());
    }
    println!("| {} | {:.1} | {:.2} | {} |", contender.name, median(renaming) * 1e3, median(durable), bytes >> 20);
    Ok(())
}

/// Bytes this program has had written to the disk.
fn written() -> Result<u64> {
    let io = fs::read_to_string("/proc/self/io")?;
    let line = io.lines().find_map(|line| line.strip_prefix("write_bytes:")).ok_or("no write_bytes")?;
    Ok(line.trim().parse()?)
}

fn adds(archive: &Path, dir: &Path, mib: &str) -> Result<()> {
    let state = dir.join("state");
    let bucket = mounts::writable(SERVE_LZ, archive, &state)?;
    let (mut times, mut bytes) = (Vec::new(), Vec::new());
    for number in 0..2 * RUNS {
        let path = BucketPath::new(format!("added-{number}"))?;
        let before = written()?;
        let begun = Instant::now();
        bucket.put(&path, Some(0o644), &mut &[7; 1024][..])?;
        times.push(begun.elapsed());
        bytes.push(written()? - before);
    }
    bucket.close()?;
    fs::remove_dir_all(&state)?;
    bytes.sort_unstable();
    println!("| {mib} MiB | wizefs | {:.1} | {} |", median(times) * 1e3, bytes[bytes.len() / 2] >> 10);
    Ok(())
}

fn adds_mounted(contender: &Contender, archive: &Path, dir: &Path, mib: &str) -> Result<()> {
    let mounted = Mounted::new(contender, archive, dir)?;
    let begun = Instant::now();
    fs::write(mounted.mountpoint().join("added-mounted"), [7; 1024])?;
    mounted.end()?;
    let (time, kib) = (begun.elapsed(), fs::metadata(archive)?.len() >> 10);
    println!("| {mib} MiB | {} | {:.1} | {kib} |", contender.name, time.as_secs_f64() * 1e3);
    Ok(())
}

/// One large file and many small ones, written into the stage and into a directory behind the same mount, in turn.
fn writes(dir: &Path) -> Result<()> {
    let mib: u64 = setting("WIZEFS_BENCH_MIB", "1024").parse()?;
    let lz = mounts::writers().into_iter().next().ok_or("this program")?;
    let loopback = mounts::loopback()?;
    let mut times: [[Vec<Duration>; 2]; 2] = Default::default();
    for _ in 0..RUNS {
        for (which, contender) in [&lz, &loopback].into_iter().enumerate() {
            let backing = if which == 0 { empty(dir)? } else { dir.join("backing") };
            if which == 1 {
                fs::create_dir_all(&backing)?;
            }
            let mounted = Mounted::new(contender, &backing, dir)?;
            let [large, small] = written_into(mounted.mountpoint(), mib)?;
            times[which][0].push(large);
            times[which][1].push(small);
            mounted.end()?;
        }
    }
    let [[lz_large, lz_small], [large, small]] = times;
    let (lz_large, large) = (median(lz_large), median(large));
    let (lz_small, small) = (median(lz_small), median(small));
    println!("\n| written | into lz s | into loopback s | speed of lz, of loopback |");
    println!("|---|---|---|---|");
    println!("| {mib} MiB, synced | {lz_large:.2} | {large:.2} | {:.2} |", large / lz_large);
    println!("| 2000 files of 4 KiB | {lz_small:.2} | {small:.2} | {:.2} |", small / lz_small);
    Ok(())
}

fn written_into(mountpoint: &Path, mib: u64) -> Result<[Duration; 2]> {
    let block = vec![42; 1 << 20];
    let begun = Instant::now();
    let mut file = File::create(mountpoint.join("large"))?;
    for _ in 0..mib {
        file.write_all(&block)?;
    }
    file.sync_all()?;
    drop(file);
    let large = begun.elapsed();
    fs::remove_file(mountpoint.join("large"))?;
    let begun = Instant::now();
    for number in 0..2000 {
        fs::write(mountpoint.join(format!("small-{number}")), &block[..4096])?;
    }
    let small = begun.elapsed();
    for number in 0..2000 {
        fs::remove_file(mountpoint.join(format!("small-{number}")))?;
    }
    Ok([large, small])
}
