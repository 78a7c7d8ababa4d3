//! Goal: operators add, drain and lose nodes while the farm runs, and no job is lost by it.
//! Method: the commands as typed, the real programs with a stand-in engine, and a machine that joins by a token.

use std::time::{Duration, Instant};

use flowai_actors::limits::REVOKED_WITHIN_MS;
use nix::sys::signal::Signal;
use serde_json::json;

use crate::support::{Flowai, JoinedNode, TestFarm, User, node_is, node_shown};

async fn typed(farm: &TestFarm, operator: &User, args: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let done = Flowai::run(farm, operator, folder.path(), args).await;
    assert_eq!(done.status, Some(0), "{args:?}: {done:?}");
}

/// The token, but for the first digit of its secret, which follows `fjt_` and the 32 digits of its id.
fn with_another_secret(token: &str) -> String {
    let at = "fjt_".len() + 32;
    let other = if &token[at..=at] == "0" { "1" } else { "0" };
    format!("{}{other}{}", &token[..at], &token[at + 1..])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_joined_node_renders() {
    let farm = TestFarm::stand_in(Duration::from_millis(10), |_| ()).await;
    let (user, operator) = (farm.user().await, farm.operator().await);
    let folder = tempfile::tempdir().unwrap();
    let node = JoinedNode::start(&farm, &operator, folder.path()).await;
    let shown = node_is(&farm, &operator, &node.name, "ready").await;
    assert_eq!(shown["labels"], json!({ "pool": "far" }));
    assert!(shown["certificate_expires_at"].is_string(), "{shown}");

    typed(&farm, &operator, &["drain", "node-1"]).await;
    node_is(&farm, &operator, "node-1", "drained").await;
    let job = user.submit(30).await;
    let mut follow = user.follow(&job);
    follow.until_denoising().await;
    assert_eq!(farm.node_of(&job).await, node.name);
    follow.until_done().await;
    farm.assert_delivered_once(&job).await;

    // The token had one use, and this folder is a node already.
    let token = JoinedNode::token(&farm, &operator, folder.path()).await;
    let again = JoinedNode::join(&farm, &token, folder.path()).await;
    again.assert_refused(2, &[&node.name, "--again"]);
    // A refusal does not say what is wrong with a token.
    let (other, third) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let used = JoinedNode::join(&farm, &token, other.path()).await;
    assert_eq!(used.status, Some(0), "{used:?}");
    let refused = JoinedNode::join(&farm, &token, third.path()).await;
    refused.assert_refused(3, &["join_refused"]);
    let unused = JoinedNode::token(&farm, &operator, folder.path()).await;
    let wrong = JoinedNode::join(&farm, &with_another_secret(&unused), third.path()).await;
    wrong.assert_refused(3, &["join_refused"]);
    // Nor is it for everybody to make one, or to move a node.
    for args in [
        &["token", "create"][..],
        &["token", "list"],
        &["drain", "node-1"],
        &["undrain", "node-1"],
        &["node", "revoke", "node-1"],
    ] {
        let refused = Flowai::run(&farm, &user, folder.path(), args).await;
        refused.assert_refused(3, &["operator"]);
    }
    farm.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn node_cannot_choose_its_labels() {
    let farm = TestFarm::stand_in(Duration::from_millis(10), |_| ()).await;
    let url = farm.url().join("/v1/farm/join").unwrap();
    for chosen in ["labels", "node", "id", "name"] {
        let body = json!({ "token": "fjt_", "csr": "", "schema": 3, chosen: { "pool": "gold" } });
        let answer = reqwest::Client::new()
            .post(url.clone())
            .json(&body)
            .send()
            .await;
        let answer = answer.unwrap();
        assert_eq!(answer.status(), 422, "{chosen}");
        let problem: serde_json::Value = answer.json().await.unwrap();
        assert_eq!(
            problem["errors"][0]["pointer"],
            format!("/{chosen}"),
            "{problem}"
        );
    }
    farm.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn revoked_node_leases_nothing() {
    let farm = TestFarm::stand_in(Duration::from_millis(10), |_| ()).await;
    let (user, operator) = (farm.user().await, farm.operator().await);
    let folder = tempfile::tempdir().unwrap();
    let node = JoinedNode::start(&farm, &operator, folder.path()).await;
    let name = node.name.clone();
    node_is(&farm, &operator, &name, "ready").await;
    typed(&farm, &operator, &["drain", "node-1"]).await;
    // Longer than this test, if it went on there.
    let job = user.submit(100).await;
    let mut follow = user.follow(&job);
    follow.until_denoising().await;
    assert_eq!(farm.node_of(&job).await, name);

    typed(&farm, &operator, &["undrain", "node-1"]).await;
    let revoked_at = Instant::now();
    typed(&farm, &operator, &["node", "revoke", &name]).await;
    let ended = node.ended().await;
    let took = revoked_at.elapsed();
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert_eq!(ended.status.code(), Some(12), "{said}");
    assert!(said.contains("flowai-render-node: stop: "), "{said}");
    assert!(took < Duration::from_millis(REVOKED_WITHIN_MS), "{took:?}");
    // Its certificate opens nothing any more, and what it worked on goes on elsewhere.
    let again = JoinedNode::program(&farm, folder.path());
    let again = again.wait_with_output().await.unwrap();
    assert_eq!(again.status.code(), Some(12));
    let video = follow.until_done().await;
    assert_eq!(video.attempt, 2);
    farm.assert_delivered_once(&job).await;
    let shown = node_shown(&farm, &operator, &name).await.unwrap();
    assert_eq!(shown["state"], "revoked");
    let attempts: i64 = farm
        .one("select count(*) from attempt where node_id = $1", &name)
        .await;
    assert_eq!(attempts, 1);
    farm.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn drained_node_gets_no_job_also_after_a_leader_change() {
    let farm = TestFarm::stand_in(Duration::from_millis(10), |options| {
        options.nodes = 2;
        options.coordinators = 2;
    })
    .await;
    let (user, operator) = (farm.user().await, farm.operator().await);
    node_is(&farm, &operator, "node-1", "ready").await;
    typed(&farm, &operator, &["drain", "node-1"]).await;
    node_is(&farm, &operator, "node-1", "drained").await;
    let holder: String = farm
        .one("select holder from leader where $1::text is not null", "")
        .await;
    let (leader, _) = holder.rsplit_once('-').unwrap();
    farm.signal(leader, Signal::SIGKILL);
    let jobs = [
        user.submit(3).await,
        user.submit(3).await,
        user.submit(3).await,
    ];
    for job in &jobs {
        user.follow(job).until_done().await;
    }
    // Also a new process of it is the same node.
    farm.kill_and_see_it_come_back("node-1").await;
    node_is(&farm, &operator, "node-1", "drained").await;
    let late = [user.submit(3).await, user.submit(3).await];
    for job in &late {
        user.follow(job).until_done().await;
    }
    let on_it: i64 = farm
        .one("select count(*) from attempt where node_id = $1", "node-1")
        .await;
    assert_eq!(on_it, 0);
    typed(&farm, &operator, &["undrain", "node-1"]).await;
    node_is(&farm, &operator, "node-1", "ready").await;
    typed(&farm, &operator, &["drain", "node-2", "--now"]).await;
    let job = user.submit(30).await;
    let mut follow = user.follow(&job);
    follow.until_denoising().await;
    assert_eq!(farm.node_of(&job).await, "node-1");
    follow.until_done().await;
    farm.stop().await;
}
