//! The embedded model with a longer context.

use inference::{EmbeddedFiles, ModelSource};
use serde_json::{Value, json};

use crate::Result;

/// The embedded model's weights with positions up to `context_len`. Beyond
/// what it was trained for the text is nonsense, which costs the same time.
pub(super) fn demo(context_len: usize) -> Result<ModelSource> {
    let mut files = Vec::new();
    for (name, content) in inference_demo::FILES {
        if *name == "config.json" {
            let mut config: Value = serde_json::from_slice(content)?;
            config["max_position_embeddings"] = json!(context_len);
            // Sources outlive every model: once per run.
            files.push((*name, &*config.to_string().into_bytes().leak()));
        } else {
            files.push((*name, *content));
        }
    }
    let files: EmbeddedFiles = files.leak();
    Ok(ModelSource::Embedded(files))
}
