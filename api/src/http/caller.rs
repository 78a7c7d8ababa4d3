//! Where a request comes from.

use std::net::{IpAddr, SocketAddr};

use axum::extract::{ConnectInfo, FromRequestParts};
use axum::http::HeaderMap;
use axum::http::request::Parts;

use crate::app::App;
use crate::error::ApiError;

/// The address that a stranger's requests are counted by.
#[derive(Debug, Clone, Copy)]
pub struct Caller {
    pub address: IpAddr,
}

impl FromRequestParts<App> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, ApiError> {
        let peer = parts.extensions.get::<ConnectInfo<SocketAddr>>();
        let peer = peer.ok_or(ApiError::Internal)?.0.ip();
        let forwarded = app.is_behind_proxy.then(|| forwarded(&parts.headers));
        Ok(Self {
            address: forwarded.flatten().unwrap_or(peer),
        })
    }
}

/// The last entry of the last header is the one that our own proxy wrote; those before it are the caller's claims.
fn forwarded(headers: &HeaderMap) -> Option<IpAddr> {
    let last = headers.get_all("x-forwarded-for").iter().next_back()?;
    let entry = last.to_str().ok()?.rsplit(',').next()?;
    entry.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn only_what_the_proxy_wrote_last_names_the_caller() {
        for (values, expected) in [
            (&[][..], None),
            (&["192.0.2.1"][..], Some("192.0.2.1")),
            (&["10.0.0.1, 192.0.2.1"], Some("192.0.2.1")),
            (&["10.0.0.1", "10.0.0.2, 2001:db8::1"], Some("2001:db8::1")),
            // Not the claims instead.
            (&["10.0.0.1", "unknown"], None),
            (&["10.0.0.1, "], None),
        ] {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append("x-forwarded-for", HeaderValue::from_static(value));
            }
            let expected = expected.map(|address| address.parse().unwrap());
            assert_eq!(forwarded(&headers), expected, "{values:?}");
        }
    }
}
