//! Bucket names and kinds, and `ORIGIN[/PATH]` as people type it. A name is checked here once; unchecked text never
//! becomes a path.

use crate::error::{Error, Kind, Result};
use serde::{Deserialize, Serialize};
use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use wizefs_fs::BucketPath;

/// A checked bucket name: 1 to 255 bytes of `A-Z a-z 0-9 . _ -`, not starting with `.` or `-`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String, pattern = "^[A-Za-z0-9_][A-Za-z0-9._-]{0,254}$")]
pub struct BucketName(String);

impl BucketName {
    /// Check `text`.
    ///
    /// # Errors
    /// [`Kind::BucketName`] says which rule is broken.
    pub fn new(text: &str) -> Result<BucketName> {
        let problem = if text.is_empty() {
            "a bucket name cannot be empty".to_owned()
        } else if text.len() > 255 {
            format!("a bucket name has at most 255 bytes, this one has {}", text.len())
        } else if text.starts_with(['.', '-']) {
            format!("a bucket name does not start with . or -: {}", escape(text))
        } else if let Some(odd) = text.chars().find(|c| !is_allowed(*c)) {
            format!("a bucket name cannot contain {:?}: {}", odd, escape(text))
        } else {
            return Ok(BucketName(text.to_owned()));
        };
        Err(Error::new(Kind::BucketName, problem))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn is_allowed(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')
}

impl fmt::Display for BucketName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for BucketName {
    type Error = Error;
    fn try_from(text: String) -> Result<BucketName> {
        BucketName::new(&text)
    }
}

impl From<BucketName> for String {
    fn from(name: BucketName) -> String {
        name.0
    }
}

/// What stands behind a bucket. The numbers in `wizefs.conf` are the predecessor's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum BucketKind {
    /// A directory.
    Loopback,
    /// A zip archive, read-only.
    Zip,
    /// A zip archive that can be written (Loopback Zipped).
    Lz,
}

impl BucketKind {
    /// What the name says when nobody says otherwise: `NAME.zip` is lz, `_NAME.zip` is zip, everything else loopback.
    pub fn of_name(name: &BucketName) -> BucketKind {
        match (name.as_str().ends_with(".zip"), name.as_str().starts_with('_')) {
            (false, _) => BucketKind::Loopback,
            (true, true) => BucketKind::Zip,
            (true, false) => BucketKind::Lz,
        }
    }

    /// The number in `wizefs.conf` and `wizedb.conf`.
    pub fn number(self) -> u8 {
        match self {
            BucketKind::Loopback => 1,
            BucketKind::Zip => 2,
            BucketKind::Lz => 3,
        }
    }

    /// The kind of a number in a configuration file.
    pub fn of_number(number: u8) -> Option<BucketKind> {
        [BucketKind::Loopback, BucketKind::Zip, BucketKind::Lz].into_iter().find(|kind| kind.number() == number)
    }

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            BucketKind::Loopback => "loopback",
            BucketKind::Zip => "zip",
            BucketKind::Lz => "lz",
        }
    }
}

/// `ORIGIN[/PATH]` of the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The bucket.
    pub bucket: BucketName,
    /// The path in it; the root when none was given.
    pub path: BucketPath,
    /// Whether the text ended with `/`: what comes goes into that folder.
    pub folder: bool,
}

impl Target {
    /// Take apart what the user typed.
    ///
    /// # Errors
    /// [`Kind::BucketName`] or [`Kind::BadPath`].
    pub fn parse(text: &OsStr) -> Result<Target> {
        let bytes = text.as_bytes();
        let cut = bytes.iter().position(|b| *b == b'/').unwrap_or(bytes.len());
        let (name, rest) = bytes.split_at(cut);
        let rest = rest.strip_prefix(b"/").unwrap_or(rest);
        let bucket = BucketName::new(&String::from_utf8_lossy(name))?;
        let folder = rest.is_empty() || rest.ends_with(b"/");
        let path = bucket_path(rest.strip_suffix(b"/").unwrap_or(rest))?;
        Ok(Target { bucket, path, folder })
    }
}

/// A path in a bucket from bytes that came from outside.
///
/// # Errors
/// [`Kind::BadPath`] names the rule that is broken.
pub fn bucket_path(bytes: &[u8]) -> Result<BucketPath> {
    BucketPath::new(bytes).map_err(|problem| {
        let shown: String = escape(&String::from_utf8_lossy(bytes)).chars().take(80).collect();
        Error::new(Kind::BadPath, format!("{shown:?} is not a path in a bucket: {problem}"))
    })
}

/// Text as it may be shown on a terminal: control characters become escapes.
pub fn escape(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            c if c.is_control() => shown.extend(c.escape_default()),
            // Bidirectional overrides reorder what the reader sees.
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => shown.extend(c.escape_unicode()),
            c => shown.push(c),
        }
    }
    shown
}

/// Text as a word of a command that somebody pastes into a shell, whoever chose it: quoted unless it is plain.
pub(crate) fn pasted(word: impl AsRef<OsStr>) -> String {
    let text = word.as_ref().to_string_lossy();
    let is_plain = |c: char| c.is_alphanumeric() || "/._-+,:@%=".contains(c);
    match !text.is_empty() && text.chars().all(is_plain) {
        true => text.into_owned(),
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_pasted_is_one_word() {
        fn check(text: &str, expect: &str) {
            assert_eq!(pasted(text), expect);
        }
        check("docs/a-1.txt", "docs/a-1.txt");
        check("docs/\u{e4}", "docs/\u{e4}");
        check("two words", "'two words'");
        check("~/x", "'~/x'");
        check("a; $(b) it's", r"'a; $(b) it'\''s'");
        check("", "''");
    }

    #[test]
    fn bucket_names_follow_the_rule() {
        fn check(text: &str, good: bool) {
            assert_eq!(BucketName::new(text).is_ok(), good, "{text:?}");
        }
        check("docs", true);
        check("image.jpg", true);
        check("_a.zip", true);
        check(&"x".repeat(255), true);
        check(&"x".repeat(256), false);
        check("", false);
        check("../x", false);
        check("..", false);
        check(".hidden", false);
        check("-f", false);
        check("a/b", false);
        check("a\nb", false);
        check("ä", false);
    }

    #[test]
    fn the_name_decides_the_kind() {
        fn check(text: &str, kind: BucketKind) {
            assert_eq!(BucketKind::of_name(&BucketName::new(text).unwrap()), kind, "{text}");
        }
        check("docs", BucketKind::Loopback);
        check("image.jpg", BucketKind::Loopback);
        check("my.data.zip", BucketKind::Lz);
        check("_a.zip", BucketKind::Zip);
        check("_a", BucketKind::Loopback);
    }

    #[test]
    fn targets_are_taken_apart() {
        fn check(text: &str, expect: Option<(&str, &str, bool)>) {
            let target = Target::parse(OsStr::new(text)).ok();
            let found = target.map(|t| (t.bucket.to_string(), t.path.to_string(), t.folder));
            let expect = expect.map(|(b, p, f)| (b.to_owned(), p.to_owned(), f));
            assert_eq!(found, expect, "{text:?}");
        }
        check("docs", Some(("docs", "", true)));
        check("docs/", Some(("docs", "", true)));
        check("docs/a.txt", Some(("docs", "a.txt", false)));
        check("docs/a/b/", Some(("docs", "a/b", true)));
        check("docs/../x", None);
        check("docs//x", None);
        check("/docs", None);
    }

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(escape("a\u{1b}[31mb\n"), "a\\u{1b}[31mb\\n");
        assert_eq!(escape("ünï 文"), "ünï 文");
    }
}
