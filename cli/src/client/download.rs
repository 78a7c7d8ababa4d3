//! Clips into files: whole and verified, or not at all.

use std::path::Path;

use flowai_actors::ids::Sha256;
use futures::StreamExt;
use reqwest::Response;
use sha2::Digest;
use tokio::fs;
use tokio::io::AsyncWriteExt;

use super::ClientError;
use super::transport::Transport;

/// Writes the body beside `path` and moves it there once its hash is the `expected` one.
pub(super) async fn save(
    transport: &Transport,
    content: Response,
    path: &Path,
    expected: &Sha256,
) -> Result<(), ClientError> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.part", std::process::id()));
    let unfinished = path.with_file_name(name);
    let saved = write(transport, content, &unfinished, expected).await;
    let moved = match saved {
        Ok(()) => fs::rename(&unfinished, path).await.map_err(writing(path)),
        Err(error) => Err(error),
    };
    if moved.is_err() {
        // Missing when it could not even be made; the error that counts is the one above.
        let _ = fs::remove_file(&unfinished).await;
    }
    moved
}

async fn write(
    transport: &Transport,
    content: Response,
    path: &Path,
    expected: &Sha256,
) -> Result<(), ClientError> {
    let mut file = fs::File::create(path).await.map_err(writing(path))?;
    let mut hash = sha2::Sha256::new();
    let mut chunks = content.bytes_stream();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|error| transport.unreachable(&error))?;
        hash.update(&chunk);
        file.write_all(&chunk).await.map_err(writing(path))?;
    }
    file.flush().await.map_err(writing(path))?;
    file.sync_all().await.map_err(writing(path))?;
    let got = Sha256::from_bytes(hash.finalize().into());
    if got == *expected {
        Ok(())
    } else {
        Err(ClientError::Damaged {
            expected: expected.to_string(),
            got: got.to_string(),
        })
    }
}

fn writing(path: &Path) -> impl FnOnce(std::io::Error) -> ClientError + '_ {
    move |source| ClientError::Io {
        what: format!("writing {}", path.display()),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn check(
        body: &'static [u8],
        named: &'static [u8],
    ) -> (Result<(), ClientError>, Option<Vec<u8>>, usize) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("clip.mp4");
        let transport = Transport::new(&"http://f.example".parse().unwrap(), None).unwrap();
        let expected = Sha256::from_bytes(sha2::Sha256::digest(named).into());
        let content = Response::from(http::Response::new(body));
        let saved = save(&transport, content, &path, &expected).await;
        let files = std::fs::read_dir(folder.path()).unwrap().count();
        (saved, std::fs::read(&path).ok(), files)
    }

    #[tokio::test]
    async fn a_clip_is_there_whole_or_not_at_all() {
        let (saved, file, files) = check(b"clip", b"clip").await;
        saved.unwrap();
        assert_eq!((file.as_deref(), files), (Some(b"clip".as_slice()), 1));

        let (saved, file, files) = check(b"cli", b"clip").await;
        assert!(
            matches!(saved, Err(ClientError::Damaged { .. })),
            "{saved:?}"
        );
        assert_eq!((file, files), (None, 0));
    }
}
