//! The demonstration model: its text, its tokenizer, its training.

pub(crate) mod architecture;
pub(crate) mod colours;
pub(crate) mod corpus;
pub(crate) mod evaluation;
pub(crate) mod export;
pub(crate) mod held_out;
pub(crate) mod instance;
pub(crate) mod loss;
pub(crate) mod model_card;
pub(crate) mod network;
pub(crate) mod optimizer;
pub(crate) mod packing;
pub(crate) mod phrase;
pub(crate) mod random;
pub(crate) mod reversing;
pub(crate) mod sentiment;
pub(crate) mod small_talk;
pub(crate) mod stories;
pub(crate) mod story_plots;
pub(crate) mod sums;
pub(crate) mod tokenizer;
pub(crate) mod training;
