//! A mounted bucket against the directory itself and against bindfs, on one file system and in one run; then how long the
//! recording lags behind.
//!
//! `cargo bench --bench against_native [-- [--rounds N] [--quick] [--dir DIR] [--tree DIR]]` prints a table in Markdown.
//! `--dir` is where everything happens, `--tree` the source tree that is copied. Run as root, it drops the kernel's caches
//! before what is called cold. No time is ever asserted: the machine decides it.

mod machine;
mod places;
mod report;
mod work;

use places::{Node, Place};
use report::Report;
use std::path::PathBuf;
use std::time::Duration;
use work::{Load, Workload};

/// What can go wrong is told and ends the run.
type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// The command line.
struct Options {
    rounds: usize,
    load: Load,
    dir: PathBuf,
    tree: Option<PathBuf>,
}

fn options() -> Result<Options> {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let mut options = Options { rounds: 5, load: Load::FULL, dir, tree: None };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or(format!("{arg} needs a value"));
        match arg.as_str() {
            "--rounds" => options.rounds = value()?.parse::<usize>()?.max(1),
            "--quick" => (options.rounds, options.load) = (1, Load::QUICK),
            "--dir" => options.dir = value()?.into(),
            "--tree" => options.tree = Some(value()?.into()),
            // Cargo says this to every benchmark.
            "--bench" => {}
            _ => return Err(format!("unknown argument {arg}").into()),
        }
    }
    Ok(options)
}

fn main() -> Result<()> {
    let options = options()?;
    let base = tempfile::Builder::new().prefix("wizefs-bench-").tempdir_in(&options.dir)?;
    let tree = work::source_tree(options.tree.as_deref(), &base.path().join("tree"), &options.load)?;
    let node = Node::start(&base.path().join("root"))?;
    let places = places::all(base.path(), &node)?;
    let mut report = Report::default();
    for round in 0..options.rounds {
        for workload in Workload::ALL {
            // Every place is the first one now and then.
            for turn in 0..places.len() {
                let place = &places[(round + turn) % places.len()];
                eprintln!("round {} of {}: {} in {}", round + 1, options.rounds, workload.name(), place.name());
                measure(workload, place, &options.load, &tree, &mut report)?;
            }
        }
    }
    let peak_of_all = node.peak_memory()?;
    let mut lags = Vec::new();
    for round in 0..options.rounds {
        eprintln!("round {} of {}: settle lag", round + 1, options.rounds);
        lags.push(settle_lag(&node, &options.load, &format!("lag{round}"))?);
    }
    let machine = machine::describe(base.path())?;
    report.print(&machine, &places, &options, &lags, peak_of_all, tree.files)?;
    drop(places);
    node.stop()
}

/// One workload in one place. What it needs is made before and taken away after, and a bucket has everything recorded
/// before the next one starts, so that no place pays for another.
fn measure(workload: Workload, place: &Place, load: &Load, tree: &work::Tree, report: &mut Report) -> Result<()> {
    let dir = place.dir().join(format!("work-{}", std::process::id()));
    workload.prepare(&dir, load, tree)?;
    place.settle()?;
    if workload.is_cold() && !machine::drop_caches()? {
        return workload.clean(&dir);
    }
    let time = workload.run(&dir, load, tree)?;
    let settled = place.settle()?;
    report.add(workload, place.name(), time, settled);
    workload.clean(&dir)?;
    place.settle()?;
    Ok(())
}

/// How the recording of small files kept up.
struct Lag {
    files: u64,
    create: Duration,
    after_last_close: Duration,
    peak_memory: u64,
}

/// Create small files, wait for the barrier, and look each one up in the log.
fn settle_lag(node: &Node, load: &Load, name: &str) -> Result<Lag> {
    let dir = node.mounted().join(name);
    node.forget_peak_memory()?;
    let create = work::create_small_files(&dir, load)?;
    let after_last_close = node.sync()?;
    let peak_memory = node.peak_memory()?;
    let found = node.final_puts_below(name)?;
    if found != load.small_files {
        return Err(format!("{found} of {} files are final in the log", load.small_files).into());
    }
    std::fs::remove_dir_all(&dir)?;
    node.sync()?;
    Ok(Lag { files: load.small_files, create, after_last_close, peak_memory })
}
