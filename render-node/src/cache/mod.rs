//! Files by their sha256 on disk: adapters and pictures are fetched once and checked before anyone sees them.
//!
//! A name in the folder is the hash of the content. A file gets its name only after every byte was hashed, so a crash
//! leaves parts (`*.part`, deleted at the next start), never a wrong file. Disks rot, and one flipped bit could be a wrong clip
//! with a manifest that looks right, so it is hashed again by whoever reads it for a job: a picture here ([`Cache::hold`]); an
//! adapter, which may have a gigabyte and may be fused already, by the engine as it loads it ([`Cache::hold_unread`]). What is
//! not as its name says leaves the cache and is fetched anew. When the cache is over its size the file that was not used for
//! the longest goes, and so it does where the disk is full, whichever cache of it wants room; a file that a job reads never goes.

mod disk;
mod error;

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use flowai_actors::ids::Sha256;
use flowai_actors::limits::FETCH_PATIENCE_MS;
use flowai_actors::messages::Source;
use flowai_model::Sha256Digest;
use flowai_model::lru::{Lru, LruUsage};
use futures::StreamExt as _;
use sha2::Digest as _;
use tokio::io::AsyncWriteExt as _;
use uuid::Uuid;

pub use disk::Disk;
pub use error::FetchError;

use crate::http::{self, HttpError};
use crate::pulse::Pulse;

const PART_EXTENSION: &str = "part";

/// How large a cache and its files may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheLimits {
    /// All files together. Passed only while jobs read more than that.
    pub bytes_max: u64,
    /// One file.
    pub file_bytes_max: u64,
}

/// A folder of files known by hash. Cheap to clone; all clones are the same cache. One process owns the folder.
#[derive(Debug, Clone)]
pub struct Cache {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    limits: CacheLimits,
    disk: Disk,
    client: reqwest::Client,
    index: Mutex<Index>,
    /// Held for as long as a file is fetched: who else wants it waits, and finds it here.
    fetching: Mutex<HashMap<Sha256, Weak<tokio::sync::Mutex<()>>>>,
}

type Index = Lru<Sha256, ()>;

/// A file of the cache that stays where it is for as long as this lives.
#[derive(Debug)]
pub struct Held {
    inner: Arc<Inner>,
    sha256: Sha256,
    path: PathBuf,
}

impl Held {
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn sha256(&self) -> Sha256 {
        self.sha256
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.inner.index().release(&self.sha256);
        self.inner.evict();
    }
}

impl Cache {
    /// Opens the folder, which lies on `disk`, makes it if it is not there, and clears what a crash left.
    ///
    /// # Errors
    /// The folder cannot be made or read.
    pub fn open(
        disk: &Disk,
        dir: &Path,
        limits: CacheLimits,
        client: reqwest::Client,
    ) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let mut found = Vec::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            match entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse::<Sha256>().ok())
            {
                Some(sha256) if metadata.is_file() => {
                    found.push((metadata.modified()?, sha256, metadata.len()))
                }
                _ if entry.path().extension() == Some(PART_EXTENSION.as_ref()) => {
                    fs::remove_file(entry.path())?;
                }
                _ => {
                    tracing::warn!(path = %entry.path().display(), "file in the cache folder is not the cache's")
                }
            }
        }
        found.sort();
        let mut index = Index::new(limits.bytes_max);
        for (_, sha256, bytes) in found {
            index.insert(sha256, (), bytes);
        }
        let inner = Arc::new(Inner {
            dir: dir.to_owned(),
            limits,
            disk: disk.clone(),
            client,
            index: Mutex::new(index),
            fetching: Mutex::default(),
        });
        disk.joins(&inner);
        inner.evict();
        Ok(Self { inner })
    }

    /// The file of `source`, fetched unless it is here and whole, for [`FETCH_PATIENCE_MS`] while the store is down. `pulse`
    /// beats while bytes come in.
    ///
    /// # Errors
    /// See [`FetchError`]. Nothing is left of a file that did not come whole.
    pub async fn hold(&self, source: &Source, pulse: &Pulse) -> Result<Held, FetchError> {
        if self.is_whole(source.sha256).await
            && let Some(held) = self.hold_present(source.sha256)
        {
            return Ok(held);
        }
        self.fetch(source, pulse).await
    }

    /// [`Cache::hold`] for a reader that compares the bytes with the name itself and calls [`Cache::discard`] when they differ:
    /// a file that is here is only looked at for its length.
    ///
    /// # Errors
    /// As [`Cache::hold`].
    pub async fn hold_unread(&self, source: &Source, pulse: &Pulse) -> Result<Held, FetchError> {
        let sha256 = source.sha256;
        if let Some(held) = self.hold_present(sha256) {
            let problem = match fs::metadata(held.path()) {
                Ok(metadata) if metadata.len() == source.bytes => return Ok(held),
                Ok(metadata) => format!("it has {} bytes", metadata.len()),
                Err(error) => error.to_string(),
            };
            drop(held);
            rotten(sha256, &problem);
            self.discard(sha256);
        }
        self.fetch(source, pulse).await
    }

    async fn fetch(&self, source: &Source, pulse: &Pulse) -> Result<Held, FetchError> {
        const PATIENCE: Duration = Duration::from_millis(FETCH_PATIENCE_MS);
        let max = self.inner.limits.file_bytes_max;
        if source.bytes > max {
            return Err(FetchError::TooLarge {
                sha256: source.sha256,
                bytes: source.bytes,
                max,
            });
        }
        let fetching = self.inner.fetching(source.sha256);
        let _alone = match fetching.try_lock() {
            Ok(alone) => alone,
            Err(_) => {
                // It may be read ahead, and then nobody hears of its bytes.
                let alone = pulse.beat_while(fetching.lock()).await;
                // Whoever was before has fetched it, unless that failed.
                if let Some(held) = self.hold_present(source.sha256) {
                    return Ok(held);
                }
                alone
            }
        };
        let download = || self.download(source, pulse);
        let part = loop {
            let part = http::retry(PATIENCE, pulse, FetchError::again, download).await;
            match part {
                Err(error) if error.is_for_room() && self.inner.disk.make_room(source.bytes) => {
                    tracing::warn!(%error, "files that no job reads left the caches to make room");
                }
                part => break part?,
            }
        };
        let path = self.inner.path(source.sha256);
        let held = {
            let mut index = self.inner.index();
            fs::rename(&part.path, &path).map_err(|source| disk(&path, source))?;
            index.insert_held(source.sha256, (), source.bytes);
            self.held(source.sha256)
        };
        self.inner.evict();
        Ok(held)
    }

    /// Whether the file is here with the bytes that its name says. One that has rotted leaves the cache.
    pub async fn is_whole(&self, sha256: Sha256) -> bool {
        if self.inner.index().peek(&sha256).is_none() {
            return false;
        }
        let path = self.inner.path(sha256);
        let hashing = tokio::task::spawn_blocking(move || Sha256Digest::of_file(&path));
        let problem = match hashing.await.map_err(io::Error::other).flatten() {
            Ok(content) if content.as_bytes() == sha256.as_bytes() => return true,
            Ok(content) => format!("its bytes are {content}"),
            Err(error) => error.to_string(),
        };
        rotten(sha256, &problem);
        self.discard(sha256);
        false
    }

    /// Takes a file out of the cache, so that the next job fetches it anew. One that another job still reads stays.
    pub fn discard(&self, sha256: Sha256) {
        let mut index = self.inner.index();
        if index.remove(&sha256).is_some() {
            self.inner.delete(sha256);
        }
    }

    /// The hashes of all files, the newest in use first.
    pub fn newest(&self) -> Vec<Sha256> {
        self.inner.index().newest()
    }

    pub fn usage(&self) -> LruUsage {
        self.inner.index().usage()
    }

    fn hold_present(&self, sha256: Sha256) -> Option<Held> {
        self.inner.index().hold(&sha256)?;
        let held = self.held(sha256);
        // The order of use outlives the process in the files' times; without it eviction is only less apt.
        let touched =
            fs::File::open(held.path()).and_then(|file| file.set_modified(SystemTime::now()));
        if let Err(error) = touched {
            tracing::warn!(%sha256, %error, "time of a cached file was not set");
        }
        Some(held)
    }

    /// Only for a file whose holder was counted.
    fn held(&self, sha256: Sha256) -> Held {
        Held {
            inner: self.inner.clone(),
            sha256,
            path: self.inner.path(sha256),
        }
    }

    async fn download(&self, source: &Source, pulse: &Pulse) -> Result<Part, FetchError> {
        let deadline = http::transfer_deadline(source.bytes);
        match tokio::time::timeout(deadline, self.receive(source, pulse)).await {
            Ok(result) => result,
            Err(_) => Err(FetchError::Http {
                sha256: source.sha256,
                source: HttpError::Slow,
            }),
        }
    }

    async fn receive(&self, source: &Source, pulse: &Pulse) -> Result<Part, FetchError> {
        let sha256 = source.sha256;
        let http = |error: HttpError| FetchError::Http {
            sha256,
            source: error,
        };
        let response = self.inner.client.get(&source.url).send().await;
        let response = response.map_err(|error| http(error.into()))?;
        if !response.status().is_success() {
            return Err(http(response.status().into()));
        }

        let part = Part::new(&self.inner.dir, sha256);
        let failed = |source| disk(&part.path, source);
        let mut file = tokio::fs::File::create_new(&part.path)
            .await
            .map_err(failed)?;
        let mut hasher = sha2::Sha256::new();
        let mut received = 0;
        let mut body = response.bytes_stream();
        while let Some(piece) = body.next().await {
            let piece = piece.map_err(|error| http(error.into()))?;
            pulse.beat();
            received += piece.len() as u64;
            if received > source.bytes {
                break;
            }
            hasher.update(&piece);
            file.write_all(&piece).await.map_err(failed)?;
        }
        if received != source.bytes {
            return Err(FetchError::Length {
                sha256,
                announced: source.bytes,
                received,
            });
        }
        let content = Sha256::from_bytes(hasher.finalize().into());
        if content != sha256 {
            return Err(FetchError::Content {
                wanted: sha256,
                received: content,
            });
        }
        // The last piece may be on its way still, and only this says what became of it.
        file.flush().await.map_err(failed)?;
        // Before the rename: else a power cut could leave the name without the bytes.
        file.sync_all().await.map_err(failed)?;
        Ok(part)
    }
}

impl Inner {
    fn path(&self, sha256: Sha256) -> PathBuf {
        self.dir.join(sha256.to_string())
    }

    fn evict(&self) {
        let mut index = self.index();
        let evicted = index.evict();
        evicted.into_iter().for_each(|sha256| self.delete(sha256));
    }

    /// Takes out so many bytes, or all that may go. How many went.
    fn free(&self, bytes: u64) -> u64 {
        let mut index = self.index();
        let before = index.usage().bytes;
        let evicted = index.free(bytes);
        evicted.into_iter().for_each(|sha256| self.delete(sha256));
        before - index.usage().bytes
    }

    fn fetching(&self, sha256: Sha256) -> Arc<tokio::sync::Mutex<()>> {
        let fetching = self.fetching.lock();
        let mut fetching = fetching.unwrap_or_else(PoisonError::into_inner);
        fetching.retain(|_, lock| lock.strong_count() > 0);
        if let Some(lock) = fetching.get(&sha256).and_then(Weak::upgrade) {
            return lock;
        }
        let lock = Arc::default();
        fetching.insert(sha256, Arc::downgrade(&lock));
        lock
    }

    /// While the index is locked: the same file may be on its way in again.
    fn delete(&self, sha256: Sha256) {
        if let Err(error) = fs::remove_file(self.path(sha256)) {
            tracing::warn!(%sha256, %error, "file was not deleted from the cache");
        }
    }

    /// The index is whole between two calls of its methods, so a panic elsewhere does not make it unusable.
    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A file on its way in; deleted unless it was renamed.
struct Part {
    path: PathBuf,
}

impl Part {
    fn new(dir: &Path, sha256: Sha256) -> Self {
        let name = format!("{sha256}-{}.{PART_EXTENSION}", Uuid::new_v4());
        Self {
            path: dir.join(name),
        }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        match fs::remove_file(&self.path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                tracing::warn!(path = %self.path.display(), %error, "partial file was not deleted")
            }
        }
    }
}

fn rotten(sha256: Sha256, problem: &str) {
    tracing::warn!(%sha256, problem, "cached file is not what its name says and is dropped");
}

fn disk(path: &Path, source: io::Error) -> FetchError {
    FetchError::Disk {
        path: path.to_owned(),
        source,
    }
}
