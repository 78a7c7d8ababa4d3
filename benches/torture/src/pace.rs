//! Keeps submissions and faults in step, so that every fault meets load and the load lasts as long as the faults.

use tokio::sync::watch;

#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    submitted: usize,
    /// Begun.
    faults: usize,
}

#[derive(Debug)]
pub(crate) struct Pace {
    jobs: usize,
    faults: usize,
    counts: watch::Sender<Counts>,
}

impl Pace {
    pub(crate) fn new(jobs: usize, faults: usize) -> Self {
        Self {
            jobs,
            faults,
            counts: watch::Sender::new(Counts::default()),
        }
    }

    /// Waits until the faults that come before the wish of this number have begun, but for one.
    pub(crate) async fn may_submit(&self, number: usize) {
        let due = number * self.faults / self.jobs;
        self.reached(|counts| counts.faults + 1 >= due).await;
    }

    pub(crate) fn submitted(&self) {
        self.counts.send_modify(|counts| counts.submitted += 1);
    }

    /// Waits until the submissions that come before the fault of this number have been made.
    pub(crate) async fn may_fault(&self, number: usize) {
        let due = (number + 1) * self.jobs / (self.faults + 1);
        self.reached(|counts| counts.submitted >= due).await;
    }

    pub(crate) fn faulted(&self) {
        self.counts.send_modify(|counts| counts.faults += 1);
    }

    async fn reached(&self, wanted: impl Fn(&Counts) -> bool) {
        // The sender is in self: there is no other end of the wait.
        let _ = self.counts.subscribe().wait_for(wanted).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both sides go on whenever the other waits, whatever the numbers are.
    #[tokio::test]
    async fn neither_side_waits_for_ever() {
        for (jobs, faults) in [(300, 20), (20, 0), (1, 5), (7, 7), (10, 40), (1_000, 1)] {
            let pace = Pace::new(jobs, faults);
            let submit = async {
                for number in 0..jobs {
                    pace.may_submit(number).await;
                    pace.submitted();
                }
            };
            let fault = async {
                for number in 0..faults {
                    pace.may_fault(number).await;
                    pace.faulted();
                }
            };
            let both = async { tokio::join!(submit, fault) };
            let ended = tokio::time::timeout(std::time::Duration::from_secs(5), both).await;
            assert!(ended.is_ok(), "{jobs} jobs, {faults} faults");
        }
    }
}
