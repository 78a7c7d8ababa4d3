//! Goal: what a node left in the store when it stopped is what the next one is given, and nothing of it stays when the job is done.
//! Method: the real leader on a simulated link, real rows, a real object store, and two nodes, of which the first stops its job.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use flowai_actors::checkpoint::Resume;
use flowai_actors::link::{Faults, Role, SimNet};
use flowai_actors::messages::Assign;
use flowai_actors::wire;
use flowai_store::checkpoints::{checkpoint_key, checkpoints_prefix};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::farm::{Farm, LONG, peer};
use crate::scripted_node::{CHECKPOINT, ScriptedNode, checkpoint};

const LOOK_AGAIN: Duration = Duration::from_millis(50);

#[tokio::test]
async fn a_stopped_job_goes_on_on_another_node() {
    let mut farm = Farm::start().await;
    let user = farm.sign_up().await;
    let job = farm.queue(user).await;
    let net = SimNet::new(1, Faults::none());
    let leader = peer(Role::Coordinator, "c1");
    let leader_id = leader.id.clone();
    let (link, events) = net.attach(leader, wire::may_send);
    let mut world = JoinSet::new();
    let taken = Arc::default();
    let stops = Arc::new(AtomicU32::new(1));
    let mut join = |name: &str| {
        let (node, node_events) = ScriptedNode::linked(&net, name, &leader_id, &farm.objects);
        let node = ScriptedNode {
            stops: Arc::clone(&stops),
            taken: Arc::clone(&taken),
            ..node
        };
        world.spawn(node.run(node_events));
    };
    // Whichever is given it first stops it; the next attempt is rendered, by either.
    join("n1");
    join("n2");
    let driven = net.clone();
    world.spawn(async move { driven.follow_tokio().await });
    let end = CancellationToken::new();
    let coordinator = farm.coordinator(Arc::new(link), Arc::new(|_| ()));
    let led = coordinator.run(events, end.clone());
    let objects = farm.objects.clone();
    let work = async {
        let state = format!("select state from job_state where job_id = '{job}'");
        while farm.text(&state).await != "done" {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        let rows = format!("select count(*) from checkpoint where job_id = '{job}'");
        let prefix = checkpoints_prefix(job);
        while farm.text(&rows).await != "0"
            || !objects.list(&prefix, None, 10).await.unwrap().is_empty()
        {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        end.cancel();
    };
    let (led, ()) = timeout(LONG, async { tokio::join!(led, work) })
        .await
        .unwrap();
    led.unwrap();

    let taken: Vec<Assign> = taken.lock().unwrap().clone();
    let second = taken.last().unwrap();
    assert_eq!(taken[0].resume, None);
    let Some(Resume {
        file,
        attempt,
        source,
    }) = &second.resume
    else {
        panic!("{second:?}")
    };
    assert_eq!(*file, checkpoint());
    let of_before = taken.iter().find(|assign| assign.at.attempt == *attempt);
    assert_eq!(of_before.map(|assign| &assign.resume), Some(&None));
    assert_eq!(
        (source.sha256, source.bytes),
        (file.sha256, CHECKPOINT.len() as u64)
    );
    let key = checkpoint_key(job, *attempt, file.step);
    assert!(source.url.contains(&key), "the way leads there");
}
