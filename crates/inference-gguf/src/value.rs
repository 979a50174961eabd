//! Metadata values, decoded when they are read.

use inference_core::{Error, Result};

use crate::cursor::{Cursor, utf8};

/// The deepest nesting of arrays that is read.
const MAX_DEPTH: usize = 4;

/// The type of a metadata value; the discriminant is the number in files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
#[expect(missing_docs, reason = "the names say it")]
pub enum ValueType {
    U8 = 0,
    I8 = 1,
    U16 = 2,
    I16 = 3,
    U32 = 4,
    I32 = 5,
    F32 = 6,
    Bool = 7,
    Text = 8,
    Array = 9,
    U64 = 10,
    I64 = 11,
    F64 = 12,
}

impl ValueType {
    const ALL: [Self; 13] = [
        Self::U8,
        Self::I8,
        Self::U16,
        Self::I16,
        Self::U32,
        Self::I32,
        Self::F32,
        Self::Bool,
        Self::Text,
        Self::Array,
        Self::U64,
        Self::I64,
        Self::F64,
    ];

    /// The number in files.
    #[must_use]
    pub fn id(self) -> u32 {
        self as u32
    }

    /// The type of a number in a file.
    #[must_use]
    pub fn from_id(id: u32) -> Option<Self> {
        Self::ALL.get(id as usize).copied()
    }

    /// Bytes of a value; `None` where it bears its own length.
    #[must_use]
    pub fn fixed_bytes(self) -> Option<usize> {
        match self {
            Self::U8 | Self::I8 | Self::Bool => Some(1),
            Self::U16 | Self::I16 => Some(2),
            Self::U32 | Self::I32 | Self::F32 => Some(4),
            Self::U64 | Self::I64 | Self::F64 => Some(8),
            Self::Text | Self::Array => None,
        }
    }

    /// What it is called in messages.
    pub(crate) fn describe(self) -> &'static str {
        match self {
            Self::U8 | Self::U16 | Self::U32 | Self::U64 => "an unsigned integer",
            Self::I8 | Self::I16 | Self::I32 | Self::I64 => "an integer",
            Self::F32 | Self::F64 => "a float",
            Self::Bool => "a truth value",
            Self::Text => "a text",
            Self::Array => "an array",
        }
    }

    pub(crate) fn read(cursor: &mut Cursor<'_>, key: &str) -> Result<Self> {
        let id = cursor.u32(|| format!("type of {key}"))?;
        Self::from_id(id).ok_or_else(|| {
            let what = format!("type of {key}");
            Error::invalid_model(cursor.file, what, "a number up to 12", id.to_string())
        })
    }

    /// Moves over a value of this type, checking that it is there.
    pub(crate) fn skip(self, cursor: &mut Cursor<'_>, key: &str, depth: usize) -> Result<()> {
        let what = || key.to_owned();
        match self {
            Self::Text => {
                cursor.text_bytes(what)?;
            }
            Self::Array => {
                let (element, len) = read_array_head(cursor, key)?;
                match element.fixed_bytes() {
                    // No overflow: `len` elements fit what is left.
                    Some(size) => {
                        cursor.take((size * len) as u64, what)?;
                    }
                    None if element == Self::Array && depth >= MAX_DEPTH => {
                        let expected = format!("arrays nested at most {MAX_DEPTH} deep");
                        return Err(Error::invalid_model(cursor.file, key, expected, "deeper"));
                    }
                    // Vocabularies: most of what a header holds.
                    None if element == Self::Text => cursor.skip_texts(len, what)?,
                    None => {
                        for _ in 0..len {
                            element.skip(cursor, key, depth + 1)?;
                        }
                    }
                }
            }
            fixed => {
                cursor.take(fixed.fixed_bytes().unwrap_or(0) as u64, what)?;
            }
        }
        Ok(())
    }
}

/// Element type and length of an array; as many elements can be there.
pub(crate) fn read_array_head(cursor: &mut Cursor<'_>, key: &str) -> Result<(ValueType, usize)> {
    let element = ValueType::read(cursor, &format!("the elements of {key}"))?;
    // A text has its length, an array its type and length.
    let least = match element {
        ValueType::Text => 8,
        ValueType::Array => 12,
        fixed => fixed.fixed_bytes().unwrap_or(1),
    };
    let len = cursor.count(least, usize::MAX, &format!("length of {key}"))?;
    Ok((element, len))
}

/// A metadata value, borrowed from the file's bytes.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Value<'a> {
    /// Any integer.
    Integer(i128),
    /// Any float; 32-bit ones are widened.
    Float(f64),
    /// A truth value.
    Bool(bool),
    /// A text.
    Text(&'a str),
    /// An array, not yet decoded.
    Array(Array<'a>),
}

impl<'a> Value<'a> {
    /// Reads a value that has been skipped once, so it is there.
    pub(crate) fn read(cursor: &mut Cursor<'a>, kind: ValueType, key: &str) -> Result<Self> {
        let what = || key.to_owned();
        Ok(match kind {
            ValueType::U8 => Self::Integer(u8::from_le_bytes(cursor.chunk(what)?).into()),
            ValueType::I8 => Self::Integer(i8::from_le_bytes(cursor.chunk(what)?).into()),
            ValueType::U16 => Self::Integer(u16::from_le_bytes(cursor.chunk(what)?).into()),
            ValueType::I16 => Self::Integer(i16::from_le_bytes(cursor.chunk(what)?).into()),
            ValueType::U32 => Self::Integer(u32::from_le_bytes(cursor.chunk(what)?).into()),
            ValueType::I32 => Self::Integer(i32::from_le_bytes(cursor.chunk(what)?).into()),
            ValueType::U64 => Self::Integer(u64::from_le_bytes(cursor.chunk(what)?).into()),
            ValueType::I64 => Self::Integer(i64::from_le_bytes(cursor.chunk(what)?).into()),
            ValueType::F32 => Self::Float(f32::from_le_bytes(cursor.chunk(what)?).into()),
            ValueType::F64 => Self::Float(f64::from_le_bytes(cursor.chunk(what)?)),
            ValueType::Bool => match cursor.chunk::<1>(what)? {
                [0] => Self::Bool(false),
                [1] => Self::Bool(true),
                [other] => {
                    let found = other.to_string();
                    return Err(Error::invalid_model(cursor.file, key, "0 or 1", found));
                }
            },
            ValueType::Text => Self::Text(utf8(cursor.file, cursor.text_bytes(what)?, what)?),
            ValueType::Array => {
                let (element, len) = read_array_head(cursor, key)?;
                let start = cursor.at;
                // One level at a time: what lies below was counted when the file was opened.
                for _ in 0..len {
                    if let Some(size) = element.fixed_bytes() {
                        cursor.take((size * len) as u64, what)?;
                        break;
                    }
                    element.skip(cursor, key, 0)?;
                }
                let bytes = cursor.bytes.get(start..cursor.at).unwrap_or_default();
                Self::Array(Array { file: cursor.file, element, len, bytes })
            }
        })
    }

    /// What it is, for messages.
    #[must_use]
    pub fn describe(&self) -> String {
        match self {
            Self::Integer(value) => value.to_string(),
            Self::Float(value) => value.to_string(),
            Self::Bool(value) => value.to_string(),
            Self::Text(text) => {
                let short: String = text.chars().take(60).collect();
                let dots = if short.len() < text.len() { "…" } else { "" };
                format!("the text `{short}{dots}`")
            }
            Self::Array(array) => format!("an array of {}", array.len),
        }
    }
}

/// An array in a file's metadata. Elements are decoded as they are iterated.
#[derive(Clone, Copy)]
pub struct Array<'a> {
    pub(crate) file: &'a str,
    pub(crate) element: ValueType,
    pub(crate) len: usize,
    pub(crate) bytes: &'a [u8],
}

impl<'a> Array<'a> {
    /// The type of the elements.
    #[must_use]
    pub fn element_type(&self) -> ValueType {
        self.element
    }

    /// Number of elements.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The elements. An item is an error, naming `key` and index, where a text
    /// is not UTF-8 or a truth value neither 0 nor 1.
    pub fn values(self, key: &str) -> impl Iterator<Item = Result<Value<'a>>> {
        let mut cursor = Cursor::new(self.file, self.bytes, 0);
        let element = self.element;
        (0..self.len).map(move |index| {
            let start = cursor.at;
            let value = Value::read(&mut cursor, element, key);
            // Name the element, and go on behind it.
            value.or_else(|_| {
                cursor.at = start;
                let named = Value::read(&mut cursor, element, &format!("{key}[{index}]"));
                cursor.at = start;
                element.skip(&mut cursor, key, 0)?;
                named
            })
        })
    }

    /// The bytes of each text; nothing for an array of another type.
    pub fn text_bytes(self) -> impl Iterator<Item = &'a [u8]> {
        let mut cursor = Cursor::new(self.file, self.bytes, 0);
        let len = if self.element == ValueType::Text { self.len } else { 0 };
        (0..len).map_while(move |_| cursor.text_bytes(String::new).ok())
    }
}

impl std::fmt::Debug for Array<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "[{:?}; {}]", self.element, self.len)
    }
}
