//! OLMo 2: norms after the blocks, queries and keys normalised over all heads.

use inference_core::Result;

use super::shared::{Defaults, decoder, read_biases};
use super::{DecoderConfig, Fields, NormLayout, QkNorm};

pub(super) fn map(fields: &Fields<'_>) -> Result<DecoderConfig> {
    let defaults = Defaults { norm_eps: 1e-5, ..Defaults::default() };
    let mut config = decoder(fields, &defaults)?;
    config.norms = NormLayout::Post;
    config.qk_norm = Some(QkNorm::AllHeads);
    read_biases(&mut config, fields, false)?;
    Ok(config)
}
