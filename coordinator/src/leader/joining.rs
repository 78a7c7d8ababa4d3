//! How machines become nodes and stay it: the leader's part, beside the state, which decides about jobs and nothing else.

use flowai_actors::ids::{Epoch, NodeId, Sha256};
use flowai_actors::link::SchemaRange;
use flowai_actors::link::pki::{PkiError, Signed, requested_key_sha256};
use flowai_actors::membership::{
    Join, JoinAnswer, Joined, RenewCertificate, RenewCertificateAnswer, check_facts,
};
use flowai_actors::wire;
use flowai_store::database::{DatabaseError, in_time};
use flowai_store::join_tokens::{self, Certified, Redeemed, Redemption};
use flowai_store::members::{self, Renewal};
use rand::Rng as _;

use super::Tools;
use crate::authority::Authority;

const BUILD: &str = env!("CARGO_PKG_VERSION");

/// Admits a machine whose token is good. `None`: the term is over, or the database did not answer; the asker asks again.
pub(super) async fn join(tools: &Tools, epoch: Epoch, join: &Join) -> Option<JoinAnswer> {
    if let Some(answer) = other_schema(join.schema) {
        return Some(answer);
    }
    let Some(authority) = &tools.authority else {
        return Some(JoinAnswer::NoAuthority);
    };
    let (node, key, signed) = match sign(authority, join) {
        Ok(signed) => signed,
        Err(reason) => return Some(JoinAnswer::Invalid { reason }),
    };
    let redemption = Redemption {
        token: join.token,
        secret_sha256: join.secret_sha256,
        public_key_sha256: key,
        facts: &join.facts,
        node: &node,
    };
    let redeemed = in_time(join_tokens::redeem(
        &tools.database,
        epoch,
        &redemption,
        &certified(signed)?,
    ))
    .await;
    match heard(redeemed)? {
        Redeemed::Admitted {
            node,
            labels,
            certificate,
        } => {
            tracing::info!(%node, token = %join.token, "a machine joined");
            Some(JoinAnswer::Joined(Joined {
                node,
                labels,
                certificate,
                ca: authority.ca_pem().to_owned(),
                cookie: authority.cookie_text(),
            }))
        }
        Redeemed::Refused => {
            tracing::warn!(token = %join.token, "a machine was refused that wanted to join");
            Some(JoinAnswer::Refused)
        }
        Redeemed::Fenced => None,
    }
}

/// Certifies a node's next key. The one before stays good until its end.
pub(super) async fn renew(
    tools: &Tools,
    epoch: Epoch,
    question: &RenewCertificate,
) -> Option<RenewCertificateAnswer> {
    let Some(authority) = &tools.authority else {
        return Some(RenewCertificateAnswer::NoAuthority);
    };
    let node = &question.node;
    let signed = match authority.sign(&question.signing_request, node) {
        Ok(signed) => signed,
        Err(error) => {
            let reason = error.to_string();
            return Some(RenewCertificateAnswer::Invalid { reason });
        }
    };
    let certified = certified(signed)?;
    let renewed = members::renew(&tools.database, epoch, node, certified.expires_at);
    let written = in_time(renewed).await;
    match heard(written)? {
        Renewal::Written => {
            tracing::info!(%node, "a node's certificate was renewed");
            let certificate = certified.certificate;
            Some(RenewCertificateAnswer::Renewed { certificate })
        }
        Renewal::Revoked => Some(RenewCertificateAnswer::Revoked),
        Renewal::Fenced => None,
    }
}

fn other_schema(newest: u32) -> Option<JoinAnswer> {
    let (theirs, ours) = (SchemaRange::of(newest), wire::schemas());
    let build = BUILD.to_owned();
    match theirs.meets(&ours) {
        true => None,
        false if theirs.is_older_than(&ours) => Some(JoinAnswer::Upgrade { build }),
        false => Some(JoinAnswer::TooNew { build }),
    }
}

fn sign(authority: &Authority, join: &Join) -> Result<(NodeId, Sha256, Signed), String> {
    check_facts(&join.facts).map_err(|error| format!("facts {error}"))?;
    let refused = |error: PkiError| error.to_string();
    let key = requested_key_sha256(&join.signing_request).map_err(refused)?;
    let node = new_name()?;
    let signed = authority
        .sign(&join.signing_request, &node)
        .map_err(refused)?;
    Ok((node, key, signed))
}

/// Chosen here, so that nobody can ask for the name of another node. Two of 64 bits that are equal are refused by the row.
fn new_name() -> Result<NodeId, String> {
    let name = format!("node-{:016x}", rand::rng().random::<u64>());
    name.parse()
        .map_err(|error| format!("node name {name}: {error}"))
}

fn certified(signed: Signed) -> Option<Certified> {
    let Some(expires_at) = join_tokens::time_of(signed.expires_at_s) else {
        tracing::error!(
            expires_at_s = signed.expires_at_s,
            "certificate ends at no date"
        );
        return None;
    };
    Some(Certified {
        certificate: signed.certificate,
        expires_at,
    })
}

fn heard<T>(answer: Result<T, DatabaseError>) -> Option<T> {
    answer
        .inspect_err(|error| {
            let error = error as &dyn std::error::Error;
            tracing::warn!(
                error,
                "database did not take a certificate; it is asked for again"
            );
        })
        .ok()
}
