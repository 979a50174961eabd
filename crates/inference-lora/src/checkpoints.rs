//! Checkpoints of a training run: written whole or not at all.
//!
//! `checkpoints/step-00000120` holds the adapter as PEFT's files, the
//! optimizer's copy of the factors with their means (`state.safetensors`) and
//! everything else that continuing needs (`state.json`). A checkpoint is
//! written to a folder of another name, flushed, and renamed; then the file
//! `checkpoints/latest`, which names it, is replaced in the same way. Whenever
//! the process ends, `latest` names a whole checkpoint.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use inference_core::{Adapter, Error, FactorState, Result, TrainingState};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, View};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Where a run stands, besides factors and means.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RunState {
    /// Steps that were taken.
    pub step: u64,
    /// Forward passes so far, from which dropout draws.
    pub passes: u64,
    /// Batches of the data that were used.
    pub batches: u64,
    /// The least evaluation loss so far.
    pub best_evaluation: Option<f32>,
    /// Evaluations since then.
    pub evaluations_since_best: u64,
    /// What the run was started with; a run that continues is started with the
    /// same.
    pub settings: Value,
}

const LATEST: &str = "latest";
const TENSORS: &str = "state.safetensors";
const STATE: &str = "state.json";

/// The checkpoints of one run.
#[derive(Clone, Debug)]
pub struct Checkpoints {
    folder: PathBuf,
}

/// A moment at which a process may end; tests end it there.
type Interrupt<'a> = &'a mut dyn FnMut(&str) -> Result<()>;

impl Checkpoints {
    /// The checkpoints in `output/checkpoints`.
    #[must_use]
    pub fn new(output: &Path) -> Self {
        Self { folder: output.join("checkpoints") }
    }

    /// The newest whole checkpoint; `None` where there is none.
    ///
    /// # Errors
    ///
    /// [`Io`](inference_core::ErrorKind::Io);
    /// [`InvalidInput`](inference_core::ErrorKind::InvalidInput) where the file
    /// `latest` names no checkpoint.
    pub fn latest(&self) -> Result<Option<PathBuf>> {
        let pointer = self.folder.join(LATEST);
        let name = match fs::read_to_string(&pointer) {
            Ok(name) => name.trim().to_owned(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io(pointer, "read", error)),
        };
        let path = self.folder.join(&name);
        if !is_checkpoint(&name) || !path.is_dir() {
            let what = format!("`{}`", pointer.display());
            return Err(Error::invalid_input(what, "the name of a checkpoint", name));
        }
        Ok(Some(path))
    }

    /// Writes a checkpoint, makes it the latest, and removes all but the newest
    /// `keep`.
    ///
    /// # Errors
    ///
    /// [`Io`](inference_core::ErrorKind::Io), and those of the adapter; the
    /// latest checkpoint stays what it was.
    pub fn save(
        &self,
        run: &RunState,
        state: &TrainingState,
        adapter: &dyn Adapter,
        keep: usize,
    ) -> Result<PathBuf> {
        self.save_with(run, state, adapter, keep, &mut |_| Ok(()))
    }

    fn save_with(
        &self,
        run: &RunState,
        state: &TrainingState,
        adapter: &dyn Adapter,
        keep: usize,
        interrupt: Interrupt<'_>,
    ) -> Result<PathBuf> {
        let io = |path: &Path, action| {
            let path = path.to_owned();
            move |error| Error::io(path, action, error)
        };
        fs::create_dir_all(&self.folder).map_err(io(&self.folder, "create"))?;
        let name = format!("step-{:08}", run.step);
        let (temporary, path) = (self.folder.join(format!("{name}.part")), self.folder.join(&name));
        // What an interrupted run left.
        for old in [&temporary, &path] {
            if old.exists() && self.latest()?.as_ref() != Some(old) {
                fs::remove_dir_all(old).map_err(io(old, "remove"))?;
            }
        }
        if path.exists() {
            // This step was saved by the run that this one continues.
            return Ok(path);
        }
        interrupt("before anything")?;
        adapter.save(&temporary)?;
        interrupt("after the adapter")?;
        write(&temporary.join(TENSORS), &tensors(state)?)?;
        interrupt("after the means")?;
        let json = serde_json::to_vec_pretty(run)
            .map_err(|error| Error::engine("writing a checkpoint's state", error))?;
        write(&temporary.join(STATE), &json)?;
        interrupt("after the state")?;
        sync(&temporary)?;
        fs::rename(&temporary, &path).map_err(io(&path, "rename"))?;
        interrupt("after renaming the folder")?;
        sync(&self.folder)?;
        let pointer = self.folder.join(format!("{LATEST}.part"));
        write(&pointer, name.as_bytes())?;
        interrupt("after the pointer")?;
        fs::rename(&pointer, self.folder.join(LATEST)).map_err(io(&pointer, "rename"))?;
        interrupt("after renaming the pointer")?;
        sync(&self.folder)?;
        self.remove_old(&name, keep.max(1), interrupt)?;
        Ok(path)
    }

    /// Removes all but the newest `keep` checkpoints; `latest` stays.
    fn remove_old(&self, latest: &str, keep: usize, interrupt: Interrupt<'_>) -> Result<()> {
        let entries = fs::read_dir(&self.folder).map_err(|e| Error::io(&self.folder, "list", e))?;
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let mut names: Vec<String> =
            names.filter(|name| is_checkpoint(name) && name.as_str() != latest).collect();
        names.sort();
        let many = (names.len() + 1).saturating_sub(keep);
        for name in names.iter().take(many) {
            interrupt("before removing an old one")?;
            let path = self.folder.join(name);
            fs::remove_dir_all(&path).map_err(|e| Error::io(&path, "remove", e))?;
        }
        Ok(())
    }

    /// Reads a checkpoint.
    ///
    /// # Errors
    ///
    /// [`Io`](inference_core::ErrorKind::Io),
    /// [`InvalidInput`](inference_core::ErrorKind::InvalidInput) naming the
    /// file that is not one of a checkpoint.
    pub fn load(path: &Path) -> Result<(RunState, TrainingState)> {
        let read = |name: &str| {
            let path = path.join(name);
            fs::read(&path).map_err(|error| Error::io(path, "read", error))
        };
        let invalid = |name: &str, problem: String| {
            let what = format!("`{}`", path.join(name).display());
            Error::invalid_input(what, "a checkpoint's state", problem)
        };
        let run: RunState = serde_json::from_slice(&read(STATE)?)
            .map_err(|error| invalid(STATE, error.to_string()))?;
        let bytes = read(TENSORS)?;
        let tensors = SafeTensors::deserialize(&bytes)
            .map_err(|error| invalid(TENSORS, error.to_string()))?;
        let mut parts: HashMap<String, [Option<Shaped>; 3]> = HashMap::new();
        for (name, view) in tensors.tensors() {
            let known = PARTS.iter().position(|part| name.ends_with(part));
            let (Some(index), Dtype::F32) = (known, view.dtype()) else {
                return Err(invalid(TENSORS, format!("tensor `{name}`, {:?}", view.dtype())));
            };
            let module = name.strip_suffix(PARTS[index]).unwrap_or(&name).to_owned();
            let values = view.data().as_chunks::<4>().0.iter().map(|v| f32::from_le_bytes(*v));
            parts.entry(module).or_default()[index] =
                Some((view.shape().to_vec(), values.collect()));
        }
        let mut factors = Vec::with_capacity(parts.len());
        for (name, found) in parts {
            let [Some((shape, values)), Some((_, mean)), Some((_, square))] = found else {
                return Err(invalid(TENSORS, format!("`{name}` without one of its parts")));
            };
            let &[rows, columns] = shape.as_slice() else {
                return Err(invalid(TENSORS, format!("`{name}` of shape {shape:?}")));
            };
            factors.push(FactorState::new(name, [rows, columns], values).with_means(mean, square));
        }
        factors.sort_by(|a, b| a.name.cmp(&b.name));
        let state = TrainingState::new(run.step, run.passes, factors);
        Ok((run, state))
    }
}

/// A tensor: its shape and values.
type Shaped = (Vec<usize>, Vec<f32>);

fn is_checkpoint(name: &str) -> bool {
    let digits = name.strip_prefix("step-");
    digits.is_some_and(|d| !d.is_empty() && d.bytes().all(|b| b.is_ascii_digit()))
}

/// Ends of tensors' names: values, means, means of squares.
const PARTS: [&str; 3] = [".value", ".mean", ".mean_square"];

struct Floats<'a> {
    shape: Vec<usize>,
    values: &'a [f32],
}

impl View for Floats<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        self.values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>().into()
    }

    fn data_len(&self) -> usize {
        size_of_val(self.values)
    }
}

fn tensors(state: &TrainingState) -> Result<Vec<u8>> {
    let views = state.factors.iter().flat_map(|factor| {
        [&factor.values, &factor.mean, &factor.mean_square].into_iter().zip(PARTS).map(
            |(values, part)| {
                let shape = factor.shape.to_vec();
                (format!("{}{part}", factor.name), Floats { shape, values })
            },
        )
    });
    safetensors::serialize(views, None)
        .map_err(|error| Error::engine("writing a checkpoint's tensors", error))
}

/// Writes a file and flushes it to the disk.
fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let write = || {
        let mut file = File::create(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(|error| Error::io(path, "write", error))
}

/// Makes new names in a folder last; elsewhere than on Unix a folder cannot be
/// opened for that.
fn sync(folder: &Path) -> Result<()> {
    if cfg!(unix) {
        let synced = File::open(folder).and_then(|folder| folder.sync_all());
        synced.map_err(|error| Error::io(folder, "write", error))?;
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test")]
mod tests {
    use super::*;

    struct Files;

    impl Adapter for Files {
        fn total_params(&self) -> usize {
            2
        }

        fn save(&self, path: &Path) -> Result<()> {
            fs::create_dir_all(path).unwrap();
            fs::write(path.join("adapter_config.json"), "{}").unwrap();
            Ok(())
        }
    }

    fn state(step: u64) -> (RunState, TrainingState) {
        let values = vec![step as f32, 1.5];
        let factor =
            FactorState::new("m.lora_A", [1, 2], values).with_means(vec![0.5; 2], vec![2.0; 2]);
        let run = RunState { step, passes: 3 * step, batches: step, ..RunState::default() };
        (run, TrainingState::new(step, 3 * step, vec![factor]))
    }

    #[test]
    fn what_is_saved_is_loaded() {
        let folder = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::new(folder.path());
        assert!(checkpoints.latest().unwrap().is_none());
        for step in 1..=5 {
            let (run, state) = state(step);
            let path = checkpoints.save(&run, &state, &Files, 2).unwrap();
            assert_eq!(checkpoints.latest().unwrap(), Some(path.clone()));
            assert_eq!(Checkpoints::load(&path).unwrap(), (run, state));
        }
        let kept = fs::read_dir(folder.path().join("checkpoints")).unwrap().count();
        assert_eq!(kept, 3, "two checkpoints and the pointer");
    }

    /// The process ends at each moment in turn: the latest checkpoint is a whole
    /// one, and the run that continues saves the next.
    #[test]
    fn a_whole_checkpoint_is_there_at_any_moment() {
        let mut moment = 0;
        loop {
            let folder = tempfile::tempdir().unwrap();
            let checkpoints = Checkpoints::new(folder.path());
            let (run, first) = state(1);
            checkpoints.save(&run, &first, &Files, 1).unwrap();
            let (run, second) = state(2);
            let mut passed = 0;
            let ended = checkpoints.save_with(&run, &second, &Files, 1, &mut |_| {
                passed += 1;
                if passed > moment { Err(Error::engine_message("killed")) } else { Ok(()) }
            });
            let path = checkpoints.latest().unwrap().unwrap();
            let (_, found) = Checkpoints::load(&path).unwrap();
            assert!(found == first || found == second, "moment {moment}");
            assert!(path.join("adapter_config.json").exists());
            checkpoints.save(&run, &second, &Files, 1).unwrap();
            let path = checkpoints.latest().unwrap().unwrap();
            assert_eq!(Checkpoints::load(&path).unwrap().1, second, "moment {moment}");
            if ended.is_ok() {
                break;
            }
            moment += 1;
        }
        assert!(moment >= 7, "{moment} moments");
    }

    #[test]
    fn a_damaged_checkpoint_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::new(folder.path());
        let (run, state) = state(1);
        let path = checkpoints.save(&run, &state, &Files, 1).unwrap();
        fs::write(path.join(TENSORS), "no tensors").unwrap();
        assert!(Checkpoints::load(&path).unwrap_err().to_string().contains(TENSORS));
        fs::write(folder.path().join("checkpoints/latest"), "../elsewhere").unwrap();
        assert!(checkpoints.latest().is_err());
    }
}
