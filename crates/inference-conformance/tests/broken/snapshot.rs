//! Snapshots of the specimen's sequences.

use std::any::Any;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use inference_core::{
    Error, GenerateOptions, Prompt, Result, SequenceState, StateSnapshot, TextModel, TokenId,
    TokenStream,
};

use crate::defect::{Defect, Flaw};
use crate::language::{KV_BYTES, Kv, mix};
use crate::model::Model;

#[derive(Debug)]
struct Snapshot {
    weights: u64,
    ids: Vec<TokenId>,
    kv: Vec<Kv>,
    resumed: AtomicBool,
    flaw: Flaw,
}

impl StateSnapshot for Snapshot {
    fn ids(&self) -> &[TokenId] {
        &self.ids
    }

    fn bytes(&self) -> u64 {
        self.kv.len() as u64 * KV_BYTES
    }

    fn save(&self, path: &Path) -> Result<()> {
        let mut words = vec![self.weights];
        let lost = usize::from(self.flaw.is(Defect::SaveLosesPosition));
        for (id, kv) in self.ids.iter().zip(&self.kv).skip(lost) {
            words.extend([u64::from(*id), kv.hash, u64::from(kv.missing)]);
        }
        words.push(checksum(&words));
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        fs::write(path, bytes).map_err(|error| Error::io(path, "write", error))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

fn checksum(words: &[u64]) -> u64 {
    words.iter().fold(0, |sum, word| mix(sum ^ word))
}

impl SequenceState for Model {
    fn snapshot(&self, prompt: Prompt) -> Result<Arc<dyn StateSnapshot>> {
        let ids = self.sequence(prompt, GenerateOptions::new())?.ids;
        let mut scores = self.scores(vec![ids.clone()], false, &GenerateOptions::new());
        let (_, kv) = scores.pop().unwrap_or(Err(Error::Closed))?;
        if self.flaw().is(Defect::SnapshotsPinBlocks) {
            self.shared.leak();
        }
        Ok(Arc::new(self.snapshot_of(self.shared.settings.weights, ids, kv)))
    }

    fn load(&self, path: &Path) -> Result<Arc<dyn StateSnapshot>> {
        let bytes = fs::read(path).map_err(|error| Error::io(path, "read", error))?;
        let damaged = |found: &str| {
            Error::invalid_input(path.display().to_string(), "a snapshot of the specimen", found)
        };
        let (chunks, rest) = bytes.as_chunks::<8>();
        let words: Vec<u64> = chunks.iter().map(|chunk| u64::from_le_bytes(*chunk)).collect();
        let [weights, positions @ .., sum] = &words[..] else {
            return Err(damaged("too few bytes"));
        };
        if !rest.is_empty() || positions.len() % 3 != 0 {
            return Err(damaged("half a position"));
        }
        if checksum(&words[..words.len() - 1]) != *sum && !self.flaw().is(Defect::ChecksumIgnored) {
            return Err(damaged("another checksum"));
        }
        let mut snapshot = self.snapshot_of(*weights, Vec::new(), Vec::new());
        for position in positions.chunks(3) {
            snapshot.ids.push(position[0] as TokenId);
            snapshot.kv.push(Kv { hash: position[1], missing: position[2] as u8 });
        }
        self.belongs(&snapshot)?;
        Ok(Arc::new(snapshot))
    }

    fn resume(
        &self,
        snapshot: &dyn StateSnapshot,
        continuation: &[TokenId],
        options: GenerateOptions,
    ) -> Result<TokenStream> {
        let Some(snapshot) = snapshot.as_any().downcast_ref::<Snapshot>() else {
            return Err(Error::invalid_input("snapshot", "one of the specimen", "another"));
        };
        self.belongs(snapshot)?;
        if snapshot.resumed.swap(true, Ordering::Relaxed) && self.flaw().is(Defect::SnapshotSpent) {
            return Err(Error::invalid_input("snapshot", "one not resumed yet", "a spent one"));
        }
        if self.flaw().is(Defect::ResumeForgets) {
            return self.generate(continuation.to_vec().into(), options);
        }
        let ids = [&snapshot.ids, continuation].concat();
        let mut sequence = self.sequence(ids.into(), options)?;
        // The last token is computed in any case: its logits are wanted.
        let most = if sequence.adapter == 0 { sequence.ids.len() - 1 } else { 0 };
        let kept = snapshot.kv.len().min(most);
        sequence.kv = snapshot.kv[..kept].to_vec();
        sequence.cached = kept;
        Ok(TokenStream::new(self.source(sequence)))
    }
}

impl Model {
    fn snapshot_of(&self, weights: u64, ids: Vec<TokenId>, kv: Vec<Kv>) -> Snapshot {
        Snapshot { weights, ids, kv, resumed: AtomicBool::new(false), flaw: self.flaw() }
    }

    fn belongs(&self, snapshot: &Snapshot) -> Result<()> {
        let own = self.shared.settings.weights;
        if snapshot.weights != own && !self.flaw().is(Defect::ForeignSnapshots) {
            let expected = format!("one of the model {own}");
            return Err(Error::invalid_input("snapshot", expected, snapshot.weights.to_string()));
        }
        Ok(())
    }
}
