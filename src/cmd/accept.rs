//! `wizefs accept`.

use super::{Context, complete, standing};
use crate::client::{segment, segments};
use crate::error::{Error, Kind, Result};
use crate::name::Target;
use crate::rest::wire::Changed;
use axum::http::Method;
use clap_complete::engine::ArgValueCompleter;
use std::ffi::OsString;

/// Sign a foreign state as your own.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  wizefs verify docs                      names what is foreign
  wizefs accept docs/a.txt                a.txt is as it should be: sign it

A folder is signed alone, without what is in it. What is missing is signed as gone, a folder with all that was in it.")]
pub struct Args {
    /// The file, folder or link, as its bucket and its path in it
    #[arg(value_name = "ORIGIN/PATH", add = ArgValueCompleter::new(complete::targets))]
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
    accepted.txid.map_or(Ok(()), |txid| context.out.id(&txid))
}
