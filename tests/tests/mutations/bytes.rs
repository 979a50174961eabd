//! Damage to bytes of any format.

use crate::random::Random;

/// Flips, cuts, enlarges or shuffles `bytes`; says what it did. Half of the
/// places lie in the first `head` bytes, where headers are.
pub(crate) fn damage(bytes: &mut Vec<u8>, head: usize, random: &mut Random) -> String {
    let len = bytes.len().max(1);
    let head = head.clamp(1, len);
    let place = |random: &mut Random| {
        let end = if random.below(2) == 0 { head } else { len };
        random.below(end)
    };
    let at = place(random);
    match random.below(8) {
        0 => {
            bytes.truncate(at);
            format!("cut to {at}")
        }
        1 => {
            let count = 1 + random.below(64);
            bytes.extend((0..count).map(|_| random.next() as u8));
            format!("{count} bytes more at the end")
        }
        2 => {
            let count = *random.of(&[1, 4, 8, 4096]);
            let inserted = vec![random.next() as u8; count];
            bytes.splice(at.min(bytes.len())..at.min(bytes.len()), inserted);
            format!("{count} bytes inserted at {at}")
        }
        3 => {
            let end = (at + 1 + random.below(64)).min(bytes.len());
            bytes.drain(at.min(end)..end);
            format!("{at}..{end} removed")
        }
        4 => {
            let value = *random.of(&[0, 0x7f, 0xff]);
            let end = (at + *random.of(&[1, 4, 8, 64])).min(bytes.len());
            bytes[at.min(end)..end].fill(value);
            format!("{at}..{end} set to {value:#x}")
        }
        5 => {
            let (from, count) = (place(random), 1 + random.below(32));
            let piece: Vec<u8> = bytes.iter().skip(from).take(count).copied().collect();
            let end = (at + piece.len()).min(bytes.len());
            bytes.splice(at.min(end)..end, piece);
            format!("{count} bytes of {from} over those of {at}")
        }
        _ => {
            let count = 1 + random.below(3);
            let mut places = Vec::new();
            for _ in 0..count {
                let (at, bit) = (place(random), random.below(8));
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << bit;
                }
                places.push(format!("bit {bit} of {at}"));
            }
            format!("{} flipped", places.join(", "))
        }
    }
}
