//! Whether what a node says it delivered lies in the object store.

use std::collections::HashMap;
use std::future::Future;
use std::time::Duration;

use flowai_actors::messages::{ArtefactFile, AttemptRef, Ended, Outcome as Told};
use flowai_store::journal::{artefact_key, artefacts_prefix};
use flowai_store::objects::{Objects, ObjectsError, PAGE_KEYS_MAX};

use super::event::{Event, NotDelivered};

/// Of one question, with all tries of the client itself. If the store does not answer by then, the node is to tell its end
/// again, and all files are looked at anew.
const ANSWER_DEADLINE: Duration = Duration::from_secs(5);

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
    // One question for the clip and all beside it: a client and a server need as long for one file as for all, which are fewer than
    // a page has: the clip's own files, and a preview for some of its steps.
    let prefix = artefacts_prefix(at.job, at.attempt);
    let beside = answer(&prefix, objects.list(&prefix, None, PAGE_KEYS_MAX));
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
    use std::sync::Arc;

    use flowai_actors::ids::{Attempt, Epoch, Generation, JobId};
    use flowai_actors::messages::Holding;
    use flowai_store::objects::ObjectsConfig;

    use super::super::tests;
    use super::*;

    /// Of every clip and keyframe that is told here.
    const BYTES: u64 = 10;

    /// An object store that has these files, or answers every request with a status that is no success.
    enum Store {
        Has(Vec<(String, u64)>),
        Fails(&'static str),
    }

    impl Store {
        fn of(files: &[(ArtefactFile, u64)]) -> Self {
            let named = files.iter();
            Self::Has(
                named
                    .map(|(file, bytes)| (key(attempt(), *file), *bytes))
                    .collect(),
            )
        }

        /// To a request line.
        fn answer(&self, request: &str) -> String {
            let answer = |status: &str, length: u64, body: &str| {
                format!(
                    "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
                )
            };
            let files = match self {
                Self::Has(files) => files,
                Self::Fails(status) => return answer(status, 0, ""),
            };
            if let Some(head) = request.strip_prefix("HEAD /clips/") {
                let found = files.iter().find(|(key, _)| head.starts_with(key.as_str()));
                return match found {
                    Some((_, bytes)) => answer("200 OK", *bytes, ""),
                    None => answer("404 Not Found", 0, ""),
                };
            }
            // One file an answer, the last with a word about no other.
            let turn = request.split_once("continuation-token=").map(|(_, rest)| {
                let digits = rest.split(|c: char| !c.is_ascii_digit()).next();
                digits.unwrap_or_default().parse().unwrap()
            });
            let prefix = artefacts_prefix(attempt().job, attempt().attempt);
            let mut listed = files.iter().filter(|(key, _)| key.starts_with(&prefix));
            let turn: usize = turn.unwrap_or_default();
            let entry = listed.nth(turn).map(|(key, bytes)| {
                format!("<Contents><Key>{key}</Key><Size>{bytes}</Size></Contents>")
            });
            let next = listed.next().map(|_| {
                let next = turn + 1;
                format!("<IsTruncated>true</IsTruncated><NextContinuationToken>{next}</NextContinuationToken>")
            });
            let body = format!(
                "<ListBucketResult>{}{}</ListBucketResult>",
                entry.unwrap_or_default(),
                next.unwrap_or_default()
            );
            answer("200 OK", body.len() as u64, &body)
        }

        fn open(self) -> Objects {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let endpoint = format!("http://{}", listener.local_addr().unwrap());
            let store = Arc::new(self);
            std::thread::spawn(move || {
                for connection in listener.incoming() {
                    let mut connection = connection.unwrap();
                    let mut head = BufReader::new(&connection).lines();
                    let request = head.next().unwrap().unwrap();
                    while head.next().is_some_and(|line| !line.unwrap().is_empty()) {}
                    let answer = store.answer(&request);
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
    }

    fn attempt() -> AttemptRef {
        AttemptRef {
            job: JobId::from_uuid(uuid::Uuid::from_u128(1)),
            attempt: Attempt::new(1),
            epoch: Epoch::new(1),
        }
    }

    fn rendered(of_words: bool) -> Ended {
        let held = Holding {
            at: attempt(),
            node: "a".parse().unwrap(),
            generation: Generation::new(1),
        };
        let outcome = match of_words {
            true => tests::keyframes::rendered_of_words(&held, Some(9)),
            false => tests::rendered(&held),
        };
        *tests::ended(&held, outcome)
    }

    fn missing(what: &str) -> Result<(), NotDelivered> {
        Err(NotDelivered::Missing(what.to_owned()))
    }

    #[tokio::test]
    async fn a_clip_counts_when_each_of_its_files_lies_there_however_many_answers_tell_it() {
        for of_words in [false, true] {
            let all = ArtefactFile::of_render(of_words)
                .into_iter()
                .map(|file| (file, BYTES));
            let all: Vec<_> = all.collect();
            let ended = rendered(of_words);
            assert_eq!(look(&Store::of(&all).open(), &ended).await, Ok(()));
            for (at, (file, _)) in all.iter().enumerate() {
                let mut but_one = all.clone();
                but_one.remove(at);
                let name = file.file_name();
                assert_eq!(
                    look(&Store::of(&but_one).open(), &ended).await,
                    missing(&format!("{name} does not lie in the object store"))
                );
            }
        }
    }

    #[tokio::test]
    async fn a_list_ends_where_it_is_to_end_however_many_answers_tell_it() {
        let all = ArtefactFile::of_render(false);
        let files: Vec<_> = all.iter().map(|file| (*file, BYTES)).collect();
        let store = Store::of(&files).open();
        let prefix = artefacts_prefix(attempt().job, attempt().attempt);
        for most in 1..=all.len() + 1 {
            let found = store.list(&prefix, None, most as i32).await.unwrap();
            let keys: Vec<String> = found.into_iter().map(|entry| entry.key).collect();
            let wanted: Vec<String> = all
                .iter()
                .take(most)
                .map(|file| key(attempt(), *file))
                .collect();
            assert_eq!(keys, wanted);
        }
    }

    #[tokio::test]
    async fn a_clip_or_keyframe_of_another_length_does_not_count() {
        for (file, name) in [
            (ArtefactFile::Clip, "clip.mp4"),
            (ArtefactFile::Keyframe, "keyframe.png"),
        ] {
            let files = ArtefactFile::of_render(true).into_iter();
            let files: Vec<_> = files
                .map(|of| (of, if of == file { BYTES - 1 } else { BYTES }))
                .collect();
            assert_eq!(
                look(&Store::of(&files).open(), &rendered(true)).await,
                missing(&format!("{name} has 9 bytes, 10 were told"))
            );
        }
    }

    #[tokio::test]
    async fn a_store_that_fails_does_not_say_that_a_file_is_missing() {
        for status in [
            "503 Service Unavailable",
            "403 Forbidden",
            // No bucket.
            "404 Not Found",
        ] {
            let looked = look(&Store::Fails(status).open(), &rendered(false)).await;
            assert!(
                matches!(looked, Err(NotDelivered::Unanswered(_))),
                "{status}: {looked:?}"
            );
        }
    }
}
