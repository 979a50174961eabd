//! Dense weights that become blocks while a model loads.

use std::cell::RefCell;
use std::sync::Arc;

use inference_core::{Error, LoadOptions, ProgressEvent, ProgressSink, QuantizeType, Result};
use inference_gguf::BlockType;
use rayon::{ThreadPool, ThreadPoolBuilder};

use super::encode::encode_rows;
use super::recipe::fitting;
use crate::weights::AlignedBytes;
use crate::{DecoderConfig, MlpSpec, Weight, WeightBytes, WeightSource, WeightType};

/// The phase that progress names.
const PHASE: &str = "quantize weights";

/// Bytes of the source that are read before its pages are given back.
const RELEASE: u64 = 64 << 20;

/// The weights of a dense source, each matrix quantized when it is asked for:
/// in parallel by rows, and one at a time, so that beside what is made only a
/// little of the source is in memory.
///
/// Norms, biases and routers stay as they are. The output head (and the
/// embedding, where it is the head) decides between tokens and gets 6 bits
/// where 4 are asked for, as in llama.cpp's files. Rows that are no whole
/// superblocks get the next type of smaller blocks (Q5_0 for Q4_K, Q8_0 for
/// Q6_K); rows that are no whole blocks of those stay as they are. Progress
/// says so.
pub(crate) struct QuantizedOnLoad {
    inner: Box<dyn WeightSource>,
    wanted: BlockType,
    router: &'static str,
    /// Without `.weight`; the tied embedding or the head.
    head: &'static str,
    pool: ThreadPool,
    progress: Option<ProgressSink>,
    matrices: u64,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    matrices: u64,
    unreleased: u64,
    /// Of which a note has been given: wanted type and row length.
    noted: Vec<(BlockType, usize)>,
}

impl QuantizedOnLoad {
    /// Quantizes what `inner` has, if the options ask for it.
    ///
    /// # Errors
    ///
    /// [`Engine`](inference_core::ErrorKind::Engine) where threads cannot be
    /// started.
    pub(crate) fn wrap(
        inner: Box<dyn WeightSource>,
        config: &DecoderConfig,
        options: &LoadOptions,
    ) -> Result<Box<dyn WeightSource>> {
        let Some(kind) = options.quantize else { return Ok(inner) };
        let wanted = match kind {
            QuantizeType::Q8_0 => BlockType::Q8_0,
            QuantizeType::Q4_0 => BlockType::Q4_0,
            QuantizeType::Q4K => BlockType::Q4K,
            QuantizeType::Q6K => BlockType::Q6K,
            other => return Err(Error::unsupported("loading", format!("quantize = {other}"))),
        };
        let pool = ThreadPoolBuilder::new()
            .num_threads(options.threads.unwrap_or(0))
            .build()
            .map_err(|e| Error::engine("starting threads to quantize", e))?;
        let names = &config.names;
        let source = Self {
            inner,
            wanted,
            router: names.router,
            head: if config.tied_head { names.embedding } else { names.head },
            pool,
            progress: options.progress.clone(),
            matrices: count_matrices(config),
            state: RefCell::default(),
        };
        let total = Some(source.matrices);
        source.report(ProgressEvent::Started { phase: PHASE.to_owned(), total, unit: "tensors" });
        Ok(Box::new(source))
    }

    fn report(&self, event: ProgressEvent) {
        if let Some(progress) = &self.progress {
            progress.report(&event);
        }
    }

    /// The type of a matrix; `None` where it stays as it is.
    fn choose(&self, name: &str, columns: usize) -> Option<BlockType> {
        let wanted = match self.wanted {
            BlockType::Q4_0 | BlockType::Q4K if name.ends_with(self.head) => BlockType::Q6K,
            wanted => wanted,
        };
        let kind = fitting(wanted, columns);
        let kind = (!kind.is_dense()).then_some(kind);
        let mut state = self.state.borrow_mut();
        if kind != Some(wanted) && !state.noted.contains(&(wanted, columns)) {
            state.noted.push((wanted, columns));
            let instead =
                kind.map_or_else(|| "stay as they are".to_owned(), |k| format!("become {k}"));
            let message = format!(
                "rows of {columns} values, as in `{name}.weight`, are no whole blocks of {wanted} \
                 and {instead}"
            );
            drop(state);
            self.report(ProgressEvent::Note { message });
        }
        kind
    }

    fn quantized(&self, name: &str, weight: Weight) -> Result<Weight> {
        if !matches!(weight.kind(), WeightType::Dense(_)) {
            let found = format!(
                "{}, but tensor `{}` is {} already",
                self.wanted,
                weight.name(),
                weight.kind()
            );
            let expected = "nothing for a model that is quantized";
            return Err(Error::invalid_option("quantize", found, expected));
        }
        let columns = weight.columns();
        let Some(kind) = self.choose(name, columns) else { return Ok(weight) };
        let bytes = kind.row_bytes(columns).and_then(|row| row.checked_mul(weight.rows()));
        let Some(bytes) = bytes.filter(|_| weight.as_tensor().is_none()) else {
            return Err(Error::engine_message(format!("quantizing {weight:?}")));
        };
        let mut blocks = AlignedBytes::zeroed(bytes);
        self.pool.install(|| encode_rows(&weight, 0, kind, None, blocks.as_mut()))?;
        let blocks: WeightBytes = Arc::new(blocks);
        let (shape, kind) = (weight.shape().to_vec(), WeightType::Blocks(kind));
        self.state.borrow_mut().unreleased += weight.stored_bytes();
        Weight::stored(weight.name(), shape, kind, blocks, 0..bytes)
    }

    /// Counts a matrix, and lets go of the source's pages now and then.
    fn advance(&self) {
        let mut state = self.state.borrow_mut();
        state.matrices += 1;
        let (done, all) = (state.matrices, state.matrices == self.matrices);
        if state.unreleased >= RELEASE || all {
            state.unreleased = 0;
            self.inner.release_pages();
        }
        drop(state);
        self.report(ProgressEvent::Advanced { phase: PHASE.to_owned(), done });
        if all {
            self.report(ProgressEvent::Finished { phase: PHASE.to_owned() });
        }
    }
}

impl WeightSource for QuantizedOnLoad {
    fn contains(&self, name: &str) -> bool {
        self.inner.contains(name)
    }

    fn get(&self, name: &str) -> Result<Weight> {
        let weight = self.inner.get(name)?;
        let Some(short) = name.strip_suffix(".weight") else { return Ok(weight) };
        if weight.shape().len() != 2 || short.ends_with(self.router) {
            return Ok(weight);
        }
        let weight = self.quantized(short, weight)?;
        self.advance();
        Ok(weight)
    }

    fn release_pages(&self) {
        self.inner.release_pages();
    }
}

/// The matrices of a decoder that are quantized.
fn count_matrices(config: &DecoderConfig) -> u64 {
    let attention = if config.fused_qkv { 2 } else { 4 };
    let layers = config.layers.iter().map(|layer| match layer.mlp {
        MlpSpec::Gated { .. } if config.fused_gate_up => attention + 2,
        MlpSpec::Gated { .. } => attention + 3,
        MlpSpec::Moe { experts, .. } => attention + 3 * experts as u64,
    });
    layers.sum::<u64>() + if config.tied_head { 1 } else { 2 }
}
