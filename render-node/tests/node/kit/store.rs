//! An S3 server behind a wire that can be cut, and what lies in it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use flowai_actors::checkpoint::{CHECKPOINT_CONTENT_TYPE, CheckpointPlace, PlaceCheckpoint};
use flowai_actors::ids::Sha256;
use flowai_actors::messages::{AttemptRef, Source, Target, UploadTargets};
use flowai_actors::preview::{PREVIEW_CONTENT_TYPE, PlacePreview, PreviewPlace};
use flowai_actors::spec::AdapterUse;
use flowai_embedded::S3;
use flowai_store::objects::{Objects, ObjectsConfig, ResponseHeaders, UploadTerms};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::sha256;

const URL_TTL: Duration = Duration::from_secs(60);

/// A real S3 server and its URLs, behind a wire that can be cut.
#[derive(Clone)]
pub(crate) struct Store {
    objects: Objects,
    is_cut: watch::Sender<bool>,
    _server: Arc<S3>,
}

impl Store {
    pub(super) async fn start(folder: &Path) -> Self {
        let server = S3::start(folder).await.unwrap();
        let access = server.access();
        let (is_cut, cuts) = watch::channel(false);
        let objects = Objects::new(&ObjectsConfig {
            endpoint: wire_to(&access.endpoint, cuts).await,
            region: access.region.clone(),
            bucket: access.bucket.clone(),
            access_key_id: access.access_key_id.clone(),
            secret_access_key: access.secret_access_key.clone(),
        });
        Self {
            objects,
            is_cut,
            _server: Arc::new(server),
        }
    }

    /// Breaks all connections and takes no new ones.
    pub(crate) fn cut(&self) {
        self.is_cut.send_replace(true);
    }

    pub(crate) fn heal(&self) {
        self.is_cut.send_replace(false);
    }

    /// Stores bytes under their hash and gives the way to them.
    pub(crate) async fn put(&self, bytes: &[u8]) -> Source {
        self.put_as(sha256(bytes), bytes).await
    }

    /// Stores bytes under whatever hash.
    pub(crate) async fn put_as(&self, sha256: Sha256, bytes: &[u8]) -> Source {
        let key = format!("inputs/{sha256}");
        let content = bytes::Bytes::copy_from_slice(bytes);
        self.objects
            .put(&key, content, "application/octet-stream")
            .await
            .unwrap();
        self.source(sha256, bytes.len() as u64).await
    }

    pub(super) async fn put_adapters(
        &self,
        adapters: &[(&[u8], f32)],
    ) -> (Vec<AdapterUse>, Vec<Source>) {
        let mut uses = Vec::new();
        let mut sources = Vec::new();
        for (bytes, weight) in adapters {
            let source = self.put(bytes).await;
            uses.push(AdapterUse {
                sha256: source.sha256,
                weight: *weight,
            });
            sources.push(source);
        }
        (uses, sources)
    }

    /// The way to an object that may not be there.
    pub(crate) async fn source(&self, sha256: Sha256, bytes: u64) -> Source {
        let key = format!("inputs/{sha256}");
        let get = self
            .objects
            .presign_get(&key, URL_TTL, ResponseHeaders::default());
        Source {
            sha256,
            bytes,
            url: get.await.unwrap().url,
        }
    }

    /// The bytes of an artefact of this attempt.
    pub(crate) async fn artefact(&self, at: AttemptRef, file_name: &str) -> Vec<u8> {
        let object = self
            .objects
            .get(&artefact_key(at, file_name))
            .await
            .unwrap();
        object.into_bytes(u64::MAX).await.unwrap().to_vec()
    }

    pub(super) async fn preview_place(&self, question: &PlacePreview) -> PreviewPlace {
        let terms = UploadTerms {
            content_type: PREVIEW_CONTENT_TYPE.to_owned(),
            length: question.bytes,
            sha256: *question.sha256.as_bytes(),
        };
        let key = artefact_key(question.at, &preview_file(question.step));
        let put = self.objects.presign_put(&key, URL_TTL, &terms);
        let put = put.await.unwrap();
        PreviewPlace::Target {
            url: put.url,
            headers: put.headers,
        }
    }

    pub(super) async fn checkpoint_place(&self, question: &PlaceCheckpoint) -> CheckpointPlace {
        let PlaceCheckpoint { at, file, .. } = question;
        let terms = UploadTerms {
            content_type: CHECKPOINT_CONTENT_TYPE.to_owned(),
            length: file.bytes,
            sha256: *file.sha256.as_bytes(),
        };
        let key = artefact_key(*at, &checkpoint_file(file.step));
        let put = self.objects.presign_put(&key, URL_TTL, &terms);
        let put = put.await.unwrap();
        CheckpointPlace::Target {
            url: put.url,
            headers: put.headers,
        }
    }

    pub(super) async fn targets(&self, question: &UploadTargets) -> Vec<Target> {
        let mut targets = Vec::new();
        for ready in &question.files {
            let terms = UploadTerms {
                content_type: ready.file.content_type().to_owned(),
                length: ready.bytes,
                sha256: *ready.sha256.as_bytes(),
            };
            let key = artefact_key(question.at, ready.file.file_name());
            let put = self
                .objects
                .presign_put(&key, URL_TTL, &terms)
                .await
                .unwrap();
            targets.push(Target {
                file: ready.file,
                url: put.url,
                headers: put.headers,
            });
        }
        targets
    }
}

/// The endpoint of a wire that leads to `endpoint` as long as it is not cut.
async fn wire_to(endpoint: &str, is_cut: watch::Receiver<bool>) -> String {
    let server = endpoint.strip_prefix("http://").unwrap().to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let (server, mut is_cut) = (server.clone(), is_cut.clone());
            tokio::spawn(async move {
                let pass = async {
                    let mut far = TcpStream::connect(server).await?;
                    tokio::io::copy_bidirectional(&mut near, &mut far).await
                };
                tokio::select! {
                    biased;
                    _ = is_cut.wait_for(|is_cut| *is_cut) => {}
                    _ = pass => {}
                }
            });
        }
    });
    format!("http://{address}")
}

pub(crate) fn preview_file(step: u32) -> String {
    format!("step-{step}.webp")
}

pub(super) fn checkpoint_file(step: u32) -> String {
    format!("step-{step}.checkpoint")
}

fn artefact_key(at: AttemptRef, file_name: &str) -> String {
    format!("clips/{}/{}/{file_name}", at.job, at.attempt)
}
