//! How many parameters the tensors of a safetensors model stand for.

use crate::StoredTensor;
use crate::config::QuantizedBy;

/// Suffixes of what a quantization adds beside the weights.
const AUXILIARY: [&str; 14] = [
    ".scales",
    ".qzeros",
    ".g_idx",
    ".absmax",
    ".quant_map",
    ".nested_absmax",
    ".nested_quant_map",
    ".SCB",
    ".weight_format",
    "weight_scale",
    "weight_scale_inv",
    "input_scale",
    "_scales",
    ".weight_shape",
];

/// The parameters of all tensors: those of packed weights unpacked, scales and
/// zero points not counted.
pub(crate) fn count(tensors: &[StoredTensor], quantized: Option<&QuantizedBy>) -> u64 {
    tensors.iter().fold(0_u64, |sum, tensor| sum.saturating_add(parameters(tensor, quantized)))
}

fn parameters(tensor: &StoredTensor, quantized: Option<&QuantizedBy>) -> u64 {
    let elements = tensor.elements();
    let Some(by) = quantized else { return elements };
    let name = &*tensor.name;
    let auxiliary = AUXILIARY.iter().any(|suffix| name.ends_with(suffix))
        || name.contains(".quant_state.")
        // A minimum per group; elsewhere the name is a vector of biases.
        || (by.method == "mlx" && name.ends_with(".biases"));
    if auxiliary {
        return 0;
    }
    let width: u64 = match &*tensor.dtype {
        "U8" | "I8" => 8,
        "I32" | "U32" => 32,
        _ => return elements,
    };
    match by.bits.map(u64::from) {
        Some(bits) if (1..=width).contains(&bits) => (u128::from(elements) * u128::from(width)
            / u128::from(bits))
        .try_into()
        .unwrap_or(u64::MAX),
        _ => elements,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::Config;

    fn tensor(name: &str, dtype: &str, shape: &[u64]) -> StoredTensor {
        let (name, dtype, shape) = (name.to_owned(), dtype.to_owned(), shape.to_vec());
        StoredTensor { name, dtype, shape, bytes: 0 }
    }

    fn by(document: serde_json::Value) -> Option<QuantizedBy> {
        Config::new("config.json".to_owned(), document).unwrap().quantized().unwrap()
    }

    #[test]
    fn packed_weights_count_what_they_stand_for() {
        let mlx = by(json!({"quantization": {"bits": 4, "group_size": 64}}));
        let tensors = [
            tensor("l.weight", "U32", &[128, 16]),
            tensor("l.scales", "BF16", &[128, 2]),
            tensor("l.biases", "BF16", &[128, 2]),
            tensor("norm.weight", "BF16", &[128]),
        ];
        assert_eq!(count(&tensors, mlx.as_ref()), 128 * 128 + 128);
        let gptq = by(json!({"quantization_config": {"quant_method": "gptq", "bits": 4}}));
        let tensors = [
            tensor("l.qweight", "I32", &[16, 128]),
            tensor("l.qzeros", "I32", &[1, 16]),
            tensor("l.scales", "F16", &[1, 128]),
            tensor("l.g_idx", "I32", &[128]),
            tensor("l.bias", "F16", &[128]),
        ];
        assert_eq!(count(&tensors, gptq.as_ref()), 128 * 128 + 128);
        let fp8 = by(json!({"quantization_config": {"quant_method": "fp8"}}));
        let tensors =
            [tensor("l.weight", "F8_E4M3", &[8, 8]), tensor("l.weight_scale_inv", "F32", &[1, 1])];
        assert_eq!(count(&tensors, fp8.as_ref()), 64);
    }

    #[test]
    fn sizes_beyond_64_bits_stay_at_the_largest() {
        let huge = tensor("w", "F32", &[u64::MAX, 2]);
        assert_eq!(count(&[huge.clone(), huge], None), u64::MAX);
    }
}
