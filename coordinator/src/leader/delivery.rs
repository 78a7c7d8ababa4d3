//! Whether what a node says it delivered lies in the object store.

use std::collections::HashMap;
use std::future::Future;
use std::time::Duration;

use flowai_actors::messages::{ArtefactFile, AttemptRef, Ended, Outcome as Told};
use flowai_store::journal::{artefact_key, artefacts_prefix};
use flowai_store::objects::{Objects, ObjectsError};

use super::event::{Event, NotDelivered};

/// Of one question, with all tries of the client itself. If the store does not answer by then, the node is to tell its end
/// again, and all files are looked at anew.
const ANSWER_DEADLINE: Duration = Duration::from_secs(5);
/// As many as S3 lists at once, and more than there can be: the clip's own files, and a preview for some of its steps.
const FILES_MAX: i32 = 1_000;

/// Whether every file of a rendered attempt is there, clip and keyframe with the length that was told. Their bytes are those
/// of the hashes that were signed into the uploads.
pub(super) async fn verify(objects: &Objects, ended: Box<Ended>) -> Event {
    let result = look(objects, &ended).await;
    Event::Verified { ended, result }
}

async fn look(objects: &Objects, ended: &Ended) -> Result<(), NotDelivered> {
    let Told::Rendered {
        clip_bytes,
        manifest,
        ..
    } = &ended.outcome
    else {
        return Ok(());
    };
    let files = ArtefactFile::of(&manifest.spec);
    let lengths = lengths(objects, ended.at, &files).await;
    let lengths = lengths.map_err(NotDelivered::Unanswered)?;
    for file in files {
        let name = file.file_name();
        let told = match file {
            ArtefactFile::Clip => Some(*clip_bytes),
            ArtefactFile::Keyframe => manifest.keyframe.as_ref().map(|keyframe| keyframe.bytes),
            ArtefactFile::Poster | ArtefactFile::Preview | ArtefactFile::Spritesheet => None,
        };
        let detail = match (lengths.get(&key(ended.at, file)), told) {
            (Some(found), Some(told)) if *found != told => {
                format!("{name} has {found} bytes, {told} were told")
            }
            (Some(_), _) => continue,
            (None, _) => format!("{name} does not lie in the object store"),
        };
        return Err(NotDelivered::Missing(detail));
    }
    Ok(())
}

fn key(at: AttemptRef, file: ArtefactFile) -> String {
    artefact_key(at.job, at.attempt, file)
}

/// Bytes of those that are there, by their keys.
async fn lengths(
    objects: &Objects,
    at: AttemptRef,
    files: &[ArtefactFile],
) -> Result<HashMap<String, u64>, String> {
    // One question for the clip and all beside it: a client and a server need as long for one file as for all.
    let prefix = artefacts_prefix(at.job, at.attempt);
    let beside = answer(&prefix, objects.list(&prefix, None, FILES_MAX));
    let keyframe = async {
        if !files.contains(&ArtefactFile::Keyframe) {
            return Ok(None);
        }
        let key = key(at, ArtefactFile::Keyframe);
        let head = answer(&key, objects.head(&key)).await?;
        Ok(head.map(|head| (key, head.length)))
    };
    let (beside, keyframe) = tokio::try_join!(beside, keyframe)?;
    let beside = beside.into_iter().map(|entry| (entry.key, entry.length));
    Ok(beside.chain(keyframe).collect())
}

async fn answer<T>(
    key: &str,
    question: impl Future<Output = Result<T, ObjectsError>>,
) -> Result<T, String> {
    match tokio::time::timeout(ANSWER_DEADLINE, question).await {
        Ok(answer) => answer.map_err(|error| error.to_string()),
        Err(_) => Err(format!("object store did not answer about {key} in time")),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::net::TcpListener;

    use flowai_actors::ids::{Attempt, Epoch, JobId};
    use flowai_store::objects::ObjectsConfig;

    use super::*;

    /// An object store that answers every request so.
    fn store(status: &'static str, body: &'static str) -> Objects {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            for connection in listener.incoming() {
                let mut connection = connection.unwrap();
                let mut head = BufReader::new(&connection).lines();
                while head.next().is_some_and(|line| !line.unwrap().is_empty()) {}
                let length = body.len();
                let answer = format!(
                    "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
                );
                connection.write_all(answer.as_bytes()).unwrap();
            }
        });
        Objects::new(&ObjectsConfig {
            endpoint,
            region: "us-east-1".to_owned(),
            bucket: "clips".to_owned(),
            access_key_id: "key".to_owned(),
            secret_access_key: "secret".to_owned(),
        })
    }

    async fn found(
        status: &'static str,
        body: &'static str,
    ) -> Result<HashMap<String, u64>, String> {
        let at = AttemptRef {
            job: JobId::generate(),
            attempt: Attempt::new(1),
            epoch: Epoch::new(1),
        };
        lengths(&store(status, body), at, &[ArtefactFile::Clip]).await
    }

    #[tokio::test]
    async fn a_store_that_fails_does_not_say_that_a_file_is_missing() {
        assert!(found("503 Service Unavailable", "").await.is_err());
        assert!(found("403 Forbidden", "").await.is_err());
        assert!(found("404 Not Found", "").await.is_err(), "no bucket");
        assert_eq!(
            found("200 OK", "<ListBucketResult/>").await,
            Ok(HashMap::new())
        );
    }
}
