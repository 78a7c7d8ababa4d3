//! Goal: requests that come while others are written go into one statement, and none of them is refused for what is wrong with another.
//! Method: every lane is held up while a group gathers.

use std::time::Duration;

use chrono::{TimeDelta, Utc};
use flowai_actors::credits::{Millicredits, Price, Rendering};
use flowai_actors::ids::{AdapterId, JobId, UploadId, UserId};
use flowai_actors::limits::INTAKE_LANES;
use flowai_actors::state::Tier;
use flowai_store::database::DatabaseError;
use flowai_store::idempotency::{Known, NamedRequest};
use flowai_store::videos::{Intake, NewVideo, Queueing};
use serde_json::json;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use uuid::Uuid;

use crate::farm::{Farm, spec};

const SOON: Duration = Duration::from_secs(30);

/// One request, as it is sent.
#[derive(Clone)]
struct Wish {
    ids: Vec<JobId>,
    owner: UserId,
    image: Uuid,
    adapters: Vec<AdapterId>,
    parent: Option<JobId>,
    after: Option<JobId>,
    key: Option<&'static str>,
    hash: [u8; 32],
}

impl Wish {
    fn of(owner: UserId) -> Self {
        Self {
            ids: vec![JobId::generate()],
            owner,
            image: owner.as_uuid(),
            adapters: Vec::new(),
            parent: None,
            after: None,
            key: None,
            hash: [0; 32],
        }
    }

    async fn send(self, intake: Intake) -> Result<Queueing, DatabaseError> {
        let spec = spec();
        let image = Some(UploadId::from_uuid(self.image));
        let video = |id: &JobId| NewVideo {
            id: *id,
            adapters: &self.adapters,
            parent: self.parent,
            after: self.after,
            ..NewVideo::new(self.owner, &spec, image)
        };
        let videos: Vec<NewVideo<'_>> = self.ids.iter().map(video).collect();
        let named = self.key.map(|key| NamedRequest {
            owner: self.owner,
            key,
            hash: self.hash,
        });
        let answer = (202, &json!({ "id": self.ids[0] }));
        intake.queue(&videos, named.as_ref(), answer).await
    }
}

/// Jobs of whoever stands in a jam are not written.
const JAM: [&str; 3] = [
    "create table jam (owner_id uuid primary key)",
    "create function stand() returns trigger language plpgsql security definer as $$
     begin
         while exists (select from jam j where j.owner_id = new.owner_id) loop
             perform pg_sleep(0.01);
         end loop;
         return new;
     end $$",
    "create trigger stand before insert on job for each row execute function stand()",
];

/// Every lane is held up by somebody's request.
struct Jam(Vec<JoinHandle<Result<Queueing, DatabaseError>>>);

impl Jam {
    async fn new(farm: &mut Farm) -> Self {
        for statement in JAM {
            farm.run(statement).await;
        }
        let mut held_up = Vec::new();
        for _ in 0..INTAKE_LANES {
            let user = UserId::generate();
            farm.sign_up(user).await;
            farm.run(&format!("insert into jam values ('{user}')"))
                .await;
            held_up.push(tokio::spawn(Wish::of(user).send(farm.intake.clone())));
            let standing = "select count(*) from pg_stat_activity where wait_event = 'PgSleep'";
            farm.until(standing, &held_up.len().to_string()).await;
        }
        Self(held_up)
    }

    async fn end(self, farm: &mut Farm) {
        farm.run("delete from jam").await;
        for one in self.0 {
            assert_eq!(one.await.unwrap().unwrap(), Queueing::Queued);
        }
    }
}

/// Sends a wish, which waits.
async fn gather(farm: &Farm, wish: &Wish) -> JoinHandle<Result<Queueing, DatabaseError>> {
    let before = farm.intake.waiting();
    let sent = tokio::spawn(wish.clone().send(farm.intake.clone()));
    let gathered = async {
        while farm.intake.waiting() == before {
            tokio::task::yield_now().await;
        }
    };
    timeout(SOON, gathered).await.unwrap();
    sent
}

/// What becomes of wishes that come together, in this order.
async fn together(farm: &mut Farm, wishes: &[Wish]) -> Vec<Result<Queueing, DatabaseError>> {
    let jam = Jam::new(farm).await;
    let mut sent = Vec::new();
    for wish in wishes {
        sent.push(gather(farm, wish).await);
    }
    jam.end(farm).await;
    let mut outcomes = Vec::new();
    for one in sent {
        outcomes.push(one.await.unwrap());
    }
    outcomes
}

fn queueings(outcomes: Vec<Result<Queueing, DatabaseError>>) -> Vec<Queueing> {
    outcomes.into_iter().map(Result::unwrap).collect()
}

/// In how many transactions the jobs were written, and how many there are.
async fn transactions(farm: &mut Farm, wishes: &[Wish]) -> String {
    let ids = wishes.iter().flat_map(|wish| &wish.ids);
    let ids: Vec<String> = ids.map(|id| format!("'{id}'")).collect();
    let ids = ids.join(", ");
    farm.text(&format!(
        "select count(distinct xmin::text) || ' for ' || count(*) from job where id in ({ids})"
    ))
    .await
}

async fn balances(farm: &mut Farm) {
    let imbalances = "select count(*) from ledger_imbalances";
    assert_eq!(farm.text(imbalances).await, "0");
}

async fn users<const MANY: usize>(farm: &mut Farm) -> [UserId; MANY] {
    let users = [(); MANY].map(|()| UserId::generate());
    for user in users {
        farm.sign_up(user).await;
    }
    users
}

#[tokio::test]
async fn what_comes_meanwhile_is_written_by_one_statement() {
    let mut farm = Farm::start().await;
    let users = users::<4>(&mut farm).await;
    let mut wishes = users.map(Wish::of);
    // A batch beside single ones.
    wishes[2].ids = (0..3).map(|_| JobId::generate()).collect();
    // Whose price is more than the first lot has.
    let several = UserId::generate();
    let price = Price::of(&spec(), Rendering::Full).amount.get();
    farm.sign_up_with(several, price - 1).await;
    farm.run(&format!(
        "select ledger_grant('{several}', 'gift', 'gift:{several}:more', {price}, null, 'test')"
    ))
    .await;
    let wishes: Vec<Wish> = wishes.into_iter().chain([Wish::of(several)]).collect();
    let queued = together(&mut farm, &wishes).await;
    assert_eq!(queueings(queued), vec![Queueing::Queued; 5]);
    assert_eq!(transactions(&mut farm, &wishes).await, "1 for 7");
    let batch = format!(
        "select string_agg(job_id::text, ' ' order by user_seq) from job_event where owner_id = '{}'",
        users[2]
    );
    let in_order: Vec<String> = wishes[2].ids.iter().map(JobId::to_string).collect();
    assert_eq!(farm.text(&batch).await, in_order.join(" "));
    balances(&mut farm).await;
}

#[tokio::test]
async fn each_request_of_a_group_gets_its_own_verdict() {
    let mut farm = Farm::start().await;
    let [
        good,
        full,
        again,
        other,
        busy,
        early,
        lone,
        plain,
        thief,
        twice,
    ] = users(&mut farm).await;
    let (poor, nothing) = (UserId::generate(), UserId::generate());
    farm.sign_up_with(poor, 1).await;
    farm.sign_up_with(nothing, 0).await;
    let to_free = format!("update account set tier = 'free' where id = '{full}'");
    farm.run(&to_free).await;
    for _ in 0..Tier::Free.queued_max() {
        farm.queue_for(full).await;
    }
    let named = |owner, hash| Wish {
        key: Some("k"),
        hash: [hash; 32],
        ..Wish::of(owner)
    };
    let before = named(again, 1);
    for wish in [before.clone(), named(other, 1)] {
        let queued = wish.send(farm.intake.clone()).await;
        assert_eq!(queued.unwrap(), Queueing::Queued);
    }
    // Another instance is at work on a request of this name.
    let mut elsewhere = farm.another_owner().await;
    let lock = format!("select pg_advisory_lock(hashtextextended('idempotency{busy}k', 0))");
    let locked = sqlx::query(AssertSqlSafe(lock)).execute(&mut elsewhere);
    locked.await.unwrap();

    let strange = Some(before.ids[0]);
    let wishes = [
        Wish::of(good),
        Wish::of(full),
        Wish::of(poor),
        Wish::of(nothing),
        named(again, 1),
        named(other, 2),
        named(busy, 1),
        Wish {
            after: strange,
            ..Wish::of(early)
        },
        Wish {
            parent: strange,
            ..Wish::of(lone)
        },
        Wish {
            adapters: vec![AdapterId::generate()],
            ..Wish::of(plain)
        },
        Wish {
            image: good.as_uuid(),
            ..Wish::of(thief)
        },
        Wish::of(twice),
        Wish::of(twice),
    ];
    let outcomes = together(&mut farm, &wishes).await;
    let lacking = |available| Queueing::TooFewCredits {
        needed: Price::of(&spec(), Rendering::Full).amount,
        available: Millicredits::new(available),
    };
    let expected = [
        Queueing::Queued,
        Queueing::TooMany { tier: Tier::Free },
        lacking(1),
        lacking(0),
        Queueing::Known(Known::Answered {
            status: 202,
            body: json!({ "id": before.ids[0] }),
        }),
        Queueing::Known(Known::Reused),
        Queueing::InProgress,
        Queueing::NoAfter,
        Queueing::NoParent,
        Queueing::NoAdapter,
        Queueing::NoImage,
        Queueing::Queued,
        Queueing::Queued,
    ];
    assert_eq!(queueings(outcomes), expected);
    // The second request of `twice` came after its first.
    let [first, .., of_twice, _] = &wishes;
    let of_first_group = [first.clone(), of_twice.clone()];
    assert_eq!(transactions(&mut farm, &of_first_group).await, "1 for 2");
    assert_eq!(transactions(&mut farm, &wishes).await, "2 for 3");
    // What is refused takes no number of its owner's events.
    let streams = [
        (good, 1),
        (full, Tier::Free.queued_max()),
        (poor, 0),
        (again, 1),
        (other, 1),
        (busy, 0),
        (thief, 0),
        (twice, 2),
    ];
    for (user, seq) in streams {
        let stream = format!("select seq from user_stream where user_id = '{user}'");
        assert_eq!(farm.text(&stream).await, seq.to_string(), "{user}");
    }
    balances(&mut farm).await;
    elsewhere.close().await.unwrap();
}

#[tokio::test]
async fn an_error_is_of_the_request_that_caused_it() {
    let mut farm = Farm::start().await;
    let users = users::<3>(&mut farm).await;
    let wishes = users.map(Wish::of);
    // As if it were removed after the statement has looked.
    let [_, gone, _] = users;
    farm.run("create function lose() returns trigger language plpgsql as $$ begin new.image_id = gen_random_uuid(); return new; end $$")
        .await;
    farm.run(&format!(
        "create trigger lose before insert on job for each row when (new.owner_id = '{gone}') execute function lose()"
    ))
    .await;
    let outcomes = together(&mut farm, &wishes).await;
    let expected = [Queueing::Queued, Queueing::NoImage, Queueing::Queued];
    assert_eq!(queueings(outcomes), expected);
    assert_eq!(transactions(&mut farm, &wishes).await, "2 for 2");
    balances(&mut farm).await;
}

#[tokio::test]
async fn what_this_version_cannot_read_of_one_is_its_error_alone() {
    let mut farm = Farm::start().await;
    let users = users::<3>(&mut farm).await;
    let wishes = users.map(Wish::of);
    // A tier of a newer version.
    farm.run("alter table account drop constraint account_tier_check")
        .await;
    let [_, newer, _] = users;
    farm.run(&format!(
        "update account set tier = 'gold' where id = '{newer}'"
    ))
    .await;
    let outcomes = together(&mut farm, &wishes).await;
    let [first, unread, last] = outcomes.try_into().unwrap();
    assert_eq!(first.unwrap(), Queueing::Queued);
    assert_eq!(last.unwrap(), Queueing::Queued);
    assert!(!unread.unwrap_err().is_outage());
    // Written once, together.
    assert_eq!(transactions(&mut farm, &wishes).await, "1 for 2");
}

#[tokio::test]
async fn whose_rows_are_locked_keeps_nobody_else() {
    let mut farm = Farm::start().await;
    let users = users::<3>(&mut farm).await;
    let [_, locked, _] = users;
    farm.queue_for(locked).await;
    let mut elsewhere: PgConnection = farm.another_owner().await;
    let mut lock = elsewhere.begin().await.unwrap();
    sqlx::query("select from user_stream where user_id = $1 for update")
        .bind(locked.as_uuid())
        .execute(&mut *lock)
        .await
        .unwrap();
    let wishes = users.map(Wish::of);
    let outcomes = together(&mut farm, &wishes).await;
    let [first, refused, last] = outcomes.try_into().unwrap();
    assert_eq!(first.unwrap(), Queueing::Queued);
    assert_eq!(last.unwrap(), Queueing::Queued);
    let refused = refused.unwrap_err();
    assert!(refused.is_outage(), "{refused}");
    assert_eq!(transactions(&mut farm, &wishes).await, "2 for 2");
    lock.rollback().await.unwrap();
}

#[tokio::test]
async fn a_request_is_carried_out_when_its_caller_has_gone() {
    let mut farm = Farm::start().await;
    let jam = Jam::new(&mut farm).await;
    let wish = Wish::of(farm.user);
    let caller = gather(&farm, &wish).await;
    caller.abort();
    assert!(caller.await.unwrap_err().is_cancelled());
    jam.end(&mut farm).await;
    let id = wish.ids[0];
    farm.until(&format!("select count(*) from job where id = '{id}'"), "1")
        .await;
}

#[tokio::test]
async fn nobody_waits_for_a_lane_without_end() {
    let mut farm = Farm::start().await;
    let jam = Jam::new(&mut farm).await;
    let user = farm.user;
    let caller = gather(&farm, &Wish::of(user)).await;
    // Told while the lanes are still held up.
    let refused = timeout(SOON, caller).await.unwrap().unwrap().unwrap_err();
    assert!(matches!(refused, DatabaseError::Busy), "{refused}");
    jam.end(&mut farm).await;
    let of_user = format!("select count(*) from job where owner_id = '{user}'");
    assert_eq!(farm.text(&of_user).await, "0");
}

/// One api's clock is a week behind, and another's ahead: their jobs are as old as they are.
#[tokio::test]
async fn a_wrong_clock_makes_no_job_older() {
    let farm = Farm::start().await;
    let (spec, image) = (spec(), UploadId::from_uuid(farm.user.as_uuid()));
    for days in [-8, 8] {
        let video = NewVideo {
            created_at: Utc::now() + TimeDelta::days(days),
            ..NewVideo::new(farm.user, &spec, Some(image))
        };
        let job = farm.submit(&video).await;
        let waited = farm.row(job).await.waited;
        assert!(waited <= Duration::from_secs(61), "{days}: {waited:?}");
    }
}
