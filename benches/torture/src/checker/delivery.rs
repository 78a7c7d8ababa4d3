//! At most one clip a job, from the attempt that was its newest, and no two attempts at a time.

use std::collections::{BTreeMap, HashMap};

use super::{Attempt, Check, Facts, Tally};

pub(super) fn delivered_once(facts: &Facts, tally: &mut Tally) -> Check {
    let mut check = Check::new("delivered_once");
    let mut attempts: HashMap<&str, Vec<&Attempt>> = HashMap::new();
    for attempt in &facts.attempts {
        attempts.entry(&attempt.job).or_default().push(attempt);
    }
    let mut clips: HashMap<&str, Vec<i32>> = HashMap::new();
    for artefact in &facts.artefacts {
        clips
            .entry(&artefact.job)
            .or_default()
            .push(artefact.attempt);
        let folder = format!("clips/{}/{}/", artefact.job, artefact.attempt);
        check.look(artefact.clip_key.starts_with(&folder), || {
            format!("the clip of {} lies at {}", artefact.job, artefact.clip_key)
        });
    }
    let mut events: HashMap<&str, BTreeMap<i64, &str>> = HashMap::new();
    for event in &facts.events {
        events
            .entry(&event.job)
            .or_default()
            .insert(event.seq, &event.kind);
    }
    for (id, job) in &facts.jobs {
        let tried = attempts.get(id.as_str()).map_or(&[][..], Vec::as_slice);
        let delivered = clips.get(id.as_str()).map_or(&[][..], Vec::as_slice);
        let winners: Vec<i32> = tried
            .iter()
            .filter(|attempt| attempt.outcome.as_deref() == Some("done"))
            .map(|attempt| attempt.attempt)
            .collect();
        let heard = events.get(id.as_str());
        let kinds: Vec<&str> =
            heard.map_or(Vec::new(), |events| events.values().copied().collect());
        let count = |kind: &str| kinds.iter().filter(|known| **known == kind).count();
        if delivered.len() > 1 || winners.len() > 1 || count("done") > 1 {
            tally.doubled += 1;
        }
        let wanted: &[i32] = match job.state.as_str() {
            "done" => &[job.attempt],
            _ => &[],
        };
        check.look(delivered == wanted && winners == wanted, || {
            format!("{job:?} has clips of {delivered:?}, done are {winners:?}")
        });
        let ends = ["done", "failed", "cancelled", "quarantined"];
        let told: usize = ends.iter().map(|kind| count(kind)).sum();
        let is_last = kinds.last().is_some_and(|last| *last == job.state);
        check.look(told == 1 && is_last, || {
            format!("{job:?} was told of as {kinds:?}")
        });
        let numbers: Vec<i64> = heard.map_or(Vec::new(), |events| events.keys().copied().collect());
        check.look(is_gapless(&numbers), || {
            format!("events of {id} are {numbers:?}")
        });
        check.look(in_turn(tried), || format!("attempts of {id}: {tried:?}"));
    }
    let mut of_owner: HashMap<&str, Vec<i64>> = HashMap::new();
    for event in &facts.events {
        of_owner
            .entry(&event.owner)
            .or_default()
            .push(event.user_seq);
    }
    for (owner, numbers) in of_owner {
        check.look(is_gapless(&numbers), || {
            format!("the stream of {owner} has a gap")
        });
    }
    check
}

/// 1, 2, 3, …
fn is_gapless(numbers: &[i64]) -> bool {
    numbers
        .iter()
        .zip(1..)
        .all(|(number, wanted)| *number == wanted)
}

/// One after the other, under epochs that never fall.
fn in_turn(attempts: &[&Attempt]) -> bool {
    let are_numbered = attempts
        .iter()
        .zip(1..)
        .all(|(attempt, number)| attempt.attempt == number);
    are_numbered
        && attempts.windows(2).all(|pair| {
            let [before, after] = pair else { return false };
            before.epoch <= after.epoch
                && before.ended().is_some_and(|ended| ended <= after.started())
        })
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::super::facts::{Artefact, Event, Job};
    use super::*;

    fn attempt(number: i32, epoch: i32, times: (i64, i64), outcome: &str) -> Attempt {
        Attempt {
            job: "a".to_owned(),
            attempt: number,
            epoch,
            node: "node-1".to_owned(),
            started_us: times.0,
            ended_us: Some(times.1),
            outcome: Some(outcome.to_owned()),
        }
    }

    fn whole() -> Facts {
        let job = Job {
            id: "a".to_owned(),
            owner: "o".to_owned(),
            state: "done".to_owned(),
            attempt: 2,
            finished_us: Some(40),
            error: None,
            spec: serde_json::Value::Null,
        };
        let event = |seq, kind: &str| Event {
            job: "a".to_owned(),
            owner: "o".to_owned(),
            seq,
            user_seq: seq,
            kind: kind.to_owned(),
        };
        let key = |name: &str| format!("clips/a/2/{name}");
        Facts {
            jobs: HashMap::from([("a".to_owned(), job)]),
            attempts: vec![
                attempt(1, 1, (10, 20), "lost"),
                attempt(2, 2, (30, 40), "done"),
            ],
            artefacts: vec![Artefact {
                job: "a".to_owned(),
                attempt: 2,
                sha256: String::new(),
                bytes: 1,
                clip_key: key("clip.mp4"),
                poster_key: key("poster"),
                preview_key: key("preview"),
                spritesheet_key: key("spritesheet"),
                manifest: serde_json::Value::Null,
            }],
            events: vec![
                event(1, "queued"),
                event(2, "assigned"),
                event(3, "retrying"),
                event(4, "assigned"),
                event(5, "done"),
            ],
            keys: HashMap::new(),
            owners: HashMap::new(),
        }
    }

    #[test]
    fn what_was_not_delivered_once_is_found() {
        let check = |change: fn(&mut Facts)| {
            let mut facts = whole();
            change(&mut facts);
            delivered_once(&facts, &mut Tally::default()).verdict
        };
        assert_eq!(check(|_| ()), Verdict::Holds);
        let broken: [fn(&mut Facts); 8] = [
            |facts| facts.artefacts.clear(),
            |facts| facts.artefacts[0].attempt = 1,
            |facts| facts.artefacts[0].clip_key = "clips/a/1/clip.mp4".to_owned(),
            |facts| facts.attempts[0].outcome = Some("done".to_owned()),
            |facts| facts.attempts[0].ended_us = Some(31),
            |facts| facts.attempts[0].epoch = 3,
            |facts| facts.events[3].kind = "done".to_owned(),
            |facts| drop(facts.events.remove(1)),
        ];
        for change in broken {
            assert_eq!(check(change), Verdict::Broken);
        }
    }
}
