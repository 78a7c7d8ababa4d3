//! Visits until the wanted load is offered.

use flowai_actors::state::{Class, Tier};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::super::{Demand, Fleet, Flow, Ms, Setting, SettingError, assumed, trace};
use super::draw::{self, Ranks, ms};
use super::{Job, JobIx, ModelIx, Submit, UserIx, Workload};

impl Workload {
    /// The same for the same setting. Visits are drawn until they are as many GPU-seconds as the load asks for: those of their
    /// clips, and of bringing a visit's model and adapters once, as on a farm that keeps at hand what somebody uses. They begin at times drawn from the demand: that is a Poisson process, given how much it brought. In the open flow what would come
    /// after the end comes at the beginning instead, so that the rate is the same throughout.
    pub fn generate(setting: &Setting, fleet: &Fleet) -> Result<Self, SettingError> {
        setting.check()?;
        let capacity_s = fleet.capacity() * setting.horizon_ms() as f64 / 1000.0;
        let mut generator = Generator::new(setting, fleet);
        let mut offered_s = 0.0;
        while offered_s < setting.load * capacity_s {
            offered_s += generator.visit(setting.load * capacity_s - offered_s);
        }
        if setting.flood > 0 {
            generator.flood(setting.flood);
        }
        Ok(Self {
            jobs: generator.jobs,
            users: trace::USERS + 1,
            offered_load: offered_s / capacity_s,
        })
    }
}

struct Generator<'a> {
    setting: &'a Setting,
    rng: ChaCha8Rng,
    users: Ranks,
    models: Ranks,
    adapters: Ranks,
    tiers: Vec<Tier>,
    hours: Ranks,
    jobs: Vec<Job>,
    /// Of the reference device's work, what a node does in a second on average.
    speed: f64,
}

impl<'a> Generator<'a> {
    fn new(setting: &'a Setting, fleet: &Fleet) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(setting.seed);
        let tiers = (0..trace::USERS).map(|_| tier(&mut rng)).collect();
        let hours = Ranks::new((0..setting.hours).map(|_| match setting.demand {
            Demand::Steady => 1.0,
            Demand::Hours => hour_factor(rng.random()),
        }));
        Self {
            setting,
            rng,
            users: Ranks::zipf(trace::USERS, trace::USER_ZIPF),
            models: Ranks::models(),
            adapters: Ranks::zipf(u32::from(assumed::ADAPTERS_PER_MODEL), setting.adapter_zipf),
            tiers,
            hours,
            jobs: Vec::new(),
            speed: fleet.capacity() / f64::from(setting.nodes),
        }
    }

    /// One user's clips after each other, or handed in at once, until so many GPU-seconds are offered. Gives how many were.
    fn visit(&mut self, most_s: f64) -> f64 {
        let user = self.users.draw(&mut self.rng);
        let tier = self.tiers[user];
        let model = ModelIx(self.models.draw(&mut self.rng) as u16);
        let adapter_count = draw::adapter_count(&mut self.rng);
        let adapters = draw::adapters(&mut self.rng, model, adapter_count, &self.adapters);
        let requests = draw::visit_requests(&mut self.rng);
        let may_batch = tier != Tier::Free && requests >= assumed::BATCH_REQUESTS_MIN;
        let is_batch = may_batch && self.rng.random::<f64>() < assumed::BATCH_VISITS;
        let class = if is_batch {
            Class::Batch
        } else {
            Class::Interactive
        };

        let mut at = self.begin();
        let mut offered_s = 0.0;
        let mut before: Option<JobIx> = None;
        for _ in 0..requests {
            if offered_s >= most_s {
                break;
            }
            let run_s = draw::run_s(&mut self.rng, !adapters.is_empty());
            let think_s = (draw::gap_s(&mut self.rng) - run_s).max(assumed::THINK_MIN_S);
            let work_s = run_s * assumed::CLIP_MEAN_S / trace::run_mean_s();
            let submit = match before {
                Some(job) if !is_batch && self.setting.flow == Flow::SemiClosed => Submit::After {
                    job,
                    think_ms: ms(think_s),
                },
                _ => Submit::At(at % self.setting.horizon_ms()),
            };
            let error = (assumed::PREDICTION_SIGMA * draw::normal(&mut self.rng)).exp();
            let (shape, predicted_s) = draw::shape(work_s / error);
            let loads = adapters
                .iter()
                .map(|adapter| (*adapter, draw::adapter_load_ms(&mut self.rng)));
            let is_first = before.is_none();
            before = Some(JobIx(self.jobs.len() as u32));
            let job = Job {
                user: UserIx(user as u32),
                tier,
                class,
                model,
                adapters: loads.collect(),
                model_load_ms: draw::model_load_ms(&mut self.rng),
                shape,
                predicted_s,
                work_s,
                submit,
            };
            offered_s += work_s;
            if is_first {
                offered_s += self.speed * job.loads_s();
            }
            self.jobs.push(job);
            if !is_batch {
                at += ms(work_s + think_s);
            }
        }
        offered_s
    }

    fn begin(&mut self) -> Ms {
        let hour = self.hours.draw(&mut self.rng) as f64;
        ms((hour + self.rng.random::<f64>()) * 3_600.0)
    }

    /// The most asked for model, without adapters, by a free user who asks for nothing else.
    fn flood(&mut self, clips: u32) {
        for _ in 0..clips {
            let run_s = draw::run_s(&mut self.rng, false);
            let work_s = run_s * assumed::CLIP_MEAN_S / trace::run_mean_s();
            let (shape, predicted_s) = draw::shape(work_s);
            self.jobs.push(Job {
                user: UserIx(trace::USERS),
                tier: Tier::Free,
                class: Class::Interactive,
                model: ModelIx(0),
                adapters: Vec::new(),
                model_load_ms: draw::model_load_ms(&mut self.rng),
                shape,
                predicted_s,
                work_s,
                submit: Submit::At(self.setting.horizon_ms() / 4),
            });
        }
    }
}

fn tier(rng: &mut ChaCha8Rng) -> Tier {
    let at = rng.random::<f64>();
    if at < assumed::STUDIO_USERS {
        Tier::Studio
    } else if at < assumed::STUDIO_USERS + assumed::PRO_USERS {
        Tier::Pro
    } else {
        Tier::Free
    }
}

/// At a quantile, linear between those that are known.
fn hour_factor(quantile: f64) -> f64 {
    let pairs = trace::HOUR_FACTORS.windows(2);
    let between = pairs
        .map(|pair| (pair[0], pair[1]))
        .find(|(_, above)| quantile <= above.0);
    between.map_or(0.0, |(below, above)| {
        below.1 + (above.1 - below.1) * (quantile - below.0) / (above.0 - below.0)
    })
}
