//! `wizefs forget`.

use super::Context;
use crate::client::segment;
use crate::error::{Error, Kind, Result};
use crate::rest::wire::Forgotten;
use axum::http::Method;

/// Erase what a transaction says.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The bytes of the transaction are erased here: path, sizes and hashes that it stated. Its hash, author and time stay, so every \
other proof, the log and the check of the chain still hold. Proofs and copies made before are not reached. What a path holds \
now cannot be erased: remove or replace it first. This takes as long as wizefs integrity.

Examples:
  wizefs log docs --json                  tells transaction ids
  wizefs forget TXID --dry-run            whether it can be erased
  wizefs forget TXID --yes                off a terminal, --yes is needed")]
pub struct Args {
    /// The transaction, as wizefs log --json tells it
    #[arg(value_name = "TXID")]
    txid: String,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
    /// Say what would be erased, and erase nothing
    #[arg(long, conflicts_with = "yes")]
    dry_run: bool,
}

/// Ask, and erase.
///
/// # Errors
/// [`Kind::Failed`] for a transaction that is unknown, pending, current or not about a file.
pub fn run(context: &Context, args: &Args) -> Result<()> {
    if !args.yes && !args.dry_run {
        confirm(context, &args.txid)?;
    }
    let uri = format!("/v1/transactions/{}/forget?dry_run={}", segment(args.txid.as_bytes()), args.dry_run);
    let gone: Forgotten = context.with_node(|client| client.call(Method::POST, &uri, None::<&()>))?;
    if context.out.json {
        return context.out.document(&gone);
    }
    let what = format!("transaction {} in block {}", gone.index, gone.block);
    if args.dry_run {
        return context.out.line(&format!("would erase {what}"));
    }
    context.out.done(&format!("{what} is erased"));
    Ok(())
}

fn confirm(context: &Context, txid: &str) -> Result<()> {
    if !context.out.is_interactive() {
        return Err(Error::new(Kind::Usage, "this cannot be undone").hint(format!("wizefs forget --yes {txid}")));
    }
    if context.out.confirm(&format!("erase what {txid} says? This cannot be undone."))? {
        Ok(())
    } else {
        Err(Error::new(Kind::Failed, "nothing was erased"))
    }
}
