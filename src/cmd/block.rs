//! `wizefs block` and `wizefs mine`.

use super::Context;
use crate::client::segment;
use crate::error::Result;
use crate::name::escape;
use crate::rest::wire::Block;
use crate::terminal::count;
use axum::http::Method;

/// One block.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  wizefs block                            the newest
  wizefs block 7                          by height; a hash does as well")]
pub struct Args {
    /// Height or hash; without, the newest
    #[arg(value_name = "HEIGHT|HASH")]
    which: Option<String>,
}

/// Seal a block now.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
What is pending goes into it; without, it is empty. The hash of the block is printed on standard output.

Examples:
  wizefs mine")]
pub struct MineArgs {}

/// Show a block.
///
/// # Errors
/// There is none of that height or hash.
pub fn run(context: &Context, args: &Args) -> Result<()> {
    let which = args.which.as_deref().map_or_else(String::new, |which| format!("/{}", segment(which.as_bytes())));
    let block: Block = context.with_node(|client| client.get(&format!("/v1/blocks{which}")))?;
    if context.out.json { context.out.document(&block) } else { show(context, &block) }
}

/// Seal what is pending, or an empty block: both make the reward.
///
/// # Errors
/// As `Node::mine`.
pub fn mine(context: &Context, _args: &MineArgs) -> Result<()> {
    let block: Block = context.with_node(|client| client.call(Method::POST, "/v1/mine", None::<&()>))?;
    if context.out.json {
        return context.out.document(&block);
    }
    context.out.done(&format!("block {} sealed with {}", block.height, count(block.count.into(), "transaction")));
    context.out.id(&block.hash)
}

fn show(context: &Context, block: &Block) -> Result<()> {
    let out = &context.out;
    out.line(&format!("block     {}", block.height))?;
    out.line(&format!("hash      {}", block.hash))?;
    out.line(&format!("previous  {}", block.previous))?;
    out.line(&format!("time      {}", out.time(&block.time)))?;
    out.line(&format!("sealer    {}", block.sealer))?;
    out.line(&format!("stamp     {} bits, nonce {}", block.stamp_bits, block.nonce))?;
    out.line(&format!("log root  {}", block.log_root))?;
    out.line(&format!("state     {}", block.state_root))?;
    for line in &block.transactions {
        let bucket = line.bucket.as_deref().map_or_else(String::new, |bucket| format!(" {bucket}"));
        let path = line.path.path.as_deref().map_or_else(String::new, |path| format!("/{}", escape(path)));
        let amount = line.amount.map_or_else(String::new, |amount| format!(" {amount}"));
        let index = line.index.map_or_else(String::new, |index| index.to_string());
        out.line(&format!("{index:>8}  {} {}{bucket}{path}{amount}", line.txid, line.op))?;
    }
    Ok(())
}
