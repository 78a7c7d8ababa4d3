//! Goal: whatever happens to jobs, in whatever order and however often it is told, credits are neither made nor lost, and a user
//! pays for what was delivered and for nothing else (INV-3, INV-6).
//! Method: the statements of api and leader against a migrated PostgreSQL, beside a model that keeps the money in three lines.

use std::collections::BTreeMap;
use std::time::Duration;

use flowai_actors::credits::{Millicredits, Price, Rendering, StepsDone};
use flowai_actors::ids::{Attempt, Epoch, JobId, UploadId, UserId};
use flowai_actors::messages::Holding;
use flowai_actors::spec::RenderSpec;
use flowai_store::database;
use flowai_store::journal::{Change, Unfinished, Written};
use flowai_store::ledger::{self, Granting, Movement};
use flowai_store::videos::{self, Cancelling, Intake, NewVideo, Queueing};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use serde_json::json;

use crate::farm::{FIRST, Farm, SECOND, held, settle, spec};

/// What [`spec`] costs.
fn price() -> Millicredits {
    Price::of(&spec(), Rendering::Full).amount
}

async fn submit(farm: &Farm, user: UserId, spec: &RenderSpec) -> (JobId, Queueing) {
    submit_by(&farm.intake, user, spec).await
}

async fn submit_by(intake: &Intake, user: UserId, spec: &RenderSpec) -> (JobId, Queueing) {
    let image = UploadId::from_uuid(user.as_uuid());
    let video = NewVideo::new(user, spec, Some(image));
    let id = video.id;
    let queueing = intake.queue(&[video], None, (202, &json!({}))).await;
    (id, queueing.unwrap())
}

async fn cancel(farm: &Farm, user: UserId, job: JobId) -> Cancelling {
    let mut transaction = farm.app.begin_as(user).await.unwrap();
    let cancelling = videos::cancel(&mut transaction, user, job).await.unwrap();
    database::commit(transaction).await.unwrap();
    cancelling
}

/// Available and held.
pub(crate) async fn balance(farm: &Farm, user: UserId) -> (u64, u64) {
    let mut transaction = farm.app.begin_as(user).await.unwrap();
    let balance = ledger::own_balance(&mut transaction).await.unwrap();
    (balance.available.get(), balance.held.get())
}

#[track_caller]
pub(crate) fn assert_balanced(found: &[ledger::Imbalance]) {
    assert!(found.is_empty(), "{found:#?}");
}

pub(crate) async fn imbalances(farm: &Farm) -> Vec<ledger::Imbalance> {
    let within = Duration::from_secs(60);
    ledger::imbalances(&farm.database, 100, within)
        .await
        .unwrap()
}

fn fail(held: Holding) -> Change {
    Change::Fail {
        held,
        code: "bad_input".to_owned(),
        detail: "no picture".to_owned(),
    }
}

fn requeue(held: Holding) -> Change {
    Change::Requeue {
        held,
        outcome: Unfinished::Lost,
        reason: "its node fell silent".to_owned(),
        checkpoint: None,
    }
}

fn quarantine(held: Holding) -> Change {
    Change::Quarantine {
        held,
        detail: "2 nodes died".to_owned(),
    }
}

/// The money as anybody would keep it.
#[derive(Default)]
struct Model {
    /// Available and held, of each user.
    balances: BTreeMap<UserId, (u64, u64)>,
    jobs: BTreeMap<JobId, Job>,
}

#[derive(Clone)]
struct Job {
    owner: UserId,
    price: u64,
    attempt: u32,
    is_running: bool,
    is_over: bool,
    is_cancel_asked: bool,
}

impl Model {
    /// The change that these rows take.
    fn apply(&mut self, change: &Change) {
        let job = self.jobs.get_mut(&change.job()).unwrap();
        let captured = match change {
            Change::Assign(_) => {
                job.attempt += 1;
                job.is_running = true;
                return;
            }
            Change::Adopt(_) | Change::Keep { .. } => return,
            Change::Requeue { .. } => {
                job.is_running = false;
                return;
            }
            Change::Settle { .. } => job.price,
            Change::Cancel { steps, .. } => Millicredits::new(job.price)
                .captured_of_cancelled(*steps)
                .get(),
            Change::Fail { .. }
            | Change::FailWaiting { .. }
            | Change::Quarantine { .. }
            | Change::CancelWaiting { .. } => 0,
        };
        self.end(change.job(), captured);
    }

    fn end(&mut self, job: JobId, captured: u64) {
        let job = self.jobs.get_mut(&job).unwrap();
        (job.is_running, job.is_over) = (false, true);
        let (available, held) = self.balances.get_mut(&job.owner).unwrap();
        *held -= job.price;
        *available += job.price - captured;
    }

    /// What of the rows a change must find as they are.
    fn takes(&self, change: &Change) -> bool {
        let job = &self.jobs[&change.job()];
        match change {
            Change::Assign(held) => {
                !job.is_over
                    && !job.is_running
                    && !job.is_cancel_asked
                    && held.at.attempt.get() == job.attempt + 1
            }
            Change::CancelWaiting { attempt, .. } => {
                !job.is_over
                    && !job.is_running
                    && job.is_cancel_asked
                    && attempt.get() == job.attempt
            }
            Change::FailWaiting { attempt, .. } => {
                !job.is_over && !job.is_running && attempt.get() == job.attempt
            }
            Change::Adopt(held)
            | Change::Settle { held, .. }
            | Change::Requeue { held, .. }
            | Change::Fail { held, .. }
            | Change::Keep { held, .. }
            | Change::Cancel { held, .. }
            | Change::Quarantine { held, .. } => {
                job.is_running && *held == self::held(change.job(), job.attempt)
            }
        }
    }
}

/// A change of the job: often one that fits, sometimes one of an earlier attempt, a foreign term or a node that lost it.
fn any_change(random: &mut StdRng, id: JobId, job: &Job) -> Change {
    let next = job.attempt + u32::from(!job.is_running);
    let attempt = match random.random_range(0..10) {
        0 => next.saturating_sub(1),
        1 => next + 1,
        _ => next,
    };
    let mut held = held(id, attempt);
    if random.random_ratio(1, 12) {
        held.at.epoch = Epoch::new(9);
    }
    if !job.is_running && random.random_ratio(9, 10) {
        return match job.is_cancel_asked {
            false if random.random_ratio(1, 8) => Change::FailWaiting {
                job: id,
                attempt: Attempt::new(attempt),
                code: "dependency_failed".to_owned(),
                detail: "it was to start after another".to_owned(),
            },
            true => Change::CancelWaiting {
                job: id,
                attempt: Attempt::new(job.attempt),
            },
            // The term that it is written in is the batch's own.
            false => Change::Assign(self::held(id, attempt)),
        };
    }
    let steps = random.random_bool(0.8).then(|| StepsDone {
        done: random.random_range(0..=8),
        total: random.random_range(0..=8),
    });
    match random.random_range(0..6) {
        0 | 1 => settle(held),
        2 => fail(held),
        3 => Change::Cancel { held, steps },
        4 => requeue(held),
        _ => quarantine(held),
    }
}

#[tokio::test]
async fn money_balances_after_every_end() {
    const STEPS: usize = 120;
    let mut farm = Farm::start().await;
    let mut random = StdRng::seed_from_u64(6);
    let mut model = Model::default();
    // The last one cannot pay for many at a time, and has lots that are smaller than a price.
    for gifts in [&[1_000_000][..], &[400, 300], &[30, 30, 30, 30]] {
        let user = UserId::generate();
        farm.sign_up_with(user, gifts[0]).await;
        for (place, gift) in gifts.iter().enumerate().skip(1) {
            farm.run(&format!(
                "select ledger_grant('{user}', 'gift', 'gift:{user}:{place}', {gift}, null, 'test')"
            ))
            .await;
        }
        model.balances.insert(user, (gifts.iter().sum(), 0));
    }
    let users: Vec<UserId> = model.balances.keys().copied().collect();
    let (mut refused, mut stale, mut before, mut partly) = (0, 0, 0, 0);
    for step in 0..STEPS {
        let unfinished: Vec<JobId> = {
            let open = model.jobs.iter().filter(|(_, job)| !job.is_over);
            open.map(|(id, _)| *id).collect()
        };
        match random.random_range(0..10) {
            0..4 => {
                let user = *users.choose(&mut random).unwrap();
                let mut spec = spec();
                spec.frames = random.random_range(2..=25);
                spec.adapters.clear();
                let price = Price::of(&spec, Rendering::Full).amount;
                let (job, queueing) = submit(&farm, user, &spec).await;
                let (available, held) = model.balances.get_mut(&user).unwrap();
                if *available < price.get() {
                    refused += 1;
                    let expected = Queueing::TooFewCredits {
                        needed: price,
                        available: Millicredits::new(*available),
                    };
                    assert_eq!(queueing, expected, "step {step}");
                } else {
                    assert_eq!(queueing, Queueing::Queued, "step {step}");
                    *available -= price.get();
                    *held += price.get();
                    let new = Job {
                        owner: user,
                        price: price.get(),
                        attempt: 0,
                        is_running: false,
                        is_over: false,
                        is_cancel_asked: false,
                    };
                    model.jobs.insert(job, new);
                }
            }
            4 => {
                // Also of what has ended: nothing moves then.
                let all: Vec<JobId> = model.jobs.keys().copied().collect();
                let Some(job) = all.choose(&mut random) else {
                    continue;
                };
                let owner = model.jobs[job].owner;
                match cancel(&farm, owner, *job).await {
                    Cancelling::Cancelled => model.end(*job, 0),
                    Cancelling::Requested => {
                        model.jobs.get_mut(job).unwrap().is_cancel_asked = true;
                    }
                    Cancelling::AlreadyAsked | Cancelling::AlreadyEnded(_) => {}
                    Cancelling::NotFound => panic!("step {step}: {job} is gone"),
                }
            }
            _ => {
                let mut jobs = unfinished.clone();
                // Some that are over are told of again.
                let over = model.jobs.iter().filter(|(_, job)| job.is_over);
                jobs.extend(over.map(|(id, _)| *id).take(2));
                let count = random.random_range(1..=6);
                let chosen: Vec<JobId> =
                    jobs.choose_multiple(&mut random, count).copied().collect();
                let changes: Vec<Change> = chosen
                    .iter()
                    .map(|id| any_change(&mut random, *id, &model.jobs[id]))
                    .collect();
                let written = farm.commit(FIRST, changes.clone()).await.unwrap();
                for (change, written) in changes.iter().zip(&written) {
                    let takes = model.takes(change);
                    assert_eq!(
                        matches!(written, Written::Now(_)),
                        takes,
                        "step {step}: {change:?} {written:?}"
                    );
                    stale += u32::from(!takes);
                    let available =
                        |model: &Model| model.balances[&model.jobs[&change.job()].owner].0;
                    let was = available(&model);
                    if takes {
                        model.apply(change);
                        let is_cancel = matches!(change, Change::Cancel { .. });
                        let gained = available(&model) - was;
                        partly += u32::from(
                            is_cancel && (1..model.jobs[&change.job()].price).contains(&gained),
                        );
                    }
                }
                // The answer was lost, and the journal commits the batch again: what was written was.
                if random.random_bool(0.5) {
                    let again = farm.commit(FIRST, changes.clone()).await.unwrap();
                    for (first, again) in written.iter().zip(&again) {
                        assert!(!matches!(again, Written::Now(_)), "step {step}");
                        before += u32::from(matches!(first, Written::Now(_)));
                    }
                }
            }
        }
        assert_balanced(&imbalances(&farm).await);
        for (user, expected) in &model.balances {
            assert_eq!(balance(&farm, *user).await, *expected, "step {step}");
        }
    }
    // Otherwise the sequence has not shown what it is for.
    let over = model.jobs.values().filter(|job| job.is_over).count();
    assert!(
        over > 20 && refused > 3 && stale > 10 && before > 10 && partly > 0,
        "{over} {refused} {stale} {before} {partly}"
    );
}

#[tokio::test]
async fn a_failed_job_costs_nothing() {
    let mut farm = Farm::start().await;
    let user = UserId::generate();
    farm.sign_up_with(user, 1_000).await;
    let ends = [fail, quarantine, |held| Change::Cancel {
        held,
        steps: None,
    }];
    for end in ends {
        let job = farm.queue_for(user).await;
        assert_eq!(
            balance(&farm, user).await,
            (1_000 - price().get(), price().get())
        );
        farm.write(Change::Assign(held(job, 1))).await;
        farm.write(requeue(held(job, 1))).await;
        farm.write(Change::Assign(held(job, 2))).await;
        assert_eq!(
            balance(&farm, user).await,
            (1_000 - price().get(), price().get()),
            "a try of the farm's own moves nothing"
        );
        farm.write(end(held(job, 2))).await;
        assert_eq!(balance(&farm, user).await, (1_000, 0));
    }
    let waiting = farm.queue_for(user).await;
    assert_eq!(cancel(&farm, user, waiting).await, Cancelling::Cancelled);
    assert_eq!(balance(&farm, user).await, (1_000, 0));
    assert_balanced(&imbalances(&farm).await);
}

#[tokio::test]
async fn a_cancel_midway_charges_the_steps_that_were_done() {
    let mut farm = Farm::start().await;
    let user = UserId::generate();
    farm.sign_up_with(user, 1_000).await;
    let job = farm.queue_for(user).await;
    farm.write(Change::Assign(held(job, 1))).await;
    let cancel = Change::Cancel {
        held: held(job, 1),
        steps: Some(StepsDone { done: 1, total: 4 }),
    };
    farm.write(cancel).await;
    let charged = price().get() / 4;
    assert!(charged > 0);
    assert_eq!(balance(&farm, user).await, (1_000 - charged, 0));
    let mut transaction = farm.app.begin_as(user).await.unwrap();
    let moved = ledger::own_transactions(&mut transaction, 10)
        .await
        .unwrap();
    let moved: Vec<(Movement, i64, i64)> = moved
        .iter()
        .map(|one| (one.movement, one.available_change, one.held_change))
        .collect();
    let (charged, price) = (charged as i64, price().get() as i64);
    let mut ends = moved[..2].to_vec();
    ends.sort_by_key(|(_, available, _)| *available);
    let expected = [
        (Movement::Capture, 0, -charged),
        (Movement::Release, price - charged, charged - price),
    ];
    assert_eq!(ends, expected);
    let rest = [(Movement::Hold, -price, price), (Movement::Gift, 1_000, 0)];
    assert_eq!(moved[2..], rest);
    let video = videos::find(&mut transaction, job).await.unwrap().unwrap();
    let cost = video.cost.unwrap();
    let shown = [cost.price.amount, cost.held, cost.captured, cost.released];
    assert_eq!(
        shown.map(|amount| amount.get() as i64),
        [price, 0, charged, price - charged]
    );
    assert_balanced(&imbalances(&farm).await);
}

#[tokio::test]
async fn two_submits_cannot_spend_one_credit() {
    let mut farm = Farm::start().await;
    let user = UserId::generate();
    farm.sign_up_with(user, price().get() * 2 - 1).await;
    let spec = spec();
    // Each by an instance of the api of its own: one writes a user's requests one after the other.
    let apps: Vec<Intake> = futures::future::join_all((0..8).map(|_| farm.app_with(1)))
        .await
        .into_iter()
        .map(|app| Intake::new(app, 1))
        .collect();
    let submits: Vec<_> = (0..64)
        .map(|n| submit_by(&apps[n % apps.len()], user, &spec))
        .collect();
    let outcomes = futures::future::join_all(submits).await;
    let queued = outcomes
        .iter()
        .filter(|(_, queueing)| *queueing == Queueing::Queued);
    assert_eq!(queued.count(), 1);
    let short = Queueing::TooFewCredits {
        needed: price(),
        available: Millicredits::new(price().get() - 1),
    };
    assert_eq!(
        outcomes
            .iter()
            .filter(|(_, queueing)| *queueing == short)
            .count(),
        63
    );
    assert_eq!(
        balance(&farm, user).await,
        (price().get() - 1, price().get())
    );
    // Who is refused leaves no row and no gap in their events.
    let rows = format!(
        "select (select count(*) from job where owner_id = '{user}')
        + (select seq from user_stream where user_id = '{user}')"
    );
    assert_eq!(farm.text(&rows).await, "2");
    assert_balanced(&imbalances(&farm).await);
}

#[tokio::test]
async fn a_repeated_batch_captures_once() {
    let mut farm = Farm::start().await;
    let (user, stranger) = (UserId::generate(), UserId::generate());
    farm.sign_up_with(user, 10_000).await;
    farm.sign_up_with(stranger, 10_000).await;
    let mut jobs = Vec::new();
    for _ in 0..5 {
        jobs.push(farm.queue_for(user).await);
        jobs.push(farm.queue_for(stranger).await);
    }
    let assigns = jobs
        .iter()
        .map(|job| Change::Assign(held(*job, 1)))
        .collect();
    farm.commit(FIRST, assigns).await.unwrap();
    let batch: Vec<Change> = jobs.iter().map(|job| settle(held(*job, 1))).collect();
    for round in 0..3 {
        let written = farm.commit(FIRST, batch.clone()).await.unwrap();
        let is_now = written.iter().all(|one| matches!(one, Written::Now(_)));
        let is_before = written.iter().all(|one| matches!(one, Written::Before(_)));
        assert_eq!((is_now, is_before), (round == 0, round > 0));
        let left = 10_000 - 5 * price().get();
        assert_eq!(balance(&farm, user).await, (left, 0), "round {round}");
        assert_eq!(balance(&farm, stranger).await, (left, 0));
    }
    let revenue = "select sum(e.amount_mc) from ledger_entries e join ledger_accounts a on a.id = e.account_id
                    where a.kind = 'revenue'";
    assert_eq!(farm.text(revenue).await, (10 * price().get()).to_string());
    // A term that is over captures nothing, nor does one that has not taken the attempt over.
    let job = farm.queue_for(user).await;
    farm.write(Change::Assign(held(job, 1))).await;
    farm.next_term().await;
    assert!(
        farm.commit(FIRST, vec![settle(held(job, 1))])
            .await
            .is_err()
    );
    let mut not_adopted = held(job, 1);
    not_adopted.at.epoch = SECOND;
    let late = farm.commit(SECOND, vec![settle(not_adopted)]).await;
    assert_eq!(late.unwrap(), [Written::Stale]);
    assert_eq!(balance(&farm, user).await.1, price().get());
    assert_balanced(&imbalances(&farm).await);
}

#[tokio::test]
async fn each_invariant_is_seen_when_it_is_broken() {
    let mut farm = Farm::start().await;
    let user = farm.user;
    let waiting = farm.queue().await;
    let done = farm.queue().await;
    farm.write(Change::Assign(held(done, 1))).await;
    farm.write(settle(held(done, 1))).await;
    let failed = farm.queue().await;
    farm.write(Change::Assign(held(failed, 1))).await;
    farm.write(fail(held(failed, 1))).await;
    assert_balanced(&imbalances(&farm).await);
    let txn = |job: JobId, kind: &str| {
        format!("select id from ledger_txns where job_id = '{job}' and kind = '{kind}'")
    };
    for (broken, letters) in [
        (
            format!(
                "delete from ledger_entries where place = 1 and txn_id = ({})",
                txn(done, "capture")
            ),
            "a",
        ),
        (
            format!(
                "update credit_balances set available_mc = available_mc + 1 where owner_id = '{user}'"
            ),
            "b",
        ),
        (
            "update credit_lots set remaining_mc = remaining_mc - 1".to_owned(),
            "c",
        ),
        (
            format!(
                "update job_state set state = 'cancelled', finished_at = now() where job_id = '{waiting}'"
            ),
            "d",
        ),
        (
            format!("delete from credit_holds where job_id = '{waiting}'"),
            "d",
        ),
        (
            format!("update credit_holds set amount_mc = amount_mc + 1 where job_id = '{waiting}'"),
            "d",
        ),
        (format!("delete from artefact where job_id = '{done}'"), "e"),
        (
            format!(
                "update credit_holds set state = 'captured', captured_mc = 1 where job_id = '{failed}'"
            ),
            "def",
        ),
        (
            format!(
                "update credit_holds set state = 'released', captured_mc = 0 where job_id = '{done}'"
            ),
            "de",
        ),
        (
            "update ledger_txns set business_id = 'x' where kind = 'gift'".to_owned(),
            "g",
        ),
    ] {
        // Past the triggers, and seen from within the transaction that is then taken back.
        let seen = farm.seen_after(&broken).await;
        assert_eq!(seen, letters, "{broken}");
    }
    assert_balanced(&imbalances(&farm).await);
}

#[tokio::test]
async fn an_administrator_gives_and_a_repeat_gives_nothing() {
    let mut farm = Farm::start().await;
    let (admin, user) = (farm.user, UserId::generate());
    farm.sign_up_with(user, 0).await;
    let email = format!("{user}@example.org");
    let (job, queueing) = submit(&farm, user, &spec()).await;
    let none = Queueing::TooFewCredits {
        needed: price(),
        available: Millicredits::ZERO,
    };
    assert_eq!(queueing, none);
    let grant = async |farm: &Farm, email: &str, amount: u64, key: &str| {
        let mut transaction = farm.app.begin_as(admin).await.unwrap();
        let amount = Millicredits::new(amount);
        let granting = ledger::grant(&mut transaction, email, amount, "a demo", key).await;
        database::commit(transaction).await.unwrap();
        granting.unwrap()
    };
    assert_eq!(grant(&farm, &email, 500, "k").await, Granting::NotAdmin);
    farm.run(&format!(
        "update account set role = 'admin' where id = '{admin}'"
    ))
    .await;
    assert_eq!(
        grant(&farm, "nobody@example.org", 500, "k").await,
        Granting::NoAccount
    );
    assert_eq!(balance(&farm, user).await, (0, 0));
    assert_eq!(grant(&farm, &email, 500, "k").await, Granting::Granted);
    assert_eq!(grant(&farm, &email, 500, "k").await, Granting::Known);
    assert_eq!(grant(&farm, &email, 501, "k").await, Granting::Reused);
    assert_eq!(balance(&farm, user).await, (500, 0));
    assert_eq!(grant(&farm, &email, 500, "l").await, Granting::Granted);
    assert_eq!(balance(&farm, user).await, (1_000, 0));
    assert_eq!(
        farm.text(&format!("select count(*) from job where id = '{job}'"))
            .await,
        "0"
    );
    assert_balanced(&imbalances(&farm).await);
}
