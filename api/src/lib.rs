//! The HTTP surface and the user-session actors.
