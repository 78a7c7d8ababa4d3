//! What a coordinator is told: flags and environment, secrets by environment or file only. `docs/operations.md` lists
//! every one.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Parser;
use flowai_actors::limits::{NODE_CERTIFICATE_S, NODE_CERTIFICATE_S_MIN};
use flowai_actors::program::is_address;

use crate::autoscaler::AutoscaleSettings;

/// Leads FlowAI's farm, or stands by until it may.
#[derive(Debug, Clone, Parser)]
#[command(name = "flowai-coordinator", version)]
pub struct Settings {
    /// This program's name, a DNS label, as in its certificate.
    #[arg(long, env = "FLOWAI_ID")]
    pub id: String,
    /// Its own folder: the count of its starts.
    #[arg(long, env = "FLOWAI_DATA_DIR")]
    pub data_dir: PathBuf,
    /// Certificate, key and CA of the link.
    #[arg(long, env = "FLOWAI_TLS_DIR")]
    pub tls_dir: PathBuf,
    /// Where nodes and api instances are listened to. Port 0: any free one.
    #[arg(long, env = "FLOWAI_LISTEN", default_value = "127.0.0.1:7600")]
    pub listen: SocketAddr,
    /// How they reach it, host:port. Left out: the address that it listens on.
    #[arg(long, env = "FLOWAI_ADVERTISE")]
    pub advertise: Option<String>,
    /// The farm's CA with its key, by which machines join. Left out: none can while this coordinator leads.
    #[arg(long, env = "FLOWAI_CA_DIR")]
    pub ca_dir: Option<PathBuf>,
    /// How long a node's certificate is valid, in seconds; it is renewed at half of it.
    #[arg(long, env = "FLOWAI_NODE_CERTIFICATE_S", default_value_t = NODE_CERTIFICATE_S,
          value_parser = clap::value_parser!(u64).range(NODE_CERTIFICATE_S_MIN..=NODE_CERTIFICATE_S))]
    pub node_certificate_s: u64,
    /// Where numbers for Prometheus are served, on loopback. Left out: nowhere.
    #[arg(long, env = "FLOWAI_METRICS_LISTEN", value_parser = loopback)]
    pub metrics_listen: Option<SocketAddr>,
    /// Written when ready: one JSON object with the listening address.
    #[arg(long, env = "FLOWAI_READY_FILE")]
    pub ready_file: Option<PathBuf>,
    #[command(flatten)]
    pub autoscale: AutoscaleSettings,
}

/// `/metrics` asks for no credential.
fn loopback(text: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr = text.parse().map_err(|error| format!("{error}"))?;
    match address.ip().is_loopback() {
        true => Ok(address),
        false => Err(format!(
            "{address} can be reached from elsewhere, and metrics ask for no credential: give an address of loopback, and let \
             a proxy ask"
        )),
    }
}

/// A setting that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    #[error(
        "FLOWAI_ADVERTISE is missing: nobody can reach {0}; say how nodes reach this machine, host:port"
    )]
    Unreachable(SocketAddr),
    #[error("FLOWAI_ADVERTISE must be host:port (got {0:?})")]
    Advertise(String),
}

impl Settings {
    /// What is told to peers, once the link listens at `bound`.
    ///
    /// # Errors
    /// [`SettingsError`].
    pub fn advertised(&self, bound: SocketAddr) -> Result<String, SettingsError> {
        match &self.advertise {
            Some(address) if is_address(address) => Ok(address.clone()),
            Some(address) => Err(SettingsError::Advertise(address.clone())),
            None if bound.ip().is_unspecified() => Err(SettingsError::Unreachable(bound)),
            None => Ok(bound.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn advertised(more: &[&str], bound: &str) -> Result<String, SettingsError> {
        let common = [
            "flowai-coordinator",
            "--id",
            "c1",
            "--data-dir",
            "d",
            "--tls-dir",
            "t",
        ];
        let settings = Settings::parse_from(common.iter().chain(more));
        settings.advertised(bound.parse().unwrap())
    }

    #[test]
    fn peers_are_told_an_address_that_they_can_reach() {
        assert_eq!(advertised(&[], "127.0.0.1:7600").unwrap(), "127.0.0.1:7600");
        let by_name = advertised(&["--advertise", "c1.farm:7600"], "0.0.0.0:7600");
        assert_eq!(by_name.unwrap(), "c1.farm:7600");
        assert!(matches!(
            advertised(&[], "0.0.0.0:7600"),
            Err(SettingsError::Unreachable(_))
        ));
        for bad in ["c1.farm", ":7600", "c1.farm:x"] {
            assert!(
                advertised(&["--advertise", bad], "127.0.0.1:1").is_err(),
                "{bad}"
            );
        }
    }
}
