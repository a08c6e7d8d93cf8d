//! `wizefs sync`.

use super::{Context, complete};
use crate::client::segment;
use crate::error::Result;
use crate::name::BucketName;
use crate::rest::wire::Synced;
use crate::terminal::count;
use axum::http::Method;
use clap_complete::engine::ArgValueCompleter;

/// Wait until everything done so far is final.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Files that are still being written are named; their size is recorded, their content is not.

Examples:
  wizefs sync                             all buckets
  wizefs sync docs --strict               exit code 13 when a file is still being written")]
pub struct Args {
    /// One bucket; without, all
    #[arg(value_name = "ORIGIN", add = ArgValueCompleter::new(complete::buckets))]
    origin: Option<String>,
    /// Fail with 13 when a file is still being written
    #[arg(long)]
    strict: bool,
}

/// Sync, and name the files that are still being written.
///
/// # Errors
/// As `Node::sync`.
pub fn run(context: &Context, args: &Args) -> Result<()> {
    let bucket = args.origin.as_deref().map(BucketName::new).transpose()?;
    let scope = bucket.map_or_else(String::new, |name| format!("/buckets/{}", segment(name.as_str().as_bytes())));
    let uri = format!("/v1{scope}/sync?strict={}", args.strict);
    let synced: Synced = context.with_node(|client| client.call(Method::POST, &uri, None::<&()>))?;
    for path in &synced.open_writers {
        context.out.warn(&format!("{path} is still being written; its size is recorded, its content is not"));
    }
    if context.out.json {
        return context.out.document(&synced);
    }
    let transactions = count(synced.transactions, "transaction");
    context.out.done(&format!("everything up to block {} is final ({transactions})", synced.height));
    Ok(())
}
