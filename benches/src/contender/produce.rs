//! Whoever submits: many producers, each sending its next job when the last is acknowledged, over an api's connections.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use flowai_actors::ids::UploadId;
use flowai_store::idempotency::NamedRequest;
use flowai_store::videos::{Intake, NewVideo, Queueing};
use serde_json::json;
use tokio::task::JoinSet;

use super::doorbell::Bell;
use super::{Settings, now_ns, spec, user};

/// As an api instance has them, unless it is told otherwise: more of them only wait for two cores inside of PostgreSQL.
const CONNECTIONS: u32 = 8;

#[derive(Clone, Copy)]
pub(super) struct Wanted {
    pub(super) seconds: u64,
    pub(super) count: usize,
    pub(super) producers: usize,
    pub(super) pause_ms: u64,
    /// Jobs that are accepted at once.
    pub(super) batch: usize,
}

pub(super) async fn run(settings: &Settings, wanted: Wanted) -> Result<()> {
    ensure!(wanted.batch > 0, "PEER_BATCH must be 1 or more");
    let connections = CONNECTIONS.min(u32::try_from(wanted.producers)?);
    let database = settings.connect("flowai_app", connections).await?;
    let intake = Intake::new(database, 1);
    let bell = Bell::connect(&settings.doorbell).await;
    let end = Instant::now() + Duration::from_secs(wanted.seconds);
    let turns = Arc::new(AtomicUsize::new(0));
    let mut producers = JoinSet::new();
    for _ in 0..wanted.producers {
        let (intake, bell, turns) = (intake.clone(), bell.clone(), turns.clone());
        producers.spawn(async move {
            let (spec, mut acks) = (spec(), String::new());
            loop {
                let turn = turns.fetch_add(1, Ordering::Relaxed);
                if turn * wanted.batch >= wanted.count || Instant::now() >= end {
                    return anyhow::Ok(acks);
                }
                let owner = user(turn);
                let image = UploadId::from_uuid(owner.as_uuid());
                let begin = now_ns();
                let new = || NewVideo::new(owner, &spec, Some(image));
                let batch: Vec<NewVideo<'_>> = (0..wanted.batch).map(|_| new()).collect();
                let key = batch[0].id.to_string();
                let request = NamedRequest {
                    owner,
                    key: &key,
                    hash: [0; 32],
                };
                let answer = (202, &json!({ "id": key }));
                let queueing = intake.queue(&batch, Some(&request), answer).await?;
                ensure!(queueing == Queueing::Queued, "was not queued: {queueing:?}");
                let acknowledged = now_ns();
                for video in &batch {
                    writeln!(acks, "{} {begin} {acknowledged}", video.id)?;
                    bell.ring(video.id);
                }
                if wanted.pause_ms > 0 {
                    tokio::time::sleep(Duration::from_millis(wanted.pause_ms)).await;
                }
            }
        });
    }
    let mut acks = String::new();
    while let Some(of_one) = producers.join_next().await {
        acks.push_str(&of_one??);
    }
    Ok(std::fs::write(&settings.acks, acks)?)
}
