//! A conversation: its history, and one reply after the other.

use std::io::BufRead;

use inference::{ChatPrompt, Message, TextModel};

use super::PROMPT;
use crate::args::SamplingArgs;
use crate::commands::Context;
use crate::failure::{Failure, Result};
use crate::output::Output;
use crate::reply::{self, Reply};

/// A conversation with a model.
pub(super) struct Session<'a> {
    model: &'a dyn TextModel,
    /// What the conversation opened with, for `/reset`.
    start: ChatPrompt,
    chat: ChatPrompt,
    sampling: &'a SamplingArgs,
    context: &'a Context,
    output: Output,
}

impl<'a> Session<'a> {
    pub(super) fn new(
        model: &'a dyn TextModel,
        start: ChatPrompt,
        sampling: &'a SamplingArgs,
        context: &'a Context,
        output: Output,
    ) -> Self {
        Self { model, chat: start.clone(), start, sampling, context, output }
    }

    /// Answers the conversation as it is, and ends.
    pub(super) fn answer_now(&mut self) -> Result<()> {
        let reply = self.reply()?;
        self.end(&reply)?;
        reply.into_end()
    }

    /// Answers each message in turn, and ends.
    pub(super) fn answer_each(&mut self, messages: Vec<String>) -> Result<()> {
        let count = messages.len();
        for (index, message) in messages.into_iter().enumerate() {
            self.chat.messages.push(Message::user(message));
            let reply = self.reply()?;
            if index + 1 < count && !self.context.json {
                self.output.end_line()?;
            } else {
                self.end(&reply)?;
            }
            self.chat.messages.push(Message::assistant(&reply.text));
            reply.into_end()?;
        }
        Ok(())
    }

    /// Answers line by line until `/exit` or the end of the input.
    pub(super) fn converse(&mut self, mut input: impl BufRead) -> Result<()> {
        let info = self.model.info();
        let notes = self.context.notes;
        notes.aside(&format!(
            "{} on {} · /reset forgets, /exit ends, Ctrl-C cuts a reply short",
            info.architecture, info.backend
        ));
        loop {
            let mut line = String::new();
            notes.prompt(PROMPT);
            self.context.interrupts.hint_first();
            let read = input
                .read_line(&mut line)
                .map_err(|source| Failure::Input { what: "standard input".into(), source })?;
            if read == 0 {
                notes.aside("");
                return Ok(());
            }
            match line.trim() {
                "" => {}
                "/exit" | "/quit" => return Ok(()),
                "/reset" => {
                    self.chat = self.start.clone();
                    notes.aside("(the conversation is forgotten)");
                }
                command if command.starts_with('/') => {
                    notes.note(&format!("`{command}` is not known: /reset, /exit"));
                }
                message => self.turn(message)?,
            }
        }
    }

    /// One message and its reply; a refusal leaves the conversation as it was.
    fn turn(&mut self, message: &str) -> Result<()> {
        self.chat.messages.push(Message::user(message));
        match self.reply() {
            Ok(reply) => {
                if !self.context.json {
                    self.output.end_line()?;
                }
                let remark = if reply.was_cancelled() {
                    "(cut short)".to_owned()
                } else {
                    reply::cost(&reply.completion)
                };
                self.context.notes.aside(&remark);
                self.chat.messages.push(Message::assistant(&reply.text));
                Ok(())
            }
            Err(failure @ Failure::Request(_)) => {
                self.chat.messages.pop();
                failure.report(self.context.json);
                Ok(())
            }
            Err(failure) => Err(failure),
        }
    }

    fn reply(&mut self) -> Result<Reply> {
        let options = self.sampling.options(self.context.json)?;
        let chat = self.chat.clone();
        reply::print(self.context, &mut self.output, |cancel| {
            self.model.chat(chat, options.with_cancel(cancel))
        })
    }

    fn end(&mut self, reply: &Reply) -> Result<()> {
        if !self.context.json {
            self.output.end_text()?;
            self.context.notes.aside(&reply::cost(&reply.completion));
        }
        Ok(())
    }
}
