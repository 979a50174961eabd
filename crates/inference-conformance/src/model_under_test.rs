//! The models that a suite runs and what is known about them.

use inference_core::{CapabilityId, ChatPrompt, ErrorKind, LoadOptions, ModelSource, TokenId};

/// A model that the suite runs, with whatever is known about it as plain data.
///
/// Name and source are enough: prompts are then made from the vocabulary, and
/// behaviours that need more are reported as not applicable, with what is
/// missing.
///
/// ```
/// use inference_conformance::{ModelUnderTest, Reference};
///
/// let model = ModelUnderTest::new("echo", "echo")
///     .with_prompts(vec![vec![72, 105], vec![72, 101, 108, 108, 111], vec![33]])
///     .with_eos(vec![0])
///     .with_reference(Reference::new(vec![72, 105], vec![72, 105]));
/// assert_eq!(model.name, "echo");
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ModelUnderTest {
    /// What reports call it.
    pub name: String,
    /// Where the backend loads it from.
    pub source: ModelSource,
    /// The options that it is loaded with. Single behaviours set further ones.
    pub load: LoadOptions,
    /// Prompts of unequal lengths, as ids. Default: made from the vocabulary.
    pub prompts: Vec<Vec<TokenId>>,
    /// What a reference implementation makes of prompts.
    pub references: Vec<Reference>,
    /// The largest absolute difference of logits to the reference that counts
    /// as equal. Default: 0.001.
    pub tolerance: f32,
    /// The largest absolute difference between the logits of a request alone
    /// and in company. Default: 0, bit for bit.
    pub company_tolerance: f32,
    /// End-of-sequence tokens, where they are known.
    pub eos: Vec<TokenId>,
    /// Texts that the tokenizer must give back unchanged. The suite has some
    /// of its own, for which it asks less.
    pub texts: Vec<String>,
    /// Texts and their ids without special tokens.
    pub encodings: Vec<(String, Vec<TokenId>)>,
    /// Conversations and what the chat template makes of them.
    pub templates: Vec<TemplateGolden>,
    /// Conversations that the chat template raises on.
    pub refused_chats: Vec<ChatPrompt>,
    /// Damaged or unsuitable models, and how loading them has to fail.
    pub refusals: Vec<LoadRefusal>,
    /// A different model for the same backend.
    pub other: Option<ModelSource>,
    /// Whether what follows a position changes it, because the encoding of
    /// positions depends on the length of the whole prompt, as that of LongRoPE
    /// does. Default: false.
    pub length_changes_positions: bool,
    /// Abilities that the backend has, but not with this model: they are found
    /// to be absent as undeclared ones are.
    pub lacks: Vec<CapabilityId>,
}

impl ModelUnderTest {
    /// A model of which nothing more is known.
    pub fn new(name: impl Into<String>, source: impl Into<ModelSource>) -> Self {
        Self {
            name: name.into(),
            source: source.into(),
            load: LoadOptions::new(),
            prompts: Vec::new(),
            references: Vec::new(),
            tolerance: 1e-3,
            company_tolerance: 0.0,
            eos: Vec::new(),
            texts: Vec::new(),
            encodings: Vec::new(),
            templates: Vec::new(),
            refused_chats: Vec::new(),
            refusals: Vec::new(),
            other: None,
            length_changes_positions: false,
            lacks: Vec::new(),
        }
    }

    /// Adds an ability that the backend has, but not with this model.
    #[must_use]
    pub fn with_lack(mut self, ability: CapabilityId) -> Self {
        self.lacks.push(ability);
        self
    }

    /// Sets the options that it is loaded with.
    #[must_use]
    pub fn with_load(mut self, options: LoadOptions) -> Self {
        self.load = options;
        self
    }

    /// Sets the prompts.
    #[must_use]
    pub fn with_prompts(mut self, prompts: Vec<Vec<TokenId>>) -> Self {
        self.prompts = prompts;
        self
    }

    /// Adds what a reference implementation makes of a prompt.
    #[must_use]
    pub fn with_reference(mut self, reference: Reference) -> Self {
        self.references.push(reference);
        self
    }

    /// Sets the largest difference of logits to the reference.
    #[must_use]
    pub fn with_tolerance(mut self, tolerance: f32) -> Self {
        self.tolerance = tolerance;
        self
    }

    /// Sets the largest difference of logits between alone and in company.
    #[must_use]
    pub fn with_company_tolerance(mut self, tolerance: f32) -> Self {
        self.company_tolerance = tolerance;
        self
    }

    /// Sets the end-of-sequence tokens.
    #[must_use]
    pub fn with_eos(mut self, ids: Vec<TokenId>) -> Self {
        self.eos = ids;
        self
    }

    /// Adds a text that the tokenizer must give back unchanged.
    #[must_use]
    pub fn with_text(mut self, text: impl Into<String>) -> Self {
        self.texts.push(text.into());
        self
    }

    /// Adds a text and its ids without special tokens.
    #[must_use]
    pub fn with_encoding(mut self, text: impl Into<String>, ids: Vec<TokenId>) -> Self {
        self.encodings.push((text.into(), ids));
        self
    }

    /// Adds a conversation and what the chat template makes of it.
    #[must_use]
    pub fn with_template(mut self, chat: impl Into<ChatPrompt>, text: impl Into<String>) -> Self {
        self.templates.push(TemplateGolden { chat: chat.into(), text: text.into() });
        self
    }

    /// Adds a conversation that the chat template raises on.
    #[must_use]
    pub fn with_refused_chat(mut self, chat: impl Into<ChatPrompt>) -> Self {
        self.refused_chats.push(chat.into());
        self
    }

    /// Adds a model that has to be refused.
    #[must_use]
    pub fn with_refusal(mut self, refusal: LoadRefusal) -> Self {
        self.refusals.push(refusal);
        self
    }

    /// Sets whether the encoding of positions depends on the length of the
    /// whole prompt.
    #[must_use]
    pub fn with_length_changes_positions(mut self, changes: bool) -> Self {
        self.length_changes_positions = changes;
        self
    }

    /// Sets a different model for the same backend.
    #[must_use]
    pub fn with_other(mut self, source: impl Into<ModelSource>) -> Self {
        self.other = Some(source.into());
        self
    }
}

/// What a reference implementation makes of a prompt.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Reference {
    /// The prompt's ids.
    pub prompt: Vec<TokenId>,
    /// Greedy ids that follow, end-of-sequence tokens ignored.
    pub greedy: Vec<TokenId>,
    /// For each of them by how much its logit exceeds the second largest. The
    /// comparison ends where the tolerance could turn the order; empty: it
    /// never could.
    pub margins: Vec<f32>,
    /// Logits after the last token of the prompt, `[vocab]`; empty: unknown.
    pub last_logits: Vec<f32>,
}

impl Reference {
    /// A prompt and the greedy ids that follow.
    #[must_use]
    pub fn new(prompt: Vec<TokenId>, greedy: Vec<TokenId>) -> Self {
        Self { prompt, greedy, ..Self::default() }
    }

    /// Sets by how much each greedy token's logit exceeds the second largest.
    #[must_use]
    pub fn with_margins(mut self, margins: Vec<f32>) -> Self {
        self.margins = margins;
        self
    }

    /// Sets the logits after the last token of the prompt.
    #[must_use]
    pub fn with_last_logits(mut self, logits: Vec<f32>) -> Self {
        self.last_logits = logits;
        self
    }
}

/// A conversation and what the model's chat template makes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TemplateGolden {
    /// The conversation.
    pub chat: ChatPrompt,
    /// The rendered text, special tokens included.
    pub text: String,
}

/// A damaged or unsuitable model and how loading it has to fail.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LoadRefusal {
    /// What is wrong with it.
    pub name: String,
    /// Where it lies.
    pub source: ModelSource,
    /// The kind of the error.
    pub kind: ErrorKind,
    /// What the error has to name: a file, field or tensor.
    pub names: String,
}

impl LoadRefusal {
    /// A model that has to be refused with an error of this kind which names
    /// this file, field or tensor.
    pub fn new(
        name: impl Into<String>,
        source: impl Into<ModelSource>,
        kind: ErrorKind,
        names: impl Into<String>,
    ) -> Self {
        Self { name: name.into(), source: source.into(), kind, names: names.into() }
    }
}
