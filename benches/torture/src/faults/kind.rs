//! What can happen to a farm. Numbers F1 … are those of `docs/reliability.md`.

use crate::network::Way;
use crate::proxy::Hold;

/// A program of the farm, as a fault names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Victim {
    Leader,
    Standby,
    Api,
    Node,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Postgres,
    Redis,
    S3,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Act {
    Kill(Victim),
    /// Killed, and not started again for so many seconds.
    Gone(Victim, u64),
    /// The program is started again and ends at this point of its code.
    CrashAt(Victim, &'static str),
    KillPart(Part),
    /// Dead for as long as the options say.
    Outage(Part),
    /// Every session of the database is ended, over and over.
    EndSessions,
    Freeze(Victim, u64),
    /// Packets from and to everywhere, or from and to the database only, are dropped.
    Cut(Victim, Way, Reach, u64),
    /// Cut and mended twice a second.
    Flap(Victim, u64),
    /// Connections of a part, of the leader's link or of an api stay open and nothing passes.
    HalfOpen(Place, Hold, u64),
    /// All connections are broken off, again and again.
    BreakOff(Place, u64),
    Late(Place, u64),
    Slow(Place, u64),
    /// Answers break off after so many bytes.
    CutShort(Place, u64),
    /// Clients open event streams and read nothing.
    SlowReaders(u64),
    /// A disk has no room for so long.
    FillDisk(FullDisk, u64),
    /// The program is started again with a clock of its own, which jumps an hour ahead, then a day back.
    Clock(Victim),
}

/// Whose disk is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FullDisk {
    Postgres,
    S3,
    Node,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    Everything,
    Database,
}

/// A fault proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Postgres,
    Redis,
    S3,
    LeaderLink,
    Api,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    pub(crate) act: Act,
}

const fn kind(name: &'static str, act: Act) -> Kind {
    Kind { name, act }
}

/// How long a node is silent: longer than its death may go unnoticed, or whoever never notices it would not be found out.
const SILENCE_S: u64 = 20;

/// Every fault once. Seconds are those of the fault; a kill heals by itself.
const ALL: &[Kind] = &[
    kind("F1 kill leader", Act::Kill(Victim::Leader)),
    kind("F1 kill standby", Act::Kill(Victim::Standby)),
    kind("F1 kill api", Act::Kill(Victim::Api)),
    kind("F1 kill node", Act::Kill(Victim::Node)),
    kind("F1 node gone", Act::Gone(Victim::Node, SILENCE_S)),
    crash(Victim::Leader, "before_assign_commit"),
    crash(Victim::Leader, "after_assign_commit"),
    crash(Victim::Leader, "before_settle_commit"),
    crash(Victim::Leader, "after_settle_commit"),
    crash(Victim::Leader, "after_registration_commit"),
    crash(Victim::Leader, "after_take_over"),
    crash(Victim::Api, "before_submit_commit"),
    crash(Victim::Api, "after_submit_commit"),
    crash(Victim::Api, "before_ack_202"),
    crash(Victim::Api, "after_cancel_commit"),
    crash(Victim::Node, "after_job_taken"),
    crash(Victim::Node, "before_upload"),
    crash(Victim::Node, "after_s3_put"),
    crash(Victim::Node, "before_end_told"),
    kind("F2 kill postgres", Act::KillPart(Part::Postgres)),
    kind("F2 end all sessions", Act::EndSessions),
    kind("F3 kill redis", Act::KillPart(Part::Redis)),
    kind("F3 redis gone", Act::Outage(Part::Redis)),
    kind("F4 kill s3", Act::KillPart(Part::S3)),
    kind("F4 s3 gone", Act::Outage(Part::S3)),
    kind("F4 s3 answers cut short", Act::CutShort(Place::S3, 6)),
    kind("F4 s3 at 10 kB/s", Act::Slow(Place::S3, 8)),
    kind("F5 node cut off", cut(Victim::Node, Way::Both, SILENCE_S)),
    kind("F5 node unheard", cut(Victim::Node, Way::Out, SILENCE_S)),
    kind("F5 node deaf", cut(Victim::Node, Way::In, SILENCE_S)),
    kind("F5 node flaps", Act::Flap(Victim::Node, 6)),
    kind("F5 leader cut off", cut(Victim::Leader, Way::Both, 12)),
    kind(
        "F5 leader without database",
        Act::Cut(Victim::Leader, Way::Both, Reach::Database, 12),
    ),
    kind(
        "F5 api without database",
        Act::Cut(Victim::Api, Way::Both, Reach::Database, 6),
    ),
    kind(
        "F5 api connections broken off",
        Act::BreakOff(Place::Api, 4),
    ),
    kind("F6 database late", Act::Late(Place::Postgres, 8)),
    kind("F6 link late", Act::Late(Place::LeaderLink, 8)),
    kind("F7 leader frozen", Act::Freeze(Victim::Leader, 14)),
    kind("F7 node frozen", Act::Freeze(Victim::Node, SILENCE_S)),
    kind("F7 api frozen", Act::Freeze(Victim::Api, 6)),
    kind(
        "F7 database half-open",
        Act::HalfOpen(Place::Postgres, Hold::Both, 6),
    ),
    kind(
        "F7 redis half-open",
        Act::HalfOpen(Place::Redis, Hold::Both, 6),
    ),
    kind("F7 s3 half-open", Act::HalfOpen(Place::S3, Hold::Both, 8)),
    kind(
        "F7 link half-open",
        Act::HalfOpen(Place::LeaderLink, Hold::Both, 12),
    ),
    kind(
        "F7 database does not answer",
        Act::HalfOpen(Place::Postgres, Hold::ToClient, 6),
    ),
    kind(
        "F7 link from the leader only",
        Act::HalfOpen(Place::LeaderLink, Hold::ToServer, 12),
    ),
    kind(
        "F8 database's disk full",
        Act::FillDisk(FullDisk::Postgres, 8),
    ),
    kind("F8 s3's disk full", Act::FillDisk(FullDisk::S3, 8)),
    kind("F8 node's disk full", Act::FillDisk(FullDisk::Node, 8)),
    kind("F9 leader's clock jumps", Act::Clock(Victim::Leader)),
    kind("F9 api's clock jumps", Act::Clock(Victim::Api)),
    kind("F9 node's clock jumps", Act::Clock(Victim::Node)),
    kind("F10 slow readers", Act::SlowReaders(8)),
];

const fn crash(victim: Victim, point: &'static str) -> Kind {
    Kind {
        name: point,
        act: Act::CrashAt(victim, point),
    }
}

const fn cut(victim: Victim, way: Way, seconds: u64) -> Act {
    Act::Cut(victim, way, Reach::Everything, seconds)
}

/// What faults need.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Means {
    /// Of network and mounts.
    pub(crate) has_namespaces: bool,
    pub(crate) has_standby: bool,
    /// Programs can be given clocks of their own.
    pub(crate) has_clocks: bool,
}

impl Means {
    pub(crate) const ALL: Self = Self {
        has_namespaces: true,
        has_standby: true,
        has_clocks: true,
    };
}

impl Kind {
    /// What can be done here, in a fixed order.
    pub(crate) fn possible(means: Means) -> Vec<Self> {
        let is_possible = |kind: &&Self| match kind.act {
            Act::Cut(..) | Act::Flap(..) | Act::FillDisk(..) => means.has_namespaces,
            Act::Kill(Victim::Standby) => means.has_standby,
            Act::Clock(Victim::Leader | Victim::Standby) => means.has_clocks && means.has_standby,
            Act::Clock(Victim::Api | Victim::Node) => means.has_clocks,
            Act::Kill(Victim::Leader | Victim::Api | Victim::Node)
            | Act::Gone(..)
            | Act::CrashAt(..)
            | Act::KillPart(_)
            | Act::Outage(_)
            | Act::EndSessions
            | Act::Freeze(..)
            | Act::HalfOpen(..)
            | Act::BreakOff(..)
            | Act::Late(..)
            | Act::Slow(..)
            | Act::CutShort(..)
            | Act::SlowReaders(_) => true,
        };
        ALL.iter().filter(is_possible).copied().collect()
    }

    /// Goes on beside the faults that follow.
    pub(crate) fn is_long(&self) -> bool {
        matches!(self.act, Act::Outage(_))
    }
}
