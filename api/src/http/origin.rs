//! Requests that another site's page makes a browser send.

use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::Response;
use url::{Origin, Url};

use crate::app::App;
use crate::error::ApiError;

/// Refuses what would change something, or opens a socket, and comes from a foreign page, or brings a cookie without
/// saying from where. Programs send neither `Origin` nor cookies.
pub(super) async fn check_origin(
    State(app): State<App>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let headers = request.headers();
    let is_socket = headers.contains_key(header::UPGRADE);
    if (!request.method().is_safe() || is_socket) && !is_allowed(headers, &app.origin()) {
        return Err(ApiError::OriginRefused);
    }
    Ok(next.run(request).await)
}

fn is_allowed(headers: &HeaderMap, own: &Origin) -> bool {
    match headers.get(header::ORIGIN) {
        Some(origin) => origin
            .to_str()
            .ok()
            .and_then(|text| Url::parse(text).ok())
            .is_some_and(|url| url.origin() == *own && own.is_tuple()),
        None => {
            let is_foreign = headers
                .get("sec-fetch-site")
                .is_some_and(|site| site != "same-origin" && site != "none");
            !is_foreign && !headers.contains_key(header::COOKIE)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(headers: &[(&str, &str)], expected: bool) {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let name: header::HeaderName = name.parse().unwrap();
            map.insert(name, value.parse().unwrap());
        }
        let own = Url::parse("http://127.0.0.1:8080/").unwrap().origin();
        assert_eq!(is_allowed(&map, &own), expected, "{headers:?}");
    }

    #[test]
    fn only_own_pages_and_programs_change_anything() {
        check(&[], true);
        check(&[("origin", "http://127.0.0.1:8080")], true);
        check(
            &[("origin", "http://127.0.0.1:8080"), ("cookie", "a=b")],
            true,
        );
        for foreign in [
            "http://127.0.0.1:8081",
            "https://127.0.0.1:8080",
            "http://localhost:8080",
            "http://127.0.0.1.example:8080",
            "null",
            "",
            "nonsense",
        ] {
            check(&[("origin", foreign)], false);
        }
        check(&[("cookie", "a=b")], false);
        check(&[("sec-fetch-site", "cross-site")], false);
        check(&[("sec-fetch-site", "same-site")], false);
        check(&[("sec-fetch-site", "same-origin")], true);
    }
}
