//! Nodes that are asked for together: those whose device class begins alike.

use std::fmt;
use std::str::FromStr;

use flowai_actors::limits::AUTOSCALE_NODES_MAX;

use super::money::{Money, MoneyError};

/// Nodes of one kind of machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// What the device class of each of its nodes begins with. The rest, as the version of the kernels, may change.
    pub class: String,
    pub min: u32,
    pub max: u32,
    /// Of one node for an hour.
    pub price: Money,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GroupError {
    #[error("a group is CLASS=MIN..MAX@PRICE, as `NVIDIA H100=0..8@3.20` (got {0:?})")]
    Form(String),
    #[error(
        "a group wants at most {AUTOSCALE_NODES_MAX} nodes, and no more at least than at most (got {min}..{max})"
    )]
    Bounds { min: u32, max: u32 },
    #[error("the price of a node: {0}")]
    Price(#[from] MoneyError),
}

impl Group {
    pub fn matches(&self, device_class: &str) -> bool {
        device_class.starts_with(&self.class)
    }
}

impl FromStr for Group {
    type Err = GroupError;

    fn from_str(text: &str) -> Result<Self, GroupError> {
        let form = || GroupError::Form(text.to_owned());
        let (class, rest) = text.rsplit_once('=').ok_or_else(form)?;
        let (bounds, price) = rest.split_once('@').ok_or_else(form)?;
        let (min, max) = bounds.split_once("..").ok_or_else(form)?;
        let number = |text: &str| text.trim().parse::<u32>().map_err(|_| form());
        let (min, max) = (number(min)?, number(max)?);
        let class = class.trim();
        if class.is_empty() || class.chars().any(char::is_control) {
            return Err(form());
        }
        if min > max || max == 0 || max > AUTOSCALE_NODES_MAX {
            return Err(GroupError::Bounds { min, max });
        }
        Ok(Self {
            class: class.to_owned(),
            min,
            max,
            price: price.trim().parse()?,
        })
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            class,
            min,
            max,
            price,
        } = self;
        write!(f, "{class}={min}..{max}@{price}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_read_or_says_what_is_wrong() {
        let group: Group = "NVIDIA H100=1..8@3.20".parse().unwrap();
        assert_eq!(group.to_string(), "NVIDIA H100=1..8@3.2000");
        assert!(group.matches("NVIDIA H100 80GB HBM3 float16 libtorch 2.11.0"));
        assert!(!group.matches("NVIDIA A100"));
        for (bad, expected) in [
            ("gpu", GroupError::Form("gpu".to_owned())),
            ("=1..2@1", GroupError::Form("=1..2@1".to_owned())),
            ("gpu=1-2@1", GroupError::Form("gpu=1-2@1".to_owned())),
            ("gpu=1..2", GroupError::Form("gpu=1..2".to_owned())),
            ("gpu=3..2@1", GroupError::Bounds { min: 3, max: 2 }),
            ("gpu=0..0@1", GroupError::Bounds { min: 0, max: 0 }),
        ] {
            assert_eq!(bad.parse::<Group>(), Err(expected), "{bad}");
        }
        assert!(matches!(
            "gpu=0..2@much".parse::<Group>(),
            Err(GroupError::Price(_))
        ));
    }
}
