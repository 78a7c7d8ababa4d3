//! Goal: an upload is tried until the store has it, takes "it is there" for success, and says when another URL is needed.
//! Method: the uploader against a store that misbehaves.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::time::Duration;

use axum::http::Method;
use flowai_actors::limits::{STORE_OUTAGE_MS, TARGET_PATIENCE_MS};
use flowai_actors::messages::{ArtefactFile, Target};
use flowai_render_node::pulse::Pulse;
use flowai_render_node::uploader::{UploadError, Uploader};

use crate::kit::{Reply, Store};

const CLIP: &[u8] = b"not really a clip, but bytes";

fn target(store: &Store) -> Target {
    Target {
        file: ArtefactFile::Clip,
        url: store.url.clone(),
        headers: vec![
            ("content-type".to_owned(), "video/mp4".to_owned()),
            ("if-none-match".to_owned(), "*".to_owned()),
        ],
    }
}

async fn put(store: &Store, target: &Target) -> Result<(), UploadError> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(CLIP).unwrap();
    let put = Uploader::new().unwrap();
    let result = put.put(target, file.path(), &Pulse::unheard()).await;
    if let Err(error) = &result {
        assert!(
            !error.to_string().contains(&store.url),
            "a URL is a credential: {error}"
        );
    }
    result
}

#[tokio::test]
async fn the_bytes_go_with_their_length_and_the_signed_headers() {
    let store = Store::start(&[Reply::Status(200)]).await;
    put(&store, &target(&store)).await.unwrap();
    let seen = store.seen();
    assert_eq!(seen.len(), 1);
    assert_eq!((&seen[0].method, &seen[0].body[..]), (&Method::PUT, CLIP));
    let header = |name: &str| seen[0].headers[name].to_str().unwrap();
    assert_eq!(header("content-length"), CLIP.len().to_string());
    assert_eq!(header("content-type"), "video/mp4");
    assert_eq!(header("if-none-match"), "*");
    assert!(!seen[0].headers.contains_key("transfer-encoding"));
}

#[tokio::test]
async fn it_is_tried_again_and_once_there_it_is_there() {
    // The second request is the one whose answer was lost: the object lies there already.
    let store = Store::start(&[Reply::Status(503), Reply::Status(412)]).await;
    put(&store, &target(&store)).await.unwrap();
    let bodies: Vec<_> = store.seen().into_iter().map(|seen| seen.body).collect();
    assert_eq!(bodies, [CLIP, CLIP], "whole each time");
}

/// The paused clock jumps over the waits.
#[tokio::test(start_paused = true)]
async fn an_expired_url_is_said_at_once_and_an_outage_while_the_url_may_still_live() {
    let expired = Store::start(&[Reply::Status(403)]).await;
    let refused = put(&expired, &target(&expired)).await;
    assert!(matches!(
        refused,
        Err(UploadError::Refused { status: 403, .. })
    ));
    assert_eq!(expired.seen().len(), 1);

    let down = Store::start(&[Reply::Status(500)]).await;
    let started = tokio::time::Instant::now();
    let failed = put(&down, &target(&down)).await;
    assert!(matches!(failed, Err(UploadError::Http { .. })));
    let waited_ms = started.elapsed().as_millis() as u64;
    assert!(
        (TARGET_PATIENCE_MS..2 * TARGET_PATIENCE_MS).contains(&waited_ms),
        "{waited_ms}"
    );
    assert!(down.seen().len() as u64 > STORE_OUTAGE_MS / 3_000);
}

/// The clock is moved on while the store has read half of the file.
#[tokio::test]
async fn a_long_upload_goes_on_for_as_long_as_it_moves() {
    const HALF: usize = 4 << 20;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/clip", listener.local_addr().unwrap());
    let (half_read, half) = tokio::sync::oneshot::channel();
    let (go_on, told) = std::sync::mpsc::channel();
    let store = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut half = vec![0; HALF];
        stream.read_exact(&mut half).unwrap();
        half_read.send(()).unwrap();
        told.recv().unwrap();
        let head = half.windows(4).position(|end| end == b"\r\n\r\n").unwrap() + 4;
        let mut rest = vec![0; HALF + head];
        stream.read_exact(&mut rest).unwrap();
        stream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
            .unwrap();
        // Whoever sends it again finds nobody.
        drop(listener);
    });
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&vec![7; 2 * HALF]).unwrap();
    let target = Target {
        file: ArtefactFile::Clip,
        url,
        headers: Vec::new(),
    };
    let path = file.path().to_owned();
    let put = tokio::spawn(async move {
        let uploader = Uploader::new().unwrap();
        uploader.put(&target, &path, &Pulse::unheard()).await
    });
    half.await.unwrap();
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(60)).await;
    tokio::time::resume();
    go_on.send(()).unwrap();
    put.await.unwrap().unwrap();
    store.join().unwrap();
}

#[tokio::test]
async fn a_header_that_http_does_not_know_is_refused() {
    let store = Store::start(&[Reply::Status(200)]).await;
    let mut target = target(&store);
    target
        .headers
        .push(("bad\nname".to_owned(), "x".to_owned()));
    assert!(matches!(
        put(&store, &target).await,
        Err(UploadError::Header(_))
    ));
    assert!(store.seen().is_empty());
}
