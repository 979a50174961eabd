//! The commands, a file each.

pub(crate) mod backends;
pub(crate) mod batched;
pub(crate) mod bench;
pub(crate) mod chat;
pub(crate) mod classify;
pub(crate) mod generate;
pub(crate) mod inspect;
pub(crate) mod logits;
pub(crate) mod lora;
pub(crate) mod models;
pub(crate) mod pull;
pub(crate) mod quantize;
pub(crate) mod template;
pub(crate) mod tokenize;

use crate::cli::{Cli, Command};
use crate::failure::Result;
use crate::interrupt::Interrupts;
use crate::notes::Notes;
use crate::tracing_log;

/// What every command is given.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) json: bool,
    pub(crate) verbose: u8,
    pub(crate) notes: Notes,
    pub(crate) interrupts: Interrupts,
}

impl Context {
    pub(crate) fn new(cli: &Cli) -> Self {
        tracing_log::install(cli.verbose);
        let notes = Notes::new(cli.json);
        let interrupts = Interrupts::install(notes);
        Self { json: cli.json, verbose: cli.verbose, notes, interrupts }
    }
}

pub(crate) fn run(command: Command, context: &Context) -> Result<()> {
    match command {
        Command::Generate(args) => generate::run(&args, context),
        Command::Chat(args) => chat::run(&args, context),
        Command::Classify(args) => classify::run(&args, context),
        Command::Tokenize(args) => tokenize::run(&args, context),
        Command::Template(args) => template::run(&args, context),
        Command::Logits(args) => logits::run(&args, context),
        Command::Bench(args) => bench::run(&args, context),
        Command::Models(args) => models::run(&args, context),
        Command::Pull(args) => pull::run(&args, context),
        Command::Inspect(args) => inspect::run(&args, context),
        Command::Quantize(args) => quantize::run(&args, context),
        Command::Lora(args) => lora::run(&args, context),
        Command::Batched(args) => batched::run(&args, context),
        Command::Backends(args) => backends::run(&args, context),
    }
}
