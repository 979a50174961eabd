//! Saving, restoring and forking a sequence's keys and values.

use std::any::Any;
use std::path::Path;
use std::sync::Arc;

use crate::{GenerateOptions, Prompt, Result, TokenId, TokenStream};

/// The keys and values of a computed prefix. Immutable: resuming it twice
/// forks the sequence.
pub trait StateSnapshot: Send + Sync {
    /// The ids whose keys and values it holds.
    fn ids(&self) -> &[TokenId];

    /// Its size in memory.
    fn bytes(&self) -> u64;

    /// Writes it to a file.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Io`](crate::ErrorKind::Io).
    fn save(&self, path: &Path) -> Result<()>;

    /// The backend's own type.
    fn as_any(&self) -> &dyn Any;
}

/// A model whose sequences can be saved and resumed.
pub trait SequenceState: Send + Sync {
    /// Computes `prompt` and keeps its keys and values.
    ///
    /// # Errors
    ///
    /// As [`TextModel::generate`](crate::TextModel::generate) for its prompt.
    fn snapshot(&self, prompt: Prompt) -> Result<Arc<dyn StateSnapshot>>;

    /// Reads a snapshot that [`StateSnapshot::save`] wrote.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidInput`](crate::ErrorKind::InvalidInput) where it
    /// belongs to another model or is damaged.
    fn load(&self, path: &Path) -> Result<Arc<dyn StateSnapshot>>;

    /// Continues a snapshot with further ids, without computing its prefix
    /// again.
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
