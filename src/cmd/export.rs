//! `wizefs export`.

use super::{Context, complete};
use crate::error::{Error, Kind, Result};
use crate::name::BucketName;
use clap_complete::engine::ArgValueCompleter;
use std::path::PathBuf;

/// Write a bucket into an encrypted archive.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  wizefs export docs docs.zip --aes       an archive that 7-Zip and others open
This version cannot write one yet: it exits with 9. Mount the bucket and use zip or 7z instead.")]
pub struct Args {
    /// The bucket
    #[arg(value_name = "ORIGIN", add = ArgValueCompleter::new(complete::buckets))]
    origin: String,
    /// The archive to write
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Encrypt it with AES-256 (WinZip AE-2)
    #[arg(long, required = true)]
    aes: bool,
}

/// Refuse: this version writes no encrypted archives.
///
/// # Errors
/// [`Kind::Unsupported`].
pub fn run(_context: &Context, args: &Args) -> Result<()> {
    let name = BucketName::new(&args.origin)?;
    let text =
        format!("{name} cannot be exported to {}: this version writes no encrypted archives", args.file.display());
    Err(Error::new(Kind::Unsupported, text).hint(format!("wizefs mount {name}, and pack the folder with 7z or zip")))
}
