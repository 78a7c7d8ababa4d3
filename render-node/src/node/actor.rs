//! The node actor: decodes what comes, calls the state, carries out its effects. It decides nothing itself.

use std::collections::HashMap;
use std::sync::{Arc, Once};
use std::time::Duration;

use fail::fail_point;
use flowai_actors::clock::Monotonic;
use flowai_actors::ids::{JobId, Sha256};
use flowai_actors::kit::{
    Actor, ActorProcessingErr, ActorRef, BoundedRef, Parcel, TaskResult, Tasks,
};
use flowai_actors::link::{
    AskError, Delivery, Envelope, LinkEvent, LinkEvents, NodeLink, PeerId, RefusedCode, ReplyPort,
    Request, Role,
};
use flowai_actors::messages::{
    AdapterTiers, Assign, AttemptRef, Beat, Body, Ended, KeptAdapters, Prefetch, Register, Stop,
    Target, UploadTargets,
};
use flowai_actors::wire::{self, Question, QuestionError};
use flowai_node_machine::{Clip, Effect, Ending, Event, RunId, State};
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use super::Setup;
use super::checkpoints;
use super::messages::Message;
use super::previews::{Leader, Way};
use super::tasks::NodeTask;
use crate::engine::{Control, cache_usage, kept};
use crate::failure::JobFailure;
use crate::job::{LocalCheckpoint, NotRendered, Outlets, Ready, Workshop};
use crate::pulse::Pulse;

/// Messages that wait; the link's own credit keeps its share below a quarter of it.
const MAILBOX_MAX: usize = 256;
/// A mailbox that stays full for so long means that the actor hangs.
const POST_DEADLINE: Duration = Duration::from_secs(30);
/// The leader answers most questions after a commit, in milliseconds.
const ASK_DEADLINE: Duration = Duration::from_secs(5);
/// A beat that took longer says little about the lease.
const BEAT_DEADLINE: Duration = Duration::from_secs(4);
/// What a beat says of the cache: 64 characters each.
const HELD_ADAPTERS_MAX: usize = 256;
/// What it says of each memory likewise: as many as there is room for by default, at rank 16.
const TIER_ADAPTERS_MAX: usize = 64;

pub(super) struct NodeActor;

pub(super) struct Arguments {
    pub(super) setup: Setup,
    pub(super) workshop: Workshop,
    pub(super) link: Arc<dyn NodeLink>,
    pub(super) events: LinkEvents,
    pub(super) tasks: Tasks,
    /// Where the actor's bounded address goes.
    pub(super) mailbox: oneshot::Sender<BoundedRef<Message>>,
    pub(super) ended: watch::Sender<Option<Ending>>,
    pub(super) registered: watch::Sender<bool>,
}

pub(super) struct Running {
    state: State,
    /// What belongs to the runs that the state knows.
    runs: HashMap<RunId, Run>,
    start: Instant,
    due: watch::Sender<Option<Instant>>,
    mailbox: BoundedRef<Message>,
    setup: Setup,
    workshop: Workshop,
    link: Arc<dyn NodeLink>,
    tasks: Tasks,
    ended: watch::Sender<Option<Ending>>,
    registered: watch::Sender<bool>,
    /// Of the last hint: its job, and what ends that which it began.
    prefetching: Option<(JobId, Control)>,
    /// For those who may say something that is not the state's business.
    leader: watch::Sender<Leader>,
}

struct Run {
    assign: Arc<Assign>,
    control: Control,
    /// Once rendered.
    ready: Option<Arc<Ready>>,
}

impl Actor for NodeActor {
    type Msg = Parcel<Message>;
    type State = Running;
    type Arguments = Arguments;

    async fn pre_start(
        &self,
        myself: ActorRef<Self::Msg>,
        arguments: Arguments,
    ) -> Result<Running, ActorProcessingErr> {
        let Arguments {
            setup,
            workshop,
            link,
            events,
            tasks,
            mailbox,
            ended,
            registered,
        } = arguments;
        let own = BoundedRef::new(myself, MAILBOX_MAX);
        mailbox
            .send(own.clone())
            .map_err(|_| "nobody waits for the node")?;
        let (due, watch) = watch::channel(None);
        tasks.spawn(NodeTask::Pump, |_| pump(events, own.clone()));
        tasks.spawn(NodeTask::Timer, |_| timer(watch, own.clone()));
        let offered = workshop.models.offered().map(|model| &model.offer);
        let state = State::new(
            setup.maker.node.clone(),
            setup.maker.generation,
            offered
                .map(|offer| (offer.id.clone(), offer.sha256))
                .collect(),
        );
        Ok(Running {
            state,
            runs: HashMap::new(),
            start: Instant::now(),
            due,
            mailbox: own,
            setup,
            workshop,
            link,
            tasks,
            ended,
            registered,
            prefetching: None,
            leader: watch::channel(None).0,
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
            Message::Rendered { run, result } => running.rendered(run, *result),
            Message::Happened(event) => running.apply(event, None),
        }
        Ok(())
    }
}

impl Running {
    fn hear(&mut self, event: LinkEvent) {
        match event {
            LinkEvent::Up(peer) if peer.id.role() == Role::Coordinator => {
                tracing::info!(leader = %peer.id, "link is up");
                self.apply(Event::LinkUp(peer.id), None);
            }
            LinkEvent::Up(peer) => {
                tracing::warn!(peer = %peer.id, "link of a peer that is no coordinator")
            }
            LinkEvent::Down { peer, reason } => {
                tracing::warn!(leader = %peer.id, ?reason, "link is down");
                self.apply(Event::LinkDown(peer.id), None);
            }
            LinkEvent::Request(request) => self.asked(request),
            LinkEvent::Message(delivery) => self.told(delivery),
            LinkEvent::Unsupported { peer, kind, .. } => {
                tracing::warn!(leader = %peer.id, kind, "leader runs an older build and does not know this message");
            }
            LinkEvent::Refused {
                address,
                code,
                reason,
            } => {
                tracing::warn!(address, ?code, reason, "coordinator refused the link");
                match (code, code.rule()) {
                    (RefusedCode::StaleGeneration, _) => self.apply(Event::Replaced, None),
                    (_, None) => {}
                    (_, Some(rule)) => self.apply(Event::Refused(rule), None),
                }
            }
        }
    }

    fn told(&mut self, delivery: Delivery) {
        let envelope = &delivery.envelope;
        if envelope.kind != Prefetch::KIND {
            return delivery.unsupported();
        }
        let epoch = envelope.epoch;
        match wire::open(envelope) {
            Ok(next) => self.apply(
                Event::Hinted {
                    epoch,
                    next: Box::new(next),
                },
                None,
            ),
            Err(error) => tracing::warn!(%error, "hint of the leader was not understood"),
        }
    }

    fn asked(&mut self, request: Request) {
        let Request {
            envelope, reply, ..
        } = request;
        let event = match envelope.kind {
            Assign::KIND => {
                wire::open(&envelope).map(|assign: Assign| Event::Assigned(Box::new(assign)))
            }
            Stop::KIND => {
                wire::open(&envelope).map(|Stop { at, keep }| Event::StopAsked { at, keep })
            }
            _ => return reply.unsupported(),
        };
        match event {
            Ok(event) => self.apply(event, Some(reply)),
            // Dropping the reply answers `Rejected`.
            Err(error) => tracing::warn!(%error, "request of the leader was not understood"),
        }
    }

    fn rendered(&mut self, id: RunId, result: Result<Ready, NotRendered>) {
        let Some(run) = self.runs.get_mut(&id) else {
            // Of a run that was forgotten nothing is kept, but the engine is free of it.
            drop(result);
            let result = Err(NotRendered::Stopped);
            return self.apply(Event::Rendered { run: id, result }, None);
        };
        let result = result.map(|ready| {
            let clip = Clip {
                files: ready.files(),
                manifest: Box::new(self.setup.maker.manifest(&run.assign, &ready)),
            };
            run.ready = Some(Arc::new(ready));
            clip
        });
        if let Err(NotRendered::Failed(failure)) = &result {
            tracing::warn!(attempt = ?run.assign.at, code = %failure.code, detail = failure.detail, "job failed");
        }
        self.apply(Event::Rendered { run: id, result }, None);
    }

    fn apply(&mut self, event: Event, mut reply: Option<ReplyPort>) {
        let now = self.now();
        for effect in self.state.apply(now, event) {
            self.carry_out(now, effect, &mut reply);
        }
        let due = self.state.next_due();
        let due = due.map(|due| self.start + Duration::from_millis(due.as_millis()));
        self.due.send_replace(due);
        let leader = self.state.leader().cloned();
        let leader = leader.map(|leader| (leader, self.state.epoch()));
        self.leader.send_if_modified(|known| {
            let is_other = *known != leader;
            *known = leader;
            is_other
        });
        if self.state.is_registered() {
            self.registered.send_replace(true);
        }
    }

    fn carry_out(&mut self, now: Monotonic, effect: Effect, reply: &mut Option<ReplyPort>) {
        match effect {
            Effect::Register { to, running } => self.register(now, to, running),
            Effect::Beat {
                to,
                seq,
                running,
                is_closing,
            } => self.beat(now, to, seq, running, is_closing),
            Effect::AnswerAssign(answer) => self.answer(reply.take(), &answer),
            Effect::AnswerStop(answer) => self.answer(reply.take(), &answer),
            Effect::Start { run, assign } => self.start(run, *assign),
            Effect::Prefetch(next) => self.prefetch(*next),
            Effect::Pause(run) => {
                self.control(run, "lease is in doubt; job pauses", Control::pause)
            }
            Effect::Resume(run) => self.control(run, "job goes on", Control::resume),
            Effect::Keep(run) => {
                self.control(run, "job stops, to go on elsewhere", Control::stop_and_keep)
            }
            Effect::Stop(run) => self.control(run, "job stops", Control::stop),
            Effect::Forget(run) => {
                self.control(run, "job leaves the node", Control::stop);
                self.runs.remove(&run);
            }
            Effect::SendProgress { to, progress } => self.send(&to, &progress),
            Effect::AskTargets { to, run, question } => self.ask_targets(to, run, question),
            Effect::Upload { run, targets } => self.upload(run, targets),
            Effect::Tell { to, run, ended } => self.tell(to, run, *ended),
            Effect::End(ending) => {
                self.ended.send_replace(Some(ending));
            }
        }
    }

    fn register(&self, sent_at: Monotonic, to: PeerId, running: Option<AttemptRef>) {
        let Setup {
            maker,
            version,
            device,
        } = &self.setup;
        let models = &self.workshop.models;
        let question = Register {
            node: maker.node.clone(),
            generation: maker.generation,
            version: version.clone(),
            device_class: maker.device_class.clone(),
            device: device.name.clone(),
            memory_bytes: device.memory_bytes,
            models: models.offered().map(|model| model.offer.clone()).collect(),
            refused_models: models.refused().to_vec(),
            running,
        };
        let from = to.clone();
        self.ask(to, question, ASK_DEADLINE, move |answer| {
            Event::Registered {
                from,
                sent_at,
                reported: running,
                answer,
            }
        });
    }

    fn beat(
        &self,
        sent_at: Monotonic,
        to: PeerId,
        seq: u64,
        running: Option<AttemptRef>,
        is_closing: bool,
    ) {
        let mut held_adapters: Vec<Sha256> = self.workshop.adapters.newest();
        held_adapters.truncate(HELD_ADAPTERS_MAX);
        let question = Beat {
            node: self.setup.maker.node.clone(),
            generation: self.setup.maker.generation,
            seq,
            running,
            is_closing,
            held_adapters,
            adapters: self.tiers(),
        };
        let from = to.clone();
        self.ask(to, question, BEAT_DEADLINE, move |answer| {
            Event::BeatAnswered {
                from,
                sent_at,
                reported: running,
                answer,
            }
        });
    }

    fn tiers(&self) -> AdapterTiers {
        let holdings = self.workshop.engine.holdings();
        let host = self.workshop.host_adapters.as_ref();
        let host = host.map(|host| kept(host.adapters(), host.usage()));
        let shortened = |mut tier: KeptAdapters| {
            tier.adapters.truncate(TIER_ADAPTERS_MAX);
            tier
        };
        AdapterTiers {
            fused: holdings.fused,
            device: holdings.device.map(shortened),
            host: host.map(shortened).unwrap_or_default(),
            disk: cache_usage(self.workshop.adapters.usage()),
        }
    }

    fn prefetch(&mut self, next: Prefetch) {
        let control = Control::default();
        let before = self.prefetching.replace((next.job, control.clone()));
        // What the present job waits for is not begun anew: it may have come a long way, by a URL that has expired since.
        if let Some((job, before)) = before
            && !self.runs.values().any(|run| run.assign.at.job == job)
        {
            before.stop();
        }
        let workshop = self.workshop.clone();
        self.tasks.spawn(NodeTask::Prefetch, |_| async move {
            match workshop.prefetch(&next, &control).await {
                Ok(()) => tracing::info!(job = %next.job, "adapters of the next job are at hand"),
                Err(NotRendered::Stopped) => {}
                Err(NotRendered::Failed(failure)) => {
                    let JobFailure { code, detail, .. } = failure;
                    tracing::info!(job = %next.job, %code, detail, "adapters of the next job are not at hand");
                }
            }
            Ok(())
        });
    }

    fn start(&mut self, id: RunId, assign: Assign) {
        tracing::info!(attempt = ?assign.at, model = %assign.spec.model, "job is taken");
        fail_point!("after_job_taken");
        let run = Run {
            assign: Arc::new(assign),
            control: Control::default(),
            ready: None,
        };
        let (assign, control) = (run.assign.clone(), run.control.clone());
        self.runs.insert(id, run);
        let (previews, newest) = watch::channel(None);
        let way = Way {
            at: assign.at,
            node: self.setup.maker.node.clone(),
            generation: self.setup.maker.generation,
            leader: self.leader.subscribe(),
            link: self.link.clone(),
            uploader: self.workshop.uploader.clone(),
        };
        self.tasks.spawn(NodeTask::Previews, |_| async move {
            way.send_all(newest).await;
            Ok(())
        });
        let outlets = Outlets {
            previews,
            checkpoints: self.keep(id, assign.at, control.clone()),
        };
        let (workshop, mailbox) = (self.workshop.clone(), self.mailbox.clone());
        let maker = self.setup.maker.clone();
        self.tasks.spawn(NodeTask::Render, |_| async move {
            let reports_to = mailbox.clone();
            let report = move |standing| {
                let moved = Event::Moved { run: id, standing };
                // The next one says more.
                reports_to.try_send(Message::Happened(moved)).ok();
            };
            let result = Box::new(
                workshop
                    .render(&assign, &maker, &control, outlets, report)
                    .await,
            );
            post(&mailbox, Message::Rendered { run: id, result }).await
        });
    }

    /// Where the run's checkpoints go.
    fn keep(
        &self,
        run: RunId,
        at: AttemptRef,
        control: Control,
    ) -> watch::Sender<Option<Arc<LocalCheckpoint>>> {
        let (checkpoints, newest) = watch::channel(None);
        let way = checkpoints::Way {
            at,
            node: self.setup.maker.node.clone(),
            generation: self.setup.maker.generation,
            leader: self.leader.subscribe(),
            link: self.link.clone(),
            uploader: self.workshop.uploader.clone(),
        };
        let mailbox = self.mailbox.clone();
        self.tasks.spawn(NodeTask::Checkpoints, |_| async move {
            let checkpoint = way.send_all(newest, &control).await;
            let left = Event::Left { run, checkpoint };
            post(&mailbox, Message::Happened(left)).await
        });
        checkpoints
    }

    fn upload(&self, id: RunId, targets: Vec<Target>) {
        let Some((control, ready)) = self
            .runs
            .get(&id)
            .and_then(|run| Some((run.control.clone(), run.ready.clone()?)))
        else {
            return;
        };
        let (workshop, mailbox) = (self.workshop.clone(), self.mailbox.clone());
        self.tasks.spawn(NodeTask::Upload, |_| async move {
            let beats_to = mailbox.clone();
            let pulse = Pulse::new(move || {
                let uploading = Event::StillUploading { run: id };
                beats_to.try_send(Message::Happened(uploading)).ok();
            });
            let result = workshop.upload(&ready, &targets, &control, &pulse).await;
            let result = result.map(|elapsed| elapsed.as_secs_f64() * 1e3);
            post(
                &mailbox,
                Message::Happened(Event::Uploaded { run: id, result }),
            )
            .await
        });
    }

    fn ask_targets(&self, to: PeerId, run: RunId, question: UploadTargets) {
        self.ask(to, question, ASK_DEADLINE, move |answer| {
            Event::TargetsAnswered { run, answer }
        });
    }

    fn tell(&self, to: PeerId, run: RunId, ended: Ended) {
        fail_point!("before_end_told");
        self.ask(to, ended, ASK_DEADLINE, move |answer| {
            Event::EndedAnswered { run, answer }
        });
    }

    /// Asks the leader in a task of its own; the answer, or that there is none, comes back as an event.
    fn ask<Q>(
        &self,
        to: PeerId,
        question: Q,
        deadline: Duration,
        answered: impl FnOnce(Option<Q::Answer>) -> Event + Send + 'static,
    ) where
        Q: Question + Send + Sync + 'static,
        Q::Answer: Send,
    {
        let (link, epoch, mailbox) = (self.link.clone(), self.state.epoch(), self.mailbox.clone());
        self.tasks.spawn(NodeTask::Ask, |_| async move {
            let answer = wire::ask(link.as_ref(), &to, epoch, &question, deadline).await;
            match &answer {
                Ok(_) => {}
                // It is asked again, and will be as large.
                Err(error @ QuestionError::Link(AskError::TooLarge(_))) => {
                    static SAID: Once = Once::new();
                    SAID.call_once(|| {
                        tracing::error!(kind = Q::KIND, %error, "leader cannot be asked");
                    });
                }
                Err(error) => {
                    tracing::debug!(kind = Q::KIND, leader = %to, %error, "leader did not answer");
                }
            }
            post(&mailbox, Message::Happened(answered(answer.ok()))).await
        });
    }

    fn send<B: Body>(&self, to: &PeerId, body: &B) {
        match wire::seal(self.state.epoch(), body) {
            // A full or broken link sheds it: the next one says more.
            Ok(envelope) => drop(self.link.send(to, envelope)),
            Err(error) => tracing::warn!(%error, "message was not sent"),
        }
    }

    fn answer<B: Body>(&self, reply: Option<ReplyPort>, body: &B) {
        let Some(reply) = reply else { return };
        let sent = wire::seal(self.state.epoch(), body)
            .map_err(|error| error.to_string())
            .and_then(|envelope: Envelope| reply.send(envelope).map_err(|error| error.to_string()));
        if let Err(error) = sent {
            tracing::warn!(error, "answer was not sent");
        }
    }

    fn control(&self, run: RunId, what: &str, change: impl Fn(&Control)) {
        if let Some(run) = self.runs.get(&run) {
            tracing::info!(attempt = ?run.assign.at, "{what}");
            change(&run.control);
        }
    }

    fn now(&self) -> Monotonic {
        Monotonic::from_millis(self.start.elapsed().as_millis() as u64)
    }
}

async fn pump(mut events: LinkEvents, mailbox: BoundedRef<Message>) -> TaskResult {
    while let Some(event) = events.next().await {
        post(&mailbox, Message::Link(event)).await?;
    }
    Ok(())
}

/// Sends a tick when one is due. Each handled message says anew when that is.
async fn timer(
    mut due: watch::Receiver<Option<Instant>>,
    mailbox: BoundedRef<Message>,
) -> TaskResult {
    loop {
        let next = *due.borrow_and_update();
        let tick = async {
            match next {
                Some(next) => tokio::time::sleep_until(next).await,
                None => std::future::pending().await,
            }
        };
        let changed = tokio::select! {
            changed = due.changed() => changed,
            () = tick => {
                post(&mailbox, Message::Happened(Event::Tick)).await?;
                due.changed().await
            }
        };
        if changed.is_err() {
            return Ok(());
        }
    }
}

async fn post(mailbox: &BoundedRef<Message>, message: Message) -> TaskResult {
    let posted = mailbox.send(message, POST_DEADLINE).await;
    posted.map_err(|error| format!("node actor takes no message: {error:?}").into())
}
