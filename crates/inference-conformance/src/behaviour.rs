//! One behaviour that backends are held to.

use std::fmt;

use inference_core::CapabilityId;

use crate::behaviours::GROUPS;
use crate::context::Context;
use crate::outcome::Check;

/// A behaviour that the contract demands, with the check for it.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub struct Behaviour {
    /// The stable id, `group/name`.
    pub id: &'static str,
    /// What is demanded, one sentence.
    pub demand: &'static str,
    /// The abilities that it takes. Where one is not declared usable the
    /// behaviour is not executed; it is checked that the ability is refused.
    pub requires: &'static [CapabilityId],
    pub(crate) check: fn(&Context) -> Check,
}

impl Behaviour {
    /// The group: what precedes the slash of the id.
    #[must_use]
    pub fn group(&self) -> &'static str {
        self.id.split_once('/').map_or(self.id, |(group, _)| group)
    }
}

impl fmt::Debug for Behaviour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Behaviour")
            .field("id", &self.id)
            .field("demand", &self.demand)
            .field("requires", &self.requires)
            .finish_non_exhaustive()
    }
}

/// Every behaviour, group by group.
#[must_use]
pub fn behaviours() -> Vec<Behaviour> {
    GROUPS.iter().flat_map(|group| group.iter().copied()).collect()
}

/// The behaviour of this id.
#[must_use]
pub fn behaviour(id: &str) -> Option<Behaviour> {
    behaviours().into_iter().find(|behaviour| behaviour.id == id)
}
