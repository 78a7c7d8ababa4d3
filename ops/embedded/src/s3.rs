//! An S3 server in this process, with its objects as files in a folder.

use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s_fs::FileSystem;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::Error;
use crate::folder::Folder;
use crate::secrets;

mod listing;
mod upkeep;
mod verified;

use verified::Verified;

const BUCKET: &str = "flowai";
const REGION: &str = "us-east-1";

/// How long running transfers may go on after [`S3::stop`].
const STOP_DEADLINE: Duration = Duration::from_secs(5);

/// After a failed accept (out of file descriptors, mostly) the next try waits this long instead of spinning.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// How to reach an S3 server and its bucket.
#[derive(Clone)]
pub struct S3Access {
    /// `http://127.0.0.1:<port>` or `https://…`.
    pub endpoint: String,
    pub region: String,
    pub bucket: String,
    pub access_key_id: String,
    pub secret_access_key: String,
}

impl std::fmt::Debug for S3Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("S3Access")
            .field("endpoint", &self.endpoint)
            .field("bucket", &self.bucket)
            .finish_non_exhaustive()
    }
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Secrets {
    access_key_id: String,
    secret_access_key: String,
}

/// A running S3 server on loopback. Dropping it closes its listener and its connections.
#[derive(Debug)]
pub struct S3 {
    access: S3Access,
    stop: Option<oneshot::Sender<()>>,
    server: JoinHandle<()>,
    _folder: Folder,
}

impl S3 {
    /// Serves `folder` on a free port of 127.0.0.1, with one bucket, to whoever signs with its random credentials.
    ///
    /// # Errors
    /// [`Error::FolderInUse`] when another process holds the folder, [`Error::Io`] when it cannot be used.
    pub async fn start(folder: impl AsRef<Path>) -> Result<Self, Error> {
        let folder = Folder::hold(folder.as_ref())?;
        let Secrets {
            access_key_id,
            secret_access_key,
        } = secrets::load_or_make(&folder.path().join("secrets.json"), || Secrets {
            access_key_id: format!("FLOWAI{}", hex::encode_upper(rand::random::<[u8; 8]>())),
            secret_access_key: secrets::random_secret(),
        })?;

        let objects = folder.path().join("objects");
        std::fs::create_dir_all(objects.join(BUCKET)).map_err(Error::io("making the bucket"))?;
        let files = FileSystem::new(&objects).map_err(|error| Error::Io {
            what: format!("serving {}", objects.display()),
            source: std::io::Error::other(format!("{error:?}")),
        })?;
        let mut builder = S3ServiceBuilder::new(Verified::new(files, &objects));
        builder.set_auth(SimpleAuth::from_single(
            access_key_id.clone(),
            secret_access_key.clone(),
        ));

        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .map_err(Error::io("listening for S3"))?;
        let address = listener
            .local_addr()
            .map_err(Error::io("listening for S3"))?;
        let (stop, stopped) = oneshot::channel();
        let server = tokio::spawn(serve(listener, builder.build(), stopped));
        Ok(Self {
            access: S3Access {
                endpoint: format!("http://{address}"),
                region: REGION.to_owned(),
                bucket: BUCKET.to_owned(),
                access_key_id,
                secret_access_key,
            },
            stop: Some(stop),
            server,
            _folder: folder,
        })
    }

    pub fn access(&self) -> &S3Access {
        &self.access
    }

    /// Takes no more connections and lets running transfers finish, for at most five seconds.
    pub async fn stop(mut self) {
        if let Some(stop) = self.stop.take() {
            // The server is gone already when nobody receives.
            let _ = stop.send(());
        }
        let _ = (&mut self.server).await;
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn serve(listener: TcpListener, service: S3Service, mut stopped: oneshot::Receiver<()>) {
    let builder = Builder::new(TokioExecutor::new());
    let graceful = GracefulShutdown::new();
    // Dropped with this task, and every connection with it.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            _ = &mut stopped => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((socket, _)) => {
                    let connection = builder.serve_connection(TokioIo::new(socket), service.clone());
                    let connection = graceful.watch(connection.into_owned());
                    connections.spawn(async move {
                        // A client that breaks off is no failure of the server's.
                        if let Err(error) = connection.await {
                            tracing::debug!(%error, "s3 connection ended");
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "s3 cannot accept");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                }
            },
        }
    }
    drop(listener);
    if tokio::time::timeout(STOP_DEADLINE, graceful.shutdown())
        .await
        .is_err()
    {
        tracing::warn!("s3 transfers were cut off at the end");
    }
}
