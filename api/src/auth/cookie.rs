//! The refresh token of a browser: a cookie that no script reads and no other site sends.

use axum::http::{HeaderMap, HeaderValue, header};
use url::Url;

const NAME: &str = "flowai_refresh";
const PATH: &str = "/v1/auth";

/// The refresh token of the request's cookies.
pub(super) fn read(headers: &HeaderMap) -> Option<String> {
    headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .find_map(|pair| {
            let (name, value) = pair.trim().split_once('=')?;
            (name == NAME).then(|| value.to_owned())
        })
}

/// A `Set-Cookie` with the token, or without one to remove it. `Secure` is left out on plain http, where the public URL
/// is a loopback one.
pub(super) fn write(token: Option<&str>, max_age_s: i64, public_url: &Url) -> Option<HeaderValue> {
    let secure = if public_url.scheme() == "https" {
        "; Secure"
    } else {
        ""
    };
    let (value, max_age_s) = match token {
        Some(token) => (token, max_age_s),
        None => ("", 0),
    };
    let cookie = format!(
        "{NAME}={value}; Path={PATH}; Max-Age={max_age_s}; HttpOnly; SameSite=Strict{secure}"
    );
    let mut header = HeaderValue::from_str(&cookie).ok()?;
    header.set_sensitive(true);
    Some(header)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_written_cookie_is_read_back() {
        let url = Url::parse("https://farm.example").unwrap();
        let written = write(Some("secret"), 60, &url).unwrap();
        let text = written.to_str().unwrap();
        for part in ["HttpOnly", "SameSite=Strict", "Secure", "Path=/v1/auth"] {
            assert!(text.contains(part), "{text}");
        }
        let mut headers = HeaderMap::new();
        let pair = text.split(';').next().unwrap();
        let sent = format!("theme=dark; {pair}; flowai_refresh_not=x");
        headers.insert(header::COOKIE, HeaderValue::from_str(&sent).unwrap());
        assert_eq!(read(&headers).as_deref(), Some("secret"));
    }
}
