//! Candle's own `quantized_llama`, as its examples run it.

use std::collections::HashMap;
use std::fs::File;
use std::time::{Duration, Instant};

use candle_core::quantized::gguf_file::Content;
use candle_core::{Device, Tensor};
use candle_transformers::models::quantized_llama::{MAX_SEQ_LEN, ModelWeights};

use super::engine::Engine;
use super::row::Row;
use super::worker_process::Setup;
use crate::Result;
use crate::bench::prompts;

const DEPTH_SEED: u64 = u64::MAX;

/// Weights without keys and values, and copies that hold some; a copy shares
/// the weights.
pub(super) struct CandleModel {
    empty: ModelWeights,
    at_depth: HashMap<usize, ModelWeights>,
    vocab: usize,
}

impl CandleModel {
    pub(super) fn load(setup: &Setup) -> Result<Self> {
        let mut file = File::open(&setup.model)?;
        let content = Content::read(&mut file)?;
        let embedding = content.tensor_infos.get("token_embd.weight");
        let vocab = embedding.ok_or("no token_embd.weight")?.shape.dims()[0];
        let empty = ModelWeights::from_gguf(content, &mut file, &Device::Cpu)?;
        Ok(Self { empty, at_depth: HashMap::new(), vocab })
    }

    /// Reads one row of `len` tokens per seed; the next token of each.
    fn read(
        &self,
        model: &mut ModelWeights,
        seeds: &[u64],
        len: usize,
        depth: usize,
    ) -> Result<Tensor> {
        let ids: Vec<u32> =
            seeds.iter().flat_map(|seed| prompts::ids(*seed, len, self.vocab)).collect();
        let ids = Tensor::from_vec(ids, (seeds.len(), len), &Device::Cpu)?;
        next(model, &ids, depth)
    }

    /// A copy that holds `depth` tokens.
    fn holding(&mut self, depth: usize) -> Result<ModelWeights> {
        let mut model = self.empty.clone();
        if depth == 0 {
            return Ok(model);
        }
        if let Some(held) = self.at_depth.get(&depth) {
            return Ok(held.clone());
        }
        self.read(&mut model, &[DEPTH_SEED], depth, 0)?;
        self.at_depth.insert(depth, model.clone());
        Ok(model)
    }
}

impl Engine for CandleModel {
    fn first_token(&mut self, prompt_tokens: usize, seed: u64) -> Result<Duration> {
        let mut model = self.empty.clone();
        let began = Instant::now();
        self.read(&mut model, &[seed], prompt_tokens, 0)?;
        Ok(began.elapsed())
    }

    fn measure(&mut self, row: Row, generate: usize, seed: u64) -> Result<f64> {
        if row.context(generate) > MAX_SEQ_LEN {
            return Err(format!("Candle's model ends at {MAX_SEQ_LEN} tokens").into());
        }
        match row {
            Row::Prefill { tokens, depth } => {
                let mut model = self.holding(depth)?;
                let began = Instant::now();
                self.read(&mut model, &[seed], tokens, depth)?;
                Ok(tokens as f64 / began.elapsed().as_secs_f64())
            }
            Row::Decode { depth, batch } => {
                let seeds: Vec<u64> =
                    (0..batch.unwrap_or(1) as u64).map(|n| seed << 32 | n).collect();
                let mut model = match batch {
                    Some(_) => self.empty.clone(),
                    None => self.holding(depth)?,
                };
                let mut ids = match batch {
                    Some(_) => self.read(&mut model, &seeds, depth, 0)?,
                    None => Tensor::from_vec(prompts::ids(seed, 1, self.vocab), 1, &Device::Cpu)?,
                };
                let began = Instant::now();
                for step in 0..generate {
                    ids = next(&mut model, &ids.unsqueeze(1)?, depth + step)?;
                }
                Ok((seeds.len() * generate) as f64 / began.elapsed().as_secs_f64())
            }
        }
    }
}

/// The most likely next token of each row.
fn next(model: &mut ModelWeights, ids: &Tensor, depth: usize) -> Result<Tensor> {
    Ok(model.forward(ids, depth)?.argmax(1)?)
}
