//! What every damaged model is held to.

use std::collections::BTreeSet;
use std::error::Error as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};
use std::time::{Duration, Instant};

use inference::prelude::*;
use inference_core::{Error, Prompt};
use peak_alloc::PeakAlloc;

/// Counts what is allocated, touched or not.
#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// Most processor time of one case.
const TIME: Duration = Duration::from_secs(1);
/// Most time that passes in one case. The machine may be busy with other work.
const PATIENCE: Duration = Duration::from_secs(20);
/// Most memory of one case, beside the size of its file.
const BESIDES: u64 = 64 << 20;
/// Bytes for keys and values; they are the caller's choice, not the file's.
const KV_BUDGET: u64 = 4 << 20;

/// Places of panics since they were last looked at.
static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());
/// Only one case runs at a time: memory and time are the whole process's.
static ALONE: Mutex<()> = Mutex::new(());

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn watch_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let print = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let place = info.location().map_or("", |place| place.file());
            // This crate asserts on malformed definitions; a boundary around
            // it turns that into an error.
            if place.contains("/tokenizers-") {
                return;
            }
            lock(&PANICS).push(info.to_string());
            print(info);
        }));
    });
}

/// The processor time of this process; the time that passes where that is not
/// known.
fn processor_time(since: Instant) -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // After the name in parentheses: user and system time are fields 14 and
    // 15, in hundredths of a second.
    let fields: Vec<&str> =
        stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
    let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<u64>().ok());
    match (ticks(11), ticks(12)) {
        (Some(user), Some(system)) => Duration::from_millis(10 * (user + system)),
        _ => since.elapsed(),
    }
}

/// What became of a damaged model.
pub(crate) enum Outcome {
    /// Not loaded, and why.
    Refused(String),
    /// Loaded; generating may still have failed with an error.
    Loaded,
}

/// The message of an error with its causes.
pub(crate) fn message(error: &Error) -> String {
    let mut message = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        message = format!("{message}: {next}");
        cause = next.source();
    }
    message
}

/// Loads a model and generates one token.
pub(crate) fn load(path: &Path, prompt: Prompt) -> Outcome {
    let options = LoadOptions::new()
        .with_backend("cpu")
        .with_threads(1)
        .with_parallel_slots(1)
        .with_kv_budget(KV_BUDGET);
    let model = match inference::load(path, &options) {
        Ok(model) => model,
        Err(error) => {
            // Which model was asked for is no news.
            let asked = path.display().to_string();
            return Outcome::Refused(message(&error).replacen(&asked, "", 1));
        }
    };
    let options = GenerateOptions::new().with_max_tokens(1).with_temperature(0.0);
    let generated = model.generate(prompt, options).and_then(|stream| stream.collect_text());
    if let Err(error) = generated {
        assert!(!message(&error).is_empty());
    }
    Outcome::Loaded
}

/// The cases of one test.
pub(crate) struct Trial {
    name: &'static str,
    loaded: usize,
    refused: usize,
    slowest: (Duration, String),
    largest: (u64, String),
    failures: Vec<String>,
    _alone: MutexGuard<'static, ()>,
}

impl Trial {
    pub(crate) fn begin(name: &'static str) -> Self {
        watch_panics();
        let alone = lock(&ALONE);
        Self {
            name,
            loaded: 0,
            refused: 0,
            slowest: (Duration::ZERO, String::new()),
            largest: (0, String::new()),
            failures: Vec::new(),
            _alone: alone,
        }
    }

    /// Runs a case: `words` are the names one of which a refusal mentions,
    /// `bytes` the size of the files.
    pub(crate) fn case(
        &mut self,
        label: String,
        words: &BTreeSet<String>,
        bytes: u64,
        run: impl FnOnce() -> Outcome + Send + 'static,
    ) {
        lock(&PANICS).clear();
        let before = MEMORY.current_usage();
        MEMORY.reset_peak_usage();
        let begin = Instant::now();
        let processor = processor_time(begin);
        let (sender, receiver) = channel();
        let thread = std::thread::spawn(move || {
            let _ = sender.send(run());
        });
        let outcome = receiver.recv_timeout(PATIENCE);
        if matches!(outcome, Err(RecvTimeoutError::Timeout)) {
            // It cannot be ended, so the test cannot go on.
            panic!("{}: {label}: still running after {PATIENCE:?}", self.name);
        }
        let _ = thread.join();
        let time = processor_time(begin).saturating_sub(processor);
        let memory = MEMORY.peak_usage().saturating_sub(before) as u64;

        let mut fail = |why: String| self.failures.push(format!("{label}: {why}"));
        for panic in lock(&PANICS).drain(..) {
            fail(panic);
        }
        if time > TIME {
            fail(format!("{time:?} of processor time"));
        }
        if memory > bytes + BESIDES {
            fail(format!("{} KiB of memory for {} KiB of files", memory >> 10, bytes >> 10));
        }
        match outcome {
            Ok(Outcome::Loaded) => self.loaded += 1,
            Ok(Outcome::Refused(message)) => {
                self.refused += 1;
                if !words.iter().any(|word| message.contains(word.as_str())) {
                    fail(format!("names neither file nor field nor tensor: {message}"));
                }
            }
            Err(_) => {}
        }
        if time > self.slowest.0 {
            self.slowest = (time, label.clone());
        }
        if memory.saturating_sub(bytes) > self.largest.0 {
            self.largest = (memory.saturating_sub(bytes), label);
        }
    }

    /// Reports, and fails where a case did.
    #[expect(clippy::print_stdout, reason = "a test reports")]
    pub(crate) fn end(self) {
        println!(
            "{}: {} loaded, {} refused; slowest {:?} ({}); most memory {} KiB beside the files ({})",
            self.name,
            self.loaded,
            self.refused,
            self.slowest.0,
            self.slowest.1,
            self.largest.0 >> 10,
            self.largest.1,
        );
        assert!(self.refused > 0, "{}: no damage was noticed", self.name);
        let count = self.failures.len();
        let shown: Vec<_> = self.failures.into_iter().take(40).collect();
        assert!(count == 0, "{}: {count} failures:\n{}", self.name, shown.join("\n"));
    }
}

/// How often every kind of damage is tried: `MUTATION_ROUNDS`, or once.
pub(crate) fn rounds() -> usize {
    std::env::var("MUTATION_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(1)
}

/// A copy of a model whose files are replaced one at a time.
pub(crate) struct Copy {
    folder: tempfile::TempDir,
    /// File names, and names in the files.
    pub(crate) words: BTreeSet<String>,
    pub(crate) bytes: u64,
}

impl Copy {
    /// Copies the files that are part of a model.
    pub(crate) fn of(source: &Path) -> Self {
        let folder = tempfile::TempDir::new().unwrap();
        let mut words = BTreeSet::new();
        let mut bytes = 0;
        for entry in std::fs::read_dir(source).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            if path.is_file() && name != "expected.json" {
                let content = std::fs::read(&path).unwrap();
                bytes += content.len() as u64;
                std::fs::write(folder.path().join(&name), content).unwrap();
                words.insert(name);
            }
        }
        Self { folder, words, bytes }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().to_owned()
    }

    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.folder.path().join(name)).unwrap()
    }

    /// Puts a file in place of another, which may still be mapped.
    pub(crate) fn replace(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.folder.path().join(name);
        let _ = std::fs::remove_file(&path);
        std::fs::write(path, content).unwrap();
    }

    pub(crate) fn remove(&self, name: &str) {
        std::fs::remove_file(self.folder.path().join(name)).unwrap();
    }
}
