//! The tensors of a file to be written: where their values come from, and the
//! writing itself.

use std::path::Path;
use std::sync::Arc;

use candle_core::DType;
use inference_core::{Error, ProgressEvent, Result};
use inference_gguf::{BlockType, GgufFile, GgufFileWriter, GgufWriter};
use rayon::ThreadPool;

use super::encode::encode_rows;
use super::imatrix::ImportanceMatrix;
use super::recipe::Recipe;
use super::{QuantizeOptions, QuantizeReport};
use crate::merge_model::Unmatched;
use crate::weights::{AlignedBytes, TensorForm};
use crate::{Weight, WeightBytes, WeightSource, WeightType};

/// The phase that progress names.
const PHASE: &str = "quantize";

/// Bytes that are encoded before they are written.
const BUFFER: usize = 16 << 20;

/// A file to be written.
pub(super) struct Plan {
    pub(super) header: GgufWriter,
    pub(super) tensors: Vec<NewTensor>,
    pub(super) source: Box<dyn WeightSource>,
    pub(super) parameters: u64,
    /// Looks at the file before it gets its name.
    pub(super) check: Check,
}

/// A look at a finished file.
pub(super) type Check = Box<dyn Fn(&GgufFile) -> Result<()>>;

/// A tensor to be written.
pub(super) struct NewTensor {
    pub(super) name: String,
    /// Outermost dimension first.
    pub(super) shape: Vec<usize>,
    pub(super) kind: BlockType,
    pub(super) data: Data,
}

/// Where values come from.
pub(super) enum Data {
    /// Weights of the source, one after the other (several are experts).
    Weights { names: Vec<String>, form: TensorForm },
    /// These.
    Values(Vec<f32>),
}

/// Tells whoever watches.
pub(super) fn note(options: &QuantizeOptions, message: String) {
    report(options, ProgressEvent::Note { message });
}

/// Tells what of an adapter does not match.
pub(super) fn note_unmatched(options: &QuantizeOptions, unmatched: &Unmatched) {
    for tensor in &unmatched.tensors {
        note(options, format!("tensor `{tensor}` of the adapter is left out: no such module"));
    }
    for module in &unmatched.missing {
        note(options, format!("the adapter promises `{module}` and lacks its tensors"));
    }
}

fn report(options: &QuantizeOptions, event: ProgressEvent) {
    if let Some(progress) = &options.progress {
        progress.report(&event);
    }
}

/// The type of a tensor under a recipe, with a note where a row's length asks
/// for another. Vectors, norms and routers are F32.
pub(super) fn choose(
    recipe: &Recipe,
    options: &QuantizeOptions,
    name: &str,
    shape: &[usize],
) -> BlockType {
    let Some(choice) = recipe.choose(name, shape) else { return BlockType::F32 };
    if let Some(wanted) = choice.instead_of {
        let columns = shape.last().copied().unwrap_or(1);
        let kind = choice.kind;
        note(options, format!("{name} becomes {kind}: {columns} columns do not fit {wanted}"));
    }
    choice.kind
}

impl Plan {
    /// Writes the file.
    pub(super) fn write(
        mut self,
        out: &Path,
        options: &QuantizeOptions,
        importance: Option<&ImportanceMatrix>,
        pool: &ThreadPool,
    ) -> Result<QuantizeReport> {
        for tensor in &self.tensors {
            self.header.tensor(&tensor.name, &tensor.shape, tensor.kind)?;
        }
        let bytes = self.header.file_bytes();
        let started =
            ProgressEvent::Started { phase: PHASE.to_owned(), total: Some(bytes), unit: "bytes" };
        report(options, started);
        let file = std::mem::take(&mut self.header).create(out)?;
        let mut writer = Writer { file, options, pool, done: 0, types: Vec::new() };
        for tensor in &self.tensors {
            self.write_tensor(tensor, &mut writer, importance)?;
            self.source.release_pages();
        }
        let Writer { file, mut types, .. } = writer;
        file.finish_checked(|path| (self.check)(&GgufFile::open(path)?))?;
        report(options, ProgressEvent::Finished { phase: PHASE.to_owned() });
        types.sort_by_key(|(_, _, bytes)| std::cmp::Reverse(*bytes));
        Ok(QuantizeReport { bytes, parameters: self.parameters, types })
    }

    fn write_tensor(
        &self,
        tensor: &NewTensor,
        writer: &mut Writer<'_>,
        importance: Option<&ImportanceMatrix>,
    ) -> Result<()> {
        let before = writer.done;
        match &tensor.data {
            Data::Values(values) => writer.values(tensor, values)?,
            Data::Weights { names, form } => {
                let columns = tensor.shape.last().copied().unwrap_or(1);
                let quantized = !tensor.kind.is_dense();
                // Of stacked experts each has its own columns' importance.
                let (outer, matrices) = match tensor.shape.as_slice() {
                    [outer, _, _] => (*outer, *outer),
                    _ => (1, 1),
                };
                let importance = match importance.filter(|_| quantized) {
                    Some(matrix) => matrix.get(&tensor.name, columns, matrices)?,
                    None => None,
                };
                if let (true, None, Some(path)) = (quantized, importance, &writer.options.imatrix)
                    && tensor.name.starts_with("blk.")
                {
                    let path = path.display();
                    note(writer.options, format!("{path} has nothing for {}", tensor.name));
                }
                for (index, name) in names.iter().enumerate() {
                    let weight = formed(self.source.get(name)?, *form)?;
                    // A tensor of a file is stacked already.
                    let parts = if names.len() == outer { 1 } else { outer };
                    let rows = weight.rows() / parts.max(1);
                    for part in 0..parts {
                        let at = (index + part) * columns;
                        let importance = importance.and_then(|all| all.get(at..at + columns));
                        writer.rows(tensor, &weight, part * rows..(part + 1) * rows, importance)?;
                    }
                }
            }
        }
        let bytes = writer.done - before;
        match writer.types.iter_mut().find(|(kind, ..)| *kind == tensor.kind) {
            Some((_, count, sum)) => (*count, *sum) = (*count + 1, *sum + bytes),
            None => writer.types.push((tensor.kind, 1, bytes)),
        }
        Ok(())
    }
}

struct Writer<'a> {
    file: GgufFileWriter,
    options: &'a QuantizeOptions,
    pool: &'a ThreadPool,
    done: u64,
    types: Vec<(BlockType, usize, u64)>,
}

impl Writer<'_> {
    fn values(&mut self, tensor: &NewTensor, values: &[f32]) -> Result<()> {
        let bytes = tensor.kind.row_bytes(values.len()).unwrap_or(0);
        let mut buffer = vec![0; bytes];
        tensor.kind.encode(&tensor.name, values, None, &mut buffer)?;
        self.write(&buffer)
    }

    fn rows(
        &mut self,
        tensor: &NewTensor,
        weight: &Weight,
        rows: std::ops::Range<usize>,
        importance: Option<&[f32]>,
    ) -> Result<()> {
        let row = tensor.kind.row_bytes(weight.columns()).filter(|bytes| *bytes > 0);
        let Some(row) = row else {
            return Err(Error::engine_message(format!("{weight:?} as {}", tensor.kind)));
        };
        let stored = match weight.kind() {
            WeightType::Blocks(kind) => Some(kind),
            WeightType::Dense(DType::F32) => Some(BlockType::F32),
            WeightType::Dense(DType::F16) => Some(BlockType::F16),
            WeightType::Dense(DType::BF16) => Some(BlockType::Bf16),
            _ => None,
        };
        let step = (BUFFER / row).max(1);
        let mut first = rows.start;
        let mut buffer = Vec::new();
        while first < rows.end {
            if self.options.cancel.as_ref().is_some_and(|cancel| cancel.is_cancelled()) {
                return Err(Error::engine_message("cancelled"));
            }
            let count = step.min(rows.end - first);
            if stored == Some(tensor.kind) {
                let range = first * row..(first + count) * row;
                self.write(weight.bytes().and_then(|bytes| bytes.get(range)).unwrap_or_default())?;
            } else {
                buffer.resize(count * row, 0);
                let kind = tensor.kind;
                self.pool.install(|| encode_rows(weight, first, kind, importance, &mut buffer))?;
                self.write(&buffer)?;
            }
            first += count;
        }
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write(bytes)?;
        self.done += bytes.len() as u64;
        report(self.options, ProgressEvent::Advanced { phase: PHASE.to_owned(), done: self.done });
        Ok(())
    }
}

/// A weight in the form that GGUF has it.
fn formed(weight: Weight, form: TensorForm) -> Result<Weight> {
    let heads = match form {
        TensorForm::Same => return Ok(weight),
        TensorForm::PlusOne => {
            let mut values = vec![0.0; weight.elem_count()];
            weight.decode_rows(0, &mut values)?;
            values.iter_mut().for_each(|value| *value += 1.0);
            return dense(&weight, &values);
        }
        TensorForm::Interleaved { heads } => heads,
    };
    let outputs = weight.shape().first().copied().unwrap_or(0);
    let head = outputs.checked_div(heads).unwrap_or(0);
    let Some(stored) = weight.bytes().filter(|bytes| bytes.len().is_multiple_of(outputs.max(1)))
    else {
        // In the codes of another format, so decoded (it is quantized again).
        let mut values = vec![0.0; weight.elem_count()];
        weight.decode_rows(0, &mut values)?;
        return formed(dense(&weight, &values)?, form);
    };
    let row = stored.len() / outputs.max(1);
    if head * heads != outputs || !head.is_multiple_of(2) || row == 0 {
        return Err(Error::invalid_model(
            "weights",
            format!("tensor `{}`", weight.name()),
            format!("an even number of rows for each of {heads} heads"),
            format!("shape {:?}", weight.shape()),
        ));
    }
    let mut ordered = AlignedBytes::zeroed(stored.len());
    let heads = ordered.as_mut().chunks_exact_mut(head * row).zip(stored.chunks_exact(head * row));
    for (to, from) in heads {
        let (first, second) = from.split_at(head / 2 * row);
        let halves = first.chunks_exact(row).zip(second.chunks_exact(row));
        for (pair, (first, second)) in to.chunks_exact_mut(2 * row).zip(halves) {
            let (even, odd) = pair.split_at_mut(row);
            even.copy_from_slice(first);
            odd.copy_from_slice(second);
        }
    }
    let (len, bytes): (_, WeightBytes) = (stored.len(), Arc::new(ordered));
    Weight::stored(weight.name(), weight.shape().to_vec(), weight.kind(), bytes, 0..len)
}

/// The same weight with these values.
fn dense(weight: &Weight, values: &[f32]) -> Result<Weight> {
    let mut bytes = AlignedBytes::zeroed(values.len() * 4);
    for (to, value) in bytes.as_mut().as_chunks_mut::<4>().0.iter_mut().zip(values) {
        *to = value.to_le_bytes();
    }
    let (shape, kind) = (weight.shape().to_vec(), WeightType::Dense(DType::F32));
    Weight::stored(weight.name(), shape, kind, Arc::new(bytes), 0..values.len() * 4)
}
