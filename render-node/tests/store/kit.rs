//! An object store that misbehaves as told, one answer a request.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse as _, Response};
use flowai_actors::ids::Sha256;
use futures::StreamExt as _;
use sha2::Digest as _;
use tokio::task::JoinHandle;

pub(crate) fn sha256(bytes: &[u8]) -> Sha256 {
    Sha256::from_bytes(sha2::Sha256::digest(bytes).into())
}

/// What the store does with one request.
#[derive(Clone)]
pub(crate) enum Reply {
    Status(u16),
    Body(&'static [u8]),
    /// Says that it sends all of it, and breaks off after the first bytes.
    Cut(&'static [u8], usize),
    /// One byte each half second.
    Trickle(&'static [u8]),
}

/// A request as the store saw it.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) method: Method,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

#[derive(Clone, Default)]
struct Script {
    replies: Arc<Mutex<VecDeque<Reply>>>,
    seen: Arc<Mutex<Vec<Seen>>>,
}

pub(crate) struct Store {
    pub(crate) url: String,
    script: Script,
    server: JoinHandle<()>,
}

impl Store {
    /// Answers in this order; the last answer is repeated.
    pub(crate) async fn start(replies: &[Reply]) -> Self {
        let script = Script::default();
        script
            .replies
            .lock()
            .unwrap()
            .extend(replies.iter().cloned());
        let app = Router::new().fallback(serve).with_state(script.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/object", listener.local_addr().unwrap());
        let server = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self {
            url,
            script,
            server,
        }
    }

    /// From now on, in place of what is left.
    pub(crate) fn answer_with(&self, replies: &[Reply]) {
        *self.script.replies.lock().unwrap() = replies.iter().cloned().collect();
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        std::mem::take(&mut self.script.seen.lock().unwrap())
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn serve(
    State(script): State<Script>,
    method: Method,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    script.seen.lock().unwrap().push(Seen {
        method,
        headers,
        body,
    });
    let reply = {
        let mut replies = script.replies.lock().unwrap();
        match replies.len() {
            1 => replies[0].clone(),
            _ => replies.pop_front().expect("no answer is left"),
        }
    };
    match reply {
        Reply::Status(status) => StatusCode::from_u16(status).unwrap().into_response(),
        Reply::Body(bytes) => bytes.into_response(),
        Reply::Trickle(bytes) => {
            let pieces = futures::stream::iter(bytes).then(|byte| async move {
                tokio::time::sleep(Duration::from_millis(500)).await;
                Ok::<_, std::io::Error>(Bytes::copy_from_slice(&[*byte]))
            });
            let body = Body::from_stream(pieces);
            ([("content-length", bytes.len().to_string())], body).into_response()
        }
        Reply::Cut(bytes, after) => {
            let pieces = [
                Ok(Bytes::from_static(&bytes[..after])),
                Err(std::io::Error::other("cut")),
            ];
            let body = Body::from_stream(futures::stream::iter(pieces));
            ([("content-length", bytes.len().to_string())], body).into_response()
        }
    }
}
