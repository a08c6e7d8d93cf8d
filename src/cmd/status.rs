//! `wizefs status`.

use super::Context;
use crate::error::Result;
use crate::rest::wire::{BucketStatus, MountState, Status};
use crate::terminal::{Table, Terminal, count, short, size};

/// The node, the ledger and the buckets at a glance.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  wizefs status
  wizefs status --json                    also the verifier key of the log, as vkey")]
pub struct Args {}

/// Ask and print.
///
/// # Errors
/// As `Node::status`.
pub fn run(context: &Context, _args: &Args) -> Result<()> {
    let status: Status = context.with_node(|client| client.get("/v1/status"))?;
    if context.out.json { context.out.document(&status) } else { show(&context.out, &status) }
}

fn show(out: &Terminal, status: &Status) -> Result<()> {
    let node = &status.node;
    match node.pid {
        Some(pid) => {
            let since = node.since.as_deref().map(|since| out.time(since)).unwrap_or_default();
            let (rest, grpc) = (node.rest.as_deref().unwrap_or("off"), node.grpc.as_deref().unwrap_or("off"));
            out.line(&format!(
                "node    running, pid {pid}, started {since}   v{}   REST {rest}   gRPC {grpc}",
                node.version
            ))?;
        }
        None => out.line(&format!("node    not running   v{}", node.version))?,
    }
    let ledger = &status.ledger;
    let sealed = ledger.head_time.as_deref().map(|time| out.time(time)).unwrap_or_default();
    out.line(&format!(
        "ledger  block {}   head {}   {sealed}   {}   pending {}   unsettled {}",
        ledger.height,
        short(&ledger.head),
        count(ledger.transactions, "transaction"),
        ledger.pending,
        ledger.unsettled
    ))?;
    match ledger.witnessed {
        Some(size) => {
            let root =
                ledger.witnessed_root.as_deref().map_or_else(String::new, |root| format!("   root {}", short(root)));
            let when =
                ledger.witnessed_time.as_deref().map_or_else(String::new, |time| format!("   {}", out.time(time)));
            out.line(&format!("        last witnessed: the first {}{root}{when}", count(size, "transaction")))?;
        }
        None => out.hint("wizefs witness -o FILE takes away a checkpoint, by which a rewritten history is found out"),
    }
    if let Some(problem) = &node.problem {
        out.warn(problem);
    }
    if status.buckets.is_empty() {
        out.hint("there is no bucket yet: wizefs create NAME");
        return Ok(());
    }
    out.line("")?;
    bucket_table(out, &status.buckets)
}

/// The buckets as `status` and `list` show them.
///
/// # Errors
/// stdout cannot be written.
pub(super) fn bucket_table(out: &Terminal, buckets: &[BucketStatus]) -> Result<()> {
    let mut table =
        Table::new(&["BUCKET", "KIND", "STATE", "FILES", "SIZE", "MOUNTPOINT"], &[false, false, false, true, true]);
    for bucket in buckets {
        let (state, place) = match (bucket.state, &bucket.mountpoint) {
            _ if bucket.problem.is_some() => ("damaged", format!("! wizefs check {}", bucket.origin)),
            (MountState::Mounted, Some(place)) => ("mounted", place.display().to_string()),
            (MountState::Stale, _) => ("stale", format!("! its node was killed; run: wizefs mount {}", bucket.origin)),
            _ => ("unmounted", out.dash().to_owned()),
        };
        table.row(
            out,
            vec![
                bucket.origin.to_string(),
                bucket.kind.as_str().to_owned(),
                state.to_owned(),
                bucket.files.to_string(),
                size(bucket.bytes),
                place,
            ],
        )?;
    }
    table.flush(out)
}
