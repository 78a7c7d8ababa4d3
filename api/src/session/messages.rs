//! What a user session is told.

use flowai_actors::ids::{JobId, UserId};
use flowai_actors::kit::Reply;
use flowai_actors::messages::Live;

use super::stream::Stream;
use crate::auth::Credential;
use crate::error::ApiError;

/// What a stream is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// All jobs of the user; ids are the user's own count.
    User,
    /// One job; ids are the job's count.
    Job(JobId),
}

/// The wish to listen.
#[derive(Debug, Clone)]
pub struct OpenStream {
    pub user: UserId,
    /// Looked at again as long as the stream lives.
    pub credential: Credential,
    pub subject: Subject,
    /// The last id that the reader saw.
    pub since: Option<i64>,
    /// For a request that waits for something, and not for a reader of its own.
    pub is_wait: bool,
}

/// Messages of a session. All but `Open` and `Flush` may be lost.
#[derive(Debug)]
pub(super) enum SessionMessage {
    /// From a request (ask). Errors: `NotFound` for a job that is not the user's; `TooManyStreams`; the database's.
    Open {
        request: OpenStream,
        reply: Reply<Result<Stream, ApiError>>,
    },
    /// From a reader that left.
    Left { stream: u64 },
    /// From the link and from requests: there may be new events.
    Look,
    /// From the clock: this is the user's newest count. Also the moment to look whose credentials have ended.
    Head(i64),
    /// From the link. Only the newest of a job counts.
    Live(Live),
    /// From the session's own timer: held progress is due.
    Flush,
    /// From the shutdown.
    CloseAll,
}
