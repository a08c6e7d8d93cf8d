//! What the shell offers on Tab: names of buckets, files in them, wallets. Looked up at once, without waiting for a lock, and
//! without a word when something cannot be read.

use crate::client::{Client, segment, segments};
use crate::config::{Config, ListenArgs};
use crate::name::BucketKind;
use crate::registry::{BucketConf, Registry};
use crate::rest::wire::Entries;
use crate::root::Root;
use base64::Engine;
use clap_complete::engine::CompletionCandidate;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

/// More would help nobody.
const MOST: usize = 2_000;

/// The root that the unfinished command line means.
fn config() -> Option<Config> {
    let mut words = std::env::args_os().skip_while(|word| word != "--").skip(1);
    let mut given = std::env::var_os("WIZEFS_ROOT").map(PathBuf::from);
    while let Some(word) = words.next() {
        if word == "--root" {
            given = words.next().map(PathBuf::from);
        } else if let Some(value) = word.as_bytes().strip_prefix(b"--root=") {
            given = Some(PathBuf::from(OsStr::from_bytes(value)));
        }
    }
    // The shell has not expanded what is not run yet.
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let given = given.map(|path| match (path.strip_prefix("~"), home) {
        (Ok(below), Some(home)) => home.join(below),
        _ => path,
    });
    Config::load(given.as_deref(), &ListenArgs::default()).ok()
}

/// Bucket names.
pub(super) fn buckets(current: &OsStr) -> Vec<CompletionCandidate> {
    let names = known().into_iter().map(|conf| conf.origin.as_str().as_bytes().to_vec());
    offer(current, names.collect())
}

/// Buckets, and once a slash is typed what is in them.
pub(super) fn targets(current: &OsStr) -> Vec<CompletionCandidate> {
    let typed = typed(current);
    match typed.iter().position(|b| *b == b'/') {
        None => {
            let mut names: Vec<Vec<u8>> = known().iter().map(|conf| conf.origin.as_str().into()).collect();
            if names.contains(&typed) {
                names.push([&typed[..], b"/"].concat());
            }
            offer(current, names)
        }
        Some(at) => {
            let (name, path) = (&typed[..at], &typed[at + 1..]);
            let conf = known().into_iter().find(|conf| conf.origin.as_str().as_bytes() == name);
            let found = conf.map(|conf| below(&conf, path)).unwrap_or_default();
            offer(current, found.into_iter().map(|path| [name, b"/", &path].concat()).collect())
        }
    }
}

/// Paths in any bucket: FILE is typed before ORIGIN.
pub(super) fn files(current: &OsStr) -> Vec<CompletionCandidate> {
    let typed = typed(current);
    let mut found: Vec<Vec<u8>> = known().iter().flat_map(|conf| below(conf, &typed)).collect();
    found.sort();
    found.dedup();
    offer(current, found)
}

/// Names of wallets.
pub(super) fn wallets(current: &OsStr) -> Vec<CompletionCandidate> {
    let kept = config().and_then(|config| crate::wallets::list(&Root::new(&config.root)).ok()).unwrap_or_default();
    offer(current, kept.into_iter().map(|wallet| wallet.name.into_bytes()).collect())
}

fn known() -> Vec<BucketConf> {
    let Some(registry) = config().and_then(|config| Registry::open(&config.root).ok()) else { return Vec::new() };
    registry.names().filter_map(|name| registry.bucket(name).ok()).collect()
}

/// Paths in a bucket that go on from `path`, folders with a slash at the end.
fn below(conf: &BucketConf, path: &[u8]) -> Vec<Vec<u8>> {
    let folder = path.iter().rposition(|b| *b == b'/').map_or(&path[..0], |at| &path[..=at]);
    let names = if conf.kind().is_ok_and(|kind| kind == BucketKind::Loopback) {
        in_backing(conf, folder)
    } else {
        in_node(conf, folder).unwrap_or_default()
    };
    names.into_iter().map(|name| [folder, &name].concat()).collect()
}

fn in_backing(conf: &BucketConf, folder: &[u8]) -> Vec<Vec<u8>> {
    if folder.split(|b| *b == b'/').any(|part| part == b"..") {
        return Vec::new();
    }
    let Ok(entries) = std::fs::read_dir(conf.originpath.join(OsStr::from_bytes(folder))) else { return Vec::new() };
    let name = |entry: std::fs::DirEntry| {
        let mut name = entry.file_name().into_vec();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            name.push(b'/');
        }
        name
    };
    entries.flatten().take(MOST).map(name).collect()
}

/// Only a running node knows what is in an archive without reading it.
fn in_node(conf: &BucketConf, folder: &[u8]) -> Option<Vec<Vec<u8>>> {
    let client = Client::running(&config()?).ok()??;
    let uri = format!("/v1/buckets/{}/entries/{}", segment(conf.origin.as_str().as_bytes()), segments(folder));
    let found: Entries = client.get(&uri).ok()?;
    let name = |entry: &crate::rest::wire::Entry| {
        let bytes = entry.path.path_b64.as_ref();
        let bytes = bytes.and_then(|text| base64::engine::general_purpose::STANDARD.decode(text).ok());
        let path = bytes.unwrap_or_else(|| entry.path.text().as_bytes().to_vec());
        let mut name = path.rsplit(|b| *b == b'/').next().unwrap_or_default().to_vec();
        if entry.kind == "directory" {
            name.push(b'/');
        }
        name
    };
    Some(found.entries.iter().take(MOST).map(name).collect())
}

/// All shells hand over words as they are typed. bash takes candidates as they are to be typed, too; the others quote them.
fn is_bash() -> bool {
    std::env::var_os("_CLAP_COMPLETE_COMP_TYPE").is_some()
}

/// What the user means by the word so far.
fn typed(current: &OsStr) -> Vec<u8> {
    unquoted(current.as_bytes())
}

fn offer(current: &OsStr, candidates: Vec<Vec<u8>>) -> Vec<CompletionCandidate> {
    let typed = typed(current);
    let fitting = candidates.into_iter().filter(|text| text.starts_with(&typed));
    // A line break would look like two candidates, and nobody could tell the others apart.
    let mut visible: Vec<Vec<u8>> = fitting.filter(|text| !text.iter().any(u8::is_ascii_control)).collect();
    visible.sort();
    let quote = current.as_bytes().first().copied();
    let shown = visible.into_iter().take(MOST).map(|text| if is_bash() { quoted(&text, quote) } else { text });
    shown.map(OsString::from_vec).map(CompletionCandidate::new).collect()
}

fn unquoted(word: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(word.len());
    let mut rest = word.iter();
    while let Some(byte) = rest.next() {
        match byte {
            b'\\' => bytes.extend(rest.next()),
            b'"' | b'\'' => {}
            byte => bytes.push(*byte),
        }
    }
    bytes
}

/// As it is typed in a word that begins with this character, which may be a quote that is still open.
fn quoted(text: &[u8], first: Option<u8>) -> Vec<u8> {
    let special: &[u8] = match first {
        // It ends there for a moment.
        Some(b'\'') => return String::from_utf8_lossy(text).replace('\'', "'\\''").into_bytes(),
        Some(b'"') => b"\"\\$`",
        _ => b" \t\"'\\$`&|;<>()[]{}*?!#~^",
    };
    let mut word = Vec::with_capacity(text.len());
    for byte in text {
        if special.contains(byte) {
            word.push(b'\\');
        }
        word.push(*byte);
    }
    word
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_for_bash() {
        for text in
            [&b"plain.txt"[..], b"two words", b"it's $5 (a) [b] {c} \\ d", "\u{e4}\u{6587}".as_bytes(), b"bad\xff"]
        {
            assert_eq!(unquoted(&quoted(text, None)), text);
        }
        assert_eq!(quoted(b"two words", Some(b't')), b"two\\ words");
        assert_eq!(quoted(b"two $ words (a)", Some(b'"')), b"two \\$ words (a)");
        assert_eq!(quoted(b"two $ words", Some(b'\'')), b"two $ words");
        assert_eq!(quoted(b"it's; $(x)", Some(b'\'')), b"it'\\''s; $(x)");
        assert_eq!(unquoted(b"'it'\\''s"), b"it's");
        assert_eq!(unquoted(b"\"two words"), b"two words");
    }
}
