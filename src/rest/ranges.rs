//! `Range` and the conditions of a request (RFC 9110), as far as files need them.

use crate::node::Conditions;
use axum::http::{HeaderMap, HeaderName, header};

/// More parts than this are not worth the framing: the whole file is sent.
const MOST_PARTS: usize = 32;

/// What of a file is wanted.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// The client has it already.
    Nothing,
    /// It is not the content that the client means.
    Other,
    /// All of it.
    Whole,
    /// These bytes, first and last inclusive, each in the file.
    Parts(Vec<(u64, u64)>),
    /// None of the bytes that were asked for is in the file.
    Outside,
}

/// What is wanted of a file with this size and strong entity tag, which stands in quotes.
pub(super) fn wanted(headers: &HeaderMap, size: u64, etag: &str) -> Wanted {
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let Conditions { matches, differs } = conditions(headers);
    if !(Conditions { matches, differs: None }).hold(Some(etag)) {
        return Wanted::Other;
    }
    if !(Conditions { matches: None, differs }).hold(Some(etag)) {
        return Wanted::Nothing;
    }
    // A date never matches: a file's content is told by its tag alone.
    if text(header::IF_RANGE).is_some_and(|tag| tag.trim() != etag) {
        return Wanted::Whole;
    }
    match text(header::RANGE).and_then(parse) {
        None => Wanted::Whole,
        Some(specs) => {
            let parts: Vec<(u64, u64)> = specs.into_iter().filter_map(|spec| spec.within(size)).collect();
            let bytes = parts.iter().fold(0_u64, |sum, (first, last)| sum.saturating_add(last - first + 1));
            match parts.len() {
                0 => Wanted::Outside,
                // Overlapping parts would make a small file a large answer.
                2.. if bytes > size => Wanted::Whole,
                _ => Wanted::Parts(parts),
            }
        }
    }
}

/// What must hold of a file for the request to be met.
pub(super) fn conditions(headers: &HeaderMap) -> Conditions {
    let tags = |name: HeaderName| {
        let lines: Vec<_> =
            headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes())).collect();
        let tags = lines.iter().flat_map(|line| line.split(',')).map(|tag| tag.trim().to_owned());
        (!lines.is_empty()).then(|| tags.collect())
    };
    Conditions { matches: tags(header::IF_MATCH), differs: tags(header::IF_NONE_MATCH) }
}

/// A range as it was asked for.
enum Spec {
    From(u64, Option<u64>),
    Last(u64),
}

impl Spec {
    fn within(&self, size: u64) -> Option<(u64, u64)> {
        let end = size.checked_sub(1)?;
        match *self {
            Spec::From(first, _) if first > end => None,
            Spec::From(first, last) => Some((first, last.unwrap_or(end).min(end))),
            Spec::Last(0) => None,
            Spec::Last(count) => Some((size.saturating_sub(count), end)),
        }
    }
}

/// The ranges; none when they are not in bytes, or not well-formed, or too many: such a field is ignored.
fn parse(field: &str) -> Option<Vec<Spec>> {
    let (unit, list) = field.trim().split_once('=')?;
    if !unit.eq_ignore_ascii_case("bytes") {
        return None;
    }
    let specs = list.split(',').map(str::trim).filter(|spec| !spec.is_empty()).map(|spec| {
        let (first, last) = spec.split_once('-')?;
        match (number(first), number(last)) {
            (Some(first), Some(last)) if first <= last => Some(Spec::From(first, Some(last))),
            (Some(first), None) if last.is_empty() => Some(Spec::From(first, None)),
            (None, Some(count)) if first.is_empty() => Some(Spec::Last(count)),
            _ => None,
        }
    });
    let specs = specs.collect::<Option<Vec<_>>>()?;
    (1..=MOST_PARTS).contains(&specs.len()).then_some(specs)
}

/// Digits; more than fit are as good as the largest number.
fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    fn asked(fields: &[(&'static str, &str)], size: u64) -> Wanted {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        wanted(&headers, size, "\"tag\"")
    }

    #[test]
    fn ranges_are_read_as_the_standard_says() {
        fn check(range: &str, size: u64, expect: Wanted) {
            assert_eq!(asked(&[("range", range)], size), expect, "{range} of {size}");
        }
        check("bytes=0-4", 10, Wanted::Parts(vec![(0, 4)]));
        check("bytes=5-", 10, Wanted::Parts(vec![(5, 9)]));
        check("bytes=-3", 10, Wanted::Parts(vec![(7, 9)]));
        check("bytes=-30", 10, Wanted::Parts(vec![(0, 9)]));
        check("bytes=4-99999999999999999999999", 10, Wanted::Parts(vec![(4, 9)]));
        check("Bytes=0-4", 10, Wanted::Parts(vec![(0, 4)]));
        check("bytes=0-0, 9-9,", 10, Wanted::Parts(vec![(0, 0), (9, 9)]));
        check("bytes=0-1,20-30", 10, Wanted::Parts(vec![(0, 1)]));
        check("bytes=10-", 10, Wanted::Outside);
        check("bytes=-0", 10, Wanted::Outside);
        check("bytes=0-", 0, Wanted::Outside);
        for odd in ["bytes=", "bytes=a-b", "bytes=3-1", "bytes=--1", "bytes=+1-2", "lines=0-1", "bytes 0-1", "bytes=0"]
        {
            check(odd, 10, Wanted::Whole);
        }
        check("bytes=0-9,0-9", 10, Wanted::Whole);
        check(&format!("bytes={}", "0-0,".repeat(33)), 100, Wanted::Whole);
    }

    #[test]
    fn conditions_go_by_the_tag() {
        assert_eq!(asked(&[("if-none-match", "\"tag\"")], 10), Wanted::Nothing);
        assert_eq!(asked(&[("if-none-match", "\"a\", W/\"tag\"")], 10), Wanted::Nothing);
        assert_eq!(asked(&[("if-none-match", "*")], 10), Wanted::Nothing);
        assert_eq!(asked(&[("if-none-match", "\"other\"")], 10), Wanted::Whole);
        assert_eq!(asked(&[("if-none-match", "\"other\""), ("if-none-match", "\"tag\"")], 10), Wanted::Nothing);
        assert_eq!(asked(&[("if-match", "\"tag\"")], 10), Wanted::Whole);
        assert_eq!(asked(&[("if-match", "\"\u{e4}\"")], 10), Wanted::Other, "a tag, though not one of ours");
        assert_eq!(asked(&[("if-match", "\"other\""), ("if-none-match", "\"tag\"")], 10), Wanted::Other);
        assert_eq!(asked(&[("if-range", "\"tag\""), ("range", "bytes=1-2")], 10), Wanted::Parts(vec![(1, 2)]));
        assert_eq!(asked(&[("if-range", "\"other\""), ("range", "bytes=1-2")], 10), Wanted::Whole);
        assert_eq!(asked(&[("if-range", "W/\"tag\""), ("range", "bytes=1-2")], 10), Wanted::Whole);
        let date = "Thu, 26 Nov 2026 22:00:00 GMT";
        assert_eq!(asked(&[("if-range", date), ("range", "bytes=1-2")], 10), Wanted::Whole);
    }
}
