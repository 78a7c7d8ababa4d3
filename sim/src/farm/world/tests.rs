use flowai_actors::state::{Class, Tier};

use super::super::assumed;
use super::super::workload::{AdapterIx, Job, ModelIx, Shape, UserIx};
use super::*;

/// Sixty seconds in 27 steps and what is worth three: two seconds a step.
fn job(user: u32, at: Ms, model: u16) -> Job {
    Job {
        user: UserIx(user),
        tier: Tier::Free,
        class: Class::Interactive,
        model: ModelIx(model),
        adapters: Vec::new(),
        model_load_ms: 10_000,
        shape: Shape {
            frames: 25,
            width: 1_024,
            height: 576,
            steps: 27,
        },
        predicted_s: 60.0,
        work_s: 60.0,
        submit: Submit::At(at),
    }
}

fn adapter(rank: u16) -> (AdapterIx, Ms) {
    (
        AdapterIx {
            model: ModelIx(0),
            rank,
        },
        4_000,
    )
}

fn workload(jobs: Vec<Job>) -> Workload {
    Workload {
        jobs,
        users: 10,
        offered_load: 0.0,
    }
}

/// One large node for an hour, everything measured that comes after its first tenth.
fn simulate_on_one(jobs: Vec<Job>, policy: &mut dyn Policy) -> Figures {
    let setting = Setting {
        nodes: 1,
        hours: 1,
        ..Setting::default()
    };
    simulate(&setting, &workload(jobs), &Fleet::new(1), policy)
}

/// Measured from here on.
const T: Ms = 360_000;

/// First come, first served, and told what to stop and what comes next.
#[derive(Default)]
struct Scripted {
    waiting: Vec<JobIx>,
    is_busy: bool,
    stop_on_arrival_of: Option<JobIx>,
    is_seeing_ahead: bool,
    ends: Vec<(Ms, JobIx, End)>,
}

impl Scripted {
    fn next(&mut self) -> Vec<Order> {
        if self.is_busy || self.waiting.is_empty() {
            return Vec::new();
        }
        self.is_busy = true;
        vec![Order::Start {
            job: self.waiting.remove(0),
            node: NodeIx(0),
        }]
    }
}

impl Policy for Scripted {
    fn arrived(&mut self, job: JobIx, _now: Ms) -> Vec<Order> {
        self.waiting.push(job);
        if self.stop_on_arrival_of == Some(job) {
            return vec![Order::Stop { node: NodeIx(0) }];
        }
        self.next()
    }

    fn ended(&mut self, _node: NodeIx, job: JobIx, end: End, now: Ms) -> Vec<Order> {
        self.ends.push((now, job, end));
        self.is_busy = false;
        if let End::Stopped { .. } = end {
            self.waiting.push(job);
        }
        self.next()
    }

    fn ahead(&self, _node: NodeIx) -> Option<JobIx> {
        self.waiting
            .first()
            .copied()
            .filter(|_| self.is_seeing_ahead)
    }
}

#[test]
fn a_cold_model_is_loaded_once_and_waits_are_counted_from_the_asking() {
    let mut policy = Scripted::default();
    let figures = simulate_on_one(vec![job(1, T, 0), job(1, T, 0), job(1, T, 1)], &mut policy);
    let ends: Vec<Ms> = policy.ends.iter().map(|(at, ..)| at - T).collect();
    assert_eq!(ends, [70_000, 130_000, 200_000]);
    assert_eq!(figures.wait["free"].max_s, 130.0);
    assert_eq!((figures.loads.starts, figures.loads.cold_models), (3, 2));
    assert!((figures.loads.gpu_hours - 20.0 / 3_600.0).abs() < 1e-9);
    assert!((figures.utilisation.rendering - 180.0 / 3_240.0).abs() < 1e-9);
    assert!((figures.utilisation.loading - 20.0 / 3_240.0).abs() < 1e-9);
}

#[test]
fn an_adapter_is_fetched_once_and_only_switched_afterwards() {
    let with = |adapters: Vec<(AdapterIx, Ms)>| Job {
        adapters,
        ..job(1, T, 0)
    };
    let jobs = vec![
        with(vec![adapter(1)]),
        with(vec![adapter(2)]),
        with(vec![adapter(1)]),
        with(vec![adapter(1)]),
    ];
    let figures = simulate_on_one(jobs, &mut Scripted::default());
    assert_eq!(
        (figures.loads.adapters, figures.loads.cold_adapters),
        (4, 2)
    );
    let expected_ms = 10_000.0 + 2.0 * 4_000.0 + 3.0 * assumed::ADAPTER_SWITCH_MS as f64;
    assert!((figures.loads.gpu_hours * 3_600_000.0 - expected_ms).abs() < 1e-6);
}

#[test]
fn an_adapter_that_came_ahead_keeps_nobody_waiting() {
    let jobs = vec![
        job(1, T, 0),
        job(1, T, 0),
        Job {
            adapters: vec![adapter(1)],
            ..job(1, T, 0)
        },
    ];
    // While the second runs, the third is known to come.
    let cold = |is_seeing_ahead| {
        let mut policy = Scripted {
            is_seeing_ahead,
            ..Scripted::default()
        };
        simulate_on_one(jobs.clone(), &mut policy)
            .loads
            .cold_adapters
    };
    assert_eq!((cold(false), cold(true)), (1, 0));
}

#[test]
fn a_stopped_job_goes_on_where_it_was_and_what_that_cost_is_said() {
    let mut policy = Scripted {
        stop_on_arrival_of: Some(JobIx(1)),
        ..Scripted::default()
    };
    // Loads until 10 s, is told to stop at 15 s: the next boundary is that of its third step, at 16 s.
    let figures = simulate_on_one(vec![job(1, T, 0), job(2, T + 15_000, 1)], &mut policy);
    let ends: Vec<_> = policy
        .ends
        .iter()
        .map(|(at, ix, end)| (at - T, ix.0, *end))
        .collect();
    assert_eq!(
        ends,
        [
            (17_500, 0, End::Stopped { step: 3 }),
            (
                87_500,
                1,
                End::Rendered {
                    busy_ms: 60_000,
                    load_ms: 10_000
                }
            ),
            (
                151_500,
                0,
                End::Rendered {
                    busy_ms: 54_000,
                    load_ms: 10_000
                }
            ),
        ]
    );
    assert_eq!(figures.preemption.stops, 1);
    // The checkpoint, and the model that had to be loaded again.
    assert!((figures.preemption.lost_s - 11.5).abs() < 1e-9);
    assert_eq!(figures.wait["free"].jobs, 2);
    assert_eq!(figures.wait["free"].max_s, 2.5);
}

#[test]
fn a_job_in_its_last_part_is_not_stopped_any_more() {
    let mut policy = Scripted {
        stop_on_arrival_of: Some(JobIx(1)),
        ..Scripted::default()
    };
    let figures = simulate_on_one(vec![job(1, T, 0), job(2, T + 65_000, 0)], &mut policy);
    assert_eq!(figures.preemption.stops, 0);
    assert_eq!(policy.ends[0].0, T + 70_000);
}

#[test]
fn another_device_starts_a_stopped_job_anew() {
    /// Starts the job on the large node, moves it to the small one.
    struct Mover;
    impl Policy for Mover {
        fn arrived(&mut self, job: JobIx, _now: Ms) -> Vec<Order> {
            match job {
                JobIx(0) => vec![Order::Start {
                    job,
                    node: NodeIx(0),
                }],
                _ => vec![Order::Stop { node: NodeIx(0) }],
            }
        }

        fn ended(&mut self, node: NodeIx, job: JobIx, end: End, _now: Ms) -> Vec<Order> {
            match end {
                End::Stopped { .. } => vec![
                    Order::Start {
                        job,
                        node: NodeIx(1),
                    },
                    Order::Start {
                        job: JobIx(1),
                        node,
                    },
                ],
                End::Rendered { .. } => Vec::new(),
            }
        }
    }
    let setting = Setting {
        nodes: 2,
        hours: 1,
        ..Setting::default()
    };
    let jobs = workload(vec![job(1, T, 0), job(2, T + 15_000, 0)]);
    let figures = simulate(&setting, &jobs, &Fleet::new(2), &mut Mover);
    // Checkpoint 1.5 s, load 10 s, three steps of two seconds again.
    assert!(
        (figures.preemption.lost_s - 17.5).abs() < 1e-9,
        "{}",
        figures.preemption.lost_s
    );
    assert_eq!(figures.unfinished, 0);
}

#[test]
fn a_policy_that_leaves_jobs_waiting_has_them_counted_as_unfinished() {
    struct Idle;
    impl Policy for Idle {
        fn arrived(&mut self, _job: JobIx, _now: Ms) -> Vec<Order> {
            Vec::new()
        }

        fn ended(&mut self, _node: NodeIx, _job: JobIx, _end: End, _now: Ms) -> Vec<Order> {
            Vec::new()
        }

        fn hears_beats(&self) -> bool {
            true
        }
    }
    let figures = simulate_on_one(vec![job(1, T, 0)], &mut Idle);
    assert_eq!((figures.unfinished, figures.bounds["free"].missed), (1, 1));
}

#[test]
#[should_panic(expected = "is busy")]
fn a_policy_that_fills_a_node_twice_has_no_figures() {
    struct Doubler;
    impl Policy for Doubler {
        fn arrived(&mut self, job: JobIx, _now: Ms) -> Vec<Order> {
            vec![Order::Start {
                job,
                node: NodeIx(0),
            }]
        }

        fn ended(&mut self, _node: NodeIx, _job: JobIx, _end: End, _now: Ms) -> Vec<Order> {
            Vec::new()
        }
    }
    simulate_on_one(vec![job(1, T, 0), job(1, T, 0)], &mut Doubler);
}
