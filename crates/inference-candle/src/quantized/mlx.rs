//! MLX's affine quantization.
//!
//! `weight` u32 `[out, in * bits / 32]`, codes from the lowest bits up, so
//! that its little-endian bytes are the codes in order; `scales` and `biases`
//! `[out, in / group]`. The embedding may be quantized too.

use inference_core::{Error, Result};

use super::affine::{AffineRows, Offset};
use super::scheme::MlxSettings;
use super::tensors::{Bytes, FloatType, matrix, misfit, required, shaped};
use crate::SafetensorsFiles;
use crate::weights::ElementType;

pub(super) fn read(
    files: &SafetensorsFiles,
    settings: &MlxSettings,
    module: &str,
) -> Result<Option<AffineRows>> {
    let name = format!("{module}.weight");
    let Some(weight) = files.raw(&name) else { return Ok(None) };
    if weight.kind != ElementType::U32 {
        return Ok(None);
    }
    let Some((bits, group)) = settings.of(module) else {
        return Err(Error::invalid_model(
            "config.json",
            format!("quantization.{module}"),
            format!("bits and group size, because tensor `{name}` is U32"),
            "false",
        ));
    };
    let [rows, words] = matrix(&weight, &name, &[ElementType::U32])?;
    let per_word = 32 / bits as usize;
    let columns = words.saturating_mul(per_word);
    if !columns.is_multiple_of(group) {
        let expected = format!("{bits}-bit codes in whole groups of {group}");
        return Err(misfit(&weight, &name, expected));
    }
    let scales_name = format!("{module}.scales");
    let scales = required(files, &scales_name)?;
    shaped(&scales, &scales_name, &[rows, columns / group])?;
    let float = FloatType::of(&scales, &scales_name)?;
    let biases_name = format!("{module}.biases");
    let biases = required(files, &biases_name)?;
    shaped(&biases, &biases_name, &scales.shape)?;
    if biases.kind != scales.kind {
        return Err(misfit(&biases, &biases_name, format!("{} as the scales", scales.kind.name())));
    }
    Ok(Some(AffineRows {
        name: if bits == 4 { "mlx-int4" } else { "mlx-int8" },
        shape: [rows, columns],
        bits,
        group,
        codes: Bytes::of(&weight),
        scales: Bytes::of(&scales),
        float,
        offset: Offset::Bias(Bytes::of(&biases)),
        group_of: None,
    }))
}
