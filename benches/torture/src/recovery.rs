//! How long the farm needed to be itself again: told from the rows that it wrote, not from what it says of itself.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::checker::{Attempt, Facts};
use crate::clients::{Call, Phase, Record};
use crate::clock::At;
use crate::faults::Row;
use crate::samples::Summary;
use crate::watch::Term;

/// A program's death that the rig saw.
#[derive(Debug, Clone)]
pub(crate) struct Death {
    pub(crate) program: String,
    pub(crate) at: At,
}

/// All faults of one kind.
#[derive(Debug, Serialize)]
pub(crate) struct OfKind {
    pub(crate) injected: usize,
    /// The rest is void.
    pub(crate) bit: usize,
    /// From its healing until a clip is delivered whose attempt began after it.
    pub(crate) next_delivery: Option<Summary>,
    /// From its healing until a submission is acknowledged that was sent after it.
    pub(crate) next_acknowledgement: Option<Summary>,
}

pub(crate) fn by_kind(rows: &[Row], facts: &Facts, history: &[Record]) -> BTreeMap<String, OfKind> {
    let mut delivered: Vec<(At, At)> = facts
        .attempts
        .iter()
        .filter(|attempt| attempt.outcome.as_deref() == Some("done"))
        .filter_map(|attempt| Some((attempt.started(), attempt.ended()?)))
        .collect();
    delivered.sort();
    let acknowledged = acknowledged(history);
    let mut kinds: BTreeMap<String, Vec<&Row>> = BTreeMap::new();
    for row in rows {
        kinds.entry(row.fault.to_owned()).or_default().push(row);
    }
    let of = |rows: Vec<&Row>| {
        let bit: Vec<&Row> = rows
            .iter()
            .filter(|row| row.bit.is_some())
            .copied()
            .collect();
        let until_next = |spans: &[(At, At)]| {
            let next = bit.iter().filter_map(|row| next_after(spans, row.healed));
            Summary::of(next.collect())
        };
        OfKind {
            injected: rows.len(),
            bit: bit.len(),
            next_delivery: until_next(&delivered),
            next_acknowledgement: until_next(&acknowledged),
        }
    };
    kinds
        .into_iter()
        .map(|(kind, rows)| (kind, of(rows)))
        .collect()
}

/// Seconds until the first end of a span that began after `since`.
fn next_after(spans: &[(At, At)], since: At) -> Option<f64> {
    let later = spans.iter().filter(|(began, _)| *began >= since);
    let first = later.map(|(_, ended)| *ended).min()?;
    Some(first.seconds_since(since))
}

/// When submissions were sent and answered by `ok`.
fn acknowledged(history: &[Record]) -> Vec<(At, At)> {
    let mut sent: BTreeMap<usize, At> = BTreeMap::new();
    let mut spans = Vec::new();
    for record in history.iter().filter(|record| record.call == Call::Submit) {
        match record.phase {
            Phase::Invoke => {
                sent.insert(record.wish, record.at);
            }
            Phase::Ok => spans.extend(sent.get(&record.wish).map(|sent| (*sent, record.at))),
            Phase::Fail | Phase::Info => {}
        }
    }
    spans.sort();
    spans
}

/// What the farm made of nodes that died or could not be reached while they rendered, until the attempt was given up.
#[derive(Debug, Serialize)]
pub(crate) struct DeadNodes {
    /// Of those of which nobody hears anything, where nothing else was wrong: their leases end.
    pub(crate) silent_alone: Option<Summary>,
    /// The same, also where the leader or the database was gone.
    pub(crate) silent: Option<Summary>,
    /// Of those that were started again at once, where nothing else was wrong: their next process says that it is another.
    pub(crate) anew_alone: Option<Summary>,
    pub(crate) anew: Option<Summary>,
    /// Of all of them, until another attempt began.
    pub(crate) elsewhere: Option<Summary>,
    /// Those that were noticed last, the worst first.
    pub(crate) slowest: Vec<Noticed>,
}

/// A death and what came until it was noticed.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Noticed {
    pub(crate) node: String,
    pub(crate) at: At,
    pub(crate) job: String,
    pub(crate) attempt: i32,
    pub(crate) seconds: f64,
    /// Faults and ends of coordinators that may have been in the way, with their seconds after the death.
    pub(crate) meanwhile: Vec<String>,
}

/// So many of the slowest are told.
const SLOWEST_TOLD: usize = 10;

/// Who is away for less need not be missed: until then its lease may run on.
const MISSED_AFTER_US: i64 = 15_000_000;

/// A node that nobody hears of from a moment on.
struct Silence<'a> {
    node: &'a str,
    from: At,
    /// `None` for one that died and was started again at once.
    to: Option<At>,
}

impl Silence<'_> {
    /// All of them.
    fn of<'a>(deaths: &'a [Death], rows: &'a [Row]) -> Vec<Silence<'a>> {
        // Frozen and cut off ones live, and are dead to the farm.
        let lasting = [
            "F1 node gone",
            "F5 node cut off",
            "F5 node unheard",
            "F5 node deaf",
            "F7 node frozen",
        ];
        let is_lasting = |row: &&Row| row.bit.is_some() && lasting.contains(&row.fault);
        let of_rows = rows.iter().filter(is_lasting).map(|row| Silence {
            node: &row.target,
            from: row.began,
            to: Some(row.healed),
        });
        let mut silences: Vec<Silence<'a>> = of_rows.collect();
        let is_gone = |death: &&Death| {
            let lies_in = |silence: &Silence<'_>| {
                silence.node == death.program
                    && silence
                        .to
                        .is_some_and(|to| (silence.from..=to).contains(&death.at))
            };
            !silences.iter().any(lies_in)
        };
        let of_nodes = deaths
            .iter()
            .filter(|death| death.program.starts_with("node-"));
        let at_once: Vec<Silence<'a>> = of_nodes
            .filter(is_gone)
            .map(|death| Silence {
                node: &death.program,
                from: death.at,
                to: None,
            })
            .collect();
        silences.extend(at_once);
        silences
    }

    /// The attempt that the node held when it fell silent, if that had to be missed: one that it ended itself, having been away for
    /// less, was never lost.
    fn missed<'a>(&self, facts: &'a Facts) -> Option<&'a Attempt> {
        let held = facts.attempts.iter().find(|attempt| {
            attempt.node == self.node
                && attempt.started() <= self.from
                && attempt.ended().is_some_and(|ended| self.from <= ended)
        })?;
        let is_taken = matches!(held.outcome.as_deref(), Some("lost" | "stopped"));
        let lasted_us = self.to.map_or(0, |to| to.0 - self.from.0);
        let ended = held.ended()?;
        let is_late = lasted_us >= MISSED_AFTER_US && ended.0 - self.from.0 >= MISSED_AFTER_US;
        (is_taken || is_late).then_some(held)
    }
}

pub(crate) fn dead_nodes(deaths: &[Death], rows: &[Row], facts: &Facts) -> DeadNodes {
    let (mut silent, mut silent_alone, mut anew, mut anew_alone) = Default::default();
    let (mut elsewhere, mut slowest) = (Vec::new(), Vec::new());
    for silence in Silence::of(deaths, rows) {
        let Some((held, ended)) = silence
            .missed(facts)
            .and_then(|held| Some((held, held.ended()?)))
        else {
            continue;
        };
        let at = silence.from;
        let seconds = ended.seconds_since(at);
        let meanwhile = in_the_way(rows, deaths, at, ended);
        let (all, alone): (&mut Vec<f64>, &mut Vec<f64>) = match silence.to {
            Some(_) => (&mut silent, &mut silent_alone),
            None => (&mut anew, &mut anew_alone),
        };
        all.push(seconds);
        if meanwhile.is_empty() {
            alone.push(seconds);
        }
        slowest.push(Noticed {
            node: silence.node.to_owned(),
            at,
            job: held.job.clone(),
            attempt: held.attempt,
            seconds,
            meanwhile,
        });
        let next = facts
            .attempts
            .iter()
            .find(|attempt| attempt.job == held.job && attempt.attempt == held.attempt + 1);
        elsewhere.extend(next.map(|next| next.started().seconds_since(at)));
    }
    slowest.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    slowest.truncate(SLOWEST_TOLD);
    DeadNodes {
        silent_alone: Summary::of(silent_alone),
        silent: Summary::of(silent),
        anew_alone: Summary::of(anew_alone),
        anew: Summary::of(anew),
        elsewhere: Summary::of(elsewhere),
        slowest,
    }
}

/// What else was wrong between a node's death and its notice, in words.
fn in_the_way(rows: &[Row], deaths: &[Death], from: At, to: At) -> Vec<String> {
    let faults = rows.iter().filter(|row| hinders(row, from, to)).map(|row| {
        let (began, healed) = (
            row.began.seconds_since(from),
            row.healed.seconds_since(from),
        );
        format!("{} ({}) {began:.1} to {healed:.1}", row.fault, row.target)
    });
    let leaders = deaths
        .iter()
        .filter(|death| death.program.starts_with("coordinator-") && recently(death.at, from, to));
    let ends = leaders.map(|death| {
        let after = death.at.seconds_since(from);
        format!("{} ended {after:.1}", death.program)
    });
    faults.chain(ends).collect()
}

fn hinders(row: &Row, from: At, to: At) -> bool {
    let is_in_the_way =
        !row.target.starts_with("node-") && row.target != "redis" && row.target != "s3";
    is_in_the_way && row.began <= to && from <= row.healed
}

/// Whether a coordinator that died then may have been missing in between.
fn recently(death: At, from: At, to: At) -> bool {
    const TERM_AND_RECOVERY_US: i64 = 20_000_000;
    death <= to && from.0 - TERM_AND_RECOVERY_US <= death.0
}

/// From the death of a coordinator that led until the next term, seconds.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Takeovers {
    /// Where no other fault reached a coordinator or the database meanwhile.
    pub(crate) alone: Option<Summary>,
    pub(crate) all: Option<Summary>,
}

pub(crate) fn takeovers(deaths: &[Death], terms: &[Term], rows: &[Row]) -> Takeovers {
    // The name of a program's process is the program's and the count of its starts, of which each but the first followed a death.
    let led = |death: &&Death| {
        let is_earlier = |other: &&Death| other.program == death.program && other.at < death.at;
        let starts = 1 + deaths.iter().filter(is_earlier).count();
        let mut before = terms.iter().filter(|term| term.at <= death.at);
        let process = format!("{}-{starts}", death.program);
        before
            .next_back()
            .is_some_and(|term| term.holder == process)
    };
    let (mut alone, mut all) = (Vec::new(), Vec::new());
    for death in deaths.iter().filter(led) {
        let Some(next) = terms.iter().find(|term| term.at > death.at) else {
            continue;
        };
        let seconds = next.at.seconds_since(death.at);
        all.push(seconds);
        // A crash at a point lasts until it was seen: what ended the leader is no other fault.
        let is_cause = |row: &Row| {
            row.target.starts_with("coordinator-") && (row.began..=row.healed).contains(&death.at)
        };
        let is_other =
            |row: &&Row| row.bit.is_some() && !is_cause(row) && hinders(row, death.at, next.at);
        let other_died = |other: &Death| {
            other.program.starts_with("coordinator-")
                && other.program != death.program
                && recently(other.at, death.at, next.at)
        };
        if !rows.iter().any(|row| is_other(&row)) && !deaths.iter().any(other_died) {
            alone.push(seconds);
        }
    }
    Takeovers {
        alone: Summary::of(alone),
        all: Summary::of(all),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: i64) -> At {
        At(1_000_000 * seconds)
    }

    fn row(target: &str, began: i64, healed: i64) -> Row {
        row_of("some", target, began, healed)
    }

    fn row_of(fault: &'static str, target: &str, began: i64, healed: i64) -> Row {
        Row {
            fault,
            target: target.to_owned(),
            began: s(began),
            healed: s(healed),
            bit: Some("seen".to_owned()),
        }
    }

    /// The takeover after the death of the leader `coordinator-1` at 100 s, if it counts as undisturbed.
    fn alone(rows: &[Row], other_deaths: &[(&str, i64)]) -> Option<f64> {
        let death = |program: &str, at| Death {
            program: program.to_owned(),
            at: s(at),
        };
        let mut deaths = vec![death("coordinator-1", 100)];
        deaths.extend(other_deaths.iter().map(|(program, at)| death(program, *at)));
        let term = |at, epoch, holder: &str| Term {
            at: s(at),
            epoch,
            holder: holder.to_owned(),
        };
        let terms = [
            term(0, 1, "coordinator-1-1"),
            term(108, 2, "coordinator-2-1"),
        ];
        let found = takeovers(&deaths, &terms, rows);
        assert_eq!(found.all.unwrap().max_s, 8.0);
        found.alone.map(|of| of.max_s)
    }

    #[test]
    fn a_takeover_counts_where_nothing_but_the_leaders_end_was_wrong() {
        assert_eq!(alone(&[], &[]), Some(8.0));
        // The kill itself, and a crash at a point, which lasts until it was seen.
        assert_eq!(alone(&[row("coordinator-1", 99, 100)], &[]), Some(8.0));
        assert_eq!(alone(&[row("coordinator-2", 99, 112)], &[]), Some(8.0));
        assert_eq!(alone(&[row("node-1", 90, 120)], &[]), Some(8.0));
        // A database that does not answer, the next leader frozen, and one that was missing.
        assert_eq!(alone(&[row("postgres", 90, 104)], &[]), None);
        assert_eq!(alone(&[row("coordinator-2", 104, 107)], &[]), None);
        assert_eq!(alone(&[], &[("coordinator-2", 90)]), None);
    }

    /// What is found of a node that held an attempt from 90 s on, until that ended so: silent, and started anew.
    fn noticed(
        rows: &[Row],
        killed_at: Option<i64>,
        ended: i64,
        outcome: &str,
    ) -> [Option<f64>; 2] {
        let attempt = Attempt {
            job: "a".to_owned(),
            attempt: 1,
            epoch: 1,
            node: "node-1".to_owned(),
            started_us: s(90).0,
            ended_us: Some(s(ended).0),
            outcome: Some(outcome.to_owned()),
        };
        let facts = Facts {
            attempts: vec![attempt],
            ..Facts::default()
        };
        let deaths: Vec<Death> = killed_at
            .map(|at| Death {
                program: "node-1".to_owned(),
                at: s(at),
            })
            .into_iter()
            .collect();
        let found = dead_nodes(&deaths, rows, &facts);
        assert_eq!(found.silent_alone.is_some(), found.silent.is_some());
        [found.silent, found.anew].map(|of| of.map(|of| of.max_s))
    }

    #[test]
    fn a_silent_node_that_nobody_misses_is_found() {
        let frozen = |seconds: i64| row_of("F7 node frozen", "node-1", 100, 100 + seconds);
        assert_eq!(
            noticed(&[frozen(20)], None, 110, "lost"),
            [Some(10.0), None]
        );
        assert_eq!(
            noticed(&[frozen(20)], None, 110, "stopped"),
            [Some(10.0), None]
        );
        // It wakes, and goes on as if nothing had been.
        assert_eq!(
            noticed(&[frozen(20)], None, 130, "done"),
            [Some(30.0), None]
        );
        // It was away for less than it may be, or its word had been heard.
        assert_eq!(noticed(&[frozen(10)], None, 130, "done"), [None, None]);
        assert_eq!(noticed(&[frozen(20)], None, 101, "done"), [None, None]);
    }

    #[test]
    fn a_node_that_is_started_again_at_once_says_nothing_of_leases() {
        assert_eq!(noticed(&[], Some(100), 101, "lost"), [None, Some(1.0)]);
        let gone = [row_of("F1 node gone", "node-1", 99, 120)];
        assert_eq!(noticed(&gone, Some(100), 110, "lost"), [Some(11.0), None]);
    }
}
