//! Goal: an operator, and nobody else, learns what the leader believed wrongly. Method: a leader that answers by script; what the
//! real one finds is tested where it lives.

use flowai_actors::ids::JobId;
use flowai_actors::messages::{Compare, Compared, Difference};
use serde_json::json;

use crate::farm::Farm;

#[tokio::test(flavor = "multi_thread")]
async fn operators_compare_memory_with_rows() {
    let farm = Farm::start().await;
    let (ada, root) = (farm.user("ada").await, farm.user("root").await);
    farm.run("update account set role = 'admin' where email = 'root@example.org'")
        .await;
    let by_ada = ada.post("/v1/farm/compare", &json!({})).await;
    by_ada.expect_problem(403, "role_required");
    let looks_only = farm.with_key(&root, &["farm:read"]).await;
    let refused = looks_only.post("/v1/farm/compare", &json!({})).await;
    refused.expect_problem(403, "role_required");
    let job = JobId::generate();
    let compared = Compared {
        jobs: 7,
        suspected: 2,
        differing: 1,
        differences: vec![Difference {
            job,
            memory: "attempt 1 runs on a".to_owned(),
            row: "waits after 1 attempts".to_owned(),
        }],
    };
    let (Compare {}, answer) = tokio::join!(farm.leader.answer(&compared), async {
        root.post("/v1/farm/compare", &json!({})).await
    });
    let expected = json!({
        "jobs": 7, "suspected": 2, "differing": 1,
        "differences": [{ "video": job, "memory": "attempt 1 runs on a", "row": "waits after 1 attempts" }],
    });
    assert_eq!(answer.expect(200).json(), expected);
}
