//! Who the caller is, at which farm: from the environment, else from what `flowai login` stored.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use flowai_actors::program::optional_secret;
use serde::{Deserialize, Serialize};
use url::Url;

use super::ClientError;
use crate::private_file::{self, PrivateFileError};

/// Where a farm listens when nobody says otherwise.
pub const DEFAULT_URL: &str = "http://127.0.0.1:8080";

/// A secret that never shows in a log.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

/// What is known of the caller at one farm.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    pub email: String,
    pub api_key: Secret,
    /// So that signing out can end the key.
    pub api_key_id: String,
}

/// The stored credentials: an account a farm, and which farm was signed in to last.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credentials {
    current: Option<String>,
    /// By the farm's URL.
    #[serde(default)]
    accounts: BTreeMap<String, Account>,
}

impl Credentials {
    /// `credentials.json` in `$XDG_CONFIG_HOME/flowai`, else `~/.config/flowai`.
    pub fn default_path() -> Result<PathBuf, ClientError> {
        let folder = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        folder("XDG_CONFIG_HOME")
            .map(PathBuf::from)
            .or_else(|| folder("HOME").map(|home| PathBuf::from(home).join(".config")))
            .map(|config| config.join("flowai/credentials.json"))
            .ok_or_else(|| ClientError::Input {
                field: "HOME",
                detail: "is not set, so there is no place for credentials; set XDG_CONFIG_HOME or FLOWAI_API_KEY"
                    .to_owned(),
            })
    }

    /// Reads the file; a missing one holds nothing.
    pub fn load(path: &Path) -> Result<Self, PrivateFileError> {
        Ok(private_file::read(path)?.unwrap_or_default())
    }

    pub fn save(&self, path: &Path) -> Result<(), PrivateFileError> {
        private_file::write(path, self)
    }

    /// The farm that commands talk to unless they are told another.
    pub fn current(&self) -> Option<Url> {
        Url::parse(self.current.as_ref()?).ok()
    }

    pub fn account(&self, url: &Url) -> Option<&Account> {
        self.accounts.get(&origin(url))
    }

    /// Signed in: commands talk to this farm from now on. Gives the account that was there before.
    pub fn insert(&mut self, url: &Url, account: Account) -> Option<Account> {
        self.current = Some(origin(url));
        self.accounts.insert(origin(url), account)
    }

    pub fn remove(&mut self, url: &Url) -> Option<Account> {
        self.accounts.remove(&origin(url))
    }
}

/// Two spellings of one farm are one entry.
fn origin(url: &Url) -> String {
    let mut origin = url.clone();
    origin.set_path("/");
    origin.set_query(None);
    origin.set_fragment(None);
    origin.into()
}

/// The value of an environment variable, or the content of the file that `NAME_FILE` names.
pub fn from_env(name: &'static str) -> Result<Option<String>, ClientError> {
    Ok(optional_secret(|name| std::env::var(name).ok(), name)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        text.parse().unwrap()
    }

    fn account(email: &str) -> Account {
        Account {
            email: email.to_owned(),
            api_key: Secret::new("flk_canary"),
            api_key_id: "k".to_owned(),
        }
    }

    #[test]
    fn credentials_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/credentials.json");
        assert_eq!(Credentials::load(&path).unwrap(), Credentials::default());

        let mut credentials = Credentials::default();
        credentials.insert(&url("http://farm.example:8080"), account("a@b.example"));
        credentials.save(&path).unwrap();
        assert_eq!(Credentials::load(&path).unwrap(), credentials);
    }

    #[test]
    fn a_farm_has_one_entry_however_it_is_spelled() {
        let mut credentials = Credentials::default();
        credentials.insert(&url("http://farm.example"), account("a@b.example"));
        for spelled in ["http://farm.example/", "http://farm.example:80/v1?x#y"] {
            assert!(credentials.account(&url(spelled)).is_some(), "{spelled}");
        }
        assert_eq!(credentials.account(&url("https://farm.example")), None);
        assert!(credentials.remove(&url("http://farm.example/v1")).is_some());
        assert_eq!(credentials.account(&url("http://farm.example")), None);
    }

    #[test]
    fn a_key_shows_in_no_log() {
        assert!(!format!("{:?}", account("a@b.example")).contains("canary"));
    }
}
