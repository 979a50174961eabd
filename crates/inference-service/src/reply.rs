//! What a service answers.

use std::collections::BTreeMap;

use inference_core::{
    Availability, BatchStream, Capabilities, Classification, ModelInfo, ModelMetrics, Result,
    TokenStream,
};

use crate::action::RequestId;

/// A model is there now.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Loaded {
    /// The model's name.
    pub name: String,
    /// Facts about it.
    pub info: ModelInfo,
    /// What it counts for in the memory budget.
    pub memory_bytes: u64,
    /// Whether it was there before, or another consumer loaded it meanwhile.
    pub shared: bool,
    /// Models that were unloaded to make room, least recently used first.
    pub unloaded: Vec<String>,
}

impl Loaded {
    pub(crate) fn new(name: &str, info: ModelInfo, memory_bytes: u64) -> Self {
        Self { name: name.to_owned(), info, memory_bytes, shared: false, unloaded: Vec::new() }
    }
}

/// A model is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Unloaded {
    /// The model's name.
    pub name: String,
    /// Requests that were open when it was asked for.
    pub requests: usize,
}

/// A text that is being written.
#[derive(Debug)]
#[non_exhaustive]
pub struct Generation {
    /// What to [cancel](crate::action::Cancel) it by.
    pub id: RequestId,
    /// The model that writes it.
    pub model: String,
    /// Its tokens: lazy, bounded, cancelled when dropped.
    pub stream: TokenStream,
}

/// Texts that are being written.
#[derive(Debug)]
#[non_exhaustive]
pub struct BatchGeneration {
    /// What to [cancel](crate::action::Cancel) all of it by.
    pub id: RequestId,
    /// The model that writes them.
    pub model: String,
    /// Their events: lazy, bounded, cancelled when dropped.
    pub stream: BatchStream,
}

/// What would come next after each prompt.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Classifications {
    /// The id that the request had.
    pub id: RequestId,
    /// The model that computed them.
    pub model: String,
    /// One per prompt, in order; one that fails does not disturb the others.
    pub results: Vec<Result<Classification>>,
}

/// Where a model is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum ModelState {
    /// A consumer is loading it.
    Loading,
    /// It takes requests.
    Ready,
    /// It takes no more requests; those that it has end.
    Unloading,
}

/// One model of a service.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct ModelStatus {
    /// Its name.
    pub name: String,
    /// Where it comes from, as text.
    pub source: String,
    /// Where it is in its life.
    pub state: ModelState,
    /// Whether it is never unloaded to make room.
    pub pinned: bool,
    /// What it counts for in the memory budget.
    pub memory_bytes: u64,
    /// Its open requests.
    pub requests: usize,
    /// Facts about it; `None` while it loads.
    pub info: Option<ModelInfo>,
}

/// What a service has.
#[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default))]
#[non_exhaustive]
pub struct ServiceInfo {
    /// The models that were asked about, by name.
    pub models: Vec<ModelStatus>,
    /// The default model's name, whether or not it is loaded.
    pub default_model: Option<String>,
    /// Bytes that all models count for.
    pub memory_used: u64,
    /// Bytes that they may take; `None` is without limit.
    pub memory_budget: Option<u64>,
}

/// One backend.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct BackendStatus {
    /// Its name.
    pub name: String,
    /// Whether it can run here, and on what.
    pub availability: Availability,
    /// What it can do.
    pub capabilities: Capabilities,
}

/// The backends that were asked about.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Backends {
    /// In the order of automatic choice.
    pub backends: Vec<BackendStatus>,
}

/// What an open request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum RequestKind {
    /// [`Generate`](crate::action::Generate).
    Generate,
    /// [`Chat`](crate::action::Chat).
    Chat,
    /// [`Classify`](crate::action::Classify).
    Classify,
    /// [`Batch`](crate::action::Batch).
    Batch,
}

/// An open request.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct RequestStatus {
    /// Its id.
    pub id: RequestId,
    /// The model that it is for.
    pub model: String,
    /// What it is.
    pub kind: RequestKind,
    /// Whether somebody asked for its end.
    pub cancelled: bool,
}

/// Totals since the service was made, and what is open now.
#[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default))]
#[non_exhaustive]
pub struct ServiceMetrics {
    /// Models that were loaded.
    pub loads: u64,
    /// Loads that failed, or were refused for lack of room.
    pub failed_loads: u64,
    /// Models that were unloaded, for whatever reason.
    pub unloads: u64,
    /// Of those, the ones that made room for others.
    pub evictions: u64,
    /// Requests that were opened.
    pub requests: u64,
    /// Bytes that all models count for.
    pub memory_used: u64,
    /// Open requests, by id.
    pub open: Vec<RequestStatus>,
    /// Totals of the models that are loaded now, by name.
    pub models: BTreeMap<String, ModelMetrics>,
}

/// Requests were asked to end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default))]
#[non_exhaustive]
pub struct Cancelled {
    /// Those that had not ended before.
    pub requests: Vec<RequestId>,
}

macro_rules! replies {
    ($($(#[doc = $doc:literal])* $variant:ident($name:ident) = $id:literal;)*) => {
        /// Any reply.
        #[derive(Debug)]
        #[non_exhaustive]
        pub enum Reply {
            $($(#[doc = $doc])* $variant($name),)*
        }

        impl Reply {
            /// The stable name, in snake case.
            #[must_use]
            pub fn name(&self) -> &'static str {
                match self { $(Self::$variant(_) => $id,)* }
            }
        }

        $(
            impl From<$name> for Reply {
                fn from(reply: $name) -> Self {
                    Self::$variant(reply)
                }
            }
        )*
    };
}

replies! {
    /// A model is there.
    Loaded(Loaded) = "loaded";
    /// A model is gone.
    Unloaded(Unloaded) = "unloaded";
    /// A stream of one request.
    Generation(Generation) = "generation";
    /// A stream of many requests.
    Batch(BatchGeneration) = "batch";
    /// What would come next.
    Classifications(Classifications) = "classifications";
    /// What the service has.
    Info(ServiceInfo) = "info";
    /// What backends can do.
    Backends(Backends) = "backends";
    /// Totals.
    Metrics(ServiceMetrics) = "metrics";
    /// Requests were asked to end.
    Cancelled(Cancelled) = "cancelled";
}
