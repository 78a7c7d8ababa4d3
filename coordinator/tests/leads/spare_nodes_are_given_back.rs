//! Goal: the leader's autoscaler gives back what is spare: its program hears of a node only when that takes no job any more, and a
//! node that works is left alone. Method: the real leader on a simulated link, two nodes of which one never ends its job, and a
//! real program. Takes a minute: a term begins with a time for nodes to come back.

use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::time::Duration;

use flowai_actors::link::{Faults, Role, SimNet};
use flowai_actors::wire;
use flowai_coordinator::Coordinator;
use flowai_coordinator::autoscaler::{Autoscale, Command, How, Policy};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::farm::{Farm, LONG, peer};
use crate::scripted_node::ScriptedNode;

const LOOK_AGAIN: Duration = Duration::from_millis(50);

#[tokio::test]
async fn spare_nodes_are_given_back() {
    let mut farm = Farm::start().await;
    let user = farm.sign_up().await;
    farm.queue(user).await;
    let folder = tempfile::tempdir().unwrap();
    let (program, log) = (folder.path().join("program"), folder.path().join("log"));
    std::fs::write(
        &program,
        format!("#!/bin/sh\necho \"$@\" >>{}\n", log.display()),
    )
    .unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let autoscale = Autoscale {
        policy: Policy {
            groups: vec!["cpu=1..4@1".parse().unwrap()],
            budget: None,
            step_max: 4,
            cool_down_ms: 1_000,
        },
        how: How::Command(Command::new(program, LONG, &[])),
    };

    let net = SimNet::new(1, Faults::none());
    let leader = peer(Role::Coordinator, "c1");
    let leader_id = leader.id.clone();
    let (link, events) = net.attach(leader, wire::may_send);
    let mut world = JoinSet::new();
    let mut works = Vec::new();
    for name in ["n1", "n2"] {
        let (node, node_events) = ScriptedNode::linked(&net, name, &leader_id, &farm.objects);
        let node = ScriptedNode {
            is_stuck: true,
            ..node
        };
        works.push((name, Arc::clone(&node.running)));
        world.spawn(node.run(node_events));
    }
    world.spawn(async move { net.follow_tokio().await });
    let end = CancellationToken::new();
    let coordinator = Coordinator {
        autoscale: Some(autoscale),
        ..farm.coordinator(Arc::new(link), Arc::new(|_| ()))
    };
    let led = coordinator.run(events, end.clone());

    let work = async {
        let calls = loop {
            let calls = std::fs::read_to_string(&log).unwrap_or_default();
            if calls.contains("--drained") && calls.ends_with('\n') {
                break calls;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        };
        end.cancel();
        calls
    };
    let (led, calls) = timeout(LONG, async { tokio::join!(led, work) })
        .await
        .unwrap();
    led.unwrap();
    let is_idle = |(_, running): &&(&str, Arc<_>)| -> bool {
        let running: &std::sync::Mutex<Option<_>> = running;
        running.lock().unwrap().is_none()
    };
    let spare: Vec<&str> = works
        .iter()
        .filter(is_idle)
        .map(|(name, _)| *name)
        .collect();
    assert_eq!(spare.len(), 1);
    let calls: Vec<&str> = calls.lines().collect();
    let expected = [
        "--class cpu --wanted 2 --ready 2".to_owned(),
        "--class cpu --wanted 1 --ready 1".to_owned(),
        format!("--class cpu --wanted 1 --ready 1 --drained {}", spare[0]),
    ];
    assert_eq!(calls, expected);
}
