//! Goal: a leader that cannot renew its lease holds no node, since another may lead by then; it leads again when it can.
//! Method: PostgreSQL is killed under a leader, and started again.

use std::sync::Arc;

use flowai_actors::link::{Faults, Role, SimNet, Standing};
use flowai_actors::wire;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::farm::{Farm, LONG, peer};

#[tokio::test]
async fn a_leader_without_its_database_stands_down() {
    let farm = Farm::start().await;
    let net = SimNet::new(1, Faults::none());
    let (link, events) = net.attach(peer(Role::Coordinator, "c1"), wire::may_send);
    let (standing, mut seen) = watch::channel(Standing::Standby { leader: None });
    let stand = Arc::new(move |now| drop(standing.send_replace(now)));
    let end = CancellationToken::new();
    let led = farm.coordinator(Arc::new(link), stand);
    let led = led.run(events, end.clone());
    let outage = async {
        let is_leading = |now: &Standing| matches!(now, Standing::Leading);
        seen.wait_for(is_leading).await.unwrap();
        farm.postgres.kill().await;
        seen.wait_for(|now| !is_leading(now)).await.unwrap();
        farm.postgres.restart().await.unwrap();
        seen.wait_for(is_leading).await.unwrap();
        end.cancel();
    };
    let (led, ()) = timeout(LONG, async { tokio::join!(led, outage) })
        .await
        .unwrap();
    led.unwrap();
}
