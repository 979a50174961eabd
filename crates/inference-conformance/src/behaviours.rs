//! Every behaviour, a file per group.

mod capabilities;
mod endings;
mod streams;

use crate::behaviour::Behaviour;

/// The groups, in the order of reports.
pub(crate) const GROUPS: &[&[Behaviour]] =
    &[capabilities::BEHAVIOURS, streams::BEHAVIOURS, endings::BEHAVIOURS];
