//! The farm's own certificates: one CA, one identity for each machine.
//!
//! An identity is a folder (`ca.pem`, `cert.pem`, `key.pem`, `cookie`) that is copied to its machine. What a peer is
//! allowed to be stands in its certificate's names: `<id>.<role>.flowai.internal`. Coordinators also carry
//! `coordinator.flowai.internal`, the name that is dialled, and theirs are the only certificates that may serve, so a
//! node can never pose as one.

mod ca;
mod cookie;
mod files;
mod identity;
mod request;
#[cfg(test)]
mod tests;

use std::io;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use rustls::pki_types::CertificateDer;

pub use self::ca::{Ca, Signed};
pub use self::identity::Identity;
pub use self::request::{SigningRequest, requested_key_sha256};
use super::peer::PeerId;

/// The name under which every coordinator is dialled.
pub const COORDINATOR_NAME: &str = "coordinator.flowai.internal";

/// Under this domain no public name can ever be resolved or certified by others.
const DOMAIN: &str = "flowai.internal";

/// Why a certificate or key could not be made, stored or used.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file could not be read or written.
    #[error("cannot use {}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file holds something else than it should.
    #[error("{} is damaged: {reason}; restore it from a backup, or issue it again", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A private file can be read by others.
    #[error("{} can be read by others (mode {mode:o}); make it 0600", path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The certificate's names do not name one peer of one role.
    #[error("certificate must name exactly one peer as <id>.<role>.{DOMAIN} (found {found:?})")]
    Names {
        /// The DNS names found.
        found: Vec<String>,
    },
    /// Its time is over.
    #[error(
        "certificate of {0} has expired; make the next one (flowai certify) and start the program again"
    )]
    Expired(PeerId),
    /// Signing failed.
    #[error("cannot make certificate: {0}")]
    Sign(#[from] rcgen::Error),
    /// Somebody's request for a certificate cannot be honoured.
    #[error("signing request {0}")]
    Request(String),
    /// A certificate that was asked for is not what it should be.
    #[error("certificate {0}")]
    NotOurs(&'static str),
}

/// Seconds since 1970 by the machine's clock, as certificates count.
pub fn now_s() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// The peer that a certificate names. The certificate's signature is somebody else's check.
///
/// Errors: `Names` unless exactly one of its DNS names has the form `<id>.<role>.flowai.internal`.
pub(in crate::link) fn peer_of(certificate: &CertificateDer<'_>) -> Result<PeerId, PkiError> {
    let parsed = webpki::EndEntityCert::try_from(certificate)
        .map_err(|_| PkiError::Names { found: Vec::new() })?;
    let found: Vec<String> = parsed.valid_dns_names().map(str::to_owned).collect();
    let mut peers = found
        .iter()
        .filter_map(|name| name.strip_suffix(DOMAIN)?.strip_suffix('.')?.parse().ok());
    match (peers.next(), peers.next()) {
        (Some(peer), None) => Ok(peer),
        _ => Err(PkiError::Names { found }),
    }
}

fn name_of(peer: &PeerId) -> String {
    format!("{peer}.{DOMAIN}")
}
