//! `wizefs send`.

use super::{Context, complete, standing};
use crate::error::{Error, Kind, Result};
use crate::passphrase::PassArgs;
use crate::rest::wire::{Sent, TransferBytes, TransferRequest};
use crate::root::Root;
use crate::terminal::count;
use crate::wallets;
use axum::http::Method;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap_complete::engine::ArgValueCompleter;
use wizefs_ledger::{AddressHash, Envelope, Transaction, Wallet};

/// Send coins.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  wizefs send default savings 5           between wallets here
  wizefs send default ADDRESS 5 --minenow sealed in a block when this returns
The transaction id is printed on standard output.")]
pub struct Args {
    /// The wallet that pays: its name or address
    #[arg(value_name = "FROM", add = ArgValueCompleter::new(complete::wallets))]
    from: String,
    /// Who gets it: an address, or the name of a wallet here
    #[arg(value_name = "TO", add = ArgValueCompleter::new(complete::wallets))]
    to: String,
    /// Coins
    #[arg(value_name = "AMOUNT", value_parser = clap::value_parser!(u64).range(1..))]
    amount: u64,
    /// Seal a block with it at once, instead of within a second
    #[arg(long, alias = "mineNow")]
    minenow: bool,
    #[command(flatten)]
    pass: PassArgs,
}

/// Let the node draft the transfer, check and sign it here, and hand it in: the key does not leave this process.
///
/// # Errors
/// [`Kind::Failed`] when there are not enough coins; [`Kind::Passphrase`].
pub fn run(context: &Context, args: &Args) -> Result<()> {
    let sent: Sent = context.with_node(|client| {
        let root = Root::new(&context.config()?.root);
        let from = wallets::find(&root, &args.from)?;
        let to = match args.to.parse::<AddressHash>() {
            Ok(address) => address,
            Err(_) => wallets::find(&root, &args.to)?.address,
        };
        if from.address == to {
            return Err(Error::new(Kind::Usage, "sender and receiver are the same address"));
        }
        let wallet = from.open(&args.pass)?;
        let request = TransferRequest { from: wallet.public().to_string(), to: to.to_string(), amount: args.amount };
        wallets::until_unspent(|| {
            let draft: TransferBytes = client.call(Method::POST, "/v1/transfers/draft", Some(&request))?;
            let transaction = STANDARD.decode(&draft.bytes).ok().and_then(|bytes| Transaction::from_bytes(&bytes).ok());
            let transaction = transaction.filter(|transaction| is_as_asked(transaction, &wallet, to, args.amount));
            let transaction = transaction.ok_or_else(|| {
                Error::new(Kind::Internal, "the node drafted another transfer than the one asked for: not signed")
            })?;
            let bytes = STANDARD.encode(transaction.signed_by(&wallet));
            client.call(Method::POST, "/v1/transfers", Some(&TransferBytes { bytes, minenow: args.minenow }))
        })
    })?;
    if context.out.json {
        return context.out.document(&sent);
    }
    let coins = count(args.amount, "coin");
    context.out.done(&format!("{coins} sent to {}: {}", args.to, standing(sent.block)));
    context.out.id(&sent.txid)
}

/// Whether a draft pays the receiver exactly the amount, and everything else back to the sender.
fn is_as_asked(transaction: &Transaction, wallet: &Wallet, to: AddressHash, amount: u64) -> bool {
    let Envelope::Transfer(transfer) = &transaction.envelope else { return false };
    let (pay, change) = transfer.outputs.split_at(1.min(transfer.outputs.len()));
    transfer.author == *wallet.public()
        && pay.iter().all(|output| output.address == to && output.amount == amount)
        && pay.len() == 1
        && change.iter().all(|output| output.address == wallet.address())
}
