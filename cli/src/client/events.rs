//! A job's event stream, read as server-sent events.

use std::time::Duration;

use eventsource_stream::{EventStreamError, Eventsource};
use futures::{Stream, StreamExt};
use reqwest::header::ACCEPT;
use reqwest::{Method, Response};
use serde::{Deserialize, Serialize};

use super::ClientError;
use super::transport::Transport;
use super::types::StartsIn;

/// Something that was said about a job.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A durable event: the job's state changed. `seq` counts the job's events.
    Changed { seq: u64, kind: String },
    /// How far the running attempt is; the newest counts, and none is kept.
    Progress(Progress),
    /// Where the job waits.
    Position(Position),
    /// The server lost the thread, or goes down, or the credential has ended: read the job and open the stream again, which
    /// says which of them it is.
    Resync,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    #[serde(default)]
    pub attempt: u32,
    pub phase: String,
    /// Steps done.
    pub step: u32,
    pub steps: u32,
    /// Seconds left by the node's own estimate.
    #[serde(default)]
    pub left_s: Option<f64>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Position {
    /// 1 is next.
    pub position: u32,
    #[serde(default)]
    pub reason: String,
    #[serde(default)]
    pub starts_in: Option<StartsIn>,
}

/// An open stream of one job's events.
pub(super) struct EventStream {
    events: std::pin::Pin<Box<dyn Stream<Item = Result<Event, ClientError>> + Send>>,
}

impl EventStream {
    /// Opens the stream behind the event `seen`.
    pub(super) async fn open(
        transport: &Transport,
        path: &str,
        seen: u64,
    ) -> Result<Self, ClientError> {
        let request = transport
            .request(Method::GET, path)?
            .header(ACCEPT, "text/event-stream")
            .header("Last-Event-ID", seen.to_string());
        let response: Response = transport.send(request).await?;
        let transport = transport.clone();
        let events = response
            .bytes_stream()
            .eventsource()
            .filter_map(move |event| {
                let event = match event {
                    Ok(event) => parse(&event.event, &event.id, &event.data),
                    Err(EventStreamError::Transport(error)) => {
                        Some(Err(transport.unreachable(&error)))
                    }
                    Err(EventStreamError::Utf8(_) | EventStreamError::Parser(_)) => {
                        Some(Err(ClientError::Answer {
                            url: transport.base().to_string(),
                            reason: "the event stream is damaged".to_owned(),
                        }))
                    }
                };
                std::future::ready(event)
            });
        Ok(Self {
            events: Box::pin(events),
        })
    }

    /// The next event; `None` when the server has closed the stream.
    pub(super) async fn next(&mut self) -> Option<Result<Event, ClientError>> {
        self.events.next().await
    }
}

/// Events of kinds that this version does not know are passed over, as long as they are not durable.
fn parse(kind: &str, id: &str, data: &str) -> Option<Result<Event, ClientError>> {
    let event = match kind {
        "progress" => serde_json::from_str(data).map(Event::Progress),
        "position" => serde_json::from_str(data).map(Event::Position),
        "snapshot" | "resync" | "revoked" => Ok(Event::Resync),
        _ => match id.parse() {
            Ok(seq) => Ok(Event::Changed {
                seq,
                kind: kind.to_owned(),
            }),
            Err(_) => return None,
        },
    };
    Some(event.map_err(|error| ClientError::Answer {
        url: format!("the event {kind}"),
        reason: error.to_string(),
    }))
}

/// How long a stream that cannot be opened again is tried before the server counts as unreachable: longer than an api
/// needs to restart.
pub const RECONNECT_MAX: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_by_their_kind() {
        let check = |kind: &str, id: &str, data: &str, expected: Option<Event>| {
            assert_eq!(
                parse(kind, id, data).transpose().unwrap(),
                expected,
                "{kind}"
            );
        };
        check(
            "done",
            "7",
            "{}",
            Some(Event::Changed {
                seq: 7,
                kind: "done".to_owned(),
            }),
        );
        check(
            "progress",
            "",
            r#"{"attempt":1,"phase":"denoising","step":3,"steps":9,"left_s":1.5,"newer":true}"#,
            Some(Event::Progress(Progress {
                attempt: 1,
                phase: "denoising".to_owned(),
                step: 3,
                steps: 9,
                left_s: Some(1.5),
            })),
        );
        check(
            "position",
            "",
            r#"{"position":2,"reason":"a paying user is served","starts_in":{"p50_s":4.0,"p90_s":9.5}}"#,
            Some(Event::Position(Position {
                position: 2,
                reason: "a paying user is served".to_owned(),
                starts_in: Some(StartsIn {
                    p50_s: 4.0,
                    p90_s: 9.5,
                }),
            })),
        );
        check("snapshot", "9", "{}", Some(Event::Resync));
        check("of-a-newer-server", "", "{}", None);
        assert!(parse("progress", "", "{").unwrap().is_err());
    }
}
