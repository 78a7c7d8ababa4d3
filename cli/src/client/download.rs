//! Clips into files: whole and verified, or not at all.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use flowai_actors::ids::Sha256;
use futures::StreamExt;
use reqwest::Response;
use sha2::Digest;
use tokio::fs::File;
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
    name.push(".");
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    // Removed when it is dropped, also with the future that writes it.
    let unfinished = tempfile::Builder::new()
        .prefix(&name)
        .suffix(".part")
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(folder.unwrap_or(Path::new(".")))
        .map_err(writing(path))?;
    let (file, unfinished) = unfinished.into_parts();
    write(transport, content, File::from_std(file), path, expected).await?;
    unfinished
        .persist(path)
        .map_err(|error| writing(path)(error.error))
}

async fn write(
    transport: &Transport,
    content: Response,
    mut file: File,
    path: &Path,
    expected: &Sha256,
) -> Result<(), ClientError> {
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
