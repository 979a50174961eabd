//! What a model counts for in the memory budget.

use std::fs;
use std::path::Path;

use inference_core::{LoadOptions, ModelMetrics, ModelSource};

/// Formats of weights, the one that a loader prefers first.
const WEIGHTS: [&str; 2] = ["safetensors", "gguf"];

/// The expected bytes of a model that is not loaded: the files of its weights
/// and the KV budget. 0 for what the source does not tell; a source that is
/// not there is for the backend to refuse.
pub(crate) fn expected(source: &ModelSource, options: &LoadOptions) -> u64 {
    weights(source).saturating_add(options.kv_budget.unwrap_or(0))
}

fn weights(source: &ModelSource) -> u64 {
    match source {
        ModelSource::Path(path) if path.is_dir() => of_format(files(path)),
        ModelSource::Path(path) => file_and_parts(path),
        ModelSource::Embedded(embedded) => of_format(
            embedded.iter().map(|(name, content)| ((*name).to_owned(), content.len() as u64)),
        ),
        _ => 0,
    }
}

/// The files of a folder, as far as they can be read.
fn files(folder: &Path) -> impl Iterator<Item = (String, u64)> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| {
        // Follows links: stores link to their blobs.
        let size = fs::metadata(entry.path()).ok().filter(fs::Metadata::is_file)?.len();
        Some((entry.file_name().into_string().ok()?, size))
    })
}

/// Those of the first format that is there.
fn of_format(files: impl Iterator<Item = (String, u64)>) -> u64 {
    let files: Vec<_> = files.collect();
    let of = |format: &str| {
        let matches = |name: &str| Path::new(name).extension().is_some_and(|own| own == format);
        let sizes = files.iter().filter(|(name, _)| matches(name)).map(|(_, size)| *size);
        sizes.fold(0, u64::saturating_add)
    };
    WEIGHTS.into_iter().map(of).find(|bytes| *bytes > 0).unwrap_or(0)
}

/// A file, and where it is one of `model-00001-of-00003.gguf`, its siblings.
fn file_and_parts(path: &Path) -> u64 {
    let alone = || fs::metadata(path).map_or(0, |file| file.len());
    let parts = || {
        let (model, count) = split_name(path.file_name()?.to_str()?)?;
        let siblings = files(path.parent()?)
            .filter(|(name, _)| split_name(name) == Some((model, count)))
            .map(|(_, size)| size);
        Some(siblings.fold(0, u64::saturating_add))
    };
    parts().unwrap_or_else(alone)
}

/// `model` and `00003` of `model-00001-of-00003.gguf`.
fn split_name(name: &str) -> Option<(&str, &str)> {
    let (rest, count) = name.strip_suffix(".gguf")?.rsplit_once("-of-")?;
    let (model, part) = rest.rsplit_once('-')?;
    let number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    (number(part) && number(count)).then_some((model, count))
}

/// What a loaded model is measured against.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Baseline {
    /// Bytes that it held when it had just been loaded: its weights.
    loaded: u64,
    /// Its KV pool.
    kv: u64,
}

impl Baseline {
    /// Of a model that was loaded just now.
    pub(crate) fn new(metrics: &ModelMetrics, options: &LoadOptions) -> Self {
        let kv = match metrics.kv_bytes_total {
            // The backend does not tell.
            0 => options.kv_budget.unwrap_or(0),
            bytes => bytes,
        };
        Self { loaded: metrics.active_bytes, kv }
    }

    /// What the model counts for now: weights and the whole KV pool, or the
    /// most that it ever held, where that is more.
    pub(crate) fn bytes(&self, metrics: &ModelMetrics) -> u64 {
        self.loaded.saturating_add(self.kv).max(metrics.peak_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[(&str, usize)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, size) in files {
            fs::write(folder.path().join(name), vec![0; *size]).unwrap();
        }
        folder
    }

    #[test]
    fn a_folder_counts_the_weights_of_one_format() {
        let options = LoadOptions::new();
        let of = |files: &[(&str, usize)]| {
            let folder = folder(files);
            expected(&folder.path().into(), &options)
        };
        let sharded = [("a.safetensors", 10), ("b.safetensors", 20), ("tokenizer.json", 5)];
        assert_eq!(of(&sharded), 30);
        assert_eq!(of(&[("a.safetensors", 10), ("a.gguf", 7), ("a.bin", 100)]), 10);
        assert_eq!(of(&[("a.gguf", 7), ("config.json", 3)]), 7);
        assert_eq!(of(&[("config.json", 3)]), 0);
        assert_eq!(of(&[]), 0);
    }

    #[test]
    fn a_file_counts_with_the_other_parts_of_its_model() {
        let folder = folder(&[
            ("m-00001-of-00002.gguf", 3),
            ("m-00002-of-00002.gguf", 4),
            ("m-00001-of-00003.gguf", 100),
            ("n-00001-of-00002.gguf", 200),
            ("single.gguf", 9),
            ("best-of-breed.gguf", 11),
        ]);
        let of = |name: &str| expected(&folder.path().join(name).into(), &LoadOptions::new());
        assert_eq!(of("m-00001-of-00002.gguf"), 7);
        assert_eq!(of("single.gguf"), 9);
        assert_eq!(of("best-of-breed.gguf"), 11);
        assert_eq!(of("missing.gguf"), 0);
    }

    #[test]
    fn the_kv_budget_is_added_and_nothing_overflows() {
        const FILES: &[(&str, &[u8])] = &[("model.safetensors", &[0; 8]), ("config.json", &[0; 3])];
        let of = |options: LoadOptions| expected(&FILES.into(), &options);
        assert_eq!(of(LoadOptions::new()), 8);
        assert_eq!(of(LoadOptions::new().with_kv_budget(100)), 108);
        assert_eq!(of(LoadOptions::new().with_kv_budget(u64::MAX)), u64::MAX);
    }

    #[test]
    fn a_loaded_model_counts_its_pool_or_its_peak() {
        let mut metrics = ModelMetrics::default();
        metrics.active_bytes = 100;
        metrics.peak_bytes = 100;
        metrics.kv_bytes_total = 50;
        let options = LoadOptions::new().with_kv_budget(60);
        let baseline = Baseline::new(&metrics, &options);
        assert_eq!(baseline.bytes(&metrics), 150);
        metrics.active_bytes = 120;
        metrics.peak_bytes = 140;
        assert_eq!(baseline.bytes(&metrics), 150);
        metrics.peak_bytes = 170;
        assert_eq!(baseline.bytes(&metrics), 170);

        metrics.kv_bytes_total = 0;
        metrics.peak_bytes = 0;
        assert_eq!(Baseline::new(&metrics, &options).bytes(&metrics), 180);
    }
}
