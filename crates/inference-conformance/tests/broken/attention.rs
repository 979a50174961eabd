//! Queries and keys of the specimen: functions of what is kept of a position.

use inference_core::{
    AttentionInspector, AttentionSnapshot, LayerAttention, Prompt, Result, TextModel, TokenId,
};

use crate::defect::Defect;
use crate::language::{mix, step, unit};
use crate::model::Model;

pub(crate) const NUM_LAYERS: usize = 2;
pub(crate) const NUM_HEADS: usize = 2;
pub(crate) const NUM_KV_HEADS: usize = 1;
pub(crate) const HEAD_DIM: usize = 4;

impl AttentionInspector for Model {
    fn inspect_attention(&self, prompt: Prompt) -> Result<AttentionSnapshot> {
        self.open()?;
        let ids: Vec<TokenId> = match prompt {
            Prompt::Tokens(ids) if self.flaw().is(Defect::AttentionUnchecked) => ids,
            prompt => self.ids(prompt, 0)?,
        };
        let mut hashes = Vec::new();
        let mut last = None;
        for id in &ids {
            let kv = step(self.shared.settings.weights, last, *id);
            hashes.push(kv.hash);
            last = Some(kv);
        }
        if self.flaw().is(Defect::AttentionLooksAhead) {
            hashes.iter_mut().for_each(|hash| *hash ^= ids.len() as u64);
        }
        let values = |layer: usize, heads: usize| -> Vec<f32> {
            let row = |head: usize, hash: u64| {
                let value = move |i: usize| unit(mix(hash ^ (layer << 16 | head << 8 | i) as u64));
                (0..HEAD_DIM).map(move |i| value(i) as f32 - 0.5)
            };
            let rows = |head| hashes.iter().flat_map(move |hash| row(head, *hash));
            (0..heads).flat_map(rows).collect()
        };
        let shape = [NUM_HEADS, NUM_KV_HEADS, HEAD_DIM];
        let layer = |layer| {
            let mut keys = values(layer, NUM_KV_HEADS);
            if self.flaw().is(Defect::AttentionShort) {
                keys.pop();
            }
            LayerAttention::new(layer, shape, values(layer, NUM_HEADS), keys)
        };
        let layers = (0..NUM_LAYERS).map(layer).collect();
        Ok(AttentionSnapshot::new(ids, layers))
    }
}

impl Model {
    pub(crate) fn inspector(&self) -> &dyn AttentionInspector {
        debug_assert_eq!(self.info().num_layers, NUM_LAYERS);
        self
    }
}
