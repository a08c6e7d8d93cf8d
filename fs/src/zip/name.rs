//! Names of members: from bytes in some encoding to a path that stays inside the bucket.
//!
//! Sources: APPNOTE 4.4.17 and appendix D (bit 11), Info-ZIP extra field 0x7075. Names without either are in whatever
//! encoding the writing machine had: ASCII and valid UTF-8 are taken as they are, the rest is guessed over all names at
//! once, and is IBM code page 437 when nothing is more likely.

use crate::path::{NAME_MAX_BYTES, PATH_MAX_BYTES};
use chardetng::{EncodingDetector, Iso2022JpDetection, Utf8Detection};
use encoding_rs::Encoding;
use std::borrow::Cow;

/// Deeper paths are hostile: each level costs a row of the index.
const DEPTH_MAX: usize = 255;

/// How names that say nothing of their encoding are read.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Charset(Option<&'static Encoding>);

/// Collects the names that need a guess.
pub(crate) struct Guess {
    detector: EncodingDetector,
    needed: bool,
}

impl Guess {
    pub(crate) fn new() -> Self {
        Self { detector: EncodingDetector::new(Iso2022JpDetection::Deny), needed: false }
    }

    /// Look at the name of one member.
    pub(crate) fn see(&mut self, raw: &[u8], is_utf8: bool) {
        if !is_utf8 && !raw.is_ascii() && std::str::from_utf8(raw).is_err() {
            self.detector.feed(raw, false);
            self.detector.feed(b"\n", false);
            self.needed = true;
        }
    }

    pub(crate) fn charset(mut self) -> Charset {
        if !self.needed {
            return Charset::default();
        }
        self.detector.feed(b"", true);
        let guessed = self.detector.guess(None, Utf8Detection::Deny);
        // What browsers call windows-1252 when they know nothing is, in archives, the code page of the specification.
        Charset((guessed != encoding_rs::WINDOWS_1252).then_some(guessed))
    }
}

impl Charset {
    /// The name as UTF-8 where its encoding can be known; `unicode` is the content of an extra field 0x7075.
    pub(crate) fn decode<'a>(self, raw: &'a [u8], is_utf8: bool, unicode: Option<&'a [u8]>) -> Cow<'a, [u8]> {
        if let Some(name) = unicode.and_then(|field| unicode_path(field, raw)) {
            return Cow::Borrowed(name);
        }
        if is_utf8 || std::str::from_utf8(raw).is_ok() {
            return Cow::Borrowed(raw);
        }
        let text = match self.0 {
            Some(encoding) => encoding.decode_without_bom_handling(raw).0.into_owned(),
            None => oem_cp::decode_string_complete_table(raw, &oem_cp::code_table::DECODING_TABLE_CP437),
        };
        Cow::Owned(text.into_bytes())
    }
}

/// The name in a field 0x7075, if it was made for the name `raw`: an older program may have renamed the member since.
fn unicode_path<'a>(field: &'a [u8], raw: &[u8]) -> Option<&'a [u8]> {
    let (&version, rest) = field.split_first()?;
    let (crc, name) = rest.split_at_checked(4)?;
    let made_for = u32::from_le_bytes(crc.try_into().ok()?);
    let fits = version == 1 && made_for == crc32fast::hash(raw) && std::str::from_utf8(name).is_ok();
    fits.then_some(name)
}

/// A path that stays inside: without leading and doubled slashes, `.`, `..` and NUL, components at most 255 bytes. With
/// `windows` a backslash separates too. `None` when nothing is left, or when it is longer or deeper than a path may be.
pub(crate) fn inside(name: Cow<'_, [u8]>, windows: bool) -> Option<Cow<'_, [u8]>> {
    let separates = |byte: u8| byte == b'/' || (windows && byte == b'\\');
    if name.len() > PATH_MAX_BYTES {
        return None;
    }
    let trimmed = name.strip_suffix(b"/").unwrap_or(&name);
    let plain = |part: &[u8]| !part.is_empty() && part != b"." && part != b".." && part.len() <= NAME_MAX_BYTES;
    let clean = !trimmed.iter().any(|&b| b == 0 || (windows && b == b'\\'));
    if clean && trimmed.split(|&b| b == b'/').all(plain) {
        let deep = trimmed.iter().filter(|&&b| b == b'/').count() >= DEPTH_MAX;
        let len = trimmed.len();
        return (!deep).then(|| match name {
            Cow::Borrowed(bytes) => Cow::Borrowed(&bytes[..len]),
            Cow::Owned(mut bytes) => {
                bytes.truncate(len);
                Cow::Owned(bytes)
            }
        });
    }
    let mut path = Vec::with_capacity(name.len());
    let mut depth = 0;
    for part in name.split(|&b| separates(b)).filter(|part| !matches!(*part, b"" | b"." | b"..")) {
        if depth > 0 {
            path.push(b'/');
        }
        depth += 1;
        let part: Vec<u8> = part.iter().map(|&b| if b == 0 { b'_' } else { b }).collect();
        path.extend_from_slice(&shortened(part));
    }
    (depth > 0 && depth <= DEPTH_MAX).then_some(Cow::Owned(path))
}

/// A component that a file system can hold; what is cut off is stood in for by its checksum.
fn shortened(mut part: Vec<u8>) -> Vec<u8> {
    if part.len() > NAME_MAX_BYTES {
        let mark = format!("~{:08x}", crc32fast::hash(&part));
        let mut keep = NAME_MAX_BYTES - mark.len();
        // Not within a character of UTF-8.
        while keep > 0 && part[keep] & 0xC0 == 0x80 {
            keep -= 1;
        }
        part.truncate(keep);
        part.extend_from_slice(mark.as_bytes());
    }
    part
}

/// `name` with a number before its extension, as programs number copies: `a (2).txt`.
pub(crate) fn numbered(name: &[u8], number: u32) -> Vec<u8> {
    let dot = name.iter().rposition(|&b| b == b'.').filter(|&at| at > 0).unwrap_or(name.len());
    let suffix = format!(" ({number})");
    let extension = &name[dot..];
    let room = NAME_MAX_BYTES.saturating_sub(suffix.len() + extension.len());
    let mut new = name[..dot.min(room)].to_vec();
    new.extend_from_slice(suffix.as_bytes());
    new.extend_from_slice(extension);
    new.truncate(NAME_MAX_BYTES);
    new
}

/// The same for all names of which numbered copies may be equal, because they are cut.
pub(crate) fn stem_of_copies(name: &[u8]) -> Vec<u8> {
    // No number is longer, and none leaves less of the name.
    numbered(name, u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(name: &[u8], windows: bool, expect: Option<&[u8]>) {
        assert_eq!(inside(Cow::Borrowed(name), windows).as_deref(), expect, "{name:?}");
        assert_eq!(inside(Cow::Owned(name.to_vec()), windows).as_deref(), expect, "{name:?}");
    }

    #[test]
    fn no_name_leads_outside() {
        check(b"a/b.txt", false, Some(b"a/b.txt"));
        check(b"a/b/", false, Some(b"a/b"));
        check(b"/etc/passwd", false, Some(b"etc/passwd"));
        check(b"../../etc/passwd", false, Some(b"etc/passwd"));
        check(b"a/./b//c/..", false, Some(b"a/b/c"));
        check(b"./a", false, Some(b"a"));
        check(b"a\\b", false, Some(b"a\\b"));
        check(b"a\\..\\b", true, Some(b"a/b"));
        check(b"C:\\x", true, Some(b"C:/x"));
        check(b"a\0b", false, Some(b"a_b"));
        check(b"..", false, None);
        check(b"", false, None);
        check(b"///", false, None);
        check(&b"a/".repeat(255), false, Some(&b"a/".repeat(255)[..509]));
        check(&b"a/".repeat(256), false, None);
        check(&[b'a'; 17_000], false, None);
    }

    #[test]
    fn long_components_are_cut_and_stay_apart() {
        let long = |last: &str| format!("{}{last}", "ä".repeat(200));
        let a = inside(Cow::Owned(long("1").into_bytes()), false).unwrap().into_owned();
        let b = inside(Cow::Owned(long("2").into_bytes()), false).unwrap().into_owned();
        assert!(a.len() <= 255 && a != b);
        assert!(std::str::from_utf8(&a).is_ok());
    }

    #[test]
    fn copies_are_numbered_before_the_extension() {
        assert_eq!(numbered(b"a.txt", 2), b"a (2).txt");
        assert_eq!(numbered(b"README", 1), b"README (1)");
        assert_eq!(numbered(b".profile", 1), b".profile (1)");
        assert!(numbered(&[b'x'; 255], 1).len() <= 255);
        assert!(numbered(&[b"a.".as_slice(), &[b'x'; 253]].concat(), 1).len() <= 255);
    }

    #[test]
    fn names_come_out_as_utf_8() {
        fn guessed(names: &[&[u8]]) -> Charset {
            let mut guess = Guess::new();
            names.iter().for_each(|name| guess.see(name, false));
            guess.charset()
        }
        let plain = Charset::default();
        assert_eq!(&*plain.decode("žluť".as_bytes(), false, None), "žluť".as_bytes());
        // Code page 437, what Info-ZIP and 7-Zip write on DOS.
        assert_eq!(&*plain.decode(b"caf\x82", false, None), "café".as_bytes());
        let raw = b"\x8e\xa9\x93\xae";
        let field = [&[1][..], &crc32fast::hash(raw).to_le_bytes(), "自動".as_bytes()].concat();
        assert_eq!(&*plain.decode(raw, false, Some(&field)), "自動".as_bytes());
        assert_eq!(&*plain.decode(b"renamed", false, Some(&field)), b"renamed");
        let (japanese, _, _) = encoding_rs::SHIFT_JIS.encode("日本語の文書と写真の一覧表.txt");
        let charset = guessed(&[&japanese]);
        assert_eq!(&*charset.decode(&japanese, false, None), "日本語の文書と写真の一覧表.txt".as_bytes());
        let (russian, _, _) = encoding_rs::IBM866.encode("Документы и фотографии за прошлый год.txt");
        let charset = guessed(&[&russian]);
        assert_eq!(&*charset.decode(&russian, false, None), "Документы и фотографии за прошлый год.txt".as_bytes());
    }

    proptest! {
        #[test]
        fn whatever_comes_out_is_a_path(name in prop::collection::vec(any::<u8>(), 0..600), windows: bool) {
            if let Some(path) = inside(Cow::Borrowed(&name), windows) {
                prop_assert!(crate::path::BucketPath::new(path.into_owned()).is_ok());
            }
        }
    }
}
