//! What a machine proves itself with, and how its folder is kept whole while a certificate is renewed.

use std::fs;
use std::io;
use std::path::Path;

use rcgen::{KeyPair, PublicKeyData};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::cookie::Cookie;
use super::files::{at, create_folder, parse, read_private, read_text, write};
use super::request::SigningRequest;
use super::{PkiError, now_s, peer_of};
use crate::ids::Sha256;
use crate::join_token::sha256;
use crate::link::peer::PeerId;

/// Of the key that a renewed certificate is for, until the certificate is in its place.
pub(super) const NEXT_KEY: &str = "next-key.pem";

/// A peer's certificate, key and cluster cookie, with the CA it trusts.
#[derive(Clone)]
pub struct Identity {
    pub(super) peer: PeerId,
    pub(super) ca: CertificateDer<'static>,
    pub(super) certificate: CertificateDer<'static>,
    pub(super) key_der: Vec<u8>,
    pub(super) cookie: Cookie,
    pub(super) pem: IdentityPem,
}

#[derive(Clone)]
pub(super) struct IdentityPem {
    pub(super) ca: String,
    pub(super) certificate: String,
    pub(super) key: String,
}

impl Identity {
    /// Loads an identity folder. The key and the cookie must not be readable by others. A renewal that was cut off in the
    /// middle is finished, or dropped when its certificate had not come.
    pub fn load(folder: &Path) -> Result<Self, PkiError> {
        finish_renewal(folder)?;
        let (ca_path, certificate_path) = (folder.join("ca.pem"), folder.join("cert.pem"));
        let key_path = folder.join("key.pem");
        let pem = IdentityPem {
            ca: read_text(&ca_path)?,
            certificate: read_text(&certificate_path)?,
            key: read_private(&key_path)?,
        };
        let certificate = parse(
            &certificate_path,
            CertificateDer::from_pem_slice(pem.certificate.as_bytes()),
        )?;
        let key = parse(&key_path, PrivateKeyDer::from_pem_slice(pem.key.as_bytes()))?;
        Ok(Self {
            peer: peer_of(&certificate)?,
            ca: parse(&ca_path, CertificateDer::from_pem_slice(pem.ca.as_bytes()))?,
            certificate,
            key_der: key.secret_der().to_vec(),
            cookie: Cookie::load(folder)?,
            pem,
        })
    }

    /// Stores the identity in `folder`: `ca.pem`, `cert.pem`, and with mode 0600 `key.pem` and `cookie`.
    pub fn save(&self, folder: &Path) -> Result<(), PkiError> {
        create_folder(folder)?;
        write(&folder.join("ca.pem"), self.pem.ca.as_bytes(), 0o644)?;
        write(&folder.join("key.pem"), self.pem.key.as_bytes(), 0o600)?;
        let cookie = hex::encode(self.cookie.0);
        write(&folder.join("cookie"), cookie.as_bytes(), 0o600)?;
        // Last, because its presence says that there is an identity: a join that is cut off before it has left none.
        let certificate = self.pem.certificate.as_bytes();
        write(&folder.join("cert.pem"), certificate, 0o644)
    }

    /// Puts this identity in the place of the one in `folder`: the old one or the new one is there, whenever it is cut off.
    /// The key is kept first, and counts once the certificate is there.
    pub fn replace(&self, folder: &Path) -> Result<(), PkiError> {
        write(&folder.join(NEXT_KEY), self.pem.key.as_bytes(), 0o600)?;
        let certificate = self.pem.certificate.as_bytes();
        write(&folder.join("cert.pem"), certificate, 0o644)?;
        // Whoever loads the folder at this moment may have done it already, or have taken the key for that of a renewal that was given up:
        // it is written once more then.
        write(&folder.join("key.pem"), self.pem.key.as_bytes(), 0o600)?;
        let next = folder.join(NEXT_KEY);
        match fs::remove_file(&next) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at(&next)(error)),
            _ => Ok(()),
        }
    }

    /// With another certificate for another key, from the same CA and for the same peer.
    ///
    /// # Errors
    /// [`PkiError::NotOurs`].
    pub fn renewed(&self, request: SigningRequest, certificate: &str) -> Result<Self, PkiError> {
        let renewed = request.answered(certificate, &self.pem.ca, &self.cookie_text())?;
        if renewed.peer != self.peer {
            return Err(PkiError::NotOurs("is for another peer"));
        }
        Ok(renewed)
    }

    /// Of the CA certificate: what a join token carries.
    pub fn ca_sha256(&self) -> Sha256 {
        sha256(&self.ca)
    }

    /// When the certificate begins and ends to be valid, in seconds since 1970.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn validity_s(&self) -> Result<(i64, i64), PkiError> {
        let unreadable = |_| PkiError::NotOurs("cannot be read");
        let (_, parsed) = X509Certificate::from_der(&self.certificate).map_err(unreadable)?;
        let validity = parsed.validity();
        Ok((
            validity.not_before.timestamp(),
            validity.not_after.timestamp(),
        ))
    }

    /// That the certificate has not expired, for a program that starts. Warns in the last month.
    ///
    /// # Errors
    /// [`PkiError::Expired`], or it cannot be read.
    pub fn require_valid(&self) -> Result<(), PkiError> {
        const MONTH_S: i64 = 30 * 86_400;
        let left_s = self.validity_s()?.1 - now_s();
        if left_s <= 0 {
            return Err(PkiError::Expired(self.peer.clone()));
        }
        if left_s < MONTH_S {
            tracing::warn!(peer = %self.peer, days = left_s / 86_400, "certificate ends soon; certify this program again");
        }
        Ok(())
    }

    /// Whom the certificate names.
    pub fn peer(&self) -> &PeerId {
        &self.peer
    }

    pub(in crate::link) fn ca(&self) -> &CertificateDer<'static> {
        &self.ca
    }

    pub(in crate::link) fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    pub(in crate::link) fn key(&self) -> Result<PrivateKeyDer<'static>, &'static str> {
        PrivateKeyDer::try_from(self.key_der.clone())
    }

    pub(in crate::link) fn cookie_text(&self) -> String {
        hex::encode(self.cookie.0)
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Identity({})", self.peer)
    }
}

pub(super) fn is_for(certificate: &CertificateDer<'_>, key: &KeyPair) -> bool {
    X509Certificate::from_der(certificate)
        .is_ok_and(|(_, parsed)| parsed.public_key().raw == key.subject_public_key_info())
}

pub(super) fn check_issuer(
    certificate: &CertificateDer<'_>,
    ca: &CertificateDer<'_>,
) -> Result<(), PkiError> {
    let foreign = |_| PkiError::NotOurs("is not of this CA, or not valid now");
    let anchor = webpki::anchor_from_trusted_cert(ca).map_err(foreign)?;
    let parsed = webpki::EndEntityCert::try_from(certificate).map_err(foreign)?;
    parsed
        .verify_for_usage(
            webpki::ALL_VERIFICATION_ALGS,
            &[anchor],
            &[],
            UnixTime::now(),
            webpki::KeyUsage::client_auth(),
            None,
            None,
        )
        .map_err(foreign)?;
    Ok(())
}

/// A next key whose certificate has come takes the place of the key before. One without is that of a request that is still
/// to be answered, and stays only where no identity is yet.
pub(super) fn finish_renewal(folder: &Path) -> Result<(), PkiError> {
    let (next, certificate_path) = (folder.join(NEXT_KEY), folder.join("cert.pem"));
    if !next.exists() || !certificate_path.exists() {
        return Ok(());
    }
    let key = parse(&next, KeyPair::from_pem(&read_private(&next)?))?;
    let pem = read_text(&certificate_path)?;
    let certificate = parse(
        &certificate_path,
        CertificateDer::from_pem_slice(pem.as_bytes()),
    )?;
    if is_for(&certificate, &key) {
        fs::rename(&next, folder.join("key.pem")).map_err(at(&next))
    } else {
        fs::remove_file(&next).map_err(at(&next))
    }
}
