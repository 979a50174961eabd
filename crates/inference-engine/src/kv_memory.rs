//! The KV blocks of sequences: given, shared, copied on write, kept and taken
//! back. Pool and prefix cache change together, and only here.

use inference_core::TokenId;

use crate::BlockId;
use crate::block_pool::BlockPool;
use crate::prefix_cache::{Kept, NodeId, Prefix, PrefixCache, Scope};

/// The KV blocks of a runner.
#[derive(Debug)]
pub(crate) struct KvMemory {
    pool: BlockPool,
    cache: Option<PrefixCache>,
    block_size: usize,
}

/// The blocks of one sequence. Must be given back with [`KvMemory::release`]
/// or [`KvMemory::discard`].
#[derive(Debug, Default)]
#[must_use = "blocks that are not given back are lost to the pool"]
pub(crate) struct BlockTable {
    blocks: Vec<BlockId>,
    scope: Scope,
    /// The leading blocks that are full and in the cache.
    kept: usize,
    /// The cache's node of the last of them.
    tail: Option<NodeId>,
}

impl BlockTable {
    /// The blocks, in the order of positions.
    pub(crate) fn blocks(&self) -> &[BlockId] {
        &self.blocks
    }

    /// With whom they may be shared.
    pub(crate) fn scope(&self) -> &Scope {
        &self.scope
    }
}

impl KvMemory {
    /// `blocks` blocks of `block_size` positions, all free; with a prefix
    /// cache if `keeps`.
    pub(crate) fn new(blocks: BlockId, block_size: usize, keeps: bool) -> Self {
        let cache = keeps.then(|| PrefixCache::new(block_size));
        Self { pool: BlockPool::new(blocks), cache, block_size }
    }

    /// Whether blocks are kept for others.
    pub(crate) fn keeps(&self) -> bool {
        self.cache.is_some()
    }

    /// Blocks in the pool.
    pub(crate) fn total(&self) -> usize {
        self.pool.total()
    }

    /// Blocks that sequences use.
    pub(crate) fn used(&self) -> usize {
        self.pool.used()
    }

    /// Blocks that no sequence uses, kept or not.
    pub(crate) fn available(&self) -> usize {
        self.pool.available()
    }

    /// What the cache has of the first `limit` of `ids`.
    pub(crate) fn find(&self, scope: &Scope, ids: &[TokenId], limit: usize) -> Prefix {
        self.cache.as_ref().map(|cache| cache.find(scope, ids, limit)).unwrap_or_default()
    }

    /// How many blocks a sequence that begins with `prefix` needs for its
    /// first `end` positions, and how many there are for it.
    pub(crate) fn demand(&self, prefix: &Prefix, end: usize) -> (usize, usize) {
        let whole = prefix.len / self.block_size;
        let idle = prefix.blocks.iter().filter(|block| self.pool.is_idle(**block)).count();
        (end.div_ceil(self.block_size).saturating_sub(whole), self.available() - idle)
    }

    /// A table that begins with `prefix`, which was found since anything was
    /// last changed.
    pub(crate) fn open(&mut self, scope: Scope, prefix: &Prefix) -> BlockTable {
        if let Some(cache) = &mut self.cache {
            cache.tick();
        }
        for block in &prefix.blocks {
            self.share(*block);
        }
        let kept = prefix.len / self.block_size;
        BlockTable { blocks: prefix.blocks.clone(), scope, kept, tail: prefix.tail }
    }

    fn share(&mut self, block: BlockId) {
        self.pool.share(block);
        if let Some(cache) = &mut self.cache {
            cache.note_use(block, true);
        }
    }

    fn unshare(&mut self, block: BlockId) {
        if self.pool.release(block)
            && let Some(cache) = &mut self.cache
        {
            cache.note_use(block, false);
        }
    }

    /// A free block, or the one that was idle for the longest time.
    fn take(&mut self) -> Option<BlockId> {
        self.pool.take().or_else(|| {
            let idle = self.cache.as_mut()?.evict()?;
            self.pool.let_go(idle);
            self.pool.take()
        })
    }

    /// Blocks of a table that no other sequence uses.
    pub(crate) fn exclusive(&self, table: &BlockTable) -> usize {
        table.blocks.iter().filter(|block| self.pool.is_only_user(**block)).count()
    }

    /// How many blocks more than are [available](Self::available) a sequence
    /// lacks to compute positions `start..end`; all before are computed.
    pub(crate) fn lacking(&self, table: &BlockTable, start: usize, end: usize) -> usize {
        let grown = end.div_ceil(self.block_size).saturating_sub(table.blocks.len());
        let shared = table.blocks.get(start / self.block_size);
        // One that only the cache holds besides need not be copied.
        let copied = shared.is_some_and(|block| !self.pool.is_only_user(*block));
        (grown + usize::from(copied)).saturating_sub(self.available())
    }

    /// The end of the longest range from `start` for which nothing is
    /// [lacking](Self::lacking).
    pub(crate) fn reach(&self, table: &BlockTable, start: usize) -> usize {
        if self.lacking(table, start, start + 1) > 0 {
            return start;
        }
        let mut blocks = table.blocks.len().max(start / self.block_size + 1);
        while self.lacking(table, start, (blocks + 1) * self.block_size) == 0 {
            blocks += 1;
        }
        blocks * self.block_size
    }

    /// Makes `table` at least `count` blocks long; `false` where the pool is
    /// empty.
    #[must_use]
    pub(crate) fn grow(&mut self, table: &mut BlockTable, count: usize) -> bool {
        while table.blocks.len() < count {
            let Some(block) = self.take() else { return false };
            table.blocks.push(block);
        }
        true
    }

    /// Makes block `index` of `table` one that nobody else reads, where it is
    /// there: copy on write. Returns from where to where the runner has to
    /// copy, before anything else happens to the pool.
    ///
    /// Where no block is left for the copy, the cache lets go of the original.
    #[must_use]
    pub(crate) fn make_writable(
        &mut self,
        table: &mut BlockTable,
        index: usize,
    ) -> Option<(BlockId, BlockId)> {
        let from = *table.blocks.get(index)?;
        if self.pool.is_exclusive(from) {
            return None;
        }
        let Some(to) = self.take() else {
            debug_assert!(self.pool.is_only_user(from), "block {from} is used by others");
            self.forget(from);
            return None;
        };
        table.blocks[index] = to;
        self.unshare(from);
        Some((from, to))
    }

    /// Keeps the full blocks of `ids`, the tokens whose keys and values are
    /// computed, for others.
    ///
    /// Where another sequence computed the same, its block is used from now
    /// on: it holds the same bits, since they do not depend on the company.
    pub(crate) fn keep(&mut self, table: &mut BlockTable, ids: &[TokenId]) {
        while self.keep_next(table, ids, self.block_size) {}
    }

    /// Keeps the next block of a table if it has at least `least` tokens.
    fn keep_next(&mut self, table: &mut BlockTable, ids: &[TokenId], least: usize) -> bool {
        let Some(cache) = &mut self.cache else { return false };
        let start = table.kept * self.block_size;
        let tokens = ids.get(start..ids.len().min(start + self.block_size)).unwrap_or_default();
        let Some(block) = table.blocks.get(table.kept).copied() else { return false };
        if tokens.len() < least || tokens.is_empty() {
            return false;
        }
        let id = match cache.insert(&table.scope, table.tail, block, tokens) {
            Kept::No => return false,
            Kept::New(id) => {
                self.pool.keep(block);
                id
            }
            Kept::Same(id, held) => {
                self.share(held);
                self.unshare(block);
                table.blocks[table.kept] = held;
                id
            }
        };
        table.kept += 1;
        table.tail = Some(id);
        true
    }

    /// Takes back the blocks of a sequence, and keeps those of `ids`, the
    /// tokens whose keys and values are computed: full ones, and the rest.
    pub(crate) fn release(&mut self, mut table: BlockTable, ids: &[TokenId]) {
        if let Some(cache) = &mut self.cache {
            cache.tick();
        }
        self.keep(&mut table, ids);
        if table.kept == ids.len() / self.block_size {
            self.keep_next(&mut table, ids, 1);
        }
        for block in table.blocks.into_iter().rev() {
            self.unshare(block);
        }
    }

    /// Takes back the blocks of a sequence that failed, and keeps none that
    /// nobody else uses: what they hold may be the cause.
    pub(crate) fn discard(&mut self, table: BlockTable) {
        for block in table.blocks.into_iter().rev() {
            if self.pool.is_only_user(block) {
                self.forget(block);
            }
            self.unshare(block);
        }
    }

    fn forget(&mut self, block: BlockId) {
        if self.cache.as_mut().is_some_and(|cache| cache.forget(block)) {
            self.pool.let_go(block);
        }
    }
}

#[cfg(test)]
mod tests;
