//! Which KV blocks are free, and which sequence holds the others.

use crate::BlockId;

/// The KV blocks of a runner.
///
/// A sequence reserves, when it is admitted, as many blocks as it can ever
/// need, and takes them one by one as it grows. So a running sequence never
/// finds the pool empty, at the price that a request with a large `max_tokens`
/// keeps others waiting although it may end early.
#[derive(Debug)]
pub(crate) struct BlockPool {
    /// Free blocks, the next one to give out last.
    free: Vec<BlockId>,
    total: usize,
    /// Free blocks that are promised to running sequences.
    reserved: usize,
}

/// The blocks of one sequence. Must be given back with [`BlockPool::release`].
#[derive(Debug, Default)]
#[must_use = "blocks that are not released are lost to the pool"]
pub(crate) struct BlockTable {
    blocks: Vec<BlockId>,
    /// Blocks it may still take.
    reserved: usize,
}

impl BlockTable {
    /// The blocks, in the order of positions.
    pub(crate) fn blocks(&self) -> &[BlockId] {
        &self.blocks
    }
}

impl BlockPool {
    /// A pool of blocks `0..total`, all free.
    pub(crate) fn new(total: usize) -> Self {
        let total_ids = BlockId::try_from(total).unwrap_or(BlockId::MAX);
        Self { free: (0..total_ids).rev().collect(), total: total_ids as usize, reserved: 0 }
    }

    /// Blocks in the pool.
    pub(crate) fn total(&self) -> usize {
        self.total
    }

    /// Blocks that hold keys and values.
    pub(crate) fn used(&self) -> usize {
        self.total - self.free.len()
    }

    /// Blocks that are neither in use nor promised.
    pub(crate) fn available(&self) -> usize {
        self.free.len() - self.reserved
    }

    /// Reserves `count` blocks for a sequence; `None` where they are not there
    /// now.
    pub(crate) fn reserve(&mut self, count: usize) -> Option<BlockTable> {
        if count > self.available() {
            return None;
        }
        self.reserved += count;
        Some(BlockTable { blocks: Vec::with_capacity(count), reserved: count })
    }

    /// Makes `table` at least `count` blocks long; `false` where that is more
    /// than the sequence reserved.
    pub(crate) fn grow(&mut self, table: &mut BlockTable, count: usize) -> bool {
        while table.blocks.len() < count {
            if table.reserved == 0 {
                return false;
            }
            let Some(block) = self.free.pop() else { return false };
            table.reserved -= 1;
            self.reserved -= 1;
            table.blocks.push(block);
        }
        true
    }

    /// Takes back all blocks of a sequence, and what it had reserved.
    pub(crate) fn release(&mut self, table: BlockTable) {
        self.reserved -= table.reserved;
        self.free.extend(table.blocks.into_iter().rev());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_blocks_cannot_be_taken_by_others() {
        let mut pool = BlockPool::new(4);
        let mut first = pool.reserve(3).unwrap();
        assert_eq!((pool.used(), pool.available()), (0, 1));
        assert!(pool.reserve(2).is_none());
        let second = pool.reserve(1).unwrap();
        assert!(pool.grow(&mut first, 3));
        assert_eq!(pool.used(), 3);
        assert!(!pool.grow(&mut first, 4), "more than it reserved");
        pool.release(second);
        pool.release(first);
        assert_eq!((pool.used(), pool.available()), (0, 4));
    }

    #[test]
    fn no_block_is_given_out_twice() {
        let mut pool = BlockPool::new(6);
        let mut tables: Vec<_> = (0..3).map(|_| pool.reserve(2).unwrap()).collect();
        for count in 1..=2 {
            tables.iter_mut().for_each(|table| assert!(pool.grow(table, count)));
        }
        let mut all: Vec<_> = tables.iter().flat_map(|table| table.blocks().to_vec()).collect();
        all.sort_unstable();
        assert_eq!(all, [0, 1, 2, 3, 4, 5]);
        tables.into_iter().for_each(|table| pool.release(table));
        assert_eq!(pool.used(), 0);
    }
}
