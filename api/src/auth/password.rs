//! Passwords: Argon2id in a bounded blocking pool.

use std::sync::Arc;

use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use argon2::{Algorithm, Argon2, Params, Version};
use tokio::sync::Semaphore;

use crate::error::ApiError;

/// Shorter ones are guessed.
pub(super) const PASSWORD_CHARS_MIN: usize = 8;
/// Longer ones only cost time; none is ever cut.
pub(super) const PASSWORD_CHARS_MAX: usize = 128;
/// Each hash takes a core and its memory for tens of milliseconds.
const HASHES_AT_ONCE: usize = 2;
/// Callers that wait for a turn; more are told to come back.
const WAITING_MAX: usize = 64;

/// What a guess costs.
#[derive(Debug, Clone, Copy)]
pub struct PasswordCost {
    pub memory_kib: u32,
    pub passes: u32,
}

impl PasswordCost {
    /// OWASP's minimum for Argon2id: 19 MiB, two passes, one lane.
    pub const SAFE: Self = Self {
        memory_kib: 19 * 1024,
        passes: 2,
    };

    /// For tests, which make many accounts.
    pub const TEST: Self = Self {
        memory_kib: 8,
        passes: 1,
    };
}

/// Hashes and checks passwords. Cheap to clone.
#[derive(Clone)]
pub struct Passwords {
    argon2: Argon2<'static>,
    turns: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    /// Checked when there is no account, so that the answer takes as long.
    nobodys: Arc<str>,
}

impl Passwords {
    pub fn new(cost: PasswordCost) -> Result<Self, String> {
        let params = Params::new(cost.memory_kib, cost.passes, 1, None)
            .map_err(|error| error.to_string())?;
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        let nobodys = argon2
            .hash_password(&rand::random::<[u8; 32]>())
            .map_err(|error| error.to_string())?
            .to_string();
        Ok(Self {
            argon2,
            turns: Arc::new(Semaphore::new(HASHES_AT_ONCE)),
            waiting: Arc::new(Semaphore::new(WAITING_MAX)),
            nobodys: nobodys.into(),
        })
    }

    /// A PHC string to store.
    pub async fn hash(&self, password: String) -> Result<String, ApiError> {
        let argon2 = self.argon2.clone();
        self.in_turn(move || {
            let hash = argon2.hash_password(password.as_bytes());
            hash.map(|hash| hash.to_string()).map_err(|error| {
                tracing::error!(%error, "a password cannot be hashed");
                ApiError::Internal
            })
        })
        .await?
    }

    /// Whether the password is the one of `stored`; never for `None`, after the same time.
    pub async fn is_correct(
        &self,
        password: String,
        stored: Option<String>,
    ) -> Result<bool, ApiError> {
        let (argon2, nobodys) = (self.argon2.clone(), self.nobodys.clone());
        self.in_turn(move || {
            let hash = stored.as_deref().unwrap_or(&nobodys);
            let is_match = argon2.verify_password(password.as_bytes(), hash).is_ok();
            is_match && stored.is_some()
        })
        .await
    }

    async fn in_turn<R: Send + 'static>(
        &self,
        work: impl FnOnce() -> R + Send + 'static,
    ) -> Result<R, ApiError> {
        let _place = self
            .waiting
            .try_acquire()
            .map_err(|_| ApiError::Overloaded)?;
        let turn = self.turns.clone().acquire_owned().await;
        let turn = turn.map_err(|_| ApiError::Draining)?;
        tokio::task::spawn_blocking(move || {
            let result = work();
            drop(turn);
            result
        })
        .await
        .map_err(|error| {
            tracing::error!(%error, "password work ended early");
            ApiError::Internal
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_password_fits_its_hash() {
        let passwords = Passwords::new(PasswordCost::TEST).unwrap();
        let stored = passwords.hash("correct horse".to_owned()).await.unwrap();
        assert!(stored.starts_with("$argon2id$v=19$m=8,t=1,p=1$"));
        for (password, stored, fits) in [
            ("correct horse", Some(stored.clone()), true),
            ("correct horsf", Some(stored.clone()), false),
            ("", Some(stored), false),
            ("correct horse", None, false),
        ] {
            let verdict = passwords.is_correct(password.to_owned(), stored).await;
            assert_eq!(verdict.unwrap(), fits, "{password}");
        }
    }
}
