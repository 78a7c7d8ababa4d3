use std::collections::BTreeSet;

use flowai_actors::clock::Monotonic;
use flowai_actors::ids::{Attempt, Generation, GpuSeconds, JobId, ModelId, NodeId, UserId};
use flowai_actors::limits::{
    FORCED_START_EVERY, JOB_ATTEMPTS_MAX, JOB_RETRY_MS, NODE_BEAT_MS, NODE_LEASE_MS,
    START_BOUND_MS, USER_RUNNING_MAX,
};
use flowai_actors::state::Tier;
use flowai_store::journal::Unfinished;
use uuid::Uuid;

use super::*;

/// A scheduler with a clock and short words for what happens to it.
struct Farm {
    scheduler: Scheduler,
    now_ms: u64,
}

fn job_id(n: u64) -> JobId {
    JobId::from_uuid(Uuid::from_u64_pair(1, n))
}

fn user_id(n: u64) -> UserId {
    UserId::from_uuid(Uuid::from_u64_pair(2, n))
}

fn node_id(name: &str) -> NodeId {
    name.parse().unwrap()
}

fn model(name: &str) -> ModelId {
    name.parse().unwrap()
}

fn waiting(n: u64, user: u64, tier: Tier) -> WaitingJob {
    WaitingJob {
        job: job_id(n),
        owner: user_id(user),
        tier,
        model: model("tiny"),
        cost: GpuSeconds(10.0),
        attempt: Attempt::ZERO,
        failures: 0,
        failed_on: BTreeSet::new(),
        node_deaths: 0,
        died_on: BTreeSet::new(),
    }
}

const FIRST: Generation = Generation::new(1);
const SECOND: Generation = Generation::new(2);

impl Farm {
    fn new() -> Self {
        Self {
            scheduler: Scheduler::default(),
            now_ms: 0,
        }
    }

    fn step(&mut self, event: Event) -> Vec<Effect> {
        self.scheduler
            .step(event, Monotonic::from_millis(self.now_ms))
    }

    fn arrive(&mut self, job: WaitingJob) -> Vec<Effect> {
        self.step(Event::JobArrived(job))
    }

    fn register(
        &mut self,
        node: &str,
        generation: Generation,
        running: Option<(u64, u32)>,
    ) -> Vec<Effect> {
        self.step(Event::NodeRegistered(NodeOffer {
            node: node_id(node),
            generation,
            models: vec![model("tiny")],
            running: running.map(|(job, attempt)| (job_id(job), Attempt::new(attempt))),
        }))
    }

    fn ended(&mut self, node: &str, job: u64, attempt: u32, end: AttemptEnd) -> Vec<Effect> {
        self.step(Event::Ended {
            node: node_id(node),
            generation: FIRST,
            job: job_id(job),
            attempt: Attempt::new(attempt),
            end,
        })
    }

    /// Lets time pass in beats, in which only the named nodes are heard.
    fn pass(&mut self, ms: u64, beating: &[&str]) -> Vec<Effect> {
        let until = self.now_ms + ms;
        let mut effects = Vec::new();
        while self.now_ms < until {
            self.now_ms = until.min(self.now_ms + NODE_BEAT_MS);
            for node in beating {
                effects.extend(self.step(Event::Beat {
                    node: node_id(node),
                    generation: FIRST,
                    is_astray: false,
                }));
            }
            effects.extend(self.step(Event::Tick));
        }
        effects
    }
}

fn assign(job: u64, attempt: u32, node: &str) -> Effect {
    Effect::Assign {
        job: job_id(job),
        attempt: Attempt::new(attempt),
        node: node_id(node),
        generation: FIRST,
    }
}

fn failure(retryable: bool) -> AttemptEnd {
    AttemptEnd::Failed {
        code: "out_of_memory".into(),
        detail: "9 GB wanted".into(),
        retryable,
    }
}

/// The order in which jobs start when one node does them one after the other.
fn start_order(farm: &mut Farm, effects: Vec<Effect>) -> Vec<u64> {
    start_order_of(farm, effects, usize::MAX)
}

/// The first `most` of them.
fn start_order_of(farm: &mut Farm, effects: Vec<Effect>, most: usize) -> Vec<u64> {
    let mut order = Vec::new();
    let mut effects = effects;
    while let Some(Effect::Assign { job, attempt, .. }) = effects
        .iter()
        .find(|effect| matches!(effect, Effect::Assign { .. }))
        .cloned()
    {
        let n = job.as_uuid().as_u64_pair().1;
        order.push(n);
        if order.len() >= most {
            break;
        }
        effects = farm.ended("a", n, attempt.get(), AttemptEnd::Rendered);
    }
    order
}

#[test]
fn a_paying_users_job_starts_before_a_free_users_when_both_wait() {
    let mut farm = Farm::new();
    farm.arrive(waiting(1, 1, Tier::Free));
    farm.arrive(waiting(2, 2, Tier::Pro));
    let effects = farm.register("a", FIRST, None);
    assert_eq!(start_order(&mut farm, effects), [2, 1]);
}

#[test]
fn a_free_user_is_not_starved_by_paying_ones() {
    let mut farm = Farm::new();
    farm.arrive(waiting(1, 1, Tier::Free));
    for n in 0..40 {
        farm.arrive(waiting(100 + n, 2, Tier::Studio));
    }
    let effects = farm.register("a", FIRST, None);
    let order = start_order(&mut farm, effects);
    assert_eq!(order.len(), 41);
    // Weight 8 against 1: at most eight of the studio's start before the free one's first.
    assert!(
        order.iter().position(|n| *n == 1).unwrap() <= 8,
        "{order:?}"
    );
}

/// Users 1 to `free` wait with a job each, on one node. For each start `arrivals` paying users come who were never seen before.
/// Gives the starts in order.
fn starts_under_a_stream(free: u64, arrivals: u64, render_ms: u64, starts: u32) -> Vec<u64> {
    let mut farm = Farm::new();
    farm.arrive(waiting(9_000, 9_000, Tier::Studio));
    let mut running = match farm.register("a", FIRST, None)[..] {
        [Effect::Assign { job, .. }] => job,
        ref other => panic!("{other:?}"),
    };
    for n in 1..=free {
        farm.arrive(waiting(n, n, Tier::Free));
    }
    let mut newcomer = 10_000;
    let mut order = Vec::new();
    for _ in 0..starts {
        for _ in 0..arrivals {
            newcomer += 1;
            farm.arrive(waiting(newcomer, newcomer, Tier::Studio));
        }
        farm.pass(render_ms, &["a"]);
        let ended = running.as_uuid().as_u64_pair().1;
        let effects = farm.ended("a", ended, 1, AttemptEnd::Rendered);
        let [Effect::Settle { .. }, Effect::Assign { job, .. }] = effects[..] else {
            panic!("{effects:?}")
        };
        running = job;
        order.push(job.as_uuid().as_u64_pair().1);
    }
    order
}

#[test]
fn a_stream_of_new_paying_users_holds_a_free_one_up_for_few_starts() {
    let order = starts_under_a_stream(1, 1, 0, 40);
    // At most as many of the others as their weight is greater.
    let bound = Tier::Studio.weight() as usize + 1;
    assert!(order.iter().take(bound).any(|job| *job == 1), "{order:?}");
}

#[test]
fn a_paying_user_who_comes_later_still_starts_before_free_ones() {
    let order = starts_under_a_stream(20, 1, 0, 3);
    assert!(order.iter().all(|job| *job > 10_000), "{order:?}");
}

#[test]
fn in_overload_the_longest_wait_is_ended_by_the_start_bound() {
    let render_ms = 10_000;
    let until_bound = (START_BOUND_MS / render_ms) as usize;
    let order = starts_under_a_stream(3, 4, render_ms, until_bound as u32 + 40);
    for (place, free) in [1, 2, 3].into_iter().enumerate() {
        let start = order.iter().position(|job| *job == free);
        let bound = until_bound + FORCED_START_EVERY as usize * (place + 1);
        assert!(start.is_some_and(|start| start <= bound), "{start:?}");
        assert!(start >= Some(until_bound - 1), "{start:?}");
    }
}

#[test]
fn whoever_waits_longest_goes_first_among_equals() {
    let mut farm = Farm::new();
    for (n, user) in [(1, 30), (2, 20), (3, 10)] {
        farm.arrive(waiting(n, user, Tier::Free));
    }
    let effects = farm.register("a", FIRST, None);
    assert_eq!(start_order(&mut farm, effects), [1, 2, 3]);
}

#[test]
fn a_user_whose_jobs_cannot_run_gathers_no_claims() {
    let mut farm = Farm::new();
    let mut parked = waiting(1, 1, Tier::Free);
    parked.model = model("nobody-has-it");
    farm.arrive(parked);
    let effects = farm.register("a", FIRST, None);
    assert_eq!(effects, []);
    for n in 0..30 {
        let effects = farm.arrive(waiting(100 + n, 100 + n, Tier::Free));
        start_order(&mut farm, effects);
    }
    for n in 0..4 {
        farm.arrive(waiting(200 + n, 1, Tier::Free));
        farm.arrive(waiting(300 + n, 2, Tier::Free));
    }
    let effects = farm.step(Event::JobGone(job_id(200)));
    let order = start_order(&mut farm, effects);
    let first = order.iter().take(4).filter(|n| **n < 300).count();
    assert!(first <= 2, "{order:?}");
}

#[test]
fn one_user_with_many_jobs_does_not_hold_up_another() {
    let mut farm = Farm::new();
    for n in 0..50 {
        farm.arrive(waiting(100 + n, 1, Tier::Free));
    }
    let effects = farm.register("a", FIRST, None);
    assert_eq!(effects, [assign(100, 1, "a")]);
    farm.arrive(waiting(1, 2, Tier::Free));
    assert_eq!(
        farm.ended("a", 100, 1, AttemptEnd::Rendered)[1],
        assign(1, 1, "a")
    );
}

#[test]
fn a_user_runs_no_more_jobs_than_the_limit() {
    let mut farm = Farm::new();
    for node in ["a", "b", "c", "d"] {
        farm.register(node, FIRST, None);
    }
    let effects: Vec<Effect> = (0..4)
        .flat_map(|n| farm.arrive(waiting(n, 1, Tier::Free)))
        .collect();
    assert_eq!(effects.len() as u32, USER_RUNNING_MAX);
    assert!(matches!(
        farm.arrive(waiting(9, 2, Tier::Free))[..],
        [Effect::Assign { .. }]
    ));
    let effects = farm.ended("a", 0, 1, AttemptEnd::Rendered);
    assert!(
        matches!(effects[..], [Effect::Settle { .. }, Effect::Assign { .. }]),
        "{effects:?}"
    );
}

#[test]
fn a_job_goes_only_to_a_node_that_offers_its_model() {
    let mut farm = Farm::new();
    farm.register("a", FIRST, None);
    let mut big = waiting(1, 1, Tier::Free);
    big.model = model("svd-xt");
    assert_eq!(farm.arrive(big), []);
    assert_eq!(farm.arrive(waiting(2, 1, Tier::Free)), [assign(2, 1, "a")]);
}

#[test]
fn a_doubled_arrival_is_one_job() {
    let mut farm = Farm::new();
    farm.arrive(waiting(1, 1, Tier::Free));
    farm.arrive(waiting(1, 1, Tier::Free));
    let effects = farm.register("a", FIRST, None);
    assert_eq!(start_order(&mut farm, effects), [1]);
}

#[test]
fn a_silent_nodes_job_runs_elsewhere_and_its_late_result_is_stale() {
    let mut farm = Farm::new();
    farm.register("a", FIRST, None);
    assert_eq!(farm.arrive(waiting(1, 1, Tier::Free)), [assign(1, 1, "a")]);
    farm.register("b", FIRST, None);
    let effects = farm.pass(NODE_LEASE_MS, &["b"]);
    assert!(
        matches!(
            effects[0],
            Effect::Requeue {
                outcome: Unfinished::Lost,
                ..
            }
        ),
        "{effects:?}"
    );
    assert_eq!(effects[1], assign(1, 2, "b"));

    let late = farm.ended("a", 1, 1, AttemptEnd::Rendered);
    assert_eq!(
        late,
        [Effect::Stale {
            node: node_id("a"),
            job: job_id(1),
            attempt: Attempt::new(1)
        }]
    );
    assert!(matches!(
        farm.ended("b", 1, 2, AttemptEnd::Rendered)[..],
        [Effect::Settle { .. }]
    ));
    // Told again because the answer was lost: the job is known to be over, and nothing happens twice.
    assert!(matches!(
        farm.ended("b", 1, 2, AttemptEnd::Rendered)[..],
        [Effect::Stale { .. }]
    ));
}

#[test]
fn a_beating_node_keeps_its_job() {
    let mut farm = Farm::new();
    farm.register("a", FIRST, None);
    farm.arrive(waiting(1, 1, Tier::Free));
    assert_eq!(farm.pass(10 * NODE_LEASE_MS, &["a"]), []);
}

#[test]
fn a_job_that_kills_nodes_is_quarantined() {
    let mut farm = Farm::new();
    farm.register("a", FIRST, None);
    farm.arrive(waiting(1, 1, Tier::Free));
    farm.register("b", FIRST, None);
    farm.register("c", FIRST, None);
    assert!(
        farm.pass(NODE_LEASE_MS, &["b", "c"])
            .contains(&assign(1, 2, "b"))
    );
    let effects = farm.pass(NODE_LEASE_MS, &["c"]);
    assert_eq!(
        effects,
        [Effect::Quarantine {
            job: job_id(1),
            attempt: Attempt::new(2),
            node_deaths: 2
        }]
    );
}

#[test]
fn one_bad_node_gets_no_job_quarantined() {
    let mut farm = Farm::new();
    farm.register("a", FIRST, None);
    let mut job = waiting(1, 1, Tier::Free);
    job.attempt = Attempt::new(1);
    job.failures = 1;
    job.node_deaths = 1;
    job.failed_on.insert(node_id("a"));
    job.died_on.insert(node_id("a"));
    assert_eq!(farm.arrive(job), [assign(1, 2, "a")]);
    farm.register("b", FIRST, None);
    let effects = farm.pass(NODE_LEASE_MS, &["b"]);
    assert!(effects.contains(&assign(1, 3, "b")), "{effects:?}");
}

#[test]
fn a_job_that_kills_its_only_node_each_time_is_quarantined() {
    let mut farm = Farm::new();
    farm.arrive(waiting(1, 1, Tier::Free));
    let mut effects = Vec::new();
    for generation in 1..=3 {
        let pause_ms = JOB_RETRY_MS << JOB_ATTEMPTS_MAX;
        let is_given = |farm: &Farm| farm.scheduler.running_on(&node_id("a")).is_some();
        for _ in 0..pause_ms / NODE_BEAT_MS {
            if !is_given(&farm) {
                farm.now_ms += NODE_BEAT_MS;
                farm.register("a", Generation::new(generation), None);
            }
        }
        effects = farm.register("a", Generation::new(generation + 1), None);
    }
    assert_eq!(
        effects,
        [Effect::Quarantine {
            job: job_id(1),
            attempt: Attempt::new(3),
            node_deaths: 3
        }]
    );
}

#[test]
fn a_restarted_node_gives_its_old_job_back_at_once() {
    let mut farm = Farm::new();
    farm.register("a", FIRST, None);
    farm.arrive(waiting(1, 1, Tier::Free));
    let effects = farm.register("a", SECOND, None);
    assert!(
        matches!(
            effects[..],
            [Effect::Requeue {
                outcome: Unfinished::Lost,
                ..
            }]
        ),
        "{effects:?}"
    );
    let effects = farm.pass(JOB_RETRY_MS, &[]);
    assert!(
        matches!(&effects[..], [Effect::Assign { generation, .. }] if *generation == SECOND),
        "{effects:?}"
    );
    assert_eq!(farm.register("a", FIRST, Some((1, 1))), []);
    assert_eq!(
        farm.scheduler.newer_generation(&node_id("a"), FIRST),
        Some(SECOND)
    );
}

#[test]
fn a_retryable_failure_is_tried_again_up_to_the_limit() {
    let mut farm = Farm::new();
    farm.register("a", FIRST, None);
    farm.arrive(waiting(1, 1, Tier::Free));
    for attempt in 1..3 {
        farm.ended("a", 1, attempt, failure(true));
        let pause_ms = JOB_RETRY_MS << (attempt - 1);
        assert_eq!(farm.pass(pause_ms - 1, &["a"]), []);
        assert_eq!(farm.pass(1, &["a"]), [assign(1, attempt + 1, "a")]);
    }
    assert!(matches!(
        farm.ended("a", 1, 3, failure(true))[..],
        [Effect::Fail { .. }]
    ));
}

#[test]
fn a_failed_job_goes_to_a_node_where_it_did_not_fail() {
    let mut farm = Farm::new();
    farm.register("a", FIRST, None);
    farm.arrive(waiting(1, 1, Tier::Free));
    farm.register("b", FIRST, None);
    let effects = farm.ended("a", 1, 1, failure(true));
    assert_eq!(effects[1..], [assign(1, 2, "b")]);
    // Both have failed it: after the pause the first free one has it again.
    assert!(matches!(
        farm.ended("b", 1, 2, failure(true))[..],
        [Effect::Requeue { .. }]
    ));
    assert_eq!(
        farm.pass(2 * JOB_RETRY_MS, &["a", "b"]),
        [assign(1, 3, "a")]
    );
}

#[test]
fn a_failed_job_waits_for_another_node_that_is_busy_and_goes_back_when_that_dies() {
    let mut farm = Farm::new();
    farm.register("a", FIRST, None);
    farm.arrive(waiting(1, 1, Tier::Free));
    farm.register("b", FIRST, None);
    farm.arrive(waiting(2, 2, Tier::Free));
    farm.ended("a", 1, 1, failure(true));
    assert_eq!(farm.pass(3 * JOB_RETRY_MS, &["a", "b"]), []);
    // Others are not held up by it.
    assert_eq!(farm.arrive(waiting(3, 1, Tier::Free)), [assign(3, 1, "a")]);
    farm.ended("a", 3, 1, AttemptEnd::Rendered);
    let effects = farm.pass(NODE_LEASE_MS, &["a"]);
    assert!(effects.contains(&assign(2, 2, "a")), "{effects:?}");
    assert_eq!(
        farm.ended("a", 2, 2, AttemptEnd::Rendered)[1..],
        [assign(1, 2, "a")]
    );
}

#[test]
fn a_new_leader_knows_where_a_job_failed() {
    let mut farm = Farm::new();
    farm.register("a", FIRST, None);
    farm.register("b", FIRST, None);
    let mut failed = waiting(1, 1, Tier::Free);
    failed.attempt = Attempt::new(1);
    failed.failures = 1;
    failed.failed_on.insert(node_id("a"));
    assert_eq!(farm.arrive(failed), [assign(1, 2, "b")]);
}

#[test]
fn a_failure_of_the_job_itself_is_not_tried_again() {
    let mut farm = Farm::new();
    farm.register("a", FIRST, None);
    farm.arrive(waiting(1, 1, Tier::Free));
    assert!(matches!(
        farm.ended("a", 1, 1, failure(false))[..],
        [Effect::Fail { .. }]
    ));
}

#[test]
fn cancel_stops_a_running_job_and_frees_the_node() {
    let mut farm = Farm::new();
    farm.register("a", FIRST, None);
    farm.arrive(waiting(1, 1, Tier::Free));
    farm.arrive(waiting(2, 2, Tier::Free));
    let stop = [Effect::Stop {
        node: node_id("a"),
        job: job_id(1),
        attempt: Attempt::new(1),
    }];
    assert_eq!(farm.step(Event::CancelAsked(job_id(1))), stop);
    assert_eq!(farm.step(Event::CancelAsked(job_id(1))), []);
    let effects = farm.ended("a", 1, 1, AttemptEnd::Stopped);
    assert_eq!(
        effects,
        [
            Effect::Cancel {
                job: job_id(1),
                attempt: Attempt::new(1)
            },
            assign(2, 1, "a")
        ]
    );
}

#[test]
fn a_cancel_that_comes_late_destroys_no_clip() {
    let mut farm = Farm::new();
    farm.register("a", FIRST, None);
    farm.arrive(waiting(1, 1, Tier::Free));
    farm.step(Event::CancelAsked(job_id(1)));
    assert!(matches!(
        farm.ended("a", 1, 1, AttemptEnd::Rendered)[..],
        [Effect::Settle { .. }]
    ));
}

#[test]
fn a_cancelled_job_whose_node_dies_does_not_run_again() {
    let mut farm = Farm::new();
    farm.register("a", FIRST, None);
    farm.arrive(waiting(1, 1, Tier::Free));
    farm.step(Event::CancelAsked(job_id(1)));
    farm.register("b", FIRST, None);
    assert!(matches!(
        farm.pass(NODE_LEASE_MS, &["b"])[..],
        [Effect::Cancel { .. }]
    ));
}

#[test]
fn a_new_leader_adopts_what_runs_and_restarts_only_what_nobody_claims() {
    let mut farm = Farm::new();
    for (n, node) in [(1, "a"), (2, "b")] {
        let mut job = waiting(n, n, Tier::Free);
        job.attempt = Attempt::new(1);
        let recovered = Recovered {
            waiting: job,
            node: node_id(node),
            generation: FIRST,
            cancel_requested: false,
        };
        assert_eq!(farm.step(Event::JobRecovered(recovered)), []);
    }
    assert_eq!(farm.register("a", FIRST, Some((1, 1))), []);
    farm.register("c", FIRST, None);
    let effects = farm.pass(NODE_LEASE_MS, &["a", "c"]);
    assert!(
        matches!(&effects[0], Effect::Requeue { job, outcome: Unfinished::Stopped, .. } if *job == job_id(2)),
        "{effects:?}"
    );
    assert_eq!(effects[1..], [assign(2, 2, "c")]);
    assert!(matches!(
        farm.ended("a", 1, 1, AttemptEnd::Rendered)[..],
        [Effect::Settle { .. }]
    ));
}

#[test]
fn an_assignment_that_never_arrived_is_made_again() {
    let mut farm = Farm::new();
    farm.register("a", FIRST, None);
    farm.arrive(waiting(1, 1, Tier::Free));
    // The link broke before the node heard of it; on the next one it says that it has nothing to do.
    let effects = farm.register("a", FIRST, None);
    assert!(
        matches!(
            effects[0],
            Effect::Requeue {
                outcome: Unfinished::Stopped,
                ..
            }
        ),
        "{effects:?}"
    );
    assert_eq!(effects[1], assign(1, 2, "a"));
}

#[test]
fn a_draining_node_ends_its_job_and_gets_no_other() {
    let mut farm = Farm::new();
    farm.register("a", FIRST, None);
    farm.arrive(waiting(1, 1, Tier::Free));
    farm.arrive(waiting(2, 1, Tier::Free));
    let drain = |is_draining| Event::NodeDraining {
        node: node_id("a"),
        is_draining,
    };
    assert_eq!(farm.step(drain(true)), []);
    assert!(matches!(
        farm.ended("a", 1, 1, AttemptEnd::Rendered)[..],
        [Effect::Settle { .. }]
    ));
    assert_eq!(farm.step(drain(false)), [assign(2, 1, "a")]);
}

#[test]
fn a_node_that_did_not_take_a_job_gets_none_until_its_next_beat() {
    let mut farm = Farm::new();
    farm.register("a", FIRST, None);
    farm.arrive(waiting(1, 1, Tier::Free));
    let not_taken = Event::NotTaken {
        job: job_id(1),
        attempt: Attempt::new(1),
    };
    let effects = farm.step(not_taken);
    assert!(
        matches!(
            effects[..],
            [Effect::Requeue {
                outcome: Unfinished::Stopped,
                ..
            }]
        ),
        "{effects:?}"
    );
    let mut beat = |is_astray| {
        farm.step(Event::Beat {
            node: node_id("a"),
            generation: FIRST,
            is_astray,
        })
    };
    assert_eq!(beat(true), []);
    assert_eq!(beat(false), [assign(1, 2, "a")]);
}

#[test]
fn what_was_nobodys_fault_does_not_use_up_the_tries() {
    let mut farm = Farm::new();
    farm.register("a", FIRST, None);
    farm.arrive(waiting(1, 1, Tier::Free));
    for attempt in 1..=5 {
        let effects = farm.ended("a", 1, attempt, AttemptEnd::Stopped);
        assert_eq!(effects[1], assign(1, attempt + 1, "a"), "{effects:?}");
    }
    for attempt in 6..8 {
        farm.ended("a", 1, attempt, failure(true));
        let effects = farm.pass(4 * JOB_RETRY_MS, &["a"]);
        assert_eq!(effects, [assign(1, attempt + 1, "a")]);
    }
    assert!(matches!(
        farm.ended("a", 1, 8, failure(true))[..],
        [Effect::Fail { .. }]
    ));
}

#[test]
fn a_job_that_is_gone_frees_its_node_and_leaves_the_line() {
    let mut farm = Farm::new();
    farm.register("a", FIRST, None);
    for n in 1..=3 {
        farm.arrive(waiting(n, n, Tier::Free));
    }
    assert_eq!(farm.step(Event::JobGone(job_id(2))), []);
    assert_eq!(farm.step(Event::JobGone(job_id(1))), [assign(3, 1, "a")]);
    assert!(!farm.scheduler.knows(job_id(2)));
}

#[test]
fn the_line_is_the_order_in_which_jobs_start() {
    let mut farm = Farm::new();
    let jobs = [
        (1, 1, Tier::Free),
        (2, 1, Tier::Free),
        (3, 2, Tier::Pro),
        (4, 2, Tier::Pro),
        (5, 3, Tier::Studio),
        (6, 3, Tier::Studio),
        (7, 1, Tier::Free),
    ];
    for (n, user, tier) in jobs {
        farm.arrive(waiting(n, user, tier));
    }
    let line: Vec<u64> = farm
        .scheduler
        .line(10)
        .iter()
        .map(|place| place.job.as_uuid().as_u64_pair().1)
        .collect();
    let effects = farm.register("a", FIRST, None);
    assert_eq!(line, start_order(&mut farm, effects));
}

#[test]
fn a_place_in_the_line_says_what_it_waits_for() {
    let mut farm = Farm::new();
    farm.register("a", FIRST, None);
    farm.register("b", FIRST, None);
    for n in 1..=3 {
        farm.arrive(waiting(n, 1, Tier::Free));
    }
    let mut big = waiting(4, 2, Tier::Free);
    big.model = model("svd-xt");
    farm.arrive(big);
    farm.arrive(waiting(5, 3, Tier::Free));
    farm.arrive(waiting(6, 4, Tier::Free));
    let waits = |n: u64| {
        let line = farm.scheduler.line(10);
        line.iter()
            .find(|place| place.job == job_id(n))
            .unwrap()
            .waits_for
    };
    assert_eq!(waits(3), WaitsFor::OwnJobs);
    assert_eq!(waits(4), WaitsFor::Model);
    assert_eq!(waits(5), WaitsFor::Node);
}

#[test]
fn a_job_that_pauses_after_a_failure_says_so() {
    let mut farm = Farm::new();
    farm.register("a", FIRST, None);
    farm.arrive(waiting(1, 1, Tier::Free));
    farm.ended("a", 1, 1, failure(true));
    let waits = |farm: &Farm| farm.scheduler.line(1)[0].waits_for;
    assert_eq!(waits(&farm), WaitsFor::Retry);
    farm.register("b", FIRST, None);
    assert_eq!(farm.scheduler.line(1), []);
}

/// With a look at every waiting user for every place, each line would take 20 million claims: the test would not end in minutes.
#[test]
fn a_long_line_of_many_users_is_told_in_order_and_cheaply() {
    let (users, jobs_each) = (2_000, 5);
    let mut farm = Farm::new();
    for n in 0..users * jobs_each {
        let tier = Tier::ALL[(n % 3) as usize];
        let mut job = waiting(n, n % users, tier);
        job.cost = GpuSeconds(1.0 + (n % 7) as f64);
        farm.arrive(job);
    }
    let jobs = (users * jobs_each) as usize;
    let line = farm.scheduler.line(jobs);
    for _ in 0..20 {
        assert_eq!(farm.scheduler.line(jobs), line);
    }
    let effects = farm.register("a", FIRST, None);
    let mut started = start_order_of(&mut farm, effects, 200);
    started.reverse();
    for place in &line[..200] {
        assert_eq!(Some(place.job), started.pop().map(job_id));
    }
}

#[test]
fn time_and_beats_that_change_nothing_move_no_line() {
    let mut farm = Farm::new();
    farm.register("a", FIRST, None);
    for n in 1..=3 {
        farm.arrive(waiting(n, n, Tier::Free));
    }
    let before = farm.scheduler.revision();
    farm.pass(NODE_LEASE_MS - NODE_BEAT_MS, &["a"]);
    assert_eq!(farm.scheduler.revision(), before);
    farm.ended("a", 1, 1, AttemptEnd::Rendered);
    assert_ne!(farm.scheduler.revision(), before);
}
