//! Which objects there are: those of one folder cost what that folder holds.

use std::io;
use std::path::{Path, PathBuf};

use s3s::dto::*;
use s3s::{S3Error, S3Response, S3Result, s3_error};

/// As many as S3 lists at once.
const PAGE_KEYS_MAX: i32 = 1_000;

/// Objects by key, without delimiters: `ListObjectsV2` of Amazon S3's API reference.
///
/// # Errors
/// `NoSuchBucket`, `InvalidArgument`.
pub(super) async fn list(
    root: &Path,
    input: ListObjectsV2Input,
) -> S3Result<S3Response<ListObjectsV2Output>> {
    let bucket = root.join(&input.bucket);
    if !bucket.exists() {
        return Err(s3_error!(NoSuchBucket));
    }
    let prefix = input.prefix.clone().unwrap_or_default();
    let most = input.max_keys.unwrap_or(PAGE_KEYS_MAX);
    let most = usize::try_from(most.min(PAGE_KEYS_MAX))
        .map_err(|_| s3_error!(InvalidArgument, "max-keys is negative"))?;
    // What was listed before, or is to be passed over, whichever is later.
    let after = input
        .continuation_token
        .clone()
        .max(input.start_after.clone());
    let wanted = Wanted { prefix, after };
    let mut found = tokio::task::spawn_blocking(move || wanted.find(&bucket))
        .await
        .map_err(S3Error::internal_error)?
        .map_err(S3Error::internal_error)?;
    let is_truncated = most > 0 && found.len() > most;
    found.truncate(most);
    let next_continuation_token = found.last().and_then(|last| last.key.clone());
    Ok(S3Response::new(ListObjectsV2Output {
        key_count: i32::try_from(found.len()).ok(),
        contents: Some(found),
        name: Some(input.bucket),
        prefix: input.prefix,
        max_keys: input.max_keys,
        start_after: input.start_after,
        continuation_token: input.continuation_token,
        is_truncated: Some(is_truncated),
        next_continuation_token: next_continuation_token.filter(|_| is_truncated),
        ..Default::default()
    }))
}

struct Wanted {
    prefix: String,
    /// Keys behind this one.
    after: Option<String>,
}

impl Wanted {
    /// Everything, in the order of keys.
    fn find(&self, bucket: &Path) -> io::Result<Vec<Object>> {
        let folder = self
            .prefix
            .rsplit_once('/')
            .map_or("", |(folder, _)| folder);
        let mut found = Vec::new();
        // No key has other parts, and none leads out of the bucket.
        if self.prefix.contains('/') && !folder.split('/').all(is_plain) {
            return Ok(found);
        }
        let mut folders = vec![bucket.join(folder)];
        while let Some(folder) = folders.pop() {
            self.look_into(bucket, &folder, &mut folders, &mut found)?;
        }
        found.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(found)
    }

    fn look_into(
        &self,
        bucket: &Path,
        folder: &Path,
        folders: &mut Vec<PathBuf>,
        found: &mut Vec<Object>,
    ) -> io::Result<()> {
        let Some(entries) = there(std::fs::read_dir(folder))? else {
            return Ok(());
        };
        for entry in entries {
            let entry = entry?;
            // Somebody may delete it meanwhile.
            let Some(metadata) = there(entry.metadata())? else {
                continue;
            };
            let path = entry.path();
            let key = path.strip_prefix(bucket).ok().and_then(Path::to_str);
            let Some(key) = key else { continue };
            if metadata.is_dir() {
                // As far as both go.
                let length = key.len().min(self.prefix.len());
                if key.as_bytes()[..length] == self.prefix.as_bytes()[..length] {
                    folders.push(path);
                }
            } else if key.starts_with(&self.prefix) && Some(key) > self.after.as_deref() {
                found.push(Object {
                    key: Some(key.to_owned()),
                    last_modified: Some(metadata.modified()?.into()),
                    size: i64::try_from(metadata.len()).ok(),
                    ..Default::default()
                });
            }
        }
        Ok(())
    }
}

/// Whether a part of a key is the name of a file or folder, as all parts of the farm's keys are.
pub(super) fn is_plain(part: &str) -> bool {
    !matches!(part, "" | "." | "..")
}

fn there<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
