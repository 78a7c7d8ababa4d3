//! Faults: which there are, when they come, how they are done and whether they bit.

mod inject;
mod kind;
mod schedule;
mod target;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use rand::Rng as _;
use serde::Serialize;
use tokio::task::JoinSet;

use crate::clients::Clients;
use crate::clock::At;
use crate::farm::{Farm, faketime};
use crate::options::Options;
use crate::pace::Pace;

pub(crate) use inject::Injector;
pub(crate) use kind::{Kind, Means};

/// From one fault's healing to the next fault: most overlap nothing, so that what they cost can be told apart.
const GAP_MS: std::ops::Range<u64> = 500..2_500;

/// What was done.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Row {
    pub(crate) fault: &'static str,
    pub(crate) target: String,
    pub(crate) began: At,
    pub(crate) healed: At,
    /// How it was seen to bite; none: it was not, and says nothing about the farm.
    pub(crate) bit: Option<String>,
}

/// Injects the planned faults, each when its submissions have been made. Gives one row each, in order of their healing.
pub(crate) async fn run(
    farm: Arc<Farm>,
    clients: Arc<Clients>,
    options: &Options,
    pace: &Pace,
) -> anyhow::Result<Vec<Row>> {
    let possible = Kind::possible(Means {
        has_namespaces: farm.network.has_namespaces(),
        has_standby: options.coordinators > 1,
        has_clocks: faketime().is_some(),
    });
    let planned = schedule::schedule(options.faults, options.seed, &possible, &options.only)?;
    let outage = Duration::from_secs(options.outage_s);
    let injector = Arc::new(Injector::new(farm, clients, outage)?);
    let mut rows = Vec::new();
    let mut long = JoinSet::new();
    for (number, planned) in planned.into_iter().enumerate() {
        pace.may_fault(number).await;
        pace.faulted();
        if planned.kind.is_long() {
            // One at a time of these.
            while let Some(row) = long.join_next().await {
                rows.push(row??);
            }
            let (injector, faults) = (injector.clone(), options.faults);
            long.spawn(async move {
                let row = injector.inject(planned).await?;
                tell(number, faults, &row);
                anyhow::Ok(row)
            });
            continue;
        }
        let row = injector.inject(planned).await;
        let row = row.with_context(|| planned.kind.name.to_owned())?;
        tell(number, options.faults, &row);
        rows.push(row);
        let gap = rand::rng().random_range(GAP_MS);
        tokio::time::sleep(Duration::from_millis(gap)).await;
    }
    while let Some(row) = long.join_next().await {
        rows.push(row??);
    }
    Ok(rows)
}

fn tell(number: usize, faults: usize, row: &Row) {
    let seconds = row.healed.seconds_since(row.began);
    let bit = row.bit.as_deref().unwrap_or("not seen to bite");
    println!(
        "fault {}/{faults}: {} ({}), {seconds:.1} s: {bit}",
        number + 1,
        row.fault,
        row.target
    );
}
