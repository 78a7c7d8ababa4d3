//! Where a request comes from.

use std::net::{IpAddr, SocketAddr};

use axum::extract::{ConnectInfo, FromRequestParts};
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
        let forwarded = parts
            .headers
            .get_all("x-forwarded-for")
            .iter()
            .next_back()
            .filter(|_| app.is_behind_proxy)
            .and_then(|value| value.to_str().ok())
            // The last entry of the last header is the one that our own proxy wrote; those before it are the caller's claims.
            .and_then(|value| value.rsplit(',').next()?.trim().parse().ok());
        Ok(Self {
            address: forwarded.unwrap_or(peer),
        })
    }
}
