//! The leader's part: what it writes, and what it says on the link.

use bytes::Bytes;
use flowai_actors::ids::{Attempt, Epoch, Generation, JobId, Sha256, UserId};
use flowai_actors::link::{LinkEvent, LinkEvents, NodeLink as _, PeerId, SimLink};
use flowai_actors::manifest::{EngineInfo, KeyframeMade, Manifest, StageTimings};
use flowai_actors::messages::{
    ArtefactFile, AttemptRef, Body, Doorbell, EventsReady, Holding, Live, LiveState,
};
use flowai_actors::spec::RenderSpec;
use flowai_actors::wire;
use flowai_store::database::Database;
use flowai_store::journal::{Artefact, Batch, Change, Keyframe, Written, artefact_key, commit};
use flowai_store::leader;
use flowai_store::objects::Objects;
use sqlx::PgPool;
use sqlx::types::Json;
use tokio::time::timeout;

use super::DEADLINE;

pub(crate) struct Leader {
    database: Database,
    epoch: Epoch,
    api: PeerId,
    link: SimLink,
    events: tokio::sync::Mutex<LinkEvents>,
}

impl Leader {
    pub(super) async fn take_over(
        database_url: &str,
        api: PeerId,
        link: SimLink,
        events: LinkEvents,
    ) -> Self {
        let database = Database::connect(database_url, 2).await.unwrap();
        let epoch = leader::take_over(&database, "c1", "127.0.0.1:1").await;
        Self {
            epoch: epoch.unwrap().unwrap(),
            database,
            api,
            link,
            events: tokio::sync::Mutex::new(events),
        }
    }

    /// The next job whose doorbell rings.
    pub(crate) async fn doorbell(&self) -> JobId {
        let mut events = self.events.lock().await;
        let rung = async {
            loop {
                if let LinkEvent::Message(delivery) = events.next().await.unwrap() {
                    let Doorbell { job } = wire::open(&delivery.envelope).unwrap();
                    return job;
                }
            }
        };
        timeout(DEADLINE, rung).await.unwrap()
    }

    /// Tells the api something that it may or may not hear.
    pub(crate) fn say<B: Body>(&self, body: &B) {
        let envelope = wire::seal(self.epoch, body).unwrap();
        self.link.send(&self.api, envelope).unwrap();
    }

    pub(crate) fn hint(&self, user: UserId) {
        self.say(&EventsReady { user });
    }

    pub(crate) fn say_live(&self, user: UserId, video: &str, live: LiveState) {
        let job: JobId = video.parse().unwrap();
        self.say(&Live { user, job, live });
    }

    /// Gives a waiting video its first attempt.
    pub(crate) async fn assign(&self, video: &str) -> UserId {
        self.write(Change::Assign(self.held(video))).await
    }

    /// Ends a running video without a clip.
    pub(crate) async fn fail(&self, video: &str, code: &str, detail: &str) -> UserId {
        self.write(Change::Fail {
            held: self.held(video),
            code: code.to_owned(),
            detail: detail.to_owned(),
        })
        .await
    }

    pub(super) async fn deliver(&self, owner: &PgPool, objects: &Objects, video: &str) {
        let job: JobId = video.parse().unwrap();
        let Json(spec): Json<RenderSpec> = sqlx::query_scalar("select spec from job where id = $1")
            .bind(job.as_uuid())
            .fetch_one(owner)
            .await
            .unwrap();
        for file in ArtefactFile::of(&spec) {
            let key = artefact_key(job, Attempt::new(1), file);
            let bytes = Bytes::from(format!("the {} of {video}", file.file_name()));
            objects
                .put(&key, bytes, "application/octet-stream")
                .await
                .unwrap();
        }
        self.assign(video).await;
        let held = self.held(video);
        let clip_sha256 = Sha256::from_bytes([7; 32]);
        let keyframe = spec.keyframe().map(|keyframe| Keyframe {
            sha256: Sha256::from_bytes([8; 32]),
            bytes: 11,
            size: (keyframe.width, keyframe.height),
        });
        let manifest = Manifest {
            manifest_version: Manifest::VERSION,
            job,
            attempt: held.at.attempt,
            epoch: held.at.epoch,
            node: held.node.clone(),
            generation: held.generation,
            spec,
            model_sha256: Sha256::from_bytes([1; 32]),
            adapters: Vec::new(),
            keyframe: keyframe.map(|keyframe| KeyframeMade {
                model_sha256: Sha256::from_bytes([1; 32]),
                adapters: Vec::new(),
                sha256: keyframe.sha256,
                bytes: keyframe.bytes,
                tokens_cut: [0, 0],
            }),
            resumed: Vec::new(),
            engine: EngineInfo {
                name: "stand-in".to_owned(),
                version: "0".to_owned(),
                libtorch: None,
                encoder: "none".to_owned(),
                dtype: "float32".to_owned(),
                noise_dtype: "float32".to_owned(),
            },
            device_class: "test".to_owned(),
            clip_sha256,
            clip_bytes: 9,
            timings_ms: StageTimings::default(),
        };
        let artefact = Artefact {
            clip_sha256,
            clip_bytes: 9,
            keyframe,
            manifest,
        };
        let settle = Change::Settle {
            held,
            artefact: Box::new(artefact),
        };
        self.write(settle).await;
    }

    fn held(&self, video: &str) -> Holding {
        Holding {
            at: AttemptRef {
                job: video.parse().unwrap(),
                attempt: Attempt::new(1),
                epoch: self.epoch,
            },
            node: "n1".parse().unwrap(),
            generation: Generation::new(1),
        }
    }

    /// Commits one change, and says whose it is.
    async fn write(&self, change: Change) -> UserId {
        let mut batch = Batch::default();
        batch.push(change).unwrap();
        match commit(&self.database, self.epoch, &batch).await.unwrap()[..] {
            [Written::Now(user)] => user,
            ref other => panic!("{other:?}"),
        }
    }
}
