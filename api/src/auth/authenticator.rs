//! The check of every bearer credential: signature in memory, the sign-in or key in the database, remembered for some
//! seconds.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use flowai_actors::ids::{ApiKeyId, SignInId};
use flowai_store::accounts;
use flowai_store::accounts::TokenHash;
use flowai_store::api_keys::{self, KeyHolder};
use flowai_store::database::{Database, DatabaseError};

use super::guesses::Guesses;
use super::keys::Keys;
use super::principal::{Credential, Principal};
use super::scope::Scope;
use super::token;
use crate::cache::TtlCache;
use crate::error::ApiError;

/// API keys begin with it, so that a leaked one is found by scanners.
pub(super) const API_KEY_PREFIX: &str = "flk_";
/// How long an ended sign-in may still be believed on another instance.
pub(crate) const BELIEVED: Duration = Duration::from_secs(4);

/// Cheap to clone; all clones remember together.
#[derive(Clone)]
pub struct Authenticator {
    database: Database,
    keys: Keys,
    sign_ins: Arc<TtlCache<SignInId, bool>>,
    api_keys: Arc<TtlCache<TokenHash, Option<KeyHolder>>>,
    guesses: Arc<Guesses>,
}

impl Authenticator {
    pub fn new(database: Database, keys: Keys) -> Self {
        Self {
            database,
            keys,
            sign_ins: Arc::new(TtlCache::new(BELIEVED)),
            api_keys: Arc::new(TtlCache::new(BELIEVED)),
            guesses: Arc::default(),
        }
    }

    /// Whom a bearer credential stands for.
    /// `network`: of whoever shows it.
    pub async fn authenticate(&self, bearer: &str, network: IpAddr) -> Result<Principal, ApiError> {
        if bearer.starts_with(API_KEY_PREFIX) {
            return self.by_shown_key(token::hash_of(bearer), network).await;
        }
        let named = token::verify(&self.keys, bearer)?;
        if !self.sign_in_is_open(named.sign_in).await? {
            return Err(ApiError::TokenInvalid);
        }
        Ok(Principal {
            user: named.user,
            credential: Credential::SignIn(named.sign_in),
        })
    }

    /// As [`Self::by_api_key`], and who shows many keys that nobody has is asked for no more of them.
    async fn by_shown_key(&self, hash: TokenHash, network: IpAddr) -> Result<Principal, ApiError> {
        if !self.api_keys.knew(&hash, Option::is_some) {
            self.guesses.admit(network)?;
        }
        let principal = self.by_api_key(hash).await;
        if matches!(principal, Err(ApiError::TokenInvalid)) {
            self.guesses.count(network);
        }
        principal
    }

    async fn by_api_key(&self, hash: TokenHash) -> Result<Principal, ApiError> {
        let holder = match self.api_keys.get(&hash) {
            Some(holder) => holder,
            None => {
                let asked = self.api_keys.asks();
                let holder = api_keys::by_hash(&self.database, &hash).await?;
                // Keys that anybody makes up are as many as they like.
                match holder {
                    Some(_) => self.api_keys.answered(asked, hash, holder.clone()),
                    // One that was good is from now on a guess like any other.
                    None => self.api_keys.remove(&hash),
                }
                holder
            }
        };
        let holder = holder.ok_or(ApiError::TokenInvalid)?;
        if holder.is_suspended {
            return Err(ApiError::AccountSuspended);
        }
        let scopes = holder.scopes.iter();
        Ok(Principal {
            user: holder.user,
            credential: Credential::ApiKey {
                hash,
                scopes: scopes.filter_map(|name| Scope::from_name(name)).collect(),
            },
        })
    }

    /// Whether the credential of a stream that was opened before still counts.
    pub async fn still_counts(&self, credential: &Credential) -> Result<bool, ApiError> {
        match credential {
            Credential::SignIn(sign_in) => Ok(self.sign_in_is_open(*sign_in).await?),
            Credential::ApiKey { hash, .. } => match self.by_api_key(*hash).await {
                Ok(_) => Ok(true),
                Err(ApiError::TokenInvalid | ApiError::AccountSuspended) => Ok(false),
                Err(error) => Err(error),
            },
        }
    }

    /// Asks anew about the credentials of many open streams, in one statement for each kind, before what is remembered of them
    /// is too old to be believed.
    pub async fn renew(&self, credentials: &[Arc<Credential>]) -> Result<(), DatabaseError> {
        let (mut sign_ins, mut hashes) = (Vec::new(), Vec::new());
        for credential in credentials {
            match credential.as_ref() {
                Credential::SignIn(id) => sign_ins.push(*id),
                Credential::ApiKey { hash, .. } => hashes.push(*hash),
            }
        }
        if !sign_ins.is_empty() {
            let asked = self.sign_ins.asks();
            let open = accounts::open_sign_ins(&self.database, &sign_ins).await?;
            let open: HashSet<SignInId> = open.into_iter().collect();
            for id in sign_ins {
                self.sign_ins.answered(asked, id, open.contains(&id));
            }
        }
        if !hashes.is_empty() {
            let asked = self.api_keys.asks();
            let holders = api_keys::by_hashes(&self.database, &hashes).await?;
            for hash in hashes {
                self.api_keys
                    .answered(asked, hash, holders.get(&hash).cloned());
            }
        }
        Ok(())
    }

    /// These were ended here: what is remembered of them is not so any more.
    pub fn forget_sign_ins(&self, ended: &[SignInId]) {
        self.sign_ins.forget(|id, _| ended.contains(id));
    }

    /// This key was ended here.
    pub fn forget_key(&self, ended: ApiKeyId) {
        self.api_keys
            .forget(|_, holder| holder.as_ref().is_some_and(|holder| holder.key == ended));
    }

    async fn sign_in_is_open(&self, sign_in: SignInId) -> Result<bool, DatabaseError> {
        if let Some(is_open) = self.sign_ins.get(&sign_in) {
            return Ok(is_open);
        }
        let asked = self.sign_ins.asks();
        let is_open = accounts::sign_in_is_open(&self.database, sign_in).await?;
        self.sign_ins.answered(asked, sign_in, is_open);
        Ok(is_open)
    }
}
