use serde::{Deserialize, Serialize};

use super::Ms;

/// How the rate of visits changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Demand {
    /// The same rate throughout, Poisson: a load of 1.2 is a peak that lasts as long as the run.
    Steady,
    /// Hours as uneven as the trace's, with the load as their mean.
    Hours,
}

/// When a visit's next clip is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Flow {
    /// When the one before would be done had it not waited, and some thought: whoever waits long asks nevertheless.
    Open,
    /// When the one before is done, and some thought.
    SemiClosed,
}

/// What is simulated.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Setting {
    /// Offered GPU-seconds over the farm's, both of the reference device: those of the clips, and of one loading a visit. 0 to [`Setting::LOAD_MAX`].
    pub load: f64,
    pub seed: u64,
    /// Clips are asked for during so long; then the farm works off what is left.
    pub hours: u32,
    pub nodes: u32,
    pub demand: Demand,
    pub flow: Flow,
    /// Clips that one free user asks for at once, after a quarter of the time. They come on top of the load.
    pub flood: u32,
    /// Exponent of the adapters' popularity.
    pub adapter_zipf: f64,
}

#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SettingError {
    #[error("{field} must be {expected} (got {got})")]
    OutOfRange {
        field: &'static str,
        expected: String,
        got: String,
    },
}

impl Setting {
    pub const LOAD_MAX: f64 = 3.0;
    pub const HOURS_MAX: u32 = 168;
    pub const NODES_MAX: u32 = 10_000;
    pub const FLOOD_MAX: u32 = 100_000;
    pub const ADAPTER_ZIPF_MAX: f64 = 4.0;
    /// What begins in this part of the run is not measured: the farm starts empty and cold.
    pub const WARM_UP: f64 = 0.1;

    pub fn check(&self) -> Result<(), SettingError> {
        let number = |field, value: u32, most: u32| {
            check(
                field,
                (1..=most).contains(&value),
                format!("1..={most}"),
                value,
            )
        };
        check(
            "load",
            self.load > 0.0 && self.load <= Self::LOAD_MAX,
            format!("over 0 and at most {}", Self::LOAD_MAX),
            self.load,
        )?;
        number("hours", self.hours, Self::HOURS_MAX)?;
        number("nodes", self.nodes, Self::NODES_MAX)?;
        check(
            "flood",
            self.flood <= Self::FLOOD_MAX,
            format!("0..={}", Self::FLOOD_MAX),
            self.flood,
        )?;
        check(
            "adapter_zipf",
            (0.0..=Self::ADAPTER_ZIPF_MAX).contains(&self.adapter_zipf),
            format!("0..={}", Self::ADAPTER_ZIPF_MAX),
            self.adapter_zipf,
        )
    }

    /// How long clips are asked for.
    pub fn horizon_ms(&self) -> Ms {
        u64::from(self.hours) * 3_600_000
    }

    /// Clips asked for from then on are measured.
    pub fn warm_up_ms(&self) -> Ms {
        (self.horizon_ms() as f64 * Self::WARM_UP) as Ms
    }
}

fn check(
    field: &'static str,
    is_good: bool,
    expected: String,
    got: impl ToString,
) -> Result<(), SettingError> {
    if is_good {
        return Ok(());
    }
    Err(SettingError::OutOfRange {
        field,
        expected,
        got: got.to_string(),
    })
}

impl Default for Setting {
    fn default() -> Self {
        Self {
            load: 0.8,
            seed: 1,
            hours: 8,
            nodes: 40,
            demand: Demand::Steady,
            flow: Flow::Open,
            flood: 0,
            adapter_zipf: super::assumed::ADAPTER_ZIPF,
        }
    }
}
