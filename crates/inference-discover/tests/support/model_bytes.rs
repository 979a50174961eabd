//! Small models as bytes: safetensors and GGUF.

/// A GGUF value.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    U32(u32),
    Text(String),
    Texts(Vec<String>),
}

fn text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
}

/// A GGUF file, version 3, of f32 tensors that hold zeros; shapes are
/// `[out, in]`.
pub(crate) fn gguf(metadata: &[(&str, Value)], tensors: &[(&str, &[u64])]) -> Vec<u8> {
    let mut bytes = b"GGUF".to_vec();
    bytes.extend(3_u32.to_le_bytes());
    bytes.extend((tensors.len() as u64).to_le_bytes());
    bytes.extend((metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata {
        text(&mut bytes, key);
        match value {
            Value::U32(number) => {
                bytes.extend(4_u32.to_le_bytes());
                bytes.extend(number.to_le_bytes());
            }
            Value::Text(value) => {
                bytes.extend(8_u32.to_le_bytes());
                text(&mut bytes, value);
            }
            Value::Texts(values) => {
                bytes.extend(9_u32.to_le_bytes());
                bytes.extend(8_u32.to_le_bytes());
                bytes.extend((values.len() as u64).to_le_bytes());
                values.iter().for_each(|value| text(&mut bytes, value));
            }
        }
    }
    let mut offset = 0;
    for (name, shape) in tensors {
        text(&mut bytes, name);
        bytes.extend((shape.len() as u32).to_le_bytes());
        shape.iter().rev().for_each(|dim| bytes.extend(dim.to_le_bytes()));
        bytes.extend(0_u32.to_le_bytes());
        bytes.extend((offset as u64).to_le_bytes());
        offset += (shape.iter().product::<u64>() as usize * 4).next_multiple_of(32);
    }
    bytes.resize(bytes.len().next_multiple_of(32) + offset, 0);
    bytes
}

/// What a small Llama in a GGUF file says of itself.
pub(crate) fn llama_metadata(file_type: u32) -> Vec<(&'static str, Value)> {
    vec![
        ("general.architecture", Value::Text("llama".to_owned())),
        ("general.file_type", Value::U32(file_type)),
        ("llama.context_length", Value::U32(2048)),
    ]
}

/// A safetensors file of bf16 tensors that hold zeros.
pub(crate) fn safetensors(tensors: &[(&str, &[u64])]) -> Vec<u8> {
    let mut header = serde_json::Map::new();
    let mut end = 0;
    for (name, shape) in tensors {
        let begin = end;
        end += shape.iter().product::<u64>() * 2;
        let entry = serde_json::json!(
            {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]});
        header.insert((*name).to_owned(), entry);
    }
    let header = serde_json::Value::Object(header).to_string();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + end as usize, 0);
    bytes
}
