//! The parts of an ONNX file that describe a chain of layers
//! (<https://github.com/onnx/onnx/blob/main/onnx/onnx.proto>).

use std::collections::HashMap;

use half::{bf16, f16};

use super::protobuf::{Fields, Problem, Value};

/// A graph: operations, weights, and what goes in and out.
#[derive(Debug, Default)]
pub(super) struct Graph {
    pub(super) nodes: Vec<Node>,
    pub(super) initializers: HashMap<String, Tensor>,
    /// Also names of initializers, in older files.
    pub(super) inputs: Vec<String>,
    pub(super) outputs: Vec<String>,
}

#[derive(Debug, Default)]
pub(super) struct Node {
    pub(super) name: String,
    pub(super) operator: String,
    pub(super) domain: String,
    pub(super) inputs: Vec<String>,
    pub(super) outputs: Vec<String>,
    pub(super) attributes: HashMap<String, Attribute>,
}

#[derive(Debug)]
pub(super) enum Attribute {
    Float(f32),
    Int(i64),
    Text(String),
    /// Of a kind that no accepted operation has.
    Other,
}

/// A weight, as f32.
#[derive(Debug, Default)]
pub(super) struct Tensor {
    pub(super) dims: Vec<usize>,
    pub(super) values: Vec<f32>,
}

/// Reads a model.
pub(super) fn parse(bytes: &[u8]) -> Result<Graph, String> {
    let mut graph = None;
    let mut fields = Fields::new(bytes);
    while let Some((number, value)) = fields.next()? {
        if let (7, Value::Bytes(message)) = (number, value) {
            graph = Some(parse_graph(message)?);
        }
    }
    graph.ok_or_else(|| "no graph".to_owned())
}

fn parse_graph(message: &[u8]) -> Result<Graph, String> {
    let mut graph = Graph::default();
    let mut fields = Fields::new(message);
    while let Some((number, value)) = fields.next()? {
        let Value::Bytes(message) = value else { continue };
        match number {
            1 => graph.nodes.push(parse_node(message)?),
            5 => {
                let (name, tensor) = parse_tensor(message)?;
                graph.initializers.insert(name, tensor);
            }
            11 => graph.inputs.push(name_of(message)?),
            12 => graph.outputs.push(name_of(message)?),
            15 => return Err("sparse weights".to_owned()),
            _ => {}
        }
    }
    Ok(graph)
}

/// Field 1 of a description of a value.
fn name_of(message: &[u8]) -> Result<String, Problem> {
    let mut fields = Fields::new(message);
    while let Some((number, value)) = fields.next()? {
        if let (1, Value::Bytes(name)) = (number, value) {
            return text(name);
        }
    }
    Err("a value without a name")
}

fn text(bytes: &[u8]) -> Result<String, Problem> {
    String::from_utf8(bytes.to_vec()).map_err(|_| "a name that is not UTF-8")
}

fn parse_node(message: &[u8]) -> Result<Node, Problem> {
    let mut node = Node::default();
    let mut fields = Fields::new(message);
    while let Some((number, value)) = fields.next()? {
        let Value::Bytes(bytes) = value else { continue };
        match number {
            1 => node.inputs.push(text(bytes)?),
            2 => node.outputs.push(text(bytes)?),
            3 => node.name = text(bytes)?,
            4 => node.operator = text(bytes)?,
            5 => {
                let (name, attribute) = parse_attribute(bytes)?;
                node.attributes.insert(name, attribute);
            }
            7 => node.domain = text(bytes)?,
            _ => {}
        }
    }
    Ok(node)
}

fn parse_attribute(message: &[u8]) -> Result<(String, Attribute), Problem> {
    let (mut name, mut kind) = (String::new(), None);
    let (mut float, mut int, mut string) = (0.0, 0, String::new());
    let mut fields = Fields::new(message);
    while let Some((number, value)) = fields.next()? {
        match (number, value) {
            (1, Value::Bytes(bytes)) => name = text(bytes)?,
            (2, Value::Fixed32(bytes)) => float = f32::from_le_bytes(bytes),
            (3, Value::Varint(value)) => int = value.cast_signed(),
            (4, Value::Bytes(bytes)) => string = text(bytes)?,
            (20, Value::Varint(value)) => kind = Some(value),
            _ => {}
        }
    }
    let attribute = match kind {
        Some(1) => Attribute::Float(float),
        Some(2) => Attribute::Int(int),
        Some(3) => Attribute::Text(string),
        _ => Attribute::Other,
    };
    Ok((name, attribute))
}

fn parse_tensor(message: &[u8]) -> Result<(String, Tensor), String> {
    let (mut name, mut kind, mut dims) = (String::new(), 0, Vec::new());
    let (mut raw, mut floats): (&[u8], Vec<f32>) = (&[], Vec::new());
    let mut elsewhere = false;
    let mut fields = Fields::new(message);
    while let Some((number, value)) = fields.next()? {
        match (number, value) {
            (1, Value::Varint(dim)) => dims.push(dim),
            (1, Value::Bytes(packed)) => {
                let mut packed = Fields::new(packed);
                while !packed.is_empty() {
                    dims.push(packed.varint()?);
                }
            }
            (2, Value::Varint(value)) => kind = value,
            (4, Value::Fixed32(bytes)) => floats.push(f32::from_le_bytes(bytes)),
            (4, Value::Bytes(packed)) => {
                floats.extend(packed.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)));
            }
            (8, Value::Bytes(bytes)) => name = text(bytes)?,
            (9, Value::Bytes(bytes)) => raw = bytes,
            (13, _) => elsewhere = true,
            (14, Value::Varint(place)) => elsewhere |= place != 0,
            _ => {}
        }
    }
    if elsewhere {
        return Err(format!("weight `{name}` is in another file"));
    }
    let values: Vec<f32> = match kind {
        1 if raw.is_empty() => floats,
        1 => raw.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect(),
        10 => raw.as_chunks().0.iter().map(|bytes| f16::from_le_bytes(*bytes).to_f32()).collect(),
        16 => raw.as_chunks().0.iter().map(|bytes| bf16::from_le_bytes(*bytes).to_f32()).collect(),
        // Shapes and the like, of operations that are refused by name.
        _ => return Ok((name, Tensor::default())),
    };
    let dims: Option<Vec<usize>> = dims.iter().map(|dim| usize::try_from(*dim).ok()).collect();
    let dims = dims.ok_or_else(|| format!("weight `{name}` is too large"))?;
    let count = dims.iter().try_fold(1usize, |count, dim| count.checked_mul(*dim));
    if count != Some(values.len()) {
        let found = values.len();
        return Err(format!("weight `{name}` of shape {dims:?} has {found} numbers"));
    }
    Ok((name, Tensor { dims, values }))
}
