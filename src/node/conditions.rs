//! Conditions of a change (RFC 9110, section 13.1): it is made only while the file is as the client knows it.
//!
//! The last look is when all content has come, right before the file appears, and conditional changes of the node take turns
//! from there on. A program in the mount knows of no conditions, and takes none of these turns.

use super::{Node, OpenBucket, files, trouble};
use crate::error::{Error, Kind, Result};
use std::io::{self, Read};
use wizefs_fs::{AnyBucket, BucketPath, FoundKind};

/// What must hold of the file that is there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Conditions {
    /// `If-Match`: its tag is one of these.
    pub matches: Option<Vec<String>>,
    /// `If-None-Match`: it is none of these.
    pub differs: Option<Vec<String>>,
}

impl Conditions {
    /// Whether they hold for what is there: nothing, or something with this entity tag, which stands in quotes. What has no
    /// recorded content has an empty tag.
    pub fn hold(&self, there: Option<&str>) -> bool {
        let any = |tags: &[String], same: &dyn Fn(&str) -> bool| tags.iter().any(|tag| tag == "*" || same(tag));
        // `If-Match` compares strongly, the other one weakly.
        let matches = |tags: &[String]| there.is_some_and(|there| any(tags, &|tag| tag == there));
        let differs = |tags: &[String]| {
            !there.is_some_and(|there| any(tags, &|tag| tag.strip_prefix("W/").unwrap_or(tag) == there))
        };
        self.matches.as_deref().is_none_or(matches) && self.differs.as_deref().is_none_or(differs)
    }
}

/// A content that is asked at its end whether it is still wanted.
pub(super) struct Conditional<'a> {
    pub(super) content: &'a mut dyn Read,
    pub(super) wanted: &'a mut dyn FnMut() -> Result<()>,
    pub(super) refused: Option<Error>,
}

impl Read for Conditional<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.content.read(buffer)?;
        if count == 0
            && !buffer.is_empty()
            && let Err(error) = (self.wanted)()
        {
            self.refused = Some(error);
            return Err(io::Error::other("a condition does not hold"));
        }
        Ok(count)
    }
}

impl Node {
    /// Refuse a change whose conditions do not hold.
    ///
    /// # Errors
    /// [`Kind::Precondition`]; what the file system or the ledger cannot tell.
    pub(super) fn require(
        &self,
        conditions: &Conditions,
        bucket: &OpenBucket,
        fs: &AnyBucket,
        path: &BucketPath,
    ) -> Result<()> {
        if *conditions == Conditions::default() {
            return Ok(());
        }
        let there = match fs.inspect(path).map_err(trouble::fs)? {
            None => None,
            Some(found) if found.kind != FoundKind::File => Some(String::new()),
            Some(_) => {
                files::establish(fs, path)?;
                match self.told(bucket, path) {
                    Ok(recorded) => Some(recorded.tag()),
                    Err(error) if matches!(error.kind, Kind::Busy | Kind::Damaged) => Some(String::new()),
                    Err(error) => return Err(error),
                }
            }
        };
        if conditions.hold(there.as_deref()) {
            return Ok(());
        }
        let is = if there.is_some() { "is not what the request expects" } else { "is not there" };
        Err(Error::new(Kind::Precondition, format!("{}/{path} {is}", bucket.name)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_hold_or_not() {
        fn check(matches: Option<&str>, differs: Option<&str>, there: Option<&str>, expect: bool) {
            let tags = |list: Option<&str>| list.map(|list| list.split(' ').map(str::to_owned).collect());
            let conditions = Conditions { matches: tags(matches), differs: tags(differs) };
            assert_eq!(conditions.hold(there), expect, "{matches:?} {differs:?} {there:?}");
        }
        check(None, None, None, true);
        check(None, None, Some("\"a\""), true);
        check(Some("*"), None, None, false);
        check(Some("*"), None, Some(""), true);
        check(Some("\"b\" \"a\""), None, Some("\"a\""), true);
        check(Some("\"b\""), None, Some("\"a\""), false);
        check(Some("\"b\""), None, None, false);
        check(Some("W/\"a\""), None, Some("\"a\""), false);
        check(None, Some("*"), None, true);
        check(None, Some("*"), Some(""), false);
        check(None, Some("W/\"a\""), Some("\"a\""), false);
        check(None, Some("\"b\""), Some("\"a\""), true);
        check(Some("\"a\""), Some("\"a\""), Some("\"a\""), false);
    }
}
