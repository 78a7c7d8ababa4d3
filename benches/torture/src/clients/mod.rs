//! Clients that submit, cancel and retry, and write down what they were told.

mod history;
mod http;
mod workload;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use reqwest::StatusCode;
use serde_json::Value;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;

pub(crate) use history::{Call, History, Phase, Record};
pub(crate) use http::User;
pub(crate) use workload::{Class, wishes};

use crate::clock::At;
use crate::pace::Pace;
use http::Answer;
use workload::Wish;

/// Wishes that are carried out at a time.
const UNDER_WAY_MAX: usize = 400;
/// A call whose outcome is not known is made again for so long, then stays unknown.
const PATIENCE: Duration = Duration::from_secs(120);
const AGAIN_FIRST: Duration = Duration::from_millis(100);
const AGAIN_MOST: Duration = Duration::from_secs(2);

/// All clients.
#[derive(Debug)]
pub(crate) struct Clients {
    pub(crate) users: Vec<User>,
    apis: Vec<String>,
    history: History,
}

impl Clients {
    /// Makes the accounts. `apis`: base URLs of the instances.
    pub(crate) async fn make(
        count: usize,
        apis: Vec<String>,
        history: History,
    ) -> anyhow::Result<Self> {
        let api = apis.first().context("an api")?;
        let mut users = Vec::new();
        for number in 0..count {
            let user = User::make(api, &format!("client-{number}")).await;
            users.push(user.context("making an account")?);
        }
        Ok(Self {
            users,
            apis,
            history,
        })
    }

    /// Carries out all wishes, each at its time, and waits until every one is resolved or given up.
    pub(crate) async fn run(self: Arc<Self>, wishes: Vec<Wish>, pace: &Pace) -> anyhow::Result<()> {
        let room = Arc::new(Semaphore::new(UNDER_WAY_MAX));
        let mut under_way = JoinSet::new();
        for wish in wishes {
            pace.may_submit(wish.number).await;
            tokio::time::sleep(wish.gap).await;
            let permit = room.clone().acquire_owned().await?;
            let clients = self.clone();
            pace.submitted();
            under_way.spawn(async move {
                let carried = clients.carry_out(&wish).await;
                drop(permit);
                carried
            });
            while let Some(carried) = under_way.try_join_next() {
                carried??;
            }
        }
        while let Some(carried) = under_way.join_next().await {
            carried??;
        }
        Ok(())
    }

    pub(crate) fn close(self) -> anyhow::Result<()> {
        self.history.close()
    }

    async fn carry_out(&self, wish: &Wish) -> anyhow::Result<()> {
        let user = &self.users[wish.client];
        let key = format!("wish-{}", wish.number);
        let mut body = wish.body.clone();
        if body.get("image").is_none() {
            body["image"] = user.picture.clone().into();
        }
        let submit = |turn: usize| self.insist(wish, Call::Submit, &key, None, Some(&body), turn);
        let job = match wish.class {
            Class::Retried if wish.is_sent_twice_at_once => {
                let (first, second) = tokio::try_join!(submit(0), submit(1))?;
                first.or(second)
            }
            Class::Retried => {
                let first = submit(0).await?;
                submit(1).await?.or(first)
            }
            Class::Good | Class::Cancelled | Class::Poison | Class::Bad => submit(0).await?,
        };
        let (Some(job), Some(after)) = (job, wish.cancel_after) else {
            return Ok(());
        };
        tokio::time::sleep(after).await;
        self.insist(wish, Call::Cancel, &key, Some(&job), None, 0)
            .await
            .map(drop)
    }

    /// Makes a call until its outcome is known, or for so long. Gives the job that an `ok` named.
    async fn insist(
        &self,
        wish: &Wish,
        call: Call,
        key: &str,
        job: Option<&str>,
        body: Option<&Value>,
        turn: usize,
    ) -> anyhow::Result<Option<String>> {
        let user = &self.users[wish.client];
        let until = Instant::now() + PATIENCE;
        let mut pause = AGAIN_FIRST;
        for tried in 0.. {
            let api = &self.apis[(wish.number + turn + tried) % self.apis.len()];
            let mut record = Record {
                at: At::now(),
                client: wish.client,
                wish: wish.number,
                class: wish.class,
                call,
                phase: Phase::Invoke,
                key: key.to_owned(),
                job: job.map(str::to_owned),
                seed: body.and_then(|body| body["seed"].as_u64()),
                status: None,
                code: None,
            };
            self.history.write(&record)?;
            let answer = match (call, job, body) {
                (Call::Cancel, Some(job), _) => user.cancel(api, job).await,
                (_, _, body) => {
                    let body = body.context("a submission has a body")?;
                    user.submit(api, key, body).await
                }
            };
            let heard = Heard::of(&answer);
            record.at = At::now();
            record.phase = heard.phase;
            record.status = heard.status;
            record.code = heard.code;
            record.job = record.job.or(heard.job);
            self.history.write(&record)?;
            if heard.is_final || Instant::now() >= until {
                return Ok(record.job.filter(|_| record.phase == Phase::Ok));
            }
            tokio::time::sleep(pause).await;
            pause = (2 * pause).min(AGAIN_MOST);
        }
        Ok(None)
    }
}

/// An answer as the history has it.
struct Heard {
    phase: Phase,
    is_final: bool,
    status: Option<u16>,
    code: Option<String>,
    job: Option<String>,
}

impl Heard {
    fn of(answer: &Answer) -> Self {
        let (status, body) = match answer {
            Answer::Said { status, body } => (*status, body),
            Answer::Nothing(reason) => {
                return Self {
                    phase: Phase::Info,
                    is_final: false,
                    status: None,
                    code: Some(reason.clone()),
                    job: None,
                };
            }
        };
        let text = |name: &str| body[name].as_str().map(str::to_owned);
        let code = text("code");
        // Neither done nor refused for good: the same call may pass a moment later.
        let may_pass = status == StatusCode::TOO_MANY_REQUESTS
            || code.as_deref() == Some("idempotency_in_progress");
        let phase = match status {
            status if status.is_success() => Phase::Ok,
            // An instance that cannot reach its database may have reached it.
            status if status.is_server_error() => Phase::Info,
            _ => Phase::Fail,
        };
        Self {
            phase,
            is_final: phase != Phase::Info && !may_pass,
            status: Some(status.as_u16()),
            code,
            job: text("id").filter(|_| phase == Phase::Ok),
        }
    }
}
