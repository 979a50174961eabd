//! Which blocks hold the keys and values of which tokens.

use std::collections::hash_map::RandomState;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::BuildHasher;
use std::ops::Bound;
use std::sync::Arc;

use inference_core::TokenId;

use crate::adapters::AdapterId;
use crate::runner::BlockId;

/// Sequences of one scope may share the keys and values of a common prefix.
///
/// The model is no part of it: a cache belongs to one runner, which has one
/// model.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Scope {
    /// The adapter that changes the weights: not by its name, which may come to
    /// stand for others.
    pub(crate) adapter: Option<AdapterId>,
    /// [`KvBlocks::sharing_class`](crate::KvBlocks::sharing_class).
    pub(crate) class: u64,
}

/// A block in the cache. Valid as long as a sequence uses the block.
pub(crate) type NodeId = u32;

/// What a cache has of a prompt.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Prefix {
    /// The blocks, in the order of positions.
    pub(crate) blocks: Vec<BlockId>,
    /// The node of the last block that is of use as a whole.
    pub(crate) tail: Option<NodeId>,
    /// Tokens. Where it is not a multiple of the block size, the last block is
    /// of use up to here only, and must be copied before it is written to.
    pub(crate) len: usize,
}

impl Prefix {
    /// Does without the part of a block at its end; returns whether there was
    /// one.
    pub(crate) fn keep_whole_blocks(&mut self, block_size: usize) -> bool {
        let whole = self.len / block_size;
        let partial = self.blocks.len() > whole;
        self.blocks.truncate(whole);
        self.len = whole * block_size;
        partial
    }
}

/// What became of a block that was to be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kept {
    /// It is in the cache now.
    New(NodeId),
    /// Another block with the same keys and values is.
    Same(NodeId, BlockId),
    /// It is not in the cache, whose place for it holds something else.
    No,
}

/// The blocks that are kept, as a tree: a path from the root is a prefix.
///
/// A full block is found by a hash chain, the hash of its parent's hash and
/// its own tokens; parent and tokens are compared before it is believed. Where
/// a prompt leaves the path inside a block, the child that it has most tokens
/// in common with is found in the order of the children's tokens, next to
/// where the prompt's own would be.
///
/// Idle blocks (that no sequence uses) are evicted least recently used first,
/// and leaves before their parents. Who uses a block uses its ancestors too,
/// so all descendants of an idle block are idle, and every idle block can be
/// evicted.
#[derive(Debug)]
pub(crate) struct PrefixCache<S = RandomState> {
    block_size: usize,
    hasher: S,
    nodes: Vec<Option<Node>>,
    /// Vacant places of `nodes`.
    vacant: Vec<NodeId>,
    roots: HashMap<Scope, NodeId>,
    /// Full blocks by the hash of their chain.
    chains: HashMap<u64, NodeId>,
    by_block: HashMap<BlockId, NodeId>,
    /// Idle leaves by the time of their last use.
    evictable: BTreeSet<(u64, NodeId)>,
    /// Counts uses.
    clock: u64,
}

#[derive(Debug)]
struct Node {
    place: Place,
    /// Of the path from the root to here.
    hash: u64,
    children: BTreeMap<Arc<[TokenId]>, NodeId>,
}

#[derive(Debug)]
enum Place {
    Root(Scope),
    Block { block: BlockId, parent: NodeId, tokens: Arc<[TokenId]>, idle: bool, used_at: u64 },
}

impl PrefixCache {
    pub(crate) fn new(block_size: usize) -> Self {
        Self::with_hasher(block_size, RandomState::new())
    }
}

impl<S: BuildHasher> PrefixCache<S> {
    pub(crate) fn with_hasher(block_size: usize, hasher: S) -> Self {
        Self {
            block_size,
            hasher,
            nodes: Vec::new(),
            vacant: Vec::new(),
            roots: HashMap::new(),
            chains: HashMap::new(),
            by_block: HashMap::new(),
            evictable: BTreeSet::new(),
            clock: 0,
        }
    }

    fn node(&self, id: NodeId) -> Option<&Node> {
        self.nodes.get(id as usize)?.as_ref()
    }

    fn node_mut(&mut self, id: NodeId) -> Option<&mut Node> {
        self.nodes.get_mut(id as usize)?.as_mut()
    }

    fn chain(&self, parent: u64, tokens: &[TokenId]) -> u64 {
        self.hasher.hash_one((parent, tokens))
    }

    /// The full block that continues `parent` with `tokens`.
    fn full_child(&self, parent: NodeId, tokens: &[TokenId]) -> Option<(NodeId, BlockId)> {
        let id = *self.chains.get(&self.chain(self.node(parent)?.hash, tokens))?;
        match &self.node(id)?.place {
            Place::Block { block, parent: own, tokens: held, .. }
                if *own == parent && held[..] == *tokens =>
            {
                Some((id, *block))
            }
            _ => None,
        }
    }

    /// The child of `parent` that has most tokens in common with `tokens`, at
    /// least one.
    fn closest_child(&self, parent: NodeId, tokens: &[TokenId]) -> Option<(NodeId, usize)> {
        let children = &self.node(parent)?.children;
        let before =
            children.range::<[TokenId], _>((Bound::Unbounded, Bound::Included(tokens))).next_back();
        let after =
            children.range::<[TokenId], _>((Bound::Excluded(tokens), Bound::Unbounded)).next();
        let common = |held: &[TokenId]| held.iter().zip(tokens).take_while(|(a, b)| a == b).count();
        [before, after]
            .into_iter()
            .flatten()
            .map(|(held, id)| (*id, common(held)))
            .filter(|(_, common)| *common > 0)
            .max_by_key(|(_, common)| *common)
    }

    /// What there is of the first `limit` of `ids`.
    pub(crate) fn find(&self, scope: &Scope, ids: &[TokenId], limit: usize) -> Prefix {
        let ids = &ids[..limit.min(ids.len())];
        let mut prefix = Prefix::default();
        let Some(mut at) = self.roots.get(scope).copied() else { return prefix };
        for tokens in ids.chunks(self.block_size) {
            if tokens.len() == self.block_size
                && let Some((id, block)) = self.full_child(at, tokens)
            {
                prefix.blocks.push(block);
                prefix.len += self.block_size;
                prefix.tail = Some(id);
                at = id;
                continue;
            }
            if let Some((id, common)) = self.closest_child(at, tokens)
                && let Some(Node { place: Place::Block { block, .. }, .. }) = self.node(id)
            {
                prefix.blocks.push(*block);
                prefix.len += common;
            }
            break;
        }
        prefix
    }

    /// Keeps a block, in use, that continues `parent` (or the empty prefix of
    /// `scope`) with `tokens`: at most a block's worth, and no less if it is
    /// ever to be continued itself.
    pub(crate) fn insert(
        &mut self,
        scope: &Scope,
        parent: Option<NodeId>,
        block: BlockId,
        tokens: &[TokenId],
    ) -> Kept {
        let parent = parent.unwrap_or_else(|| self.root(scope));
        let full = tokens.len() == self.block_size;
        if full && let Some((id, held)) = self.full_child(parent, tokens) {
            return Kept::Same(id, held);
        }
        let known = self.closest_child(parent, tokens).is_some_and(|(_, n)| n == tokens.len());
        let Some(hash) = self.node(parent).map(|node| self.chain(node.hash, tokens)) else {
            return Kept::No;
        };
        if tokens.is_empty()
            || (!full && known)
            || (full && self.chains.contains_key(&hash))
            || self.by_block.contains_key(&block)
        {
            self.drop_empty_root(parent);
            return Kept::No;
        }
        let tokens: Arc<[TokenId]> = tokens.into();
        let place = Place::Block {
            block,
            parent,
            tokens: Arc::clone(&tokens),
            idle: false,
            used_at: self.clock,
        };
        let id = self.add(Node { place, hash, children: BTreeMap::new() });
        self.by_block.insert(block, id);
        if full {
            self.chains.insert(hash, id);
        }
        self.unlist(parent);
        if let Some(parent) = self.node_mut(parent) {
            parent.children.insert(tokens, id);
        }
        Kept::New(id)
    }

    fn root(&mut self, scope: &Scope) -> NodeId {
        if let Some(root) = self.roots.get(scope) {
            return *root;
        }
        let hash = self.hasher.hash_one(scope);
        let place = Place::Root(scope.clone());
        let id = self.add(Node { place, hash, children: BTreeMap::new() });
        self.roots.insert(scope.clone(), id);
        id
    }

    fn add(&mut self, node: Node) -> NodeId {
        if let Some(id) = self.vacant.pop() {
            self.nodes[id as usize] = Some(node);
            return id;
        }
        self.nodes.push(Some(node));
        // There are not more nodes than blocks and roots.
        (self.nodes.len() - 1) as NodeId
    }

    /// Starts a new moment: what is used from now on is more recent than what
    /// was used before.
    pub(crate) fn tick(&mut self) {
        self.clock += 1;
    }

    /// Notes whether any sequence uses a block, now; nothing for a block that
    /// is not kept.
    pub(crate) fn note_use(&mut self, block: BlockId, in_use: bool) {
        let Some(id) = self.by_block.get(&block).copied() else { return };
        self.unlist(id);
        let clock = self.clock;
        if let Some(Node { place: Place::Block { idle, used_at, .. }, .. }) = self.node_mut(id) {
            *idle = !in_use;
            *used_at = clock;
        }
        self.list(id);
    }

    /// Takes a node from the evictable ones.
    fn unlist(&mut self, id: NodeId) {
        if let Some(Node { place: Place::Block { used_at, .. }, .. }) = self.node(id) {
            let key = (*used_at, id);
            self.evictable.remove(&key);
        }
    }

    /// Puts a node among the evictable ones if it is one.
    fn list(&mut self, id: NodeId) {
        if let Some(Node { place: Place::Block { idle: true, used_at, .. }, children, .. }) =
            self.node(id)
            && children.is_empty()
        {
            let key = (*used_at, id);
            self.evictable.insert(key);
        }
    }

    /// Drops the idle block that was not used for the longest time, and
    /// returns it.
    pub(crate) fn evict(&mut self) -> Option<BlockId> {
        let (_, id) = *self.evictable.first()?;
        self.remove(id)
    }

    /// Drops a block that nothing continues; `false` where it is not kept, or
    /// something continues it.
    pub(crate) fn forget(&mut self, block: BlockId) -> bool {
        let Some(id) = self.by_block.get(&block).copied() else { return false };
        let leaf = self.node(id).is_some_and(|node| node.children.is_empty());
        leaf && self.remove(id).is_some()
    }

    fn remove(&mut self, id: NodeId) -> Option<BlockId> {
        self.unlist(id);
        let node = self.nodes.get_mut(id as usize)?.take()?;
        self.vacant.push(id);
        let Place::Block { block, parent, tokens, .. } = node.place else { return None };
        self.by_block.remove(&block);
        if tokens.len() == self.block_size {
            self.chains.remove(&node.hash);
        }
        if let Some(parent) = self.node_mut(parent) {
            parent.children.remove(&tokens);
        }
        self.list(parent);
        self.drop_empty_root(parent);
        Some(block)
    }

    fn drop_empty_root(&mut self, id: NodeId) {
        if let Some(Node { place: Place::Root(scope), children, .. }) = self.node(id)
            && children.is_empty()
        {
            let scope = scope.clone();
            self.roots.remove(&scope);
            self.nodes[id as usize] = None;
            self.vacant.push(id);
        }
    }
}

#[cfg(test)]
mod tests;
