//! Finding files by name, by content hash or by transaction.

use super::history::Names;
use super::{Node, trouble};
use crate::error::{Error, Kind, Result};
use crate::name::BucketName;
use crate::rest::stream::Lines;
use crate::rest::{logged, wire};
use globset::{GlobBuilder, GlobMatcher};
use serde::Deserialize;
use std::collections::HashSet;
use std::ffi::OsStr;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use wizefs_ledger::{BucketId, Content, Entry, Hash, History, Logged, Order, TreePath};

/// Fewer digits name a file rather than a hash; tables show 12.
const HASH_DIGITS: std::ops::RangeInclusive<usize> = 8..=64;

/// What is looked for.
#[derive(Debug, Clone, Deserialize, utoipa::IntoParams)]
pub struct SearchQuery {
    /// A glob, a part of a name, or the beginning of a hash or transaction id.
    pub pattern: String,
    /// In this bucket alone.
    #[serde(default)]
    pub bucket: Option<String>,
}

/// How names are compared.
enum Name {
    Glob(GlobMatcher),
    /// Anywhere in it.
    Part(Vec<u8>),
}

/// What matches.
struct Pattern {
    name: Name,
    /// Whether the name is compared with the whole path.
    whole: bool,
    /// Lower-case hex digits.
    hash: Option<String>,
}

impl Pattern {
    /// A word without wildcards is looked for anywhere in the name, as locate(1) does.
    fn new(text: &str) -> Result<Pattern> {
        let whole = text.contains('/');
        let name = if text.contains(['*', '?', '[', '{']) {
            let glob = GlobBuilder::new(text).literal_separator(whole).backslash_escape(true).build();
            Name::Glob(glob.map_err(|e| Error::new(Kind::Usage, format!("not a pattern: {e}")))?.compile_matcher())
        } else {
            Name::Part(text.as_bytes().to_vec())
        };
        let is_hash = HASH_DIGITS.contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit());
        Ok(Pattern { name, whole, hash: is_hash.then(|| text.to_ascii_lowercase()) })
    }

    fn is_name(&self, path: &[u8]) -> bool {
        let name = if self.whole { path } else { path.rsplit(|b| *b == b'/').next().unwrap_or_default() };
        match &self.name {
            Name::Glob(glob) => glob.is_match(Path::new(OsStr::from_bytes(name))),
            Name::Part(part) => part.is_empty() || name.windows(part.len()).any(|window| window == part),
        }
    }

    fn is_hash_of(&self, found: &wire::Match) -> bool {
        let Some(wanted) = &self.hash else { return false };
        let hashes = [Some(&found.txid), found.blake3.as_ref(), found.sha256.as_ref()];
        hashes.into_iter().flatten().any(|hash| hash.starts_with(wanted))
    }
}

impl Node {
    /// Whether a search makes sense.
    ///
    /// # Errors
    /// [`Kind::Usage`] for a pattern that makes none, [`Kind::BucketUnknown`].
    pub fn check_search(&self, query: &SearchQuery) -> Result<()> {
        Pattern::new(&query.pattern)?;
        if let Some(name) = &query.bucket {
            self.bucket_status(&BucketName::new(name)?)?;
        }
        Ok(())
    }

    /// Write what matches to `lines`: what buckets hold now, and for a hash also what they held once.
    ///
    /// # Errors
    /// [`Kind::Usage`] for a pattern that makes no sense, [`Kind::BucketUnknown`]; the ledger cannot be read.
    pub fn search(&self, query: &SearchQuery, lines: &mut Lines) -> Result<()> {
        let pattern = Pattern::new(&query.pattern)?;
        let names = match &query.bucket {
            Some(name) => vec![self.bucket_status(&BucketName::new(name)?)?.origin],
            None => self.bucket_names(),
        };
        let pending = self.may_show_pending()?;
        let mut shown = HashSet::new();
        let mut scope = Vec::new();
        for name in &names {
            let Some(bucket) = self.ledger.bucket_named(name.as_str()).map_err(trouble::ledger)? else { continue };
            scope.push(bucket.id);
            if self.search_bucket(&pattern, (name, &bucket.id), pending, &mut shown, lines)?.is_break() {
                return Ok(());
            }
        }
        if pattern.hash.is_some() {
            let history = match (&query.bucket, scope.first()) {
                (Some(_), Some(id)) => History::Bucket(*id),
                _ => History::All,
            };
            self.search_history(&pattern, &history, pending, &shown, lines)?;
        }
        Ok(())
    }

    fn search_bucket(
        &self,
        pattern: &Pattern,
        (name, id): (&BucketName, &BucketId),
        pending: bool,
        shown: &mut HashSet<Hash>,
        lines: &mut Lines,
    ) -> Result<ControlFlow<()>> {
        let mut flow = Ok(ControlFlow::Continue(()));
        let walked = self.ledger.entries(id, &mut |path, entry| {
            let by_name = pattern.is_name(path.as_bytes());
            if !by_name && pattern.hash.is_none() {
                return ControlFlow::Continue(());
            }
            flow = self.current(name, path, entry).map(|found| {
                if (!pending && found.block.is_none()) || (!by_name && !pattern.is_hash_of(&found)) {
                    return ControlFlow::Continue(());
                }
                shown.insert(entry.content_txid());
                lines.line(&found)
            });
            if matches!(flow, Ok(ControlFlow::Continue(()))) {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        });
        walked.map_err(trouble::ledger)?;
        flow
    }

    /// What a bucket holds now.
    fn current(&self, name: &BucketName, path: &TreePath, entry: &Entry) -> Result<wire::Match> {
        let txid = entry.content_txid();
        let logged = self.ledger.transaction(&txid).map_err(trouble::ledger)?;
        let mut found = wire::Match {
            bucket: Some(name.to_string()),
            path: wire::path_of(path.as_bytes()),
            kind: Some("directory".to_owned()),
            size: None,
            mode: None,
            blake3: None,
            sha256: None,
            target: None,
            txid: txid.to_string(),
            block: logged.as_ref().and_then(|logged| logged.block),
            time: logged.map(|logged| logged::line(&logged, None).time),
            current: true,
        };
        if let Some(leaf) = entry.leaf() {
            found.mode = Some(leaf.mode);
            match &leaf.content {
                Content::File { size, hashes } => {
                    found.kind = Some("file".to_owned());
                    found.size = Some(*size);
                    found.blake3 = hashes.map(|hashes| wire::hex(&hashes.blake3));
                    found.sha256 = hashes.map(|hashes| wire::hex(&hashes.sha256));
                }
                Content::Symlink { target } => {
                    found.kind = Some("symlink".to_owned());
                    found.target = Some(wire::text_and_bytes(target).0);
                }
            }
        }
        Ok(found)
    }

    /// What was put once and is not there any more.
    fn search_history(
        &self,
        pattern: &Pattern,
        history: &History,
        pending: bool,
        shown: &HashSet<Hash>,
        lines: &mut Lines,
    ) -> Result<()> {
        let (mut names, mut done) = (Names::default(), Ok(()));
        let visited = self.ledger.visit_history(history, Order::OldestFirst, None, &mut |logged| {
            let wanted = |logged: &Logged| {
                (pending || logged.index.is_some()) && !shown.contains(&logged.txid) && names_a_file(logged)
            };
            let Some(logged) = logged.filter(wanted) else { return lines.are_read() };
            match names.line(self, &logged).map(past) {
                Ok(found) if pattern.is_hash_of(&found) => lines.line(&found),
                Ok(_) => ControlFlow::Continue(()),
                Err(error) => {
                    done = Err(error);
                    ControlFlow::Break(())
                }
            }
        });
        visited.map_err(trouble::ledger)?;
        done
    }
}

fn names_a_file(logged: &Logged) -> bool {
    logged.transaction.as_ref().is_some_and(|transaction| transaction.file().is_some())
}

fn past(line: wire::LogLine) -> wire::Match {
    wire::Match {
        bucket: line.bucket,
        path: line.path,
        kind: line.kind,
        size: line.size,
        mode: line.mode,
        blake3: line.blake3,
        sha256: line.sha256,
        target: line.target,
        txid: line.txid,
        block: line.block,
        time: Some(line.time),
        current: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_globs_words_or_hashes() {
        fn check(pattern: &str, path: &[u8], expect: bool) {
            let found = Pattern::new(pattern).unwrap().is_name(path);
            assert_eq!(found, expect, "{pattern} {}", String::from_utf8_lossy(path));
        }
        check("*.txt", b"a/b/notes.txt", true);
        check("*.txt", b"a.txt/b", false);
        check("notes", b"a/my-notes.md", true);
        check("notes", b"notes/a", false);
        check("a/*.txt", b"a/x.txt", true);
        check("a/*.txt", b"a/b/x.txt", false);
        check("a/**/x.txt", b"a/b/c/x.txt", true);
        check("b/c", b"a/b/c/d", true);
        check("?.{md,txt}", b"z/a.md", true);
        check("*", b"bad\xffname", true);
        check("a\\*b", b"a*b", true);
        check("a\\*b", b"axb", false);
        assert_eq!(Pattern::new("a[").err().map(|e| e.kind), Some(Kind::Usage));
        assert!(Pattern::new("DEADBEEF").unwrap().hash.is_some_and(|hash| hash == "deadbeef"));
        assert!(Pattern::new("deadbee").unwrap().hash.is_none());
    }
}
