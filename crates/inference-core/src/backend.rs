//! The backend trait.

use std::sync::Arc;

use crate::{Capabilities, DiscoveredModel, LoadOptions, ModelSource, Result, TextModel};

/// A device that a backend found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default))]
#[non_exhaustive]
pub struct DeviceInfo {
    /// The device's name.
    pub name: String,
    /// Its memory in bytes, where that is known.
    pub memory_bytes: Option<u64>,
    /// Units that run in parallel: cores, multiprocessors; where known.
    pub compute_units: Option<usize>,
    /// Further facts, such as instruction sets or driver versions.
    pub facts: Vec<(String, String)>,
}

impl DeviceInfo {
    /// A device of this name.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    /// Sets the memory in bytes.
    #[must_use]
    pub fn with_memory_bytes(mut self, bytes: u64) -> Self {
        self.memory_bytes = Some(bytes);
        self
    }

    /// Sets the number of parallel units.
    #[must_use]
    pub fn with_compute_units(mut self, units: usize) -> Self {
        self.compute_units = Some(units);
        self
    }

    /// Adds a fact.
    #[must_use]
    pub fn with_fact(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.facts.push((name.into(), value.into()));
        self
    }
}

/// Whether a backend can run on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "lowercase"))]
#[non_exhaustive]
pub enum Availability {
    /// It can, on these devices.
    Ready {
        /// What was found; at least one.
        devices: Vec<DeviceInfo>,
    },
    /// It cannot.
    Unavailable {
        /// Why, one sentence.
        reason: String,
    },
}

impl Availability {
    /// Ready, on these devices.
    #[must_use]
    pub fn ready(devices: Vec<DeviceInfo>) -> Self {
        Self::Ready { devices }
    }

    /// Unavailable, for this reason.
    pub fn unavailable(reason: impl Into<String>) -> Self {
        Self::Unavailable { reason: reason.into() }
    }

    /// Whether it can run here.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        matches!(self, Self::Ready { .. })
    }
}

/// A way to run models: a device and the code for it.
pub trait Backend: Send + Sync {
    /// The registered name: lower case, digits and underscores.
    fn name(&self) -> &str;

    /// Whether it can run on this machine, and on what. Cheap enough to call
    /// for a listing; never panics where a driver is missing.
    fn availability(&self) -> Availability;

    /// What it can do. Whatever is declared usable is executed by the
    /// conformance suite.
    fn capabilities(&self) -> Capabilities;

    /// Whether it could load a model that is described by its headers alone;
    /// whether the device has memory for it is not asked. By default nothing
    /// is refused beforehand.
    ///
    /// # Errors
    ///
    /// [`UnsupportedModel`](crate::ErrorKind::UnsupportedModel) naming the
    /// format, architecture or quantization.
    fn accepts(&self, model: &DiscoveredModel) -> Result<()> {
        let _ = model;
        Ok(())
    }

    /// Loads a model.
    ///
    /// # Errors
    ///
    /// [`InvalidModel`](crate::ErrorKind::InvalidModel) naming file, field or
    /// tensor; [`UnsupportedModel`](crate::ErrorKind::UnsupportedModel);
    /// [`InvalidOption`](crate::ErrorKind::InvalidOption) or
    /// [`Unsupported`](crate::ErrorKind::Unsupported) for an option that it
    /// cannot honour; [`Io`](crate::ErrorKind::Io).
    fn load_model(&self, source: &ModelSource, options: &LoadOptions)
    -> Result<Arc<dyn TextModel>>;
}
