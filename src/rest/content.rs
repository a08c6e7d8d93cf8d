//! The content of a file as a reply: whole, in parts, or not at all; read in pieces that are checked before they leave.

use crate::error::{Error, Kind, Result};
use crate::name::BucketName;
use crate::node::{Node, Recorded, trouble};
use crate::rest::pieces::rest;
use crate::rest::ranges::{Wanted, wanted};
use crate::rest::warm::{self, Said};
use crate::rest::{blocking, wire};
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::Response;
use futures_util::stream::{self, StreamExt};
use std::sync::Arc;
use wizefs_fs::{BucketPath, Piece, Pieces, Verified};

/// A file that nobody may run as a page of this node: it may be anybody's.
const SANDBOX: &str = "sandbox; default-src 'none'";

/// The file at `path`, checked against the ledger, as far as the request wants it. With `check_first`, all of it is read and
/// compared before the reply begins.
///
/// # Errors
/// As [`Node::recorded`] and [`Node::open_recorded`].
pub(super) async fn reply(
    node: Arc<Node>,
    name: BucketName,
    path: BucketPath,
    headers: &HeaderMap,
    check_first: bool,
) -> Result<Response> {
    let asked_for = warm::Asked { bucket: name.clone(), path: path.clone() };
    let before = asked_for.before();
    let known = |said: &Arc<Said>| node.get_at_once(&name, &path, &said.recorded);
    let (opened, recorded) = match before.as_ref().and_then(known) {
        Some((recorded, content)) => (opened(headers, &recorded, content)?, recorded),
        None => {
            let fields = headers.clone();
            let open = move || {
                for last in [false, false, true] {
                    let recorded = node.recorded(&name, &path)?;
                    if asked(&fields, &recorded) == Wanted::Nothing {
                        return Ok((Opened::Nothing(StatusCode::NOT_MODIFIED), Arc::new(recorded)));
                    }
                    let (recorded, content) = node.open_recorded(&name, &path, recorded, check_first)?;
                    match opened(&fields, &recorded, content) {
                        // It may have been written since it was opened: then the ledger tells something else by now.
                        Err(error) if error.kind == Kind::Damaged && !last => {}
                        begun => return Ok((begun?, Arc::new(recorded))),
                    }
                }
                Err(Error::new(Kind::Busy, "it changes while it is read"))
            };
            blocking(open).await?
        }
    };
    let same = before.filter(|said| Arc::ptr_eq(&said.recorded, &recorded));
    let said = same.unwrap_or_else(|| Arc::new(Said { head: describe(&recorded), recorded: Arc::clone(&recorded) }));
    asked_for.served(Arc::clone(&said));
    let size = recorded.stored.size;
    let (status, sent) = match opened {
        Opened::Nothing(status) => (status, Sent::Nothing),
        Opened::Whole(begun) => (StatusCode::OK, Sent::Whole(begun.body())),
        Opened::Part(first, last, begun) => (StatusCode::PARTIAL_CONTENT, Sent::Part(first, last, begun.body())),
        Opened::Several(content, parts) => {
            (StatusCode::PARTIAL_CONTENT, several(content, parts, size, media(&recorded))?)
        }
    };
    Ok(assemble(&said.head, size, status, sent))
}

fn asked(headers: &HeaderMap, recorded: &Recorded) -> Wanted {
    wanted(headers, recorded.stored.size, &recorded.tag())
}

/// What is wanted of a content, begun.
fn opened(headers: &HeaderMap, recorded: &Recorded, content: Verified) -> Result<Opened> {
    Ok(match asked(headers, recorded) {
        Wanted::Nothing => Opened::Nothing(StatusCode::NOT_MODIFIED),
        Wanted::Other => return Err(Error::new(Kind::Precondition, "it is not the content that the request means")),
        Wanted::Outside => Opened::Nothing(StatusCode::RANGE_NOT_SATISFIABLE),
        Wanted::Whole => Opened::Whole(Begun::of(content.all())?),
        Wanted::Parts(parts) => match parts.as_slice() {
            [(first, last)] => Opened::Part(*first, *last, Begun::of(content.pieces(*first, *last))?),
            _ => Opened::Several(content, parts),
        },
    })
}

/// What was found of a file, as far as it is wanted.
enum Opened {
    Nothing(StatusCode),
    Whole(Begun),
    Part(u64, u64, Begun),
    Several(Verified, Vec<(u64, u64)>),
}

/// Content of which the first piece is read and checked before the reply begins: damage there is still a failure. Damage
/// further on breaks the connection, and wrong bytes never leave.
struct Begun {
    first: Option<Piece>,
    rest: Option<Pieces>,
}

impl Begun {
    fn of(mut pieces: Pieces) -> Result<Begun> {
        let first = pieces.next_piece().map_err(trouble::fs)?;
        Ok(Begun { first, rest: (!pieces.is_at_end()).then_some(pieces) })
    }

    fn body(self) -> Body {
        let first = self.first.map(Bytes::from_owner).unwrap_or_default();
        match self.rest {
            None => Body::from(first),
            Some(pieces) => Body::from_stream(stream::iter([Ok(first)]).chain(rest(pieces))),
        }
    }
}

/// What a reply carries.
enum Sent {
    Nothing,
    Whole(Body),
    Part(u64, u64, Body),
    /// With what stands between the parts, and the length of it all.
    Several(String, u64, Body),
}

fn assemble(described: &HeaderMap, size: u64, status: StatusCode, sent: Sent) -> Response {
    let (length, range, body) = match sent {
        Sent::Nothing if status == StatusCode::RANGE_NOT_SATISFIABLE => {
            (Some(0), Some(format!("bytes */{size}")), Body::empty())
        }
        Sent::Nothing => (None, None, Body::empty()),
        Sent::Whole(body) => (Some(size), None, body),
        Sent::Part(first, last, body) => (Some(last - first + 1), Some(format!("bytes {first}-{last}/{size}")), body),
        Sent::Several(boundary, length, body) => {
            let mut reply = with_head(described, status, body);
            let several = format!("multipart/byteranges; boundary={boundary}");
            set(reply.headers_mut(), header::CONTENT_TYPE, &several);
            set(reply.headers_mut(), header::CONTENT_LENGTH, &length.to_string());
            return reply;
        }
    };
    let mut reply = with_head(described, status, body);
    let head = reply.headers_mut();
    if let Some(length) = length {
        set(head, header::CONTENT_LENGTH, &length.to_string());
    }
    if let Some(range) = range {
        set(head, header::CONTENT_RANGE, &range);
    }
    reply
}

fn with_head(described: &HeaderMap, status: StatusCode, body: Body) -> Response {
    let mut reply = Response::new(body);
    *reply.status_mut() = status;
    reply.headers_mut().clone_from(described);
    reply
}

/// What the head says of a file. `wizefs-stored` is the JSON of [`crate::rest::wire::Stored`].
fn describe(recorded: &Recorded) -> HeaderMap {
    let (stored, mut fields) = (&recorded.stored, HeaderMap::new());
    let head = &mut fields;
    set(head, header::CONTENT_TYPE, &media(recorded));
    set(head, header::CONTENT_DISPOSITION, &disposition(stored.path.text()));
    set(head, header::ETAG, &recorded.tag());
    set(head, header::ACCEPT_RANGES, "bytes");
    set(head, header::CACHE_CONTROL, "no-cache");
    set(head, header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    set(head, header::CONTENT_SECURITY_POLICY, SANDBOX);
    let block = stored.block.map_or_else(|| "pending".to_owned(), |block| format!("block={block}"));
    set(head, HeaderName::from_static("wizefs-verified"), &block);
    // Non-ASCII text is carried as UTF-8 bytes; control characters are escaped by JSON.
    let described = serde_json::to_string(stored).unwrap_or_default();
    set(head, HeaderName::from_static("wizefs-stored"), &described);
    set(head, HeaderName::from_static("wizefs-mode"), &recorded.mode.to_string());
    fields
}

fn set(head: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_bytes(value.as_bytes()) {
        head.insert(name, value);
    }
}

/// The media type by the name.
fn media(recorded: &Recorded) -> String {
    let guess = mime_guess::from_path(recorded.stored.path.text()).first_or_octet_stream();
    match guess.type_().as_str() {
        "text" => format!("{guess}; charset=utf-8"),
        _ => guess.to_string(),
    }
}

/// What a browser saves the file as: never a path, never a second field, whatever the name holds (RFC 6266, RFC 8187).
fn disposition(path: &str) -> String {
    let name = path.rsplit('/').next().unwrap_or_default();
    let plain: String =
        name.chars().map(|c| if c.is_ascii_graphic() && !"\"\\%/".contains(c) || c == ' ' { c } else { '_' }).collect();
    let mut text = format!("attachment; filename=\"{plain}\"");
    if plain != name {
        text = format!("{text}; filename*=UTF-8''{}", crate::client::segment(name.as_bytes()));
    }
    text
}

/// Several parts in one body, each with a head of its own. What stands between them is drawn by lot each time, so that no
/// content holds it.
fn several(content: Verified, parts: Vec<(u64, u64)>, size: u64, media: String) -> Result<Sent> {
    let mut random = [0; 16];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())
        .map_err(|e| Error::io(Kind::Internal, "cannot draw a boundary", &e.into()))?;
    let boundary = wire::hex(&random);
    let start = format!("\r\n--{boundary}\r\nContent-Type: {media}\r\nContent-Range: bytes ");
    let head = move |(first, last): (u64, u64)| format!("{start}{first}-{last}/{size}\r\n\r\n");
    let tail = format!("\r\n--{boundary}--\r\n");
    let bytes = parts.iter().map(|part| head(*part).len() as u64 + part.1 - part.0 + 1).sum::<u64>();
    let length = bytes + tail.len() as u64;
    let parts = stream::iter(parts).flat_map(move |part| {
        let head = stream::iter([Ok(Bytes::from(head(part)))]);
        head.chain(rest(content.pieces(part.0, part.1)))
    });
    Ok(Sent::Several(boundary, length, Body::from_stream(parts.chain(stream::iter([Ok(Bytes::from(tail))])))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_write_its_own_header() {
        fn check(path: &str, expect: &str) {
            assert_eq!(disposition(path), format!("attachment; {expect}"), "{path:?}");
        }
        check("a/b.txt", r#"filename="b.txt""#);
        check("a b", r#"filename="a b""#);
        check("x\"; y=\"z", r#"filename="x_; y=_z"; filename*=UTF-8''x%22%3B%20y%3D%22z"#);
        check("a\r\nSet-Cookie: b", r#"filename="a__Set-Cookie: b"; filename*=UTF-8''a%0D%0ASet-Cookie%3A%20b"#);
        check("ä.txt", r#"filename="_.txt"; filename*=UTF-8''%C3%A4.txt"#);
        check("a\\..\\b", r#"filename="a_.._b"; filename*=UTF-8''a%5C..%5Cb"#);
    }
}
