use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject as _;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::files::write;
use super::identity::NEXT_KEY;
use super::*;
use crate::limits::SIGNING_REQUEST_BYTES_MAX;

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
