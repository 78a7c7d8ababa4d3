//! Goal: a file in the cache has the bytes that its name says, whatever the store sends, and what is there is not fetched again.
//! Method: the cache against a store that misbehaves.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use flowai_actors::limits::{FETCH_PATIENCE_MS, STORE_OUTAGE_MS};
use flowai_actors::messages::Source;
use flowai_render_node::cache::{Cache, CacheLimits, Disk, FetchError};
use flowai_render_node::http;
use flowai_render_node::pulse::Pulse;

use crate::kit::{Reply, Store, sha256};

const FILE: &[u8] = b"an adapter, for all the cache knows";

fn cache(dir: &Path, bytes_max: u64) -> Cache {
    let limits = CacheLimits {
        bytes_max,
        file_bytes_max: 1_000,
    };
    Cache::open(&Disk::default(), dir, limits, http::client().unwrap()).unwrap()
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
        let held = cache.hold(&wanted, &Pulse::unheard()).await.unwrap();
        assert_eq!(std::fs::read(held.path()).unwrap(), FILE);
        cache.hold(&wanted, &Pulse::unheard()).await.unwrap();
        assert_eq!(cache.newest(), [wanted.sha256]);
    }
    std::fs::write(dir.path().join("left-by-a-crash.part"), b"half").unwrap();
    let cache = cache(dir.path(), 1_000);
    cache.hold(&wanted, &Pulse::unheard()).await.unwrap();
    assert_eq!(store.seen().len(), 1);
    assert_eq!(files(dir.path()), [wanted.sha256.to_string()]);
}

/// A job that begins while its adapters are brought ahead waits for them instead of fetching them as well.
#[tokio::test]
async fn who_wants_a_file_that_is_on_its_way_waits_for_it() {
    const SLOW: &[u8] = b"slow";
    let dir = tempfile::tempdir().unwrap();
    let store = Store::start(&[Reply::Trickle(SLOW), Reply::Status(404)]).await;
    let cache = cache(dir.path(), 1_000);
    let (wanted, pulse) = (source(&store, SLOW), Pulse::unheard());
    let (waiting, beats) = counted();
    let (first, second) = tokio::join!(
        cache.hold(&wanted, &pulse),
        cache.hold_unread(&wanted, &waiting)
    );
    assert!(beats.load(Ordering::Relaxed) > 1, "who waits is alive");
    assert_eq!(first.unwrap().path(), second.unwrap().path());
    assert_eq!(store.seen().len(), 1);
    let usage = cache.usage();
    assert_eq!((usage.hits, usage.misses), (1, 1));

    // And fetches it when the other gives up.
    let other = Store::start(&[Reply::Trickle(b"another"), Reply::Body(b"another")]).await;
    let wanted = source(&other, b"another");
    let gives_up = tokio::time::timeout(Duration::from_secs(1), cache.hold(&wanted, &pulse));
    let (given_up, held) = tokio::join!(gives_up, cache.hold_unread(&wanted, &pulse));
    assert!(given_up.is_err() && held.is_ok());
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
    let held = cache(dir.path(), 1_000)
        .hold(&source(&store, FILE), &Pulse::unheard())
        .await;
    assert_eq!(std::fs::read(held.unwrap().path()).unwrap(), FILE);
}

#[tokio::test(start_paused = true)]
async fn an_outage_uses_up_no_try_of_what_comes_garbled_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut replies = vec![Reply::Status(503); 5];
    replies.extend([Reply::Body(b"maintenance"), Reply::Body(FILE)]);
    let store = Store::start(&replies).await;
    let held = cache(dir.path(), 1_000)
        .hold(&source(&store, FILE), &Pulse::unheard())
        .await;
    assert_eq!(std::fs::read(held.unwrap().path()).unwrap(), FILE);
}

/// Set for the process that may mount a small disk of its own.
const SMALL_DISK: &str = "FLOWAI_TEST_SMALL_DISK";

#[test]
fn a_full_disk() {
    let namespace = ["--map-root-user", "--mount"];
    let test = "fetched_files_are_what_was_named::a_full_disk_in_a_process_of_its_own";
    let program = std::env::current_exe().unwrap();
    let output = Command::new("unshare")
        .args(namespace)
        .arg(program)
        .args(["--exact", test, "--nocapture"])
        .env(SMALL_DISK, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{errors}");
    assert!(said.contains("1 passed"), "{said}");
}

/// The cache may be larger than what is left of the disk.
#[tokio::test]
async fn a_full_disk_in_a_process_of_its_own() {
    // Run by the test above.
    if std::env::var_os(SMALL_DISK).is_none() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=100k", "tmpfs"])
        .arg(dir.path())
        .status();
    assert!(mounted.unwrap().success());
    let disk = Disk::default();
    let limits = CacheLimits {
        bytes_max: 1_000_000,
        file_bytes_max: 100_000,
    };
    let open = |name: &str| {
        let dir = dir.path().join(name);
        Cache::open(&disk, &dir, limits, http::client().unwrap()).unwrap()
    };
    let (cache, other) = (open("one"), open("other"));
    let hold = async |cache: &Cache, file: &'static [u8]| {
        let store = Store::start(&[Reply::Body(file)]).await;
        cache.hold(&source(&store, file), &Pulse::unheard()).await
    };

    const FILES: [&[u8]; 3] = [&[1; 40_000], &[2; 40_000], &[3; 40_000]];
    for file in FILES {
        hold(&cache, file).await.unwrap();
    }
    assert_eq!(cache.newest(), [sha256(FILES[2]), sha256(FILES[1])]);

    // It comes in one piece, and takes its room from the other cache.
    const SMALL: &[u8] = &[4; 7_000];
    let full = dir.path().join("of somebody else");
    std::fs::write(full, [0; 16 << 10]).unwrap();
    let small = hold(&other, SMALL).await.unwrap();
    assert_eq!(std::fs::read(small.path()).unwrap(), SMALL);
    assert_eq!(cache.newest(), [sha256(FILES[2])]);

    // What is about to be written needs room before it is there.
    disk.keep_free(dir.path(), 80_000);
    assert_eq!(cache.newest(), []);
    assert_eq!(other.newest(), [sha256(SMALL)], "it is read");

    // What is read stays, and then there is no room.
    let _held = hold(&cache, FILES[0]).await.unwrap();
    let error = hold(&other, FILES[1]).await;
    assert!(matches!(error.unwrap_err(), FetchError::Disk { .. }));
}

/// The paused clock jumps over the waits.
#[tokio::test(start_paused = true)]
async fn an_outage_is_waited_for_with_a_pulse_but_not_for_ever() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::start(&[Reply::Status(503)]).await;
    let wanted = source(&store, FILE);
    let (pulse, beats) = counted();
    let cache = cache(dir.path(), 1_000);
    let healing = async {
        tokio::time::sleep(Duration::from_millis(STORE_OUTAGE_MS)).await;
        store.answer_with(&[Reply::Body(FILE)]);
    };
    let (held, ()) = tokio::join!(cache.hold(&wanted, &pulse), healing);
    assert_eq!(std::fs::read(held.unwrap().path()).unwrap(), FILE);
    // The longest wait between two tries is 3 s.
    assert!(u64::from(beats.load(Ordering::Relaxed)) >= STORE_OUTAGE_MS / 3_000);

    store.answer_with(&[Reply::Status(503)]);
    let mut other = wanted;
    other.sha256 = sha256(b"another");
    let started = tokio::time::Instant::now();
    let failed = cache.hold(&other, &pulse).await;
    assert!(matches!(failed, Err(FetchError::Http { .. })));
    let waited_ms = started.elapsed().as_millis() as u64;
    assert!(
        (FETCH_PATIENCE_MS..FETCH_PATIENCE_MS + 30_000).contains(&waited_ms),
        "{waited_ms}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_slow_transfer_beats_as_its_bytes_come_in() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::start(&[Reply::Trickle(FILE)]).await;
    let (pulse, beats) = counted();
    let held = cache(dir.path(), 1_000)
        .hold(&source(&store, FILE), &pulse)
        .await;
    assert_eq!(std::fs::read(held.unwrap().path()).unwrap(), FILE);
    assert!(beats.load(Ordering::Relaxed) as usize >= FILE.len());
}

#[tokio::test]
async fn a_file_that_rotted_on_the_disk_is_fetched_anew() {
    type Rot = fn(&Path) -> std::io::Result<()>;
    let rots: [Rot; 3] = [
        |path| std::fs::write(path, b"an adapter, for all the cache KNOWS"),
        |path| std::fs::write(path, b"short"),
        |path| std::fs::remove_file(path),
    ];
    for rot in rots {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::start(&[Reply::Body(FILE)]).await;
        let wanted = source(&store, FILE);
        let cache = cache(dir.path(), 1_000);
        let held = cache.hold(&wanted, &Pulse::unheard()).await.unwrap();
        let path = held.path().to_owned();
        drop(held);
        rot(&path).unwrap();
        let held = cache.hold(&wanted, &Pulse::unheard()).await.unwrap();
        assert_eq!(std::fs::read(held.path()).unwrap(), FILE);
        assert_eq!(store.seen().len(), 2);
        drop(held);

        // Nobody is told that it is here when it is not.
        rot(&path).unwrap();
        store.answer_with(&[Reply::Status(404)]);
        let gone = cache.hold(&wanted, &Pulse::unheard()).await;
        assert!(matches!(gone, Err(FetchError::Http { .. })));
        assert!(cache.newest().is_empty() && files(dir.path()).is_empty());
    }
}

/// Its bytes are for the reader to judge.
#[tokio::test]
async fn a_file_that_its_reader_judges_is_only_looked_at_for_its_length() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::start(&[Reply::Body(FILE)]).await;
    let wanted = source(&store, FILE);
    let cache = cache(dir.path(), 1_000);
    let pulse = Pulse::unheard();
    let path = dir.path().join(wanted.sha256.to_string());
    let other = b"an adapter, for all the cache KNOWS";
    drop(cache.hold_unread(&wanted, &pulse).await.unwrap());
    std::fs::write(&path, other).unwrap();
    drop(cache.hold_unread(&wanted, &pulse).await.unwrap());
    assert_eq!(std::fs::read(&path).unwrap(), other);

    cache.discard(wanted.sha256);
    assert!(cache.newest().is_empty() && files(dir.path()).is_empty());
    drop(cache.hold_unread(&wanted, &pulse).await.unwrap());
    assert_eq!(std::fs::read(&path).unwrap(), FILE);

    std::fs::write(&path, b"short").unwrap();
    drop(cache.hold_unread(&wanted, &pulse).await.unwrap());
    assert_eq!(std::fs::read(&path).unwrap(), FILE);
    std::fs::remove_file(&path).unwrap();
    store.answer_with(&[Reply::Status(404)]);
    let gone = cache.hold_unread(&wanted, &pulse).await;
    assert!(matches!(gone, Err(FetchError::Http { .. })));
    assert!(cache.newest().is_empty());
}

/// A pulse and how often it was heard.
fn counted() -> (Pulse, Arc<AtomicU32>) {
    let beats = Arc::new(AtomicU32::new(0));
    let counted = beats.clone();
    let pulse = Pulse::new(move || {
        counted.fetch_add(1, Ordering::Relaxed);
    });
    (pulse, beats)
}

#[tokio::test]
async fn what_is_not_the_file_is_refused_and_leaves_nothing() {
    async fn check(reply: Reply, is: fn(&FetchError) -> bool) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::start(&[reply]).await;
        let error = cache(dir.path(), 1_000)
            .hold(&source(&store, FILE), &Pulse::unheard())
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
    let refused = cache(dir.path(), 1_000_000)
        .hold(&large, &Pulse::unheard())
        .await;
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
    let first = cache
        .hold(&source(&store, FILE), &Pulse::unheard())
        .await
        .unwrap();
    let second = cache
        .hold(&source(&store, &[7; 40]), &Pulse::unheard())
        .await
        .unwrap();
    assert_eq!(files(dir.path()).len(), 2, "both are held");
    drop(first);
    assert_eq!(files(dir.path()), [second.sha256().to_string()]);
}
