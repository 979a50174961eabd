//! One pass forward and back.

use inference_core::{Error, Result, TrainingSequence};
use inference_engine::StepSequence;
use inference_lora::Draws;

use super::adapted_map::{Gradients, Maps};
use super::cross_entropy::{LogitSpec, cross_entropy};
use super::elementwise::{Angles, NormWeight, scaled};
use super::factors::Factors;
use super::halves::{
    AttentionKept, MlpKept, Places, attention_half, attention_half_backward, mlp_half,
    mlp_half_backward,
};
use crate::{BatchView, Decoder, DecoderLayer};

/// Elements of the logits that exist at a time.
const LOGITS: usize = 1 << 23;

/// A batch as the decoder takes it: the sequences one after the other.
pub(super) struct Batch {
    tokens: Vec<u32>,
    sequences: Vec<StepSequence>,
    positions: Vec<usize>,
    /// Rows that predict a target, and those targets.
    rows: Vec<usize>,
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
                this.rows.push(start + index - 1);
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
    /// Its input; the rest is computed again.
    Input(Vec<f32>),
    /// All of it.
    Halves(Box<(AttentionKept, MlpKept)>),
}

/// What going back needs.
pub(super) struct Graph {
    batch: Batch,
    dropout: Option<Draws>,
    /// From the lowest adapted layer on.
    kept: Vec<Kept>,
    /// The loss' gradient with respect to what the last layer put out.
    gradient: Vec<f32>,
    /// Gradients of the head's factors.
    gradients: Gradients,
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
    let maps = Maps { ops: &**decoder.ops(), factors, dropout };
    let angles = angles(decoder, &batch)?;
    let places = Places { sequences: &batch.sequences, angles: &angles };
    let table = maps.ops.embedding(decoder.embedding(), &batch.tokens)?;
    let x = table.flatten_all().and_then(|table| table.to_vec1::<f32>());
    let mut x = x.map_err(|e| Error::engine("embedding", e))?;
    let scale = decoder.config().embedding_scale;
    if scale != 1.0 {
        x = scaled(&x, scale);
    }
    let mut kept = Vec::new();
    for (index, one) in decoder.layers().iter().enumerate() {
        let keeps = train && index >= factors.first_layer;
        let input = (keeps && checkpointing).then(|| x.clone());
        let halves;
        (x, halves) = layer(&maps, one, &places, x)?;
        match input {
            Some(input) => kept.push(Kept::Input(input)),
            None if keeps => kept.push(Kept::Halves(Box::new(halves))),
            None => {}
        }
    }
    let (loss, gradient, gradients) = head_loss(decoder, &maps, &batch, &x, train)?;
    if !loss.is_finite() {
        return Err(Error::engine_message(format!("the loss is {loss}")));
    }
    Ok((loss, Graph { batch, dropout, kept, gradient, gradients }))
}

/// Adds the gradients of a pass, times `weight`, to those of the factors.
pub(super) fn backward(
    decoder: &Decoder,
    factors: &mut Factors,
    graph: Graph,
    weight: f32,
) -> Result<()> {
    let Graph { batch, dropout, mut kept, mut gradient, mut gradients } = graph;
    let maps = Maps { ops: &**decoder.ops(), factors, dropout };
    let angles = angles(decoder, &batch)?;
    let places = Places { sequences: &batch.sequences, angles: &angles };
    for one in decoder.layers().iter().rev() {
        let Some(halves) = kept.pop() else { break };
        let (attention, mlp) = match halves {
            Kept::Halves(halves) => *halves,
            Kept::Input(input) => layer(&maps, one, &places, input)?.1,
        };
        gradient = mlp_half_backward(&maps, &one.mlp, mlp, gradient, &mut gradients)?;
        let block = &one.attention;
        // Below the lowest adapted layer nothing is trained.
        let wanted = !kept.is_empty();
        gradient = attention_half_backward(
            &maps,
            block,
            &places,
            attention,
            gradient,
            wanted,
            &mut gradients,
        )?;
    }
    check_finite(factors, &gradients)?;
    for (index, gradient) in &gradients {
        factors.gather(*index, gradient, weight);
    }
    Ok(())
}

/// Refuses a gradient that is not finite, before any is added.
fn check_finite(factors: &Factors, gradients: &Gradients) -> Result<()> {
    for (index, gradient) in gradients {
        if gradient.iter().any(|value| !value.is_finite()) {
            let name = factors.factors.get(*index).map_or("", |factor| factor.name.as_str());
            return Err(Error::engine_message(format!("the gradient of `{name}` is not finite")));
        }
    }
    Ok(())
}

fn angles(decoder: &Decoder, batch: &Batch) -> Result<Vec<Angles>> {
    let view = batch.view();
    let of = |rope: &crate::Rope| Angles::of(&rope.angles(&view, decoder.ops().device())?);
    decoder.ropes().iter().map(of).collect()
}

fn layer(
    maps: &Maps<'_>,
    layer: &DecoderLayer,
    places: &Places<'_>,
    x: Vec<f32>,
) -> Result<(Vec<f32>, (AttentionKept, MlpKept))> {
    let (x, attention) = attention_half(maps, &layer.attention, places, x)?;
    let (x, mlp) = mlp_half(maps, &layer.mlp, x)?;
    Ok((x, (attention, mlp)))
}

/// Mean loss, its gradient with respect to `x` and to the head's factors.
type HeadLoss = (f32, Vec<f32>, Gradients);

/// Final norm, head and mean cross-entropy, a chunk of rows at a time.
fn head_loss(
    decoder: &Decoder,
    maps: &Maps<'_>,
    batch: &Batch,
    x: &[f32],
    train: bool,
) -> Result<HeadLoss> {
    let config = decoder.config();
    let (count, width) = (batch.rows.len(), config.hidden_size);
    let spec = LogitSpec { scale: config.logit_scale, softcap: config.logit_softcap };
    // Chunks of nearly one size.
    let chunks = count.div_ceil((LOGITS / config.vocab_size.max(1)).max(1)).max(1);
    let chunk = count.div_ceil(chunks).max(1);
    let norm = NormWeight::of(decoder.final_norm())?;
    let weight = train.then_some(1.0 / count as f32);
    let mut sum = 0.0_f64;
    let mut gradient = vec![0.0; if train { x.len() } else { 0 }];
    let mut gradients = Gradients::new();
    for (rows, targets) in batch.rows.chunks(chunk).zip(batch.targets.chunks(chunk)) {
        let of = |row: &usize| x.get(row * width..(row + 1) * width).unwrap_or_default();
        let input: Vec<f32> = rows.iter().flat_map(of).copied().collect();
        let normed = norm.forward(maps.ops, &input)?;
        let mut head = maps.forward(decoder.head(), &normed)?;
        let losses = cross_entropy(maps.ops, &mut head.y, targets, spec, weight)?;
        sum += losses.iter().sum::<f64>();
        if !train {
            continue;
        }
        let (map, of_logits) = (decoder.head(), &head.y);
        let of_normed = maps.backward(map, &normed, &head.low, of_logits, true, &mut gradients)?;
        let of_input = norm.backward(maps.ops, &input, &of_normed)?;
        for (row, from) in rows.iter().zip(of_input.chunks_exact(width)) {
            let to = gradient.get_mut(row * width..(row + 1) * width);
            to.unwrap_or_default().copy_from_slice(from);
        }
    }
    Ok(((sum / count as f64) as f32, gradient, gradients))
}
