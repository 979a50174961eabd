//! An adapter as a decoder applies it: maps in the place of tensors.

use std::sync::Arc;

use candle_core::{DType, Result as CandleResult, Tensor};
use inference_core::{Error, Result};
use inference_lora::{AdapterWeights, ModuleDelta, ModuleTable};

use crate::{Decoder, DecoderConfig, Linear, Mlp, MlpSpec, Weight};

/// A map of a decoder that an adapter may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdaptedMap {
    /// One of a layer, counted from 0.
    Layer(usize, LayerMap),
    /// The output head.
    Head,
}

/// A map of a layer that an adapter may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayerMap {
    /// Queries.
    Query,
    /// Keys.
    Key,
    /// Values.
    Value,
    /// Attention's output.
    Output,
    /// The gate of a gated MLP.
    Gate,
    /// What is gated.
    Up,
    /// The map back to hidden.
    Down,
}

/// Maps of a layer.
const LAYER_MAPS: usize = LayerMap::Down as usize + 1;

/// What an adapter changes of one map.
#[derive(Clone, Debug)]
pub struct MapDelta {
    /// The low-rank change.
    pub factors: Option<Factors>,
    /// Takes the place of the map, without its bias.
    pub replacement: Option<Arc<dyn Linear>>,
    /// Added to the output, `[out]`, f32: a bias in the place of the map's. No
    /// scale acts on it.
    pub offset: Option<Tensor>,
}

/// `y += scaling * up(down(x))`.
#[derive(Clone, Debug)]
pub struct Factors {
    /// `A`: `in` to rank. Maps that are rows of one in the files share it.
    pub down: Arc<dyn Linear>,
    /// `B`: rank to `out`, with its bias where it has one.
    pub up: Arc<dyn Linear>,
    /// The adapter's own scaling.
    pub scaling: f32,
}

/// An adapter's maps, made by the operations of the decoder that it is for.
#[derive(Clone, Debug)]
pub struct DecoderAdapter {
    layers: Vec<[Option<MapDelta>; LAYER_MAPS]>,
    head: Option<MapDelta>,
    rank: usize,
    total_params: usize,
    bytes: u64,
}

/// A module of the files: the maps that are its rows, from the first on.
struct Rows {
    maps: Vec<(AdaptedMap, Arc<dyn Linear>)>,
}

impl DecoderAdapter {
    /// The maps of an adapter for a decoder.
    ///
    /// A map that the files have as rows of one with others (`qkv_proj` and
    /// `gate_up_proj` of Phi-3) gets its rows of `B`; `A` is shared.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidInput`](inference_core::ErrorKind::InvalidInput)
    /// naming a module that the decoder does not have, with those that it has,
    /// or a tensor whose shape does not fit it, and both shapes;
    /// [`ErrorKind::UnsupportedModel`](inference_core::ErrorKind::UnsupportedModel)
    /// for what is not applied to a running model: weight decomposition (DoRA),
    /// embeddings, norms, experts and routers.
    pub fn new(decoder: &Decoder, weights: &AdapterWeights) -> Result<Self> {
        let table = decoder.config().modules();
        let mut maker = Maker { decoder, table: &table, queue: Vec::new(), weights: Vec::new() };
        let names = weights.modules.keys().chain(weights.weights.keys());
        let mut names: Vec<_> = names.chain(weights.biases.keys()).collect();
        names.sort_unstable();
        names.dedup();
        for name in names {
            maker.module(
                name,
                weights.modules.get(name),
                weights.weights.get(name),
                weights.biases.get(name),
            )?;
        }
        let Maker { queue, weights: made, .. } = maker;
        let made = decoder.ops().adapter_maps(&made)?;
        let map = |index: usize| {
            let lost = || Error::engine_message("an adapter's map was not made");
            made.get(index).map(Arc::clone).ok_or_else(lost)
        };
        let mut this = Self {
            layers: vec![[const { None }; LAYER_MAPS]; decoder.layers().len()],
            head: None,
            rank: weights.rank(),
            total_params: weights.total_params(),
            bytes: weights.bytes() as u64,
        };
        for Pending { at, factors, replacement, offset } in queue {
            let factors = match factors {
                Some((down, up, scaling)) => {
                    Some(Factors { down: map(down)?, up: map(up)?, scaling })
                }
                None => None,
            };
            let replacement = replacement.map(map).transpose()?;
            let place = match at {
                AdaptedMap::Head => Some(&mut this.head),
                AdaptedMap::Layer(layer, kind) => {
                    this.layers.get_mut(layer).and_then(|maps| maps.get_mut(kind as usize))
                }
            };
            if let Some(place) = place {
                *place = Some(MapDelta { factors, replacement, offset });
            }
        }
        Ok(this)
    }

    /// What it changes of a map.
    #[must_use]
    pub fn delta(&self, at: AdaptedMap) -> Option<&MapDelta> {
        match at {
            AdaptedMap::Head => self.head.as_ref(),
            AdaptedMap::Layer(layer, kind) => self.layers.get(layer)?.get(kind as usize)?.as_ref(),
        }
    }

    /// The largest rank of its factors.
    #[must_use]
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// Number of parameters.
    #[must_use]
    pub fn total_params(&self) -> usize {
        self.total_params
    }

    /// Bytes of its tensors as stored.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// A map's change, before its maps are made: indices of weights.
struct Pending {
    at: AdaptedMap,
    factors: Option<(usize, usize, f32)>,
    replacement: Option<usize>,
    offset: Option<Tensor>,
}

struct Maker<'a> {
    decoder: &'a Decoder,
    table: &'a ModuleTable,
    queue: Vec<Pending>,
    /// Weights and their biases.
    weights: Vec<(Weight, Option<Weight>)>,
}

impl Maker<'_> {
    fn module(
        &mut self,
        name: &str,
        delta: Option<&ModuleDelta>,
        weight: Option<&Tensor>,
        bias: Option<&Tensor>,
    ) -> Result<()> {
        let module = self.rows(name)?;
        let total: usize = module.maps.iter().map(|(_, map)| map.out_features()).sum();
        let input = module.maps.first().map_or(0, |(_, map)| map.in_features());
        let fits = |part: &str, tensor: &Tensor, expected: &[Option<usize>]| {
            let dims = tensor.dims();
            let same = |(found, expected): (&usize, &Option<usize>)| match expected {
                Some(expected) => found == expected,
                None => *found > 0,
            };
            if dims.len() == expected.len() && dims.iter().zip(expected).all(same) {
                return Ok(());
            }
            let spelled = expected
                .iter()
                .map(|dim| dim.map_or_else(|| "rank".to_owned(), |dim| dim.to_string()));
            let expected = format!("[{}]", spelled.collect::<Vec<_>>().join(", "));
            let what = format!("{part} of the adapter's module `{name}`");
            Err(Error::invalid_input(what, expected, format!("{dims:?}")))
        };
        let mut down = None;
        if let Some(delta) = delta {
            if delta.magnitude.is_some() {
                return Err(unsupported(name, "weight decomposition (DoRA)"));
            }
            fits("`A`", &delta.a, &[None, Some(input)])?;
            fits("`B`", &delta.b, &[Some(total), Some(delta.rank())])?;
            if let Some(bias) = &delta.bias {
                fits("the bias of `B`", bias, &[Some(total)])?;
            }
            if !delta.scaling.is_finite() {
                let what = format!("scaling of the adapter's module `{name}`");
                return Err(Error::invalid_input(
                    what,
                    "a finite number",
                    delta.scaling.to_string(),
                ));
            }
            down = Some(self.add(format!("{name}.A"), delta.a.clone(), None));
        }
        if let Some(weight) = weight {
            fits("the weight", weight, &[Some(total), Some(input)])?;
        }
        if let Some(bias) = bias {
            fits("the bias", bias, &[Some(total)])?;
        }
        let mut first = 0;
        for (at, map) in module.maps {
            let out = map.out_features();
            let rows = |tensor: &Tensor| {
                let part = || -> CandleResult<Tensor> {
                    if tensor.dims().first() == Some(&out) {
                        return Ok(tensor.clone());
                    }
                    tensor.narrow(0, first, out)?.contiguous()
                };
                part().map_err(|e| Error::engine(format!("the rows of `{name}`"), e))
            };
            let factors = match (delta, down) {
                (Some(delta), Some(down)) => {
                    let bias = delta.bias.as_ref().map(rows).transpose()?;
                    let up = self.add(format!("{name}.B"), rows(&delta.b)?, bias);
                    Some((down, up, delta.scaling))
                }
                _ => None,
            };
            let replacement = match weight {
                Some(weight) => Some(self.add(name.to_owned(), rows(weight)?, None)),
                None => None,
            };
            let bias = bias.map(rows).transpose()?;
            let offset = self.offset(&*map, replacement.is_some(), bias)?;
            self.queue.push(Pending { at, factors, replacement, offset });
            first += out;
        }
        Ok(())
    }

    /// What the output gets in the place of the map's own bias.
    fn offset(
        &self,
        map: &dyn Linear,
        replaced: bool,
        bias: Option<Tensor>,
    ) -> Result<Option<Tensor>> {
        if !replaced && bias.is_none() {
            return Ok(None);
        }
        let error = |e| Error::engine("an adapter's bias", e);
        let device = self.decoder.ops().device();
        let zeros = Tensor::zeros((1, map.in_features()), DType::F32, device).map_err(error)?;
        let own = map.forward(&zeros)?.squeeze(0).map_err(error)?;
        let bias = match bias {
            Some(bias) => Some(
                bias.to_dtype(DType::F32).and_then(|bias| bias.to_device(device)).map_err(error)?,
            ),
            None => None,
        };
        Ok(Some(match (replaced, bias) {
            (true, Some(bias)) => bias,
            (false, Some(bias)) => bias.sub(&own).map_err(error)?,
            (_, None) => own,
        }))
    }

    fn add(&mut self, name: String, tensor: Tensor, bias: Option<Tensor>) -> usize {
        let bias = bias.map(|bias| Weight::from_tensor(format!("{name} (bias)"), bias));
        self.weights.push((Weight::from_tensor(name, tensor), bias));
        self.weights.len() - 1
    }

    /// The maps that a module of the files is.
    fn rows(&self, name: &str) -> Result<Rows> {
        if let Some(maps) = self.decoder.module_maps(name) {
            let maps = maps.into_iter().map(|(at, map)| (at, Arc::clone(map))).collect();
            return Ok(Rows { maps });
        }
        if self.table.get(name).is_some() {
            return Err(unsupported(name, "changing this module"));
        }
        let expected = format!("a module of the model ({})", self.table.suffixes().join(", "));
        Err(Error::invalid_input("the adapter's modules", expected, format!("`{name}`")))
    }
}

fn unsupported(name: &str, what: &str) -> Error {
    let supported = "low-rank changes, weights and biases of attention, gated MLPs and the head";
    Error::unsupported_model(
        "the adapter",
        format!("module `{name}`"),
        what,
        format!("{supported}; merge it for the others"),
    )
}

/// The layer and maps that a module's name stands for, in the order of rows.
fn layer_maps(config: &DecoderConfig, name: &str) -> Option<(usize, &'static [LayerMap])> {
    use LayerMap::{Down, Gate, Key, Output, Query, Up, Value};
    let (index, module) = name.strip_prefix("layers.")?.split_once('.')?;
    let layer: usize = index.parse().ok()?;
    let gated = matches!(config.layers.get(layer)?.mlp, MlpSpec::Gated { .. });
    let maps: &[LayerMap] = match module {
        "self_attn.qkv_proj" if config.fused_qkv => &[Query, Key, Value],
        "self_attn.q_proj" if !config.fused_qkv => &[Query],
        "self_attn.k_proj" if !config.fused_qkv => &[Key],
        "self_attn.v_proj" if !config.fused_qkv => &[Value],
        "self_attn.o_proj" => &[Output],
        "mlp.gate_up_proj" if gated && config.fused_gate_up => &[Gate, Up],
        "mlp.gate_proj" if gated && !config.fused_gate_up => &[Gate],
        "mlp.up_proj" if gated && !config.fused_gate_up => &[Up],
        "mlp.down_proj" if gated => &[Down],
        _ => return None,
    };
    Some((layer, maps))
}

impl Decoder {
    /// The maps that a module is, in the order of its rows; `None` for what is
    /// no affine map, and for those of a mixture.
    pub(crate) fn module_maps(&self, name: &str) -> Option<Vec<(AdaptedMap, &Arc<dyn Linear>)>> {
        if name == self.config().names.head {
            return Some(vec![(AdaptedMap::Head, self.head())]);
        }
        let (layer, kinds) = layer_maps(self.config(), name)?;
        let map = |kind: &LayerMap| {
            Some((AdaptedMap::Layer(layer, *kind), self.layer_map(layer, *kind)?))
        };
        kinds.iter().map(map).collect()
    }

    /// A map of a layer; `None` for a layer that is not there, or whose MLP is
    /// a mixture.
    #[must_use]
    pub fn layer_map(&self, layer: usize, map: LayerMap) -> Option<&Arc<dyn Linear>> {
        let layer = self.layers().get(layer)?;
        let (attention, mlp) = (&layer.attention, &layer.mlp.mlp);
        let gated = match mlp {
            Mlp::Gated(mlp) => Some(mlp),
            Mlp::Moe(_) => None,
        };
        match map {
            LayerMap::Query => Some(&attention.query),
            LayerMap::Key => Some(&attention.key),
            LayerMap::Value => Some(&attention.value),
            LayerMap::Output => Some(&attention.output),
            LayerMap::Gate => gated.map(|mlp| &mlp.gate),
            LayerMap::Up => gated.map(|mlp| &mlp.up),
            LayerMap::Down => gated.map(|mlp| &mlp.down),
        }
    }
}
