//! Goal: a file in the cache has the bytes that its name says, whatever the store sends, and what is there is not fetched again.
//! Method: the cache against a store that misbehaves.

use std::path::Path;

use flowai_actors::messages::Source;
use flowai_render_node::cache::{Cache, CacheLimits, FetchError};
use flowai_render_node::http;

use crate::kit::{Reply, Store, sha256};

const FILE: &[u8] = b"an adapter, for all the cache knows";

fn cache(dir: &Path, bytes_max: u64) -> Cache {
    let limits = CacheLimits {
        bytes_max,
        file_bytes_max: 1_000,
    };
    Cache::open(dir, limits, http::client().unwrap()).unwrap()
}

fn source(store: &Store, bytes: &[u8]) -> Source {
    Source {
        sha256: sha256(bytes),
        bytes: bytes.len() as u64,
        url: store.url.clone(),
    }
}

fn files(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[tokio::test]
async fn a_file_is_fetched_once_and_found_again_by_the_next_process() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::start(&[Reply::Body(FILE)]).await;
    let wanted = source(&store, FILE);
    {
        let cache = cache(dir.path(), 1_000);
        let held = cache.hold(&wanted).await.unwrap();
        assert_eq!(std::fs::read(held.path()).unwrap(), FILE);
        cache.hold(&wanted).await.unwrap();
        assert_eq!(cache.newest(), [wanted.sha256]);
    }
    std::fs::write(dir.path().join("left-by-a-crash.part"), b"half").unwrap();
    let cache = cache(dir.path(), 1_000);
    cache.hold(&wanted).await.unwrap();
    assert_eq!(store.seen().len(), 1);
    assert_eq!(files(dir.path()), [wanted.sha256.to_string()]);
}

#[tokio::test]
async fn a_short_outage_passes_unnoticed() {
    let dir = tempfile::tempdir().unwrap();
    let outage = [
        Reply::Status(503),
        Reply::Cut(FILE, 5),
        Reply::Body(b"garbled on the way"),
        Reply::Body(FILE),
    ];
    let store = Store::start(&outage).await;
    let held = cache(dir.path(), 1_000).hold(&source(&store, FILE)).await;
    assert_eq!(std::fs::read(held.unwrap().path()).unwrap(), FILE);
}

#[tokio::test]
async fn what_is_not_the_file_is_refused_and_leaves_nothing() {
    async fn check(reply: Reply, is: fn(&FetchError) -> bool) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::start(&[reply]).await;
        let error = cache(dir.path(), 1_000)
            .hold(&source(&store, FILE))
            .await
            .unwrap_err();
        assert!(is(&error), "{error}");
        let text = error.to_string();
        assert!(!text.contains(&store.url), "a URL is a credential: {text}");
        assert!(files(dir.path()).is_empty());
    }
    let other = b"an adapter, for all the cache KNOWS";
    check(Reply::Body(other), |error| {
        matches!(error, FetchError::Content { .. })
    })
    .await;
    check(Reply::Body(b"short"), |error| {
        matches!(error, FetchError::Length { received: 5, .. })
    })
    .await;
    check(Reply::Body(&[0; 900]), |error| {
        matches!(error, FetchError::Length { .. })
    })
    .await;
    check(Reply::Status(404), |error| {
        matches!(error, FetchError::Http { .. })
    })
    .await;
    // Nothing leads elsewhere than the leader meant.
    check(Reply::Status(302), |error| {
        matches!(error, FetchError::Http { .. })
    })
    .await;
}

#[tokio::test]
async fn a_file_over_the_limit_is_not_even_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::start(&[Reply::Body(FILE)]).await;
    let mut large = source(&store, FILE);
    large.bytes = 1_001;
    let refused = cache(dir.path(), 1_000_000).hold(&large).await;
    assert!(matches!(
        refused,
        Err(FetchError::TooLarge { max: 1_000, .. })
    ));
    assert!(store.seen().is_empty());
}

#[tokio::test]
async fn the_cache_stays_within_its_size_but_never_under_a_job() {
    let dir = tempfile::tempdir().unwrap();
    let cache = cache(dir.path(), 60);
    let store = Store::start(&[Reply::Body(FILE), Reply::Body(&[7; 40])]).await;
    let first = cache.hold(&source(&store, FILE)).await.unwrap();
    let second = cache.hold(&source(&store, &[7; 40])).await.unwrap();
    assert_eq!(files(dir.path()).len(), 2, "both are held");
    drop(first);
    assert_eq!(files(dir.path()), [second.sha256().to_string()]);
}
