//! Saving, restoring and forking a sequence's keys and values.

use std::any::Any;
use std::path::Path;
use std::sync::Arc;

use crate::{GenerateOptions, Prompt, Result, TokenId, TokenStream};

/// The keys and values of a computed prefix, in memory of its own. Immutable:
/// resuming it twice forks the sequence, and it stays valid whatever becomes of
/// the model's cache.
pub trait StateSnapshot: Send + Sync {
    /// The ids whose keys and values it holds.
    fn ids(&self) -> &[TokenId];

    /// Its size in memory.
    fn bytes(&self) -> u64;

    /// Writes it to a file, which takes the place of one that is there already
    /// only when it is complete and on the disk.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Io`](crate::ErrorKind::Io);
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) for a model
    /// whose weights cannot be told from others.
    fn save(&self, path: &Path) -> Result<()>;

    /// The backend's own type.
    fn as_any(&self) -> &dyn Any;
}

/// A model whose sequences can be saved and resumed.
///
/// - **Snapshot**: of a prompt, or of a running text, which is that of its
///   prompt and the ids generated so far; where the model has a prefix cache,
///   little or nothing of that is computed again.
/// - **Restore**: [`load`](Self::load) and [`resume`](Self::resume), in this
///   process or a later one, with the same model.
/// - **Fork**: resume a snapshot more than once, one after the other or at the
///   same time.
///
/// A resumed text is the text that [`generate`](crate::TextModel::generate)
/// makes of the snapshot's ids and the continuation, token for token.
pub trait SequenceState: Send + Sync {
    /// Computes `prompt` and keeps its keys and values. Blocks until that is
    /// done.
    ///
    /// # Errors
    ///
    /// As [`TextModel::generate`](crate::TextModel::generate) for its prompt.
    fn snapshot(&self, prompt: Prompt) -> Result<Arc<dyn StateSnapshot>>;

    /// Reads a snapshot that [`StateSnapshot::save`] wrote.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidInput`](crate::ErrorKind::InvalidInput), naming
    /// what differs, where it belongs to another model, tokenizer or format of
    /// keys and values, or is damaged;
    /// [`ErrorKind::Io`](crate::ErrorKind::Io).
    fn load(&self, path: &Path) -> Result<Arc<dyn StateSnapshot>>;

    /// Continues a snapshot with further ids, without computing its prefix
    /// again. Without a continuation its last token alone is computed again,
    /// for the logits. Where the length of the prompt decides on rotary
    /// embeddings (dynamic, longrope), and decides otherwise for the whole than
    /// for the snapshot, all of it is computed.
    ///
    /// # Errors
    ///
    /// As [`TextModel::generate`](crate::TextModel::generate), and
    /// [`ErrorKind::InvalidInput`](crate::ErrorKind::InvalidInput) for a
    /// snapshot of another model.
    fn resume(
        &self,
        snapshot: &dyn StateSnapshot,
        continuation: &[TokenId],
        options: GenerateOptions,
    ) -> Result<TokenStream>;
}
