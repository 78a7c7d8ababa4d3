//! How each fault is done, healed, and seen to bite.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use flowai_actors::limits::{LEADER_TERM_MS, LEADER_WATCH_MS};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::time::sleep;

use super::Row;
use super::kind::{Act, FullDisk, Part, Place, Reach, Victim};
use super::schedule::Planned;
use crate::clients::Clients;
use crate::clock::At;
use crate::farm::{Farm, Program};
use crate::network::Way;
use crate::proxy::Toxic;

/// A part that crashed is started again so soon.
const PART_DOWN: Duration = Duration::from_secs(1);
/// A crash point is passed within this, or says nothing.
pub(super) const CRASH_PATIENCE: Duration = Duration::from_secs(20);
/// A leader that is killed for the sake of the next one stays away until that one leads.
const TERM: Duration = Duration::from_millis(LEADER_TERM_MS + 2 * LEADER_WATCH_MS);
const DELAY: Duration = Duration::from_millis(100);
const JITTER: Duration = Duration::from_millis(400);
const SLOW_BYTES_PER_S: u64 = 10_000;
const CUT_SHORT_BYTES: u64 = 200;
const BREAK_OFF_EVERY: Duration = Duration::from_millis(400);
const FLAP_EVERY: Duration = Duration::from_millis(250);
const SLOW_READERS: usize = 50;
const LEADER_DEADLINE: Duration = Duration::from_secs(2);
/// What a node and the S3 server log when they have no room.
const NODE_REFUSAL: &str = "No space left on device";
const S3_REFUSAL: &str = "status: 500";
/// Codes of PostgreSQL: <https://www.postgresql.org/docs/15/errcodes-appendix.html>
const DISK_FULL: &str = "53100";
const CRASH_SHUTDOWN: &str = "57P02";
/// A disk is full for sure after so long.
const FULL_AFTER: Duration = Duration::from_secs(1);
const CLOCK_JUMPS_S: [i64; 2] = [3_600, -86_400];
const CLOCK_LASTS: Duration = Duration::from_secs(6);

#[derive(Debug)]
pub(crate) struct Injector {
    pub(super) farm: Arc<Farm>,
    clients: Arc<Clients>,
    outage: Duration,
    /// Past the proxies.
    pub(super) database: PgPool,
    /// One fault at a time kills a part.
    parts: [Mutex<()>; 3],
}

/// A fault that was healed.
struct Done {
    target: String,
    bit: Option<String>,
}

impl Done {
    fn new(target: &str, bit: Option<String>) -> anyhow::Result<Self> {
        Ok(Self {
            target: target.to_owned(),
            bit,
        })
    }

    /// None of these was there.
    fn nobody(wanted: impl std::fmt::Debug) -> anyhow::Result<Self> {
        Self::new(&format!("no {wanted:?}").to_lowercase(), None)
    }

    fn killed(target: &str, was_killed: bool) -> anyhow::Result<Self> {
        Self::new(target, was_killed.then(|| "ended by SIGKILL".to_owned()))
    }
}

/// A program that was killed and is on its way back.
struct Replaced<'a> {
    program: &'a Program,
    /// How often it had ended by then, and bytes that it had written.
    exits: usize,
    logged: u64,
}

impl Injector {
    pub(crate) fn new(
        farm: Arc<Farm>,
        clients: Arc<Clients>,
        outage: Duration,
    ) -> anyhow::Result<Self> {
        let owner = &farm.parts.postgres.urls().owner;
        let database = PgPoolOptions::new()
            .max_connections(2)
            .acquire_timeout(LEADER_DEADLINE)
            .connect_lazy(owner)?;
        Ok(Self {
            farm,
            clients,
            outage,
            database,
            parts: Default::default(),
        })
    }

    /// Does it, heals it and says what was seen.
    ///
    /// # Errors
    /// The rig itself failed: the run is void.
    pub(crate) async fn inject(&self, planned: Planned) -> anyhow::Result<Row> {
        let began = At::now();
        let Done { target, bit } = self.act(planned).await?;
        Ok(Row {
            fault: planned.kind.name,
            target,
            began,
            healed: self.healed(planned, began),
            bit,
        })
    }

    /// A killed program is healed by whoever starts it again: what follows is the farm's own.
    fn healed(&self, planned: Planned, began: At) -> At {
        match planned.kind.act {
            Act::Kill(_) => began,
            _ => At::now(),
        }
    }

    async fn act(&self, Planned { kind, draw }: Planned) -> anyhow::Result<Done> {
        match kind.act {
            Act::Kill(victim) => {
                let Some(program) = self.program(victim, draw).await? else {
                    return Done::nobody(victim);
                };
                Done::killed(program.name(), program.kill(Duration::ZERO).await?)
            }
            Act::Gone(victim, seconds) => {
                let Some(program) = self.program(victim, draw).await? else {
                    return Done::nobody(victim);
                };
                let down = Duration::from_secs(seconds);
                let was_killed = program.kill(down).await?;
                sleep(down).await;
                Done::killed(program.name(), was_killed)
            }
            Act::CrashAt(victim, point) => self.crash_at(victim, point, draw).await,
            Act::KillPart(part) => self.crash_part(part, PART_DOWN).await,
            Act::Outage(part) => self.crash_part(part, self.outage).await,
            Act::EndSessions => self.end_sessions().await,
            Act::Freeze(victim, seconds) => {
                let Some(program) = self.program(victim, draw).await? else {
                    return Done::nobody(victim);
                };
                let frozen = program.freeze().await?;
                sleep(Duration::from_secs(seconds)).await;
                if let Some(frozen) = &frozen {
                    program.thaw(frozen.pid);
                }
                let still = frozen.filter(|frozen| frozen.stands_still);
                let bit = still.map(|frozen| format!("process {} stood still", frozen.pid));
                Done::new(program.name(), bit)
            }
            Act::Cut(victim, way, reach, seconds) => {
                let Some(program) = self.program(victim, draw).await? else {
                    return Done::nobody(victim);
                };
                let port = match reach {
                    Reach::Everything => None,
                    Reach::Database => Some(self.farm.parts.postgres_proxy.address().port()),
                };
                program.host().cut(way, port)?;
                sleep(Duration::from_secs(seconds)).await;
                let dropped = program.host().mend()?;
                Done::new(program.name(), packets(dropped))
            }
            Act::Flap(victim, seconds) => {
                let Some(program) = self.program(victim, draw).await? else {
                    return Done::nobody(victim);
                };
                let mut dropped = 0;
                let end = tokio::time::Instant::now() + Duration::from_secs(seconds);
                while tokio::time::Instant::now() < end {
                    program.host().cut(Way::Both, None)?;
                    sleep(FLAP_EVERY).await;
                    dropped += program.host().mend()?;
                    sleep(FLAP_EVERY).await;
                }
                Done::new(program.name(), packets(dropped))
            }
            Act::HalfOpen(place, holds, seconds) => {
                let toxic = Toxic {
                    holds,
                    ..Toxic::default()
                };
                self.poison(place, draw, toxic, seconds).await
            }
            Act::Late(place, seconds) => {
                let toxic = Toxic {
                    delay: DELAY,
                    jitter: JITTER,
                    ..Toxic::default()
                };
                self.poison(place, draw, toxic, seconds).await
            }
            Act::Slow(place, seconds) => {
                let toxic = Toxic {
                    rate_max: Some(SLOW_BYTES_PER_S),
                    ..Toxic::default()
                };
                self.poison(place, draw, toxic, seconds).await
            }
            Act::CutShort(place, seconds) => {
                let toxic = Toxic {
                    answer_bytes_max: Some(CUT_SHORT_BYTES),
                    ..Toxic::default()
                };
                self.poison(place, draw, toxic, seconds).await
            }
            Act::BreakOff(place, seconds) => {
                let Some(proxy) = self.proxy(place, draw).await? else {
                    return Done::nobody(place);
                };
                let before = proxy.harm();
                let end = tokio::time::Instant::now() + Duration::from_secs(seconds);
                while tokio::time::Instant::now() < end {
                    proxy.cut_connections();
                    sleep(BREAK_OFF_EVERY).await;
                }
                Done::new(proxy.name(), harmed(proxy.harm() - before))
            }
            Act::SlowReaders(seconds) => self.slow_readers(seconds, draw).await,
            Act::FillDisk(disk, seconds) => {
                self.fill_disk(disk, Duration::from_secs(seconds)).await
            }
            Act::Clock(victim) => self.jump_clock(victim, draw).await,
        }
    }

    async fn fill_disk(&self, whose: FullDisk, lasting: Duration) -> anyhow::Result<Done> {
        let disks = self.farm.disks.as_ref().context("disks of the run's own")?;
        let parts = &self.farm.parts;
        let (user, refusal) = match whose {
            FullDisk::Postgres => {
                let _alone = self.parts[Part::Postgres as usize].lock().await;
                let filled = disks.postgres.fill(lasting);
                let (filled, refused) = tokio::join!(filled, self.refused_for_want_of_room());
                filled?;
                parts.revive_postgres().await?;
                return Done::new("postgres", refused);
            }
            FullDisk::S3 => (&parts.s3, S3_REFUSAL),
            FullDisk::Node => (self.farm.nodes.first().context("a node")?, NODE_REFUSAL),
        };
        user.ready().await?;
        let from = user.logged_bytes()?;
        match whose {
            FullDisk::S3 => disks.s3.fill(lasting).await?,
            FullDisk::Postgres | FullDisk::Node => disks.node.fill(lasting).await?,
        }
        let refused = user.logged(from)?.matches(refusal).count();
        let bit = (refused > 0).then(|| format!("refused {refused} writes"));
        Done::new(user.name(), bit)
    }

    /// Whether the database says that it has no room, or ends of it.
    async fn refused_for_want_of_room(&self) -> Option<String> {
        // The session ends with this connection, and the table with it.
        let mut connection = self.database.acquire().await.ok()?.detach();
        sleep(FULL_AFTER).await;
        let large = "create temporary table large as select generate_series(1, 1000000)";
        let refused = sqlx::query(large).execute(&mut connection).await.err()?;
        let is_full = match &refused {
            sqlx::Error::Database(said) => {
                matches!(said.code().as_deref(), Some(DISK_FULL | CRASH_SHUTDOWN))
            }
            sqlx::Error::Io(_) => true,
            _ => false,
        };
        is_full.then(|| refused.to_string())
    }

    async fn jump_clock(&self, victim: Victim, draw: usize) -> anyhow::Result<Done> {
        let replaced = self.replaced(victim, draw, Program::unhitch_clock);
        let Some(Replaced { program, .. }) = replaced.await? else {
            return Done::nobody(victim);
        };
        program.ready().await?;
        if matches!(victim, Victim::Leader) && !self.leads(program).await {
            program.kill(Duration::ZERO).await?;
            return Done::new(program.name(), None);
        }
        let from = program.logged_bytes()?;
        for ahead_s in CLOCK_JUMPS_S {
            program.set_clock(ahead_s)?;
            sleep(CLOCK_LASTS).await;
        }
        let told = program.logged(from)?;
        let off = told.lines().filter(|line| is_of_another_time(line)).count();
        program.kill(Duration::ZERO).await?;
        Done::new(
            program.name(),
            (off > 0).then(|| format!("{off} lines of its log bear another time")),
        )
    }

    /// The program after it was killed by `change` and is on its way back, as the leader where it is to be the leader.
    async fn replaced<'a, F>(
        &'a self,
        victim: Victim,
        draw: usize,
        change: impl FnOnce(&'a Program) -> F,
    ) -> anyhow::Result<Option<Replaced<'a>>>
    where
        F: Future<Output = anyhow::Result<()>>,
    {
        let Some(program) = self.program(victim, draw).await? else {
            return Ok(None);
        };
        // One that is killed may not lead again: the other one is changed, and leads when its leader is killed.
        let other = match victim {
            Victim::Leader => self.program(Victim::Standby, draw).await?,
            Victim::Standby | Victim::Api | Victim::Node => Some(program),
        };
        let Some(other) = other else {
            return Ok(None);
        };
        change(other).await?;
        let (exits, logged) = (other.exits().len(), other.logged_bytes()?);
        if other.name() != program.name() {
            other.ready().await?;
            program.kill(TERM).await?;
        }
        Ok(Some(Replaced {
            program: other,
            exits,
            logged,
        }))
    }

    async fn crash_at(
        &self,
        victim: Victim,
        point: &'static str,
        draw: usize,
    ) -> anyhow::Result<Done> {
        // Who leads comes by every point sooner or later, a standby by none.
        let replaced = self.replaced(victim, draw, |program| program.arm(point));
        let Some(Replaced {
            program: other,
            exits,
            logged: from,
        }) = replaced.await?
        else {
            return Done::nobody(victim);
        };
        let aborted = other.aborts(exits, CRASH_PATIENCE).await;
        // A poisoned job ends its node in the same way.
        let last_words = other.logged(from)?;
        let was_there = aborted && last_words.contains(&format!("crash point {point}"));
        let name = other.name().to_owned();
        if !aborted {
            // It must not go off in the middle of another fault.
            other.kill(Duration::ZERO).await?;
        }
        Done::new(
            &name,
            was_there.then(|| format!("ended by SIGABRT at {point}")),
        )
    }

    async fn crash_part(&self, part: Part, down: Duration) -> anyhow::Result<Done> {
        let parts = &self.farm.parts;
        let _alone = self.parts[part as usize].lock().await;
        match part {
            Part::Postgres => {
                let before = parts.postgres.pid().await;
                parts.crash_postgres(down).await?;
                Done::killed("postgres", parts.postgres.pid().await != before)
            }
            Part::Redis => {
                let before = parts.redis.pid().await;
                parts.crash_redis(down).await?;
                Done::killed("redis", parts.redis.pid().await != before)
            }
            Part::S3 => {
                let was_killed = parts.s3.kill(down).await?;
                sleep(down).await;
                parts.s3.ready().await?;
                Done::killed("s3", was_killed)
            }
        }
    }

    async fn end_sessions(&self) -> anyhow::Result<Done> {
        const STORMS: usize = 20;
        const EVERY: Duration = Duration::from_millis(200);
        let mut ended = 0;
        for _ in 0..STORMS {
            let all = "select count(pg_terminate_backend(pid)) from pg_stat_activity
                        where usename in ('flowai_app', 'flowai_coordinator')";
            ended += sqlx::query_scalar::<_, i64>(all)
                .fetch_one(&self.database)
                .await
                .unwrap_or_default();
            sleep(EVERY).await;
        }
        let bit = (ended > 0).then(|| format!("{ended} sessions ended"));
        Done::new("postgres", bit)
    }

    async fn poison(
        &self,
        place: Place,
        draw: usize,
        toxic: Toxic,
        seconds: u64,
    ) -> anyhow::Result<Done> {
        let Some(proxy) = self.proxy(place, draw).await? else {
            return Done::nobody(place);
        };
        let before = proxy.harm();
        proxy.poison(toxic);
        sleep(Duration::from_secs(seconds)).await;
        proxy.heal();
        Done::new(proxy.name(), harmed(proxy.harm() - before))
    }

    async fn slow_readers(&self, seconds: u64, draw: usize) -> anyhow::Result<Done> {
        let Some(proxy) = self.proxy(Place::Api, draw).await? else {
            return Done::nobody(Place::Api);
        };
        let address = proxy.address();
        let mut streams = Vec::new();
        for number in 0..SLOW_READERS {
            let user = &self.clients.users[number % self.clients.users.len()];
            let mut stream = TcpStream::connect(address).await?;
            let request = user.events_request(&address.to_string());
            if stream.write_all(request.as_bytes()).await.is_ok() {
                streams.push(stream);
            }
        }
        sleep(Duration::from_secs(seconds)).await;
        // Something came that nobody has read.
        let mut first = [0; 12];
        let mut open = 0;
        for stream in &streams {
            let read = tokio::time::timeout(Duration::from_secs(1), stream.peek(&mut first)).await;
            open += usize::from(matches!(read, Ok(Ok(12))) && first.starts_with(b"HTTP/1.1 200"));
        }
        let bit = (open > 0).then(|| format!("{open} streams open and unread"));
        Done::new(proxy.name(), bit)
    }
}

/// Whether a line of a program's log bears a time that is far from now.
fn is_of_another_time(line: &str) -> bool {
    let line: serde_json::Value = serde_json::from_str(line).unwrap_or_default();
    let said = line["timestamp"].as_str().unwrap_or_default();
    let said = chrono::DateTime::parse_from_rfc3339(said);
    said.is_ok_and(|said| (chrono::Utc::now() - said.to_utc()).num_minutes().abs() > 30)
}

fn packets(dropped: u64) -> Option<String> {
    (dropped > 0).then(|| format!("{dropped} packets dropped"))
}

fn harmed(count: u64) -> Option<String> {
    (count > 0).then(|| format!("{count} connections or chunks harmed"))
}
