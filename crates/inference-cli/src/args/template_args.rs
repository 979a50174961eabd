//! What a chat template reads besides the messages.

use std::path::PathBuf;

use clap::Args;
use inference::ChatPrompt;

use super::values;
use crate::failure::Result;
use crate::input;

/// Tools, documents and variables of a chat template.
#[derive(Args, Debug)]
#[command(next_help_heading = "Template")]
pub(crate) struct TemplateArgs {
    /// Tool definitions, a JSON array in a file
    #[arg(long, value_name = "FILE")]
    tools: Option<PathBuf>,

    /// Documents, a JSON array in a file
    #[arg(long, value_name = "FILE")]
    documents: Option<PathBuf>,

    /// Set a template variable. Repeatable
    #[arg(long, value_name = "KEY=JSON", value_parser = values::key_json)]
    set: Vec<(String, String)>,
}

impl TemplateArgs {
    /// `chat` with what these arguments add.
    pub(crate) fn apply(&self, mut chat: ChatPrompt) -> Result<ChatPrompt> {
        if let Some(path) = &self.tools {
            chat = chat.with_tools(input::file_or_stdin(path)?);
        }
        if let Some(path) = &self.documents {
            chat = chat.with_documents(input::file_or_stdin(path)?);
        }
        for (key, json) in &self.set {
            chat = chat.with_variable(key, json.as_str());
        }
        Ok(chat)
    }
}
