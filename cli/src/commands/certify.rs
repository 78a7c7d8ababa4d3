use std::path::PathBuf;

use clap::ValueEnum;
use flowai_actors::link::pki::{Ca, Identity, PkiError};
use flowai_actors::link::{PeerId, Role};
use serde_json::json;

use super::CommandError;
use crate::farm::FarmError;
use crate::output::Output;

/// Certify a coordinator or an api, for farms that are not started by `flowai up`
///
/// Makes a key and a certificate of the farm's CA, and the CA itself where there is none, and puts what FLOWAI_TLS_DIR needs into a
/// folder, to be copied to the program's machine. Certificates are valid for 397 days: the same command with the same folders makes the
/// next one, which counts when the program is started again. Nodes are certified when they join (`flowai node join`).
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// What it is for
    program: Program,
    /// Its FLOWAI_ID: lowercase letters, digits and dashes
    id: String,
    /// The CA's folder, the FLOWAI_CA_DIR of coordinators; keep it safe
    #[arg(long, value_name = "DIR")]
    ca: PathBuf,
    /// Where the certificate and its key go
    #[arg(long, value_name = "DIR")]
    tls: PathBuf,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Program {
    Coordinator,
    Api,
}

pub(super) fn run(args: Args, output: Output) -> Result<(), CommandError> {
    let Args {
        program,
        id,
        ca,
        tls,
    } = args;
    let role = match program {
        Program::Coordinator => Role::Coordinator,
        Program::Api => Role::Api,
    };
    let peer = PeerId::new(role, &id).map_err(|error| CommandError::Usage(error.to_string()))?;
    let failed = |error: PkiError| CommandError::Farm(FarmError::from(error));
    let present = match tls.join("cert.pem").exists() {
        true => Some(Identity::load(&tls).map_err(failed)?),
        false => None,
    };
    if let Some(other) = present.as_ref().filter(|present| *present.peer() != peer) {
        return Err(CommandError::Usage(format!(
            "--tls: {} is of {}; choose another folder",
            tls.display(),
            other.peer()
        )));
    }
    let makes_ca = !ca.join("ca-key.pem").exists();
    if makes_ca && present.is_some() {
        return Err(CommandError::Usage(format!(
            "--ca: {} holds no CA; name the one that certified {peer}",
            ca.display()
        )));
    }
    let authority = match makes_ca {
        true => Ca::create(&ca),
        false => Ca::load(&ca),
    };
    let authority = authority.map_err(failed)?;
    if present
        .as_ref()
        .is_some_and(|present| present.ca_sha256() != authority.sha256())
    {
        return Err(CommandError::Usage(format!(
            "--ca: {} is not the CA that certified {peer}; name that one, or choose an empty --tls",
            ca.display()
        )));
    }
    let identity = authority.issue(&peer).map_err(failed)?;
    match present {
        Some(_) => identity.replace(&tls),
        None => identity.save(&tls),
    }
    .map_err(failed)?;
    let (_, expires_at_s) = identity.validity_s().map_err(failed)?;
    let event = json!({
        "event": "certified", "peer": peer.to_string(), "expires_at_s": expires_at_s, "is_new_ca": makes_ca
    });
    output.object(&event);
    if makes_ca {
        output.note(format_args!(
            "{} holds a new CA: whoever has it can certify anything of this farm",
            ca.display()
        ));
    }
    output.note(format_args!(
        "{} holds the identity of {peer}",
        tls.display()
    ));
    Ok(())
}
