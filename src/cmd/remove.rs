//! `wizefs remove`.

use super::{Context, standing};
use crate::client::{segment, segments};
use crate::error::{Error, Kind, Result};
use crate::name::{BucketName, bucket_path};
use crate::rest::wire::Changed;
use axum::http::Method;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

/// Remove a file.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The file's path in the bucket
    #[arg(value_name = "FILE")]
    file: OsString,
    /// The bucket
    #[arg(value_name = "ORIGIN")]
    origin: String,
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
    let uri = format!("/v1/buckets/{}/files/{}", segment(bucket.as_str().as_bytes()), segments(path.as_bytes()));
    let removed: Changed = context.with_node(|client| client.call(Method::DELETE, &uri, None::<&()>))?;
    if context.out.json {
        return context.out.document(&removed);
    }
    context.out.done(&format!("{bucket}/{path} removed, {}", standing(removed.block)));
    if context.out.quiet { Ok(()) } else { context.out.line(&removed.txid) }
}
