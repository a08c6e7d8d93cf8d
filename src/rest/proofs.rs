//! Routes for proofs, and the log as C2SP `tlog-tiles`: `/log/checkpoint`, `/log/tile/L/N[.p/W]`, `/log/tile/entries/N`.

use crate::error::{Error, Kind, Result};
use crate::name::bucket_path;
use crate::node::{Node, trouble};
use crate::rest::body::{Asked, Sent};
use crate::rest::described::{Routes, about};
use crate::rest::{answer, blocking, bucket_at, rest_of, segment, wire};
use axum::extract::{Path, State};
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use std::sync::Arc;
use utoipa::IntoParams;
use wizefs_ledger::{Bundle, Checkpoint};

/// Hashes in a full tile.
const FULL: usize = 256;
/// What tiles and slices are.
const BYTES: &str = "application/octet-stream";

pub(super) fn routes() -> Routes {
    Routes::new()
        .get(
            "/v1/buckets/{bucket}/proof/{*path}",
            prove,
            about("A C2SP tlog-proof of what is there").query::<ProofQuery>().reply::<wire::Proof>(),
        )
        .get(
            "/v1/buckets/{bucket}/slice/{*path}",
            slice,
            about("A bao slice of some bytes").query::<Range>().media(BYTES),
        )
        .get(
            "/v1/log/since/{size}",
            since,
            about("That the log of this size is the beginning of today's").reply::<wire::Consistency>(),
        )
        .post(
            "/v1/log/witnessed",
            witnessed,
            about("Remember that somebody took this checkpoint away").text().reply::<wire::Witnessed>(),
        )
        .get("/log/checkpoint", checkpoint, about("The signed head of the log").media("text/plain"))
        .get("/log/tile/{level}/{*number}", tile, about("Hashes of the log, or its entries").media(BYTES))
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default)]
struct ProofQuery {
    /// Prove, too, that it is the current one.
    state: bool,
}

async fn prove(State(node): State<Arc<Node>>, uri: Uri, Asked(query): Asked<ProofQuery>) -> Response {
    let target = bucket_at(&uri, 2).and_then(|name| Ok((name, bucket_path(&rest_of(&uri, 4))?)));
    match target {
        Ok((name, path)) => answer(move || node.prove(&name, &path, query.state)).await,
        Err(error) => error.into_response(),
    }
}

#[derive(Debug, Deserialize, IntoParams)]
struct Range {
    /// The first byte.
    first: u64,
    /// The last byte.
    last: u64,
}

async fn slice(State(node): State<Arc<Node>>, uri: Uri, Asked(range): Asked<Range>) -> Response {
    let made = match bucket_at(&uri, 2).and_then(|name| Ok((name, bucket_path(&rest_of(&uri, 4))?))) {
        Ok((name, path)) => blocking(move || node.slice(&name, &path, range.first, range.last)).await,
        Err(error) => Err(error),
    };
    match made {
        Ok(bytes) => ([(header::CONTENT_TYPE, "application/octet-stream")], bytes).into_response(),
        Err(error) => error.into_response(),
    }
}

async fn since(State(node): State<Arc<Node>>, uri: Uri) -> Response {
    let size = String::from_utf8_lossy(&segment(&uri, 3)).parse();
    answer(move || node.prove_since(size.map_err(|_| Error::new(Kind::Usage, "the size of a log is a number"))?)).await
}

async fn witnessed(State(node): State<Arc<Node>>, sent: Sent) -> Response {
    answer(move || {
        let note = sent.bytes()?;
        let stated = Checkpoint::unchecked(&String::from_utf8_lossy(&note));
        let stated = stated.map_err(|e| Error::new(Kind::Usage, e.to_string()))?;
        node.witnessed(stated.size, &stated.root)?;
        Ok(wire::Witnessed { v: wire::V, size: stated.size })
    })
    .await
}

async fn checkpoint(State(node): State<Arc<Node>>) -> Response {
    let head = [(header::CONTENT_TYPE, "text/plain; charset=utf-8"), (header::CACHE_CONTROL, "no-cache")];
    (head, node.ledger().checkpoint()).into_response()
}

async fn tile(State(node): State<Arc<Node>>, Path((level, number)): Path<(String, String)>) -> Response {
    let Some((number, width)) = place(&number) else { return StatusCode::NOT_FOUND.into_response() };
    let found = blocking(move || hashes_or_entries(&node, &level, number, width)).await;
    let head = [
        (header::CONTENT_TYPE, "application/octet-stream"),
        (header::CACHE_CONTROL, "public, max-age=31536000, immutable"),
    ];
    match found {
        Ok(Some(Tile::Bytes(bytes))) => (head, bytes).into_response(),
        Ok(Some(Tile::Erased(index))) => (StatusCode::GONE, format!("entry {index} is erased\n")).into_response(),
        Ok(None) => (StatusCode::NOT_FOUND, "the log has no such tile\n").into_response(),
        Err(error) => error.into_response(),
    }
}

/// What stands at a tile's address.
enum Tile {
    Bytes(Vec<u8>),
    Erased(u64),
}

fn hashes_or_entries(node: &Node, level: &str, number: u64, width: usize) -> Result<Option<Tile>> {
    if level == "entries" {
        return Ok(match node.ledger().bundle(number, width).map_err(trouble::ledger)? {
            Bundle::Absent => None,
            Bundle::Erased { index } => Some(Tile::Erased(index)),
            Bundle::Entries(bytes) => Some(Tile::Bytes(bytes)),
        });
    }
    let Some(level) = plain(level).filter(|level| *level < 64) else { return Ok(None) };
    Ok(node.ledger().tile(level as u8, number, width).map_err(trouble::ledger)?.map(Tile::Bytes))
}

/// A decimal number without needless zeros.
fn plain(text: &str) -> Option<u64> {
    let digits =
        !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    digits.then(|| text.parse().ok()).flatten()
}

/// The number and width in `x001/x234/067[.p/W]`.
fn place(text: &str) -> Option<(u64, usize)> {
    let (number, width) = match text.split_once(".p/") {
        Some((number, width)) => (number, plain(width).filter(|width| (1..FULL as u64).contains(width))? as usize),
        None => (text, FULL),
    };
    let parts: Vec<&str> = number.split('/').collect();
    let (last, first) = parts.split_last()?;
    let mut value = 0u64;
    for (at, part) in first.iter().map(|part| part.strip_prefix('x')).chain([Some(*last)]).enumerate() {
        let part = part.filter(|part| part.len() == 3 && part.bytes().all(|b| b.is_ascii_digit()))?;
        // One address for one tile: no leading group of zeros.
        if at == 0 && !first.is_empty() && part == "000" {
            return None;
        }
        value = value.checked_mul(1000)?.checked_add(part.parse().ok()?)?;
    }
    Some((value, width))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tile_addresses_have_one_form() {
        fn check(text: &str, expect: Option<(u64, usize)>) {
            assert_eq!(place(text), expect, "{text}");
        }
        check("000", Some((0, 256)));
        check("x001/x234/067", Some((1_234_067, 256)));
        check("x001/234.p/17", Some((1_234, 17)));
        check("000.p/255", Some((0, 255)));
        for bad in ["", "0", "0000", "x001", "001/234", "x000/001", "000.p/0", "000.p/256", "000.p/01", "000.p/", "+01"]
        {
            check(bad, None);
        }
        check("x999/x999/x999/x999/x999/x999/x999/999", None);
    }

    #[test]
    fn any_address_of_a_tile_is_read_or_refused() {
        let pieces = [
            "x",
            "/",
            ".p/",
            "0",
            "000",
            "001",
            "999",
            "256",
            "18446744073709551616",
            "-",
            "+1",
            "%",
            "\u{e9}",
            "p",
            ".",
        ];
        for mut random in crate::slice::fuzzed::cases(20_000) {
            let count = random.below(9);
            let text: String = (0..count).map(|_| pieces[random.below(pieces.len())]).collect();
            if let Some((number, width)) = place(&text) {
                // One address for one tile.
                let mut groups = format!("{:03}", number % 1000);
                let mut rest = number / 1000;
                while rest > 0 {
                    groups = format!("x{:03}/{groups}", rest % 1000);
                    rest /= 1000;
                }
                let partial = if width == FULL { String::new() } else { format!(".p/{width}") };
                assert_eq!(format!("{groups}{partial}"), text);
            }
        }
    }
}
