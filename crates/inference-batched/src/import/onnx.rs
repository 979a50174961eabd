//! An ONNX file with one model: a chain of layers.

use std::path::Path;

use inference_core::{Error, Result};

use super::ModelFile;
use super::onnx_file::{Attribute, Graph, Node, Tensor, parse};
use super::safetensors_model::transpose;
use crate::model_weights::{bias_name, weight_name};
use crate::{Activation, Architecture, LayerSpec};

/// What may be in a file.
const SUPPORTED: &str =
    "Gemm, MatMul, Add, Relu, LeakyRelu, Tanh, Sigmoid, Gelu and Identity, one after the other";

/// A layer as far as it was met.
struct Layer {
    inputs: usize,
    outputs: usize,
    weight: Vec<f32>,
    bias: Option<Vec<f32>>,
    activation: Option<Activation>,
}

pub(super) fn read(path: &Path) -> Result<ModelFile> {
    let file = path.display().to_string();
    let bytes = std::fs::read(path).map_err(|error| Error::io(path, "read", error))?;
    let graph = parse(&bytes)
        .map_err(|found| Error::invalid_model(&file, "model", "an ONNX model", found))?;
    let layers = layers(&file, &graph)?;
    let mut specs = Vec::new();
    let mut weights = Vec::new();
    for (at, layer) in layers.into_iter().enumerate() {
        let activation = layer.activation.unwrap_or_default();
        let spec = LayerSpec::new(layer.inputs, layer.outputs, activation);
        specs.push(spec.with_bias(layer.bias.is_some()));
        weights.push((weight_name(at), layer.weight));
        weights.extend(layer.bias.map(|bias| (bias_name(at), bias)));
    }
    let architecture = Architecture::new(specs).map_err(|error| {
        Error::invalid_model(&file, "graph", "layers that fit each other", error.to_string())
    })?;
    Ok(ModelFile { architecture, knows_activations: true, weights })
}

/// Follows the one value that goes through the graph.
fn layers(file: &str, graph: &Graph) -> Result<Vec<Layer>> {
    let invalid = |what: String, expected: &str, found: String| {
        Error::invalid_model(file, what, expected, found)
    };
    let inputs: Vec<&String> =
        graph.inputs.iter().filter(|name| !graph.initializers.contains_key(*name)).collect();
    let ([input], [output]) = (&inputs[..], &graph.outputs[..]) else {
        let found = format!("{} and {}", inputs.len(), graph.outputs.len());
        return Err(invalid("graph".to_owned(), "one input and one output", found));
    };
    let mut value: &str = input;
    let mut layers: Vec<Layer> = Vec::new();
    let mut met = 0;
    while value != output {
        let users: Vec<&Node> = graph
            .nodes
            .iter()
            .filter(|node| node.inputs.iter().any(|name| name == value))
            .collect();
        let [node] = users[..] else {
            // A branch, or a dead end. What branches is named first: it says why.
            let names: Vec<_> = users.iter().map(|node| node.operator.as_str()).collect();
            return Err(Error::unsupported_model(
                file,
                format!("what takes value `{value}`"),
                if names.is_empty() { "nothing".to_owned() } else { names.join(", ") },
                SUPPORTED,
            ));
        };
        met += 1;
        // A graph without cycles has each node once on a way.
        if met > graph.nodes.len() {
            return Err(invalid("graph".to_owned(), "no cycles", "one".to_owned()));
        }
        follow(file, graph, node, value, &mut layers)?;
        let [next] = &node.outputs[..] else {
            let found = node.outputs.len().to_string();
            return Err(invalid(title(node), "one output", found));
        };
        value = next;
    }
    if met != graph.nodes.len() {
        let on_the_way = format!("{met} of {} nodes", graph.nodes.len());
        return Err(invalid("graph".to_owned(), "a chain", on_the_way));
    }
    Ok(layers)
}

fn title(node: &Node) -> String {
    format!("node `{}` ({})", node.name, node.operator)
}

/// Adds what a node does to `value` to the layers.
fn follow(
    file: &str,
    graph: &Graph,
    node: &Node,
    value: &str,
    layers: &mut Vec<Layer>,
) -> Result<()> {
    let unsupported = |found: &str| {
        Err(Error::unsupported_model(file, format!("node `{}`", node.name), found, SUPPORTED))
    };
    if !["", "ai.onnx"].contains(&node.domain.as_str()) {
        return unsupported(&format!("{}.{}", node.domain, node.operator));
    }
    let float = |name: &str, default: f32| match node.attributes.get(name) {
        None => Ok(default),
        Some(Attribute::Float(value)) => Ok(*value),
        Some(_) => {
            Err(Error::invalid_model(file, title(node), format!("a float `{name}`"), "another"))
        }
    };
    let flag = |name: &str| match node.attributes.get(name) {
        None => Ok(false),
        Some(Attribute::Int(value)) => Ok(*value != 0),
        Some(_) => {
            Err(Error::invalid_model(file, title(node), format!("an int `{name}`"), "another"))
        }
    };
    let activation = match node.operator.as_str() {
        "Identity" => return Ok(()),
        "Gemm" => {
            let plain = float("alpha", 1.0)? == 1.0 && float("beta", 1.0)? == 1.0;
            if !plain || flag("transA")? || node.inputs.first().is_none_or(|name| name != value) {
                return unsupported("Gemm with alpha, beta, transA or the value as weight");
            }
            let (inputs, outputs, weight) = matrix(file, graph, node, flag("transB")?)?;
            let bias = match node.inputs.get(2).filter(|name| !name.is_empty()) {
                None => None,
                Some(name) => Some(row(file, graph, node, name, outputs)?),
            };
            layers.push(Layer { inputs, outputs, weight, bias, activation: None });
            return Ok(());
        }
        "MatMul" => {
            if node.inputs.first().is_none_or(|name| name != value) {
                return unsupported("MatMul with the value as weight");
            }
            let (inputs, outputs, weight) = matrix(file, graph, node, false)?;
            layers.push(Layer { inputs, outputs, weight, bias: None, activation: None });
            return Ok(());
        }
        "Add" => {
            let other = node.inputs.iter().find(|name| *name != value);
            let Some((other, layer)) = other.zip(layers.last_mut()) else {
                return unsupported("Add before any product, or of a value with itself");
            };
            if layer.bias.is_some() || layer.activation.is_some() {
                return unsupported("Add after a bias or an activation");
            }
            layer.bias = Some(row(file, graph, node, other, layer.outputs)?);
            return Ok(());
        }
        "Relu" => Activation::Relu,
        "LeakyRelu" => Activation::LeakyRelu { slope: float("alpha", 0.01)? },
        "Tanh" => Activation::Tanh,
        "Sigmoid" => Activation::Sigmoid,
        "Gelu" => match node.attributes.get("approximate") {
            None => Activation::Gelu,
            Some(Attribute::Text(text)) if text == "none" => Activation::Gelu,
            Some(Attribute::Text(text)) if text == "tanh" => Activation::GeluTanh,
            Some(_) => return unsupported("Gelu with another approximation"),
        },
        other => return unsupported(other),
    };
    match layers.last_mut() {
        Some(layer) if layer.activation.is_none() => layer.activation = Some(activation),
        _ => return unsupported(&format!("{} without a product before it", node.operator)),
    }
    Ok(())
}

fn initializer<'a>(file: &str, graph: &'a Graph, node: &Node, name: &str) -> Result<&'a Tensor> {
    graph.initializers.get(name).filter(|tensor| !tensor.dims.is_empty()).ok_or_else(|| {
        let expected = format!("`{name}` as a float weight of the file");
        Error::invalid_model(file, title(node), expected, "none")
    })
}

/// Inputs, outputs and the row-major weight of the node's second input.
fn matrix(
    file: &str,
    graph: &Graph,
    node: &Node,
    transposed: bool,
) -> Result<(usize, usize, Vec<f32>)> {
    let Some(name) = node.inputs.get(1) else {
        return Err(Error::invalid_model(file, title(node), "two inputs", "one"));
    };
    let tensor = initializer(file, graph, node, name)?;
    match tensor.dims[..] {
        [outputs, inputs] if transposed => {
            Ok((inputs, outputs, transpose(&tensor.values, outputs, inputs)))
        }
        [inputs, outputs] => Ok((inputs, outputs, tensor.values.clone())),
        _ => {
            let found = format!("{:?}", tensor.dims);
            let what = format!("{}, weight `{name}`", title(node));
            Err(Error::invalid_model(file, what, "two dimensions", found))
        }
    }
}

/// A bias of `outputs` numbers.
fn row(file: &str, graph: &Graph, node: &Node, name: &str, outputs: usize) -> Result<Vec<f32>> {
    let tensor = initializer(file, graph, node, name)?;
    match tensor.dims[..] {
        [n] | [1, n] if n == outputs => Ok(tensor.values.clone()),
        _ => {
            let found = format!("{:?}", tensor.dims);
            let what = format!("{}, bias `{name}`", title(node));
            Err(Error::invalid_model(file, what, format!("[{outputs}]"), found))
        }
    }
}
