//! Bodies in and out of envelopes, and who may send which: the same for every program.

use std::time::Duration;

use crate::checkpoint::{CheckpointPlace, CheckpointPlaced, PlaceCheckpoint};
use crate::ids::Epoch;
use crate::link::{self, Envelope, NodeLink, PeerId, Role, SchemaRange};
use crate::membership::{
    Join, JoinAnswer, MembersChanged, RenewCertificate, RenewCertificateAnswer,
};
use crate::messages::{
    Assign, AssignAnswer, Beat, BeatAnswer, Body, Compare, Compared, Doorbell, Ended, EndedAnswer,
    EventsReady, FarmQuery, FarmView, Live, Prefetch, Progress, Register, Registered, Stop,
    UploadTargets, UploadTargetsAnswer,
};
use crate::preview::{PlacePreview, PreviewPlace, PreviewPlaced, PreviewReady};
use crate::waiting::{Ceilings, CeilingsQuery, WhyAnswer, WhyQuery};

/// The newest meaning of messages that this build knows. Raised when a meaning changes; a new kind or field changes none.
/// A build that speaks less than 2 knows no keyframes.
pub const SCHEMA: u32 = 3;

/// What this build speaks with its peers.
pub const fn schemas() -> SchemaRange {
    SchemaRange::of(SCHEMA)
}

/// A body that cannot be put into an envelope or taken out of one.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    #[error("message of kind {found} was read as kind {wanted}")]
    Kind { found: u32, wanted: u32 },
    /// Says where, never what: a body may hold a prompt or a URL.
    #[error(
        "message of kind {kind} is not what this build expects (line {line}, column {column}); compare the builds"
    )]
    Json {
        kind: u32,
        line: usize,
        column: usize,
    },
}

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub enum QuestionError {
    #[error(transparent)]
    Link(#[from] link::AskError),
    #[error(transparent)]
    Body(#[from] BodyError),
}

/// A body that is asked, with the body that answers it.
pub trait Question: Body {
    type Answer: Body;
}

macro_rules! questions {
    ($($question:ty => $answer:ty),* $(,)?) => {
        $(impl Question for $question { type Answer = $answer; })*
        #[cfg(test)]
        const QUESTIONS: &[(u32, u32)] = &[$((<$question>::KIND, <$answer>::KIND)),*];
    };
}

questions! {
    Register => Registered,
    Beat => BeatAnswer,
    PlacePreview => PreviewPlace,
    PlaceCheckpoint => CheckpointPlace,
    Ended => EndedAnswer,
    UploadTargets => UploadTargetsAnswer,
    Assign => AssignAnswer,
    Stop => bool,
    FarmQuery => FarmView,
    Join => JoinAnswer,
    RenewCertificate => RenewCertificateAnswer,
    WhyQuery => WhyAnswer,
    Compare => Compared,
    CeilingsQuery => Ceilings,
}

/// Puts a body into a new envelope.
pub fn seal<B: Body>(epoch: Epoch, body: &B) -> Result<Envelope, BodyError> {
    let bytes = serde_json::to_vec(body).map_err(json::<B>)?;
    Ok(Envelope::new(B::KIND, epoch, bytes))
}

/// Takes the body out of an envelope.
pub fn open<B: Body>(envelope: &Envelope) -> Result<B, BodyError> {
    if envelope.kind != B::KIND {
        return Err(BodyError::Kind {
            found: envelope.kind,
            wanted: B::KIND,
        });
    }
    serde_json::from_slice(&envelope.bytes).map_err(json::<B>)
}

/// Asks a peer and reads its answer; `epoch` is the term that the asker believes in.
pub async fn ask<Q: Question + Sync>(
    link: &dyn NodeLink,
    to: &PeerId,
    epoch: Epoch,
    question: &Q,
    deadline: Duration,
) -> Result<Q::Answer, QuestionError> {
    let answer = link.ask(to, seal(epoch, question)?, deadline).await?;
    Ok(open(&answer)?)
}

/// Which role may send which kind. Unknown kinds pass: the program answers them `Unsupported`.
pub fn may_send(role: Role, kind: u32) -> bool {
    const FROM_NODES: [u32; 10] = [
        Register::KIND,
        Beat::KIND,
        Progress::KIND,
        Ended::KIND,
        UploadTargets::KIND,
        PlacePreview::KIND,
        PreviewPlaced::KIND,
        PlaceCheckpoint::KIND,
        CheckpointPlaced::KIND,
        RenewCertificate::KIND,
    ];
    const FROM_COORDINATORS: [u32; 6] = [
        Assign::KIND,
        Stop::KIND,
        Prefetch::KIND,
        EventsReady::KIND,
        Live::KIND,
        PreviewReady::KIND,
    ];
    const FROM_APIS: [u32; 7] = [
        Doorbell::KIND,
        FarmQuery::KIND,
        Join::KIND,
        MembersChanged::KIND,
        WhyQuery::KIND,
        Compare::KIND,
        CeilingsQuery::KIND,
    ];
    let senders = [
        (Role::Node, &FROM_NODES[..]),
        (Role::Coordinator, &FROM_COORDINATORS),
        (Role::Api, &FROM_APIS),
    ];
    senders
        .into_iter()
        .all(|(sender, kinds)| sender == role || !kinds.contains(&kind))
}

fn json<B: Body>(error: serde_json::Error) -> BodyError {
    BodyError::Json {
        kind: B::KIND,
        line: error.line(),
        column: error.column(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::JobId;

    #[test]
    fn an_answer_has_the_number_after_its_question() {
        for (question, answer) in QUESTIONS {
            assert_eq!(question + 1, *answer);
        }
    }

    #[test]
    fn a_body_comes_out_as_it_went_in_and_as_nothing_else() {
        let doorbell = Doorbell {
            job: JobId::generate(),
        };
        let envelope = seal(Epoch::new(3), &doorbell).unwrap();
        assert_eq!(open::<Doorbell>(&envelope).unwrap(), doorbell);
        assert!(matches!(
            open::<FarmQuery>(&envelope),
            Err(BodyError::Kind { .. })
        ));
    }

    #[test]
    fn a_body_that_does_not_read_is_refused_without_showing_it() {
        let envelope = Envelope::new(Doorbell::KIND, Epoch::new(1), &b"{\"job\":\"canary\"}"[..]);
        let error = open::<Doorbell>(&envelope).unwrap_err().to_string();
        assert!(
            error.contains("kind 30") && !error.contains("canary"),
            "{error}"
        );
    }

    #[test]
    fn each_known_kind_has_one_sender() {
        let check = |kind: u32, sender: Role| {
            for role in Role::ALL {
                assert_eq!(may_send(role, kind), role == sender, "{kind} from {role}");
            }
        };
        for kind in [10, 12, 14, 16, 18, 40, 42, 60, 62, 72] {
            check(kind, Role::Node);
        }
        for kind in [20, 22, 26, 32, 34, 44] {
            check(kind, Role::Coordinator);
        }
        for kind in [30, 36, 46, 48, 50, 70, 74] {
            check(kind, Role::Api);
        }
        assert!(Role::ALL.into_iter().all(|role| may_send(role, 999)));
        // Of no body was it forgotten to say so; answers go back to whoever asked.
        for kind in crate::messages::KINDS {
            let senders = Role::ALL.into_iter().filter(|role| may_send(*role, *kind));
            let expected = if kind % 2 == 0 { 1 } else { Role::ALL.len() };
            assert_eq!(senders.count(), expected, "{kind}");
        }
    }
}
