//! The node's certificate, renewed at half of its life with a new key that never leaves the node.

use std::path::PathBuf;
use std::time::Duration;

use flowai_actors::ids::{Epoch, NodeId};
use flowai_actors::link::pki::{Identity, PkiError, SigningRequest, now_s};
use flowai_actors::link::{LinkStartError, NodeLink as _, RactorLink, Role};
use flowai_actors::membership::{RenewCertificate, RenewCertificateAnswer};
use flowai_actors::wire::{self, QuestionError};

/// Clocks are set while programs sleep: nothing here sleeps for longer without a look at the time.
const LOOK_S_MAX: i64 = 60;
/// A leader signs in one transaction.
const ANSWER: Duration = Duration::from_secs(5);
/// Between tries there is at most this share of what is left of the certificate.
const TRIES_IN_WHAT_IS_LEFT: i64 = 20;

/// Why a node's certificate is of no use any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lapsed {
    /// Its time is over.
    Expired,
    /// An operator revoked the node.
    Revoked,
}

/// Why this try renewed nothing.
#[derive(Debug, thiserror::Error)]
enum NotRenewed {
    #[error("the node was revoked")]
    Revoked,
    #[error("no leader is linked")]
    NoLeader,
    #[error("the leader has no CA key; set its FLOWAI_CA_DIR")]
    NoAuthority,
    #[error("the leader does not sign it: {0}")]
    Invalid(String),
    #[error(transparent)]
    Question(#[from] QuestionError),
    #[error(transparent)]
    Pki(#[from] PkiError),
    #[error(transparent)]
    Link(#[from] LinkStartError),
}

/// Whose certificate it is, and where it lies.
#[derive(Debug)]
pub struct Keeper {
    pub node: NodeId,
    pub identity: Identity,
    /// Where the identity lies; must be writable.
    pub folder: PathBuf,
}

impl Keeper {
    /// Whether the certificate's time is over.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn has_expired(&self) -> Result<bool, PkiError> {
        Ok(self.identity.validity_s()?.1 <= now_s())
    }

    /// Renews the certificate again and again; resolves when it is of no use any more.
    ///
    /// # Errors
    /// The certificate cannot be read.
    pub async fn keep_valid(mut self, link: &RactorLink) -> Result<Lapsed, PkiError> {
        let (from, mut until) = self.identity.validity_s()?;
        let mut renew_at = from + (until - from) / 2;
        loop {
            let now = now_s();
            if until <= now {
                return Ok(Lapsed::Expired);
            }
            if now < renew_at {
                pause(renew_at.min(until) - now).await;
                continue;
            }
            match self.renew(link).await {
                Ok(()) => {
                    tracing::info!(node = %self.node, "certificate is renewed");
                    until = self.identity.validity_s()?.1;
                    // Not from its beginning, which lies back in time for clocks that are behind.
                    renew_at = now + (until - now) / 2;
                }
                Err(NotRenewed::Revoked) => return Ok(Lapsed::Revoked),
                Err(error) => {
                    tracing::warn!(%error, seconds_left = until - now, "certificate is not renewed yet");
                    pause((until - now) / TRIES_IN_WHAT_IS_LEFT).await;
                }
            }
        }
    }

    async fn renew(&mut self, link: &RactorLink) -> Result<(), NotRenewed> {
        let peers = link.peers().into_iter().map(|peer| peer.id);
        let leader = peers
            .into_iter()
            .find(|peer| peer.role() == Role::Coordinator)
            .ok_or(NotRenewed::NoLeader)?;
        let request = SigningRequest::generate()?;
        let question = RenewCertificate {
            node: self.node.clone(),
            signing_request: request.pem()?,
        };
        match wire::ask(link, &leader, Epoch::ZERO, &question, ANSWER).await? {
            RenewCertificateAnswer::Renewed { certificate } => {
                let renewed = self.identity.renewed(request, &certificate)?;
                renewed.replace(&self.folder)?;
                link.renew(&renewed)?;
                self.identity = renewed;
                Ok(())
            }
            RenewCertificateAnswer::Revoked => Err(NotRenewed::Revoked),
            RenewCertificateAnswer::NoAuthority => Err(NotRenewed::NoAuthority),
            RenewCertificateAnswer::Invalid { reason } => Err(NotRenewed::Invalid(reason)),
        }
    }
}

async fn pause(seconds: i64) {
    let seconds = seconds.clamp(1, LOOK_S_MAX).unsigned_abs();
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}
