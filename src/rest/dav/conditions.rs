//! Conditions of a WebDAV request, before the crate dav-server reads them: of one that is not well-formed it makes none at all, so
//! that a file would be replaced that was to be kept, or it looks behind its end and loses the connection's thread.

use crate::error::{Error, Kind, Result};
use crate::node::Conditions;
use crate::rest::ranges::conditions;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Uri, header};

/// `If` of RFC 4918, 10.4.
const IF: HeaderName = HeaderName::from_static("if");
/// A weak tag is no file's: those of files are strong.
const NONE: &str = "W/\"\"";

/// Write the conditions of a request as the crate reads them without loss.
///
/// # Errors
/// [`Kind::Usage`] for an `If` that is not as the standard says.
pub(super) fn readable(headers: &mut HeaderMap) -> Result<()> {
    let Conditions { matches, differs } = conditions(headers);
    // RFC 9110, 13.1: it is compared strongly for the one, and weakly for the other.
    let strong = |tag: &str| tag.strip_prefix("W/").unwrap_or(tag).to_owned();
    replace(headers, header::IF_MATCH, matches)?;
    replace(headers, header::IF_NONE_MATCH, differs.map(|tags| tags.iter().map(|tag| strong(tag)).collect()))?;
    let fields: Vec<HeaderValue> = headers.get_all(IF).iter().cloned().collect();
    let rewritten = match fields.as_slice() {
        [] => return Ok(()),
        [field] => field.to_str().ok().and_then(rewritten),
        _ => None,
    };
    let rewritten = rewritten.ok_or_else(|| {
        Error::new(Kind::Usage, "the field If holds no conditions, as RFC 4918 has them").without_hint()
    })?;
    headers.insert(IF, value(&rewritten)?);
    Ok(())
}

fn replace(headers: &mut HeaderMap, name: HeaderName, tags: Option<Vec<String>>) -> Result<()> {
    let Some(tags) = tags else { return Ok(()) };
    let known: Vec<&str> = tags.iter().map(String::as_str).filter(|tag| *tag == "*" || is_tag(tag)).collect();
    let list = match known.as_slice() {
        [] => NONE.to_owned(),
        known if known.contains(&"*") => "*".to_owned(),
        known => known.join(", "),
    };
    headers.insert(name, value(&list)?);
    Ok(())
}

fn value(text: &str) -> Result<HeaderValue> {
    HeaderValue::from_str(text).map_err(|e| Error::new(Kind::Internal, format!("a condition in a header: {e}")))
}

fn is_tag(text: &str) -> bool {
    let quoted = text.strip_prefix("W/").unwrap_or(text);
    quoted.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).is_some_and(is_word)
}

fn is_word(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"')
}

/// The same lists, each with the address of what it is about where that is told: the crate takes an address for that of the
/// first list behind it alone, and knows none without a host.
fn rewritten(field: &str) -> Option<String> {
    let mut rest = field.trim_start();
    let (mut about, mut lists) = (String::new(), String::new());
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix('<') {
            let (address, after) = after.split_once('>')?;
            about = format!("<http://localhost{}>", address.parse::<Uri>().ok()?.path());
            rest = after.trim_start();
        }
        let (list, after) = list(rest)?;
        lists += &about;
        lists += &list;
        rest = after.trim_start();
    }
    (!lists.is_empty()).then_some(lists)
}

/// A list of conditions in round brackets, and what stands behind it.
fn list(text: &str) -> Option<(String, &str)> {
    let mut rest = text.strip_prefix('(')?.trim_start();
    let mut list = String::new();
    while !rest.starts_with(')') {
        let not = rest.get(..3).is_some_and(|word| word.eq_ignore_ascii_case("not"));
        rest = if not { rest[3..].trim_start() } else { rest };
        let (condition, after) = condition(rest)?;
        list = format!("{list} {}{condition}", if not { "Not " } else { "" });
        rest = after.trim_start();
    }
    (!list.is_empty()).then(|| (format!("({})", list.trim_start()), &rest[1..]))
}

/// The token of a lock, or an entity tag, and what stands behind it.
fn condition(text: &str) -> Option<(String, &str)> {
    if let Some(token) = text.strip_prefix('<') {
        let (token, rest) = token.split_once('>')?;
        return (is_word(token) && token.contains(':')).then(|| (format!("<{token}>"), rest));
    }
    let tag = text.strip_prefix('[')?;
    let weak = if tag.starts_with("W/") { "W/" } else { "" };
    let (word, rest) = tag[weak.len()..].strip_prefix('"')?.split_once('"')?;
    let rest = rest.strip_prefix(']')?;
    is_word(word).then(|| (format!("[{weak}\"{word}\"]"), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_conditions_are_read_as_the_standard_says() {
        fn check(field: &str, expect: Option<&str>) {
            assert_eq!(rewritten(field).as_deref(), expect, "{field}");
        }
        check("(<urn:uuid:1>)", Some("(<urn:uuid:1>)"));
        check(" ( <urn:uuid:1> [\"tag\"] )\t( not [W/\"a]b\"] )", Some("(<urn:uuid:1> [\"tag\"])(Not [W/\"a]b\"])"));
        check(
            "</dav/a%20b> (<u:1>)(Not<DAV:no-lock>)",
            Some("<http://localhost/dav/a%20b>(<u:1>)<http://localhost/dav/a%20b>(Not <DAV:no-lock>)"),
        );
        check(
            "<http://host/dav/a?b> (<u:1>) <http://host/c> ([\"\"])",
            Some("<http://localhost/dav/a>(<u:1>)<http://localhost/c>([\"\"])"),
        );
        for odd in [
            "", " ", "<", "(", "()", "(<", "(<a:b", "(<a:b>", "(<ab>)", "(<a: b>)", "([", "([\"", "([\"a", "([\"a\"",
            "([\"a\")", "([a])",
        ] {
            check(odd, None);
        }
        for odd in [
            "([\"a b\"])",
            "([W/\"])",
            "(Not)",
            "(Not Not <a:b>)",
            "</a>",
            "<a b> (<u:1>)",
            "a",
            "(a:b)",
            "(<a:b>) x",
            "(<\u{e4}:b>)",
        ] {
            check(odd, None);
        }
    }

    #[test]
    fn tags_that_are_none_match_nothing() {
        fn check(name: &'static str, values: &[&str], expect: &str) {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(name, HeaderValue::from_str(value).unwrap());
            }
            readable(&mut headers).unwrap();
            let found: Vec<_> = headers.get_all(name).iter().collect();
            assert_eq!(found, [expect], "{name}: {values:?}");
        }
        check("if-match", &["\"a\", \"b\""], "\"a\", \"b\"");
        check("if-match", &["\"a\"", "\"b\""], "\"a\", \"b\"");
        check("if-match", &["\"a\", *"], "*");
        check("if-match", &["W/\"a\""], "W/\"a\"");
        check("if-none-match", &["W/\"a\""], "\"a\"");
        for odd in ["\"", "W/\"", "", "a", "\"a", "\"\u{e4}\""] {
            check("if-match", &[odd], NONE);
            check("if-none-match", &[odd], NONE);
        }
        check("if-match", &["\"", "\"a\""], "\"a\"");
    }
}
