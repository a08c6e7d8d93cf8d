//! `wizefs list`.

use super::Context;
use super::complete;
use super::status::bucket_table;
use crate::client::{segment, segments};
use crate::error::Result;
use crate::name::Target;
use crate::rest::wire::{Buckets, Entries, Entry};
use crate::terminal::{Table, Terminal, short, size};
use clap_complete::engine::ArgValueCompleter;
use std::ffi::OsString;

/// Buckets, or the files of one.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  wizefs list                             the buckets
  wizefs list docs/2026                   a folder in one
  wizefs list docs --json                 for programs")]
pub struct Args {
    /// A bucket, or a folder or file in it; without, all buckets
    #[arg(value_name = "ORIGIN[/PATH]", add = ArgValueCompleter::new(complete::targets))]
    target: Option<OsString>,
}

/// Ask and print a table.
///
/// # Errors
/// As `Node::list`.
pub fn run(context: &Context, args: &Args) -> Result<()> {
    let Some(target) = args.target.as_deref().map(Target::parse).transpose()? else {
        let found: Buckets = context.with_node(|client| client.get("/v1/buckets"))?;
        if context.out.json {
            return context.out.document(&found);
        }
        if found.buckets.is_empty() {
            context.out.hint("there is no bucket yet: wizefs create NAME");
            return Ok(());
        }
        return bucket_table(&context.out, &found.buckets);
    };
    let bucket = segment(target.bucket.as_str().as_bytes());
    let uri = format!("/v1/buckets/{bucket}/entries/{}", segments(target.path.as_bytes()));
    let found: Entries = context.with_node(|client| client.get(&uri))?;
    if context.out.json { context.out.document(&found) } else { table(&context.out, &found.entries) }
}

fn table(out: &Terminal, entries: &[Entry]) -> Result<()> {
    if entries.is_empty() {
        return Ok(());
    }
    let mut table = Table::new(&["MODE", "SIZE", "MODIFIED", "BLOCK", "CONTENT", "PATH"], &[false, true, false, true]);
    for entry in entries {
        let mut path = entry.path.text().to_owned();
        match (entry.kind.as_str(), &entry.target) {
            ("directory", _) => path.push('/'),
            (_, Some(target)) => path.extend([" -> ", target]),
            _ => {}
        }
        let is_file = entry.kind == "file";
        table.row(
            out,
            vec![
                format!("{:04o}", entry.mode & 0o7777),
                if is_file { size(entry.size) } else { out.dash().to_owned() },
                out.time(&entry.modified),
                entry.block.map_or(out.dash().to_owned(), |block| block.to_string()),
                entry.blake3.as_deref().map_or(out.dash(), short).to_owned(),
                path,
            ],
        )?;
    }
    table.flush(out)
}
