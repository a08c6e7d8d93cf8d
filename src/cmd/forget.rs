//! `wizefs forget`.

use super::Context;
use crate::client::segment;
use crate::error::{Error, Kind, Result};
use crate::rest::wire::Forgotten;
use axum::http::Method;
use std::io::Write;

/// Erase what a transaction says.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The bytes of the transaction are erased here: path, sizes and hashes that it stated. Its hash, author and time stay, so every
other proof, the log and the check of the chain still hold. Proofs and copies made before are not reached. What a path holds
now cannot be erased: remove or replace it first. This takes as long as wizefs integrity.")]
pub struct Args {
    /// The transaction, as wizefs log --json tells it
    #[arg(value_name = "TXID")]
    txid: String,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

/// Ask, and erase.
///
/// # Errors
/// [`Kind::Failed`] for a transaction that is unknown, pending, current or not about a file.
pub fn run(context: &Context, args: &Args) -> Result<()> {
    if !args.yes {
        confirm(context, &args.txid)?;
    }
    let uri = format!("/v1/transactions/{}/forget", segment(args.txid.as_bytes()));
    let gone: Forgotten = context.with_node(|client| client.call(Method::POST, &uri, None::<&()>))?;
    if context.out.json {
        return context.out.document(&gone);
    }
    context.out.done(&format!("transaction {} in block {} is erased", gone.index, gone.block));
    Ok(())
}

fn confirm(context: &Context, txid: &str) -> Result<()> {
    if !context.out.is_interactive() {
        return Err(Error::new(Kind::Usage, "this cannot be undone").hint(format!("wizefs forget --yes {txid}")));
    }
    eprint!("Erase what {txid} says? This cannot be undone. [y/N] ");
    let mut answer = String::new();
    let read = std::io::stderr().flush().and_then(|()| std::io::stdin().read_line(&mut answer));
    read.map_err(|e| Error::io(Kind::Failed, "cannot read the answer", &e))?;
    if answer.trim().eq_ignore_ascii_case("y") { Ok(()) } else { Err(Error::new(Kind::Failed, "nothing was erased")) }
}
