//! Medians and ratios, as a table in Markdown.

use crate::places::Place;
use crate::work::Workload;
use crate::{Lag, Options, Result};
use std::collections::HashMap;
use std::io::Write;
use std::time::Duration;

/// What was measured: for each workload and place, the time of each round, and until it was recorded too.
#[derive(Default)]
pub(crate) struct Report {
    times: HashMap<(&'static str, &'static str), Vec<(Duration, Duration)>>,
}

impl Report {
    pub(crate) fn add(&mut self, workload: Workload, place: &'static str, time: Duration, settled: Duration) {
        self.times.entry((workload.name(), place)).or_default().push((time, time + settled));
    }

    fn seconds(&self, workload: Workload, place: &'static str) -> Option<(f64, f64)> {
        let rounds = self.times.get(&(workload.name(), place))?;
        let (times, settled): (Vec<_>, Vec<_>) = rounds.iter().map(|(a, b)| (a.as_secs_f64(), b.as_secs_f64())).unzip();
        Some((median(times)?, median(settled)?))
    }

    /// The whole result on stdout.
    pub(crate) fn print(
        &self,
        machine: &str,
        places: &[Place<'_>],
        options: &Options,
        lags: &[Lag],
        peak_of_all: u64,
        tree_files: usize,
    ) -> Result<()> {
        let mut out = std::io::stdout().lock();
        writeln!(out, "{machine}.")?;
        writeln!(
            out,
            "Medians of {} interleaved rounds, in seconds; a tree of {tree_files} files, {} files of 4 KiB, one of {} MiB.\n",
            options.rounds, options.load.small_files, options.load.large_mib
        )?;
        let with_bindfs = places.iter().any(|place| matches!(place, Place::Bindfs(_)));
        writeln!(out, "| workload | native | bindfs | wizefs | to native | to bindfs | wizefs until recorded |")?;
        writeln!(out, "|---|--:|--:|--:|--:|--:|--:|")?;
        for workload in Workload::ALL {
            let native = self.seconds(workload, "native");
            let bindfs = if with_bindfs { self.seconds(workload, "bindfs") } else { None };
            let wizefs = self.seconds(workload, "wizefs");
            writeln!(
                out,
                "| {} | {} | {} | {} | {} | {} | {} |",
                workload.name(),
                number(native.map(|s| s.0)),
                number(bindfs.map(|s| s.0)),
                number(wizefs.map(|s| s.0)),
                ratio(wizefs, native),
                ratio(wizefs, bindfs),
                number(wizefs.map(|s| s.1)),
            )?;
        }
        lag_lines(&mut out, lags, peak_of_all)
    }
}

fn lag_lines(out: &mut impl Write, lags: &[Lag], peak_of_all: u64) -> Result<()> {
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
    writeln!(out, "| the same during all workloads above | {} MB |", number(Some(peak_of_all as f64 / 1e6)))?;
    Ok(())
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

fn number(value: Option<f64>) -> String {
    match value {
        None => "-".to_owned(),
        Some(value) if value < 10.0 => format!("{value:.3}"),
        Some(value) => format!("{value:.0}"),
    }
}

fn ratio(a: Option<(f64, f64)>, b: Option<(f64, f64)>) -> String {
    a.zip(b).map_or("-".to_owned(), |(a, b)| format!("{:.2}", a.0 / b.0))
}
