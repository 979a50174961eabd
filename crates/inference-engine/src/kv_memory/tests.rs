//! Against naive twins: what every block holds, and a list of all prefixes.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

/// What a position of a block holds: class, and all tokens up to there, which
/// is what real keys and values depend on. `None` for garbage.
type Held = Option<(u64, Vec<TokenId>)>;

/// One sequence of a test.
struct Twin {
    table: BlockTable,
    class: u64,
    ids: Vec<TokenId>,
    computed: usize,
}

struct World {
    memory: KvMemory,
    block_size: usize,
    held: Vec<Vec<Held>>,
    sequences: Vec<Twin>,
    /// What ended sequences had computed: all that an unlimited cache has of
    /// them.
    ended: Vec<(u64, Vec<TokenId>)>,
}

impl World {
    fn new(blocks: BlockId, block_size: usize, keeps: bool) -> Self {
        Self {
            memory: KvMemory::new(blocks, block_size, keeps),
            block_size,
            held: vec![vec![None; block_size]; blocks as usize],
            sequences: Vec::new(),
            ended: Vec::new(),
        }
    }

    fn scope(class: u64) -> Scope {
        Scope { adapter: None, class }
    }

    /// Starts a sequence; returns how much of it the cache had.
    fn start(&mut self, class: u64, ids: Vec<TokenId>) -> usize {
        let scope = Self::scope(class);
        let prefix = self.memory.find(&scope, &ids, ids.len() - 1);
        let (needed, there) = self.memory.demand(&prefix, ids.len());
        let used = self.memory.used();
        let table = self.memory.open(scope, &prefix);
        assert_eq!(there, self.memory.available(), "idle blocks of the prefix are in use now");
        assert_eq!(needed, ids.len().div_ceil(self.block_size) - prefix.len / self.block_size);
        assert!(self.memory.used() >= used);
        self.sequences.push(Twin { table, class, ids, computed: prefix.len });
        prefix.len
    }

    /// Computes up to `len` tokens, and `garbage` positions more, for which
    /// there are blocks; returns whether any was computed.
    fn advance(&mut self, index: usize, len: usize, garbage: usize) -> bool {
        let (memory, size) = (&mut self.memory, self.block_size);
        let twin = &mut self.sequences[index];
        let start = twin.computed;
        let reach = memory.reach(&twin.table, start);
        assert_eq!(reach == start, memory.lacking(&twin.table, start, start + 1) > 0);
        let end = twin.ids.len().min(start + len).min(reach);
        if end <= start {
            return false;
        }
        let written = (end + garbage).min(reach);
        assert_eq!(memory.lacking(&twin.table, start, written), 0);
        assert!(memory.grow(&mut twin.table, written.div_ceil(size)));
        if let Some((from, to)) = memory.make_writable(&mut twin.table, start / size) {
            let copied = self.held[from as usize][..start % size].to_vec();
            self.held[to as usize] = vec![None; size];
            self.held[to as usize][..start % size].clone_from_slice(&copied);
        }
        for position in start..written {
            let block = twin.table.blocks()[position / size] as usize;
            let right = position < end;
            let value = right.then(|| (twin.class, twin.ids[..=position].to_vec()));
            self.held[block][position % size] = value;
        }
        twin.computed = end;
        memory.keep(&mut twin.table, &twin.ids[..end]);
        true
    }

    fn end(&mut self, index: usize) {
        let mut twin = self.sequences.swap_remove(index);
        twin.ids.truncate(twin.computed);
        self.memory.release(twin.table, &twin.ids);
        self.ended.push((twin.class, twin.ids));
    }

    /// Every running sequence reads what it would have computed itself, and
    /// blocks are counted as the tables say.
    fn check(&self) {
        let mut used: BTreeSet<BlockId> = BTreeSet::new();
        for Twin { table, class, ids, computed } in &self.sequences {
            used.extend(table.blocks());
            for position in 0..*computed {
                let block = table.blocks()[position / self.block_size] as usize;
                let expected = Some((*class, ids[..=position].to_vec()));
                assert_eq!(self.held[block][position % self.block_size], expected);
            }
        }
        assert_eq!(self.memory.used(), used.len());
        assert_eq!(self.memory.available(), self.memory.total() - used.len());
    }

    /// The longest prefix of `ids` that was computed and kept: full blocks of
    /// running sequences, everything of ended ones.
    fn longest_known(&self, class: u64, ids: &[TokenId]) -> usize {
        let common = |held: &[TokenId]| held.iter().zip(ids).take_while(|(a, b)| a == b).count();
        let full = |len: usize| len / self.block_size * self.block_size;
        let running = self.sequences.iter().map(|s| (s.class, &s.ids[..full(s.computed)]));
        let ended = self.ended.iter().map(|(class, ids)| (*class, &ids[..]));
        let known = running.chain(ended).filter(|(other, _)| *other == class);
        known.map(|(_, held)| common(held)).max().unwrap_or(0)
    }
}

#[derive(Clone, Debug)]
enum Act {
    Start(u64, Vec<TokenId>),
    Advance(usize, usize, usize),
    End(usize),
    /// Ends with an error, after it wrote garbage.
    Fail(usize, usize),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let ids = prop::collection::vec(0_u32..2, 1..14);
    let act = prop_oneof![
        2 => (0_u64..2, ids).prop_map(|(class, ids)| Act::Start(class, ids)),
        6 => (any::<usize>(), 1_usize..6, 0_usize..4).prop_map(|(s, n, g)| Act::Advance(s, n, g)),
        1 => any::<usize>().prop_map(Act::End),
        1 => (any::<usize>(), 0_usize..4).prop_map(|(s, g)| Act::Fail(s, g)),
    ];
    prop::collection::vec(act, 0..120)
}

/// Runs `acts`; `exact` where nothing is ever evicted.
fn play(world: &mut World, acts: Vec<Act>, exact: bool) {
    for act in acts {
        let running = world.sequences.len();
        match act {
            Act::Start(class, ids) => {
                let expected = world.longest_known(class, &ids[..ids.len() - 1]);
                let found = world.start(class, ids);
                if exact {
                    assert_eq!(found, expected);
                } else {
                    assert!(found <= expected);
                }
            }
            _ if running == 0 => {}
            Act::Advance(pick, len, garbage) => {
                world.advance(pick % running, len, garbage);
            }
            Act::End(pick) => world.end(pick % running),
            // What exactly is forgotten is not modelled.
            Act::Fail(pick, garbage) if !exact => {
                world.advance(pick % running, 1, garbage);
                let twin = world.sequences.swap_remove(pick % running);
                world.memory.discard(twin.table);
                // Those of its blocks that others use are still known.
                world.ended.push((twin.class, twin.ids));
            }
            Act::Fail(..) => {}
        }
        world.check();
    }
    while !world.sequences.is_empty() {
        world.end(0);
        world.check();
    }
    // Nothing leaked: all blocks can be had.
    let mut table = BlockTable::default();
    let total = world.memory.total();
    assert!(world.memory.grow(&mut table, total));
    assert!(!world.memory.grow(&mut table, total + 1));
    world.memory.release(table, &[]);
}

proptest! {
    #[test]
    fn no_sequence_reads_what_it_would_not_have_computed(
        acts in acts(),
        blocks in 4_u32..12,
        block_size in 1_usize..5,
        keeps in any::<bool>(),
    ) {
        play(&mut World::new(blocks, block_size, keeps), acts, false);
    }

    /// With room for everything the cache knows as much as a list of all that
    /// was computed.
    #[test]
    fn all_that_was_kept_is_found(acts in acts(), block_size in 1_usize..5) {
        play(&mut World::new(2000, block_size, true), acts, true);
    }
}

#[test]
fn a_block_of_which_a_part_is_of_use_is_copied_before_it_is_written_to() {
    let mut world = World::new(4, 4, true);
    world.start(0, vec![1, 2, 3, 4, 5, 6]);
    world.advance(0, 6, 0);
    world.end(0);
    assert_eq!(world.start(0, vec![1, 2, 9, 9]), 2);
    assert_eq!(world.start(0, vec![1, 2, 3, 4, 5, 9]), 5);
    assert_eq!(world.memory.used(), 2, "all is shared");
    assert!(world.advance(0, 1, 0) && world.advance(1, 1, 0));
    assert_eq!(world.memory.used(), 3, "two copies, and the first block is still of use");
    world.check();
}

#[test]
fn the_last_block_of_the_pool_is_written_to_in_place() {
    let mut world = World::new(2, 4, true);
    world.start(0, vec![1, 2, 3, 4, 5, 6]);
    world.advance(0, 6, 0);
    world.end(0);
    assert_eq!(world.start(0, vec![1, 2, 3, 4, 5, 7, 8, 8]), 5);
    assert_eq!(world.memory.available(), 0);
    assert!(world.advance(0, 3, 0), "nobody else uses it");
    world.check();
    world.end(0);
    let known = world.memory.find(&World::scope(0), &[1, 2, 3, 4, 5, 6], 6);
    assert_eq!(known.len, 5, "what was overwritten is not found");
}

#[test]
fn two_that_compute_the_same_end_up_with_one_block() {
    let mut world = World::new(4, 2, true);
    world.start(0, vec![1, 2, 3]);
    world.start(0, vec![1, 2, 4]);
    world.advance(0, 3, 0);
    assert_eq!(world.memory.used(), 2);
    world.advance(1, 3, 0);
    assert_eq!(world.memory.used(), 3);
    assert_eq!(world.sequences[0].table.blocks()[0], world.sequences[1].table.blocks()[0]);
    world.check();
}

#[test]
fn what_failed_is_not_kept() {
    let mut world = World::new(8, 2, true);
    world.start(0, vec![1, 2, 3, 4, 5]);
    world.advance(0, 5, 0);
    let twin = world.sequences.swap_remove(0);
    world.memory.discard(twin.table);
    assert_eq!(world.memory.find(&World::scope(0), &[1, 2, 3], 3), Prefix::default());
    assert_eq!(world.memory.used(), 0);
}
