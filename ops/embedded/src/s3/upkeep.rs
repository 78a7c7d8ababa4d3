//! What s3s-fs leaves undone around an object's file: it is on disk when its upload is answered, and nothing of it stays when it is
//! deleted.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use s3s::{S3Error, S3Result};

use super::listing::is_plain;

/// The files of one object below the server's root, as s3s-fs 0.14 names them.
#[derive(Debug)]
pub(super) struct ObjectFiles {
    root: PathBuf,
    bucket: PathBuf,
    content: PathBuf,
    /// Its content type, and its checksums.
    beside: [PathBuf; 2],
}

impl ObjectFiles {
    /// `None` for a key that leads somewhere else, which no object of the farm has.
    pub(super) fn of(root: &Path, bucket: &str, key: &str) -> Option<Self> {
        if !is_plain(bucket) || bucket.contains('/') || !key.split('/').all(is_plain) {
            return None;
        }
        let encode = |name: &str| BASE64_URL_SAFE_NO_PAD.encode(name);
        let beside = |what: &str| {
            let (bucket, key) = (encode(bucket), encode(key));
            root.join(format!(".bucket-{bucket}.object-{key}.{what}.json"))
        };
        Some(Self {
            root: root.to_owned(),
            bucket: root.join(bucket),
            content: root.join(bucket).join(key),
            beside: [beside("metadata"), beside("internal")],
        })
    }

    /// Returns when a power cut leaves the object whole.
    pub(super) async fn keep(self) -> S3Result<()> {
        run(move || {
            sync(&self.content)?;
            self.beside.iter().try_for_each(|path| sync(path))?;
            self.folders().try_for_each(sync)?;
            sync(&self.bucket)?;
            sync(&self.root)
        })
        .await
    }

    /// The object is deleted: so is what lay beside it, and the folders that it was the last one in. An upload that is about to put its file
    /// into one of them at this very moment fails, as the server's own fault, and is tried again by whoever sent it.
    pub(super) async fn forget(self) -> S3Result<()> {
        run(move || {
            if self.content.exists() {
                // It came again.
                return Ok(());
            }
            for path in &self.beside {
                there(fs::remove_file(path))?;
            }
            for folder in self.folders() {
                // Not empty, or somebody else was first.
                if fs::remove_dir(folder).is_err() {
                    break;
                }
            }
            Ok(())
        })
        .await
    }

    /// Those below the bucket, the innermost first.
    fn folders(&self) -> impl Iterator<Item = &Path> {
        let above = self.content.ancestors().skip(1);
        above.take_while(|folder| *folder != self.bucket)
    }
}

/// Somebody may delete it meanwhile.
fn sync(path: &Path) -> io::Result<()> {
    there(File::open(path).and_then(|file| file.sync_all()))
}

fn there(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

async fn run(work: impl FnOnce() -> io::Result<()> + Send + 'static) -> S3Result<()> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(S3Error::internal_error)?
        .map_err(S3Error::internal_error)
}
