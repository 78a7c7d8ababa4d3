//! The least of a ledger: a job's price is held when it is submitted, captured once when it is delivered, and released at any
//! other end. Every movement takes from one account what it gives to another.

use std::collections::BTreeMap;

use flowai_actors::ids::JobId;

/// What has become of one job's hold, in milli-credits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Hold {
    /// Still set aside.
    pub held: i64,
    /// Paid to the farm, in all captures together.
    pub captured: i64,
    /// Given back to the owner.
    pub released: i64,
    pub captures: u32,
}

/// Balances of all users together; nobody's own matters here.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Grows negative: what users may spend comes from nowhere here.
    pub available: i64,
    pub held: i64,
    pub revenue: i64,
    holds: BTreeMap<JobId, Hold>,
}

impl Ledger {
    pub fn of(&self, job: JobId) -> Hold {
        self.holds.get(&job).copied().unwrap_or_default()
    }

    pub fn sum(&self) -> i64 {
        self.available + self.held + self.revenue
    }

    pub(super) fn hold(&mut self, job: JobId, price_mc: i64) {
        self.available -= price_mc;
        self.held += price_mc;
        self.holds.entry(job).or_default().held += price_mc;
    }

    pub(super) fn capture(&mut self, job: JobId, price_mc: i64) {
        let hold = self.holds.entry(job).or_default();
        hold.held -= price_mc;
        hold.captured += price_mc;
        hold.captures += 1;
        self.held -= price_mc;
        self.revenue += price_mc;
    }

    pub(super) fn release(&mut self, job: JobId) {
        let hold = self.holds.entry(job).or_default();
        let rest = std::mem::take(&mut hold.held);
        hold.released += rest;
        self.held -= rest;
        self.available += rest;
    }
}
