//! Snapshots of sequences: taken by the engine thread when a prompt is
//! computed, given back when a request is admitted.

use std::any::Any;
use std::path::Path;
use std::sync::{Arc, mpsc};

use inference_core::{
    Error, GenerateOptions, Prompt, Result, SequenceState, StateSnapshot, TokenId, TokenStream,
};

use crate::adapters::AdapterLease;
use crate::engine_thread::{Engine, Fatal};
use crate::identity::Identity;
use crate::model::EngineModel;
use crate::sequence::{Ending, Work};
use crate::snapshot_file;
use crate::stream::{Group, WhenFull};
use crate::submission::{KvBytes, PrefillTask, RowConsumer};

/// Keys and values of a prefix, in host memory.
#[derive(Debug)]
pub(crate) struct EngineSnapshot {
    pub(crate) identity: Arc<Identity>,
    pub(crate) ids: Vec<TokenId>,
    pub(crate) kv: Arc<KvBytes>,
}

impl StateSnapshot for EngineSnapshot {
    fn ids(&self) -> &[TokenId] {
        &self.ids
    }

    fn bytes(&self) -> u64 {
        (size_of_val(self.ids.as_slice()) + self.kv.bytes.len()) as u64
    }

    fn save(&self, path: &Path) -> Result<()> {
        snapshot_file::save(self, path)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl EngineModel {
    fn identity(&self) -> Result<&Arc<Identity>> {
        let Some(format) = &self.requirements.kv_format else {
            return Err(Error::unsupported(self.requirements.subject(), "sequence_state"));
        };
        let identity = || Arc::new(Identity::new(&self.requirements, format.clone()));
        Ok(self.identity.get_or_init(identity))
    }
}

impl SequenceState for EngineModel {
    fn snapshot(&self, prompt: Prompt) -> Result<Arc<dyn StateSnapshot>> {
        self.check_may_wait()?;
        let identity = Arc::clone(self.identity()?);
        let ids = self.requirements.prompt_ids(&prompt, self.requirements.context_len())?;
        let (reply, replies) = mpsc::channel();
        let consumer = Box::new(KvCollector { bytes: None, reply });
        let task = PrefillTask { all_rows: false, consumer };
        let adapter = self.requirements.adapter(None)?;
        self.mailbox.submit(self.prefill(ids.clone(), adapter, task))?;
        let kv = Arc::new(self.answer(&replies)??);
        Ok(Arc::new(EngineSnapshot { identity, ids, kv }))
    }

    fn load(&self, path: &Path) -> Result<Arc<dyn StateSnapshot>> {
        self.mailbox.check_open()?;
        Ok(Arc::new(snapshot_file::load(path, self.identity()?, &self.requirements)?))
    }

    fn resume(
        &self,
        snapshot: &dyn StateSnapshot,
        continuation: &[TokenId],
        options: GenerateOptions,
    ) -> Result<TokenStream> {
        self.mailbox.check_open()?;
        let Some(snapshot) = snapshot.as_any().downcast_ref::<EngineSnapshot>() else {
            let (expected, found) = ("a snapshot of this engine", "another backend's");
            return Err(Error::invalid_input("snapshot", expected, found));
        };
        let identity = self.identity()?;
        if !Arc::ptr_eq(identity, &snapshot.identity) {
            let theirs = snapshot.identity.fields();
            for ((name, expected), (_, found)) in identity.fields().into_iter().zip(theirs) {
                check_field("the snapshot", name, &expected, &found)?;
            }
            if identity.model.is_none() {
                // Nothing says that the weights are the same.
                let expected = format!("one taken from {} itself", self.requirements.subject());
                return Err(Error::invalid_input("snapshot", expected, "another model's"));
            }
        }
        let ids = [snapshot.ids.as_slice(), continuation].concat();
        let group = Group::default();
        let kv = Some(Arc::clone(&snapshot.kv));
        let source = self.source(&Prompt::Tokens(ids), kv, options, &group, WhenFull::Refuse)?;
        Ok(TokenStream::new(source))
    }
}

/// Whether what a snapshot says of its model holds of this one.
pub(crate) fn check_field(snapshot: &str, name: &str, expected: &str, found: &str) -> Result<()> {
    if expected == found {
        return Ok(());
    }
    // What a file says may be long.
    let found: String = found.chars().take(100).collect();
    let what = format!("`{name}` of {snapshot}");
    Err(Error::invalid_input(what, format!("`{expected}`"), format!("`{found}`")))
}

impl Engine {
    /// Reads the keys and values that ending sequences are to hand out, while
    /// they have their blocks. One for which that fails ends with the error.
    pub(crate) fn collect_kv(&mut self, ended: &mut [(usize, Ending)]) -> Result<(), Fatal> {
        let mut outcome = Ok(());
        for (slot, ending) in ended {
            let wants = match (&*ending, &self.running[*slot].work) {
                (Ending::Complete, Work::Prefill(task)) => task.consumer.wants_kv(),
                _ => false,
            };
            if !wants {
                continue;
            }
            match self.read_kv(*slot) {
                Ok(bytes) => {
                    if let Work::Prefill(task) = &mut self.running[*slot].work {
                        task.consumer.kv(bytes);
                    }
                }
                Err(error) => {
                    *ending = Ending::Error(error.clone());
                    if outcome.is_ok() && !self.survives(&error) {
                        outcome = Err(Fatal(error));
                    }
                }
            }
        }
        outcome
    }

    /// The keys and values of a sequence.
    fn read_kv(&mut self, slot: usize) -> Result<KvBytes> {
        let sequence = &self.running[slot];
        let (positions, prompt_len) = (sequence.computed, sequence.prompt_len);
        let adapter = sequence.adapter.as_ref().map(AdapterLease::id);
        let blocks = sequence.table.blocks().to_vec();
        let class = self.sharing_class(prompt_len);
        let size = self.spec.block_size;
        let mut bytes = Vec::new();
        self.with_blocks("sequence_state", |pool| {
            let each = usize::try_from(pool.position_bytes()).unwrap_or(usize::MAX);
            reserve(&mut bytes, each.saturating_mul(positions))?;
            for (index, block) in blocks.iter().take(positions.div_ceil(size)).enumerate() {
                let len = size.min(positions - index * size);
                let read = pool.read_block(*block, len)?;
                if read.len() != each * len {
                    return Err(Error::engine_message(format!(
                        "the model runner read {} bytes of {len} positions, expected {}",
                        read.len(),
                        each * len
                    )));
                }
                bytes.extend_from_slice(&read);
            }
            Ok(())
        })?;
        Ok(KvBytes { class, adapter, positions, bytes })
    }
}

/// Makes room for `len` bytes.
///
/// # Errors
///
/// `Exhausted` where the allocator refuses.
pub(crate) fn reserve(bytes: &mut Vec<u8>, len: usize) -> Result<()> {
    let refused = |_| Error::exhausted("memory for a snapshot, in bytes", len as u64, 0);
    bytes.try_reserve_exact(len).map_err(refused)
}

/// Takes keys and values to whoever waits for the snapshot.
struct KvCollector {
    bytes: Option<KvBytes>,
    reply: mpsc::Sender<Result<KvBytes>>,
}

impl RowConsumer for KvCollector {
    fn row(&mut self, _: &[f32]) {}

    fn wants_kv(&self) -> bool {
        true
    }

    fn kv(&mut self, bytes: KvBytes) {
        self.bytes = Some(bytes);
    }

    fn end(self: Box<Self>, end: Result<()>) {
        let Self { bytes, reply } = *self;
        let missing = || Error::engine_message("a prefill ended without keys and values");
        // A caller that went away needs no answer.
        let _ = reply.send(end.and_then(|()| bytes.ok_or_else(missing)));
    }
}
