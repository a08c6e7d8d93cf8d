//! `wizefs check`.

use super::{Context, complete};
use crate::client::segment;
use crate::error::{Kind, Result};
use crate::name::BucketName;
use crate::rest::wire::Checked;
use crate::terminal::{count, size};
use clap_complete::engine::ArgValueCompleter;

/// Structure and mount state of a bucket, quickly.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Contents are not read: wizefs verify does that. Exit code 1 means that something is not in order.

Examples:
  wizefs check docs")]
pub struct Args {
    /// The bucket
    #[arg(value_name = "ORIGIN", add = ArgValueCompleter::new(complete::buckets))]
    origin: String,
}

/// Check and say what is not in order; 1 when something is not.
///
/// # Errors
/// As `Node::check`.
pub fn run(context: &Context, args: &Args) -> Result<u8> {
    let name = BucketName::new(&args.origin)?;
    let uri = format!("/v1/buckets/{}/check", segment(args.origin.as_bytes()));
    let checked: Checked = context.with_node(|client| client.get(&uri))?;
    let exit = if checked.ok { 0 } else { Kind::Failed.exit() };
    if context.out.json {
        context.out.document(&checked)?;
        return Ok(exit);
    }
    let bucket = &checked.bucket;
    let what = format!("{}, {}, {}", bucket.kind.as_str(), count(bucket.files, "file"), size(bucket.bytes));
    if !context.out.quiet || !checked.ok {
        context.out.line(&format!(
            "{} {name}: {what} at {}",
            context.out.mark(checked.ok),
            crate::name::escape(&checked.backing.display().to_string())
        ))?;
    }
    for problem in &checked.problems {
        context.out.line(&format!("    {}", crate::name::escape(problem)))?;
    }
    Ok(exit)
}
