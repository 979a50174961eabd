//! Where a weight of a model lies in memory.

use crate::{Activation, Architecture};

/// How the weights of models lie beside each other.
///
/// Results of the two differ in their last bits, because sums are added up in
/// a different order; each by itself gives the same bits always.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum WeightLayout {
    /// One model after the other; registers hold outputs of one model.
    PerModel,
    /// Sixteen models woven into each other, number by number; registers hold
    /// the same output of several models. For networks so small that their
    /// outputs do not fill registers. A subset that takes few of sixteen
    /// neighbours reads all of them.
    Interleaved,
}

/// Models that are woven together.
pub(crate) const GROUP: usize = 16;

/// Below this many numbers a model is interleaved, unless asked otherwise.
const SMALL: usize = 1024;

/// Numbers of a panel of outputs of [`WeightLayout::PerModel`]: as many
/// accumulators as a kernel has.
pub(crate) const PANEL: usize = 64;

/// The same of [`WeightLayout::Interleaved`], times [`GROUP`].
pub(crate) const GROUP_PANEL: usize = 4;

/// Where the layers of a group of models (one, or [`GROUP`]) are, counted in
/// numbers.
///
/// A weight `[inputs, outputs]` is cut into panels of outputs. In a panel the
/// outputs of one input follow each other, without padding; then those of the
/// next input. A kernel reads a panel from its start to its end. Kernels read
/// whole registers, and what is behind the last output of a row belongs to
/// other outputs, whose results are dropped.
#[derive(Clone, Debug)]
pub(crate) struct PackedLayout {
    pub(crate) kind: WeightLayout,
    /// Models of a group: 1 or [`GROUP`].
    pub(crate) group: usize,
    /// Outputs of a panel.
    panel: usize,
    pub(crate) layers: Box<[PackedLayer]>,
    /// From one group to the next.
    pub(crate) stride: usize,
    /// Length of a row of inputs.
    pub(crate) inputs: usize,
    /// Length of a row of outputs.
    pub(crate) outputs: usize,
    /// Longest row of inputs or outputs of a layer.
    pub(crate) widest: usize,
    /// Longest row between two layers.
    pub(crate) widest_between: usize,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct PackedLayer {
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
    pub(crate) activation: Activation,
    /// Where the weight begins in its group.
    pub(crate) weight: usize,
    /// Where the bias begins in its group; `None` without one.
    pub(crate) bias: Option<usize>,
}

impl PackedLayout {
    /// Of a valid architecture; `kind` of `None` chooses.
    pub(crate) fn new(architecture: &Architecture, kind: Option<WeightLayout>) -> Self {
        let parameters = architecture.parameters();
        let chosen =
            if parameters < SMALL { WeightLayout::Interleaved } else { WeightLayout::PerModel };
        let kind = kind.unwrap_or(chosen);
        let (group, panel) = match kind {
            WeightLayout::PerModel => (1, PANEL),
            WeightLayout::Interleaved => (GROUP, GROUP_PANEL),
        };
        let mut at = 0;
        let layers: Box<[_]> = architecture
            .layers
            .iter()
            .map(|layer| {
                let weight = at * group;
                at += layer.weights();
                let bias = layer.bias.then_some(at * group);
                at += layer.biases();
                PackedLayer {
                    inputs: layer.inputs,
                    outputs: layer.outputs,
                    activation: layer.activation,
                    weight,
                    bias,
                }
            })
            .collect();
        let mut stride = at * group;
        if stride >= 256 {
            // Whole cache lines, where that adds little.
            stride = stride.next_multiple_of(32);
        }
        let widest = layers.iter().map(|layer| layer.inputs.max(layer.outputs)).max();
        Self {
            kind,
            group,
            panel,
            stride,
            inputs: architecture.inputs(),
            outputs: architecture.outputs(),
            widest: widest.unwrap_or(0),
            widest_between: architecture.widest_between(),
            layers,
        }
    }

    /// Group and lane of a model.
    pub(crate) fn place(&self, model: usize) -> (usize, usize) {
        (model / self.group, model % self.group)
    }

    /// Calls `visit` for each weight of a layer with its index in the row-major
    /// `[inputs, outputs]` weight and its place in a group, for lane 0.
    pub(crate) fn for_each_weight(&self, layer: usize, mut visit: impl FnMut(usize, usize)) {
        let Some(layer) = self.layers.get(layer) else { return };
        let mut place = layer.weight;
        let mut first = 0;
        while first < layer.outputs {
            let width = self.panel.min(layer.outputs - first);
            for input in 0..layer.inputs {
                for output in first..first + width {
                    visit(input * layer.outputs + output, place);
                    place += self.group;
                }
            }
            first += width;
        }
    }

    /// The same of a bias.
    pub(crate) fn for_each_bias(&self, layer: usize, mut visit: impl FnMut(usize, usize)) {
        let Some((layer, bias)) = self.layers.get(layer).and_then(|l| Some((l, l.bias?))) else {
            return;
        };
        for output in 0..layer.outputs {
            visit(output, bias + output * self.group);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_has_a_place_of_its_own() {
        let architecture =
            Architecture::mlp(&[3, 130, 5, 1], Activation::None, Activation::None).unwrap();
        for kind in [WeightLayout::PerModel, WeightLayout::Interleaved] {
            let layout = PackedLayout::new(&architecture, Some(kind));
            let mut taken = vec![false; layout.stride];
            let mut take = |_: usize, place: usize| {
                for lane in 0..layout.group {
                    assert!(!std::mem::replace(&mut taken[place + lane], true), "{place}");
                }
            };
            for layer in 0..3 {
                layout.for_each_weight(layer, &mut take);
                layout.for_each_bias(layer, &mut take);
            }
            let places = taken.iter().filter(|taken| **taken).count();
            assert_eq!(places, architecture.parameters() * layout.group);
        }
    }
}
