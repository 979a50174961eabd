//! `inference classify`: score labels, or the next token, of texts.

use inference::{Classification, ClassifyOptions, LabelScore, Message, Prompt};
use serde::Serialize;

use crate::args::LoadArgs;
use crate::commands::Context;
use crate::failure::{Detail, Failure, Result};
use crate::json::TokenFields;
use crate::output::Output;
use crate::{input, load, table};

pub(crate) const EXAMPLES: &str = "\
Examples:
  inference classify \"I love this little house.\" \"The soup was cold and sad.\"
  inference classify --labels \" dog, cat\" \"The animal that barks is the\"
  inference classify --chat --labels yes,no --pattern \"Is this spam? {}\" - < mails
  inference classify --json \"What a lovely day!\" | jq '.[0].label'";

/// The question that the embedded model was trained to answer.
const SENTIMENT_PATTERN: &str = "Is this sentence positive or negative? {}";
const SENTIMENT_LABELS: [&str; 2] = ["positive", "negative"];

/// Score labels, or the next token, of texts
///
/// Nothing is generated: each label is scored by the first token with which the model would
/// continue the text. Without --labels the likeliest next tokens are shown.
///
/// With the embedded model each TEXT is asked for its sentiment, as it was trained to answer:
/// --chat, --labels positive,negative and --pattern "Is this sentence positive or negative? {}" are
/// the defaults, unless --pattern or other labels are given.
///
/// With --json: an array of objects with text, label, labels, token and prompt_tokens.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Texts; `-`, or none with piped input, reads one text per line
    #[arg(value_name = "TEXT")]
    texts: Vec<String>,

    /// Candidate answers, separated by commas. Repeatable
    #[arg(long, value_name = "LABELS", value_delimiter = ',', allow_hyphen_values = true)]
    labels: Vec<String>,

    /// Put each text into a user message of the model's chat template
    #[arg(long)]
    chat: bool,

    /// What is asked about each text, with {} for the text [default: {}]
    #[arg(long, value_name = "PATTERN")]
    pattern: Option<String>,

    /// How many of the likeliest next tokens to report [default: 5 without labels]
    #[arg(long, value_name = "N")]
    top: Option<usize>,

    #[command(flatten)]
    load: LoadArgs,
}

/// What is asked about every text.
#[derive(Debug, PartialEq, Eq)]
struct Question {
    chat: bool,
    pattern: String,
    labels: Vec<String>,
}

#[derive(Serialize)]
struct Json<'a> {
    text: &'a str,
    label: Option<&'a str>,
    labels: &'a [LabelScore],
    token: TokenFields<'a>,
    prompt_tokens: usize,
}

#[derive(Serialize)]
struct JsonFailure<'a> {
    text: &'a str,
    error: Detail,
}

#[derive(Serialize)]
#[serde(untagged)]
enum JsonItem<'a> {
    Scored(Json<'a>),
    Failed(JsonFailure<'a>),
}

pub(crate) fn run(args: &Args, context: &Context) -> Result<()> {
    let question = args.question()?;
    let texts = texts(&args.texts)?;
    let model = load::load(&args.load, None, context)?;
    let prompts = texts.iter().map(|text| question.prompt(text)).collect();
    let mut options = ClassifyOptions::new().with_labels(question.labels.clone());
    options.top = args.top;
    let results = model.classify(prompts, &options).map_err(Failure::Request)?;
    let mut scored = Vec::new();
    for result in results {
        scored.push(result.map_err(Failure::Request));
    }
    let mut output = Output::new();
    if context.json {
        let items = texts.iter().zip(&scored).map(|(text, result)| match result {
            Ok(classification) => JsonItem::Scored(json(text, classification)),
            Err(failure) => {
                JsonItem::Failed(JsonFailure { text: text.as_str(), error: failure.detail() })
            }
        });
        output.json(&items.collect::<Vec<_>>())?;
    } else {
        output.text(&report(args, &texts, &scored))?;
    }
    finish(context, &texts, scored)
}

impl Args {
    fn question(&self) -> Result<Question> {
        let sentiment = self.load.source.is_embedded()
            && self.pattern.is_none()
            && self.labels.iter().all(|label| SENTIMENT_LABELS.contains(&label.as_str()));
        let question = if sentiment {
            let labels = if self.labels.is_empty() {
                SENTIMENT_LABELS.map(str::to_owned).to_vec()
            } else {
                self.labels.clone()
            };
            Question { chat: true, pattern: SENTIMENT_PATTERN.to_owned(), labels }
        } else {
            let pattern = self.pattern.clone().unwrap_or_else(|| "{}".to_owned());
            Question { chat: self.chat, pattern, labels: self.labels.clone() }
        };
        if !question.pattern.contains("{}") {
            let message = format!("--pattern `{}` has no {{}} for the text", question.pattern);
            return Err(Failure::Usage(message));
        }
        Ok(question)
    }
}

impl Question {
    fn prompt(&self, text: &str) -> Prompt {
        let text = self.pattern.replace("{}", text);
        if self.chat { vec![Message::user(text)].into() } else { text.into() }
    }
}

fn texts(arguments: &[String]) -> Result<Vec<String>> {
    match arguments {
        [] => lines(None),
        [one] if one == input::STDIN => lines(Some(one)),
        texts => Ok(texts.to_vec()),
    }
}

fn lines(argument: Option<&str>) -> Result<Vec<String>> {
    let text = input::text_or_stdin(argument, "TEXT")?;
    let lines: Vec<_> = text.lines().map(str::to_owned).collect();
    if lines.is_empty() {
        return Err(Failure::Usage("standard input holds no text".to_owned()));
    }
    Ok(lines)
}

fn json<'a>(text: &'a str, classification: &'a Classification) -> Json<'a> {
    Json {
        text,
        label: classification.best().map(|score| score.label.as_str()),
        labels: &classification.labels,
        token: TokenFields::from(&classification.token),
        prompt_tokens: classification.prompt_tokens,
    }
}

/// The table for a person; texts that failed are left to the error report.
fn report(args: &Args, texts: &[String], scored: &[Result<Classification>]) -> String {
    let width = table::terminal_width();
    let mut rows = Vec::new();
    for (text, result) in texts.iter().zip(scored) {
        let Ok(classification) = result else { continue };
        let percent = |p: f32| format!("{:5.1}%", p * 100.0);
        match classification.best() {
            Some(best) => {
                let label = best.label.trim().to_owned();
                let shown = table::excerpt(text, width.saturating_sub(label.len() + 10));
                rows.push(vec![label, percent(best.probability), shown]);
            }
            None => rows.push(vec![table::excerpt(text, width)]),
        }
        if classification.labels.is_empty() || args.top.is_some() {
            for token in &classification.token.top_logprobs {
                rows.push(vec![
                    format!("  {:?}", token.text),
                    percent(token.logprob.exp()),
                    format!("id {}", token.id),
                ]);
            }
        }
    }
    table::render(&rows, width)
}

/// Tells what failed; the first failure is the command's.
fn finish(context: &Context, texts: &[String], scored: Vec<Result<Classification>>) -> Result<()> {
    let mut first = Ok(());
    for (index, (text, result)) in texts.iter().zip(scored).enumerate() {
        let Err(failure) = result else { continue };
        let subject = format!("text {} ({}) failed", index + 1, table::excerpt(text, 40));
        match first {
            Ok(()) => {
                context.notes.note(&subject);
                first = Err(failure);
            }
            Err(_) => {
                context.notes.note(&subject);
                failure.report(context.json);
            }
        }
    }
    first
}
