//! Which KV blocks are free, and how many sequences use each of the others.

use crate::BlockId;

/// The KV blocks of a runner.
///
/// A block is *free*, or *in use* by one sequence or more, or *idle*: used by
/// none, but kept for the prefix cache. Idle blocks become free when the cache
/// lets go of them.
#[derive(Debug)]
pub(crate) struct BlockPool {
    /// Free blocks, the next one to give out last.
    free: Vec<BlockId>,
    blocks: Vec<Block>,
    used: usize,
}

#[derive(Clone, Copy, Debug, Default)]
struct Block {
    /// Sequences that use it.
    references: u32,
    /// Whether the prefix cache holds it.
    kept: bool,
}

impl BlockPool {
    /// A pool of blocks `0..total`, all free.
    pub(crate) fn new(total: BlockId) -> Self {
        let blocks = vec![Block::default(); total as usize];
        Self { free: (0..total).rev().collect(), blocks, used: 0 }
    }

    /// Blocks in the pool.
    pub(crate) fn total(&self) -> usize {
        self.blocks.len()
    }

    /// Blocks in use.
    pub(crate) fn used(&self) -> usize {
        self.used
    }

    /// Blocks that are free or idle: all that a sequence can be given.
    pub(crate) fn available(&self) -> usize {
        self.total() - self.used
    }

    /// Gives out a free block, with one reference; `None` where there is none,
    /// though there may be idle ones.
    pub(crate) fn take(&mut self) -> Option<BlockId> {
        let block = self.free.pop()?;
        self.blocks[block as usize].references = 1;
        self.used += 1;
        Some(block)
    }

    /// Adds a reference to a block in use or idle.
    pub(crate) fn share(&mut self, block: BlockId) {
        let state = &mut self.blocks[block as usize];
        debug_assert!(state.references > 0 || state.kept, "block {block} is free");
        self.used += usize::from(state.references == 0);
        state.references += 1;
    }

    /// Takes back a reference; returns whether it was the last one. Then the
    /// block is idle or free.
    pub(crate) fn release(&mut self, block: BlockId) -> bool {
        let state = &mut self.blocks[block as usize];
        debug_assert!(state.references > 0, "block {block} is not in use");
        state.references -= 1;
        let last = state.references == 0;
        if last {
            self.used -= 1;
            if !state.kept {
                self.free.push(block);
            }
        }
        last
    }

    /// Whether what the block holds may be changed by a sequence that uses it:
    /// no other one uses it, nor does the cache hold it.
    pub(crate) fn is_exclusive(&self, block: BlockId) -> bool {
        self.is_only_user(block) && !self.blocks[block as usize].kept
    }

    /// Whether one sequence alone uses the block.
    pub(crate) fn is_only_user(&self, block: BlockId) -> bool {
        self.blocks[block as usize].references == 1
    }

    /// Whether no sequence uses the block.
    pub(crate) fn is_idle(&self, block: BlockId) -> bool {
        self.blocks[block as usize].references == 0
    }

    /// Notes that the cache holds the block, which is in use.
    pub(crate) fn keep(&mut self, block: BlockId) {
        let state = &mut self.blocks[block as usize];
        debug_assert!(state.references > 0 && !state.kept, "block {block} cannot be kept");
        state.kept = true;
    }

    /// Notes that the cache holds the block no more. An idle one is then free.
    pub(crate) fn let_go(&mut self, block: BlockId) {
        let state = &mut self.blocks[block as usize];
        debug_assert!(state.kept, "block {block} is not kept");
        state.kept = false;
        if state.references == 0 {
            self.free.push(block);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_idle_block_is_available_but_not_given_out() {
        let mut pool = BlockPool::new(1);
        let block = pool.take().unwrap();
        pool.keep(block);
        assert!(!pool.is_exclusive(block), "the cache would change with it");
        assert!(pool.release(block));
        assert_eq!((pool.used(), pool.available(), pool.take()), (0, 1, None));
        pool.let_go(block);
        assert_eq!(pool.take(), Some(block));
    }

    /// What a test does to the block that `usize` picks among those it can be
    /// done to.
    #[derive(Clone, Copy, Debug)]
    enum Act {
        Take,
        Share(usize),
        Release(usize),
        Keep(usize),
        LetGo(usize),
    }

    fn acts() -> impl Strategy<Value = Vec<Act>> {
        let act = (0..5_u8, any::<usize>()).prop_map(|(kind, pick)| match kind {
            0 => Act::Take,
            1 => Act::Share(pick),
            2 => Act::Release(pick),
            3 => Act::Keep(pick),
            _ => Act::LetGo(pick),
        });
        prop::collection::vec(act, 0..200)
    }

    fn pick(among: &BTreeSet<BlockId>, pick: usize) -> Option<BlockId> {
        among.iter().nth(pick % among.len().max(1)).copied()
    }

    proptest! {
        /// Against a map from blocks to their number of users, and a set of
        /// those that are kept.
        #[test]
        fn blocks_are_where_a_naive_count_says(acts in acts()) {
            const TOTAL: u32 = 5;
            let mut pool = BlockPool::new(TOTAL);
            let mut users: BTreeMap<BlockId, u32> = BTreeMap::new();
            let mut kept: BTreeSet<BlockId> = BTreeSet::new();
            for act in acts {
                let used: BTreeSet<BlockId> = users.keys().copied().collect();
                let live: BTreeSet<BlockId> = used.union(&kept).copied().collect();
                match act {
                    Act::Take => {
                        let block = pool.take();
                        prop_assert_eq!(block.is_some(), live.len() < TOTAL as usize);
                        if let Some(block) = block {
                            prop_assert!(!live.contains(&block));
                            users.insert(block, 1);
                        }
                    }
                    Act::Share(at) => if let Some(block) = pick(&live, at) {
                        pool.share(block);
                        *users.entry(block).or_default() += 1;
                    },
                    Act::Release(at) => if let Some(block) = pick(&used, at) {
                        let left = users[&block] - 1;
                        prop_assert_eq!(pool.release(block), left == 0);
                        if left == 0 { users.remove(&block) } else { users.insert(block, left) };
                    },
                    Act::Keep(at) => if let Some(block) = pick(&(&used - &kept), at) {
                        pool.keep(block);
                        kept.insert(block);
                    },
                    Act::LetGo(at) => if let Some(block) = pick(&kept, at) {
                        pool.let_go(block);
                        kept.remove(&block);
                    },
                }
                prop_assert_eq!(pool.used(), users.len());
                prop_assert_eq!(pool.available(), TOTAL as usize - users.len());
                for (block, count) in &users {
                    prop_assert_eq!(pool.is_only_user(*block), *count == 1);
                    prop_assert_eq!(pool.is_exclusive(*block), *count == 1 && !kept.contains(block));
                }
            }
        }
    }
}
