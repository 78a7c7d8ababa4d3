//! The leader: scheduler, journal, registry.
