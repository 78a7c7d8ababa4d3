//! Doorbells from the process that accepts to the one that leads, in place of the link between them. They may be lost, as there.

use std::path::Path;

use anyhow::Result;
use flowai_actors::ids::JobId;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use uuid::Uuid;

/// Doorbells on their way; the leader's sweep finds what more announces.
const WAITING_MAX: usize = 1_024;

#[derive(Clone)]
pub(super) struct Bell(mpsc::Sender<JobId>);

impl Bell {
    /// Where nobody leads, it rings for nobody.
    pub(super) async fn connect(path: &Path) -> Self {
        let (sender, mut rung) = mpsc::channel::<JobId>(WAITING_MAX);
        if let Ok(mut stream) = UnixStream::connect(path).await {
            tokio::spawn(async move {
                let mut jobs = Vec::new();
                while rung.recv_many(&mut jobs, WAITING_MAX).await > 0 {
                    let bytes: Vec<u8> = jobs
                        .drain(..)
                        .flat_map(|job| job.as_uuid().into_bytes())
                        .collect();
                    if stream.write_all(&bytes).await.is_err() {
                        return;
                    }
                }
            });
        }
        Self(sender)
    }

    pub(super) fn ring(&self, job: JobId) {
        self.0.try_send(job).ok();
    }
}

/// Hears every doorbell that comes to `path`.
pub(super) async fn hear(
    path: &Path,
    heard: impl Fn(JobId) + Clone + Send + 'static,
) -> Result<()> {
    std::fs::remove_file(path).ok();
    let listener = UnixListener::bind(path)?;
    loop {
        let (mut stream, _) = listener.accept().await?;
        let heard = heard.clone();
        tokio::spawn(async move {
            let mut id = [0; 16];
            while stream.read_exact(&mut id).await.is_ok() {
                heard(JobId::from_uuid(Uuid::from_bytes(id)));
            }
        });
    }
}
