//! What the node tells Prometheus: counters that services and `verify` add to, and everything else read at the moment of asking.
//! docs/OPERATIONS.md lists the names.

use crate::error::{Error, Kind, Result};
use crate::node::Node;
use crate::rest::wire::{MountState, Status, VerifySummary};
use parking_lot::Mutex;
use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use wizefs_fs::meter::{self, BOUNDS_US, Histogram, Reading};

/// The media type of [`text()`].
pub const MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What is counted while the node runs.
#[derive(Default)]
pub struct Counters {
    /// Answers by service, method and code, and how long they took.
    requests: Mutex<BTreeMap<Request, Arc<Histogram>>>,
    verified: Mutex<Verified>,
}

/// Requests that are counted together. Few: methods and codes are those that services know.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Request {
    service: &'static str,
    method: &'static str,
    code: u16,
}

/// Methods of HTTP and calls of gRPC that are counted by name.
const METHODS: [&str; 15] = [
    "GET",
    "HEAD",
    "POST",
    "PUT",
    "DELETE",
    "PROPFIND",
    "Create",
    "Delete",
    "Mount",
    "Unmount",
    "Put",
    "Get",
    "Remove",
    "PutStream",
    "GetStream",
];

/// What all runs of `verify` found together.
#[derive(Debug, Default, Clone, Copy)]
struct Verified {
    runs: u64,
    ok: u64,
    damaged: u64,
    missing: u64,
    foreign: u64,
    pending: u64,
    bytes: u64,
    last: Option<SystemTime>,
}

impl Counters {
    /// A request was answered.
    pub fn answered(&self, service: &'static str, method: &str, code: u16, took: Duration) {
        let method = METHODS.into_iter().find(|known| *known == method).unwrap_or("other");
        let request = Request { service, method, code };
        let histogram = Arc::clone(self.requests.lock().entry(request).or_default());
        histogram.observe(took);
    }

    /// A run of `verify` has ended.
    pub fn verified(&self, found: &VerifySummary) {
        let mut all = self.verified.lock();
        all.runs += 1;
        all.ok += found.ok;
        all.damaged += found.damaged;
        all.missing += found.missing;
        all.foreign += found.foreign;
        all.pending += found.pending;
        all.bytes += found.bytes;
        all.last = Some(SystemTime::now());
    }
}

/// Everything, in the text format of OpenMetrics.
///
/// # Errors
/// As [`Node::status`].
pub fn text(node: &Node) -> Result<String> {
    let mut registry = Registry::default();
    let status = node.status()?;
    let version = Info::new([("version", status.node.version.clone())]);
    registry.register("wizefs_build", "The program", version);
    let problem = Values::gauge([(vec![], u64::from(status.node.problem.is_some()))]);
    registry.register(
        "wizefs_problem",
        "1 while something keeps the node from its work: wizefs status says what",
        problem,
    );
    ledger(&mut registry, &status);
    buckets(&mut registry, &status);
    mounts(&mut registry);
    requests(&mut registry, &node.counters);
    verified(&mut registry, *node.counters.verified.lock());
    process(&mut registry, &status);
    let mut text = String::new();
    text::encode(&mut text, &registry)
        .map_err(|e| Error::new(Kind::Internal, format!("cannot write the metrics: {e}")))?;
    Ok(text)
}

fn ledger(registry: &mut Registry, status: &Status) {
    let ledger = &status.ledger;
    let mut gauge = |name: &str, help: &str, value: u64| {
        registry.register(name, help, Values::gauge([(vec![], value)]));
    };
    gauge("wizefs_ledger_height", "Height of the newest block", ledger.height);
    gauge("wizefs_ledger_pending_transactions", "Transactions that no block holds yet", ledger.pending);
    gauge("wizefs_unsettled_files", "Changed files whose content is not hashed and reported yet", ledger.unsettled);
    let time = ledger.head_time.as_deref().and_then(|time| time.parse::<jiff::Timestamp>().ok());
    let time = time.map_or(0, |time| time.as_second().unsigned_abs());
    gauge("wizefs_ledger_head_timestamp_seconds", "When the newest block was sealed", time);
    let transactions = Values::counter([(vec![], ledger.transactions)]);
    registry.register("wizefs_ledger_transactions", "Transactions in blocks", transactions);
}

fn buckets(registry: &mut Registry, status: &Status) {
    let each = |value: &dyn Fn(&crate::rest::wire::BucketStatus) -> u64| {
        let labelled = status.buckets.iter().map(|b| (vec![("bucket", b.origin.to_string())], value(b)));
        Values::gauge(labelled)
    };
    let mounted = each(&|bucket| u64::from(bucket.state == MountState::Mounted));
    registry.register("wizefs_bucket_mounted", "1 while the bucket is mounted", mounted);
    registry.register("wizefs_bucket_files", "Files and symbolic links on the ledger", each(&|bucket| bucket.files));
    registry.register("wizefs_bucket_bytes", "Bytes of these files", each(&|bucket| bucket.bytes));
}

fn mounts(registry: &mut Registry) {
    let used = meter::answers().filter(|(_, reading)| reading.counts.iter().any(|count| *count > 0));
    let answers = used.map(|(operation, reading)| (vec![("operation", operation.to_owned())], reading));
    let help = "How long the kernel waited for answers; what it does itself (passthrough) is not in it";
    registry.register("wizefs_fuse_operation_duration_seconds", help, Times(answers.collect()));
    let lag = Times(vec![(vec![], meter::SETTLE_LAG.read())]);
    registry.register("wizefs_settle_lag_seconds", "From the end of the last writer until the change is reported", lag);
}

fn requests(registry: &mut Registry, counters: &Counters) {
    let requests = counters.requests.lock();
    let labelled = requests.iter().map(|(request, times)| {
        let Request { service, method, code } = request;
        let labels =
            vec![("service", (*service).to_owned()), ("method", (*method).to_owned()), ("code", code.to_string())];
        (labels, times.read())
    });
    let help = "Until the head of the answer; gRPC counts in its own codes";
    registry.register("wizefs_request_duration_seconds", help, Times(labelled.collect()));
}

fn verified(registry: &mut Registry, verified: Verified) {
    let Verified { runs, ok, damaged, missing, foreign, pending, bytes, last } = verified;
    let results = [("ok", ok), ("damaged", damaged), ("missing", missing), ("foreign", foreign), ("pending", pending)];
    let results = Values::counter(results.map(|(result, count)| (vec![("result", result.to_owned())], count)));
    registry.register("wizefs_verify_paths", "Paths that were compared with the ledger, by result", results);
    registry.register("wizefs_verify_runs", "Runs of verify that came to their end", Values::counter([(vec![], runs)]));
    registry.register("wizefs_verify_bytes", "Bytes that were compared", Values::counter([(vec![], bytes)]));
    let last = last.and_then(|last| last.duration_since(SystemTime::UNIX_EPOCH).ok()).map_or(0, |last| last.as_secs());
    let help = "When the last run of verify ended; 0 for none since the start";
    registry.register("wizefs_verify_last_timestamp_seconds", help, Values::gauge([(vec![], last)]));
}

/// The names that every exporter uses for its process.
fn process(registry: &mut Registry, status: &Status) {
    let since = status.node.since.as_deref().and_then(|since| since.parse::<jiff::Timestamp>().ok());
    let since = since.map_or(0.0, |since| since.as_millisecond() as f64 / 1e3);
    registry.register("process_start_time_seconds", "When the node started", ConstGauge::new(since));
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = pages.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or_default();
    let resident = Values::gauge([(vec![], pages * rustix::param::page_size() as u64)]);
    registry.register("process_resident_memory_bytes", "Memory in use", resident);
    let open = std::fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count() as u64);
    registry.register("process_open_fds", "Open descriptors", Values::gauge([(vec![], open)]));
}

/// Names and values of labels.
type Labels = Vec<(&'static str, String)>;

/// One number for each set of labels.
#[derive(Debug)]
struct Values {
    is_counter: bool,
    values: Vec<(Labels, u64)>,
}

impl Values {
    fn gauge(values: impl IntoIterator<Item = (Labels, u64)>) -> Values {
        Values { is_counter: false, values: values.into_iter().collect() }
    }

    fn counter(values: impl IntoIterator<Item = (Labels, u64)>) -> Values {
        Values { is_counter: true, values: values.into_iter().collect() }
    }
}

impl EncodeMetric for Values {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let write = |encoder: &mut MetricEncoder<'_>, value| match self.is_counter {
            true => encoder.encode_counter::<NoLabelSet, u64, u64>(value, None),
            false => encoder.encode_gauge(value),
        };
        for (labels, value) in &self.values {
            if labels.is_empty() {
                write(&mut encoder, value)?;
            } else {
                write(&mut encoder.encode_family(labels)?, value)?;
            }
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        if self.is_counter { MetricType::Counter } else { MetricType::Gauge }
    }
}

/// One histogram for each set of labels.
#[derive(Debug)]
struct Times(Vec<(Labels, Reading)>);

impl EncodeMetric for Times {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        for (labels, reading) in &self.0 {
            let bounds = BOUNDS_US.iter().map(|us| *us as f64 / 1e6).chain([f64::INFINITY]);
            let buckets: Vec<(f64, u64)> = bounds.zip(reading.counts).collect();
            let count = reading.counts.iter().sum();
            let sum = reading.sum_us as f64 / 1e6;
            if labels.is_empty() {
                encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
            } else {
                encoder.encode_family(labels)?.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
            }
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}
