//! What a machine asks a certificate with, and what is read of it.

use std::path::Path;

use rcgen::{
    CertificateParams, CertificateSigningRequestParams, KeyPair, PKCS_ECDSA_P256_SHA256,
    PublicKeyData,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::cookie::Cookie;
use super::files::{create_folder, parse, read_private, write};
use super::identity::{Identity, IdentityPem, NEXT_KEY, check_issuer, is_for};
use super::{PkiError, peer_of};
use crate::ids::Sha256;
use crate::join_token::sha256;
use crate::limits::SIGNING_REQUEST_BYTES_MAX;

/// What a machine asks for: a certificate for a key that it made and that never leaves it.
pub struct SigningRequest {
    pub(super) key: KeyPair,
}

impl SigningRequest {
    /// With a new key (P-256).
    pub fn generate() -> Result<Self, PkiError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        Ok(Self { key })
    }

    /// With the key of a request whose answer may have been lost: `None` when there is none in `folder`.
    pub fn pending(folder: &Path) -> Result<Option<Self>, PkiError> {
        let path = folder.join(NEXT_KEY);
        if !path.exists() {
            return Ok(None);
        }
        let key = parse(&path, KeyPair::from_pem(&read_private(&path)?))?;
        Ok(Some(Self { key }))
    }

    /// Keeps the key in `folder`, so that asking again asks for the same.
    pub fn keep(&self, folder: &Path) -> Result<(), PkiError> {
        create_folder(folder)?;
        let pem = self.key.serialize_pem();
        write(&folder.join(NEXT_KEY), pem.as_bytes(), 0o600)
    }

    /// What is sent: PKCS #10 as PEM. It names nobody, because the farm chooses the names.
    pub fn pem(&self) -> Result<String, PkiError> {
        let params = CertificateParams::default();
        Ok(params.serialize_request(&self.key)?.pem()?)
    }

    /// The identity that the answer gives.
    ///
    /// # Errors
    /// The certificate is not for this key, or not of this CA.
    pub fn answered(self, certificate: &str, ca: &str, cookie: &str) -> Result<Identity, PkiError> {
        let damaged = |_| PkiError::NotOurs("cannot be read");
        let certificate_der =
            CertificateDer::from_pem_slice(certificate.as_bytes()).map_err(damaged)?;
        let ca_der = CertificateDer::from_pem_slice(ca.as_bytes()).map_err(damaged)?;
        if !is_for(&certificate_der, &self.key) {
            return Err(PkiError::NotOurs("is for another key"));
        }
        check_issuer(&certificate_der, &ca_der)?;
        let mut bytes = [0; 32];
        hex::decode_to_slice(cookie, &mut bytes)
            .map_err(|_| PkiError::NotOurs("came with a cookie that is not 64 hex digits"))?;
        Ok(Identity {
            peer: peer_of(&certificate_der)?,
            ca: ca_der,
            certificate: certificate_der,
            key_der: self.key.serialize_der(),
            cookie: Cookie(bytes),
            pem: IdentityPem {
                ca: ca.to_owned(),
                certificate: certificate.to_owned(),
                key: self.key.serialize_pem(),
            },
        })
    }
}

impl std::fmt::Debug for SigningRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SigningRequest")
    }
}

/// The public key of a request that is signed by it.
pub(super) fn read_request(pem: &str) -> Result<rcgen::PublicKey, PkiError> {
    let refuse = |reason: String| PkiError::Request(reason);
    if pem.len() > SIGNING_REQUEST_BYTES_MAX {
        let length = pem.len();
        return Err(refuse(format!(
            "must be at most {SIGNING_REQUEST_BYTES_MAX} bytes (got {length})"
        )));
    }
    let request = CertificateSigningRequestParams::from_pem(pem)
        .map_err(|error| refuse(format!("must be PKCS #10 as PEM ({error})")))?;
    if request.public_key.algorithm() != &PKCS_ECDSA_P256_SHA256 {
        return Err(refuse("must be for an ECDSA P-256 key".to_owned()));
    }
    Ok(request.public_key)
}

/// Of the key in a request, by which the same request is known again.
///
/// # Errors
/// As [`Ca::sign`].
pub fn requested_key_sha256(request: &str) -> Result<Sha256, PkiError> {
    Ok(sha256(&read_request(request)?.subject_public_key_info()))
}
