//! Llama 1 to 3, and the many models that are Llamas.

use inference_core::Result;

use super::shared::{Defaults, decoder, read_biases};
use super::{DecoderConfig, Fields};

pub(super) fn map(fields: &Fields<'_>) -> Result<DecoderConfig> {
    let mut config = decoder(fields, &Defaults::default())?;
    read_biases(&mut config, fields, true)?;
    Ok(config)
}
