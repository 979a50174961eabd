//! What most programs need: `use inference::prelude::*;`.

pub use inference_core::{
    Backend, BatchItem, CancelToken, ChatPrompt, ClassifyOptions, Completion, ErrorKind,
    FinishReason, GenerateOptions, LoadOptions, Message, ModelSource, Prompt, Registry, Role,
    TextModel, Token, TokenStream,
};
