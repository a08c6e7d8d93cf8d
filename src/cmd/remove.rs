//! `wizefs remove`.

use super::{Context, complete, standing};
use crate::client::{segment, segments};
use crate::error::{Error, Kind, Result};
use crate::name::{BucketName, bucket_path, escape};
use crate::rest::wire::{Changed, Entries, Entry, V};
use crate::terminal::size;
use axum::http::Method;
use clap_complete::engine::ArgValueCompleter;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use wizefs_fs::BucketPath;

/// Remove a file.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  wizefs remove report.pdf docs
  wizefs remove 2026/report.pdf docs --dry-run
The transaction id is printed on standard output. What the ledger says of the file stays.")]
pub struct Args {
    /// The file's path in the bucket
    #[arg(value_name = "FILE", add = ArgValueCompleter::new(complete::files))]
    file: OsString,
    /// The bucket
    #[arg(value_name = "ORIGIN", add = ArgValueCompleter::new(complete::buckets))]
    origin: String,
    /// Say what would be removed, and remove nothing
    #[arg(long)]
    dry_run: bool,
}

/// Remove and print the transaction id.
///
/// # Errors
/// As `Node::remove`.
pub fn run(context: &Context, args: &Args) -> Result<()> {
    let bucket = BucketName::new(&args.origin)?;
    let path = bucket_path(args.file.as_bytes())?;
    if path.is_root() {
        return Err(Error::new(Kind::Usage, "name the file to remove"));
    }
    if args.dry_run {
        return foretell(context, &bucket, &path);
    }
    let uri = format!("/v1/buckets/{}/files/{}", segment(bucket.as_str().as_bytes()), segments(path.as_bytes()));
    let removed: Changed = context.with_node(|client| client.call(Method::DELETE, &uri, None::<&()>))?;
    if context.out.json {
        return context.out.document(&removed);
    }
    let Some(txid) = removed.txid else {
        context.out.done(&format!("{bucket}/{path} removed; pipes, sockets and devices are not recorded"));
        return Ok(());
    };
    context.out.done(&format!("{bucket}/{path} removed, {}", standing(removed.block)));
    context.out.id(&txid)
}

/// What a remove would take, or why it would be refused.
fn foretell(context: &Context, bucket: &BucketName, path: &BucketPath) -> Result<()> {
    let uri = format!("/v1/buckets/{}/entries/{}", segment(bucket.as_str().as_bytes()), segments(path.as_bytes()));
    let found: Entries = context.with_node(|client| client.get(&uri))?;
    // Of a folder, what is in it is listed.
    let wanted = crate::rest::wire::WirePath::from(path);
    let entry: Option<Entry> = found.entries.into_iter().find(|entry| entry.path == wanted);
    let Some(entry) = entry else {
        return Err(Error::new(Kind::NotAFile, format!("{bucket}/{path} is a folder")));
    };
    if context.out.json {
        return context.out.document(&serde_json::json!({"v": V, "dry_run": true, "bucket": bucket, "entry": entry}));
    }
    let what = if entry.kind == "file" { size(entry.size) } else { entry.kind };
    context.out.line(&escape(&format!("would remove {bucket}/{path} ({what})")))
}
