//! `wizefs log`.

use super::{Context, complete};
use crate::client::{segment, segments};
use crate::error::{Kind, Result};
use crate::interrupt::unless_interrupted;
use crate::name::Target;
use crate::rest::wire::{LogLine, Status};
use crate::root::{Root, wait_for_user};
use crate::terminal::{Table, Terminal, count, short, size};
use axum::http::Method;
use clap_complete::engine::ArgValueCompleter;
use std::ffi::OsString;

/// The transactions, newest first.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  wizefs log docs -n 20                   the last 20 changes of a bucket
  wizefs log docs/src/main.rs             one file, through its renames
  wizefs log --follow --json              everything, as it becomes final, for programs")]
pub struct Args {
    /// A bucket, or a path in it; without, the whole chain
    #[arg(value_name = "ORIGIN[/PATH]", add = ArgValueCompleter::new(complete::targets))]
    target: Option<OsString>,
    /// At most this many, the newest
    #[arg(short = 'n', value_name = "N")]
    n: Option<usize>,
    /// Oldest first, and go on with those to come
    #[arg(short, long)]
    follow: bool,
}

/// Print line by line as they come.
///
/// # Errors
/// As `Node::log`.
pub fn run(context: &Context, args: &Args) -> Result<()> {
    let target = args.target.as_deref().map(Target::parse).transpose()?;
    let scope = match &target {
        None => "/v1/log".to_owned(),
        Some(Target { bucket, path, .. }) => {
            let tail = if path.is_root() { String::new() } else { format!("/{}", segments(path.as_bytes())) };
            format!("/v1/buckets/{}/log{tail}", segment(bucket.as_str().as_bytes()))
        }
    };
    let out = context.out;
    let whole_chain = target.is_none();
    let headings = ["BLOCK", "WHEN", "BY", "OP", if whole_chain { "BUCKET/PATH" } else { "PATH" }, "SIZE", "CONTENT"];
    let mut table = Table::new(&headings, &[true, false, false, false, false, true]);
    // Nobody who asks for nothing is told that there is nothing.
    let mut found = args.n == Some(0);
    let mut next = None;
    loop {
        let asked = context.with_node(|client| {
            let uri = format!("{scope}?{}", query(args, next, !client.is_own()));
            client.lines(Method::GET, &uri, None::<&()>, |line: LogLine, raw| {
                found = true;
                if out.json {
                    return out.raw(&[raw, b"\n"].concat());
                }
                table.row(&out, cells(&out, &line, whole_chain))?;
                if args.follow { table.flush(&out) } else { Ok(()) }
            })?;
            if args.follow && client.is_own() {
                return Ok(Some(client.get::<Status>("/v1/status")?.ledger.transactions));
            }
            Ok(None)
        });
        match asked {
            Ok(None) => break,
            Ok(size) => next = size,
            Err(error) if error.kind == Kind::RootLocked && next.is_some() => {}
            Err(error) => return Err(error),
        }
        // Without a node to ask, this must not keep the root from those who change something.
        let root = Root::new(&context.config()?.root);
        unless_interrupted(move || wait_for_user(&root))?;
    }
    if let (Some(Target { bucket, path, .. }), false) = (&target, found) {
        out.hint(&format!("no transaction tells of {bucket}/{path}; wizefs list {bucket} shows what is there"));
    }
    if out.json { Ok(()) } else { table.flush(&out) }
}

/// What to ask for: with `follow` all from `next` on, and those to come when a node serves.
fn query(args: &Args, next: Option<u64>, served: bool) -> String {
    // How many to begin with; those after them are new.
    let n = args.n.filter(|_| next.is_none()).map_or(String::new(), |n| format!("&n={n}"));
    let from = if args.follow { format!("&from={}", next.unwrap_or(0)) } else { String::new() };
    format!("follow={}{from}{n}", args.follow && served)
}

fn cells(out: &Terminal, line: &LogLine, whole_chain: bool) -> Vec<String> {
    let dash = || out.dash().to_owned();
    let bucket = line.bucket.as_deref().unwrap_or_default();
    let mut what = match (line.path.path.as_deref(), whole_chain) {
        (Some(path), true) => format!("{bucket}/{path}"),
        (Some(path), false) => path.to_owned(),
        (None, _) if line.bucket.is_some() => bucket.to_owned(),
        (None, _) => dash(),
    };
    if let Some(from) = &line.from {
        let arrow = if line.op == "exchange" { "<->" } else { "->" };
        what = format!("{from} {arrow} {what}");
    }
    if let Some(target) = &line.target {
        what = format!("{what} -> {target}");
    }
    let mut op = line.op.clone();
    if let Some(cause @ ("foreign" | "recovered")) = line.cause.as_deref() {
        op = format!("{op} ({cause})");
    }
    let content = match (line.blake3.as_deref(), line.evidence.as_deref(), line.amount) {
        (Some(hash), ..) => short(hash).to_owned(),
        (None, Some("open-writers"), _) => "still written".to_owned(),
        (None, _, Some(amount)) => count(amount, "coin"),
        (None, _, None) => dash(),
    };
    vec![
        line.block.map_or("pending".to_owned(), |block| block.to_string()),
        out.time(&line.time),
        line.wallet.as_deref().or(line.author.as_deref().map(short)).unwrap_or(out.dash()).to_owned(),
        op,
        what,
        line.size.map_or_else(dash, size),
        content,
    ]
}
