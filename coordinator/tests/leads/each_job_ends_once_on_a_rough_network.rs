//! Goal: whatever the network loses, doubles and reorders, each job ends, once, with one clip (INV-1, INV-3, INV-5).
//! Method: the real leader on a simulated link that loses and doubles a tenth of all messages, real rows and objects, nodes by
//! the protocol. Jobs are found in the rows, rung for, and left to the sweep; the last begin with words.

use std::sync::Arc;
use std::time::Duration;

use flowai_actors::ids::Epoch;
use flowai_actors::link::{Faults, NodeLink as _, PeerId, Role, SimNet};
use flowai_actors::messages::Doorbell;
use flowai_actors::wire;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::farm::{Farm, LONG, peer};
use crate::scripted_node::ScriptedNode;

const NODES: usize = 4;
const USERS: usize = 4;
const LOOK_AGAIN: Duration = Duration::from_millis(100);

#[tokio::test]
async fn each_job_ends_once_on_a_rough_network() {
    let mut farm = Farm::start().await;
    let mut users = Vec::new();
    let mut jobs = Vec::new();
    for _ in 0..USERS {
        let user = farm.sign_up().await;
        users.push(user);
        jobs.push(farm.queue(user).await);
    }

    let net = SimNet::new(20_260_101, Faults::rough());
    let leader = peer(Role::Coordinator, "c1");
    let leader_id = leader.id.clone();
    let (link, events) = net.attach(leader, wire::may_send);
    let (api, _api_events) = net.attach(peer(Role::Api, "api-1"), wire::may_send);
    assert!(net.connect(&PeerId::new(Role::Api, "api-1").unwrap(), &leader_id));
    let mut world = JoinSet::new();
    for n in 0..NODES {
        let name = format!("n{n}");
        let (node, events) = ScriptedNode::linked(&net, &name, &leader_id, &farm.objects);
        world.spawn(node.run(events));
    }
    world.spawn(async move { net.follow_tokio().await });
    let end = CancellationToken::new();
    let coordinator = farm.coordinator(Arc::new(link), Arc::new(|_| ()));
    let led = coordinator.run(events, end.clone());

    let work = async {
        for user in users {
            let (rung, unannounced) = (farm.queue(user).await, farm.queue_words(user).await);
            let bell = wire::seal(Epoch::ZERO, &Doorbell { job: rung }).unwrap();
            api.send(&leader_id, bell).unwrap();
            jobs.extend([rung, unannounced]);
        }
        let unfinished = "select count(*) from job_state where finished_at is null";
        while farm.text(unfinished).await != "0" {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        end.cancel();
    };
    let (led, ()) = timeout(LONG, async { tokio::join!(led, work) })
        .await
        .unwrap();
    led.unwrap();

    // Each first frame that words made is one picture of the job's owner.
    let pictures = "select count(*) from upload u join artefact a on a.owner_id = u.owner_id and a.keyframe_id = u.id";
    assert_eq!(farm.text(pictures).await, USERS.to_string());
    let uploads = (2 * USERS).to_string();
    assert_eq!(farm.text("select count(*) from upload").await, uploads);
    for job in &jobs {
        let of_job = format!("where job_id = '{job}'");
        let ends = format!(
            "select string_agg(kind, ' ') from job_event {of_job} and kind not in ('queued', 'assigned', 'retrying')"
        );
        assert_eq!(farm.text(&ends).await, "done", "{job}");
        for once in ["artefact", "attempt a"] {
            let and = if once == "artefact" {
                ""
            } else {
                "and outcome = 'done'"
            };
            let count = format!("select count(*) from {once} {of_job} {and}");
            assert_eq!(farm.text(&count).await, "1", "{job}: {once}");
        }
    }
}
