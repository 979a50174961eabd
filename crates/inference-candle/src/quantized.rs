//! Quantized safetensors: weights that stay in the codes of MLX, GPTQ, AWQ or
//! FP8 and are decoded a row at a time.
//!
//! [`QuantizationScheme`] is what `config.json` says; [`QuantizedWeights`]
//! puts it over [`SafetensorsFiles`]. Which modules are quantized, the tensors
//! themselves say: a module with the format's tensors is decoded by it, one
//! with an ordinary `.weight` is dense. The lists of exceptions in
//! `config.json` repeat that and are not needed.

mod affine;
mod awq;
mod fp8;
mod gptq;
mod mlx;
mod scheme;
mod tensors;

use std::sync::Arc;

use inference_core::Result;

use scheme::Method;
pub use scheme::QuantizationScheme;
pub(crate) use scheme::quantization_methods;

use crate::weights::WeightSource;
use crate::{RowCodec, SafetensorsFiles, Weight};

/// The weights of a quantized safetensors model.
///
/// MLX's and FP8's codes are used where they lie in the mapped file. GPTQ and
/// AWQ store columns, so [`get`](WeightSource::get) rearranges a matrix into
/// rows of the same size, in parallel, and drops the file's pages.
#[derive(Debug)]
pub struct QuantizedWeights {
    files: SafetensorsFiles,
    scheme: QuantizationScheme,
}

impl QuantizedWeights {
    /// The weights of `files` under `scheme`.
    #[must_use]
    pub fn new(files: SafetensorsFiles, scheme: QuantizationScheme) -> Self {
        Self { files, scheme }
    }

    /// The codec of a module that is quantized; `None` for a dense one.
    fn codec(&self, module: &str) -> Result<Option<Arc<dyn RowCodec>>> {
        let files = &self.files;
        Ok(match &self.scheme.method {
            Method::Mlx(settings) => shared(mlx::read(files, settings, module)?),
            Method::Gptq(settings) => shared(gptq::read(files, settings, module)?),
            Method::Awq(settings) => shared(awq::read(files, settings, module)?),
            Method::Fp8(settings) => shared(fp8::read(files, settings, module)?),
        })
    }
}

fn shared<C: RowCodec + 'static>(codec: Option<C>) -> Option<Arc<dyn RowCodec>> {
    codec.map(|codec| Arc::new(codec) as Arc<dyn RowCodec>)
}

impl WeightSource for QuantizedWeights {
    fn contains(&self, name: &str) -> bool {
        let packed = |module: &str| self.files.contains(&format!("{module}.qweight"));
        self.files.contains(name) || name.strip_suffix(".weight").is_some_and(packed)
    }

    fn get(&self, name: &str) -> Result<Weight> {
        if let Some(module) = name.strip_suffix(".weight")
            && let Some(codec) = self.codec(module)?
        {
            return Ok(Weight::coded(name, codec));
        }
        self.files.get(name)
    }

    fn release_pages(&self) {
        self.files.release_pages();
    }
}
