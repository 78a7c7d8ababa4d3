//! Goal: whoever stops in the middle of a transaction with the row of a job, an api that is frozen in a cancel, delays nobody else's
//! job and costs no leader its lease.
//! Method: the row of one job is locked by another connection while the real leader gives two jobs to two nodes.

use std::sync::Arc;
use std::time::Duration;

use flowai_actors::link::{Faults, Role, SimNet};
use flowai_actors::wire;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::farm::{Farm, LONG, peer};
use crate::scripted_node::ScriptedNode;

const LOOK_AGAIN: Duration = Duration::from_millis(100);

#[tokio::test]
async fn a_held_row_delays_its_own_job_only() {
    let mut farm = Farm::start().await;
    let (one, other) = (farm.sign_up().await, farm.sign_up().await);
    let (held, free) = (farm.queue(one).await, farm.queue(other).await);
    let mut holder = PgConnection::connect(&farm.postgres.urls().owner)
        .await
        .unwrap();
    let lock = format!("select from job_state where job_id = '{held}' for update");
    for statement in ["begin", &lock] {
        let statement = AssertSqlSafe(statement.to_owned());
        sqlx::query(statement).execute(&mut holder).await.unwrap();
    }

    let net = SimNet::new(1, Faults::none());
    let leader = peer(Role::Coordinator, "c1");
    let leader_id = leader.id.clone();
    let (link, events) = net.attach(leader, wire::may_send);
    let mut world = JoinSet::new();
    for name in ["n1", "n2"] {
        let (node, events) = ScriptedNode::linked(&net, name, &leader_id, &farm.objects);
        world.spawn(node.run(events));
    }
    world.spawn(async move { net.follow_tokio().await });
    let end = CancellationToken::new();
    let coordinator = farm.coordinator(Arc::new(link), Arc::new(|_| ()));
    let led = coordinator.run(events, end.clone());
    let work = async {
        let mut until = async |job, state: &str| {
            let query = format!("select state from job_state where job_id = '{job}'");
            while farm.text(&query).await != state {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        };
        until(free, "done").await;
        sqlx::query("commit").execute(&mut holder).await.unwrap();
        until(held, "done").await;
        // One term from the beginning to the end.
        assert_eq!(farm.text("select epoch from leader").await, "1");
        end.cancel();
    };
    let (led, ()) = timeout(LONG, async { tokio::join!(led, work) })
        .await
        .unwrap();
    led.unwrap();
}
