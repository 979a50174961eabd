//! Load options as llama.cpp's parameters.

use inference_core::{Error, KvDtype, LoadOptions, Precision, Result};
use llama_cpp_2::context::params::KvCacheType;

use crate::device::Devices;

/// The most sequences: llama.cpp has a set of 256.
pub(crate) const MAX_SEQUENCES: usize = 256;

/// Refuses by name what llama.cpp, or this crate, does not do.
pub(crate) fn refuse(devices: Devices, options: &LoadOptions, layers_on_gpu: bool) -> Result<()> {
    let backend = devices.backend_name();
    for (option, given) in [
        ("adapter_budget", options.adapter_budget.is_some()),
        ("quantize", options.quantize.is_some()),
        ("affinity", options.affinity.is_some()),
        ("precision", options.precision.is_some_and(|precision| precision != Precision::Fast)),
    ] {
        if given {
            return Err(Error::unsupported(format!("the backend `{backend}`"), option));
        }
    }
    if let Some(layers) = options.gpu_layers.filter(|layers| *layers > 0 && !layers_on_gpu) {
        let what = format!("gpu_layers = {layers} without a GPU");
        return Err(Error::unsupported(format!("the backend `{backend}`"), what));
    }
    if let Some(slots) = options.parallel_slots.filter(|slots| *slots > MAX_SEQUENCES) {
        let expected = format!("at most {MAX_SEQUENCES}");
        return Err(Error::invalid_option("parallel_slots", slots, expected));
    }
    Ok(())
}

/// Layers on the GPU, as llama.cpp counts them: the output is one more.
pub(crate) fn gpu_layers(options: &LoadOptions, layers_on_gpu: bool) -> u32 {
    match options.gpu_layers {
        _ if !layers_on_gpu => 0,
        None => u32::MAX >> 1,
        Some(layers) => u32::try_from(layers).unwrap_or(u32::MAX >> 1),
    }
}

/// The threads of llama.cpp.
pub(crate) fn threads(options: &LoadOptions) -> Result<i32> {
    let available = || std::thread::available_parallelism().map_or(1, |threads| threads.get());
    let threads = options.threads.unwrap_or_else(available);
    // ggml's own limit, GGML_MAX_N_THREADS.
    match i32::try_from(threads) {
        Ok(count @ 1..=512) => Ok(count),
        _ => Err(Error::invalid_option("threads", threads, "1 to 512")),
    }
}

/// When attention is computed in tiles, which llama.cpp does with keys and
/// values in f16: never where they are stored in f32, for those would be rounded
/// first, always where only tiles can read them, and else as it finds best.
/// The numbers are those of `llama_flash_attn_type`.
pub(crate) fn flash_attention(dtype: KvDtype) -> i32 {
    match dtype {
        KvDtype::F32 => 0,
        KvDtype::Q8_0 => 1,
        _ => -1,
    }
}

/// ggml's type of a KV type, and its bytes per 32 elements.
pub(crate) fn kv_type(dtype: KvDtype) -> Result<(KvCacheType, u64)> {
    match dtype {
        KvDtype::F32 => Ok((KvCacheType::F32, 128)),
        KvDtype::F16 => Ok((KvCacheType::F16, 64)),
        KvDtype::Bf16 => Ok((KvCacheType::BF16, 64)),
        KvDtype::Q8_0 => Ok((KvCacheType::Q8_0, 34)),
        other => Err(Error::unsupported("llama.cpp", format!("kv_dtype = {other}"))),
    }
}
