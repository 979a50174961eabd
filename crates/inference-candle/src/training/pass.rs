//! One pass forward and back.

use candle_core::{D, Result as CandleResult, Tensor, Var};
use inference_core::{Error, Result, TrainingSequence};
use inference_engine::StepSequence;
use inference_lora::Draws;

use super::factors::Factors;
use super::ops::TrainingOps;
use crate::decoder::{capped, scaled};
use crate::{BatchView, Decoder, Ops, RopeAngles, StepContext};

/// Elements of the logits that exist at a time.
const LOGITS: usize = 1 << 22;

/// A batch as the decoder takes it: the sequences one after the other.
pub(super) struct Batch {
    tokens: Vec<u32>,
    sequences: Vec<StepSequence>,
    positions: Vec<usize>,
    /// Rows that predict a target, and those targets.
    rows: Vec<u32>,
    targets: Vec<u32>,
}

impl Batch {
    /// Checks sequences and lays them out.
    pub(super) fn new(
        decoder: &Decoder,
        context: usize,
        batch: &[TrainingSequence],
    ) -> Result<Self> {
        let mut this = Self {
            tokens: Vec::new(),
            sequences: Vec::new(),
            positions: Vec::new(),
            rows: Vec::new(),
            targets: Vec::new(),
        };
        for sequence in batch {
            sequence.validate()?;
            let (start, len) = (this.tokens.len(), sequence.ids.len());
            if len > context {
                let expected = format!("at most {context} tokens, the context");
                return Err(Error::invalid_input("training sequence", expected, len.to_string()));
            }
            let block_table = Vec::new();
            let step = StepSequence {
                start,
                len,
                position: 0,
                prompt_len: len,
                adapter: None,
                block_table,
            };
            this.sequences.push(step);
            this.positions.extend(0..len);
            let pairs = sequence.ids.iter().zip(&sequence.targets).enumerate().skip(1);
            for (index, (id, _)) in pairs.filter(|(_, (_, target))| **target) {
                this.rows.push((start + index - 1) as u32);
                this.targets.push(*id);
            }
            this.tokens.extend(&sequence.ids);
        }
        if this.rows.is_empty() {
            let expected = "at least one sequence with a target";
            return Err(Error::invalid_input("training batch", expected, "none"));
        }
        decoder.check(&this.tokens, &this.view(), &[])?;
        Ok(this)
    }

    fn view(&self) -> BatchView<'_> {
        BatchView { sequences: &self.sequences, positions: &self.positions, adapters: &[] }
    }
}

/// What a layer kept.
enum Kept {
    /// Its input; the graph is built again.
    Input(Tensor),
    /// The leaf that holds its input, and its output.
    Graph(Var, Tensor),
}

/// What going back needs.
pub(super) struct Graph {
    batch: Batch,
    dropout: Option<Draws>,
    /// From the lowest adapted layer on.
    kept: Vec<Kept>,
    /// The loss' gradient with respect to what the last layer put out.
    gradient: Option<Tensor>,
    /// Gradients of the head's factors.
    head: Vec<(usize, Tensor)>,
}

/// How a pass is computed.
#[derive(Clone, Copy)]
pub(super) enum Mode {
    /// The loss only.
    Evaluate,
    /// With what going back needs.
    Train {
        checkpointing: bool,
        /// Where dropout draws from.
        draws: Draws,
    },
}

fn error(error: candle_core::Error) -> Error {
    Error::engine("training", error)
}

/// The mean loss of a batch.
pub(super) fn forward(
    decoder: &Decoder,
    factors: &Factors,
    batch: Batch,
    mode: Mode,
) -> Result<(f32, Graph)> {
    let (train, checkpointing, dropout) = match mode {
        Mode::Evaluate => (false, false, None),
        Mode::Train { checkpointing, draws } => (true, checkpointing, Some(draws)),
    };
    let ops = TrainingOps { factors, device: decoder.ops().device().clone(), dropout };
    let ropes = angles(decoder, &ops, &batch)?;
    let table = ops.embedding(decoder.embedding(), &batch.tokens)?;
    let mut x = scaled(table, decoder.config().embedding_scale)?;
    let mut kept = Vec::new();
    for index in 0..decoder.layers().len() {
        if !train || index < factors.first_layer {
            // A graph of one layer at a time, for factors are variables.
            x = layer(decoder, &ops, &batch, &ropes, index, &x)?.detach();
        } else if checkpointing {
            let output = layer(decoder, &ops, &batch, &ropes, index, &x)?.detach();
            kept.push(Kept::Input(std::mem::replace(&mut x, output)));
        } else {
            let leaf = Var::from_tensor(&x).map_err(error)?;
            let output = layer(decoder, &ops, &batch, &ropes, index, leaf.as_tensor())?;
            x = output.detach();
            kept.push(Kept::Graph(leaf, output));
        }
    }
    let (loss, gradient, head) = head_loss(decoder, &ops, &batch, &x, train)?;
    if !loss.is_finite() {
        return Err(Error::engine_message(format!("the loss is {loss}")));
    }
    Ok((loss, Graph { batch, dropout, kept, gradient, head }))
}

/// Adds the gradients of a pass, times `weight`, to those of the factors.
pub(super) fn backward(
    decoder: &Decoder,
    factors: &mut Factors,
    graph: Graph,
    weight: f32,
) -> Result<()> {
    let Graph { batch, dropout, mut kept, gradient, head } = graph;
    let mut gathered: Vec<(usize, Tensor)> = head;
    if let (Some(mut gradient), false) = (gradient, kept.is_empty()) {
        let ops = TrainingOps { factors, device: decoder.ops().device().clone(), dropout };
        let ropes = angles(decoder, &ops, &batch)?;
        let first = decoder.layers().len() - kept.len();
        while let Some(one) = kept.pop() {
            let (leaf, output) = match one {
                Kept::Graph(leaf, output) => (leaf, output),
                Kept::Input(input) => {
                    let leaf = Var::from_tensor(&input).map_err(error)?;
                    let index = first + kept.len();
                    let output = layer(decoder, &ops, &batch, &ropes, index, leaf.as_tensor())?;
                    (leaf, output)
                }
            };
            let back = || output.mul(&gradient)?.sum_all()?.backward();
            let mut gradients = back().map_err(error)?;
            for (index, factor) in factors.factors.iter().enumerate() {
                if let Some(gradient) = gradients.remove(factor.variable.as_tensor()) {
                    gathered.push((index, gradient));
                }
            }
            if let Some(of_input) = gradients.remove(leaf.as_tensor()) {
                gradient = of_input;
            }
        }
    }
    check_finite(factors, &gathered)?;
    for (index, gradient) in &gathered {
        factors.gather(*index, gradient, weight)?;
    }
    Ok(())
}

/// Refuses a gradient that is not finite, before any is added.
fn check_finite(factors: &Factors, gathered: &[(usize, Tensor)]) -> Result<()> {
    for (index, gradient) in gathered {
        let sum = gradient.abs().and_then(|g| g.sum_all()?.to_scalar::<f32>()).map_err(error)?;
        if !sum.is_finite() {
            let name = factors.factors.get(*index).map_or("", |factor| factor.name.as_str());
            return Err(Error::engine_message(format!("the gradient of `{name}` is not finite")));
        }
    }
    Ok(())
}

fn angles(decoder: &Decoder, ops: &TrainingOps<'_>, batch: &Batch) -> Result<Vec<RopeAngles>> {
    let view = batch.view();
    decoder.ropes().iter().map(|rope| rope.angles(&view, ops.device())).collect()
}

fn layer(
    decoder: &Decoder,
    ops: &TrainingOps<'_>,
    batch: &Batch,
    ropes: &[RopeAngles],
    index: usize,
    x: &Tensor,
) -> Result<Tensor> {
    let Some(layer) = decoder.layers().get(index) else {
        return Err(Error::engine_message(format!("no layer {index}")));
    };
    let view = batch.view();
    let context = StepContext { batch: &view, ropes };
    let x = ops.attention_block(&layer.attention, x, &context, None)?;
    ops.mlp_block(&layer.mlp, &x, &context)
}

/// Mean loss, its gradient with respect to `x` and to the head's factors.
type HeadLoss = (f32, Option<Tensor>, Vec<(usize, Tensor)>);

/// Final norm, head and mean cross-entropy, a chunk of rows at a time.
fn head_loss(
    decoder: &Decoder,
    ops: &TrainingOps<'_>,
    batch: &Batch,
    x: &Tensor,
    train: bool,
) -> Result<HeadLoss> {
    let config = decoder.config();
    let count = batch.rows.len();
    let chunk = (LOGITS / config.vocab_size.max(1)).clamp(1, count);
    let factors = ops.factors;
    let part = factors.part(decoder.head()).and_then(|part| factors.modules.get(part.module));
    let trained = part.map_or(Vec::new(), |module| vec![module.a, module.b]);
    let mut sum = 0.0_f64;
    let mut gradient = train.then(|| x.zeros_like().map_err(error)).transpose()?;
    let mut head: Vec<(usize, Tensor)> = Vec::new();
    for (rows, targets) in batch.rows.chunks(chunk).zip(batch.targets.chunks(chunk)) {
        let indices = Tensor::new(rows, x.device()).map_err(error)?;
        let input = x.index_select(&indices, 0).map_err(error)?;
        let leaf = match train {
            true => Some(Var::from_tensor(&input).map_err(error)?),
            false => None,
        };
        let input = leaf.as_ref().map_or(&input, |leaf| leaf.as_tensor());
        let normed = decoder.final_norm().forward(ops, input)?;
        let logits = scaled(ops.apply(decoder.head(), &normed)?, config.logit_scale)?;
        let logits = capped(logits, config.logit_softcap)?;
        let losses = cross_entropy(&logits, targets).map_err(error)?;
        let each = losses.detach().to_vec1::<f32>().map_err(error)?;
        sum += each.iter().map(|loss| f64::from(*loss)).sum::<f64>();
        let (Some(leaf), Some(all)) = (leaf, gradient.as_mut()) else { continue };
        let back = || losses.sum_all()?.affine(1.0 / count as f64, 0.0)?.backward();
        let mut gradients = back().map_err(error)?;
        if let Some(of_rows) = gradients.remove(leaf.as_tensor()) {
            *all = all.index_add(&indices, &of_rows, 0).map_err(error)?;
        }
        for index in &trained {
            let factor = factors.factors.get(*index);
            if let Some(gradient) = factor.and_then(|f| gradients.remove(f.variable.as_tensor())) {
                head.push((*index, gradient));
            }
        }
    }
    Ok(((sum / count as f64) as f32, gradient, head))
}

/// `-log softmax(logits)[target]` per row.
fn cross_entropy(logits: &Tensor, targets: &[u32]) -> CandleResult<Tensor> {
    let max = logits.max_keepdim(D::Minus1)?.detach();
    let shifted = logits.broadcast_sub(&max)?;
    let log_sum = shifted.exp()?.sum_keepdim(D::Minus1)?.log()?;
    let targets = Tensor::new(targets, logits.device())?.unsqueeze(1)?;
    let chosen = shifted.gather(&targets, 1)?;
    (log_sum - chosen)?.squeeze(1)
}
