//! A web page may send requests to 127.0.0.1, also under a name that its own DNS made point there. Such requests are told
//! by `Host`, `Origin` and `Sec-Fetch-Site`, which a page cannot forge; curl and programs send none or ours.

use crate::error::{Error, Kind};
use axum::extract::Request;
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

/// Refuse what a foreign web page caused.
pub(super) async fn check(request: Request, next: Next) -> Response {
    match foreign(request.headers()) {
        None => next.run(request).await,
        Some(why) => Error::new(Kind::Unauthorised, why).into_response(),
    }
}

/// Why the request is not ours, if it is not.
fn foreign(headers: &HeaderMap) -> Option<String> {
    let text = |name: &str| headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    let host = text(header::HOST.as_str()).unwrap_or_default();
    if !is_loopback_name(host_name(&host)) {
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

fn host_name(host: &str) -> &str {
    match host.rfind(':') {
        Some(colon) if !host.ends_with(']') => &host[..colon],
        _ => host,
    }
}

fn is_loopback_name(name: &str) -> bool {
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost") || bare.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_requests_pass() {
        fn check(fields: &[(&'static str, &'static str)], passes: bool) {
            let headers =
                fields.iter().map(|(name, value)| ((*name).parse().unwrap(), value.parse().unwrap())).collect();
            assert_eq!(foreign(&headers).is_none(), passes, "{fields:?}");
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
    }
}
