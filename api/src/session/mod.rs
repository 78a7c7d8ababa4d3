//! The user-session actor: one for each user with an open stream.
//!
//! Promises: every durable event of the user reaches each of their streams in order and once, whatever the leader's hints
//! do (they are made up for by a look every few seconds); progress reaches them at most four times a second a job; nobody
//! else's do. A reader that does not keep up is closed and starts again from what it saw last. The actor ends with its
//! last stream.

mod actor;
mod messages;
mod state;
mod stream;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use flowai_actors::ids::UserId;
use flowai_actors::kit::{
    Actor, AskError, BoundedRef, OnCancel, OnFailure, TaskError, TaskKind, Tasks, ask,
};
use flowai_actors::messages::Live;
use flowai_store::database::Database;

use self::actor::UserSession;
use self::messages::SessionMessage;
use crate::auth::Authenticator;
use crate::error::ApiError;
use crate::live::LiveBoard;

pub(crate) use self::messages::{OpenStream, Subject};
pub(crate) use self::stream::{CloseReason, Item, Stream};

/// Messages that wait for one session: hints may be lost beyond it.
const MAILBOX_MAX: usize = 256;
/// Users with open streams on one instance.
const SESSIONS_MAX: usize = 10_000;
/// A session looks for events that no hint announced, and at its streams' credentials, this often: a revoked sign-in is
/// closed within 5 s, what the authenticator believes included.
const LOOK_INTERVAL: Duration = Duration::from_millis(1_000);
/// Opening reads one page of events.
const OPEN_WITHIN: Duration = Duration::from_secs(10);

/// The background work of sessions.
#[derive(Debug, Clone, Copy)]
enum SessionTask {
    /// Tells every session to look.
    Look,
    /// Tells one session that held progress is due.
    Flush,
}

impl TaskKind for SessionTask {
    fn on_cancel(self) -> OnCancel {
        OnCancel::Abort
    }

    fn on_failure(self) -> OnFailure {
        match self {
            Self::Look => OnFailure::EndProcess,
            Self::Flush => OnFailure::Log,
        }
    }
}

/// All sessions of an instance. Cheap to clone.
#[derive(Clone)]
pub struct Sessions {
    inner: Arc<Inner>,
}

struct Inner {
    database: Database,
    authenticator: Authenticator,
    live: Arc<LiveBoard>,
    tasks: Tasks,
    open: Mutex<HashMap<UserId, BoundedRef<SessionMessage>>>,
}

impl Sessions {
    /// None are open yet. Must be called on a runtime.
    pub fn new(database: Database, authenticator: Authenticator, live: Arc<LiveBoard>) -> Self {
        let inner = Arc::new(Inner {
            database,
            authenticator,
            live,
            tasks: Tasks::new(),
            open: Mutex::default(),
        });
        let looked_after = Arc::downgrade(&inner);
        inner.tasks.spawn(SessionTask::Look, |_| async move {
            let mut interval = tokio::time::interval(LOOK_INTERVAL);
            loop {
                interval.tick().await;
                let Some(inner) = looked_after.upgrade() else {
                    return Ok(());
                };
                for session in inner.all() {
                    // A full mailbox has enough to do; the next look is near.
                    session.try_send(SessionMessage::Look).ok();
                }
            }
        });
        Self { inner }
    }

    /// Opens a stream, in the user's session or in a new one.
    ///
    /// # Errors
    /// `NotFound` for somebody else's job, `Overloaded`, `DependencyDown`.
    pub async fn open(&self, request: OpenStream) -> Result<Stream, ApiError> {
        // The session may end between finding it and asking it: once more reaches a new one.
        for _ in 0..3 {
            let session = self.session_of(request.user).await?;
            let asked = request.clone();
            let build = |reply| SessionMessage::Open {
                request: asked,
                reply,
            };
            match ask(&session, build, OPEN_WITHIN).await {
                Ok(opened) => return opened,
                Err(AskError::Gone | AskError::Rejected) => {
                    self.inner.forget(request.user, &session)
                }
                Err(AskError::Timeout | AskError::Full) => return Err(ApiError::Overloaded),
            }
        }
        Err(ApiError::Overloaded)
    }

    /// A hint that a user has new durable events.
    pub fn events_ready(&self, user: UserId) {
        if let Some(session) = self.inner.open().get(&user) {
            session.try_send(SessionMessage::Look).ok();
        }
    }

    /// The newest state of a job of a user.
    pub fn live(&self, live: Live) {
        if let Some(session) = self.inner.open().get(&live.user) {
            session.try_send(SessionMessage::Live(live)).ok();
        }
    }

    /// Ends every stream with `resync`: the instance goes down.
    pub async fn close_all(&self) {
        for session in self.inner.all() {
            let wait = Duration::from_secs(1);
            session.send(SessionMessage::CloseAll, wait).await.ok();
        }
    }

    /// Resolves when sessions are no longer looked after: the instance must end.
    pub async fn failed(&self) -> TaskError {
        self.inner.tasks.failed().await
    }

    async fn session_of(&self, user: UserId) -> Result<BoundedRef<SessionMessage>, ApiError> {
        {
            let open = self.inner.open();
            if let Some(session) = open.get(&user) {
                return Ok(session.clone());
            }
            if open.len() >= SESSIONS_MAX {
                return Err(ApiError::Overloaded);
            }
        }
        let session = UserSession {
            user,
            sessions: Arc::downgrade(&self.inner),
        };
        let (actor, _) = Actor::spawn(None, session, ()).await.map_err(|error| {
            tracing::error!(%error, "a session does not start");
            ApiError::Internal
        })?;
        let session = BoundedRef::new(actor, MAILBOX_MAX);
        // Of two that were started at once, the second ends unheard.
        let winner = self
            .inner
            .open()
            .entry(user)
            .or_insert_with(|| session.clone())
            .clone();
        if winner.cell().get_id() != session.cell().get_id() {
            session.cell().stop(None);
        }
        Ok(winner)
    }
}

impl Inner {
    fn open(&self) -> MutexGuard<'_, HashMap<UserId, BoundedRef<SessionMessage>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn all(&self) -> Vec<BoundedRef<SessionMessage>> {
        self.open().values().cloned().collect()
    }

    /// Removes a session that has ended, unless another has taken its place.
    fn forget(&self, user: UserId, ended: &BoundedRef<SessionMessage>) {
        let mut open = self.open();
        let is_this = open
            .get(&user)
            .is_some_and(|session| session.cell().get_id() == ended.cell().get_id());
        if is_this {
            open.remove(&user);
        }
    }
}
