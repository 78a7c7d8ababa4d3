//! The HTTP API as typed calls.
//!
//! A call that may be made twice without harm is made again when the server is gone for a moment; a submission carries an
//! `Idempotency-Key`, so it is one of them. What the server refuses comes back as [`ClientError::Refused`] with its code.

mod compare;
mod credentials;
mod download;
mod error;
mod events;
mod farm;
mod transport;
mod types;
mod watch;

use std::path::Path;

use flowai_actors::manifest::Manifest;
use reqwest::multipart::{Form, Part};
use reqwest::{Method, Response};
use serde::Deserialize;
use serde_json::json;
use url::Url;
use uuid::Uuid;

pub use compare::{Comparison, Difference};
pub use credentials::{Account, Credentials, DEFAULT_URL, Secret, from_env};
pub use error::{ClientError, FieldProblem, Problem};
pub use events::{Event, Position, Progress, RECONNECT_MAX};
pub use farm::{
    AboutNode, DrainHow, JoinRequest, JoinTokenInfo, JoinedNode, MadeJoinToken, NewJoinToken,
    Nodes, join,
};
pub use types::{
    Adapter, AdapterWeight, CLIP_MODELS, CreditGrant, CreditTransaction, Credits, JobError,
    KEYFRAME_MODELS, Me, Model, ModelLimits, MyLimits, NewKeyframe, NewVideo, Node, NodeAdapters,
    QueuePlace, RefusedModel, Running, StartsIn, Status, Tier, Upload, Video, VideoSpec,
};
pub use watch::{Update, Watch};

use events::EventStream;
use transport::Transport;
pub(crate) use transport::is_this_machine;
use types::{Batch, NewApiKey, Page, Tokens};

/// Rows asked for at once.
const PAGE_ROWS: u32 = 100;

/// What a file is uploaded for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    Image,
    Adapter,
}

impl Purpose {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Image => "image",
            Self::Adapter => "adapter",
        }
    }
}

/// One caller at one farm. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Client {
    transport: Transport,
}

impl Client {
    /// A caller with an API key (or an access token).
    pub fn new(url: &Url, key: Secret) -> Result<Self, ClientError> {
        Ok(Self {
            transport: Transport::new(url, Some(key))?,
        })
    }

    pub fn url(&self) -> &Url {
        self.transport.base()
    }

    /// Makes an account. The answer is the same when there is one with this email: only [`Self::log_in`] tells.
    pub async fn sign_up(url: &Url, email: &str, password: &Secret) -> Result<(), ClientError> {
        let transport = Transport::new(url, None)?;
        let body = json!({ "email": email, "password": password.reveal() });
        transport.post_as_nobody("/v1/auth/signup", &body).await?;
        Ok(())
    }

    /// Logs in; the access token lives for minutes. [`Self::make_key`] gets something lasting.
    pub async fn log_in(url: &Url, email: &str, password: &Secret) -> Result<Self, ClientError> {
        let transport = Transport::new(url, None)?;
        let body = json!({ "email": email, "password": password.reveal() });
        let answer = transport.post_as_nobody("/v1/auth/login", &body).await?;
        let tokens: Tokens = transport.json(answer).await?;
        let bearer = Secret::new(tokens.access_token);
        Ok(Self {
            transport: transport.with_bearer(bearer),
        })
    }

    /// Ends the login of [`Self::log_in`].
    pub async fn log_out(&self) -> Result<(), ClientError> {
        let request = self.transport.request(Method::POST, "/v1/auth/logout")?;
        self.transport.send(request).await?;
        Ok(())
    }

    /// Makes an API key with these scopes.
    pub async fn make_key(&self, name: &str, scopes: &[&str]) -> Result<Account, ClientError> {
        let me = self.me().await?;
        let body = json!({ "name": name, "scopes": scopes });
        let made: NewApiKey = self.transport.post("/v1/api-keys", &body).await?;
        Ok(Account {
            email: me.email,
            api_key: Secret::new(made.key),
            api_key_id: made.id,
        })
    }

    pub async fn delete_key(&self, id: &str) -> Result<(), ClientError> {
        self.transport.delete(&format!("/v1/api-keys/{id}")).await?;
        Ok(())
    }

    /// What the caller has, and so many of the newest transactions.
    pub async fn credits(&self, rows: u32) -> Result<Credits, ClientError> {
        let path = format!("/v1/credits?limit={}", rows.clamp(1, PAGE_ROWS));
        self.transport.get(&path).await
    }

    /// Gives credits to somebody (operators); sent again until it is known that they have them, and given once.
    pub async fn grant_credits(&self, grant: &CreditGrant) -> Result<CreditGrant, ClientError> {
        let request = self.transport.request(Method::POST, "/v1/credits/grants")?;
        self.transport.once(request.json(grant)).await
    }

    pub async fn me(&self) -> Result<Me, ClientError> {
        self.transport.get("/v1/me").await
    }

    /// Sends a file to be stored, again while the farm is sure not to have it: sent twice it is two uploads, and counts as two.
    pub async fn upload(
        &self,
        purpose: Purpose,
        name: &str,
        bytes: bytes::Bytes,
    ) -> Result<Upload, ClientError> {
        let request = || {
            let length = bytes.len() as u64;
            let part = Part::stream_with_length(reqwest::Body::from(bytes.clone()), length);
            let form = Form::new()
                .text("purpose", purpose.as_str())
                .part("file", part.file_name(name.to_owned()));
            Ok(self.transport.file_request("/v1/uploads")?.multipart(form))
        };
        let answer = self.transport.send_until_taken(request).await?;
        self.transport.json(answer).await
    }

    /// Makes an adapter of an upload, after it was checked against the model. Sent once: whoever hears nothing finds
    /// it among [`Self::adapters`].
    pub async fn make_adapter(
        &self,
        upload: &Upload,
        model: &str,
        name: &str,
    ) -> Result<Adapter, ClientError> {
        let body = json!({ "upload": upload.id, "model": model, "name": name });
        let request = self.transport.file_request("/v1/adapters")?.json(&body);
        let answer = self.transport.send(request).await?;
        self.transport.json(answer).await
    }

    pub async fn adapters(&self) -> Result<Vec<Adapter>, ClientError> {
        self.all("/v1/adapters").await
    }

    pub async fn models(&self) -> Result<Vec<Model>, ClientError> {
        Ok(self.transport.get::<Page<Model>>("/v1/models").await?.data)
    }

    /// Submits a render. Returns only after the server has it durably; sent again until that is known.
    pub async fn submit(&self, video: &NewVideo) -> Result<Video, ClientError> {
        let request = self.transport.request(Method::POST, "/v1/videos")?;
        self.transport.once(request.json(video)).await
    }

    /// Submits many renders, all of them or none, and gives their jobs in the same order; durable and sent again as
    /// [`Self::submit`].
    pub async fn submit_batch(&self, videos: &[NewVideo]) -> Result<Vec<Video>, ClientError> {
        let request = self.transport.request(Method::POST, "/v1/batches")?;
        let request = request.json(&json!({ "videos": videos }));
        Ok(self.transport.once::<Batch>(request).await?.videos)
    }

    /// Continues a draft to the full video, which begins with the draft's picture; durable and sent again as
    /// [`Self::submit`].
    pub async fn submit_final(&self, draft: &str) -> Result<Video, ClientError> {
        let path = format!("/v1/videos/{}/final", segment(draft)?);
        let request = self.transport.request(Method::POST, &path)?;
        self.transport.once(request).await
    }

    pub async fn video(&self, id: &str) -> Result<Video, ClientError> {
        self.transport
            .get(&format!("/v1/videos/{}", segment(id)?))
            .await
    }

    /// The caller's newest jobs, newest first, of one status or of any.
    pub async fn videos(
        &self,
        rows: u32,
        status: Option<Status>,
    ) -> Result<Vec<Video>, ClientError> {
        let mut path = format!("/v1/videos?limit={}", rows.clamp(1, PAGE_ROWS));
        if let Some(status) = status {
            path.push_str(&format!("&status={}", status.as_str()));
        }
        let mut videos = Vec::new();
        let mut next = path.clone();
        loop {
            let page: Page<Video> = self.transport.get(&next).await?;
            videos.extend(page.data);
            match page.next_cursor {
                Some(cursor) if videos.len() < rows as usize => {
                    next = format!("{path}&cursor={cursor}");
                }
                Some(_) | None => break,
            }
        }
        videos.truncate(rows as usize);
        Ok(videos)
    }

    /// Asks for the end of a job. A running one stops at its next step; one that has ended stays as it is, which is the
    /// refusal `already_done`.
    pub async fn cancel(&self, id: &str) -> Result<(), ClientError> {
        self.transport
            .delete(&format!("/v1/videos/{}", segment(id)?))
            .await?;
        Ok(())
    }

    /// Watches a job to its end.
    pub fn watch(&self, id: &str) -> Watch<'_> {
        Watch::new(self, id)
    }

    pub async fn manifest(&self, id: &str) -> Result<Manifest, ClientError> {
        let path = format!("/v1/videos/{}/manifest", segment(id)?);
        let manifest: Manifest = self.transport.get(&path).await?;
        if manifest.manifest_version > Manifest::VERSION {
            let version = manifest.manifest_version;
            return Err(ClientError::Answer {
                url: path,
                reason: format!("manifest version {version} is newer than this command; update it"),
            });
        }
        Ok(manifest)
    }

    /// Downloads the clip of a finished job into `path`: whole and as its manifest names it, or not at all.
    pub async fn download(&self, id: &str, path: &Path) -> Result<Manifest, ClientError> {
        let manifest = self.manifest(id).await?;
        let content = self.content(id).await?;
        download::save(&self.transport, content, path, &manifest.clip_sha256).await?;
        Ok(manifest)
    }

    async fn content(&self, id: &str) -> Result<Response, ClientError> {
        let path = format!("/v1/videos/{}/content", segment(id)?);
        let request = self.transport.request(Method::GET, &path)?;
        self.transport.repeat(request).await
    }

    async fn events(&self, id: &str, seen: u64) -> Result<EventStream, ClientError> {
        let path = format!("/v1/videos/{}/events", segment(id)?);
        EventStream::open(&self.transport, &path, seen).await
    }

    /// A list to its end.
    async fn all<T: for<'de> Deserialize<'de>>(&self, path: &str) -> Result<Vec<T>, ClientError> {
        let first = format!("{path}?limit={PAGE_ROWS}");
        let mut rows = Vec::new();
        let mut next = first.clone();
        loop {
            let page: Page<T> = self.transport.get(&next).await?;
            rows.extend(page.data);
            match page.next_cursor {
                Some(cursor) => next = format!("{first}&cursor={cursor}"),
                None => return Ok(rows),
            }
        }
    }
}

/// An id that somebody typed, as a part of a path.
fn segment(id: &str) -> Result<Uuid, ClientError> {
    id.parse().map_err(|_| ClientError::Input {
        field: "id",
        detail: format!("must be a UUID, as `flowai jobs` lists them (got {id:?})"),
    })
}
