//! What clients were told about their submissions, against what is there.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::{Check, Facts, Tally};
use crate::clients::{Call, Class, Phase, Record};

/// One good wish of so many may become no job, for want of an api that answers within the client's patience.
const WITHOUT_JOB: usize = 20;

/// All that a client heard about one wish.
#[derive(Debug)]
struct Heard {
    client: usize,
    class: Class,
    key: String,
    jobs: BTreeSet<String>,
    is_unknown: bool,
    is_refused: bool,
    /// After it was acknowledged.
    is_taken_back: bool,
    seed: Option<u64>,
}

fn heard(history: &[Record]) -> BTreeMap<usize, Heard> {
    let mut wishes = BTreeMap::new();
    for record in history.iter().filter(|record| record.call == Call::Submit) {
        let wish = wishes.entry(record.wish).or_insert_with(|| Heard {
            client: record.client,
            class: record.class,
            key: record.key.clone(),
            jobs: BTreeSet::new(),
            is_unknown: false,
            is_refused: false,
            is_taken_back: false,
            seed: record.seed,
        });
        match record.phase {
            Phase::Invoke => {}
            Phase::Ok => wish.jobs.extend(record.job.clone()),
            Phase::Info => wish.is_unknown = true,
            // Asked to come again is no refusal.
            Phase::Fail if matches!(record.status, Some(409 | 429)) => {}
            Phase::Fail => {
                wish.is_refused = true;
                wish.is_taken_back |= !wish.jobs.is_empty();
            }
        }
    }
    wishes
}

pub(super) fn check(history: &[Record], facts: &Facts, tally: &mut Tally) -> Vec<Check> {
    let mut acked = Check::new("acked_exists");
    let mut refused = Check::new("bad_input_is_refused");
    let mut taken = Check::new("good_input_is_taken");
    let (mut good, mut without_job) = (0, 0);
    let mut wished: HashSet<&str> = HashSet::new();
    let wishes = heard(history);
    let mut class_of: HashMap<&str, Class> = HashMap::new();
    for (number, wish) in &wishes {
        tally.submitted += 1;
        let owner = facts.owner_of_client(wish.client).unwrap_or_default();
        let named = facts.keys.get(&(owner.to_owned(), wish.key.clone()));
        if let Some(job) = named {
            wished.insert(job);
            class_of.insert(job, wish.class);
        }
        let jobs = &wish.jobs;
        if wish.class == Class::Bad {
            refused.look(jobs.is_empty() && named.is_none(), || {
                format!("wish {number} is bad and became {jobs:?}")
            });
        }
        if wish.class != Class::Bad {
            let is_refused = wish.is_taken_back || wish.is_refused && jobs.is_empty();
            taken.look(!is_refused, || {
                format!("wish {number} is good and was refused")
            });
            good += 1;
            without_job += usize::from(jobs.is_empty() && named.is_none());
        }
        if jobs.len() > 1 {
            tally.doubled += 1;
        }
        acked.look(jobs.len() <= 1, || {
            format!("wish {number} was acknowledged as {jobs:?}")
        });
        if jobs.is_empty() {
            match (wish.is_refused, wish.is_unknown, named) {
                (true, false, named) => {
                    tally.refused += 1;
                    acked.look(named.is_none(), || {
                        format!("wish {number} was refused and became {named:?}")
                    });
                }
                (_, _, Some(job)) => {
                    tally.unknown_with_job += 1;
                    acked.look(facts.jobs.contains_key(job), || {
                        format!("wish {number}: its key names {job}, which is not there")
                    });
                }
                (true, true, None) => tally.refused += 1,
                (false, _, None) => tally.unknown_without_job += 1,
            }
            continue;
        }
        tally.acknowledged += 1;
        for job in jobs {
            let found = facts.jobs.get(job);
            if found.is_none() {
                tally.lost += 1;
            }
            let is_owners = found.is_some_and(|found| found.owner == owner);
            let made = found.and_then(|found| found.spec["seed"].as_u64());
            acked.look(wish.seed.is_none() || made == wish.seed, || {
                format!(
                    "wish {number} has the seed {:?}, its job {job} {made:?}",
                    wish.seed
                )
            });
            acked.look(is_owners && named == Some(job), || {
                format!(
                    "wish {number} was acknowledged as {job}: row {found:?}, key names {named:?}"
                )
            });
        }
    }
    // A farm that is away for as long as a client asks takes nothing; few find it so.
    taken.look(without_job <= good / WITHOUT_JOB, || {
        format!("{without_job} of {good} good wishes became no job")
    });
    // A job that no key of a client names was made twice.
    for job in facts.jobs.keys() {
        let is_wished = wished.contains(job.as_str());
        if !is_wished {
            tally.doubled += 1;
        }
        acked.look(is_wished, || format!("job {job} is nobody's wish"));
    }
    for (job, row) in &facts.jobs {
        let class = class_of.get(job.as_str()).map_or_else(
            || "unknown".to_owned(),
            |class| format!("{class:?}").to_lowercase(),
        );
        let ends = tally.ends.entry(class).or_default();
        let end = match &row.error {
            Some(code) if row.state == "failed" => format!("failed: {code}"),
            Some(_) | None => row.state.clone(),
        };
        *ends.entry(end).or_default() += 1;
    }
    vec![acked, refused, taken]
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::super::facts::Job;
    use super::*;
    use crate::clock::At;

    fn record(phase: Phase, job: Option<&str>, class: Class) -> Record {
        Record {
            at: At(0),
            client: 0,
            wish: 1,
            class,
            call: Call::Submit,
            phase,
            key: "wish-1".to_owned(),
            job: job.map(str::to_owned),
            seed: None,
            status: Some(match phase {
                Phase::Ok => 202,
                Phase::Fail => 422,
                Phase::Info | Phase::Invoke => 503,
            }),
            code: None,
        }
    }

    fn facts(jobs: &[&str], key: Option<&str>) -> Facts {
        let job = |id: &&str| Job {
            id: (*id).to_owned(),
            owner: "owner".to_owned(),
            state: "done".to_owned(),
            attempt: 1,
            finished_us: Some(0),
            error: None,
            spec: serde_json::Value::Null,
        };
        Facts {
            jobs: jobs.iter().map(|id| ((*id).to_owned(), job(id))).collect(),
            keys: key
                .map(|job| (("owner".to_owned(), "wish-1".to_owned()), job.to_owned()))
                .into_iter()
                .collect(),
            owners: HashMap::from([("client-0@example.org".to_owned(), "owner".to_owned())]),
            ..Facts::default()
        }
    }

    fn verdict(heard: &[(Phase, Option<&str>)], facts: &Facts) -> (Verdict, usize, usize) {
        let history: Vec<Record> = heard
            .iter()
            .map(|(phase, job)| record(*phase, *job, Class::Good))
            .collect();
        let mut tally = Tally::default();
        let checks = check(&history, facts, &mut tally);
        (checks[0].verdict, tally.lost, tally.doubled)
    }

    #[test]
    fn lost_doubled_and_stray_jobs_are_found() {
        use Phase::{Fail, Info, Ok};
        use Verdict::{Broken, Holds};

        let whole = facts(&["a"], Some("a"));
        assert_eq!(verdict(&[(Ok, Some("a"))], &whole), (Holds, 0, 0));
        assert_eq!(
            verdict(&[(Info, None), (Ok, Some("a"))], &whole),
            (Holds, 0, 0)
        );
        assert_eq!(verdict(&[(Info, None)], &whole), (Holds, 0, 0));
        assert_eq!(verdict(&[(Info, None)], &facts(&[], None)), (Holds, 0, 0));
        assert_eq!(verdict(&[(Fail, None)], &facts(&[], None)), (Holds, 0, 0));
        // Acknowledged and gone.
        let lost = verdict(&[(Ok, Some("a"))], &facts(&[], Some("a")));
        assert_eq!(lost, (Broken, 1, 0));
        // Two answers to one wish.
        let doubled = [(Ok, Some("a")), (Ok, Some("b"))];
        let doubled = verdict(&doubled, &facts(&["a", "b"], Some("a")));
        assert_eq!((doubled.0, doubled.2), (Broken, 2));
        // One answer, and another job beside it.
        let stray = verdict(&[(Ok, Some("a"))], &facts(&["a", "b"], Some("a")));
        assert_eq!(stray, (Broken, 0, 1));
        // Refused, and there all the same.
        assert_eq!(verdict(&[(Fail, None)], &whole).0, Broken);
    }

    #[test]
    fn good_input_that_was_refused_is_found() {
        let verdict = |class| {
            let history = [record(Phase::Fail, None, class)];
            let checks = check(&history, &facts(&[], None), &mut Tally::default());
            checks[2].verdict
        };
        assert_eq!(verdict(Class::Good), Verdict::Broken);
        assert_eq!(verdict(Class::Bad), Verdict::Holds);
    }

    #[test]
    fn a_farm_that_takes_little_and_another_ones_job_are_found() {
        let taken = |heard: &[(Phase, Option<&str>)]| {
            let history: Vec<Record> = heard
                .iter()
                .map(|(phase, job)| record(*phase, *job, Class::Good))
                .collect();
            let facts = facts(&["a"], Some("a"));
            check(&history, &facts, &mut Tally::default())[2].verdict
        };
        assert_eq!(taken(&[(Phase::Ok, Some("a"))]), Verdict::Holds);
        let taken_back = [(Phase::Ok, Some("a")), (Phase::Fail, None)];
        assert_eq!(taken(&taken_back), Verdict::Broken);
        let away = [record(Phase::Info, None, Class::Good)];
        let checks = check(&away, &facts(&[], None), &mut Tally::default());
        assert_eq!(checks[2].verdict, Verdict::Broken);

        let swapped = [Record {
            seed: Some(7),
            ..record(Phase::Ok, Some("a"), Class::Good)
        }];
        let mut whole = facts(&["a"], Some("a"));
        let mut verdict = |seed: u64| {
            let job = whole.jobs.get_mut("a").unwrap();
            job.spec = serde_json::json!({ "seed": seed });
            check(&swapped, &whole, &mut Tally::default())[0].verdict
        };
        assert_eq!(verdict(7), Verdict::Holds);
        assert_eq!(verdict(8), Verdict::Broken);
    }

    #[test]
    fn bad_input_that_was_taken_is_found() {
        let history = [record(Phase::Ok, Some("a"), Class::Bad)];
        let facts = facts(&["a"], Some("a"));
        let checks = check(&history, &facts, &mut Tally::default());
        assert_eq!(checks[1].verdict, Verdict::Broken);
    }
}
