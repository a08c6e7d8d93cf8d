//! `wizefs search`.

use super::Context;
use super::complete;
use crate::client::segment;
use crate::error::Result;
use crate::name::BucketName;
use crate::rest::wire::{Match, Matches, V};
use crate::terminal::{Table, Terminal, short, size};
use axum::http::Method;
use clap_complete::engine::ArgValueCompleter;

/// Files by name, content hash or transaction.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
A pattern with * ? [ ] or { } is a glob over file names, or over whole paths when it holds a /; ** goes through folders. A word \
without them is looked for anywhere in the name. Eight or more hexadecimal digits are looked for at the beginning of BLAKE3 and \
SHA-256 hashes and transaction ids too, also of content that is gone.

Examples:
  wizefs search '*.pdf'                   in all buckets
  wizefs search 'src/**/*.rs' work        below src in one bucket
  wizefs search 50952f7500e9              who has this content, or had it")]
pub struct Args {
    /// Glob, part of a name, or the beginning of a hash or transaction id
    #[arg(value_name = "PATTERN")]
    pattern: String,
    /// In this bucket; without, in all
    #[arg(value_name = "ORIGIN", add = ArgValueCompleter::new(complete::buckets))]
    origin: Option<String>,
}

/// Ask and print a table; nothing found is no failure.
///
/// # Errors
/// As `Node::search`.
pub fn run(context: &Context, args: &Args) -> Result<()> {
    let bucket = args.origin.as_deref().map(BucketName::new).transpose()?;
    let bucket = bucket.map_or_else(String::new, |name| format!("&bucket={}", segment(name.as_str().as_bytes())));
    let uri = format!("/v1/search?pattern={}{bucket}", segment(args.pattern.as_bytes()));
    let out = context.out;
    let headings = ["BUCKET/PATH", "SIZE", "WHEN", "BLOCK", "CONTENT", "TRANSACTION"];
    let mut table = Table::new(&headings, &[false, true, false, true]);
    let mut entries = Vec::new();
    let mut found = false;
    context.with_node(|client| {
        client.lines(Method::GET, &uri, None::<&()>, |entry: Match, _| {
            found = true;
            if out.json {
                entries.push(entry);
                return Ok(());
            }
            table.row(&out, cells(&out, &entry))
        })
    })?;
    match (out.json, found) {
        (true, _) => out.document(&Matches { v: V, entries }),
        (false, true) => table.flush(&out),
        (false, false) => {
            out.hint(&format!(
                "nothing is called {0}; a part of a name is enough, or a glob such as '*{0}*'",
                args.pattern
            ));
            Ok(())
        }
    }
}

fn cells(out: &Terminal, entry: &Match) -> Vec<String> {
    let dash = || out.dash().to_owned();
    let mut what = format!("{}/{}", entry.bucket.as_deref().unwrap_or("?"), entry.path.text());
    if entry.kind.as_deref() == Some("directory") {
        what.push('/');
    }
    if let Some(target) = &entry.target {
        what = format!("{what} -> {target}");
    }
    if !entry.current {
        what.push_str(" (gone)");
    }
    vec![
        what,
        entry.size.map_or_else(dash, size),
        entry.time.as_deref().map_or_else(dash, |time| out.time(time)),
        entry.block.map_or_else(|| "pending".to_owned(), |block| block.to_string()),
        entry.blake3.as_deref().map_or_else(dash, |hash| short(hash).to_owned()),
        short(&entry.txid).to_owned(),
    ]
}
