//! Goal: whoever comes back with the last id they saw misses nothing and hears nothing twice, also when the api died in
//! between.

use std::time::Duration;

use futures::StreamExt;

use crate::support::{TestFarm, User, within};

/// The durable events of a job behind `seen`, as (id, kind), until `last` or, without one, the job's end.
async fn events(
    farm: &TestFarm,
    user: &User,
    job: &str,
    seen: Option<u64>,
    last: Option<&str>,
) -> Vec<(u64, String)> {
    use eventsource_stream::Eventsource;

    let url = farm
        .url()
        .join(&format!("/v1/videos/{job}/events"))
        .unwrap();
    let mut request = reqwest::Client::new()
        .get(url)
        .bearer_auth(user.key.reveal());
    if let Some(seen) = seen {
        request = request.header("Last-Event-ID", seen.to_string());
    }
    let response = request.send().await.unwrap().error_for_status().unwrap();
    let mut stream = response.bytes_stream().eventsource();
    let mut events = Vec::new();
    let read = async {
        while let Some(event) = stream.next().await {
            let event = event.unwrap();
            if ["progress", "position"].contains(&event.event.as_str()) {
                continue;
            }
            let is_end =
                ["done", "failed", "cancelled", "quarantined"].contains(&event.event.as_str());
            let is_last = last.map_or(is_end, |last| last == event.event);
            events.push((event.id.parse().unwrap(), event.event));
            if is_last {
                break;
            }
        }
    };
    within("the stream says it", read).await;
    events
}

#[tokio::test(flavor = "multi_thread")]
async fn stream_resumes_after_disconnect() {
    let farm = TestFarm::stand_in(Duration::from_millis(100), |_| ()).await;
    let user = farm.user().await;
    let job = user.submit(30).await;

    let before = events(&farm, &user, &job, None, Some("assigned")).await;
    let (seen, _) = *before.last().unwrap();
    // The reader is gone while the job goes on; the api as well.
    let mut watcher = user.follow(&job);
    watcher.until_denoising().await;
    farm.kill_and_see_it_come_back("api").await;
    let after = events(&farm, &user, &job, Some(seen), None).await;
    watcher.until_done().await;
    assert!(watcher.seen().reconnects > 0);

    let whole = events(&farm, &user, &job, None, None).await;
    assert_eq!([before, after].concat(), whole);
    let kinds: Vec<&str> = whole.iter().map(|(_, kind)| kind.as_str()).collect();
    assert_eq!(kinds, ["queued", "assigned", "done"]);
    let ids: Vec<u64> = whole.iter().map(|(id, _)| *id).collect();
    assert_eq!(ids, [1, 2, 3]);
    farm.stop().await;
}
