//! An item of a session as clients read it, on SSE and WebSocket alike.

use flowai_actors::ids::UserId;
use flowai_actors::messages::LiveState;
use serde::Serialize;
use serde_json::{Value, json};

use crate::app::App;
use crate::session::{Item, Subject};
use crate::videos::present;

/// One event.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct WireEvent {
    pub event: &'static str,
    /// To resume behind; `progress` and `position` have none, so that the last id is always a durable one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<i64>,
    pub data: Value,
}

/// What a stream about `subject` sends for an item.
pub(crate) fn wire(app: &App, user: UserId, subject: Subject, item: &Item) -> WireEvent {
    match item {
        Item::Event(event) => WireEvent {
            event: event.kind.as_str(),
            id: Some(match subject {
                Subject::User => event.user_seq,
                Subject::Job(_) => event.seq,
            }),
            data: json!({
                "video": event.job,
                "seq": event.seq,
                "at": event.at,
                "data": event.data,
            }),
        },
        Item::Snapshot { id, videos } => {
            let videos = videos.iter().map(|video| present(app, user, video));
            WireEvent {
                event: "snapshot",
                id: Some(*id),
                data: json!({ "videos": videos.collect::<Vec<_>>() }),
            }
        }
        Item::Live { job, live } => match live {
            LiveState::Progress {
                attempt,
                phase,
                step,
                steps,
                left_s,
            } => WireEvent {
                event: "progress",
                id: None,
                data: json!({
                    "video": job, "attempt": attempt, "phase": phase,
                    "step": step, "steps": steps, "left_s": left_s,
                }),
            },
            LiveState::Position { position, waits } => WireEvent {
                event: "position",
                id: None,
                data: json!({
                    "video": job, "position": position, "code": waits.code, "reason": waits.reason,
                    "starts_in": waits.starts_in,
                }),
            },
        },
    }
}
