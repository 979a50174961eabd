//! Every behaviour, a file per group.

mod adapters;
mod attention;
mod batching;
mod cancelling;
mod capabilities;
mod chat;
mod classifying;
mod closing;
mod concurrency;
mod endings;
mod loading;
mod logits;
mod metrics;
mod options;
mod prefix_cache;
mod probes;
mod sampling;
mod scheduling;
mod speculating;
mod state;
mod streams;
mod text;
mod training;

use crate::behaviour::Behaviour;

/// The groups, in the order of reports.
pub(crate) const GROUPS: &[&[Behaviour]] = &[
    capabilities::BEHAVIOURS,
    loading::BEHAVIOURS,
    streams::BEHAVIOURS,
    endings::BEHAVIOURS,
    sampling::BEHAVIOURS,
    cancelling::BEHAVIOURS,
    batching::BEHAVIOURS,
    classifying::BEHAVIOURS,
    text::BEHAVIOURS,
    chat::BEHAVIOURS,
    logits::BEHAVIOURS,
    options::BEHAVIOURS,
    metrics::BEHAVIOURS,
    probes::BEHAVIOURS,
    attention::BEHAVIOURS,
    concurrency::BEHAVIOURS,
    prefix_cache::BEHAVIOURS,
    adapters::BEHAVIOURS,
    state::BEHAVIOURS,
    scheduling::BEHAVIOURS,
    speculating::BEHAVIOURS,
    training::BEHAVIOURS,
    closing::BEHAVIOURS,
];
