//! The farm's own certificates: one CA, one identity for each machine.
//!
//! An identity is a folder (`ca.pem`, `cert.pem`, `key.pem`, `cookie`) that is copied to its machine. What a peer is
//! allowed to be stands in its certificate's names: `<id>.<role>.flowai.internal`. Coordinators also carry
//! `coordinator.flowai.internal`, the name that is dialled, and theirs are the only certificates that may serve, so a
//! node can never pose as one.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rand::Rng;
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertificateSigningRequestParams,
    DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PublicKeyData,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use time::{Duration, OffsetDateTime};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::peer::{PeerId, Role};
use crate::ids::Sha256;
use crate::join_token::sha256;
use crate::limits::SIGNING_REQUEST_BYTES_MAX;

/// The name under which every coordinator is dialled.
pub const COORDINATOR_NAME: &str = "coordinator.flowai.internal";

/// Under this domain no public name can ever be resolved or certified by others.
const DOMAIN: &str = "flowai.internal";

/// A CA outlives the machines it names; it is replaced by making a new farm.
const CA_DAYS: i64 = 3650;

/// Identities are cheap to issue anew.
const IDENTITY_DAYS: i64 = 397;

/// Clocks of machines differ: certificates are valid from so long before they were made.
const CLOCK_SKEW: Duration = Duration::hours(1);

/// The same for certificates that live for days and are asked for over the network.
const SIGNED_CLOCK_SKEW: Duration = Duration::minutes(5);

/// Of the key that a renewed certificate is for, until the certificate is in its place.
const NEXT_KEY: &str = "next-key.pem";

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
    #[error("{} is damaged: {reason}; issue this identity again", path.display())]
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

/// A certificate that was signed on request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    /// PEM.
    pub certificate: String,
    /// Seconds since 1970.
    pub expires_at_s: i64,
}

/// What a machine asks for: a certificate for a key that it made and that never leaves it.
pub struct SigningRequest {
    key: KeyPair,
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

/// The certificate authority of one farm. Lives where `flowai up` or the operator keeps it; no program needs its key to
/// talk to others.
pub struct Ca {
    certificate: CertificateDer<'static>,
    pem: String,
    issuer: Issuer<'static, KeyPair>,
    cookie: Cookie,
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
    fn in_memory() -> Result<(Self, String), PkiError> {
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

/// A peer's certificate, key and cluster cookie, with the CA it trusts.
#[derive(Clone)]
pub struct Identity {
    peer: PeerId,
    ca: CertificateDer<'static>,
    certificate: CertificateDer<'static>,
    key_der: Vec<u8>,
    cookie: Cookie,
    pem: IdentityPem,
}

#[derive(Clone)]
struct IdentityPem {
    ca: String,
    certificate: String,
    key: String,
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
        write(
            &folder.join("cert.pem"),
            self.pem.certificate.as_bytes(),
            0o644,
        )?;
        write(&folder.join("key.pem"), self.pem.key.as_bytes(), 0o600)?;
        write(
            &folder.join("cookie"),
            hex::encode(self.cookie.0).as_bytes(),
            0o600,
        )
    }

    /// Puts this identity in the place of the one in `folder`: the old one or the new one is there, whenever it is cut off.
    /// The key is kept first, and counts once the certificate is there.
    pub fn replace(&self, folder: &Path) -> Result<(), PkiError> {
        write(&folder.join(NEXT_KEY), self.pem.key.as_bytes(), 0o600)?;
        let certificate = self.pem.certificate.as_bytes();
        write(&folder.join("cert.pem"), certificate, 0o644)?;
        finish_renewal(folder)
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

    /// Whom the certificate names.
    pub fn peer(&self) -> &PeerId {
        &self.peer
    }

    pub(super) fn ca(&self) -> &CertificateDer<'static> {
        &self.ca
    }

    pub(super) fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    pub(super) fn key(&self) -> Result<PrivateKeyDer<'static>, &'static str> {
        PrivateKeyDer::try_from(self.key_der.clone())
    }

    pub(super) fn cookie_text(&self) -> String {
        hex::encode(self.cookie.0)
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Identity({})", self.peer)
    }
}

/// The cluster's shared secret: 32 random bytes, the second lock behind the certificates.
#[derive(Clone)]
struct Cookie([u8; 32]);

impl Cookie {
    fn random() -> Self {
        Self(rand::rng().random())
    }

    fn load(folder: &Path) -> Result<Self, PkiError> {
        let path = folder.join("cookie");
        let mut cookie = [0; 32];
        parse(
            &path,
            hex::decode_to_slice(read_private(&path)?.trim(), &mut cookie),
        )?;
        Ok(Self(cookie))
    }
}

/// The peer that a certificate names. The certificate's signature is somebody else's check.
///
/// Errors: `Names` unless exactly one of its DNS names has the form `<id>.<role>.flowai.internal`.
pub(super) fn peer_of(certificate: &CertificateDer<'_>) -> Result<PeerId, PkiError> {
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

/// The public key of a request that is signed by it.
fn read_request(pem: &str) -> Result<rcgen::PublicKey, PkiError> {
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

fn is_for(certificate: &CertificateDer<'_>, key: &KeyPair) -> bool {
    X509Certificate::from_der(certificate)
        .is_ok_and(|(_, parsed)| parsed.public_key().raw == key.subject_public_key_info())
}

fn check_issuer(certificate: &CertificateDer<'_>, ca: &CertificateDer<'_>) -> Result<(), PkiError> {
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
fn finish_renewal(folder: &Path) -> Result<(), PkiError> {
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

fn name_of(peer: &PeerId) -> String {
    format!("{peer}.{DOMAIN}")
}

fn named(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}

fn valid_for(params: &mut CertificateParams, days: i64) {
    let now = OffsetDateTime::now_utc();
    params.not_before = now - CLOCK_SKEW;
    params.not_after = now + Duration::days(days);
}

fn parse<T, E: std::fmt::Display>(path: &Path, parsed: Result<T, E>) -> Result<T, PkiError> {
    parsed.map_err(|error| PkiError::Damaged {
        path: path.to_owned(),
        reason: error.to_string(),
    })
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> PkiError + '_ {
    move |source| PkiError::File {
        path: path.to_owned(),
        source,
    }
}

fn read_text(path: &Path) -> Result<String, PkiError> {
    fs::read_to_string(path).map_err(at(path))
}

fn read_private(path: &Path) -> Result<String, PkiError> {
    let mode = fs::metadata(path).map_err(at(path))?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(PkiError::Exposed {
            path: path.to_owned(),
            mode,
        });
    }
    read_text(path)
}

fn create_folder(folder: &Path) -> Result<(), PkiError> {
    fs::create_dir_all(folder).map_err(at(folder))
}

/// Writes a file that is whole or absent and never was readable by more than `mode` allows.
fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), PkiError> {
    let unfinished = path.with_extension("new");
    fs::remove_file(&unfinished)
        .or_else(ignore_missing)
        .map_err(at(&unfinished))?;
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&unfinished)
        .map_err(at(&unfinished))?;
    file.write_all(bytes)
        .and_then(|()| file.sync_all())
        .map_err(at(&unfinished))?;
    fs::rename(&unfinished, path).map_err(at(path))
}

fn ignore_missing(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound {
        Ok(())
    } else {
        Err(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(text: &str) -> PeerId {
        text.parse().unwrap()
    }

    #[test]
    fn identities_name_their_peer_before_and_after_the_disk() {
        let folder = tempfile::tempdir().unwrap();
        let ca = Ca::load_or_create(folder.path()).unwrap();
        for name in ["n1.node", "leader-2.coordinator", "a.api"] {
            let issued = ca.issue(&peer(name)).unwrap();
            assert_eq!(peer_of(issued.certificate()).unwrap(), peer(name));
            let home = folder.path().join(name);
            issued.save(&home).unwrap();
            let loaded = Identity::load(&home).unwrap();
            assert_eq!(loaded.peer(), &peer(name));
            assert_eq!(loaded.certificate(), issued.certificate());
            assert_eq!(loaded.cookie_text(), issued.cookie_text());
        }
    }

    #[test]
    fn a_ca_is_made_once() {
        let folder = tempfile::tempdir().unwrap();
        let first = Ca::load_or_create(folder.path()).unwrap();
        let second = Ca::load_or_create(folder.path()).unwrap();
        assert_eq!(first.certificate, second.certificate);
        let issued = second.issue(&peer("n1.node")).unwrap();
        assert_eq!(issued.ca(), &first.certificate);
        assert_eq!(issued.cookie_text(), hex::encode(first.cookie.0));
    }

    #[test]
    fn private_files_are_private() {
        let folder = tempfile::tempdir().unwrap();
        let ca = Ca::create(folder.path()).unwrap();
        ca.issue(&peer("n1.node"))
            .unwrap()
            .save(folder.path())
            .unwrap();
        for file in ["ca-key.pem", "key.pem", "cookie"] {
            let path = folder.path().join(file);
            assert_eq!(
                fs::metadata(&path).unwrap().permissions().mode() & 0o777,
                0o600,
                "{file}"
            );
        }
        let key = folder.path().join("key.pem");
        fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(
            Identity::load(folder.path()),
            Err(PkiError::Exposed { mode: 0o640, .. })
        ));
    }

    #[test]
    fn damaged_and_missing_files_are_named() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(
            Identity::load(folder.path()),
            Err(PkiError::File { .. })
        ));
        let ca = Ca::create(folder.path()).unwrap();
        ca.issue(&peer("n1.node"))
            .unwrap()
            .save(folder.path())
            .unwrap();
        for file in ["ca.pem", "cert.pem", "key.pem", "cookie"] {
            let path = folder.path().join(file);
            let good = fs::read(&path).unwrap();
            fs::write(&path, "nonsense").unwrap();
            match Identity::load(folder.path()) {
                Err(PkiError::Damaged { path: named, .. }) => assert_eq!(named, path),
                other => panic!("{file}: {other:?}"),
            }
            fs::write(&path, good).unwrap();
        }
        Identity::load(folder.path()).unwrap();
    }

    const WEEK: std::time::Duration = std::time::Duration::from_secs(7 * 86_400);

    fn joined(ca: &Ca, request: SigningRequest, name: &str) -> Result<Identity, PkiError> {
        let signed = ca.sign(&request.pem().unwrap(), &peer(name), WEEK).unwrap();
        request.answered(&signed.certificate, ca.pem(), &ca.cookie_text())
    }

    #[test]
    fn a_signed_request_names_whom_the_farm_says_and_nobody_else() {
        let ca = Ca::in_memory().unwrap().0;
        let key = KeyPair::generate().unwrap();
        let wishes = [
            COORDINATOR_NAME.to_owned(),
            "n9.node.flowai.internal".to_owned(),
        ];
        let mut params = CertificateParams::new(wishes).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let request = params.serialize_request(&key).unwrap().pem().unwrap();
        let signed = ca.sign(&request, &peer("n1.node"), WEEK).unwrap();
        let certificate = CertificateDer::from_pem_slice(signed.certificate.as_bytes()).unwrap();
        assert_eq!(peer_of(&certificate).unwrap(), peer("n1.node"));
        let (_, parsed) = X509Certificate::from_der(&certificate).unwrap();
        assert!(!parsed.is_ca());
        let usage = parsed.extended_key_usage().unwrap().unwrap().value;
        assert!(usage.client_auth && !usage.server_auth);
        let validity = parsed.validity();
        let (from, until) = (
            validity.not_before.timestamp(),
            validity.not_after.timestamp(),
        );
        assert_eq!(until, signed.expires_at_s);
        assert_eq!(until - from, 7 * 86_400 + 300);
    }

    #[test]
    fn requests_that_cannot_be_signed_are_refused_by_reason() {
        let ca = Ca::in_memory().unwrap().0;
        let good = SigningRequest::generate().unwrap().pem().unwrap();
        let other = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let ed25519 = CertificateParams::default()
            .serialize_request(&other)
            .unwrap();
        let mut forged: Vec<char> = good.chars().collect();
        let middle = good.len() / 2;
        forged[middle] = if forged[middle] == 'A' { 'B' } else { 'A' };
        for (request, reason) in [
            ("nonsense".to_owned(), "PKCS #10"),
            (forged.into_iter().collect(), "PKCS #10"),
            (ed25519.pem().unwrap(), "P-256"),
            ("x".repeat(SIGNING_REQUEST_BYTES_MAX + 1), "4097"),
        ] {
            let refused = ca.sign(&request, &peer("n1.node"), WEEK).unwrap_err();
            assert!(refused.to_string().contains(reason), "{refused}");
        }
    }

    #[test]
    fn an_answer_of_another_farm_or_for_another_key_is_no_identity() {
        let (ca, foreign) = (Ca::in_memory().unwrap().0, Ca::in_memory().unwrap().0);
        let request = SigningRequest::generate().unwrap();
        let signed = ca
            .sign(&request.pem().unwrap(), &peer("n1.node"), WEEK)
            .unwrap();
        let other = SigningRequest::generate().unwrap();
        let answered = other.answered(&signed.certificate, ca.pem(), &ca.cookie_text());
        assert!(matches!(
            answered,
            Err(PkiError::NotOurs("is for another key"))
        ));
        let answered = request.answered(&signed.certificate, foreign.pem(), &ca.cookie_text());
        assert!(matches!(answered, Err(PkiError::NotOurs(_))));
        joined(&ca, SigningRequest::generate().unwrap(), "n1.node").unwrap();
    }

    #[test]
    fn a_lost_answer_is_asked_for_again_with_the_same_key() {
        let folder = tempfile::tempdir().unwrap();
        assert!(SigningRequest::pending(folder.path()).unwrap().is_none());
        let request = SigningRequest::generate().unwrap();
        request.keep(folder.path()).unwrap();
        let again = SigningRequest::pending(folder.path()).unwrap().unwrap();
        assert_eq!(
            requested_key_sha256(&again.pem().unwrap()).unwrap(),
            requested_key_sha256(&request.pem().unwrap()).unwrap()
        );
    }

    #[test]
    fn a_renewal_that_is_cut_off_anywhere_leaves_a_whole_identity() {
        let folder = tempfile::tempdir().unwrap();
        let ca = Ca::in_memory().unwrap().0;
        let first = joined(&ca, SigningRequest::generate().unwrap(), "n1.node").unwrap();
        first.save(folder.path()).unwrap();
        let request = SigningRequest::generate().unwrap();
        let signed = ca
            .sign(&request.pem().unwrap(), first.peer(), WEEK)
            .unwrap();
        let second = first.renewed(request, &signed.certificate).unwrap();

        // After the key.
        let next = folder.path().join(NEXT_KEY);
        write(&next, second.pem.key.as_bytes(), 0o600).unwrap();
        let loaded = Identity::load(folder.path()).unwrap();
        assert_eq!(loaded.key_der, first.key_der);
        assert!(!next.exists());
        // After the certificate.
        write(&next, second.pem.key.as_bytes(), 0o600).unwrap();
        let certificate = folder.path().join("cert.pem");
        write(&certificate, second.pem.certificate.as_bytes(), 0o644).unwrap();
        let loaded = Identity::load(folder.path()).unwrap();
        assert_eq!(loaded.key_der, second.key_der);
        assert_eq!(loaded.certificate, second.certificate);
        // Whole.
        first.save(folder.path()).unwrap();
        second.replace(folder.path()).unwrap();
        assert_eq!(
            Identity::load(folder.path()).unwrap().key_der,
            second.key_der
        );
    }

    #[test]
    fn a_certificate_that_names_two_peers_names_none() {
        let ca = Ca::in_memory().unwrap().0;
        let key = KeyPair::generate().unwrap();
        let names = [
            "n1.node.flowai.internal".to_owned(),
            "a.api.flowai.internal".to_owned(),
        ];
        let certificate = CertificateParams::new(names)
            .unwrap()
            .signed_by(&key, &ca.issuer)
            .unwrap();
        assert!(
            matches!(peer_of(certificate.der()), Err(PkiError::Names { found }) if found.len() == 2)
        );
    }
}
