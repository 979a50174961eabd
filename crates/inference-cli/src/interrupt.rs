//! Ctrl-C.

use std::process;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use inference::CancelToken;

use crate::failure::INTERRUPTED;
use crate::notes::Notes;

/// What Ctrl-C means at the moment.
#[derive(Debug)]
enum Meaning {
    /// End the program: nothing is worth finishing.
    Exit,
    /// Cancel the request; the program goes on to print what it has.
    Cancel(CancelToken),
    /// The user sits at an input line: hint first, then end.
    Hint,
}

/// Decides what Ctrl-C (or a termination signal) does. Clones share the state.
#[derive(Clone, Debug)]
pub(crate) struct Interrupts(Arc<Mutex<Meaning>>);

impl Interrupts {
    /// Takes over the signals of the process.
    pub(crate) fn install(notes: Notes) -> Self {
        let this = Self(Arc::new(Mutex::new(Meaning::Exit)));
        let handler = this.clone();
        if let Err(error) = ctrlc::set_handler(move || handler.interrupt(notes)) {
            notes.note(&format!("Ctrl-C will not end the text cleanly: {error}"));
        }
        this
    }

    /// Runs `request` with a token that Ctrl-C cancels; a second Ctrl-C ends
    /// the program.
    pub(crate) fn while_cancellable<T>(&self, request: impl FnOnce(CancelToken) -> T) -> T {
        let token = CancelToken::new();
        let before = std::mem::replace(&mut *self.meaning(), Meaning::Cancel(token.clone()));
        let result = request(token);
        *self.meaning() = before;
        result
    }

    /// From now on the next Ctrl-C only shows a hint, and the one after it
    /// ends the program.
    pub(crate) fn hint_first(&self) {
        *self.meaning() = Meaning::Hint;
    }

    fn meaning(&self) -> MutexGuard<'_, Meaning> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn interrupt(&self, notes: Notes) {
        let mut meaning = self.meaning();
        match &*meaning {
            Meaning::Cancel(token) if !token.is_cancelled() => token.cancel(),
            Meaning::Hint => {
                *meaning = Meaning::Exit;
                notes.aside("\n(Ctrl-C again or /exit ends the chat)");
                notes.prompt(crate::commands::chat::PROMPT);
            }
            Meaning::Exit | Meaning::Cancel(_) => process::exit(i32::from(INTERRUPTED)),
        }
    }
}
