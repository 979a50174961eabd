//! The grammar of the command line.

use clap::{ArgAction, Parser, Subcommand};

use crate::commands::{
    backends, batched, bench, chat, classify, generate, inspect, logits, lora, models, pull,
    quantize, template, tokenize,
};

/// What every command's help ends with.
const EXIT_CODES: &str = "\
Exit codes:
  0    success; also when the reader of the output went away
  1    the model or the system failed while working
  2    a bad command line, option or input
  3    the model or backend cannot be loaded
  130  interrupted (Ctrl-C or a termination signal)";

const EXAMPLES: &str = "\
Examples:
  inference generate \"Once upon a time\"
  inference chat
  inference generate --model ./my-model --temperature 0.8 --seed 7 \"The sea\"

Without --model a small embedded model is used. A model is a folder with
config.json, *.safetensors and tokenizer.json, a GGUF file, or the name of a
model that `inference models` lists.

Exit codes:
  0    success; also when the reader of the output went away
  1    the model or the system failed while working
  2    a bad command line, option or input
  3    the model or backend cannot be loaded
  130  interrupted (Ctrl-C or a termination signal)";

/// Text generation with local language models
#[derive(Debug, Parser)]
#[command(name = "inference", version, after_help = EXAMPLES, max_term_width = 100)]
pub(crate) struct Cli {
    /// Write JSON for machines; errors become one JSON object on stderr
    #[arg(long, global = true, help_heading = "Output")]
    pub(crate) json: bool,

    /// Say more: -v information, -vv debug, -vvv everything (on stderr)
    #[arg(short, long, global = true, action = ArgAction::Count, help_heading = "Output")]
    pub(crate) verbose: u8,

    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Continue a text
    #[command(after_help = generate::EXAMPLES, after_long_help = long(generate::EXAMPLES))]
    Generate(generate::Args),
    /// Talk with a model
    #[command(after_help = chat::EXAMPLES, after_long_help = long(chat::EXAMPLES))]
    Chat(chat::Args),
    /// Score labels, or the next token, of texts
    #[command(after_help = classify::EXAMPLES, after_long_help = long(classify::EXAMPLES))]
    Classify(classify::Args),
    /// Turn text into token ids, or back
    #[command(after_help = tokenize::EXAMPLES, after_long_help = long(tokenize::EXAMPLES))]
    Tokenize(tokenize::Args),
    /// Render messages with a model's chat template
    #[command(after_help = template::EXAMPLES, after_long_help = long(template::EXAMPLES))]
    Template(template::Args),
    /// Print the logits of a prompt's positions
    #[command(after_help = logits::EXAMPLES, after_long_help = long(logits::EXAMPLES))]
    Logits(logits::Args),
    /// Measure how fast a model runs
    #[command(after_help = bench::EXAMPLES, after_long_help = long(bench::EXAMPLES))]
    Bench(bench::Args),
    /// List the models of this machine
    #[command(after_help = models::EXAMPLES, after_long_help = long(models::EXAMPLES))]
    Models(models::Args),
    /// Download a model from the Hugging Face hub
    #[command(after_help = pull::EXAMPLES, after_long_help = long(pull::EXAMPLES))]
    Pull(pull::Args),
    /// Show what a model is made of, and what it needs
    #[command(after_help = inspect::EXAMPLES, after_long_help = long(inspect::EXAMPLES))]
    Inspect(inspect::Args),
    /// Write a model as a GGUF file, quantized
    #[command(after_help = quantize::EXAMPLES, after_long_help = long(quantize::EXAMPLES))]
    Quantize(quantize::Args),
    /// Look at adapters, or merge them into models
    #[command(after_help = lora::EXAMPLES, after_long_help = long(lora::EXAMPLES))]
    Lora(lora::Args),
    /// Evaluate many small networks of one shape at once
    #[command(after_help = batched::EXAMPLES, after_long_help = long(batched::EXAMPLES))]
    Batched(batched::Args),
    /// List backends, whether they can run here, and on what
    #[command(after_help = backends::EXAMPLES, after_long_help = long(backends::EXAMPLES))]
    Backends(backends::Args),
}

/// A command's examples, followed by the exit codes.
fn long(examples: &str) -> String {
    format!("{examples}\n\n{EXIT_CODES}")
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn grammar_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_top_level_help_and_the_commands_name_the_same_exit_codes() {
        assert!(EXAMPLES.ends_with(EXIT_CODES));
    }
}
