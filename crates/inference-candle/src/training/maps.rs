//! The maps of a decoder by the names of their modules.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::{Decoder, Linear, Mlp};

/// The maps of a decoder by the module that they are part of, in the order of
/// the module's rows; names as in [`DecoderConfig::modules`](crate::DecoderConfig::modules).
pub(super) fn maps(decoder: &Decoder) -> BTreeMap<String, Vec<Arc<dyn Linear>>> {
    let config = decoder.config();
    let names = &config.names;
    let mut maps = BTreeMap::new();
    let mut add = |name: String, parts: &[&Arc<dyn Linear>]| {
        maps.insert(name, parts.iter().map(|map| Arc::clone(map)).collect());
    };
    for (index, layer) in decoder.layers().iter().enumerate() {
        let block = &layer.attention;
        let attention = |name: &str| format!("layers.{index}.self_attn.{name}");
        if config.fused_qkv {
            add(attention("qkv_proj"), &[&block.query, &block.key, &block.value]);
        } else {
            add(attention("q_proj"), &[&block.query]);
            add(attention("k_proj"), &[&block.key]);
            add(attention("v_proj"), &[&block.value]);
        }
        add(attention("o_proj"), &[&block.output]);
        match &layer.mlp.mlp {
            Mlp::Gated(mlp) => {
                let name = |name: &str| format!("layers.{index}.mlp.{name}");
                if config.fused_gate_up {
                    add(name("gate_up_proj"), &[&mlp.gate, &mlp.up]);
                } else {
                    add(name("gate_proj"), &[&mlp.gate]);
                    add(name("up_proj"), &[&mlp.up]);
                }
                add(name("down_proj"), &[&mlp.down]);
            }
            Mlp::Moe(moe) => {
                add(format!("layers.{index}.{}", names.router), &[&moe.router]);
                for (number, expert) in moe.experts.iter().enumerate() {
                    let [gate, up, down] = names
                        .expert
                        .map(|name| format!("layers.{index}.{}.{number}.{name}", names.experts));
                    add(gate, &[&expert.gate]);
                    add(up, &[&expert.up]);
                    add(down, &[&expert.down]);
                }
            }
        }
    }
    add(names.head.to_owned(), &[decoder.head()]);
    maps
}
