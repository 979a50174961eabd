//! What a backend says it can do.

use std::fmt;

/// How far an ability is implemented.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "lowercase"))]
#[non_exhaustive]
pub enum CapabilityStatus {
    /// Works, and the conformance suite executes it.
    Supported,
    /// Works within the limits that the detail names; executed as well.
    Experimental,
    /// Not there yet; answers [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported).
    Planned,
    /// Not there; answers [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported).
    Unsupported,
}

impl CapabilityStatus {
    /// Whether callers may use the ability.
    #[must_use]
    pub fn is_usable(self) -> bool {
        matches!(self, Self::Supported | Self::Experimental)
    }
}

impl fmt::Display for CapabilityStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Supported => "supported",
            Self::Experimental => "experimental",
            Self::Planned => "planned",
            Self::Unsupported => "unsupported",
        })
    }
}

macro_rules! capability_ids {
    ($($(#[doc = $doc:literal])* $name:ident = $id:literal, $group:literal;)*) => {
        /// The abilities that the contract names. The set may grow.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
        #[non_exhaustive]
        pub enum CapabilityId {
            $($(#[doc = $doc])* #[cfg_attr(feature = "serde", serde(rename = $id))] $name,)*
        }

        impl CapabilityId {
            /// Every id, in the order of this list.
            pub const ALL: &[CapabilityId] = &[$(Self::$name),*];

            /// The stable name.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $id,)* }
            }

            /// The group that tables show it under.
            #[must_use]
            pub fn group(self) -> &'static str {
                match self { $(Self::$name => $group,)* }
            }
        }
    };
}

capability_ids! {
    /// Loading a model.
    Load = "load", "model";
    /// Quantized weights.
    QuantizedWeights = "quantized_weights", "model";
    /// Streaming text from a prompt.
    Generate = "generate", "text";
    /// Streaming a reply to a conversation.
    Chat = "chat", "text";
    /// Scoring the next token of many prompts.
    Classify = "classify", "text";
    /// Many prompts in one call.
    BatchGenerate = "batch_generate", "text";
    /// Text to token ids and back.
    Tokenizer = "tokenizer", "text";
    /// Rendering a conversation with the model's template.
    ChatTemplate = "chat_template", "text";
    /// Full logits of generated and prompt positions.
    Logits = "logits", "output";
    /// Log-probabilities with alternatives.
    Logprobs = "logprobs", "output";
    /// Output that follows a grammar or schema.
    StructuredOutput = "structured_output", "output";
    /// Embedding vectors of texts.
    Embeddings = "embeddings", "output";
    /// An adapter loaded with the model, for every request.
    AdapterAtLoad = "adapter_at_load", "adapters";
    /// LoRA adapters loaded at any time and chosen per request.
    LoraInference = "lora_inference", "adapters";
    /// Training LoRA adapters.
    LoraTraining = "lora_training", "adapters";
    /// Saving and restoring a sequence's keys and values.
    KvSnapshot = "kv_snapshot", "serving";
    /// Reusing keys and values of a shared prefix.
    PrefixCache = "prefix_cache", "serving";
    /// Sequences join and leave the running batch at every step.
    ContinuousBatching = "continuous_batching", "serving";
    /// Several tokens per forward pass.
    SpeculativeDecoding = "speculative_decoding", "serving";
    /// Reading queries and keys of a prefill.
    AttentionProbe = "attention_probe", "insight";
}

impl fmt::Display for CapabilityId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One ability of a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Capability {
    /// Which ability.
    pub id: CapabilityId,
    /// The group that tables show it under.
    pub group: &'static str,
    /// How far it is implemented.
    pub status: CapabilityStatus,
    /// Limits or reasons, one sentence; empty where there is nothing to add.
    pub detail: String,
}

impl Capability {
    /// An ability with its status.
    pub fn new(id: CapabilityId, status: CapabilityStatus, detail: impl Into<String>) -> Self {
        Self { id, group: id.group(), status, detail: detail.into() }
    }
}

/// The abilities of a backend: one entry for every [`CapabilityId`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(transparent))]
pub struct Capabilities(Vec<Capability>);

impl Default for Capabilities {
    fn default() -> Self {
        Self::none()
    }
}

impl Capabilities {
    /// Everything unsupported.
    #[must_use]
    pub fn none() -> Self {
        let unsupported =
            |id: &CapabilityId| Capability::new(*id, CapabilityStatus::Unsupported, "");
        Self(CapabilityId::ALL.iter().map(unsupported).collect())
    }

    /// Sets one ability.
    #[must_use]
    pub fn with(
        mut self,
        id: CapabilityId,
        status: CapabilityStatus,
        detail: impl Into<String>,
    ) -> Self {
        let capability = Capability::new(id, status, detail);
        match self.0.iter_mut().find(|c| c.id == id) {
            Some(slot) => *slot = capability,
            None => self.0.push(capability),
        }
        self
    }

    /// Marks abilities as supported.
    #[must_use]
    pub fn with_supported(self, ids: &[CapabilityId]) -> Self {
        ids.iter().fold(self, |all, id| all.with(*id, CapabilityStatus::Supported, ""))
    }

    /// The status of one ability.
    #[must_use]
    pub fn status(&self, id: CapabilityId) -> CapabilityStatus {
        self.get(id).map_or(CapabilityStatus::Unsupported, |c| c.status)
    }

    /// One ability.
    #[must_use]
    pub fn get(&self, id: CapabilityId) -> Option<&Capability> {
        self.0.iter().find(|c| c.id == id)
    }

    /// All abilities, in the order of [`CapabilityId::ALL`].
    pub fn iter(&self) -> std::slice::Iter<'_, Capability> {
        self.0.iter()
    }
}

impl<'a> IntoIterator for &'a Capabilities {
    type Item = &'a Capability;
    type IntoIter = std::slice::Iter<'a, Capability>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}
