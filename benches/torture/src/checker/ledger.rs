//! Money: each transaction sums to zero, every hold ended and what was held went where it belongs, one capture for each delivered job and
//! none for others, but for a part of what its owner cancelled while it ran.

use sqlx::PgPool;

use super::{Check, Facts, Tally};

const NAME: &str = "ledger_balances";

/// What a job cost, by the ledger's own rows.
#[derive(Debug, sqlx::FromRow)]
struct Charge {
    job: String,
    held_mc: i64,
    hold: String,
    captured_mc: i64,
    holds: i64,
    captures: i64,
    releases: i64,
    /// What came to the house by captures of this job.
    revenue_mc: i64,
    /// What its hold brought to its owner's held credits, and what captures and releases took from there.
    into_held_mc: i64,
    captured_from_mc: i64,
    released_from_mc: i64,
}

/// A transaction or a balance that is not what its entries sum to.
#[derive(Debug, sqlx::FromRow)]
struct Wrong {
    what: String,
    found: String,
}

pub(super) async fn ledger_balances(
    database: &PgPool,
    facts: &Facts,
    tally: &mut Tally,
) -> Result<Check, sqlx::Error> {
    let charges: Vec<Charge> = sqlx::query_as(
        "with moved as materialized (
                select t.job_id, t.kind, sum(e.amount_mc) as mc
                  from ledger_txns t join ledger_entries e on e.txn_id = t.id
                  join ledger_accounts a on a.id = e.account_id and a.kind = 'held'
                 where t.job_id is not null group by t.job_id, t.kind)
         select h.job_id::text as job, h.amount_mc as held_mc, h.state as hold, h.captured_mc,
                count(t.id) filter (where t.kind = 'hold') as holds,
                count(t.id) filter (where t.kind = 'capture') as captures,
                count(t.id) filter (where t.kind = 'release') as releases,
                coalesce((select sum(e.amount_mc) from ledger_entries e
                            join ledger_accounts a on a.id = e.account_id and a.kind = 'revenue'
                            join ledger_txns c on c.id = e.txn_id where c.job_id = h.job_id), 0)::bigint as revenue_mc,
                coalesce((select sum(m.mc) from moved m where m.job_id = h.job_id and m.kind = 'hold'), 0)::bigint as into_held_mc,
                coalesce((select -sum(m.mc) from moved m where m.job_id = h.job_id and m.kind = 'capture'), 0)::bigint as captured_from_mc,
                coalesce((select -sum(m.mc) from moved m where m.job_id = h.job_id and m.kind = 'release'), 0)::bigint as released_from_mc
           from credit_holds h left join ledger_txns t on t.job_id = h.job_id
          group by h.job_id",
    )
    .fetch_all(database)
    .await?;
    let wrong: Vec<Wrong> = sqlx::query_as(
        "select 'transaction ' || t.id as what, format('%s entries, sum %s', count(e.txn_id), sum(e.amount_mc)) as found
           from ledger_txns t left join ledger_entries e on e.txn_id = t.id
          group by t.id having count(e.txn_id) < 2 or sum(e.amount_mc) <> 0
         union all
         select 'balance of ' || b.owner_id, format('%s and %s held', b.available_mc, b.held_mc)
           from credit_balances b
          cross join lateral (
                select coalesce(sum(e.amount_mc) filter (where a.kind = 'available'), 0)::bigint as available_mc,
                       coalesce(sum(e.amount_mc) filter (where a.kind = 'held'), 0)::bigint as held_mc
                  from ledger_accounts a join ledger_entries e on e.account_id = a.id where a.owner_id = b.owner_id) s
          where (b.available_mc, b.held_mc) is distinct from (s.available_mc, s.held_mc)",
    )
    .fetch_all(database)
    .await?;
    Ok(weigh(&charges, &wrong, facts, tally))
}

fn weigh(charges: &[Charge], wrong: &[Wrong], facts: &Facts, tally: &mut Tally) -> Check {
    let mut check = Check::new(NAME);
    let mut double_billed = 0;
    check.look(charges.len() == facts.jobs.len(), || {
        format!("{} jobs, {} holds", facts.jobs.len(), charges.len())
    });
    for charge in charges {
        let Some(job) = facts.jobs.get(&charge.job) else {
            check.look(false, || format!("{charge:?} is of no job"));
            continue;
        };
        let may_cost = match job.state.as_str() {
            "done" => charge.held_mc..=charge.held_mc,
            // A part of what ran.
            "cancelled" if job.attempt > 0 => 0..=charge.held_mc,
            _ => 0..=0,
        };
        let is_once = charge.holds == 1 && charge.captures <= 1 && charge.releases <= 1;
        let went_back_mc = charge.held_mc - charge.captured_mc;
        let is_right = charge.hold != "held"
            && charge.into_held_mc == charge.held_mc
            && charge.captured_from_mc == charge.captured_mc
            && charge.released_from_mc == went_back_mc
            && charge.revenue_mc == charge.captured_mc
            && may_cost.contains(&charge.revenue_mc);
        if charge.captures > 1 || charge.revenue_mc > *may_cost.end() {
            double_billed += 1;
        }
        check.look(is_once && is_right, || {
            format!("job is {}, {charge:?}", job.state)
        });
    }
    for Wrong { what, found } in wrong {
        check.look(false, || format!("{what}: {found}"));
    }
    tally.double_billed = double_billed;
    check
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::super::Verdict;
    use super::super::facts::Job;
    use super::*;

    fn verdict(state: &str, attempt: i32, change: fn(&mut Charge)) -> (Verdict, usize) {
        let job = Job {
            id: "a".to_owned(),
            owner: "o".to_owned(),
            state: state.to_owned(),
            attempt,
            finished_us: Some(0),
            error: None,
            spec: serde_json::Value::Null,
        };
        let facts = Facts {
            jobs: HashMap::from([("a".to_owned(), job)]),
            attempts: Vec::new(),
            artefacts: Vec::new(),
            events: Vec::new(),
            keys: HashMap::new(),
            owners: HashMap::new(),
        };
        let mut charge = Charge {
            job: "a".to_owned(),
            held_mc: 100,
            hold: "released".to_owned(),
            captured_mc: 0,
            holds: 1,
            captures: 0,
            releases: 1,
            revenue_mc: 0,
            into_held_mc: 100,
            captured_from_mc: 0,
            released_from_mc: 100,
        };
        change(&mut charge);
        let mut tally = Tally::default();
        let check = weigh(&[charge], &[], &facts, &mut tally);
        (check.verdict, tally.double_billed)
    }

    fn captured(charge: &mut Charge) {
        charge.hold = "captured".to_owned();
        (charge.captured_mc, charge.revenue_mc) = (100, 100);
        (charge.captured_from_mc, charge.released_from_mc) = (100, 0);
        (charge.captures, charge.releases) = (1, 0);
    }

    #[test]
    fn money_that_went_wrong_is_found() {
        use Verdict::{Broken, Holds};

        assert_eq!(verdict("done", 1, captured), (Holds, 0));
        assert_eq!(verdict("failed", 3, |_| ()), (Holds, 0));
        assert_eq!(verdict("cancelled", 1, captured), (Holds, 0));
        // Delivered for nothing, or charged for nothing.
        assert_eq!(verdict("done", 1, |_| ()), (Broken, 0));
        assert_eq!(verdict("failed", 3, captured), (Broken, 1));
        assert_eq!(verdict("cancelled", 0, captured), (Broken, 1));
        // Twice.
        let twice = |charge: &mut Charge| {
            captured(charge);
            (charge.captures, charge.revenue_mc) = (2, 200);
        };
        assert_eq!(verdict("done", 1, twice), (Broken, 1));
        // Never given back, given back twice, and a part that was.
        let kept = |charge: &mut Charge| (charge.releases, charge.released_from_mc) = (0, 0);
        assert_eq!(verdict("failed", 3, kept), (Broken, 0));
        let generous = |charge: &mut Charge| charge.released_from_mc = 200;
        assert_eq!(verdict("failed", 3, generous), (Broken, 0));
        let part = |charge: &mut Charge| {
            (
                charge.captured_mc,
                charge.captured_from_mc,
                charge.revenue_mc,
            ) = (40, 40, 40);
            (charge.captures, charge.released_from_mc) = (1, 60);
        };
        assert_eq!(verdict("cancelled", 1, part), (Holds, 0));
        let rest_is_kept = |charge: &mut Charge| {
            (
                charge.captured_mc,
                charge.captured_from_mc,
                charge.revenue_mc,
            ) = (40, 40, 40);
            (charge.captures, charge.releases, charge.released_from_mc) = (1, 0, 0);
        };
        assert_eq!(verdict("cancelled", 1, rest_is_kept), (Broken, 0));
        // A hold that leaks.
        let leaks = |charge: &mut Charge| charge.hold = "held".to_owned();
        assert_eq!(verdict("failed", 3, leaks), (Broken, 0));
    }
}
