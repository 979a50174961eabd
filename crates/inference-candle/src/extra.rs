//! Architectures outside the parametric decoder, through candle-transformers
//! (feature `extra-architectures`).
//!
//! A model there keeps the keys and values, or the state, of one sequence.
//! [`SequenceRunner`](runner::SequenceRunner) gives each sequence of the
//! engine an instance of its own, over shared weights, and computes the
//! sequences of a step one after the other. Weights are widened to f32.
//!
//! A file per architecture maps `config.json` and refuses what
//! candle-transformers does not compute as transformers does.

#[cfg(feature = "extra-architectures")]
mod description;
#[cfg(feature = "extra-architectures")]
mod falcon;
#[cfg(feature = "extra-architectures")]
mod gpt_bigcode;
#[cfg(feature = "extra-architectures")]
mod helium;
#[cfg(feature = "extra-architectures")]
mod instances;
#[cfg(feature = "extra-architectures")]
mod load;
#[cfg(feature = "extra-architectures")]
mod mamba;
#[cfg(feature = "extra-architectures")]
mod mamba2;
#[cfg(feature = "extra-architectures")]
mod olmo;
#[cfg(feature = "extra-architectures")]
mod phi;
#[cfg(feature = "extra-architectures")]
mod runner;
#[cfg(feature = "extra-architectures")]
mod stablelm;
#[cfg(feature = "extra-architectures")]
mod starcoder2;
#[cfg(feature = "extra-architectures")]
mod tensors;
#[cfg(feature = "extra-architectures")]
#[cfg(test)]
mod tests;

#[cfg(feature = "extra-architectures")]
pub(crate) use load::load;

/// Every such architecture: `model_type`, and transformers' class.
const ARCHITECTURES: &[(&str, &str)] = &[
    ("falcon", "FalconForCausalLM"),
    ("gpt_bigcode", "GPTBigCodeForCausalLM"),
    ("helium", "HeliumForCausalLM"),
    ("mamba", "MambaForCausalLM"),
    ("mamba2", "Mamba2ForCausalLM"),
    ("olmo", "OlmoForCausalLM"),
    ("phi", "PhiForCausalLM"),
    ("stablelm", "StableLmForCausalLM"),
    ("starcoder2", "Starcoder2ForCausalLM"),
];

/// The architectures that the feature `extra-architectures` adds, by
/// `model_type`, sorted. They are named without the feature too.
pub fn extra_architectures() -> impl Iterator<Item = &'static str> {
    ARCHITECTURES.iter().map(|(name, _)| *name)
}
