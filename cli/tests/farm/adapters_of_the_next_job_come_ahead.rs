//! Goal: while a node renders, the adapters of the job that waits for it come to its memory, through every real part: the leader's
//! rows, the store, the link.
//! Method: operators see the memories of a node; a wanted adapter that is not there is a miss, one that is there a hit.

use std::time::Duration;

use flowai::client::{AdapterWeight, NewVideo, Status};
use serde_json::Value;

use crate::support::{TestFarm, store_random_adapter, within};

#[tokio::test(flavor = "multi_thread")]
async fn adapters_of_the_next_job_come_ahead() {
    let farm = TestFarm::start(|_| ()).await;
    let (user, operator) = (farm.user().await, farm.operator().await);
    let (adapter, _) = store_random_adapter(&farm, &user.client).await;
    let host = async || -> Value {
        let node = operator.get(&farm, "/v1/farm/nodes/node-1").await;
        node.json::<Value>().await.unwrap()["adapters"]["host"].take()
    };
    let long = NewVideo {
        frames: Some(8),
        width: Some(128),
        height: Some(96),
        steps: Some(100),
        ..user.small_video().await
    };
    let first = user.client.submit(&long).await.unwrap().id;
    user.follow(&first).until_denoising().await;
    assert_eq!(host().await["misses"], 0);

    let styled = NewVideo {
        adapters: vec![AdapterWeight {
            id: adapter,
            weight: 1.0,
        }],
        ..user.small_video().await
    };
    let second = user.client.submit(&styled).await.unwrap().id;
    let brought = async {
        while host().await["misses"] == 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    within("the adapter is in the node's memory", brought).await;
    let running = user.client.video(&first).await.unwrap();
    assert_eq!(running.status, Status::Running, "it came ahead");
    assert_eq!(host().await["hits"], 0);

    user.client.cancel(&first).await.unwrap();
    user.follow(&second).until_done().await;
    let used = async {
        while host().await["hits"] == 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    within("the job found it there", used).await;
    assert_eq!(host().await["misses"], 1);
    farm.stop().await;
}
