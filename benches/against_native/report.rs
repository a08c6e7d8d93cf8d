//! Medians, ratios and means, as tables in Markdown.

use crate::node::Requests;
use crate::places::Place;
use crate::work::{WORKLOADS, Workload};
use crate::{Options, Result};
use std::collections::HashMap;
use std::io::Write;
use std::time::Duration;

/// The steps of a workload, and the requests during them, the most frequent first.
type Asked = (u64, Vec<(String, u64)>);

/// What was measured.
#[derive(Default)]
pub(crate) struct Report {
    /// For each workload and place the seconds of each round, and how long the recording went on after it.
    times: HashMap<(&'static str, &'static str), Vec<(f64, f64)>>,
    /// For each workload its steps, and what the kernel asked of the node during them, in the last round.
    asked: HashMap<&'static str, Asked>,
}

impl Report {
    pub(crate) fn add(&mut self, workload: &Workload, place: &'static str, time: Duration, settled: Duration) {
        let times = (time.as_secs_f64(), settled.as_secs_f64());
        self.times.entry((workload.name, place)).or_default().push(times);
    }

    pub(crate) fn asked(&mut self, workload: &Workload, steps: u64, before: &Requests, after: &Requests) {
        let more = |(name, count): (&String, &u64)| {
            let more = count - before.get(name).unwrap_or(&0);
            (more > 0).then(|| (name.clone(), more))
        };
        let mut requests: Vec<_> = after.iter().filter_map(more).collect();
        requests.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        self.asked.insert(workload.name, (steps, requests));
    }

    fn seconds(&self, workload: &Workload, place: &'static str) -> Option<f64> {
        median(self.times.get(&(workload.name, place))?.iter().map(|(time, _)| *time).collect())
    }

    fn lag(&self, workload: &Workload) -> Option<f64> {
        median(self.times.get(&(workload.name, "wizefs"))?.iter().map(|(_, lag)| *lag).collect())
    }

    /// The speed of a place in parts of that of another one.
    fn speed(&self, workload: &Workload, place: &'static str, of: &'static str) -> Option<f64> {
        Some(self.seconds(workload, of)? / self.seconds(workload, place)?)
    }

    /// Geometric mean over all workloads that were measured in both.
    fn mean_speed(&self, place: &'static str, of: &'static str) -> Option<f64> {
        let speeds: Vec<f64> = WORKLOADS.iter().filter_map(|workload| self.speed(workload, place, of)).collect();
        let sum: f64 = speeds.iter().map(|speed| speed.ln()).sum();
        (!speeds.is_empty()).then(|| (sum / speeds.len() as f64).exp())
    }

    /// The whole result on stdout.
    pub(crate) fn print(
        &self,
        machine: &str,
        places: &[Place<'_>],
        options: &Options,
        tree_files: usize,
    ) -> Result<()> {
        let mut out = std::io::stdout().lock();
        let others: Vec<&'static str> = places.iter().map(Place::name).filter(|name| *name != "native").collect();
        let load = &options.load;
        writeln!(out, "### {machine}\n")?;
        writeln!(
            out,
            "Medians of {} interleaved rounds; a tree of {tree_files} files, {} files of 4 KiB, one of {} MiB, {} random accesses, {} \
             transactions.\nRatios are speeds: 1 is as fast as the directory itself, more is faster.\n",
            options.rounds, load.small_files, load.large_mib, load.random, load.rows
        )?;
        self.print_speeds(&mut out, &others)?;
        for other in others.iter().filter(|name| **name != "wizefs") {
            if let Some(mean) = self.mean_speed("wizefs", other) {
                writeln!(out, "\nwizefs is {mean:.2} times as fast as {other} (geometric mean).")?;
            }
        }
        self.print_requests(&mut out)
    }

    fn print_speeds(&self, out: &mut impl Write, others: &[&'static str]) -> Result<()> {
        writeln!(out, "| workload | native, s | {} | floor | recording lags, s |", others.join(" | "))?;
        writeln!(out, "|---|--:|{}--:|--:|", "--:|".repeat(others.len()))?;
        let measured = WORKLOADS.iter().filter(|workload| self.seconds(workload, "native").is_some());
        for workload in measured {
            write!(out, "| {} | {} |", workload.name, number(self.seconds(workload, "native")))?;
            for other in others {
                write!(out, " {} |", ratio(self.speed(workload, other, "native")))?;
            }
            writeln!(out, " {} | {} |", ratio(workload.floor), number(self.lag(workload)))?;
        }
        write!(out, "| geometric mean | |")?;
        for other in others {
            write!(out, " {} |", ratio(self.mean_speed(other, "native")))?;
        }
        writeln!(out, " 0.50 | |")?;
        Ok(())
    }

    fn print_requests(&self, out: &mut impl Write) -> Result<()> {
        writeln!(out, "\n| workload | requests for each step | of these |\n|---|--:|---|")?;
        for workload in &WORKLOADS {
            let Some((steps, requests)) = self.asked.get(workload.name) else { continue };
            let each = |count: u64| count as f64 / (*steps).max(1) as f64;
            let kinds = requests.iter().filter(|(_, count)| each(*count) >= 0.01);
            let kinds: Vec<String> = kinds.map(|(name, count)| format!("{name} {:.2}", each(*count))).collect();
            let all = each(requests.iter().map(|(_, count)| count).sum());
            writeln!(out, "| {} | {all:.2} | {} |", workload.name, kinds.join(", "))?;
        }
        Ok(())
    }
}

pub(crate) fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

pub(crate) fn number(value: Option<f64>) -> String {
    match value {
        None => "-".to_owned(),
        Some(value) if value < 10.0 => format!("{value:.3}"),
        Some(value) => format!("{value:.0}"),
    }
}

fn ratio(value: Option<f64>) -> String {
    value.map_or("-".to_owned(), |value| format!("{value:.2}"))
}
