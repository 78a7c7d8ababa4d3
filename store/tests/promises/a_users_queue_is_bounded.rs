//! Goal: no more of a user's jobs wait than its tier allows, however many are submitted at once. Method: many connections at a time.

use flowai_actors::ids::{JobId, UploadId, UserId};
use flowai_actors::state::Tier;
use flowai_store::database::Database;
use flowai_store::videos::{self, Intake, NewVideo, Queueing};
use serde_json::json;
use tokio::task::JoinSet;

use crate::farm::{Farm, spec};

/// Submissions beyond the cap.
const BEYOND: u32 = 20;
const AT_ONCE: u32 = 16;

#[tokio::test(flavor = "multi_thread")]
async fn of_many_submissions_at_once_no_more_are_queued_than_the_tier_allows() {
    let mut farm = Farm::start().await;
    let app = farm.app_with(AT_ONCE).await;
    for tier in Tier::ALL {
        let user = UserId::generate();
        farm.sign_up(user).await;
        farm.run(&format!(
            "update account set tier = '{}' where id = '{user}'",
            tier.as_str()
        ))
        .await;
        let mut submissions = JoinSet::new();
        for _ in 0..tier.queued_max() + BEYOND {
            submissions.spawn(submit(app.clone(), user));
        }
        let outcomes = submissions.join_all().await;
        let refused = outcomes
            .iter()
            .filter(|queueing| **queueing == Queueing::TooMany { tier });
        assert_eq!(refused.count(), BEYOND as usize, "{tier:?}");
        let queued = format!(
            "select count(*) from job_state where owner_id = '{user}' and state = 'queued'"
        );
        assert_eq!(farm.text(&queued).await, tier.queued_max().to_string());
        // Whoever is cancelled, or starts, makes room for one more.
        farm.run(&format!(
            "update job_state set state = 'running', attempt = 1, epoch = 1, node_id = 'n', generation = 1
              where job_id = (select job_id from job_state where owner_id = '{user}' limit 1)"
        ))
        .await;
        assert_eq!(submit(app.clone(), user).await, Queueing::Queued);
        assert_eq!(submit(app.clone(), user).await, Queueing::TooMany { tier });
    }
}

#[tokio::test]
async fn the_farms_queue_is_counted_over_all_users_up_to_what_is_asked() {
    let mut farm = Farm::start().await;
    let other = UserId::generate();
    farm.sign_up(other).await;
    assert!(!videos::farm_queue_reaches(&farm.app, 1).await.unwrap());
    for user in [farm.user, other, other] {
        assert_eq!(submit(farm.app.clone(), user).await, Queueing::Queued);
    }
    assert!(videos::farm_queue_reaches(&farm.app, 3).await.unwrap());
    assert!(!videos::farm_queue_reaches(&farm.app, 4).await.unwrap());
}

async fn submit(app: Database, user: UserId) -> Queueing {
    let spec = spec();
    let video = NewVideo {
        id: JobId::generate(),
        adapters: &[],
        ..NewVideo::new(user, &spec, Some(UploadId::from_uuid(user.as_uuid())))
    };
    // Of its own, as another instance of the api has it: one instance writes a user's requests one after the other.
    let intake = Intake::new(app, 1);
    let queued = intake.queue(&[video], None, (202, &json!({}))).await;
    queued.unwrap()
}
