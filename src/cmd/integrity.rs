//! `wizefs integrity`.

use super::Context;
use crate::client::Client;
use crate::error::{Error, Kind, Result};
use crate::name::escape;
use crate::node::{integrity_of_folder, rebuild_folder};
use crate::rest::wire::{Integrity, IntegrityLine, Problem, Replayed};
use crate::root::{Root, RootLock};
use crate::terminal::{Measure, Progress, count};
use axum::http::Method;

/// The chain itself, from genesis.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Replays every block: signatures, sequences, stamps, roots, previous hashes, the state and all that is derived from it. Exit code \
26 names the first bad block and transaction. Whether files match the ledger is another question: wizefs verify.

Examples:
  wizefs integrity
  wizefs stop; wizefs integrity --rebuild")]
pub struct Args {
    /// Make anew what follows from the chain and is damaged: tiles, state, index. No node may be running
    #[arg(long)]
    rebuild: bool,
}

/// Check and say where the chain is damaged; 26 when it is. A ledger that no longer opens is checked all the same, and one
/// on a read-only disk.
///
/// # Errors
/// The check could not be made.
pub fn run(context: &Context, args: &Args) -> Result<u8> {
    let what = if args.rebuild { "rebuilding from the chain" } else { "checking the chain" };
    let progress = Progress::start(&context.out, what, Measure::Transactions, None);
    let mut heard = |Replayed { done, total }| {
        progress.set_total(total);
        progress.set(done, 0);
    };
    let root = Root::new(&context.config()?.root);
    let report = if args.rebuild {
        // A node that serves is not waited for.
        let _lock = RootLock::wait(&root, || matches!(crate::socket::connect(&root), Ok(None)))?;
        rebuild_folder(&root.ledger(), &mut heard)?
    } else {
        match context.with_node(|client| ask(client, &mut heard)) {
            Err(e) if e.kind == Kind::LedgerDamaged && matches!(crate::socket::connect(&root), Ok(None)) => {
                let _lock = RootLock::wait(&root, || true)?;
                integrity_of_folder(&root.ledger(), &mut heard)?
            }
            // Where nobody writes, as in a copy that is kept as evidence, nobody needs to be kept from it.
            Err(e) if e.kind == Kind::Root && root.is_read_only() => integrity_of_folder(&root.ledger(), &mut heard)?,
            result => result?,
        }
    };
    drop(progress);
    tell(context, &report)
}

fn ask(client: &Client, heard: &mut impl FnMut(Replayed)) -> Result<Integrity> {
    let mut report = None;
    client.lines(Method::GET, "/v1/integrity?progress=true", None::<&()>, |line: IntegrityLine, _| {
        match line {
            IntegrityLine::Progress { progress } => heard(progress),
            IntegrityLine::Done(done) => report = Some(done),
        }
        Ok(())
    })?;
    report.ok_or_else(|| Error::new(Kind::Unreachable, "the check ended early"))
}

fn tell(context: &Context, report: &Integrity) -> Result<u8> {
    if context.out.json {
        context.out.document(report)?;
    } else {
        show(context, report)?;
    }
    Ok(report.exit)
}

fn show(context: &Context, report: &Integrity) -> Result<()> {
    let out = &context.out;
    let Integrity { ok, height, transactions, erased, .. } = report;
    for Problem { block, index, problem, .. } in &report.problems {
        let block = block.map_or_else(|| "the ledger".to_owned(), |block| format!("block {block}"));
        let index = index.map_or_else(String::new, |index| format!(", transaction {index}"));
        out.line(&format!("{} {block}{index}: {}", out.mark(false), escape(problem)))?;
    }
    let erased = if *erased > 0 { format!(", {erased} erased") } else { String::new() };
    let what = format!("blocks 0 to {height}, {}{erased}", count(*transactions, "transaction"));
    match ok {
        true if out.quiet => Ok(()),
        true => out.line(&format!("{} the chain is whole: {what}", out.mark(true))),
        false => {
            out.line(&format!("the chain is damaged: {what}, {}", count(report.problems.len() as u64, "problem")))?;
            out.hint(match report.problems.iter().all(|problem| problem.derived) {
                true => "wizefs stop; wizefs integrity --rebuild makes that anew from the chain, which is whole",
                false => "stop the node and restore the folder ledger from a copy",
            });
            Ok(())
        }
    }
}
