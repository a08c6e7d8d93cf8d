//! `wizefs bucket`: what belongs to encrypted buckets.

use super::{Context, complete};
use crate::error::{Error, Kind, Result};
use crate::name::BucketName;
use clap_complete::engine::ArgValueCompleter;

/// The passphrase of an encrypted bucket.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  wizefs bucket passwd safe               another passphrase for the bucket safe
This version has no encrypted buckets yet: it exits with 9.")]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Change the passphrase
    Passwd {
        /// The bucket
        #[arg(value_name = "ORIGIN", add = ArgValueCompleter::new(complete::buckets))]
        origin: String,
    },
}

/// Refuse: no bucket of this version is encrypted.
///
/// # Errors
/// [`Kind::Unsupported`].
pub fn run(_context: &Context, args: &Args) -> Result<()> {
    let What::Passwd { origin } = &args.what;
    let name = BucketName::new(origin)?;
    Err(Error::new(Kind::Unsupported, format!("{name} has no passphrase: this version has no encrypted buckets")))
}
