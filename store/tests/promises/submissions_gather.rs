//! Goal: requests that come while others are written go into one statement, and none of them is refused or delayed for what is wrong with
//! another. Method: both lanes are held up by locks while a group gathers.

use std::time::Duration;

use flowai_actors::credits::{Millicredits, Price, Rendering};
use flowai_actors::ids::{JobId, UploadId, UserId};
use flowai_actors::limits::INTAKE_LANES;
use flowai_actors::state::Tier;
use flowai_store::idempotency::{Known, NamedRequest};
use flowai_store::videos::{Intake, NewVideo, Queueing};
use serde_json::json;
use sqlx::{Connection as _, PgConnection};
use tokio::task::JoinHandle;
use uuid::Uuid;

use crate::farm::{Farm, spec};

/// One request of one video, as it is sent.
#[derive(Clone, Copy)]
struct Wish {
    id: JobId,
    owner: UserId,
    image: Uuid,
    after: Option<JobId>,
    key: Option<&'static str>,
    hash: [u8; 32],
}

fn wish(owner: UserId) -> Wish {
    Wish {
        id: JobId::generate(),
        owner,
        image: owner.as_uuid(),
        after: None,
        key: None,
        hash: [0; 32],
    }
}

async fn send(intake: Intake, wish: Wish) -> Queueing {
    let spec = spec();
    let video = NewVideo {
        id: wish.id,
        after: wish.after,
        ..NewVideo::new(wish.owner, &spec, Some(UploadId::from_uuid(wish.image)))
    };
    let named = wish.key.map(|key| NamedRequest {
        owner: wish.owner,
        key,
        hash: wish.hash,
    });
    let answer = (202, &json!({ "id": wish.id }));
    let queueing = intake.queue(&[video], named.as_ref(), answer).await;
    queueing.unwrap()
}

/// Users whose streams somebody else has locked: a statement for each of them stands in a lane.
struct Jam {
    lock: PgConnection,
    behind: Vec<JoinHandle<Queueing>>,
}

impl Jam {
    async fn new(farm: &mut Farm) -> Self {
        let mut lock = farm.another_owner().await;
        let begun = sqlx::query("begin").execute(&mut lock);
        begun.await.unwrap();
        let mut behind = Vec::new();
        for _ in 0..INTAKE_LANES {
            let user = UserId::generate();
            farm.sign_up(user).await;
            farm.queue_for(user).await;
            sqlx::query("select from user_stream where user_id = $1 for update")
                .bind(user.as_uuid())
                .execute(&mut lock)
                .await
                .unwrap();
            behind.push(tokio::spawn(send(farm.intake.clone(), wish(user))));
            farm.wait_for_locks(behind.len()).await;
        }
        Self { lock, behind }
    }

    async fn end(mut self) {
        let ended = sqlx::query("rollback").execute(&mut self.lock);
        ended.await.unwrap();
        for one in self.behind {
            assert_eq!(one.await.unwrap(), Queueing::Queued);
        }
        self.lock.close().await.unwrap();
    }
}

/// What becomes of wishes that come together.
async fn together(farm: &mut Farm, wishes: &[Wish]) -> Vec<Queueing> {
    let jam = Jam::new(farm).await;
    let mut told = Vec::new();
    for wish in wishes {
        told.push(tokio::spawn(send(farm.intake.clone(), *wish)));
        // They gather in this order.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    jam.end().await;
    let mut queueings = Vec::new();
    for one in told {
        queueings.push(one.await.unwrap());
    }
    queueings
}

/// In how many transactions these were written.
async fn transactions(farm: &mut Farm, wishes: &[Wish]) -> String {
    let ids: Vec<String> = wishes.iter().map(|wish| format!("'{}'", wish.id)).collect();
    let ids = ids.join(", ");
    farm.text(&format!(
        "select count(distinct xmin::text) || ' of ' || count(*) from job where id in ({ids})"
    ))
    .await
}

async fn users(farm: &mut Farm, many: usize) -> Vec<UserId> {
    let users: Vec<UserId> = (0..many).map(|_| UserId::generate()).collect();
    for user in &users {
        farm.sign_up(*user).await;
    }
    users
}

#[tokio::test]
async fn what_comes_meanwhile_is_written_by_one_statement() {
    let mut farm = Farm::start().await;
    let users = users(&mut farm, 5).await;
    let wishes: Vec<Wish> = users.iter().map(|user| wish(*user)).collect();
    let queueings = together(&mut farm, &wishes).await;
    assert_eq!(queueings, vec![Queueing::Queued; 5]);
    assert_eq!(transactions(&mut farm, &wishes).await, "1 of 5");
    assert_eq!(
        farm.text("select count(*) from ledger_imbalances").await,
        "0"
    );
}

#[tokio::test]
async fn each_request_of_a_group_gets_its_own_verdict() {
    let mut farm = Farm::start().await;
    let users = users(&mut farm, 6).await;
    let [good, full, again, other, early, twice] = users[..] else {
        panic!("{users:?}");
    };
    let poor = UserId::generate();
    farm.sign_up_with(poor, 1).await;
    let nothing = UserId::generate();
    farm.sign_up_with(nothing, 0).await;
    farm.run(&format!(
        "update account set tier = 'free' where id = '{full}'"
    ))
    .await;
    for _ in 0..Tier::Free.queued_max() {
        farm.queue_for(full).await;
    }
    let named = |owner, hash| Wish {
        key: Some("k"),
        hash: [hash; 32],
        ..wish(owner)
    };
    let before = named(again, 1);
    assert_eq!(send(farm.intake.clone(), before).await, Queueing::Queued);
    assert_eq!(
        send(farm.intake.clone(), named(other, 1)).await,
        Queueing::Queued
    );
    let stream = |user: UserId| format!("select seq from user_stream where user_id = '{user}'");

    let wishes = [
        wish(good),
        wish(full),
        wish(poor),
        wish(nothing),
        named(again, 1),
        named(other, 2),
        Wish {
            after: Some(before.id),
            ..wish(early)
        },
        wish(twice),
        wish(twice),
    ];
    let queueings = together(&mut farm, &wishes).await;
    let needed = Price::of(&spec(), Rendering::Full).amount;
    let lacking = |available| Queueing::TooFewCredits {
        needed,
        available: Millicredits::new(available),
    };
    let expected = [
        Queueing::Queued,
        Queueing::TooMany { tier: Tier::Free },
        lacking(1),
        lacking(0),
        Queueing::Known(Known::Answered {
            status: 202,
            body: json!({ "id": before.id }),
        }),
        Queueing::Known(Known::Reused),
        Queueing::NoAfter,
        Queueing::Queued,
        Queueing::Queued,
    ];
    assert_eq!(queueings, expected);
    assert_eq!(
        transactions(&mut farm, &[wishes[0], wishes[7]]).await,
        "1 of 2"
    );
    assert_eq!(transactions(&mut farm, &wishes).await, "2 of 3");
    // What is refused takes no number of the owner's events.
    for (user, seq) in [
        (full, Tier::Free.queued_max()),
        (poor, 0),
        (again, 1),
        (other, 1),
        (early, 0),
        (twice, 2),
    ] {
        assert_eq!(farm.text(&stream(user)).await, seq.to_string(), "{user}");
    }
    assert_eq!(
        farm.text("select count(*) from ledger_imbalances").await,
        "0"
    );
}

#[tokio::test]
async fn a_group_goes_on_without_what_names_a_picture_that_is_gone() {
    let mut farm = Farm::start().await;
    let users = users(&mut farm, 3).await;
    let mut wishes: Vec<Wish> = users.iter().map(|user| wish(*user)).collect();
    // Somebody else's is as good as a missing one.
    wishes[1].image = users[0].as_uuid();
    let queueings = together(&mut farm, &wishes).await;
    assert_eq!(
        queueings,
        [Queueing::Queued, Queueing::NoImage, Queueing::Queued]
    );
    assert_eq!(transactions(&mut farm, &wishes).await, "2 of 2");
    assert_eq!(
        farm.text("select count(*) from ledger_imbalances").await,
        "0"
    );
}

#[tokio::test]
async fn a_request_is_carried_out_when_its_caller_has_gone() {
    let mut farm = Farm::start().await;
    let jam = Jam::new(&mut farm).await;
    let wish = wish(farm.user);
    let caller = tokio::spawn(send(farm.intake.clone(), wish));
    tokio::time::sleep(Duration::from_millis(50)).await;
    caller.abort();
    assert!(caller.await.unwrap_err().is_cancelled());
    jam.end().await;
    let queued = format!("select count(*) from job where id = '{}'", wish.id);
    let mut is_queued = farm.text(&queued).await;
    for _ in 0..100 {
        if is_queued == "1" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        is_queued = farm.text(&queued).await;
    }
    assert_eq!(is_queued, "1");
}

#[tokio::test]
async fn nobody_waits_for_a_lane_without_end() {
    let mut farm = Farm::start().await;
    let jam = Jam::new(&mut farm).await;
    let spec = spec();
    let image = Some(UploadId::from_uuid(farm.user.as_uuid()));
    let intake = farm.intake.clone();
    let user = farm.user;
    let caller = tokio::spawn(async move {
        let video = NewVideo::new(user, &spec, image);
        intake.queue(&[video], None, (202, &json!({}))).await
    });
    tokio::time::sleep(Duration::from_millis(5_500)).await;
    jam.end().await;
    let refused = caller.await.unwrap().unwrap_err();
    assert!(refused.is_outage(), "{refused}");
    assert_eq!(
        farm.text(&format!(
            "select count(*) from job where owner_id = '{user}'"
        ))
        .await,
        "0"
    );
}
