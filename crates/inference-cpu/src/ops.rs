//! The operations of the CPU.

use std::sync::{Arc, Mutex};

use candle_core::{Device, Tensor};
use inference_candle::{
    Activation, AttentionSpec, BatchView, Decoder, KvCache, KvLayout, Linear, MatrixView, Mlp,
    MlpBlock, Norm, Ops, StepContext, Weight, WeightType, reference,
};
use inference_core::{Error, Precision, Result};

use crate::CpuOptions;
use crate::arena::Arena;
use crate::attention::{Keys, Operands, Rows, attend, store};
use crate::block_product::BlockProduct;
use crate::decoded_product::DecodedProduct;
use crate::dense_product::DenseProduct;
use crate::kernels::{Element, Kernels, Stored, Tier};
use crate::kv_cache::{CpuKvCache, LayerBlocks, Pool, Pools};
use crate::linear::{CpuLinear, Product};
use crate::matrix_product::multiply;
use crate::packed_product::PackedProduct;
use crate::view::{AnyFloats, Contiguous, shapes, tensor};
use crate::weight_memory::WeightMemory;
use crate::workers::Workers;

/// Elements per task of elementwise operations.
const CHUNK: usize = 1 << 14;

/// [`Ops`] with kernels of the CPU's own instruction set, on threads of its
/// own. Results cannot be differentiated; the training of adapters knows its own
/// way back.
#[derive(Clone, Debug)]
pub struct CpuOps {
    pub(crate) device: Device,
    pub(crate) kernels: &'static Kernels,
    pub(crate) workers: Workers,
    precision: Precision,
    memory: WeightMemory,
    /// The buffers of a step.
    pub(crate) arena: Arc<Mutex<Arena>>,
}

impl CpuOps {
    /// Starts the worker threads.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidOption`](inference_core::ErrorKind::InvalidOption)
    /// for a number of threads or a CPU that cannot be,
    /// [`ErrorKind::Unsupported`](inference_core::ErrorKind::Unsupported) for
    /// an instruction set that this CPU lacks, or for an affinity where the
    /// operating system has none.
    pub fn new(options: &CpuOptions) -> Result<Self> {
        let tier = options.tier.unwrap_or_else(Tier::best);
        let kernels = tier
            .kernels()
            .ok_or_else(|| Error::unsupported("this CPU", format!("the kernels `{tier}`")))?;
        let workers = Workers::new(&options.threads)?;
        let precision = options.precision.unwrap_or(Precision::Fast);
        let memory = WeightMemory::default();
        let arena = Arc::default();
        Ok(Self { device: Device::Cpu, kernels, workers, precision, memory, arena })
    }

    /// The instruction set in use.
    #[must_use]
    pub fn tier(&self) -> Tier {
        self.kernels.tier
    }

    /// The number of threads that compute, the calling one included.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.workers.threads()
    }

    /// The embeddings of tokens, `[ids, hidden]`.
    pub(crate) fn embed(&self, table: &Weight, ids: &[u32], out: &mut [f32]) -> Result<()> {
        let &[_, hidden] = table.shape() else {
            return Err(shapes("embedding", &[table.shape()]));
        };
        if out.len() != ids.len() * hidden {
            return Err(shapes("embedding", &[&[out.len()], &[ids.len(), hidden]]));
        }
        match table.as_tensor() {
            Some(table) => {
                let rows = Contiguous::new(table, "embedding table")?;
                let rows = rows.elements()?;
                match rows.any()? {
                    AnyFloats::F32(rows) => gather(rows, ids, hidden, out),
                    AnyFloats::F16(rows) => gather(rows, ids, hidden, out),
                    AnyFloats::Bf16(rows) => gather(rows, ids, hidden, out),
                }
            }
            None => {
                let mut rows = ids.iter().zip(out.chunks_exact_mut(hidden.max(1)));
                rows.try_for_each(|(id, out)| table.decode_rows(*id as usize, out))
            }
        }
    }

    /// Attention of `[tokens, heads * head_dim]` queries, whose keys and values
    /// are `[tokens, kv_heads * head_dim]` each; `out` is as the queries.
    pub(crate) fn attend_slices(
        &self,
        [q, k, v]: [&[f32]; 3],
        cache: Option<(&mut dyn KvCache, usize)>,
        batch: &BatchView<'_>,
        spec: &AttentionSpec,
        out: &mut [f32],
    ) -> Result<()> {
        let AttentionSpec { num_heads, num_kv_heads, head_dim, .. } = *spec;
        let tokens = batch.positions.len();
        let covered =
            batch.sequences.iter().try_fold(0, |at, s| (s.start == at).then(|| at + s.len));
        if q.len() != tokens * num_heads * head_dim
            || k.len() != tokens * num_kv_heads * head_dim
            || v.len() != k.len()
            || out.len() != q.len()
            || num_kv_heads == 0
            || !num_heads.is_multiple_of(num_kv_heads)
            || head_dim == 0
            || spec.window == Some(0)
            || covered != Some(tokens)
        {
            return Err(shapes("attention", &[&[q.len(), k.len(), v.len(), out.len()], &[tokens]]));
        }
        let kv_stride = num_kv_heads * head_dim;
        let operands = Operands {
            q: Rows { data: q, stride: num_heads * head_dim },
            k: Rows { data: k, stride: kv_stride },
            v: Rows { data: v, stride: kv_stride },
        };
        match cache {
            None => {
                if batch.sequences.iter().any(|sequence| sequence.position != 0) {
                    return Err(Error::engine_message("earlier keys are wanted without a cache"));
                }
                let keys = Keys::Step { keys: k, values: v, stride: kv_stride };
                attend(self.kernels, &self.workers, &operands, &keys, batch, spec, out)
            }
            Some((cache, layer)) => {
                let Some(cache) = cache.as_any_mut().downcast_mut::<CpuKvCache>() else {
                    return Err(Error::engine_message("a KV pool of another implementation"));
                };
                let layout = cache.layout().clone();
                let blocks = LayerBlocks { layout: &layout, layer };
                if layer >= layout.num_layers
                    || layout.num_kv_heads != num_kv_heads
                    || layout.head_dim != head_dim
                {
                    let found = [layout.num_layers, layout.num_kv_heads, layout.head_dim];
                    return Err(shapes("KV pool", &[&found, &[layer, num_kv_heads, head_dim]]));
                }
                match &mut cache.pools {
                    Pools::F32(pool) => self.attend_pool(pool, blocks, &operands, batch, spec, out),
                    Pools::F16(pool) => self.attend_pool(pool, blocks, &operands, batch, spec, out),
                    Pools::Bf16(pool) => {
                        self.attend_pool(pool, blocks, &operands, batch, spec, out)
                    }
                    Pools::Q8(pool) => self.attend_pool(pool, blocks, &operands, batch, spec, out),
                }
            }
        }
    }

    fn attend_pool<T: Stored>(
        &self,
        pool: &mut Pool<T>,
        blocks: LayerBlocks<'_>,
        operands: &Operands<'_>,
        batch: &BatchView<'_>,
        spec: &AttentionSpec,
        out: &mut [f32],
    ) -> Result<()> {
        store(self.kernels, &self.workers, pool, blocks, operands, batch)?;
        let keys = Keys::Paged { pool, blocks };
        attend(self.kernels, &self.workers, operands, &keys, batch, spec, out)
    }
}

impl Ops for CpuOps {
    fn device(&self) -> &Device {
        &self.device
    }

    fn for_each(&self, items: usize, work: usize, task: &(dyn Fn(usize) + Sync)) {
        self.workers.for_each(items, work, task);
    }

    fn multiply(
        &self,
        a: &MatrixView<'_>,
        b: &MatrixView<'_>,
        c: &mut [f32],
        add: bool,
    ) -> Result<()> {
        multiply(self.kernels, a, b, c, add)
    }

    fn linear(&self, weight: &Weight, bias: Option<&Weight>) -> Result<Arc<dyn Linear>> {
        let (kernels, workers) = (self.kernels, self.workers.clone());
        let product: Box<dyn Product> = match weight.kind() {
            WeightType::Blocks(kind)
                if self.precision == Precision::Fast && (kernels.packed)(kind).is_some() =>
            {
                Box::new(PackedProduct::new(kernels, workers, &self.memory, weight, bias)?)
            }
            WeightType::Blocks(kind)
                if self.precision == Precision::Fast && (kernels.blocks)(kind).is_some() =>
            {
                Box::new(BlockProduct::new(kernels, workers, weight, bias)?)
            }
            WeightType::Blocks(_) | WeightType::Coded(_) => {
                Box::new(DecodedProduct::new(kernels, workers, weight, bias)?)
            }
            _ => Box::new(DenseProduct::new(kernels, workers, &self.memory, weight, bias)?),
        };
        Ok(Arc::new(CpuLinear { product }))
    }

    fn adapter_maps(&self, weights: &[(Weight, Option<Weight>)]) -> Result<Vec<Arc<dyn Linear>>> {
        let sizes = weights.iter().map(|(weight, _)| DenseProduct::packed_bytes(weight));
        let memory = WeightMemory::of(sizes, "an adapter")?;
        let work = weights.iter().map(|(weight, _)| weight.elem_count()).sum();
        let mut made: Vec<_> = weights.iter().map(|pair| (pair, None)).collect();
        self.workers.for_each_mut(&mut made, work, |((weight, bias), made)| {
            let (kernels, workers) = (self.kernels, self.workers.clone());
            let bias = bias.as_ref();
            *made = Some(DenseProduct::frozen(kernels, workers, &memory, weight, bias));
        });
        let missing = || Err(Error::engine_message("a map of an adapter was not made"));
        let map = |product: Option<Result<DenseProduct>>| -> Result<Arc<dyn Linear>> {
            Ok(Arc::new(CpuLinear { product: Box::new(product.unwrap_or_else(missing)?) }))
        };
        made.into_iter().map(|(_, product)| map(product)).collect()
    }

    fn kv_cache(&self, layout: &KvLayout) -> Result<Box<dyn KvCache>> {
        Ok(Box::new(CpuKvCache::new(layout, &self.workers)?))
    }

    fn embedding(&self, table: &Weight, ids: &[u32]) -> Result<Tensor> {
        let &[_, hidden] = table.shape() else {
            return Err(shapes("embedding", &[table.shape()]));
        };
        let mut out = vec![0.0f32; ids.len() * hidden];
        self.embed(table, ids, &mut out)?;
        tensor(out, (ids.len(), hidden))
    }

    fn rms_norm(&self, x: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor> {
        let (shape, len) = (x.shape().clone(), weight.elem_count());
        if x.dims().last() != Some(&len) || len == 0 {
            return Err(shapes("rms_norm", &[x.dims(), weight.dims()]));
        }
        let (x, weight) = (Contiguous::new(x, "norm input")?, Contiguous::new(weight, "norm")?);
        let (x, weight) = (x.elements()?, weight.elements()?);
        let (x, weight) = (x.f32()?, weight.f32()?);
        let mut out = vec![0.0f32; x.len()];
        self.norm_rows(x, weight, eps, &mut out)?;
        tensor(out, shape)
    }

    fn rope(&self, x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
        let shape = x.shape().clone();
        let (&[tokens, _, head_dim], &[angles, half]) = (x.dims(), cos.dims()) else {
            return Err(shapes("rope", &[x.dims(), cos.dims()]));
        };
        if sin.dims() != cos.dims() || angles != tokens || half * 2 > head_dim {
            return Err(shapes("rope", &[x.dims(), cos.dims(), sin.dims()]));
        }
        let x = Contiguous::new(x, "rope input")?;
        let mut out = x.elements()?.f32()?.to_vec();
        self.rotate(cos, sin, tokens, head_dim, [&mut *out])?;
        tensor(out, shape)
    }

    fn attention(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        cache: Option<(&mut dyn KvCache, usize)>,
        batch: &BatchView<'_>,
        spec: &AttentionSpec,
    ) -> Result<Tensor> {
        let AttentionSpec { num_heads, num_kv_heads, head_dim, .. } = *spec;
        let tokens = batch.positions.len();
        if q.dims() != [tokens, num_heads, head_dim]
            || k.dims() != [tokens, num_kv_heads, head_dim]
            || v.dims() != k.dims()
        {
            return Err(shapes("attention", &[q.dims(), k.dims(), v.dims(), &[tokens]]));
        }
        let q = Contiguous::new(q, "queries")?;
        let (k, v) = (Contiguous::new(k, "keys")?, Contiguous::new(v, "values")?);
        let (q, k, v) = (q.elements()?, k.elements()?, v.elements()?);
        let mut out = vec![0.0f32; tokens * num_heads * head_dim];
        self.attend_slices([q.f32()?, k.f32()?, v.f32()?], cache, batch, spec, &mut out)?;
        tensor(out, (tokens, num_heads * head_dim))
    }

    fn gated_activation(
        &self,
        gate: &Tensor,
        up: &Tensor,
        activation: Activation,
    ) -> Result<Tensor> {
        let shape = gate.shape().clone();
        if gate.dims() != up.dims() {
            return Err(shapes("gated_activation", &[gate.dims(), up.dims()]));
        }
        let (gate, up) = (Contiguous::new(gate, "gate")?, Contiguous::new(up, "up")?);
        let (gate, up) = (gate.elements()?, up.elements()?);
        let (gate, up) = (gate.f32()?, up.f32()?);
        let mut out = gate.to_vec();
        // An exponential costs some ten times a load.
        self.workers.for_each_chunk(&mut out, CHUNK, gate.len() * 8, |chunk, out| {
            let up = up.get(chunk * CHUNK..).unwrap_or_default();
            // SAFETY: the table is for this CPU, checked where it was chosen.
            unsafe { (self.kernels.gated)(out, up, activation) };
        });
        tensor(out, shape)
    }

    fn add_scaled(&self, x: &Tensor, y: &Tensor, scale: f32) -> Result<Tensor> {
        let shape = x.shape().clone();
        if x.dims() != y.dims() {
            return Err(shapes("add_scaled", &[x.dims(), y.dims()]));
        }
        let (x, y) = (Contiguous::new(x, "residual")?, Contiguous::new(y, "branch")?);
        let (x, y) = (x.elements()?, y.elements()?);
        let (x, y) = (x.f32()?, y.f32()?);
        let sums = x.iter().zip(y).map(|(x, y)| x + y * scale);
        tensor(sums.collect(), shape)
    }

    fn mlp_block(&self, block: &MlpBlock, x: &Tensor, step: &StepContext<'_>) -> Result<Tensor> {
        let Mlp::Moe(moe) = &block.mlp else {
            return reference::mlp_block(self, block, x, step);
        };
        let normed = |norm: &Option<Norm>, x: Tensor| match norm {
            Some(norm) => norm.forward(self, &x),
            None => Ok(x),
        };
        let input = Contiguous::new(&normed(&block.input_norm, x.clone())?, "experts' input")?;
        let mut output = vec![0.0f32; x.elem_count()];
        self.mixture(moe, input.elements()?.f32()?, &mut output)?;
        let output = normed(&block.output_norm, tensor(output, x.shape().clone())?)?;
        self.add_scaled(x, &output, block.residual_scale)
    }

    fn step(
        &self,
        decoder: &Decoder,
        tokens: &[u32],
        batch: &BatchView<'_>,
        cache: Option<&mut dyn KvCache>,
        logit_rows: &[usize],
    ) -> Result<Tensor> {
        self.workers.region(|| self.execute(decoder, tokens, batch, cache, logit_rows))
    }
}

/// Copies rows of `[vocab, hidden]`, widened.
fn gather<T: Element>(rows: &[T], ids: &[u32], hidden: usize, out: &mut [f32]) -> Result<()> {
    if hidden == 0 {
        return Ok(());
    }
    for (id, out) in ids.iter().zip(out.chunks_exact_mut(hidden)) {
        let start = (*id as usize).checked_mul(hidden);
        let Some(row) = start.and_then(|start| rows.get(start..start.checked_add(hidden)?)) else {
            let vocab = rows.len() / hidden;
            return Err(Error::engine_message(format!("token id {id}, vocabulary of {vocab}")));
        };
        for (out, value) in out.iter_mut().zip(row) {
            *out = value.widen();
        }
    }
    Ok(())
}
