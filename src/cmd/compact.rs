//! `wizefs compact`.

use super::{Context, complete};
use crate::client::segment;
use crate::error::Result;
use crate::name::BucketName;
use crate::rest::wire::Compacted;
use crate::terminal::size;
use axum::http::Method;
use clap_complete::engine::ArgValueCompleter;

/// Rewrite the archive of an lz bucket without holes.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
What the bucket holds stays as it is, and so does what the ledger says of it. Other kinds are refused with exit code 9.

Examples:
  wizefs compact work.zip                 tells the size before and now")]
pub struct Args {
    /// The bucket
    #[arg(value_name = "ORIGIN", add = ArgValueCompleter::new(complete::buckets))]
    origin: String,
}

/// Compact, and tell what it saved.
///
/// # Errors
/// As `Node::compact`.
pub fn run(context: &Context, args: &Args) -> Result<()> {
    let name = BucketName::new(&args.origin)?;
    let uri = format!("/v1/buckets/{}/compact", segment(name.as_str().as_bytes()));
    let compacted: Compacted = context.with_node(|client| client.call(Method::POST, &uri, None::<&()>))?;
    if context.out.json {
        return context.out.document(&compacted);
    }
    let Compacted { archive, bytes_before, bytes, .. } = &compacted;
    context.out.done(&format!("{}: {} before, {} now", archive.display(), size(*bytes_before), size(*bytes)));
    Ok(())
}
