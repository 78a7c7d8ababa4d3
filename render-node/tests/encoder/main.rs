//! The encoder's promises, one file each.

mod clip_is_what_was_asked;
mod kit;
mod leaves_whole_clips_or_nothing;
mod stills_are_viewable;
