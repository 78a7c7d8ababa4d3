//! The simulated network itself: peers, links, and what is on its way. Pure but for the events it emits: the time is
//! an argument and chance comes from the seed, so that one seed is one history.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::sync::oneshot;

use super::Faults;
use crate::limits::LINK_SILENCE_MS;
use crate::link::cluster::MaySend;
use crate::link::credit::{Credit, Receipts};
use crate::link::envelope::Envelope;
use crate::link::error::AskError;
use crate::link::inbound::{Delivery, ReplyPort, Request, SayUnsupported, SendAnswer};
use crate::link::peer::{Peer, PeerId};
use crate::link::port::{DownReason, EventSender, LinkEvent};

/// A direction between two peers.
type Way = (PeerId, PeerId);

/// Where the answer of an ask goes. Shared by the copies of a doubled request: the first answer counts.
pub(super) type Asker = Arc<Mutex<Option<oneshot::Sender<Result<Envelope, AskError>>>>>;

/// How the world makes the ports of what it delivers; they reach back into the net that holds the world.
pub(super) trait Ports {
    fn send_answer(&self, way_back: Way, link: u64, asked: &Envelope, asker: Asker) -> SendAnswer;
    fn say_unsupported(&self, way_back: Way, link: u64) -> SayUnsupported;
}

pub(super) struct World {
    random: StdRng,
    pub(super) faults: Faults,
    now_ms: u64,
    peers: HashMap<PeerId, Attached>,
    /// By (smaller id, greater id).
    links: HashMap<Way, SimulatedLink>,
    /// Ways on which everything is lost.
    cuts: HashSet<Way>,
    /// By due time, then by order of sending.
    on_the_way: BTreeMap<(u64, u64), Due>,
    next_number: u64,
}

struct Attached {
    peer: Peer,
    events: EventSender,
    may_send: MaySend,
}

struct SimulatedLink {
    number: u64,
    /// One for each receiver.
    receipts: HashMap<PeerId, Arc<Receipts>>,
    /// When the last message of each sender is due, where order is kept.
    last_due_ms: HashMap<PeerId, u64>,
}

enum Due {
    Copy {
        way: Way,
        link: u64,
        load: Load,
    },
    /// The silence of a cut has lasted long enough to be noticed.
    Noticed {
        way: Way,
        link: u64,
    },
}

/// What a copy carries. Only the first copy holds the credit.
pub(super) enum Load {
    Message {
        envelope: Envelope,
        credit: Credit,
    },
    Request {
        envelope: Envelope,
        credit: Credit,
        asker: Asker,
    },
    Answer {
        asker: Asker,
        answer: Result<Envelope, AskError>,
    },
    Unsupported {
        envelope: Envelope,
    },
}

impl Load {
    fn copy(&self) -> Self {
        match self {
            Self::Message { envelope, .. } => Self::Message {
                envelope: envelope.clone(),
                credit: Credit::none(),
            },
            Self::Request {
                envelope, asker, ..
            } => Self::Request {
                envelope: envelope.clone(),
                credit: Credit::none(),
                asker: asker.clone(),
            },
            Self::Answer { asker, answer } => Self::Answer {
                asker: asker.clone(),
                answer: answer.clone(),
            },
            Self::Unsupported { envelope } => Self::Unsupported {
                envelope: envelope.clone(),
            },
        }
    }
}

/// Why nothing was put on the way.
pub(super) enum NotSent {
    Full,
    Gone,
}

impl World {
    pub(super) fn new(seed: u64, faults: Faults) -> Self {
        Self {
            random: StdRng::seed_from_u64(seed),
            faults,
            now_ms: 0,
            peers: HashMap::new(),
            links: HashMap::new(),
            cuts: HashSet::new(),
            on_the_way: BTreeMap::new(),
            next_number: 0,
        }
    }

    pub(super) fn attach(&mut self, peer: Peer, may_send: MaySend, events: EventSender) {
        self.crash(&peer.id.clone());
        self.peers.insert(
            peer.id.clone(),
            Attached {
                peer,
                events,
                may_send,
            },
        );
    }

    /// The peer is gone without a word; the others see the connection close.
    pub(super) fn crash(&mut self, peer: &PeerId) {
        for other in self.neighbours(peer) {
            self.take_down(peer, &other, DownReason::Closed, DownReason::Closed);
        }
        self.peers.remove(peer);
    }

    /// Brings a link up, unless it is up, one side is missing or a way between them is cut.
    pub(super) fn connect(&mut self, one: &PeerId, other: &PeerId) -> bool {
        let is_cut = self.cuts.contains(&way(one, other)) || self.cuts.contains(&way(other, one));
        if is_cut || self.links.contains_key(&pair(one, other)) {
            return false;
        }
        let (Some(left), Some(right)) = (self.peers.get(one), self.peers.get(other)) else {
            return false;
        };
        left.events.emit(LinkEvent::Up(right.peer.clone()));
        right.events.emit(LinkEvent::Up(left.peer.clone()));
        let receipts = [one, other]
            .map(|peer| (peer.clone(), Arc::default()))
            .into();
        let number = self.number();
        self.links.insert(
            pair(one, other),
            SimulatedLink {
                number,
                receipts,
                last_due_ms: HashMap::new(),
            },
        );
        true
    }

    /// Ends a link at once, with all that is on its way.
    pub(super) fn take_down(
        &mut self,
        one: &PeerId,
        other: &PeerId,
        to_one: DownReason,
        to_other: DownReason,
    ) {
        let Some(link) = self.links.remove(&pair(one, other)) else {
            return;
        };
        self.on_the_way.retain(|_, due| match due {
            Due::Copy {
                link: number, load, ..
            } if *number == link.number => {
                if let Load::Request { asker, .. } | Load::Answer { asker, .. } = load {
                    answer(asker, Err(AskError::Gone));
                }
                false
            }
            Due::Copy { .. } => true,
            Due::Noticed { link: number, .. } => *number != link.number,
        });
        for (here, there, reason) in [(one, other, to_one), (other, one, to_other)] {
            if let (Some(here), Some(there)) = (self.peers.get(here), self.peers.get(there)) {
                here.events.emit(LinkEvent::Down {
                    peer: there.peer.clone(),
                    reason,
                });
            }
        }
    }

    /// Loses everything on one way from now on. The link goes down when the silence is noticed.
    pub(super) fn cut(&mut self, from: &PeerId, to: &PeerId) {
        self.cuts.insert(way(from, to));
        if let Some(link) = self.links.get(&pair(from, to)) {
            let (number, due) = (link.number, self.now_ms + LINK_SILENCE_MS);
            self.schedule(
                due,
                Due::Noticed {
                    way: way(from, to),
                    link: number,
                },
            );
        }
    }

    /// Lets everything pass again; a link that went down comes up.
    pub(super) fn heal(&mut self, from: &PeerId, to: &PeerId) {
        if self.cuts.remove(&way(from, to)) {
            self.connect(from, to);
        }
    }

    /// Takes a place in the receiver's window and gives the link's number.
    pub(super) fn take_credit(&self, from: &PeerId, to: &PeerId) -> Result<(u64, Credit), NotSent> {
        let link = self.links.get(&pair(from, to)).ok_or(NotSent::Gone)?;
        let receipts = link.receipts.get(to).ok_or(NotSent::Gone)?;
        Ok((link.number, receipts.arrive().map_err(|_| NotSent::Full)?))
    }

    /// Puts a load on its way; what is lost is dropped here.
    pub(super) fn put(&mut self, way: Way, link: u64, load: Load) {
        let is_live = self
            .links
            .get(&pair(&way.0, &way.1))
            .is_some_and(|live| live.number == link);
        if !is_live || self.cuts.contains(&way) {
            return;
        }
        let mut delays = self.faults.draw(&mut self.random);
        let Some(first) = delays.pop() else { return };
        for delay in delays {
            let due = self.due(&way, delay);
            self.schedule(
                due,
                Due::Copy {
                    way: way.clone(),
                    link,
                    load: load.copy(),
                },
            );
        }
        let due = self.due(&way, first);
        self.schedule(due, Due::Copy { way, link, load });
    }

    /// When the next thing happens.
    pub(super) fn next_due_ms(&self) -> Option<u64> {
        self.on_the_way.keys().next().map(|(due, _)| *due)
    }

    /// Moves the time on and lets happen what is due. What nobody takes any more comes back, because dropping a request
    /// answers it, which needs the world.
    #[must_use]
    pub(super) fn advance_to(&mut self, now_ms: u64, ports: &impl Ports) -> Vec<LinkEvent> {
        let mut unheard = Vec::new();
        while let Some(entry) = self
            .on_the_way
            .first_entry()
            .filter(|entry| entry.key().0 <= now_ms)
        {
            let ((due_ms, _), due) = entry.remove_entry();
            self.now_ms = self.now_ms.max(due_ms);
            match due {
                Due::Noticed { way, link } => self.notice(&way, link),
                Due::Copy { way, link, load } => {
                    unheard.extend(self.deliver(way, link, load, ports));
                }
            }
        }
        self.now_ms = self.now_ms.max(now_ms);
        unheard
    }

    fn notice(&mut self, way: &Way, link: u64) {
        let is_live = self
            .links
            .get(&pair(&way.0, &way.1))
            .is_some_and(|live| live.number == link);
        if is_live && self.cuts.contains(way) {
            self.take_down(&way.0, &way.1, DownReason::Closed, DownReason::Silent);
        }
    }

    /// The event, when nobody takes it any more.
    fn deliver(&self, way: Way, link: u64, load: Load, ports: &impl Ports) -> Option<LinkEvent> {
        let (from, to) = (self.peers.get(&way.0)?, self.peers.get(&way.1)?);
        if self.cuts.contains(&way) {
            return None;
        }
        let (way_back, peer) = ((way.1.clone(), way.0.clone()), from.peer.clone());
        match load {
            Load::Message { envelope, credit } => {
                if !(to.may_send)(peer.id.role(), envelope.kind) {
                    return None;
                }
                let say_unsupported = ports.say_unsupported(way_back, link);
                to.events.offer(LinkEvent::Message(Delivery {
                    from: peer,
                    envelope,
                    say_unsupported,
                    credit,
                }))
            }
            Load::Request {
                envelope,
                credit,
                asker,
            } => {
                if !(to.may_send)(peer.id.role(), envelope.kind) {
                    answer(&asker, Err(AskError::Rejected));
                    return None;
                }
                let send = ports.send_answer(way_back, link, &envelope, asker);
                to.events.offer(LinkEvent::Request(Request {
                    from: peer,
                    envelope,
                    reply: ReplyPort::new(send, credit),
                }))
            }
            Load::Answer {
                asker,
                answer: outcome,
            } => {
                answer(&asker, outcome);
                None
            }
            Load::Unsupported {
                envelope: Envelope {
                    message_id, kind, ..
                },
            } => to.events.offer(LinkEvent::Unsupported {
                peer,
                message_id,
                kind,
                place: Credit::none(),
            }),
        }
    }

    pub(super) fn neighbours(&self, peer: &PeerId) -> Vec<PeerId> {
        let ends =
            self.links
                .keys()
                .filter_map(|(one, other)| match (one == peer, other == peer) {
                    (true, _) => Some(other),
                    (_, true) => Some(one),
                    (false, false) => None,
                });
        let mut neighbours: Vec<_> = ends.cloned().collect();
        // Maps have no order of their own, and one seed must be one history.
        neighbours.sort();
        neighbours
    }

    pub(super) fn peer(&self, id: &PeerId) -> Option<Peer> {
        self.peers.get(id).map(|attached| attached.peer.clone())
    }

    fn due(&mut self, way: &Way, delay_ms: u64) -> u64 {
        let due = self.now_ms + delay_ms;
        if self.faults.reorder {
            return due;
        }
        let Some(link) = self.links.get_mut(&pair(&way.0, &way.1)) else {
            return due;
        };
        let last = link.last_due_ms.entry(way.0.clone()).or_default();
        *last = (*last).max(due);
        *last
    }

    fn schedule(&mut self, due_ms: u64, due: Due) {
        let number = self.number();
        self.on_the_way.insert((due_ms, number), due);
    }

    fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }
}

/// Answers an ask; a second answer and one after the deadline go nowhere.
pub(super) fn answer(asker: &Asker, outcome: Result<Envelope, AskError>) {
    if let Some(asker) = asker.lock().unwrap_or_else(PoisonError::into_inner).take() {
        asker.send(outcome).ok();
    }
}

fn way(from: &PeerId, to: &PeerId) -> Way {
    (from.clone(), to.clone())
}

fn pair(one: &PeerId, other: &PeerId) -> Way {
    if one <= other {
        way(one, other)
    } else {
        way(other, one)
    }
}
