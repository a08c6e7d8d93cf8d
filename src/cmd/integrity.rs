//! `wizefs integrity`.

use super::Context;
use crate::client::Client;
use crate::error::{Error, Kind, Result};
use crate::name::escape;
use crate::node::{integrity_of_folder, rebuild_folder};
use crate::rest::wire::{Integrity, IntegrityLine, IntegrityProgress, Problem};
use crate::root::{Root, RootLock};
use crate::terminal::count;
use axum::http::Method;
use indicatif::{ProgressBar, ProgressStyle};
use std::time::Duration;

/// The chain itself, from genesis.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Make anew what follows from the chain and is damaged: tiles, state, index. No node may be running
    #[arg(long)]
    rebuild: bool,
}

/// Check and say where the chain is damaged; 26 when it is. A ledger that no longer opens is checked all the same.
///
/// # Errors
/// The check could not be made.
pub fn run(context: &Context, args: &Args) -> Result<u8> {
    if args.rebuild {
        return rebuild(context);
    }
    let bar = progress_bar(context);
    let report = match context.with_node(|client| ask(client, &bar)) {
        Err(e) if e.kind == Kind::LedgerDamaged => {
            let root = Root::new(&context.config()?.root);
            let _lock = RootLock::wait(&root, || true)?;
            integrity_of_folder(&root.ledger(), &mut |progress| advance(&bar, progress))
        }
        result => result,
    };
    bar.finish_and_clear();
    tell(context, &report?)
}

fn ask(client: &Client, bar: &ProgressBar) -> Result<Integrity> {
    let mut report = None;
    client.lines(Method::GET, "/v1/integrity?progress=true", None::<&()>, |line: IntegrityLine, _| {
        match line {
            IntegrityLine::Progress { progress } => advance(bar, progress),
            IntegrityLine::Report(whole) => report = Some(whole),
        }
        Ok(())
    })?;
    report.ok_or_else(|| Error::new(Kind::Internal, "the node did not say what it found"))
}

/// On stderr, and hidden where nobody watches.
fn progress_bar(context: &Context) -> ProgressBar {
    if context.out.quiet || context.out.json {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template("{spinner} {pos} of {len} transactions checked  {wide_bar} {eta}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

fn advance(bar: &ProgressBar, progress: IntegrityProgress) {
    bar.set_length(progress.total);
    bar.set_position(progress.done);
}

fn rebuild(context: &Context) -> Result<u8> {
    let root = Root::new(&context.config()?.root);
    // A node that serves is not waited for.
    let _lock = RootLock::wait(&root, || matches!(crate::socket::connect(&root), Ok(None)))?;
    let bar = progress_bar(context);
    let report = rebuild_folder(&root.ledger(), &mut |progress| advance(&bar, progress));
    bar.finish_and_clear();
    tell(context, &report?)
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
            if report.problems.iter().all(|problem| problem.derived) {
                out.hint("wizefs stop; wizefs integrity --rebuild makes that anew from the chain, which is whole");
            }
            Ok(())
        }
    }
}
