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
    for name in config.modules().modules.into_keys() {
        if let Some(parts) = decoder.module_maps(&name) {
            maps.insert(name, parts.into_iter().map(|(_, map)| Arc::clone(map)).collect());
        }
    }
    for (index, layer) in decoder.layers().iter().enumerate() {
        let Mlp::Moe(moe) = &layer.mlp.mlp else { continue };
        let mut add = |name: String, map: &Arc<dyn Linear>| {
            maps.insert(name, vec![Arc::clone(map)]);
        };
        add(format!("layers.{index}.{}", names.router), &moe.router);
        for (number, expert) in moe.experts.iter().enumerate() {
            let [gate, up, down] = names
                .expert
                .map(|name| format!("layers.{index}.{}.{number}.{name}", names.experts));
            add(gate, &expert.gate);
            add(up, &expert.up);
            add(down, &expert.down);
        }
    }
    maps
}
