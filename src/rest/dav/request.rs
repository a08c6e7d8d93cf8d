//! What a request of a WebDAV client asks for, looked at before the crate dav-server makes something of it.

use super::{PREFIX, Place, is_dav};
use crate::client::segments;
use crate::error::{Error, Kind, Result};
use crate::name::{BucketName, bucket_path};
use crate::node::Node;
use crate::rest::body::Sent;
use crate::rest::rest_of;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, Method, Uri, header};
use futures_util::StreamExt;
use std::io;
use wizefs_fs::BucketPath;

/// What the crate's calls do not tell of the request they are made for.
#[derive(Debug, Clone)]
pub(super) enum Purpose {
    /// PROPFIND: entity tags are properties, and come in quotes.
    Properties,
    /// LOCK: where nothing is, an empty file is made.
    Lock,
    /// COPY or MOVE of a file to this place: a file there is replaced in one step, or kept.
    Replace(BucketName, BucketPath),
    /// Everything else.
    Other,
}

impl Purpose {
    pub(super) fn of(method: &Method) -> Purpose {
        match method.as_str() {
            "PROPFIND" => Purpose::Properties,
            "LOCK" => Purpose::Lock,
            _ => Purpose::Other,
        }
    }
}

/// Where it leads, as a path in the folder of all buckets: decoded once, and checked as every path is.
pub(super) fn place(uri: &Uri) -> Result<BucketPath> {
    bucket_path(&rest_of(uri, 1))
}

/// Whether it names the folder of buckets, or a bucket: nothing in one.
pub(super) fn is_top(place: &BucketPath) -> bool {
    place.components().count() < 2
}

/// A COPY or MOVE.
#[derive(Debug)]
pub(super) struct Transfer {
    from: (BucketName, BucketPath),
    to: (BucketName, BucketPath),
    target: BucketPath,
    is_copy: bool,
}

impl Transfer {
    /// Of the file or folder at `source`. The request goes on with the destination that was checked, so that the crate cannot
    /// read another one out of it.
    ///
    /// # Errors
    /// [`Kind::Usage`], [`Kind::BadPath`], [`Kind::BucketName`]; [`Kind::Unauthorised`] for a destination that is in no
    /// bucket, or in the source, or around it.
    pub(super) fn of(request: &mut Request, source: &BucketPath) -> Result<Transfer> {
        let target = destination(request.headers())?;
        if is_within(source, &target) || is_within(&target, source) {
            let text = format!("{source} and {target} are the same, or one is in the other");
            return Err(Error::new(Kind::Unauthorised, text));
        }
        let checked = HeaderValue::from_str(&format!("{PREFIX}/{}", segments(target.as_bytes())));
        let checked = checked.map_err(|e| Error::new(Kind::Internal, format!("a path in a header: {e}")))?;
        request.headers_mut().insert("destination", checked);
        let (from, to) = (Place::of(source.as_bytes())?.inside()?, Place::of(target.as_bytes())?.inside()?);
        Ok(Transfer { from, to, target, is_copy: request.method().as_str() == "COPY" })
    }

    /// Where it goes, in the folder of all buckets.
    pub(super) fn target(&self) -> BucketPath {
        self.target.clone()
    }

    /// Whether it is a MOVE to another bucket, which is another file system.
    pub(super) fn leaves_its_bucket(&self) -> bool {
        !self.is_copy && self.from.0 != self.to.0
    }

    /// What the crate deletes at the destination before it begins may be all that is left when it fails. A file is therefore
    /// not deleted but replaced; and where a folder has to go, the file that comes instead is known to be whole. What else is
    /// wrong with source or destination is left for the crate to tell.
    ///
    /// # Errors
    /// [`Kind::NotAFile`] for a destination that WebDAV has no word for; [`Kind::Damaged`].
    pub(super) fn purpose(self, node: &Node) -> Result<Purpose> {
        let kind = |(name, path): &(BucketName, BucketPath)| node.entry_at(name, path).map(|entry| entry.kind);
        let (source, target) = (kind(&self.from), kind(&self.to));
        match (source.as_deref(), target.as_deref()) {
            (_, Ok(kind)) if !matches!(kind, "file" | "directory") => {
                let text = format!("{}/{} is neither a file nor a folder", self.to.0, self.to.1);
                return Err(Error::new(Kind::NotAFile, text));
            }
            (Ok("file"), Ok("directory")) if self.is_copy => drop(node.get(&self.from.0, &self.from.1)?),
            (Ok("file"), _) => {}
            _ => return Ok(Purpose::Other),
        }
        Ok(Purpose::Replace(self.to.0, self.to.1))
    }
}

/// Where a COPY or MOVE goes: something in a bucket.
fn destination(headers: &HeaderMap) -> Result<BucketPath> {
    let uri = headers.get("destination").and_then(|value| value.to_str().ok()?.parse::<Uri>().ok());
    let uri = uri.ok_or_else(|| Error::new(Kind::Usage, "the field Destination holds no address"))?;
    let place = if is_dav(uri.path()) { place(&uri)? } else { BucketPath::ROOT };
    if is_top(&place) {
        return Err(Error::new(Kind::Unauthorised, format!("{} is no place in a bucket", uri.path())));
    }
    Ok(place)
}

/// Whether `path` is `around`, or something in it.
fn is_within(path: &BucketPath, around: &BucketPath) -> bool {
    let rest = path.as_bytes().strip_prefix(around.as_bytes());
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
}

/// So many elements may be begun and ended in the XML of a request. The crate takes those that are in one another apart by
/// recursion: some thousands of them would take all of the stack, and the process with it.
const MOST_MARKS: usize = 512;

/// The same request, whose XML is no danger to the crate.
///
/// # Errors
/// [`Kind::Usage`]; as [`Sent::bytes`].
pub(super) async fn harmless(request: Request) -> Result<Request> {
    let (head, body) = request.into_parts();
    let bytes = Sent::of(Request::new(body)).await.bytes()?;
    if !is_harmless(&bytes) {
        let text = format!("the XML of the request has a document type, or more than {MOST_MARKS} marks");
        return Err(Error::new(Kind::Usage, text).without_hint());
    }
    Ok(Request::from_parts(head, Body::from(bytes)))
}

/// Counted is what begins like a mark, whatever it is. A document type could make many of few: an entity may hold elements.
fn is_harmless(xml: &[u8]) -> bool {
    const DOCTYPE: &[u8] = b"<!doctype";
    // Characters may have two bytes.
    let text: Vec<u8> = xml.iter().copied().filter(|byte| *byte != 0).collect();
    let marks = text.iter().filter(|byte| **byte == b'<').count();
    marks <= MOST_MARKS && !text.windows(DOCTYPE.len()).any(|part| part.eq_ignore_ascii_case(DOCTYPE))
}

/// A body whose length stands in another field than Content-Length, as that of the macOS Finder does, fails when it has
/// another one: what fails is not stored.
pub(super) fn measured(request: Request) -> Request {
    let headers = request.headers();
    let told = headers.get("x-expected-entity-length").and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    match told {
        Some(length) if !headers.contains_key(header::CONTENT_LENGTH) => request.map(|body| exactly(body, length)),
        _ => request,
    }
}

fn exactly(body: Body, length: u64) -> Body {
    let pieces = body.into_data_stream();
    Body::from_stream(futures_util::stream::unfold(Some((pieces, length)), |state| async {
        let (mut pieces, missing) = state?;
        let wrong = || Some((Err(io::Error::other("the body has another length than was said")), None));
        match pieces.next().await {
            Some(Ok(piece)) => match missing.checked_sub(piece.len() as u64) {
                Some(missing) => Some((Ok(piece), Some((pieces, missing)))),
                None => wrong(),
            },
            Some(Err(e)) => Some((Err(io::Error::other(e)), None)),
            None if missing > 0 => wrong(),
            None => None,
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn xml_that_would_take_the_stack_is_known() {
        fn check(xml: &str, expect: bool) {
            assert_eq!(is_harmless(xml.as_bytes()), expect, "{}", &xml[..xml.len().min(80)]);
            let wide: Vec<u8> = xml.encode_utf16().flat_map(u16::to_le_bytes).collect();
            assert_eq!(is_harmless(&wide), expect, "in two bytes: {}", &xml[..xml.len().min(80)]);
        }
        check("", true);
        check(
            "<?xml version=\"1.0\"?><propfind xmlns=\"DAV:\"><prop><getetag/><resourcetype/></prop></propfind>",
            true,
        );
        check(&"<a>".repeat(MOST_MARKS), true);
        check(&"<a>".repeat(MOST_MARKS + 1), false);
        // In two bytes the second one of this name looks like the end of an element.
        check(&"<\u{12f}>".repeat(MOST_MARKS + 1), false);
        check("<!DOCTYPE a [<!ENTITY b \"<c><c><c>\">]><a>&b;&b;&b;</a>", false);
    }
}
