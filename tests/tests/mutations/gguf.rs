//! Damage to the fields of a GGUF file: counts, lengths, types, shapes and
//! offsets. The fields are found by a walk of its own over the (whole) file.

use crate::random::Random;

/// A number in the header.
#[derive(Clone, Debug)]
pub(crate) struct Field {
    at: usize,
    width: usize,
    what: String,
}

/// Elements of one array of texts that become fields.
const ELEMENTS: usize = 3;

struct Walk<'a> {
    bytes: &'a [u8],
    at: usize,
    fields: Vec<Field>,
    names: Vec<String>,
}

impl Walk<'_> {
    fn number(&mut self, width: usize, what: String) -> u64 {
        let value = self.skip(width);
        self.fields.push(Field { at: self.at - width, width, what });
        value
    }

    fn skip(&mut self, width: usize) -> u64 {
        let mut bytes = [0; 8];
        bytes[..width].copy_from_slice(&self.bytes[self.at..self.at + width]);
        self.at += width;
        u64::from_le_bytes(bytes)
    }

    fn text(&mut self, what: &str) -> String {
        let len = self.number(8, format!("length of {what}")) as usize;
        self.at += len;
        String::from_utf8_lossy(&self.bytes[self.at - len..self.at]).into_owned()
    }

    fn value(&mut self, kind: u64, what: &str) {
        let width = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            10..=12 => 8,
            8 => {
                self.text(what);
                return;
            }
            _ => {
                let element = self.number(4, format!("element type of {what}"));
                let count = self.number(8, format!("elements of {what}"));
                for index in 0..count {
                    let kept = self.fields.len();
                    self.value(element, &format!("{what}[{index}]"));
                    if index >= ELEMENTS as u64 && index + 1 < count {
                        self.fields.truncate(kept);
                    }
                }
                return;
            }
        };
        self.number(width, what.to_owned());
    }
}

/// The numbers of a file's header, the names of its keys and tensors, and
/// where the header ends.
pub(crate) fn fields(bytes: &[u8]) -> (Vec<Field>, Vec<String>, usize) {
    let mut walk = Walk { bytes, at: 0, fields: Vec::new(), names: Vec::new() };
    walk.number(4, "magic".to_owned());
    walk.number(4, "version".to_owned());
    let tensors = walk.number(8, "tensor count".to_owned());
    let keys = walk.number(8, "key count".to_owned());
    for index in 0..keys {
        let key = walk.text(&format!("key {index}"));
        let kind = walk.number(4, format!("type of {key}"));
        walk.value(kind, &key);
        walk.names.push(key);
    }
    for index in 0..tensors {
        let name = walk.text(&format!("name of tensor {index}"));
        let dimensions = walk.number(4, format!("dimensions of {name}"));
        for dimension in 0..dimensions {
            walk.number(8, format!("dimension {dimension} of {name}"));
        }
        walk.number(4, format!("type of {name}"));
        walk.number(8, format!("offset of {name}"));
        walk.names.push(name);
    }
    (walk.fields, walk.names, walk.at)
}

/// Sets one field to a hostile value, or swaps two of one width; says what it
/// did.
pub(crate) fn damage(bytes: &mut [u8], fields: &[Field], random: &mut Random) -> String {
    let field = random.of(fields);
    let range = field.at..field.at + field.width;
    let mut old = [0; 8];
    old[..field.width].copy_from_slice(&bytes[range.clone()]);
    let old = u64::from_le_bytes(old);
    let same: Vec<&Field> = fields.iter().filter(|other| other.width == field.width).collect();
    if random.below(6) == 0 {
        let other = *random.of(&same);
        for byte in 0..field.width {
            bytes.swap(field.at + byte, other.at + byte);
        }
        return format!("{} and {} swapped", field.what, other.what);
    }
    let values = [
        0,
        1,
        2,
        9,
        old.wrapping_add(1),
        old.wrapping_sub(1),
        old.wrapping_mul(2),
        old.wrapping_mul(1 << 20),
        old / 2,
        old ^ 1 << random.below(8 * field.width),
        0x7f,
        0xff,
        0x7fff_ffff,
        0x8000_0000,
        0xffff_ffff,
        1 << 32,
        1 << 40,
        1 << 62,
        1 << 63,
        u64::MAX,
        f32::NAN.to_bits().into(),
        f32::INFINITY.to_bits().into(),
        f64::NAN.to_bits(),
        bytes.len() as u64,
        random.next(),
    ];
    let value = *random.of(&values);
    bytes[range].copy_from_slice(&value.to_le_bytes()[..field.width]);
    format!("{} = {old:#x} set to {value:#x}", field.what)
}
