//! How the recording of small files keeps up.

use crate::node::Node;
use crate::report::{median, number};
use crate::work::Load;
use crate::{Result, files};
use std::io::Write;
use std::time::{Duration, Instant};

pub(crate) struct Lag {
    files: u64,
    create: Duration,
    after_last_close: Duration,
    peak_memory: u64,
}

/// Create small files, wait for the barrier, and look each one up in the log.
pub(crate) fn settle_lag(node: &Node, load: &Load, name: &str) -> Result<Lag> {
    let dir = node.mounted().join(name);
    node.forget_peak_memory()?;
    let start = Instant::now();
    std::fs::create_dir(&dir)?;
    files::create_small_files(&dir, load.small_files)?;
    let create = start.elapsed();
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

/// The medians on stdout.
pub(crate) fn print(lags: &[Lag], peak_of_all: u64) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let of = |value: fn(&Lag) -> f64| median(lags.iter().map(value).collect());
    let files = lags.iter().map(|lag| lag.files).max().unwrap_or_default();
    writeln!(out, "\n| recording {files} files of 4 KiB | median |\n|---|--:|")?;
    let rows: [(&str, Option<f64>, &str); 5] = [
        ("creating them", of(|lag| lag.create.as_secs_f64()), "s"),
        ("from the last close until `wizefs sync` returns", of(|lag| lag.after_last_close.as_secs_f64()), "s"),
        ("that is", of(|lag| lag.files as f64 / lag.after_last_close.as_secs_f64()), "transactions/s"),
        (
            "from the first create until `wizefs sync` returns",
            of(|lag| lag.files as f64 / (lag.create + lag.after_last_close).as_secs_f64()),
            "transactions/s",
        ),
        ("memory of the node at its peak (VmHWM)", of(|lag| lag.peak_memory as f64 / 1e6), "MB"),
    ];
    for (name, value, unit) in rows {
        writeln!(out, "| {name} | {} {unit} |", number(value))?;
    }
    writeln!(out, "| the same during all workloads above | {} MB |\n", number(Some(peak_of_all as f64 / 1e6)))?;
    Ok(())
}
