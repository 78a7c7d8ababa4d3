//! How this machine becomes a node of a farm. Its key is made here and never leaves; a lost answer is asked for again with the
//! same key, and costs no second use of the token.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use flowai_actors::ids::NodeId;
use flowai_actors::link::pki::{Identity, PkiError, SigningRequest, now_s};
use flowai_actors::membership::{InvalidJoinToken, JoinToken};
use flowai_actors::program::is_address;
use flowai_actors::wire;
use url::Url;

use crate::client::{ClientError, JoinRequest, JoinedNode, Secret, is_this_machine, join as ask};

/// The settings of the node program, for `EnvironmentFile=` and the shell.
const SETTINGS_FILE: &str = "node.env";
const COMING_SETTINGS_FILE: &str = "node.env.coming";
/// Of an identity that was put aside.
const BEFORE: &str = "tls-before";
/// Of one that the farm has not given yet, or not in whole.
const COMING: &str = "tls-coming";

/// Why this machine did not join.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    #[error(
        "farm must be https://… (got {0}): the token would be readable on the way; plain http is for this machine only"
    )]
    Readable(Url),
    #[error("token: {0}")]
    Token(#[from] InvalidJoinToken),
    #[error(
        "data must be a path without $, `, \" and \\ (got {}): shells read the settings; give --data another folder",
        .0.display()
    )]
    DataPath(PathBuf),
    #[error("{} is {node} already; give --data another folder, or --again to join anew", folder.display())]
    Joined { folder: PathBuf, node: String },
    /// Somebody else answers at the farm's address.
    #[error(
        "the answer comes from another farm than the token: its CA is {got}, the token's is {wanted}; check the address"
    )]
    OtherFarm { got: String, wanted: String },
    #[error(
        "the farm names a coordinator that is no host:port (got {0:?}); have its operator look at FLOWAI_COORDINATORS"
    )]
    Coordinator(String),
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
    /// A path that the settings cannot hold; what the system says.
    pub fn of(data: &Path) -> Result<Self, JoinError> {
        let wanted = std::path::absolute(data).map_err(at(data))?;
        check_data(&wanted)?;
        private_folder(&wanted)?;
        let data = wanted.canonicalize().map_err(at(&wanted))?;
        check_data(&data)?;
        Ok(Self { data })
    }

    fn tls(&self) -> PathBuf {
        self.data.join("tls")
    }

    /// Where an identity grows until it is whole: the present one serves for as long.
    fn coming(&self) -> PathBuf {
        self.data.join(COMING)
    }

    /// Whether an identity may come here: none is there, or one that is of no use any more, or it shall go.
    fn check(&self, again: bool) -> Result<(), JoinError> {
        let tls = self.tls();
        // One that is damaged cannot be read, and can still be put aside.
        match tls.join("cert.pem").exists() && !again {
            true => self.check_lapsed(&tls),
            false => Ok(()),
        }
    }

    /// Puts the present identity aside, if there is one, and the coming one in its place, with its settings.
    fn change(&self) -> Result<PathBuf, JoinError> {
        let (tls, before) = (self.tls(), self.data.join(BEFORE));
        if tls.exists() {
            if before.exists() {
                fs::remove_dir_all(&before).map_err(at(&before))?;
            }
            fs::rename(&tls, &before).map_err(at(&tls))?;
        }
        let coming = self.coming();
        fs::rename(&coming, &tls).map_err(at(&coming))?;
        let (coming, settings) = (
            self.data.join(COMING_SETTINGS_FILE),
            self.data.join(SETTINGS_FILE),
        );
        fs::rename(&coming, &settings).map_err(at(&coming))?;
        Ok(settings)
    }

    /// A change that was cut off between the identity and its settings comes to its end.
    fn finish(&self) -> Result<(), JoinError> {
        let (coming, settings) = (
            self.data.join(COMING_SETTINGS_FILE),
            self.data.join(SETTINGS_FILE),
        );
        let (Ok(text), Ok(present)) = (fs::read_to_string(&coming), Identity::load(&self.tls()))
        else {
            return Ok(());
        };
        let own = format!("FLOWAI_ID={}", present.peer().id());
        match text.lines().next() == Some(&own) {
            true => fs::rename(&coming, &settings).map_err(at(&coming)),
            false => Ok(()),
        }
    }

    fn check_lapsed(&self, tls: &Path) -> Result<(), JoinError> {
        let present = Identity::load(tls)?;
        if now_s() < present.validity_s()?.1 {
            return Err(JoinError::Joined {
                folder: self.data.clone(),
                node: present.peer().id().to_owned(),
            });
        }
        Ok(())
    }

    /// Beside those of the present identity, which count until [`Self::change`].
    fn write_settings(&self, node: &NodeId, coordinators: &[String]) -> Result<(), JoinError> {
        let path = self.data.join(COMING_SETTINGS_FILE);
        let text = format!(
            "FLOWAI_ID={node}\nFLOWAI_COORDINATORS={}\nFLOWAI_TLS_DIR=\"{}\"\nFLOWAI_DATA_DIR=\"{}\"\n",
            coordinators.join(","),
            self.tls().display(),
            self.data.display(),
        );
        fs::write(&path, text).map_err(at(&path))
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
    place.finish()?;
    place.check(again)?;
    let coming = place.coming();
    private_folder(&coming)?;
    let request = match SigningRequest::pending(&coming)? {
        Some(request) => request,
        None => {
            let request = SigningRequest::generate()?;
            request.keep(&coming)?;
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
    check_coordinators(&answer.coordinators)?;
    identity.save(&coming)?;
    // Reads it back as the node will; the kept key is the identity's own from here on.
    let identity = Identity::load(&coming)?;
    place.write_settings(&answer.node, &answer.coordinators)?;
    Ok(Joined {
        settings: place.change()?,
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

/// The settings are sourced, often by root: between quotes these would still be run or end them.
fn check_data(data: &Path) -> Result<(), JoinError> {
    match data.display().to_string().contains(['$', '`', '"', '\\']) {
        true => Err(JoinError::DataPath(data.to_owned())),
        false => Ok(()),
    }
}

/// Their addresses go into the settings as they are, which are sourced, often by root. A host may be a name, as Compose gives them
/// with `_`, or an address in brackets, with the number of a zone behind `%`.
fn check_coordinators(addresses: &[String]) -> Result<(), JoinError> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b".:[]-_%".contains(&byte);
    let is_fine = |address: &str| address.bytes().all(is_plain) && is_address(address);
    match addresses.iter().find(|address| !is_fine(address)) {
        Some(address) => Err(JoinError::Coordinator(address.clone())),
        None => Ok(()),
    }
}

/// Whether nobody on the way can read what is said there.
fn is_private(farm: &Url) -> bool {
    match farm.scheme() {
        "https" => true,
        "http" => is_this_machine(farm),
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
    fn a_data_path_that_a_shell_would_run_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        for (name, is_fine) in [
            ("node", true),
            ("node 1's", true),
            ("$(id)", false),
            ("`id`", false),
            ("a\"b", false),
            ("a\\b", false),
        ] {
            let data = folder.path().join(name);
            let place = Place::of(&data);
            assert_eq!(
                (place.is_ok(), data.exists()),
                (is_fine, is_fine),
                "{place:?}"
            );
            if let Err(refused) = place {
                assert!(refused.to_string().contains(name), "{refused}");
            }
        }
    }

    #[test]
    fn an_address_that_a_shell_would_run_is_refused() {
        for (address, is_fine) in [
            ("c1.farm.example:7600", true),
            ("[fd00::1]:7600", true),
            ("[fe80::1%2]:7600", true),
            ("coordinator_1:7600", true),
            ("c1.farm.example", false),
            ("c1:7600;id", false),
            ("$(id):7600", false),
            ("c1:7600\nLD_PRELOAD=x", false),
            ("c1 c2", false),
        ] {
            let checked = check_coordinators(&["c0:7600".to_owned(), address.to_owned()]);
            assert_eq!(checked.is_ok(), is_fine, "{address}");
            if let Err(refused) = checked {
                assert!(refused.to_string().contains(&format!("{address:?}")));
            }
        }
    }

    #[test]
    fn a_damaged_identity_can_be_put_aside_for_one_that_has_come() {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::of(folder.path()).unwrap();
        private_folder(&place.tls()).unwrap();
        fs::write(place.tls().join("cert.pem"), "nonsense").unwrap();
        assert!(matches!(place.check(false), Err(JoinError::Pki(_))));
        place.check(true).unwrap();
        let read = |folder: PathBuf| fs::read_to_string(folder.join("cert.pem")).unwrap();
        for name in ["first", "second"] {
            private_folder(&place.coming()).unwrap();
            fs::write(place.coming().join("cert.pem"), name).unwrap();
            place.write_settings(&name.parse().unwrap(), &[]).unwrap();
            let settings = fs::read_to_string(place.change().unwrap()).unwrap();
            assert!(settings.contains(name), "{settings}");
            assert_eq!(read(place.tls()), name);
        }
        assert_eq!(read(folder.path().join(BEFORE)), "first");
    }

    #[test]
    fn an_identity_that_came_without_its_settings_gets_them() {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::of(folder.path()).unwrap();
        let ca = Ca::create(&folder.path().join("ca")).unwrap();
        let issued = ca.issue(&"n2.node".parse().unwrap()).unwrap();
        issued.save(&place.tls()).unwrap();
        let settings = || fs::read_to_string(folder.path().join(SETTINGS_FILE)).ok();
        // What another identity left is not this one's.
        for (node, expected) in [("n1", None), ("n2", Some("FLOWAI_ID=n2"))] {
            place.write_settings(&node.parse().unwrap(), &[]).unwrap();
            place.finish().unwrap();
            let settings = settings();
            let first = settings.as_ref().and_then(|text| text.lines().next());
            assert_eq!(first, expected);
        }
    }

    /// Nobody listens at the farm's address.
    #[tokio::test]
    async fn a_join_that_the_farm_does_not_answer_leaves_the_present_identity() {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::of(folder.path()).unwrap();
        private_folder(&place.tls()).unwrap();
        fs::write(place.tls().join("cert.pem"), "the present one").unwrap();
        let token = JoinToken::generate(Sha256::from_bytes([1; 32]));
        let token = Secret::new(token.reveal());
        let nobody = "http://127.0.0.1:1".parse().unwrap();
        for _ in 0..2 {
            let refused = join(&nobody, &token, &place, true).await;
            assert!(matches!(refused, Err(JoinError::Client(_))), "{refused:?}");
            let present = fs::read_to_string(place.tls().join("cert.pem")).unwrap();
            assert_eq!(present, "the present one");
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
