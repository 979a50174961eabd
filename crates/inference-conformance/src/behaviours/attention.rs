//! Attention, where it can be looked at.

use inference_core::{CapabilityId, ErrorKind, TokenId};

use crate::behaviour::Behaviour;
use crate::context::{Context, ensure_kind};
use crate::outcome::{Check, Outcome, ensure, ensure_eq, fail, not_applicable};

const REQUIRES: &[CapabilityId] = &[CapabilityId::Load, CapabilityId::AttentionProbe];

pub(super) const BEHAVIOURS: &[Behaviour] = &[
    Behaviour {
        id: "attention/shapes",
        demand: "an inspection has queries and keys of every layer, head and token, all finite",
        requires: REQUIRES,
        check: shapes,
    },
    Behaviour {
        id: "attention/causal",
        demand: "queries and keys of a token do not depend on what follows it",
        requires: REQUIRES,
        check: causal,
    },
    Behaviour {
        id: "attention/refused-prompts",
        demand: "a prompt that cannot be computed is refused as `generate` refuses it",
        requires: REQUIRES,
        check: refused_prompts,
    },
];

fn shapes(context: &Context) -> Check {
    let model = context.model()?;
    let Some(inspector) = model.as_attention_inspector() else {
        return fail("`as_attention_inspector` is `None`");
    };
    let info = model.info();
    for prompt in context.prompts()? {
        let snapshot = inspector.inspect_attention(prompt.clone().into())?;
        ensure_eq!(snapshot.ids, prompt, "the ids");
        ensure_eq!(snapshot.layers.len(), info.num_layers, "layers");
        for (index, layer) in snapshot.layers.iter().enumerate() {
            ensure_eq!(layer.layer, index, "the index of a layer");
            let queries = layer.num_heads * prompt.len() * layer.head_dim;
            let keys = layer.num_kv_heads * prompt.len() * layer.head_dim;
            ensure!(queries > 0 && keys > 0, "layer {index} has no heads");
            ensure_eq!(layer.queries.len(), queries, "queries of layer {index}");
            ensure_eq!(layer.keys.len(), keys, "keys of layer {index}");
            ensure!(
                layer.queries.iter().chain(&layer.keys).all(|value| value.is_finite()),
                "layer {index} has values that are not finite"
            );
            ensure!(
                layer.queries.iter().any(|value| *value != 0.0),
                "the queries of layer {index} are all 0"
            );
        }
    }
    Ok(Outcome::PASS)
}

fn causal(context: &Context) -> Check {
    let model = context.model()?;
    let Some(inspector) = model.as_attention_inspector() else {
        return fail("`as_attention_inspector` is `None`");
    };
    if context.data().length_changes_positions {
        return not_applicable("the length of the prompt changes the encoding of positions");
    }
    let allowed = context.data().company_tolerance;
    for prompt in context.prompts()? {
        let half = prompt.len().div_ceil(2);
        let whole = inspector.inspect_attention(prompt.clone().into())?;
        let begun = inspector.inspect_attention(prompt[..half].to_vec().into())?;
        for (whole, begun) in whole.layers.iter().zip(&begun.layers) {
            for head in 0..begun.num_heads {
                let (long, short) = (whole.head_queries(head), begun.head_queries(head));
                let difference = crate::context::worst_difference(&long[..short.len()], short);
                ensure!(
                    difference <= allowed,
                    "queries of layer {} head {head} differ by {difference:e} with what follows",
                    whole.layer
                );
            }
        }
    }
    Ok(Outcome::PASS)
}

fn refused_prompts(context: &Context) -> Check {
    let model = context.model()?;
    let Some(inspector) = model.as_attention_inspector() else {
        return fail("`as_attention_inspector` is `None`");
    };
    let empty = inspector.inspect_attention(Vec::<TokenId>::new().into());
    ensure_kind(empty, ErrorKind::InvalidInput, "an empty prompt")?;
    let outside = vec![model.info().vocab_size as TokenId];
    let outside = inspector.inspect_attention(outside.into());
    ensure_kind(outside, ErrorKind::InvalidInput, "an id outside the vocabulary")?;
    Ok(Outcome::PASS)
}
