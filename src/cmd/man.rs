//! `wizefs man`: the manual pages, made from the same definitions as the help.

use super::Context;
use crate::cli::{self, Cli};
use crate::error::{EXIT_BY_SIGNAL, EXIT_CODES, Error, Kind, Result};
use crate::rest::wire::V;
use crate::terminal::count;
use clap::{Command, CommandFactory};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};
use std::path::{Path, PathBuf};

/// Write the manual pages, one for each command.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  wizefs man /usr/local/share/man/man1    then: man wizefs, man wizefs-mount
  wizefs man . && man ./wizefs.1          only to read them")]
pub struct Args {
    /// Folder for them; made when it is not there
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

/// Write them, replacing older ones.
///
/// # Errors
/// The folder cannot be written.
pub fn run(context: &Context, args: &Args) -> Result<()> {
    let cannot =
        |path: &Path, e: &std::io::Error| Error::io(Kind::Failed, format!("cannot write {}", path.display()), e);
    std::fs::create_dir_all(&args.dir).map_err(|e| cannot(&args.dir, &e))?;
    let mut command = Cli::command();
    command.build();
    let mut files = Vec::new();
    for (name, page) in pages(&command).map_err(|e| cannot(&args.dir, &e))? {
        let path = args.dir.join(name);
        std::fs::write(&path, page).map_err(|e| cannot(&path, &e))?;
        files.push(path.display().to_string());
    }
    if context.out.json {
        return context.out.document(&serde_json::json!({"v": V, "files": files}));
    }
    context.out.done(&format!("{} in {}", count(files.len() as u64, "manual page"), args.dir.display()));
    Ok(())
}

/// File names and pages of a command and of those below it.
fn pages(command: &Command) -> std::io::Result<Vec<(String, Vec<u8>)>> {
    let man = Man::new(command.clone()).manual("wizefs").source(concat!("wizefs ", env!("CARGO_PKG_VERSION")));
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut page)?;
    }
    let is_top = command.get_name() == "wizefs";
    match command.get_after_help() {
        _ if is_top => text(cli::EXAMPLES).to_writer(&mut page)?,
        Some(help) => text(&help.to_string()).to_writer(&mut page)?,
        None => {}
    }
    exit_status().to_writer(&mut page)?;
    if is_top {
        files().to_writer(&mut page)?;
    }
    see_also(is_top).to_writer(&mut page)?;
    let mut all = vec![(man.get_filename(), page)];
    for below in command.get_subcommands().filter(|below| below.get_name() != "help") {
        all.extend(pages(below)?);
    }
    Ok(all)
}

/// Text of a help: `Examples:` begins a section, and what is indented stands as it is.
fn text(help: &str) -> Roff {
    let mut roff = Roff::new();
    let mut verbatim = false;
    let mut headed = false;
    for line in help.lines() {
        let indented = line.starts_with(' ');
        if indented != verbatim {
            roff.control(if indented { "nf" } else { "fi" }, []);
            verbatim = indented;
        }
        match line {
            "Examples:" => {
                roff.control("SH", ["EXAMPLES"]);
                headed = true;
            }
            "" => {
                roff.control("PP", []);
            }
            _ => {
                if !headed {
                    roff.control("SH", ["NOTES"]);
                    headed = true;
                }
                roff.text([roman(line)]);
            }
        }
    }
    if verbatim {
        roff.control("fi", []);
    }
    roff
}

fn exit_status() -> Roff {
    let mut roff = Roff::new();
    roff.control("SH", ["EXIT STATUS"]);
    let signal = [("128+n".to_owned(), EXIT_BY_SIGNAL)];
    for (code, meaning) in EXIT_CODES.iter().map(|(code, text)| (code.to_string(), *text)).chain(signal) {
        roff.control("TP", ["8"]);
        roff.text([bold(code)]);
        roff.text([roman(meaning)]);
    }
    roff
}

fn files() -> Roff {
    let mut roff = Roff::new();
    roff.control("SH", ["FILES"]);
    for (file, meaning) in cli::FILES {
        roff.control("TP", []);
        roff.text([bold(file)]);
        roff.text([roman(meaning)]);
    }
    roff
}

fn see_also(is_top: bool) -> Roff {
    let mut roff = Roff::new();
    roff.control("SH", ["SEE ALSO"]);
    let fuse = [
        roman("the other manual pages are named "),
        bold("wizefs-COMMAND"),
        roman("(1); "),
        bold("fuse"),
        roman("(4)"),
    ];
    if is_top {
        roff.text(fuse)
    } else {
        roff.text([bold("wizefs"), roman("(1)")])
    };
    roff
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page_with_its_flags_and_the_exit_codes() {
        let mut command = Cli::command();
        command.build();
        let pages = pages(&command).unwrap();
        let plain =
            |page: &[u8]| String::from_utf8_lossy(page).replace("\\-", "-").replace("\\fB", "").replace("\\fR", "");
        for sub in command.get_subcommands() {
            let name = format!("wizefs-{}.1", sub.get_name());
            let (_, page) = pages.iter().find(|(file, _)| *file == name).unwrap_or_else(|| panic!("no {name}"));
            let page = plain(page);
            for long in sub.get_arguments().filter(|arg| !arg.is_hide_set()).filter_map(|arg| arg.get_long()) {
                assert!(page.contains(&format!("--{long}")), "{name} does not tell of --{long}");
            }
            for (code, meaning) in EXIT_CODES {
                assert!(
                    page.contains(&format!("{code}\n{}", meaning.replace('\'', "\\*(Aq"))),
                    "{name}: {code} {meaning}"
                );
            }
        }
        assert!(pages.iter().any(|(file, _)| file == "wizefs.1"));
        assert!(pages.iter().any(|(file, _)| file == "wizefs-wallet-new.1"));
    }
}
