//! Goal: a busy node hears of the adapters of each stage of the job that comes next, with the model that they are for.
//! Method: the real leader on a simulated link, real rows, and one node that never ends its job.

use std::sync::Arc;
use std::time::Duration;

use flowai_actors::link::{Faults, Role, SimNet};
use flowai_actors::messages::PrefetchStage;
use flowai_actors::wire;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::farm::{Farm, LONG, MOTION, STYLE, peer};
use crate::scripted_node::{CLIP_MODEL, KEYFRAME_MODEL, ScriptedNode};

const LOOK_AGAIN: Duration = Duration::from_millis(50);

#[tokio::test]
async fn a_node_is_told_of_both_stages_ahead() {
    let mut farm = Farm::start().await;
    let user = farm.sign_up().await;
    farm.queue(user).await;
    let net = SimNet::new(1, Faults::none());
    let leader = peer(Role::Coordinator, "c1");
    let leader_id = leader.id.clone();
    let (link, events) = net.attach(leader, wire::may_send);
    let (node, node_events) = ScriptedNode::linked(&net, "n1", &leader_id, &farm.objects);
    let node = ScriptedNode {
        is_stuck: true,
        ..node
    };
    let (running, hints) = (Arc::clone(&node.running), Arc::clone(&node.hints));
    let mut world = JoinSet::new();
    world.spawn(node.run(node_events));
    world.spawn(async move { net.follow_tokio().await });
    let end = CancellationToken::new();
    let coordinator = farm.coordinator(Arc::new(link), Arc::new(|_| ()));
    let led = coordinator.run(events, end.clone());

    let work = async {
        while running.lock().unwrap().is_none() {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        let next = farm.queue_words(user).await;
        let hint = loop {
            if let Some(hint) = hints.lock().unwrap().pop() {
                break hint;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        };
        end.cancel();
        (next, hint)
    };
    let (led, (next, hint)) = timeout(LONG, async { tokio::join!(led, work) })
        .await
        .unwrap();
    led.unwrap();
    assert_eq!(hint.job, next);
    let shown = |stage: &PrefetchStage| {
        let adapters: Vec<_> = stage.adapters.iter().map(|source| source.sha256).collect();
        (stage.model.to_string(), stage.model_sha256, adapters)
    };
    let stages: Vec<_> = hint.stages.iter().map(shown).collect();
    assert_eq!(
        stages,
        [
            ("painter".to_owned(), KEYFRAME_MODEL, vec![STYLE]),
            ("tiny".to_owned(), CLIP_MODEL, vec![MOTION]),
        ]
    );
}
