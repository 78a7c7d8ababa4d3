//! Who vouches for the farm's machines.

use std::path::Path;

use rand::Rng;
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use time::{Duration, OffsetDateTime};

use super::cookie::Cookie;
use super::files::{create_folder, parse, read_private, read_text, write};
use super::identity::{Identity, IdentityPem};
use super::request::read_request;
use super::{COORDINATOR_NAME, PkiError, name_of};
use crate::ids::Sha256;
use crate::join_token::sha256;
use crate::link::peer::{PeerId, Role};

/// A CA outlives the machines it names; it is replaced by making a new farm.
pub(super) const CA_DAYS: i64 = 3650;

/// Identities are cheap to issue anew.
pub(super) const IDENTITY_DAYS: i64 = 397;

/// Clocks of machines differ: certificates are valid from so long before they were made.
pub(super) const CLOCK_SKEW: Duration = Duration::hours(1);

/// The same for certificates that live for days and are asked for over the network.
pub(super) const SIGNED_CLOCK_SKEW: Duration = Duration::minutes(5);

/// A certificate that was signed on request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    /// PEM.
    pub certificate: String,
    /// Seconds since 1970.
    pub expires_at_s: i64,
}

/// The certificate authority of one farm. Lives where `flowai up` or the operator keeps it; no program needs its key to
/// talk to others.
pub struct Ca {
    pub(super) certificate: CertificateDer<'static>,
    pub(super) pem: String,
    pub(super) issuer: Issuer<'static, KeyPair>,
    pub(super) cookie: Cookie,
}

impl Ca {
    /// Loads the CA of `folder`, or makes one there if there is none.
    pub fn load_or_create(folder: &Path) -> Result<Self, PkiError> {
        if folder.join("ca-key.pem").exists() {
            Self::load(folder)
        } else {
            Self::create(folder)
        }
    }

    /// Makes a CA and stores it in `folder`: `ca.pem`, and with mode 0600 `ca-key.pem` and `cookie`.
    pub fn create(folder: &Path) -> Result<Self, PkiError> {
        let (ca, key) = Self::in_memory()?;
        create_folder(folder)?;
        write(&folder.join("ca.pem"), ca.pem.as_bytes(), 0o644)?;
        write(
            &folder.join("cookie"),
            hex::encode(ca.cookie.0).as_bytes(),
            0o600,
        )?;
        // Last, because its presence says that the CA is whole.
        write(&folder.join("ca-key.pem"), key.as_bytes(), 0o600)?;
        Ok(ca)
    }

    /// Loads what `create` stored.
    pub fn load(folder: &Path) -> Result<Self, PkiError> {
        let certificate_path = folder.join("ca.pem");
        let pem = read_text(&certificate_path)?;
        let certificate = parse(
            &certificate_path,
            CertificateDer::from_pem_slice(pem.as_bytes()),
        )?;
        let key_path = folder.join("ca-key.pem");
        let key = parse(&key_path, KeyPair::from_pem(&read_private(&key_path)?))?;
        let issuer = parse(
            &certificate_path,
            Issuer::from_ca_cert_der(&certificate, key),
        )?;
        Ok(Self {
            certificate,
            pem,
            issuer,
            cookie: Cookie::load(folder)?,
        })
    }

    /// A CA that is stored nowhere, with its key as PEM.
    pub(super) fn in_memory() -> Result<(Self, String), PkiError> {
        let key = KeyPair::generate()?;
        let key_pem = key.serialize_pem();
        let mut params = CertificateParams::default();
        // Each farm's CA has a name of its own, so that a certificate of another farm fails as "unknown issuer".
        params.distinguished_name = named(&format!(
            "FlowAI farm {}",
            hex::encode(rand::rng().random::<[u8; 4]>())
        ));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        valid_for(&mut params, CA_DAYS);
        let certificate = params.self_signed(&key)?;
        let (der, pem) = (certificate.der().clone(), certificate.pem());
        let ca = Self {
            certificate: der,
            pem,
            issuer: Issuer::new(params, key),
            cookie: Cookie::random(),
        };
        Ok((ca, key_pem))
    }

    /// Certifies a new key for `peer`.
    pub fn issue(&self, peer: &PeerId) -> Result<Identity, PkiError> {
        let key = KeyPair::generate()?;
        let now = OffsetDateTime::now_utc();
        let until = now + Duration::days(IDENTITY_DAYS);
        let certificate = self.certify(peer, &key, now - CLOCK_SKEW, until)?;
        Ok(Identity {
            peer: peer.clone(),
            ca: self.certificate.clone(),
            certificate: certificate.der().clone(),
            key_der: key.serialize_der(),
            cookie: self.cookie.clone(),
            pem: IdentityPem {
                ca: self.pem.clone(),
                certificate: certificate.pem(),
                key: key.serialize_pem(),
            },
        })
    }

    /// Certifies the key of a request (PKCS #10 as PEM) for `peer`, whatever names the request has.
    ///
    /// # Errors
    /// [`PkiError::Request`]: too long, unreadable, not signed by its own key, or no P-256 key.
    pub fn sign(
        &self,
        request: &str,
        peer: &PeerId,
        life: std::time::Duration,
    ) -> Result<Signed, PkiError> {
        let request = read_request(request)?;
        let now = OffsetDateTime::now_utc();
        let until = now + life;
        let certificate = self.certify(peer, &request, now - SIGNED_CLOCK_SKEW, until)?;
        Ok(Signed {
            certificate: certificate.pem(),
            expires_at_s: until.unix_timestamp(),
        })
    }

    /// Of its certificate: what a join token carries.
    pub fn sha256(&self) -> Sha256 {
        sha256(&self.certificate)
    }

    /// Its certificate as PEM.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// The cluster's second lock in hex.
    pub fn cookie_text(&self) -> String {
        hex::encode(self.cookie.0)
    }

    fn certify(
        &self,
        peer: &PeerId,
        key: &impl PublicKeyData,
        from: OffsetDateTime,
        until: OffsetDateTime,
    ) -> Result<Certificate, PkiError> {
        let mut names = vec![name_of(peer)];
        let mut usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        if peer.role() == Role::Coordinator {
            names.push(COORDINATOR_NAME.to_owned());
            usages.push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        let mut params = CertificateParams::new(names)?;
        // The names that count are the subject alternative names; a common name may be too short for them.
        params.distinguished_name = named("FlowAI");
        params.extended_key_usages = usages;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        params.not_before = from;
        params.not_after = until;
        Ok(params.signed_by(key, &self.issuer)?)
    }
}

impl std::fmt::Debug for Ca {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ca")
    }
}

pub(super) fn named(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}

pub(super) fn valid_for(params: &mut CertificateParams, days: i64) {
    let now = OffsetDateTime::now_utc();
    params.not_before = now - CLOCK_SKEW;
    params.not_after = now + Duration::days(days);
}
