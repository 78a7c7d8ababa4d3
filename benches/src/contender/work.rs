//! The leader and its nodes in one process, on a link in memory that loses nothing.

use std::fs::OpenOptions;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use flowai_actors::ids::Epoch;
use flowai_actors::link::{Faults, NodeLink as _, Peer, PeerId, Role, SimNet};
use flowai_actors::messages::Doorbell;
use flowai_actors::wire;
use flowai_coordinator::Coordinator;
use tokio_util::sync::CancellationToken;

use super::node::{GENERATION, Node};
use super::{Settings, doorbell, files};

/// As `flowai-coordinator` has them.
const CONNECTIONS: u32 = 8;

pub(super) async fn run(settings: &Settings, nodes: usize) -> Result<()> {
    let net = SimNet::new(
        1,
        Faults {
            delay_ms: 0..=0,
            ..Faults::none()
        },
    );
    let leader = peer(Role::Coordinator, "c1")?;
    let leader_id = leader.id.clone();
    let (link, events) = net.attach(leader, wire::may_send);

    let api = peer(Role::Api, "api-1")?;
    let api_id = api.id.clone();
    let (api_link, mut api_events) = net.attach(api, wire::may_send);
    ensure!(net.connect(&api_id, &leader_id), "the api has no link");
    // Hints and positions, which nobody reads here.
    tokio::spawn(async move { while api_events.next().await.is_some() {} });
    let (bell_path, to) = (settings.doorbell.clone(), leader_id.clone());
    tokio::spawn(async move {
        let ring = move |job| {
            if let Ok(bell) = wire::seal(Epoch::ZERO, &Doorbell { job }) {
                api_link.send(&to, bell).ok();
            }
        };
        doorbell::hear(&bell_path, ring).await
    });

    let starts = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&settings.starts)?;
    let starts = Arc::new(starts);
    for n in 0..nodes {
        let name = format!("n{n}");
        let me = peer(Role::Node, &name)?;
        let id = me.id.clone();
        let (link, events) = net.attach(me, wire::may_send);
        ensure!(net.connect(&id, &leader_id), "{name} has no link");
        let node = Node {
            id: name.parse().context("a node's name")?,
            leader: leader_id.clone(),
            link,
            starts: starts.clone(),
            running: Arc::default(),
        };
        tokio::spawn(node.run(events));
    }
    let follow = net.clone();
    tokio::spawn(async move { follow.follow_tokio().await });
    let coordinator = Coordinator {
        database: settings.connect("flowai_coordinator", CONNECTIONS).await?,
        objects: files::store().await?,
        link: Arc::new(link),
        stand: Arc::new(|_| ()),
        holder: format!("c1-{}", std::process::id()),
        address: "127.0.0.1:1".to_owned(),
        authority: None,
        autoscale: None,
    };
    Ok(coordinator.run(events, CancellationToken::new()).await?)
}

fn peer(role: Role, name: &str) -> Result<Peer> {
    Ok(Peer {
        id: PeerId::new(role, name)?,
        generation: GENERATION,
        build: "bench".to_owned(),
        schema: 1,
    })
}
