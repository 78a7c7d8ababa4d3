//! The actor around the leader's state: decodes what comes, calls the state, carries out its effects. It decides nothing.

use std::collections::HashMap;
use std::future::Future;
use std::time::Duration;

use flowai_actors::checkpoint::{CheckpointPlaced, PlaceCheckpoint};
use flowai_actors::clock::Monotonic;
use flowai_actors::ids::{Epoch, Generation, NodeId};
use flowai_actors::kit::{
    Actor, ActorProcessingErr, ActorRef, BoundedRef, Parcel, TaskResult, Tasks,
};
use flowai_actors::limits::MEMBERS_FORGOTTEN_MAX;
use flowai_actors::link::{Delivery, Envelope, LinkEvent, Peer, PeerId, ReplyPort, Request, Role};
use flowai_actors::membership::{Join, MembersChanged, RenewCertificate};
use flowai_actors::messages::{
    Beat, Body, Compare, Doorbell, Ended, EventsReady, FarmQuery, Live, Prefetch, Progress,
    Register, Stop, UploadTargets,
};
use flowai_actors::preview::{PlacePreview, PreviewPlaced};
use flowai_actors::waiting::{CeilingsQuery, WhyQuery};
use flowai_actors::wire;
use flowai_store::database::in_time;
use flowai_store::journal::preview_key;
use flowai_store::members::{self, Standings};
use flowai_store::{accounts, idempotency, join_tokens, leftovers};
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior, timeout};

use super::Tools;
use super::audit::keep_auditing;
use super::autoscaling::Looks;
use super::delivery;
use super::event::{Answer, Effect, Event, ReplyId};
use super::joining;
use super::messages::Message;
use super::state::State;
use super::tasks::LeaderTask;
use super::weeks::keep_weeks;
use super::work::{self, ASSIGNMENT_DEADLINE, recover};
use super::writing;
use crate::autoscaler::Autoscale;
use crate::metrics;

/// Messages that wait. Links keep their own credit: a stalled leader is felt by the peers and not by the memory.
const MAILBOX_MAX: usize = 1_024;
/// A mailbox that stays full for so long means that the actor hangs.
const POST_DEADLINE: Duration = Duration::from_secs(30);
/// What a term's clock shows at its start: jobs have waited since before it.
pub const CLOCK_START: Monotonic = Monotonic::from_millis(30 * 86_400_000);
/// Leases, sweeps and places in the line need no finer clock.
pub const TICK: Duration = Duration::from_millis(100);
/// Kept answers that are forgotten at a time, so that no statement takes long: a thousand a second, more than come.
const ANSWERS_FORGOTTEN_MAX: u32 = 10_000;
/// Of sign-ins that ended long ago, in the same way.
const SIGN_INS_FORGOTTEN_MAX: u32 = 1_000;
/// The queue's figures are taken down this often: they look at every node.
const FIGURES_MS: u64 = 5_000;
/// What is to be removed with its rows is an api's to remove, for so long.
const LEFTOVER_AGE: Duration = Duration::from_secs(300);
/// A node's actor answers at once, or is frozen: its next beat tells.
pub const STOP_DEADLINE: Duration = Duration::from_secs(2);

pub(super) struct LeaderActor;

pub(super) struct Arguments {
    pub(super) tools: Tools,
    pub(super) epoch: Epoch,
    pub(super) tasks: Tasks,
    /// Where the actor's bounded address goes.
    pub(super) mailbox: oneshot::Sender<BoundedRef<Message>>,
    pub(super) over: watch::Sender<bool>,
    pub(super) autoscale: Option<Autoscale>,
}

pub(super) struct Running {
    state: State,
    replies: HashMap<ReplyId, ReplyPort>,
    last_reply: u64,
    start: Instant,
    mailbox: BoundedRef<Message>,
    tools: Tools,
    tasks: Tasks,
    over: watch::Sender<bool>,
    /// When the queue's figures are taken down next.
    next_figures: Monotonic,
    counted: metrics::Counted,
    /// What the autoscaler is shown, if there is one.
    looks: Option<Looks>,
    /// Of those that peers know.
    latest_term: Epoch,
}

impl Actor for LeaderActor {
    type Msg = Parcel<Message>;
    type State = Running;
    type Arguments = Arguments;

    async fn pre_start(
        &self,
        myself: ActorRef<Self::Msg>,
        arguments: Arguments,
    ) -> Result<Running, ActorProcessingErr> {
        let Arguments {
            tools,
            epoch,
            tasks,
            mailbox,
            over,
            autoscale,
        } = arguments;
        let (state, jobs) = recover(&tools.database, epoch, CLOCK_START).await?;
        tracing::info!(%epoch, jobs, "term begins with what was unfinished");
        // After the state has read the same rows: an older answer would lift drains and revocations until the next look.
        let members = in_time(tools.members.follow(&tools.database)).await?;
        // Nodes have their time to come back from when somebody hears them, however long the reading took.
        let start = Instant::now();
        let own = BoundedRef::new(myself, MAILBOX_MAX);
        mailbox
            .send(own.clone())
            .map_err(|_| "nobody waits for the leader")?;
        tasks.spawn(LeaderTask::Clock, |_| clock(own.clone()));
        tasks.spawn(LeaderTask::Members, |_| tell_members(members, own.clone()));
        tasks.spawn(LeaderTask::Audit, |_| keep_auditing(tools.database.clone()));
        tasks.spawn(LeaderTask::Weeks, |_| keep_weeks(tools.database.clone()));
        let looks = autoscale.map(|autoscale| Looks::start(autoscale, &tasks, &own));
        Ok(Running {
            state,
            replies: HashMap::new(),
            last_reply: 0,
            start,
            mailbox: own,
            tools,
            tasks,
            over,
            next_figures: Monotonic::default(),
            counted: metrics::Counted::default(),
            looks,
            latest_term: Epoch::ZERO,
        })
    }

    async fn handle(
        &self,
        _: ActorRef<Self::Msg>,
        parcel: Parcel<Message>,
        running: &mut Running,
    ) -> Result<(), ActorProcessingErr> {
        match parcel.open() {
            Message::Link(event) => running.hear(event),
            Message::Happened(event) => running.apply(event),
        }
        Ok(())
    }
}

impl Running {
    fn hear(&mut self, event: LinkEvent) {
        match event {
            LinkEvent::Up(peer) => {
                tracing::info!(peer = %peer.id, generation = %peer.generation, build = peer.build, "link is up");
                if peer.id.role() == Role::Api {
                    self.apply(Event::ApiUp(peer.id));
                }
            }
            // Whether a node lives, its lease decides.
            LinkEvent::Down { peer, reason } => {
                tracing::warn!(peer = %peer.id, ?reason, "link is down");
                if let Some(node) = peer.id.as_node() {
                    let generation = peer.generation;
                    self.apply(Event::NodeDown { node, generation });
                }
                if peer.id.role() == Role::Api {
                    self.apply(Event::ApiDown(peer.id));
                }
            }
            LinkEvent::Message(delivery) => self.told(delivery),
            LinkEvent::Request(request) => self.asked(request),
            LinkEvent::Unsupported { peer, kind, .. } => {
                tracing::warn!(peer = %peer.id, kind, "peer runs an older build and does not know this message");
            }
            LinkEvent::Refused { address, code, .. } => {
                tracing::warn!(
                    address,
                    ?code,
                    "a coordinator does not dial, and was refused"
                );
            }
        }
    }

    fn told(&mut self, delivery: Delivery) {
        let envelope = &delivery.envelope;
        if self.is_of_a_later_term(&delivery.from, envelope.epoch) {
            return;
        }
        let event = match envelope.kind {
            MembersChanged::KIND => wire::open(envelope).map(|MembersChanged {}| {
                self.tools.members.look_again();
                None
            }),
            Doorbell::KIND => wire::open(envelope).map(|Doorbell { job }| Some(Event::Rang(job))),
            Progress::KIND => wire::open(envelope).map(|progress| {
                let node = delivery.from.id.as_node()?;
                Some(Event::Progress { node, progress })
            }),
            PreviewPlaced::KIND => wire::open(envelope).map(|placed| {
                let node = delivery.from.id.as_node()?;
                Some(Event::PreviewPlaced { node, placed })
            }),
            CheckpointPlaced::KIND => wire::open(envelope).map(|placed| {
                let node = delivery.from.id.as_node()?;
                Some(Event::CheckpointPlaced { node, placed })
            }),
            _ => return delivery.unsupported(),
        };
        match event {
            Ok(Some(event)) => self.apply(event),
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(peer = %delivery.from.id, %error, "message was not understood")
            }
        }
    }

    fn asked(&mut self, request: Request) {
        let Request {
            from,
            envelope,
            reply,
        } = request;
        if matches!(envelope.kind, Join::KIND | RenewCertificate::KIND) {
            return self.certificate_asked(&from, &envelope, reply);
        }
        if self.is_of_a_later_term(&from, envelope.epoch) {
            return;
        }
        self.last_reply += 1;
        let id = ReplyId(self.last_reply);
        let is_own = |node: &NodeId, generation: Generation| speaks_for(&from, node, generation);
        let event = match envelope.kind {
            Register::KIND => wire::open(&envelope).map(|register: Register| {
                let is_own = is_own(&register.node, register.generation);
                let register = Box::new(register);
                is_own.then_some(Event::Registering {
                    reply: id,
                    register,
                })
            }),
            Beat::KIND => wire::open(&envelope).map(|beat: Beat| {
                let is_own = is_own(&beat.node, beat.generation);
                let beat = Box::new(beat);
                is_own.then_some(Event::Beat { reply: id, beat })
            }),
            Ended::KIND => wire::open(&envelope).map(|ended: Ended| {
                let is_own = is_own(&ended.node, ended.generation);
                let ended = Box::new(ended);
                is_own.then_some(Event::Ended { reply: id, ended })
            }),
            UploadTargets::KIND => wire::open(&envelope).map(|question: UploadTargets| {
                let is_own = is_own(&question.node, question.generation);
                is_own.then_some(Event::TargetsAsked {
                    reply: id,
                    question,
                })
            }),
            PlacePreview::KIND => wire::open(&envelope).map(|question: PlacePreview| {
                let is_own = is_own(&question.node, question.generation);
                is_own.then_some(Event::PreviewAsked {
                    reply: id,
                    question,
                })
            }),
            PlaceCheckpoint::KIND => wire::open(&envelope).map(|question: PlaceCheckpoint| {
                let is_own = is_own(&question.node, question.generation);
                is_own.then_some(Event::CheckpointAsked {
                    reply: id,
                    question,
                })
            }),
            FarmQuery::KIND => wire::open(&envelope)
                .map(|FarmQuery { after }| Some(Event::FarmAsked { reply: id, after })),
            Compare::KIND => wire::open(&envelope).map(|Compare {}| Some(Event::CompareAsked(id))),
            CeilingsQuery::KIND => {
                wire::open(&envelope).map(|CeilingsQuery {}| Some(Event::CeilingsAsked(id)))
            }
            WhyQuery::KIND => wire::open(&envelope)
                .map(|WhyQuery { job }| Some(Event::WhyAsked { reply: id, job })),
            _ => return reply.unsupported(),
        };
        match event {
            Ok(Some(event)) => {
                self.replies.insert(id, reply);
                self.apply(event);
            }
            // Dropping the reply answers `Rejected`.
            Ok(None) => {
                tracing::warn!(peer = %from.id, kind = envelope.kind, "peer speaks for another process; refused");
            }
            Err(error) => tracing::warn!(peer = %from.id, %error, "question was not understood"),
        }
    }

    /// Whoever knows of a later term believes nothing of this one, and whatever it were given it would refuse. There is none where the
    /// database was put back to an earlier time. A reply that is dropped answers `Rejected`.
    fn is_of_a_later_term(&mut self, from: &Peer, epoch: Epoch) -> bool {
        let own = self.state.epoch;
        if epoch > self.latest_term.max(own) {
            self.latest_term = epoch;
            tracing::error!(
                peer = %from.id, %own, knows = %epoch,
                "a peer knows a later term than this one, and is not heard; was the database put back to an earlier time? \
                 (docs/operations.md, \"When the leader dies\")"
            );
        }
        epoch > own
    }

    /// Certificates are no business of the state's: no job depends on them.
    fn certificate_asked(&self, from: &Peer, envelope: &Envelope, reply: ReplyPort) {
        let (tools, epoch) = (self.tools.clone(), self.state.epoch);
        let read = if envelope.kind == Join::KIND {
            wire::open::<Join>(envelope).map(|join| {
                self.sign(
                    reply,
                    async move { joining::join(&tools, epoch, &join).await },
                );
            })
        } else {
            wire::open::<RenewCertificate>(envelope).map(|question| {
                // Dropping the reply answers `Rejected`.
                if from.id.as_node().as_ref() != Some(&question.node) {
                    tracing::warn!(peer = %from.id, "peer asks for the certificate of another; refused");
                    return;
                }
                self.sign(reply, async move {
                    joining::renew(&tools, epoch, &question).await
                });
            })
        };
        if let Err(error) = read {
            tracing::warn!(peer = %from.id, %error, "question was not understood");
        }
    }

    /// Answers when `signing` has come to something; dropping the reply answers `Rejected`, and the asker asks again.
    fn sign<A: Body + Send + 'static>(
        &self,
        reply: ReplyPort,
        signing: impl Future<Output = Option<A>> + Send + 'static,
    ) {
        let epoch = self.state.epoch;
        self.tasks.spawn(LeaderTask::Sign, |_| async move {
            if let Some(answer) = signing.await {
                reply.send(wire::seal(epoch, &answer)?)?;
            }
            Ok(())
        });
    }

    fn apply(&mut self, event: Event) {
        let now = CLOCK_START.plus_ms(self.start.elapsed().as_millis() as u64);
        let is_tick = matches!(event, Event::Tick);
        let start = Instant::now();
        let effects = self.state.apply(now, event);
        metrics::record_decision(start.elapsed().as_secs_f64());
        if is_tick && self.next_figures <= now {
            self.next_figures = now.plus_ms(FIGURES_MS);
            let figures = self.state.scheduler.figures();
            metrics::record(self.state.epoch, &figures, &mut self.counted);
            if let Some(looks) = &self.looks {
                looks.show(now, &self.state);
            }
        }
        for effect in effects {
            self.carry_out(effect);
        }
    }

    fn carry_out(&mut self, effect: Effect) {
        let database = self.tools.database.clone();
        let objects = self.tools.objects.clone();
        let link = self.tools.link.clone();
        let epoch = self.state.epoch;
        match effect {
            Effect::Answer(reply, answer) => self.answer(reply, &answer),
            Effect::Decline(reply) => drop(self.replies.remove(&reply)),
            Effect::Admit { reply, register } => {
                let admissions = self.tools.admissions.clone();
                self.work(LeaderTask::Admit, async move {
                    work::admit(&database, &admissions, reply, register).await
                });
            }
            Effect::Commit(batch) => {
                if let Some(reading) = self.tools.ahead.of(&batch) {
                    let database = database.clone();
                    self.tasks.spawn(LeaderTask::ReadAhead, |_| async move {
                        Ok(in_time(reading.read(&database, &objects)).await?)
                    });
                }
                let held_rows = self.tools.held_rows.clone();
                let mailbox = self.mailbox.clone();
                self.tasks.spawn(LeaderTask::Commit, |_| async move {
                    let written = writing::commit_batch(&database, &held_rows, epoch, &batch);
                    post(&mailbox, written.await?).await
                });
            }
            Effect::Read { jobs, after } => self.work(LeaderTask::Read, async move {
                // A sleep of nothing lasts until the timer's next millisecond.
                if !after.is_zero() {
                    tokio::time::sleep(after).await;
                }
                work::read_rows(&database, jobs).await
            }),
            Effect::Sweep { running } => self.work(LeaderTask::Read, async move {
                work::sweep(&database, &running).await
            }),
            Effect::SweepAll { after } => self.work(LeaderTask::Read, async move {
                work::sweep_all(&database, after).await
            }),
            Effect::Compare { after } => self.work(LeaderTask::Read, async move {
                work::compare(&database, after).await
            }),
            Effect::Dispatch {
                held,
                models,
                may_resume,
            } => {
                let tools = self.tools.clone();
                self.work(LeaderTask::Dispatch, async move {
                    work::dispatch(&tools, held, models, may_resume).await
                });
            }
            Effect::Forget => self.tasks.spawn(LeaderTask::Forget, |_| async move {
                in_time(idempotency::forget_expired(
                    &database,
                    ANSWERS_FORGOTTEN_MAX,
                ))
                .await?;
                in_time(join_tokens::forget_expired(
                    &database,
                    MEMBERS_FORGOTTEN_MAX,
                ))
                .await?;
                in_time(members::forget_ended(&database, MEMBERS_FORGOTTEN_MAX)).await?;
                in_time(accounts::forget_sign_ins(&database, SIGN_INS_FORGOTTEN_MAX)).await?;
                Ok(())
            }),
            Effect::Stop { node, at, keep } => self.tasks.spawn(LeaderTask::Stop, |_| async move {
                let to = PeerId::from(&node);
                wire::ask(link.as_ref(), &to, epoch, &Stop { at, keep }, STOP_DEADLINE).await?;
                Ok(())
            }),
            Effect::Foretell { node, job, models } => {
                self.tasks.spawn(LeaderTask::Foretell, |_| async move {
                    let stages = work::adapters_of(&database, &objects, job, models);
                    let stages = timeout(ASSIGNMENT_DEADLINE, stages).await??;
                    if !stages.is_empty() {
                        let next = Prefetch { job, stages };
                        // A full or broken link sheds it: the node brings them when the job comes.
                        drop(link.send(&PeerId::from(&node), wire::seal(epoch, &next)?));
                    }
                    Ok(())
                })
            }
            Effect::Verify(ended) => self.work(LeaderTask::Store, async move {
                delivery::verify(&objects, ended).await
            }),
            Effect::LookBack { reply, held } => self.answer_later(reply, async move {
                Some(work::look_back(&database, &held).await)
            }),
            Effect::Presign { reply, at, files } => {
                self.answer_later(
                    reply,
                    async move { work::presign(&objects, at, &files).await },
                )
            }
            Effect::PresignPreview { reply, question } => self.answer_later(reply, async move {
                work::presign_preview(&objects, &question).await
            }),
            Effect::DiscardPreview { job, attempt, step } => {
                self.tasks.spawn(LeaderTask::Discard, |_| async move {
                    objects.delete(&preview_key(job, attempt, step)).await?;
                    Ok(())
                });
            }
            Effect::PresignCheckpoint { reply, question } => self.answer_later(reply, async move {
                work::presign_checkpoint(&objects, &question).await
            }),
            Effect::DiscardCheckpoints { job, before } => {
                self.tasks.spawn(LeaderTask::Discard, |_| async move {
                    work::discard_checkpoints(&database, &objects, job, before).await?;
                    Ok(())
                });
            }
            Effect::SweepObjects => self.tasks.spawn(LeaderTask::Discard, |_| async move {
                let leftovers = leftovers::sweep(&database, &objects, LEFTOVER_AGE).await;
                work::sweep_checkpoints(&database, &objects).await?;
                leftovers?;
                Ok(())
            }),
            Effect::Hint { to, users } => {
                for user in users {
                    self.send(&to, &EventsReady { user });
                }
            }
            Effect::Tell { to, live } => self.send::<Live>(&to, &live),
            Effect::TellPreview { to, ready } => self.send(&to, &ready),
            Effect::StepDown => {
                self.over.send_replace(true);
            }
        }
    }

    /// Runs in a task of its own; what it finds comes back as an event.
    fn work(&self, task: LeaderTask, work: impl Future<Output = Event> + Send + 'static) {
        let mailbox = self.mailbox.clone();
        self.tasks
            .spawn(task, |_| async move { post(&mailbox, work.await).await });
    }

    /// Answers when `answer` is found; dropping the reply answers `Rejected`, and the asker asks again.
    fn answer_later(
        &mut self,
        reply: ReplyId,
        answer: impl Future<Output = Option<Answer>> + Send + 'static,
    ) {
        let Some(reply) = self.replies.remove(&reply) else {
            return;
        };
        let epoch = self.state.epoch;
        self.tasks.spawn(LeaderTask::Store, |_| async move {
            if let Some(answer) = answer.await {
                send_answer(epoch, reply, &answer);
            }
            Ok(())
        });
    }

    fn answer(&mut self, reply: ReplyId, answer: &Answer) {
        if let Some(reply) = self.replies.remove(&reply) {
            send_answer(self.state.epoch, reply, answer);
        }
    }

    fn send<B: Body>(&self, to: &[PeerId], body: &B) {
        for peer in to {
            match wire::seal(self.state.epoch, body) {
                // A full or broken link sheds it: hints and live states are made up for by the next.
                Ok(envelope) => drop(self.tools.link.send(peer, envelope)),
                Err(error) => tracing::error!(%error, "message cannot be written"),
            }
        }
    }
}

/// Whether the peer's certificate and greeting say that it is this very process.
fn speaks_for(peer: &Peer, node: &NodeId, generation: Generation) -> bool {
    peer.id.as_node().as_ref() == Some(node) && peer.generation == generation
}

fn send_answer(epoch: Epoch, reply: ReplyPort, answer: &Answer) {
    let envelope = match answer {
        Answer::Registered(body) => wire::seal(epoch, body),
        Answer::Beat(body) => wire::seal(epoch, body),
        Answer::Ended(body) => wire::seal(epoch, body),
        Answer::Targets(body) => wire::seal(epoch, body),
        Answer::Preview(body) => wire::seal(epoch, body),
        Answer::Checkpoint(body) => wire::seal(epoch, body),
        Answer::Farm(body) => wire::seal(epoch, body.as_ref()),
        Answer::Why(body) => wire::seal(epoch, body),
        Answer::Ceilings(body) => wire::seal(epoch, body),
        Answer::Compared(body) => wire::seal(epoch, body.as_ref()),
    };
    let sent = envelope
        .map_err(|error| error.to_string())
        .and_then(|envelope| reply.send(envelope).map_err(|error| error.to_string()));
    if let Err(error) = sent {
        tracing::error!(error, "answer was not sent");
    }
}

async fn clock(mailbox: BoundedRef<Message>) -> TaskResult {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        ticks.tick().await;
        post(&mailbox, Event::Tick).await?;
    }
}

async fn tell_members(
    mut found: watch::Receiver<Standings>,
    mailbox: BoundedRef<Message>,
) -> TaskResult {
    while found.changed().await.is_ok() {
        let standings = found.borrow_and_update().clone();
        post(&mailbox, Event::MembersRead(standings)).await?;
    }
    Err("nobody looks at the members any more".into())
}

pub(super) async fn post(mailbox: &BoundedRef<Message>, event: Event) -> TaskResult {
    let posted = mailbox.send(Message::Happened(event), POST_DEADLINE).await;
    posted.map_err(|error| format!("leader takes no message: {error:?}").into())
}
