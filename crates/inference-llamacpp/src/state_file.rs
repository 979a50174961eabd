//! The file that llama.cpp writes the state of a sequence to, as keys and
//! values of single positions.
//!
//! llama.cpp gives the bytes of a state away in no other form. A file has a
//! header, of each position its number and sequence, and then a layer after
//! the other: type and row size of the keys and the keys of all positions, and
//! after all of them the same of the values, which lie transposed where
//! attention is not computed in tiles. What is the same in every file of a
//! context is its [`StateLayout`], which is read off a file of one position;
//! with it, files are made of nothing but keys and values. So whatever a
//! snapshot's bytes are, llama.cpp reads a file of the form that it wrote.

/// Bytes of a number, of which all but row sizes are.
const WORD: usize = 4;

/// Keys or values of one layer.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Rows {
    /// ggml's number of the type.
    kind: u32,
    /// Bytes of one position.
    bytes: usize,
    /// Bytes of an element, where rows are transposed; otherwise of a row.
    element: usize,
}

/// What all files of the states of one context have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StateLayout {
    /// What llama.cpp knows such files by, and their version.
    magic: [u8; 2 * WORD],
    /// Whether values are transposed.
    transposed: bool,
    /// The sizes of what keys and values are rotated by: 0 for nothing.
    rotations: [u32; 2],
    keys: Vec<Rows>,
    values: Vec<Rows>,
}

/// A file, taken apart.
struct Parsed<'a> {
    layout: StateLayout,
    /// In the order of the file.
    positions: Vec<u32>,
    /// Keys of each layer, then values.
    data: Vec<&'a [u8]>,
}

/// Bytes that are taken from the front.
struct Front<'a>(&'a [u8]);

impl<'a> Front<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn word(&mut self) -> Option<u32> {
        let (word, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u32::from_le_bytes(*word))
    }

    fn size(&mut self) -> Option<usize> {
        let (size, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        usize::try_from(u64::from_le_bytes(*size)).ok().filter(|size| *size > 0)
    }
}

/// Takes a file apart; `None` where it is not of the form that the module
/// describes, as those of models with several caches are not.
fn parse(file: &[u8]) -> Option<Parsed<'_>> {
    let mut rest = Front(file);
    let magic = rest.take(2 * WORD)?.try_into().ok()?;
    // No tokens, one stream.
    if rest.word()? != 0 || rest.word()? != 1 {
        return None;
    }
    let count = rest.word()? as usize;
    let mut positions = Vec::new();
    for _ in 0..count {
        positions.push(rest.word()?);
        // In one sequence, with whatever number.
        if rest.word()? != 1 {
            return None;
        }
        rest.word()?;
    }
    let transposed = match rest.word()? {
        0 => false,
        1 => true,
        _ => return None,
    };
    let layers = rest.word()?;
    let rotations = [rest.word()?, rest.word()?];
    let (mut keys, mut values, mut data) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..layers {
        let (kind, bytes) = (rest.word()?, rest.size()?);
        keys.push(Rows { kind, bytes, element: bytes });
        data.push(rest.take(bytes.checked_mul(count)?)?);
    }
    // Layers may have no values of their own.
    while !rest.0.is_empty() {
        let kind = rest.word()?;
        let (bytes, element) = if transposed {
            let (element, width) = (rest.word()? as usize, rest.word()? as usize);
            (element.checked_mul(width).filter(|bytes| *bytes > 0)?, element)
        } else {
            let bytes = rest.size()?;
            (bytes, bytes)
        };
        values.push(Rows { kind, bytes, element });
        data.push(rest.take(bytes.checked_mul(count)?)?);
    }
    let known = count > 0 && !keys.is_empty() && values.len() <= keys.len();
    let layout = StateLayout { magic, transposed, rotations, keys, values };
    known.then_some(Parsed { layout, positions, data })
}

impl StateLayout {
    /// Of a file that holds position 0 alone; `None` where it is of another
    /// form.
    pub(crate) fn of(file: &[u8]) -> Option<Self> {
        let parsed = parse(file).filter(|parsed| parsed.positions == [0])?;
        Some(parsed.layout)
    }

    /// Bytes of one position: its keys of each layer, then its values.
    pub(crate) fn position_bytes(&self) -> usize {
        self.rows().map(|rows| rows.bytes).sum()
    }

    /// The sizes of what keys and values are rotated by before they are stored.
    pub(crate) fn rotations(&self) -> [u32; 2] {
        self.rotations
    }

    fn rows(&self) -> impl Iterator<Item = &Rows> {
        self.keys.iter().chain(&self.values)
    }

    /// Keys and values of the positions below `len` that a file holds, one
    /// position after the other; `None` where it is of another layout or lacks
    /// one of them.
    pub(crate) fn read(&self, file: &[u8], len: usize) -> Option<Vec<u8>> {
        let parsed = parse(file).filter(|parsed| parsed.layout == *self)?;
        let count = parsed.positions.len();
        // Where each position is: sequences that share positions hold them in
        // any order.
        let mut places = vec![None; len];
        for (place, position) in parsed.positions.iter().enumerate() {
            if let Some(entry) = places.get_mut(*position as usize) {
                *entry = Some(place);
            }
        }
        let mut bytes = Vec::with_capacity(len.saturating_mul(self.position_bytes()));
        for place in places {
            let place = place?;
            for (rows, data) in self.rows().zip(&parsed.data) {
                // A row that is not transposed is one element.
                for element in 0..rows.bytes / rows.element {
                    let from = (element * count + place) * rows.element;
                    bytes.extend_from_slice(data.get(from..from + rows.element)?);
                }
            }
        }
        Some(bytes)
    }

    /// The file of the positions from 0 on whose keys and values these are;
    /// `None` where they are of no whole number of positions.
    pub(crate) fn file(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        let each = self.position_bytes();
        let count = bytes.len() / each;
        let words = u32::try_from(count).ok().filter(|_| bytes.len() == count * each)?;
        let mut file = self.magic.to_vec();
        let mut word = |word: u32| file.extend_from_slice(&word.to_le_bytes());
        [0, 1, words].into_iter().for_each(&mut word);
        for position in 0..words {
            [position, 1, 0].into_iter().for_each(&mut word);
        }
        word(self.transposed.into());
        word(u32::try_from(self.keys.len()).ok()?);
        self.rotations.into_iter().for_each(&mut word);
        let mut start = 0;
        for (index, rows) in self.rows().enumerate() {
            file.extend_from_slice(&rows.kind.to_le_bytes());
            if self.transposed && index >= self.keys.len() {
                for number in [rows.element, rows.bytes / rows.element] {
                    file.extend_from_slice(&u32::try_from(number).ok()?.to_le_bytes());
                }
            } else {
                file.extend_from_slice(&(rows.bytes as u64).to_le_bytes());
            }
            for from in (start..start + rows.bytes).step_by(rows.element) {
                for position in bytes.chunks_exact(each) {
                    file.extend_from_slice(position.get(from..from + rows.element)?);
                }
            }
            start += rows.bytes;
        }
        Some(file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAGIC: [u8; 8] = *b"qsgg\x04\0\0\0";
    /// Bytes of a position of each layer's keys, and of its values.
    const KEYS: [usize; 3] = [8, 8, 12];
    const VALUES: [usize; 3] = [8, 4, 12];

    /// A byte that is another one for everything in a state.
    fn byte(layer: usize, values: bool, position: u32, at: usize) -> u8 {
        (layer * 97 + usize::from(values) * 41 + position as usize * 13 + at * 7) as u8
    }

    /// The file of these positions, as llama.cpp writes it, with elements of
    /// two bytes.
    fn file(positions: &[u32], transposed: bool, values: &[usize]) -> Vec<u8> {
        let mut file = MAGIC.to_vec();
        let mut words = |words: &[u32]| {
            words.iter().for_each(|word| file.extend_from_slice(&word.to_le_bytes()));
        };
        words(&[0, 1, positions.len() as u32]);
        positions.iter().for_each(|position| words(&[*position, 1, 5]));
        words(&[transposed.into(), 3, 64, 0]);
        for (layer, len) in KEYS.into_iter().enumerate() {
            file.extend(1u32.to_le_bytes());
            file.extend((len as u64).to_le_bytes());
            for position in positions {
                file.extend((0..len).map(|at| byte(layer, false, *position, at)));
            }
        }
        for (layer, len) in values.iter().copied().enumerate() {
            file.extend(1u32.to_le_bytes());
            if transposed {
                file.extend(2u32.to_le_bytes());
                file.extend((len as u32 / 2).to_le_bytes());
                for element in 0..len / 2 {
                    for position in positions {
                        file.extend([0, 1].map(|i| byte(layer, true, *position, 2 * element + i)));
                    }
                }
            } else {
                file.extend((len as u64).to_le_bytes());
                for position in positions {
                    file.extend((0..len).map(|at| byte(layer, true, *position, at)));
                }
            }
        }
        file
    }

    /// Keys and values of the positions below `len`.
    fn expected(len: u32, values: &[usize]) -> Vec<u8> {
        let of_position = |position: u32| {
            let rows = |all: Vec<usize>, of_values: bool| {
                all.into_iter().enumerate().flat_map(move |(layer, len)| {
                    (0..len).map(move |at| byte(layer, of_values, position, at))
                })
            };
            rows(KEYS.to_vec(), false).chain(rows(values.to_vec(), true))
        };
        (0..len).flat_map(of_position).collect()
    }

    #[test]
    fn positions_come_out_and_go_in_again() {
        for (transposed, values) in [(false, &VALUES[..]), (true, &VALUES), (false, &[])] {
            let layout = StateLayout::of(&file(&[0], transposed, values)).unwrap();
            let each = 28 + values.iter().sum::<usize>();
            assert_eq!(layout.position_bytes(), each);
            for (held, len) in [(vec![0, 1, 2, 3], 4), (vec![3, 1, 0, 2, 4], 3), (vec![0], 1)] {
                let bytes = layout.read(&file(&held, transposed, values), len).unwrap();
                assert_eq!(bytes, expected(len as u32, values), "{held:?}");
                let positions: Vec<u32> = (0..len as u32).collect();
                let mut again = file(&positions, transposed, values);
                // The number of the sequence, which llama.cpp reads past.
                for position in 0..len {
                    again[20 + 12 * position + 8] = 0;
                }
                assert_eq!(layout.file(&bytes).unwrap(), again);
            }
        }
    }

    #[test]
    fn other_files_are_none() {
        let whole = file(&[0], false, &VALUES);
        for end in 0..whole.len() {
            // Without its last layers' values it is one of a model that has none.
            let known = StateLayout::of(&whole[..end]);
            let shorter = (0..3).any(|n| end == file(&[0], false, &VALUES[..n]).len());
            assert_eq!(known.is_some(), shorter, "{end} of {} bytes", whole.len());
        }
        assert!(StateLayout::of(&[whole.clone(), whole.clone()].concat()).is_none());
        assert!(StateLayout::of(&file(&[1], false, &VALUES)).is_none());
        let mut tokens = whole.clone();
        tokens[8] = 1;
        assert!(StateLayout::of(&tokens).is_none());

        let layout = StateLayout::of(&whole).unwrap();
        assert!(layout.read(&file(&[0, 2], false, &VALUES), 3).is_none(), "position 1 is missing");
        assert!(layout.read(&file(&[0, 1], true, &VALUES), 2).is_none(), "another layout");
        assert!(layout.file(&vec![0; layout.position_bytes() + 1]).is_none());
    }
}
