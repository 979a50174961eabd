//! The rows of a weight as blocks, in parallel.

use inference_core::Result;
use inference_gguf::BlockType;
use rayon::prelude::*;

use crate::Weight;

/// Values that a thread decodes and encodes at a time.
const CHUNK: usize = 1 << 15;

/// The blocks of the rows from `first` on that `out` has room for.
///
/// `importance` weighs the columns. Runs on the current thread pool; beside
/// `out` a few rows per thread are in memory.
///
/// # Errors
///
/// As [`BlockType::encode`] and [`Weight::decode_rows`].
pub(crate) fn encode_rows(
    weight: &Weight,
    first: usize,
    kind: BlockType,
    importance: Option<&[f32]>,
    out: &mut [u8],
) -> Result<()> {
    let columns = weight.columns();
    let Some(row_bytes) = kind.row_bytes(columns).filter(|bytes| *bytes > 0) else {
        return kind.encode(weight.name(), &[], None, out);
    };
    let rows = (CHUNK / columns).max(1);
    out.par_chunks_mut(rows * row_bytes).enumerate().try_for_each(|(index, out)| {
        let mut values = vec![0.0; out.len() / row_bytes * columns];
        weight.decode_rows(first + index * rows, &mut values)?;
        kind.encode(weight.name(), &values, importance, out)
    })
}
