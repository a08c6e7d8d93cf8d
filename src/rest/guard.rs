//! Who may ask over TCP.
//!
//! A web page may send requests to 127.0.0.1, also under a name that its own DNS made point there. Such requests are told
//! by `Host`, `Origin` and `Sec-Fetch-Site`, which a page cannot forge; curl and programs send none or ours. Where a token is
//! asked for, it must come as well, as `Authorization: Bearer TOKEN` or as the password of `Basic`.

use crate::error::{Error, Kind};
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// What is asked of clients on TCP.
#[derive(Debug, Default)]
pub struct Guard {
    /// The hash of the token: comparing hashes takes the same time whatever is compared, and gives nothing away.
    token: Option<blake3::Hash>,
    names: Vec<String>,
    /// Listens where others reach it, so that any address may be its own.
    reachable: bool,
}

impl Guard {
    /// Ask for this token, if there is one, and go by these names besides localhost; `reachable` when it is not for this
    /// machine alone.
    pub fn new(token: Option<&str>, names: Vec<String>, reachable: bool) -> Guard {
        Guard { token: token.map(|token| blake3::hash(token.as_bytes())), names, reachable }
    }

    /// Whether a request with this head knows the token.
    pub fn knows_token(&self, headers: &HeaderMap) -> bool {
        let Some(token) = self.token else { return true };
        let field = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let (scheme, given) = field.split_once(' ').unwrap_or_default();
        let given = match scheme.to_ascii_lowercase().as_str() {
            "bearer" => given.trim().as_bytes().to_vec(),
            "basic" => {
                let pair = STANDARD.decode(given.trim()).unwrap_or_default();
                let colon = pair.iter().position(|byte| *byte == b':').unwrap_or(pair.len());
                pair.get(colon + 1..).unwrap_or_default().to_vec()
            }
            _ => return false,
        };
        blake3::hash(&given) == token
    }
}

impl Guard {
    /// What is answered to those who may not ask.
    pub(super) fn refusal(&self, request: &Request) -> Option<Response> {
        if let Some(why) = self.foreign(request.headers()) {
            return Some(Error::new(Kind::Unauthorised, why).into_response());
        }
        let open = matches!(request.uri().path(), "/healthz" | "/readyz");
        if open || self.knows_token(request.headers()) {
            return None;
        }
        let error =
            Error::new(Kind::Unauthorised, "this node asks for its token").hint("send Authorization: Bearer TOKEN");
        let mut reply = super::failure(&error, StatusCode::UNAUTHORIZED);
        let ways = HeaderValue::from_static("Bearer, Basic realm=\"wizefs\"");
        reply.headers_mut().insert(header::WWW_AUTHENTICATE, ways);
        Some(reply)
    }

    /// Why the request is not ours, if it is not.
    pub(crate) fn foreign(&self, headers: &HeaderMap) -> Option<String> {
        let text = |name: &str| headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        let host = text(header::HOST.as_str()).unwrap_or_default();
        if headers.get_all(header::HOST).iter().count() > 1 || !self.is_ours(host_name(&host)) {
            return Some(format!("{host:?} is not a name of this node"));
        }
        if let Some(origin) = text(header::ORIGIN.as_str()) {
            let same = origin.split_once("://").is_some_and(|(_, rest)| rest.eq_ignore_ascii_case(&host));
            if !same {
                return Some(format!("requests from {origin} are refused"));
            }
        }
        match text("sec-fetch-site").as_deref() {
            None | Some("same-origin" | "none") => None,
            Some(site) => Some(format!("{site} requests are refused")),
        }
    }

    /// A name made by somebody's DNS is never an address.
    fn is_ours(&self, name: &str) -> bool {
        let bare = name.trim_start_matches('[').trim_end_matches(']');
        let named = |known: &str| name.eq_ignore_ascii_case(known);
        let address = bare.parse::<std::net::IpAddr>();
        named("localhost")
            || self.names.iter().any(|known| named(known))
            || address.is_ok_and(|ip| self.reachable || ip.to_canonical().is_loopback())
    }
}

fn host_name(host: &str) -> &str {
    match host.rfind(':') {
        Some(colon) if !host.ends_with(']') => &host[..colon],
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_requests_pass() {
        fn check(fields: &[(&'static str, &'static str)], passes: bool) {
            let headers =
                fields.iter().map(|(name, value)| ((*name).parse().unwrap(), value.parse().unwrap())).collect();
            assert_eq!(Guard::default().foreign(&headers).is_none(), passes, "{fields:?}");
        }
        check(&[("host", "127.0.0.1:13000")], true);
        check(&[("host", "localhost:13001")], true);
        check(&[("host", "localhost")], true);
        check(&[("host", "[::1]:13000")], true);
        check(&[("host", "[::1]")], true);
        check(&[], false);
        check(&[("host", "evil.example:13000")], false);
        check(&[("host", "127.0.0.1.evil.example")], false);
        check(&[("host", "localhost:1"), ("origin", "http://localhost:1")], true);
        check(&[("host", "localhost:1"), ("origin", "http://localhost:2")], false);
        check(&[("host", "localhost:1"), ("origin", "https://evil.example")], false);
        check(&[("host", "localhost:1"), ("origin", "null")], false);
        check(&[("host", "localhost:1"), ("sec-fetch-site", "cross-site")], false);
        check(&[("host", "localhost:1"), ("sec-fetch-site", "same-site")], false);
        check(&[("host", "localhost:1"), ("sec-fetch-site", "none")], true);
        check(&[("host", "localhost"), ("host", "evil.example")], false);
        check(&[("host", "192.168.1.1:13000")], false);
    }

    #[test]
    fn a_node_for_others_goes_by_its_names_and_addresses() {
        let guard = Guard::new(None, vec!["node.example".to_owned()], true);
        for (host, passes) in [
            ("node.example:1", true),
            ("NODE.example", true),
            ("192.168.1.1", true),
            ("[fe80::1]:7", true),
            ("evil.example", false),
        ] {
            let headers = [(header::HOST, host.parse().unwrap())].into_iter().collect();
            assert_eq!(guard.foreign(&headers).is_none(), passes, "{host}");
        }
    }

    #[test]
    fn only_the_token_itself_is_known() {
        let guard = Guard::new(Some("correct horse"), Vec::new(), false);
        let basic = |pair: &str| format!("Basic {}", STANDARD.encode(pair));
        let fields = [
            ("Bearer correct horse".to_owned(), true),
            ("bearer  correct horse ".to_owned(), true),
            (basic("anybody:correct horse"), true),
            (basic(":correct horse"), true),
            ("Bearer correct hors".to_owned(), false),
            ("Bearer correct horse2".to_owned(), false),
            ("Bearer".to_owned(), false),
            (basic("correct horse"), false),
            ("Basic !".to_owned(), false),
            ("correct horse".to_owned(), false),
            ("Digest correct horse".to_owned(), false),
        ];
        for (field, known) in fields {
            let headers = [(header::AUTHORIZATION, field.parse().unwrap())].into_iter().collect();
            assert_eq!(guard.knows_token(&headers), known, "{field}");
        }
        assert!(!guard.knows_token(&HeaderMap::new()));
        assert!(Guard::default().knows_token(&HeaderMap::new()));
    }
}
