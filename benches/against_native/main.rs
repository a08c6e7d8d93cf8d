//! A mounted bucket, recording, against the directory itself, bindfs, gocryptfs and libfuse's passthrough_hp: the same work in
//! each, in one run, on a disk and in memory; how long the recording lags behind; what the kernel asked for.
//!
//! `cargo bench --bench against_native [-- OPTIONS]` prints tables in Markdown.
//!
//! - `--dir DIR`, also more than once: where everything happens. Without it a directory of the build, and `/dev/shm`.
//! - `--tree DIR`: the source tree that is copied, searched and packed. Without it what Cargo has unpacked.
//! - `--rounds N`, `--only WORD` (workloads and lines with this word), `--quick` (small loads, one round, for CI).
//! - `--million`, or `--million N`: also what a node holds after a walk over N files, and after the kernel has forgotten them.
//! - `WIZEFS_BENCH_PASSTHROUGH_HP` names a built `passthrough_hp` of libfuse 3.17 or newer.
//!
//! A file system that is not installed is said and left out. Run as root, the kernel's caches are dropped before what is called
//! cold. No time is ever asserted: the machine decides it.

mod files;
mod lag;
mod machine;
mod million;
mod node;
mod places;
mod programs;
mod report;
mod work;

use node::Node;
use places::Place;
use report::Report;
use std::path::PathBuf;
use std::time::Instant;
use work::{Job, Load, Material, WORKLOADS, Workload};

/// What can go wrong is told and ends the run.
type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// The command line.
struct Options {
    rounds: usize,
    load: Load,
    dirs: Vec<PathBuf>,
    tree: Option<PathBuf>,
    only: String,
    million: Option<u64>,
}

fn options() -> Result<Options> {
    let mut options =
        Options { rounds: 3, load: Load::FULL, dirs: Vec::new(), tree: None, only: String::new(), million: None };
    let mut args = std::env::args().skip(1).peekable();
    while let Some(arg) = args.next() {
        if arg == "--million" {
            let number = args.next_if(|next| next.parse::<u64>().is_ok());
            options.million = Some(number.map_or(Ok(1_000_000), |number| number.parse())?);
            continue;
        }
        let mut value = || args.next().ok_or(format!("{arg} needs a value"));
        match arg.as_str() {
            "--rounds" => options.rounds = value()?.parse::<usize>()?.max(1),
            "--quick" => (options.rounds, options.load) = (1, Load::QUICK),
            "--dir" => options.dirs.push(value()?.into()),
            "--tree" => options.tree = Some(value()?.into()),
            "--only" => options.only = value()?,
            // Cargo says this to every benchmark.
            "--bench" => {}
            _ => return Err(format!("unknown argument {arg}").into()),
        }
    }
    if options.dirs.is_empty() {
        options.dirs.push(PathBuf::from(env!("CARGO_TARGET_TMPDIR")));
        let memory = PathBuf::from("/dev/shm");
        if memory.is_dir() { options.dirs.push(memory) } else { eprintln!("SKIPPED: no /dev/shm to work in") }
    }
    Ok(options)
}

fn main() -> Result<()> {
    let options = options()?;
    for dir in &options.dirs {
        bench(&options, dir)?;
    }
    Ok(())
}

/// Everything in one directory.
fn bench(options: &Options, dir: &std::path::Path) -> Result<()> {
    let base = tempfile::Builder::new().prefix("wizefs-bench-").tempdir_in(dir)?;
    let material = Material::make(options.tree.as_deref(), &base.path().join("material"), &options.load)?;
    let node = Node::start(&base.path().join("root"))?;
    let places = places::all(base.path(), &node)?;
    let mut report = Report::default();
    let mut names = 0_u32..;
    for round in 0..options.rounds {
        for workload in WORKLOADS.iter().filter(|workload| workload.name.contains(&options.only)) {
            // Every place is the first one now and then.
            for turn in 0..places.len() {
                let place = &places[(round + turn) % places.len()];
                eprintln!("round {} of {}: {} in {}", round + 1, options.rounds, workload.name, place.name());
                let dir = place.dir().join(format!("work-{}", names.next().unwrap_or_default()));
                std::fs::create_dir(&dir)?;
                let job = Job { dir: &dir, load: &options.load, material: &material };
                measure(workload, place, &node, &job, &mut report)?;
                std::fs::remove_dir_all(&dir)?;
                place.settle()?;
            }
        }
    }
    let peak_of_all = node.peak_memory()?;
    let mut lags = Vec::new();
    for round in 0..options.rounds {
        eprintln!("round {} of {}: settle lag", round + 1, options.rounds);
        lags.push(lag::settle_lag(&node, &options.load, &format!("lag{round}"))?);
    }
    report.print(&machine::describe(base.path())?, &places, options, material.files())?;
    lag::print(&lags, peak_of_all)?;
    drop(places);
    node.stop()?;
    match options.million {
        Some(files) => million::walk(&base.path().join("million"), files),
        None => Ok(()),
    }
}

/// One workload in one place. What it needs is made before, and is on the disk, and a bucket has everything recorded before
/// the next one starts, so that no place pays for another.
fn measure(workload: &Workload, place: &Place<'_>, node: &Node, job: &Job<'_>, report: &mut Report) -> Result<()> {
    (workload.prepare)(job)?;
    place.settle()?;
    if workload.cold && !machine::drop_caches()? {
        return Ok(());
    }
    let asked = node.requests()?;
    let start = Instant::now();
    let steps = (workload.run)(job)?;
    let time = start.elapsed();
    if matches!(place, Place::Wizefs(_)) {
        report.asked(workload, steps, &asked, &node.requests()?);
    }
    report.add(workload, place.name(), time, place.settle()?);
    Ok(())
}
