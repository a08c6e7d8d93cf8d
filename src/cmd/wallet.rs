//! `wizefs wallet`.

use super::{Context, complete};
use crate::client::segment;
use crate::error::{Error, Kind, Result};
use crate::passphrase::{PassArgs, Passphrase};
use crate::rest::wire::{self, Wallet as Line, Wallets};
use crate::root::Root;
use crate::terminal::Table;
use crate::wallets;
use clap_complete::engine::ArgValueCompleter;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use wizefs_ledger::{Wallet, WalletFile};
use zeroize::Zeroizing;

/// Bytes read of a key at most.
const MOST: usize = 4096;

/// Keys, addresses and coins.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  wizefs wallet list
  wizefs wallet new savings --passphrase  a key that only a passphrase opens
  wizefs wallet export default -o key     a copy of the key file
  wizefs wallet import other key          take one in")]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Make a key
    New {
        /// Name of the wallet
        #[arg(value_name = "NAME")]
        name: String,
        /// Protect the key with a passphrase, asked for on the terminal
        #[arg(long)]
        passphrase: bool,
        #[command(flatten)]
        pass: PassArgs,
    },
    /// The wallets here and their coins
    List {},
    /// One wallet
    Show {
        /// Name or address
        #[arg(value_name = "WALLET", default_value = wallets::DEFAULT,
              add = ArgValueCompleter::new(complete::wallets))]
        wallet: String,
    },
    /// Take in a key: a key file, or 64 hex digits, in a file or on standard input (-)
    Import {
        /// Name it gets
        #[arg(value_name = "NAME")]
        name: String,
        /// Where the key is
        #[arg(value_name = "FILE", default_value = "-")]
        file: PathBuf,
        /// Protect the key with a new passphrase, asked for on the terminal; a protected one keeps its own without
        #[arg(long)]
        passphrase: bool,
        #[command(flatten)]
        pass: PassArgs,
    },
    /// Write a key file, or with --reveal print the private key
    #[command(group = clap::ArgGroup::new("how").required(true).args(["output", "reveal"]))]
    Export {
        /// Name or address
        #[arg(value_name = "WALLET", add = ArgValueCompleter::new(complete::wallets))]
        wallet: String,
        /// Copy the key to FILE, protected by the passphrase as it is here
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
        /// Print the private key: whoever sees it owns the coins
        #[arg(long)]
        reveal: bool,
        #[command(flatten)]
        pass: PassArgs,
    },
}

/// Do what was asked.
///
/// # Errors
/// Configuration (20-22), [`Kind::Passphrase`], [`Kind::FileExists`].
pub fn run(context: &Context, args: &Args) -> Result<()> {
    match &args.what {
        What::New { name, passphrase, pass } => {
            let wallet = Wallet::generate().map_err(wallets::failed)?;
            keep(context, name, &wallet, new_passphrase(name, *passphrase, pass)?)
        }
        What::List {} => list(context),
        What::Show { wallet } => {
            let uri = format!("/v1/wallets/{}", segment(wallet.as_bytes()));
            show(context, &context.with_node(|client| client.get(&uri))?)
        }
        What::Import { name, file, passphrase, pass } => {
            let (wallet, opened) = import(file, pass)?;
            // What was sealed is not kept plain.
            let passphrase = match opened {
                Some(opened) if !passphrase => Some(opened),
                _ => new_passphrase(name, *passphrase, pass)?,
            };
            keep(context, name, &wallet, passphrase)
        }
        What::Export { wallet, output, reveal, pass } => export(context, wallet, output.as_ref(), *reveal, pass),
    }
}

fn root(context: &Context) -> Result<Root> {
    let root = Root::new(&context.config()?.root);
    root.create()?;
    Ok(root)
}

/// The passphrase of a new wallet, when it is to have one.
fn new_passphrase(name: &str, ask: bool, pass: &PassArgs) -> Result<Option<Passphrase>> {
    let wanted = ask || pass.is_given();
    wanted.then(|| pass.read_new(&format!("the new wallet {name}"))).transpose()
}

fn keep(context: &Context, name: &str, wallet: &Wallet, passphrase: Option<Passphrase>) -> Result<()> {
    if name == wallets::DEFAULT {
        let error = Error::new(Kind::FileExists, format!("the wallet {name} is made with the chain"));
        return Err(error.hint("choose another name"));
    }
    let path = wallets::keep(&root(context)?, name, wallet, passphrase.as_ref().map(|p| p.as_slice()))?;
    let address = wallet.address().to_string();
    if context.out.json {
        return context.out.document(&serde_json::json!({
            "v": wire::V, "name": name, "address": address, "public_key": wallet.public().to_string(),
            "sealed": passphrase.is_some(), "file": path.display().to_string(),
        }));
    }
    context.out.done(&format!("the wallet {name} is kept in {}", path.display()));
    context.out.id(&address)
}

fn list(context: &Context) -> Result<()> {
    let wallets: Wallets = context.with_node(|client| client.get("/v1/wallets"))?;
    for problem in wallets::unread(&root(context)?)? {
        context.out.warn(&format!("not listed: {problem}"));
    }
    if context.out.json {
        return context.out.document(&wallets);
    }
    let mut table = Table::new(&["WALLET", "ADDRESS", "COINS", "PASSPHRASE"], &[false, false, true]);
    for wallet in wallets.wallets {
        let sealed = if wallet.sealed { "yes" } else { "no" };
        table.row(&context.out, vec![wallet.name, wallet.address, wallet.balance.to_string(), sealed.to_owned()])?;
    }
    table.flush(&context.out)
}

fn show(context: &Context, wallet: &Line) -> Result<()> {
    if context.out.json {
        return context.out.document(wallet);
    }
    context.out.line(&format!("wallet      {}", wallet.name))?;
    context.out.line(&format!("address     {}", wallet.address))?;
    context.out.line(&format!("public key  {}", wallet.public_key))?;
    context.out.line(&format!("coins       {}", wallet.balance))?;
    context.out.line(&format!("passphrase  {}", if wallet.sealed { "yes" } else { "no" }))
}

/// The key in a key file, or in hex; of a sealed file the passphrase that opened it too.
fn import(file: &Path, pass: &PassArgs) -> Result<(Wallet, Option<Passphrase>)> {
    let cannot =
        |e: std::io::Error| Error::io(Kind::FileMissing, format!("cannot read {}", file.display()), &e).without_hint();
    let mut bytes = Zeroizing::new(Vec::with_capacity(MOST));
    // Once only: it may be a pipe.
    let mut from: Box<dyn Read> = match file.as_os_str() == "-" {
        true => Box::new(std::io::stdin()),
        false => Box::new(File::open(file).map_err(cannot)?),
    };
    from.by_ref().take(MOST as u64).read_to_end(&mut bytes).map_err(cannot)?;
    match WalletFile::parse(&bytes, file) {
        Ok(WalletFile::Plain(wallet)) => return Ok((wallet, None)),
        Ok(key) => {
            let passphrase = pass.read(&file.display().to_string())?;
            return Ok((key.open(&passphrase).map_err(wallets::failed)?, Some(passphrase)));
        }
        Err(_) => {}
    }
    let secret = std::str::from_utf8(&bytes).ok().and_then(|text| wire::unhex(text.trim()));
    let wallet = secret.and_then(|secret| Wallet::from_secret(&secret));
    let none = || Error::new(Kind::Usage, format!("{} holds no private key: 64 hex digits", file.display()));
    Ok((wallet.ok_or_else(none)?, None))
}

fn export(context: &Context, name: &str, output: Option<&PathBuf>, reveal: bool, pass: &PassArgs) -> Result<()> {
    let kept = wallets::find(&root(context)?, name)?;
    if let Some(output) = output {
        let wallet = match &kept.file {
            WalletFile::Plain(wallet) => {
                wallets::save(wallet, output, None)?;
                wallet.address()
            }
            WalletFile::Sealed(_) => {
                let passphrase = pass.read(&format!("wallet {}", kept.name))?;
                let wallet = kept.file.open(&passphrase).map_err(wallets::failed)?;
                wallets::save(&wallet, output, Some(&passphrase))?;
                wallet.address()
            }
        };
        context.out.done(&format!("the key of {wallet} is in {}", output.display()));
        if context.out.json {
            let file = output.display().to_string();
            context.out.document(&serde_json::json!({"v": wire::V, "address": wallet.to_string(), "file": file}))?;
        }
    }
    if reveal {
        let wallet = kept.open(pass)?;
        let secret = Zeroizing::new(wire::hex(&wallet.secret()));
        if context.out.json {
            let address = wallet.address().to_string();
            return context.out.document(&serde_json::json!({"v": wire::V, "address": address, "privkey": *secret}));
        }
        context.out.line(&secret)?;
    }
    Ok(())
}
