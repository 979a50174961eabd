//! The adapters that are loaded beside a decoder.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};

use inference_core::{AdapterInfo, Adapters, DEFAULT_ADAPTER, Error, Result};
use inference_engine::{AdapterId, AdapterLease, AdapterSource};
use inference_lora::{AdapterFiles, AdapterWeights, ReadOptions};

use crate::{Decoder, DecoderAdapter};

/// Bytes that adapters may take where nobody says: 1 GiB.
pub const DEFAULT_ADAPTER_BUDGET: u64 = 1 << 30;

/// The adapters of a [`CandleRunner`](crate::CandleRunner), for the threads of
/// callers.
///
/// Adapters take up at most a budget, as they are stored. Where a further one
/// does not fit, those that no request uses make room, the least recently used
/// first: they stay listed, and are read again from their paths for the next
/// request that names them. Files are read on the thread of whoever asks, and
/// steps never wait for that.
///
/// What is loaded belongs to the runner and goes with it.
#[derive(Clone, Debug)]
pub struct AdapterPool {
    shared: Weak<Shared>,
}

/// The pool as the runner holds it.
pub(crate) struct Shared {
    decoder: Arc<Decoder>,
    budget: AtomicU64,
    /// Of everything in memory.
    bytes: AtomicU64,
    /// Held by whoever reads an adapter: one at a time.
    loading: Mutex<()>,
    state: Mutex<State>,
    /// Some adapter is not used any more.
    released: Condvar,
}

#[derive(Default)]
struct State {
    entries: BTreeMap<String, Entry>,
    /// What requests use, also where its name stands for something else now.
    held: HashMap<AdapterId, Held>,
    /// Counts uses.
    clock: u64,
}

/// A name.
struct Entry {
    info: AdapterInfo,
    /// Where it can be read again.
    path: Option<PathBuf>,
    /// `None` where it had to make room.
    version: Option<(AdapterId, Arc<DecoderAdapter>)>,
    used_at: u64,
}

struct Held {
    name: String,
    adapter: Arc<DecoderAdapter>,
    scale: f32,
    leases: usize,
}

impl Shared {
    pub(crate) fn new(decoder: Arc<Decoder>) -> Arc<Self> {
        Arc::new(Self {
            decoder,
            budget: AtomicU64::new(DEFAULT_ADAPTER_BUDGET),
            bytes: AtomicU64::new(0),
            loading: Mutex::default(),
            state: Mutex::default(),
            released: Condvar::new(),
        })
    }

    pub(crate) fn set_budget(&self, bytes: u64) {
        self.budget.store(bytes, Ordering::Relaxed);
    }

    /// Bytes in memory.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// What the requests of a step hold, with its scale. The lock is never held
    /// for longer than it takes to look something up.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidInput`](inference_core::ErrorKind::InvalidInput) for
    /// an id that no request holds.
    pub(crate) fn held(&self, ids: &[AdapterId]) -> Result<Vec<(Arc<DecoderAdapter>, f32)>> {
        let state = self.lock();
        let find = |id: &AdapterId| {
            let held = state.held.get(id).map(|held| (Arc::clone(&held.adapter), held.scale));
            let lost =
                || Error::invalid_input("adapter of a sequence", "one in use", format!("{id:?}"));
            held.ok_or_else(lost)
        };
        ids.iter().map(find).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note_bytes(&self, state: &State) {
        self.bytes.store(state.bytes(), Ordering::Relaxed);
    }

    fn read(&self, path: &Path) -> Result<AdapterWeights> {
        let table = self.decoder.config().modules();
        Ok(AdapterFiles::open(path)?.read(&table, ReadOptions::new())?.weights)
    }

    /// Makes the maps of an adapter, for which there is room then.
    fn build(&self, name: &str, weights: &AdapterWeights) -> Result<Arc<DecoderAdapter>> {
        let mut state = self.lock();
        let room =
            state.make_room(name, weights.bytes() as u64, self.budget.load(Ordering::Relaxed));
        self.note_bytes(&state);
        drop(state);
        room?;
        Ok(Arc::new(DecoderAdapter::new(&self.decoder, weights)?))
    }

    fn put(
        &self,
        name: &str,
        weights: &AdapterWeights,
        scale: f32,
        path: Option<PathBuf>,
    ) -> Result<AdapterInfo> {
        let adapter = self.build(name, weights)?;
        let mut info = AdapterInfo::new(name, adapter.rank(), scale, adapter.total_params());
        info.bytes = adapter.bytes();
        let mut state = self.lock();
        let used_at = state.tick();
        let version = Some((AdapterId::unique(), adapter));
        state.entries.insert(name.to_owned(), Entry { info: info.clone(), path, version, used_at });
        self.note_bytes(&state);
        tracing::debug!(name, rank = info.rank, bytes = info.bytes, scale, "adapter loaded");
        Ok(info)
    }

    /// The right to an adapter that is in memory; `None` where it is not.
    fn lease(self: &Arc<Self>, name: &str) -> Result<Option<AdapterLease>> {
        let mut state = self.lock();
        let used_at = state.tick();
        let State { entries, held, .. } = &mut *state;
        let Some(entry) = entries.get_mut(name) else { return Err(unknown(name, entries)) };
        entry.used_at = used_at;
        let Some((id, adapter)) = &entry.version else { return Ok(None) };
        let scale = entry.info.scale;
        let held = held.entry(*id).or_insert_with(|| Held {
            name: name.to_owned(),
            adapter: Arc::clone(adapter),
            scale,
            leases: 0,
        });
        held.leases += 1;
        let right = Right { shared: Arc::downgrade(self), id: *id };
        Ok(Some(AdapterLease::new(*id, name.into(), Box::new(right))))
    }

    /// Reads again what had to make room.
    fn read_again(self: &Arc<Self>, name: &str) -> Result<AdapterLease> {
        let _loading = self.loading.lock().unwrap_or_else(PoisonError::into_inner);
        // Whoever was first may have read it.
        if let Some(lease) = self.lease(name)? {
            return Ok(lease);
        }
        let state = self.lock();
        let entry = state.entries.get(name).ok_or_else(|| unknown(name, &state.entries))?;
        let path = entry.path.clone().unwrap_or_default();
        drop(state);
        let adapter = self.build(name, &self.read(&path)?)?;
        let mut state = self.lock();
        // It may have been unloaded meanwhile, but not loaded.
        if let Some(entry) = state.entries.get_mut(name) {
            entry.info.rank = adapter.rank();
            entry.info.total_params = adapter.total_params();
            entry.info.bytes = adapter.bytes();
            entry.version = Some((AdapterId::unique(), adapter));
        }
        self.note_bytes(&state);
        drop(state);
        tracing::debug!(name, "adapter read again");
        let gone = || Error::engine_message(format!("adapter `{name}` had to make room at once"));
        self.lease(name)?.ok_or_else(gone)
    }

    fn release(&self, id: AdapterId) {
        let mut state = self.lock();
        if let Some(held) = state.held.get_mut(&id) {
            held.leases -= 1;
            if held.leases == 0 {
                state.held.remove(&id);
                self.note_bytes(&state);
                self.released.notify_all();
            }
        }
    }
}

impl State {
    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    /// Bytes of everything in memory; adapters of several scales count once.
    fn bytes(&self) -> u64 {
        let versions = self.entries.values().filter_map(|entry| entry.version.as_ref());
        let held = self.held.values().map(|held| &held.adapter);
        let all = versions.map(|(_, adapter)| adapter).chain(held);
        let distinct: BTreeMap<_, _> =
            all.map(|adapter| (Arc::as_ptr(adapter), adapter.bytes())).collect();
        distinct.values().sum()
    }

    fn is_held(&self, adapter: &Arc<DecoderAdapter>) -> bool {
        self.held.values().any(|held| Arc::ptr_eq(&held.adapter, adapter))
    }

    /// Lets go of unused adapters, the least recently used first, until there
    /// are `needed` bytes for one that is called `name`.
    fn make_room(&mut self, name: &str, needed: u64, budget: u64) -> Result<()> {
        // What it replaces goes anyway, unless a request uses it.
        let replaced = self.entries.get(name).and_then(|entry| entry.version.as_ref());
        let replaced = replaced.filter(|(_, adapter)| !self.is_held(adapter));
        let spared = replaced.map_or(0, |(_, adapter)| adapter.bytes());
        loop {
            let free = budget.saturating_sub(self.bytes() - spared);
            if needed <= free {
                return Ok(());
            }
            let unused = self.entries.iter().filter(|(other, entry)| {
                let evictable = |(_, adapter): &(_, Arc<DecoderAdapter>)| !self.is_held(adapter);
                *other != name
                    && entry.path.is_some()
                    && entry.version.as_ref().is_some_and(evictable)
            });
            let oldest = unused.min_by_key(|(_, entry)| entry.used_at);
            let Some(oldest) = oldest.map(|(name, _)| name.clone()) else {
                return Err(Error::exhausted("memory for adapters, in bytes", needed, free));
            };
            tracing::debug!(name = oldest, "adapter makes room");
            if let Some(entry) = self.entries.get_mut(&oldest) {
                entry.version = None;
            }
        }
    }
}

/// Ends a lease.
struct Right {
    shared: Weak<Shared>,
    id: AdapterId,
}

impl Drop for Right {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.upgrade() {
            shared.release(self.id);
        }
    }
}

impl AdapterPool {
    pub(crate) fn new(shared: &Arc<Shared>) -> Self {
        Self { shared: Arc::downgrade(shared) }
    }

    fn shared(&self) -> Result<Arc<Shared>> {
        self.shared.upgrade().ok_or(Error::Closed)
    }

    /// Adds an adapter that is in memory, under `name`, as
    /// [`load`](Adapters::load) does with one in files. It never makes room for
    /// others, since it could not be read again.
    ///
    /// # Errors
    ///
    /// As [`DecoderAdapter::new`] and [`load`](Adapters::load).
    pub fn insert(&self, name: &str, weights: &AdapterWeights, scale: f32) -> Result<AdapterInfo> {
        check(name, scale)?;
        let shared = self.shared()?;
        let _loading = shared.loading.lock().unwrap_or_else(PoisonError::into_inner);
        shared.put(name, weights, scale, None)
    }
}

impl Adapters for AdapterPool {
    fn load(&self, name: &str, path: &Path, scale: f32) -> Result<AdapterInfo> {
        check(name, scale)?;
        let shared = self.shared()?;
        let _loading = shared.loading.lock().unwrap_or_else(PoisonError::into_inner);
        let weights = shared.read(path)?;
        shared.put(name, &weights, scale, Some(path.to_owned()))
    }

    fn unload(&self, name: &str) -> Result<()> {
        let shared = self.shared()?;
        let mut state = shared.lock();
        if state.entries.remove(name).is_none() {
            return Err(unknown(name, &state.entries));
        }
        // Those of now: who loads the name again does not keep us.
        let held = state.held.iter().filter(|(_, held)| held.name == name);
        let held: Vec<AdapterId> = held.map(|(id, _)| *id).collect();
        while held.iter().any(|id| state.held.contains_key(id)) {
            state = shared.released.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        shared.note_bytes(&state);
        Ok(())
    }

    fn set_scale(&self, name: &str, scale: f32) -> Result<()> {
        check(name, scale)?;
        let shared = self.shared()?;
        let mut state = shared.lock();
        let State { entries, .. } = &mut *state;
        let Some(entry) = entries.get_mut(name) else { return Err(unknown(name, entries)) };
        if entry.info.scale != scale {
            entry.info.scale = scale;
            if let Some((id, _)) = &mut entry.version {
                *id = AdapterId::unique();
            }
        }
        Ok(())
    }

    fn list(&self) -> Vec<AdapterInfo> {
        let Ok(shared) = self.shared() else { return Vec::new() };
        let state = shared.lock();
        let info = |entry: &Entry| {
            let mut info = entry.info.clone();
            info.resident = entry.version.is_some();
            info
        };
        state.entries.values().map(info).collect()
    }
}

impl AdapterSource for AdapterPool {
    fn acquire(&self, name: Option<&str>) -> Result<Option<AdapterLease>> {
        let shared = self.shared()?;
        let Some(name) = name else {
            if !shared.lock().entries.contains_key(DEFAULT_ADAPTER) {
                return Ok(None);
            }
            return self.acquire(Some(DEFAULT_ADAPTER));
        };
        match shared.lease(name)? {
            Some(lease) => Ok(Some(lease)),
            None => shared.read_again(name).map(Some),
        }
    }
}

fn check(name: &str, scale: f32) -> Result<()> {
    if name.is_empty() {
        return Err(Error::invalid_input("name of an adapter", "at least one character", "\"\""));
    }
    if !scale.is_finite() {
        return Err(Error::invalid_option("scale", scale, "a finite number"));
    }
    Ok(())
}

fn unknown(name: &str, entries: &BTreeMap<String, Entry>) -> Error {
    let names: Vec<_> = entries.keys().map(|name| format!("`{name}`")).collect();
    let expected = match names.as_slice() {
        [] => "the name of a loaded adapter (none is)".to_owned(),
        names => format!("one of {}", names.join(", ")),
    };
    Error::invalid_input("adapter", expected, format!("`{name}`"))
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdapterPool").field("bytes", &self.bytes()).finish_non_exhaustive()
    }
}
