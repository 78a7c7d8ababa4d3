use std::time::Duration;

use flowai_actors::program::SecretError;
use serde::Deserialize;

use crate::exit::Exit;

/// A batch names the same fault for each of its videos.
const FIELDS_SHOWN: usize = 10;

/// What came of a call instead of an answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No answer: nothing listens there, or the connection broke.
    #[error("{url} cannot be reached: {reason}; is the farm running, and is FLOWAI_URL right?")]
    Unreachable {
        url: String,
        reason: String,
        /// The connection was there: the farm may have got the call.
        is_sent: bool,
    },
    /// No answer to a call that the farm may have got, for as long as one was waited for.
    #[error(
        "{last}; it may have been accepted nevertheless: look at `flowai jobs` or `flowai credits` before you send it again"
    )]
    Unsure { last: Box<ClientError> },
    /// The server said no.
    #[error(transparent)]
    Refused(Box<Problem>),
    /// The server answered with something that this client does not know.
    #[error("{url} answered in a way that this version does not understand: {reason}")]
    Answer { url: String, reason: String },
    #[error("not signed in at {url}: run `flowai login` or `flowai signup`, or set FLOWAI_API_KEY")]
    NotSignedIn { url: String },
    #[error("{field} {detail}")]
    Input { field: &'static str, detail: String },
    /// What was downloaded is not what the manifest names.
    #[error(
        "the clip arrived damaged: its sha256 is {got}, the manifest says {expected}; download it again"
    )]
    Damaged { expected: String, got: String },
    /// A secret of the environment that cannot be used.
    #[error(transparent)]
    Secret(#[from] SecretError),
    #[error("{what}: {source}")]
    Io {
        what: String,
        source: std::io::Error,
    },
}

/// An error body as RFC 9457 and FlowAI's conventions have it.
#[derive(Debug, Clone, Deserialize)]
pub struct Problem {
    pub status: u16,
    /// Stable, for programs.
    pub code: String,
    #[serde(default)]
    pub detail: String,
    #[serde(default)]
    pub errors: Vec<FieldProblem>,
    #[serde(default)]
    pub request_id: Option<String>,
    /// From the `Retry-After` header.
    #[serde(skip)]
    pub retry_after: Option<Duration>,
}

/// One field that cannot be honoured.
#[derive(Debug, Clone, Deserialize)]
pub struct FieldProblem {
    /// Where in the request, as a JSON pointer.
    pub pointer: String,
    #[serde(default)]
    pub detail: String,
}

impl std::error::Error for Problem {}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let code = &self.code;
        if self.errors.is_empty() {
            return match &self.detail[..] {
                "" => write!(f, "the server refused with status {} ({code})", self.status),
                detail => write!(f, "{detail} ({code})"),
            };
        }
        // The detail is a list of the same fields.
        write!(f, "this cannot be honoured ({code}):")?;
        for error in self.errors.iter().take(FIELDS_SHOWN) {
            let field = error.pointer.trim_start_matches('/').replace('/', ".");
            write!(f, "\n  {field}: {}", error.detail)?;
        }
        match self.errors.len().saturating_sub(FIELDS_SHOWN) {
            0 => Ok(()),
            more => write!(f, "\n  and {more} more"),
        }
    }
}

impl ClientError {
    pub fn exit(&self) -> Exit {
        match self {
            Self::Unreachable { .. } | Self::Unsure { .. } => Exit::Unreachable,
            Self::Refused(problem) => problem.exit(),
            Self::NotSignedIn { .. } => Exit::Denied,
            Self::Input { .. } | Self::Secret(_) => Exit::Usage,
            Self::Answer { .. } | Self::Damaged { .. } | Self::Io { .. } => Exit::Failure,
        }
    }

    /// The stable code of a refusal.
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Refused(problem) => Some(&problem.code),
            Self::Unreachable { .. }
            | Self::Unsure { .. }
            | Self::Answer { .. }
            | Self::NotSignedIn { .. }
            | Self::Input { .. }
            | Self::Damaged { .. }
            | Self::Secret(_)
            | Self::Io { .. } => None,
        }
    }

    /// Whether the farm says so of this very call. Who is counted out, or not known any more, is refused before it is looked at.
    pub(crate) fn is_verdict(&self) -> bool {
        match self {
            Self::Refused(problem) => !matches!(problem.status, 401 | 403 | 429 | 503),
            Self::Unreachable { .. } | Self::Answer { .. } | Self::Unsure { .. } => false,
            Self::NotSignedIn { .. }
            | Self::Input { .. }
            | Self::Damaged { .. }
            | Self::Secret(_)
            | Self::Io { .. } => true,
        }
    }

    /// Whether the farm may have carried the call out, although it did not say so.
    pub(crate) fn may_be_taken(&self) -> bool {
        matches!(self, Self::Unreachable { is_sent: true, .. })
    }

    /// The same call may succeed a little later: after this long, or when the caller likes.
    pub(crate) fn passes(&self) -> Option<Option<Duration>> {
        match self {
            Self::Unreachable { .. } => Some(None),
            Self::Refused(problem) if problem.status == 503 && problem.code != "not_configured" => {
                Some(problem.retry_after)
            }
            Self::Refused(problem) if problem.code == "idempotency_in_progress" => {
                Some(problem.retry_after)
            }
            Self::Refused(_)
            | Self::Unsure { .. }
            | Self::Answer { .. }
            | Self::NotSignedIn { .. }
            | Self::Input { .. }
            | Self::Damaged { .. }
            | Self::Secret(_)
            | Self::Io { .. } => None,
        }
    }
}

impl Problem {
    fn exit(&self) -> Exit {
        match (self.status, self.code.as_str()) {
            (401 | 403, _) => Exit::Denied,
            (402, _) => Exit::NoCredits,
            (404 | 410, _) => Exit::NotFound,
            (400 | 413 | 415 | 422, _) => Exit::Usage,
            (503, "draining" | "dependency_down" | "overloaded") => Exit::Unreachable,
            _ => Exit::Failure,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(json: &str) -> Problem {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn a_refusal_names_its_fields_and_code() {
        let refused = problem(
            r#"{"type":"about:blank","title":"x","status":422,"code":"validation_failed","detail":"the spec cannot be honoured",
                "errors":[{"pointer":"/frames","code":"out_of_range","detail":"must be 1..=64 (got 0)"},
                          {"pointer":"/adapters/0/weight","detail":"must be -4..=4 (got 9)"}]}"#,
        );
        assert_eq!(
            refused.to_string(),
            "this cannot be honoured (validation_failed):\n  frames: must be 1..=64 (got 0)\n  adapters.0.weight: must be -4..=4 (got 9)"
        );
    }

    #[test]
    fn a_fault_of_every_video_is_not_shown_two_hundred_times() {
        let field = |place: usize| format!(r#"{{"pointer":"/videos/{place}/steps"}}"#);
        let errors: Vec<String> = (0..200).map(field).collect();
        let refused = problem(&format!(
            r#"{{"status":422,"code":"validation_failed","errors":[{}]}}"#,
            errors.join(",")
        ));
        let shown = refused.to_string();
        assert_eq!(shown.lines().count(), 1 + FIELDS_SHOWN + 1, "{shown}");
        assert!(shown.contains("and 190 more"), "{shown}");
    }

    #[test]
    fn refusals_end_with_their_own_status() {
        let check = |status: u16, code: &str, exit: Exit| {
            let refused = problem(&format!(r#"{{"status":{status},"code":"{code}"}}"#));
            assert_eq!(
                ClientError::Refused(Box::new(refused)).exit(),
                exit,
                "{code}"
            );
        };
        check(401, "token_expired", Exit::Denied);
        check(402, "insufficient_credits", Exit::NoCredits);
        check(403, "scope_required", Exit::Denied);
        check(404, "not_found", Exit::NotFound);
        check(410, "content_expired", Exit::NotFound);
        check(409, "already_done", Exit::Failure);
        check(422, "validation_failed", Exit::Usage);
        check(429, "rate_limited", Exit::Failure);
        check(503, "draining", Exit::Unreachable);
        check(503, "not_configured", Exit::Failure);
    }

    #[test]
    fn only_what_may_pass_is_tried_again() {
        let check = |status: u16, code: &str, passes: bool| {
            let refused = problem(&format!(r#"{{"status":{status},"code":"{code}"}}"#));
            assert_eq!(
                ClientError::Refused(Box::new(refused)).passes().is_some(),
                passes,
                "{code}"
            );
        };
        check(503, "draining", true);
        check(503, "not_configured", false);
        check(409, "idempotency_in_progress", true);
        check(422, "validation_failed", false);
        check(429, "rate_limited", false);
    }
}
