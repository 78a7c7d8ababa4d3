//! How this machine becomes a node of a farm. Its key is made here and never leaves; a lost answer is asked for again with the
//! same key, and costs no second use of the token.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use flowai_actors::ids::NodeId;
use flowai_actors::link::pki::{Identity, PkiError, SigningRequest};
use flowai_actors::membership::{InvalidJoinToken, JoinToken};
use flowai_actors::wire;
use url::{Host, Url};

use crate::client::{ClientError, JoinRequest, JoinedNode, Secret, join as ask};

/// The settings of the node program, for `EnvironmentFile=` and the shell.
const SETTINGS_FILE: &str = "node.env";
/// Of an identity that was put aside.
const BEFORE: &str = "tls-before";

/// Why this machine did not join.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    #[error(
        "farm must be https://… (got {0}): the token would be readable on the way; plain http is for this machine only"
    )]
    Readable(Url),
    #[error("token: {0}")]
    Token(#[from] InvalidJoinToken),
    #[error("{} is {node} already; give --data another folder, or --again to join anew", folder.display())]
    Joined { folder: PathBuf, node: String },
    /// Somebody else answers at the farm's address.
    #[error(
        "the answer comes from another farm than the token: its CA is {got}, the token's is {wanted}; check the address"
    )]
    OtherFarm { got: String, wanted: String },
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Pki(#[from] PkiError),
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
}

/// A node's data folder.
#[derive(Debug, Clone)]
pub struct Place {
    data: PathBuf,
}

/// What came of it.
#[derive(Debug, Clone)]
pub struct Joined {
    pub node: NodeId,
    pub labels: BTreeMap<String, String>,
    /// The file with the settings.
    pub settings: PathBuf,
    /// Seconds since 1970; the node renews its certificate long before.
    pub expires_at_s: i64,
}

impl Place {
    /// The folder, for its owner alone where it has to be made.
    ///
    /// # Errors
    /// What the system says.
    pub fn of(data: &Path) -> Result<Self, JoinError> {
        private_folder(data)?;
        let data = data.canonicalize().map_err(at(data))?;
        Ok(Self { data })
    }

    fn tls(&self) -> PathBuf {
        self.data.join("tls")
    }

    /// Makes room for an identity: none is there, or one that is of no use any more, or it shall go.
    fn clear(&self, again: bool) -> Result<(), JoinError> {
        let tls = self.tls();
        if tls.join("cert.pem").exists() {
            let present = Identity::load(&tls)?;
            let is_valid = now_s() < present.validity_s()?.1;
            if is_valid && !again {
                return Err(JoinError::Joined {
                    folder: self.data.clone(),
                    node: present.peer().id().to_owned(),
                });
            }
            let before = self.data.join(BEFORE);
            if before.exists() {
                fs::remove_dir_all(&before).map_err(at(&before))?;
            }
            fs::rename(&tls, &before).map_err(at(&tls))?;
        }
        private_folder(&tls)
    }

    fn write_settings(&self, node: &NodeId, coordinators: &[String]) -> Result<PathBuf, JoinError> {
        let path = self.data.join(SETTINGS_FILE);
        let text = format!(
            "FLOWAI_ID={node}\nFLOWAI_COORDINATORS={}\nFLOWAI_TLS_DIR={}\nFLOWAI_DATA_DIR={}\n",
            coordinators.join(","),
            quoted(&self.tls()),
            quoted(&self.data),
        );
        fs::write(&path, text).map_err(at(&path))?;
        Ok(path)
    }
}

/// Joins the farm at `farm` and writes the identity and the settings of the node program into `place`.
///
/// # Errors
/// [`JoinError`]; the same call again is safe and, after a lost answer, costs nothing.
pub async fn join(
    farm: &Url,
    token: &Secret,
    place: &Place,
    again: bool,
) -> Result<Joined, JoinError> {
    if !is_private(farm) {
        return Err(JoinError::Readable(farm.clone()));
    }
    let parsed: JoinToken = token.reveal().parse()?;
    place.clear(again)?;
    let tls = place.tls();
    let request = match SigningRequest::pending(&tls)? {
        Some(request) => request,
        None => {
            let request = SigningRequest::generate()?;
            request.keep(&tls)?;
            request
        }
    };
    let question = JoinRequest {
        token: token.reveal().to_owned(),
        csr: request.pem()?,
        facts: facts(),
        schema: wire::SCHEMA,
    };
    let answer = ask(farm, &question).await?;
    let identity = trusted(&parsed, request, &answer)?;
    identity.save(&tls)?;
    // Reads it back as the node will; the kept key is the identity's own from here on.
    let identity = Identity::load(&tls)?;
    Ok(Joined {
        settings: place.write_settings(&answer.node, &answer.coordinators)?,
        node: answer.node,
        labels: answer.labels,
        expires_at_s: identity.validity_s()?.1,
    })
}

/// The identity, if the answer comes from the token's farm and certifies this key for the node that it names.
fn trusted(
    token: &JoinToken,
    request: SigningRequest,
    answer: &JoinedNode,
) -> Result<Identity, JoinError> {
    let identity = request.answered(&answer.certificate, &answer.ca, &answer.cookie)?;
    if identity.ca_sha256() != token.ca_sha256() {
        return Err(JoinError::OtherFarm {
            got: identity.ca_sha256().to_string(),
            wanted: token.ca_sha256().to_string(),
        });
    }
    if identity.peer().as_node().as_ref() != Some(&answer.node) {
        return Err(PkiError::NotOurs("names another node than the answer").into());
    }
    Ok(identity)
}

/// Whether nobody on the way can read what is said there.
fn is_private(farm: &Url) -> bool {
    match (farm.scheme(), farm.host()) {
        ("https", _) => true,
        ("http", Some(Host::Domain(name))) => name == "localhost",
        ("http", Some(Host::Ipv4(address))) => address.is_loopback(),
        ("http", Some(Host::Ipv6(address))) => address.is_loopback(),
        _ => false,
    }
}

/// For operators to tell machines apart.
fn facts() -> BTreeMap<String, String> {
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    [
        ("host", host.trim()),
        ("system", std::env::consts::OS),
        ("processor", std::env::consts::ARCH),
        ("build", env!("CARGO_PKG_VERSION")),
    ]
    .into_iter()
    .filter(|(_, value)| !value.is_empty())
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .collect()
}

/// As a shell and systemd read it.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let escaped = text.replace('\\', "\\\\").replace('"', "\\\"");
    format!("\"{escaped}\"")
}

fn private_folder(path: &Path) -> Result<(), JoinError> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o700);
    builder.create(path).map_err(at(path))
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> JoinError + '_ {
    move |source| JoinError::Io {
        path: path.to_owned(),
        source,
    }
}

fn now_s() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use flowai_actors::ids::Sha256;
    use flowai_actors::link::pki::Ca;

    use super::*;

    #[test]
    fn a_token_is_said_on_private_ways_only() {
        for (farm, is_fine) in [
            ("https://farm.example", true),
            ("http://127.0.0.1:8080", true),
            ("http://[::1]:8080", true),
            ("http://localhost:8080", true),
            ("http://farm.example", false),
            ("http://192.168.1.4", false),
            ("http://localhost.example", false),
            ("ftp://127.0.0.1", false),
        ] {
            assert_eq!(is_private(&farm.parse().unwrap()), is_fine, "{farm}");
        }
    }

    #[test]
    fn an_answer_of_another_farm_is_not_taken() {
        let folder = tempfile::tempdir().unwrap();
        let ca = Ca::create(&folder.path().join("ca")).unwrap();
        let answer = |request: &SigningRequest, certified: &str, said: &str| {
            let peer = format!("{certified}.node").parse().unwrap();
            let signed = ca.sign(&request.pem().unwrap(), &peer, Duration::from_secs(60));
            JoinedNode {
                node: said.parse().unwrap(),
                labels: BTreeMap::new(),
                certificate: signed.unwrap().certificate,
                ca: ca.pem().to_owned(),
                cookie: ca.cookie_text(),
                coordinators: Vec::new(),
            }
        };
        let check = |ca_sha256: Sha256, certified: &str| {
            let request = SigningRequest::generate().unwrap();
            let answer = answer(&request, certified, "n1");
            trusted(&JoinToken::generate(ca_sha256), request, &answer)
        };
        assert!(check(ca.sha256(), "n1").is_ok());
        assert!(matches!(
            check(Sha256::from_bytes([1; 32]), "n1"),
            Err(JoinError::OtherFarm { .. })
        ));
        assert!(matches!(
            check(ca.sha256(), "n2"),
            Err(JoinError::Pki(PkiError::NotOurs(_)))
        ));
    }
}
