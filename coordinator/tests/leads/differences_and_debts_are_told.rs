//! Goal: whoever changes a row behind the leader's back, or the ledger, is found out. Method: the real leader, and statements that
//! no program of the farm makes.

use std::sync::Arc;
use std::time::Duration;

use flowai_actors::ids::{Epoch, JobId};
use flowai_actors::link::{Faults, PeerId, Role, SimLink, SimNet};
use flowai_actors::messages::{Compare, Compared};
use flowai_actors::wire;
use metrics_exporter_prometheus::PrometheusBuilder;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::farm::{Farm, LONG, peer};

const LOOK_AGAIN: Duration = Duration::from_millis(50);

async fn compare(api: &SimLink, leader: &PeerId) -> Compared {
    // The leader may not lead yet.
    loop {
        let asked = wire::ask(api, leader, Epoch::ZERO, &Compare {}, LONG).await;
        match asked {
            Ok(compared) => return compared,
            Err(_) => tokio::time::sleep(LOOK_AGAIN).await,
        }
    }
}

#[tokio::test]
async fn a_row_that_was_changed_behind_the_leaders_back_is_told_and_believed() {
    let mut farm = Farm::start().await;
    let user = farm.sign_up().await;
    let jobs: [JobId; 3] = [
        farm.queue(user).await,
        farm.queue(user).await,
        farm.queue(user).await,
    ];
    let net = SimNet::new(1, Faults::none());
    let leader = peer(Role::Coordinator, "c1");
    let leader_id = leader.id.clone();
    let (link, events) = net.attach(leader, wire::may_send);
    let (api, _api_events) = net.attach(peer(Role::Api, "api-1"), wire::may_send);
    assert!(net.connect(&PeerId::new(Role::Api, "api-1").unwrap(), &leader_id));
    let mut world = JoinSet::new();
    world.spawn(async move { net.follow_tokio().await });
    let end = CancellationToken::new();
    let coordinator = farm.coordinator(Arc::new(link), Arc::new(|_| ()));
    let led = coordinator.run(events, end.clone());

    let work = async {
        let clean = compare(&api, &leader_id).await;
        let expected = Compared {
            jobs: 3,
            ..Compared::default()
        };
        assert_eq!(clean, expected);

        farm.run(&format!(
            "update job_state set attempt = 7 where job_id = '{}'",
            jobs[1]
        ))
        .await;
        let compared = compare(&api, &leader_id).await;
        assert_eq!((compared.jobs, compared.differing), (3, 1));
        let difference = &compared.differences[0];
        let told = (
            difference.job,
            difference.memory.as_str(),
            difference.row.as_str(),
        );
        let expected = (jobs[1], "waits after 0 attempts", "waits after 7 attempts");
        assert_eq!(told, expected);

        assert_eq!(
            compare(&api, &leader_id).await,
            clean,
            "the row is believed"
        );
        end.cancel();
    };
    let (led, ()) = timeout(LONG, async { tokio::join!(led, work) })
        .await
        .unwrap();
    led.unwrap();
}

#[tokio::test]
async fn a_ledger_that_does_not_balance_is_a_number_above_zero() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let numbers = recorder.handle();
    let _installed = metrics::set_default_local_recorder(&recorder);
    let mut farm = Farm::start().await;
    let user = farm.sign_up().await;
    farm.queue(user).await;
    lead_until(&farm, || {
        numbers.render().contains("flowai_ledger_violations 0\n")
    })
    .await;
    // No trigger guards the ledger from whoever switches them off.
    farm.run("set session_replication_role = replica").await;
    farm.run(&format!(
        "update credit_balances set available_mc = available_mc + 1 where owner_id = '{user}'"
    ))
    .await;
    lead_until(&farm, || {
        numbers.render().contains("flowai_ledger_violations 1\n")
    })
    .await;
}

/// Leads a term until then. Each term begins with an audit.
async fn lead_until(farm: &Farm, mut is_so: impl FnMut() -> bool) {
    let net = SimNet::new(1, Faults::none());
    let (link, events) = net.attach(peer(Role::Coordinator, "c1"), wire::may_send);
    let end = CancellationToken::new();
    let coordinator = farm.coordinator(Arc::new(link), Arc::new(|_| ()));
    let led = coordinator.run(events, end.clone());
    let seen = async {
        while !is_so() {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        end.cancel();
    };
    let (led, ()) = timeout(LONG, async { tokio::join!(led, seen) })
        .await
        .unwrap();
    led.unwrap();
}
