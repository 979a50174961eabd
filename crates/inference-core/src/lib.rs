//! The contract (draft head; the manual follows).
#![forbid(unsafe_code)]

mod adapter;
mod attention;
mod backend;
mod batch;
mod cancel;
mod capability;
mod classification;
mod completion;
mod error;
mod generate_options;
mod info;
mod load_options;
mod message;
mod model;
pub mod probe;
mod progress;
mod registry;
mod state;
mod stream;
mod token;

pub use inventory;

pub use adapter::{
    Adapter, AdapterInfo, Adapters, LoraConfig, Loss, TrainableModel, TrainingSequence,
};
pub use attention::{AttentionInspector, AttentionSnapshot, LayerAttention};
pub use backend::{Availability, Backend, DeviceInfo};
pub use batch::{BatchItem, BatchOutput, BatchStream};
pub use cancel::CancelToken;
pub use capability::{Capabilities, Capability, CapabilityId, CapabilityStatus};
pub use classification::{Classification, ClassifyOptions, LabelScore};
pub use completion::{Completion, FinishReason, GenerateMetrics, ModelMetrics};
pub use error::{Error, ErrorKind, Result, Source};
pub use generate_options::{DEFAULT_MAX_TOKENS, GenerateOptions};
pub use info::{DiscoveredModel, ModelInfo, Quantization};
pub use load_options::{EmbeddedFiles, KvDtype, LoadOptions, ModelSource, QuantizeType};
pub use message::{ChatPrompt, Message, Prompt, RawJson, Role};
pub use model::{LogitRows, PromptLogits, Scorer, TextModel};
pub use probe::ProbeBus;
pub use progress::{ProgressEvent, ProgressSink};
pub use registry::{AUTOMATIC_ORDER, BackendRegistration, Registry};
pub use state::{SequenceState, StateSnapshot};
pub use stream::{TokenEvent, TokenSource, TokenStream};
pub use token::{Token, TokenId, TokenLogprob};
