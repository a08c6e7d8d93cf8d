//! `wizefs accept`.

use super::{Context, standing};
use crate::client::{segment, segments};
use crate::error::{Error, Kind, Result};
use crate::name::Target;
use crate::rest::wire::Changed;
use axum::http::Method;
use std::ffi::OsString;

/// Sign a foreign state as your own.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The file, as its bucket and its path in it
    #[arg(value_name = "ORIGIN/PATH")]
    target: OsString,
}

/// Accept and print the transaction id.
///
/// # Errors
/// As `Node::accept`.
pub fn run(context: &Context, args: &Args) -> Result<()> {
    let Target { bucket, path, .. } = Target::parse(&args.target)?;
    if path.is_root() {
        let error = Error::new(Kind::Usage, "name the file to accept");
        return Err(error.hint(format!("wizefs verify {bucket} names what is foreign")));
    }
    let uri = format!("/v1/buckets/{}/accept/{}", segment(bucket.as_str().as_bytes()), segments(path.as_bytes()));
    let accepted: Changed = context.with_node(|client| client.call(Method::POST, &uri, None::<&()>))?;
    if context.out.json {
        return context.out.document(&accepted);
    }
    context.out.done(&format!("{bucket}/{path} accepted as it is, {}", standing(accepted.block)));
    if context.out.quiet { Ok(()) } else { context.out.line(&accepted.txid) }
}
