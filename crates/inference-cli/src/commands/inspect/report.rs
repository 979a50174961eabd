//! What `inference inspect` prints.

use inference::KvDtype;
use inference::discover::{Inspection, StoredTensor};
use serde_json::{Map, Value, json};

use crate::{numbers, table};

/// Everything that is printed.
pub(super) struct Report<'a> {
    pub(super) inspection: &'a Inspection,
    /// Tokens of the sequence.
    pub(super) context: u64,
    pub(super) kv_dtype: KvDtype,
    /// Bytes per second.
    pub(super) bandwidth: f64,
    /// Whether it was measured here.
    pub(super) measured: bool,
}

/// The tensors of a type.
struct OfType<'a> {
    dtype: &'a str,
    tensors: usize,
    elements: u64,
    bytes: u64,
}

impl Report<'_> {
    pub(super) fn json(&self) -> Value {
        let inspection = self.inspection;
        let sizes = &inspection.geometry;
        let fields: Map<_, _> =
            inspection.fields.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
        let types = self.types();
        let of_type = |of: &OfType<'_>| {
            json!({"type": of.dtype, "tensors": of.tensors, "elements": of.elements,
                "bytes": of.bytes})
        };
        let tensor = |tensor: &StoredTensor| {
            json!({"name": tensor.name, "type": tensor.dtype, "shape": tensor.shape,
                "bytes": tensor.bytes})
        };
        let memory = inspection.memory(self.context, self.kv_dtype).map(|memory| {
            json!({"weights": memory.weights, "kv_cache": memory.kv_cache,
                "activations": memory.activations, "total": memory.total()})
        });
        json!({
            "model": inspection.model,
            "configuration": fields,
            "sizes": {
                "num_layers": sizes.num_layers, "hidden_size": sizes.hidden_size,
                "num_heads": sizes.num_heads, "num_kv_heads": sizes.num_kv_heads,
                "head_dim": sizes.head_dim, "intermediate_size": sizes.intermediate_size,
                "vocab_size": sizes.vocab_size, "num_experts": sizes.num_experts,
                "experts_per_token": sizes.experts_per_token, "context_len": sizes.context_len,
                "kv_values_per_token": sizes.kv_values_per_token,
            },
            "types": types.iter().map(of_type).collect::<Vec<_>>(),
            "tensors": inspection.tensors.iter().map(tensor).collect::<Vec<_>>(),
            "context": self.context,
            "kv_dtype": self.kv_dtype.as_str(),
            "memory": memory,
            "bandwidth": {"bytes_per_sec": self.bandwidth, "measured": self.measured},
            "weight_bytes_per_token": inspection.weight_bytes_per_token(),
            "decode_tokens_per_sec_limit":
                inspection.decode_limit(self.bandwidth, self.context, self.kv_dtype),
        })
    }

    pub(super) fn text(&self, verbose: bool) -> String {
        let inspection = self.inspection;
        let mut text = format!("{}\n", self.headline());
        let mut section = |title: &str, rows: Vec<Vec<String>>| {
            if rows.is_empty() {
                return;
            }
            let indented: Vec<_> = rows
                .into_iter()
                .map(|mut row| {
                    if let Some(first) = row.first_mut() {
                        first.insert_str(0, "  ");
                    }
                    row
                })
                .collect();
            text.push_str(&format!("\n{title}\n"));
            text.push_str(&table::render(&indented, table::terminal_width()));
        };
        let fields = inspection.fields.iter();
        section("Configuration", fields.map(|(name, value)| row([name, value])).collect());
        let of_type = |of: &OfType<'_>| {
            row([
                of.dtype,
                &format!("{} tensors", of.tensors),
                &format!("{} elements", numbers::parameters(of.elements)),
                &table::bytes(of.bytes),
            ])
        };
        section("Tensors", self.types().iter().map(of_type).collect());
        if verbose {
            let tensor = |tensor: &StoredTensor| {
                let shape: Vec<_> = tensor.shape.iter().map(ToString::to_string).collect();
                let shape = format!("[{}]", shape.join(", "));
                row([&*tensor.name, &tensor.dtype, &shape, &table::bytes(tensor.bytes)])
            };
            section("Every tensor", inspection.tensors.iter().map(tensor).collect());
        }
        let title = format!("Memory for one sequence of {} tokens", self.context);
        section(&title, self.memory());
        section("Speed limit of decoding", self.speed());
        let backend = |(name, reason): &(String, Option<String>)| {
            row([&**name, reason.as_deref().unwrap_or("can load it")])
        };
        section("Backends", inspection.model.backends.iter().map(backend).collect());
        text
    }

    fn headline(&self) -> String {
        let model = &self.inspection.model;
        let mut parts = vec![model.format.clone()];
        parts.extend(model.architecture.clone());
        let count = |count| format!("{} parameters", numbers::parameters(count));
        parts.extend(model.parameters.map(count));
        parts.extend(model.dtype.clone());
        parts.push(table::bytes(model.bytes));
        parts.extend(model.context_len.map(|tokens| format!("context {tokens}")));
        parts.extend(model.license.as_ref().map(|license| format!("license {license}")));
        if model.has_chat_template {
            parts.push("chat template".to_owned());
        }
        format!("{}: {}", model.name, parts.join(", "))
    }

    fn types(&self) -> Vec<OfType<'_>> {
        let mut types: Vec<OfType<'_>> = Vec::new();
        for tensor in &self.inspection.tensors {
            let index = types.iter().position(|of| of.dtype == tensor.dtype);
            let of = match index.and_then(|index| types.get_mut(index)) {
                Some(of) => of,
                None => {
                    let dtype = &*tensor.dtype;
                    types.push(OfType { dtype, tensors: 0, elements: 0, bytes: 0 });
                    let Some(last) = types.last_mut() else { break };
                    last
                }
            };
            of.tensors += 1;
            of.elements = of.elements.saturating_add(tensor.elements());
            of.bytes = of.bytes.saturating_add(tensor.bytes);
        }
        types.sort_by_key(|of| std::cmp::Reverse(of.bytes));
        types
    }

    fn memory(&self) -> Vec<Vec<String>> {
        let Some(memory) = self.inspection.memory(self.context, self.kv_dtype) else {
            return vec![row(["unknown", "the files do not say the sizes"])];
        };
        let kv_cache = format!("KV cache ({})", self.kv_dtype);
        vec![
            row(["weights", &table::bytes(memory.weights)]),
            row([&*kv_cache, &table::bytes(memory.kv_cache)]),
            row(["activations, about", &table::bytes(memory.activations)]),
            row(["total", &table::bytes(memory.total())]),
        ]
    }

    fn speed(&self) -> Vec<Vec<String>> {
        let (inspection, context) = (self.inspection, self.context);
        let limit = inspection.decode_limit(self.bandwidth, context, self.kv_dtype);
        let memory = inspection.memory(context, self.kv_dtype);
        let (Some(limit), Some(memory)) = (limit, memory) else {
            return vec![row(["unknown", "the files do not say the sizes"])];
        };
        let how = if self.measured { "measured" } else { "given" };
        let bandwidth = format!("{:.1} GB/s, {how}", self.bandwidth / 1e9);
        let weights = table::bytes(inspection.weight_bytes_per_token());
        vec![
            row(["memory bandwidth", &bandwidth]),
            row(["weights read per token", &weights]),
            row(["KV cache read per token", &table::bytes(memory.kv_cache)]),
            row(["at most", &format!("{limit:.1} tokens/s = bandwidth / (weights + KV cache)")]),
        ]
    }
}

fn row<const N: usize>(cells: [&(impl AsRef<str> + ?Sized); N]) -> Vec<String> {
    cells.iter().map(|cell| cell.as_ref().to_owned()).collect()
}
