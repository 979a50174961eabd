//! Every behaviour, a file per group.

mod batching;
mod cancelling;
mod capabilities;
mod classifying;
mod endings;
mod streams;

use crate::behaviour::Behaviour;

/// The groups, in the order of reports.
pub(crate) const GROUPS: &[&[Behaviour]] = &[
    capabilities::BEHAVIOURS,
    streams::BEHAVIOURS,
    endings::BEHAVIOURS,
    cancelling::BEHAVIOURS,
    batching::BEHAVIOURS,
    classifying::BEHAVIOURS,
];
