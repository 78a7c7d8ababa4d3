//! The node actor: decodes what comes, calls the state, carries out its effects. It decides nothing itself.

mod asking;
mod runs;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use flowai_actors::clock::Monotonic;
use flowai_actors::ids::JobId;
use flowai_actors::kit::{
    Actor, ActorProcessingErr, ActorRef, BoundedRef, Parcel, TaskResult, Tasks,
};
use flowai_actors::link::{
    Delivery, LinkEvent, LinkEvents, NodeLink, RefusedCode, ReplyPort, Request, Role,
};
use flowai_actors::messages::{Assign, Body, Prefetch, Stop};
use flowai_actors::wire;
use flowai_node_machine::{Clip, Effect, Ending, Event, RunId, State};
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use self::runs::Run;
use super::Setup;
use super::messages::Message;
use super::tasks::NodeTask;
use super::way::Leader;
use crate::engine::Control;
use crate::job::{NotRendered, Ready, Workshop};

/// Messages that wait; the link's own credit keeps its share below a quarter of it.
const MAILBOX_MAX: usize = 256;
/// A mailbox that stays full for so long means that the actor hangs.
const POST_DEADLINE: Duration = Duration::from_secs(30);
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
                if let Some(ahead) = self.runs.remove(&run).and_then(|run| run.ahead) {
                    ahead.stop();
                }
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
