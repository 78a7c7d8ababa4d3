//! Live updates as clients read them.

use std::collections::VecDeque;
use std::pin::Pin;

use bytes::Bytes;
use futures::{SinkExt as _, Stream, StreamExt as _};
use reqwest::Method;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use super::{Caller, DEADLINE};

/// One event of a stream.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Event {
    pub(crate) name: String,
    pub(crate) id: Option<String>,
    pub(crate) data: Value,
}

/// A stream of server-sent events. Dropping it disconnects.
pub(crate) struct Sse {
    chunks: Pin<Box<dyn Stream<Item = reqwest::Result<Bytes>> + Send>>,
    buffer: String,
    events: VecDeque<Event>,
}

impl Sse {
    /// Panics unless it opens.
    pub(crate) async fn open(caller: &Caller, path: &str, last_event_id: Option<&str>) -> Self {
        let mut request = caller.request(Method::GET, path);
        if let Some(id) = last_event_id {
            request = request.header("last-event-id", id);
        }
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 200, "{path}");
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        assert_eq!(response.headers()["cache-control"], "no-store");
        Self {
            chunks: Box::pin(response.bytes_stream()),
            buffer: String::new(),
            events: VecDeque::new(),
        }
    }

    /// The next event, or `None` at the end.
    pub(crate) async fn next(&mut self) -> Option<Event> {
        timeout(DEADLINE, self.read())
            .await
            .expect("an event in time")
    }

    /// The next event, which must be this one.
    #[track_caller]
    pub(crate) fn expect<'a>(&'a mut self, name: &'a str) -> impl Future<Output = Event> + 'a {
        let caller = std::panic::Location::caller();
        async move {
            let event = self.next().await;
            let event = event.unwrap_or_else(|| panic!("{caller}: end in place of {name}"));
            assert_eq!(event.name, name, "{caller}: {event:?}");
            event
        }
    }

    async fn read(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Some(event);
            }
            let chunk = self.chunks.next().await?.unwrap();
            self.buffer.push_str(std::str::from_utf8(&chunk).unwrap());
            while let Some(end) = self.buffer.find("\n\n") {
                let block: String = self.buffer.drain(..end + 2).collect();
                self.events.extend(event_of(&block));
            }
        }
    }
}

/// `None` for comments and `retry`.
fn event_of(block: &str) -> Option<Event> {
    let field = |name: &str| {
        let line = block.lines().find_map(|line| line.strip_prefix(name))?;
        Some(line.strip_prefix(':')?.trim_start().to_owned())
    };
    Some(Event {
        name: field("event")?,
        id: field("id"),
        data: serde_json::from_str(&field("data")?).unwrap(),
    })
}

/// A WebSocket.
pub(crate) struct Socket(WebSocketStream<MaybeTlsStream<TcpStream>>);

impl Socket {
    /// Opens one with a new ticket of the caller.
    pub(crate) async fn open(caller: &Caller) -> Self {
        let ticket = Self::ticket(caller).await;
        Self::with_ticket(caller, &ticket, None).await.unwrap()
    }

    pub(crate) async fn ticket(caller: &Caller) -> String {
        let made = caller.post("/v1/ws-tickets", &Value::Null).await;
        made.expect(201).json()["ticket"]
            .as_str()
            .unwrap()
            .to_owned()
    }

    /// The status is that of the refusal.
    pub(crate) async fn with_ticket(
        caller: &Caller,
        ticket: &str,
        origin: Option<&str>,
    ) -> Result<Self, u16> {
        let mut url = caller.url.join("/v1/ws").unwrap();
        url.set_scheme("ws").unwrap();
        let mut request = url.as_str().into_client_request().unwrap();
        let headers = request.headers_mut();
        let protocols = format!("flowai.v1, ticket.{ticket}");
        headers.insert("sec-websocket-protocol", protocols.parse().unwrap());
        if let Some(origin) = origin {
            headers.insert("origin", origin.parse().unwrap());
        }
        match connect_async(request).await {
            Ok((socket, response)) => {
                assert_eq!(response.headers()["sec-websocket-protocol"], "flowai.v1");
                Ok(Self(socket))
            }
            Err(Error::Http(response)) => Err(response.status().as_u16()),
            Err(error) => panic!("{error}"),
        }
    }

    pub(crate) async fn say(&mut self, message: &Value) {
        self.0
            .send(Message::text(message.to_string()))
            .await
            .unwrap();
    }

    /// The next event; its `Err` is the code with which the server closed.
    pub(crate) async fn next(&mut self) -> Result<Event, u16> {
        loop {
            let message = timeout(DEADLINE, self.0.next())
                .await
                .expect("a message in time");
            match message.expect("a close frame before the end").unwrap() {
                Message::Text(text) => {
                    let event: Value = serde_json::from_str(&text).unwrap();
                    return Ok(Event {
                        name: event["event"].as_str().unwrap().to_owned(),
                        id: event["id"].as_i64().map(|id| id.to_string()),
                        data: event["data"].clone(),
                    });
                }
                Message::Close(frame) => {
                    return Err(frame.map_or(CloseCode::Status, |frame| frame.code).into());
                }
                _ => {}
            }
        }
    }
}
