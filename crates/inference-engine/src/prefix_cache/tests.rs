use std::hash::{BuildHasherDefault, Hasher};

use super::*;

fn scope(adapter: Option<AdapterId>, class: u64) -> Scope {
    Scope { adapter, class }
}

/// Keeps `ids` in blocks `first..`, as a sequence does that then ends.
fn store<S: BuildHasher>(
    cache: &mut PrefixCache<S>,
    scope: &Scope,
    ids: &[TokenId],
    first: BlockId,
) -> Vec<Kept> {
    cache.tick();
    let mut parent = None;
    let mut kept = Vec::new();
    for (block, tokens) in (first..).zip(ids.chunks(cache.block_size)) {
        kept.push(cache.insert(scope, parent, block, tokens));
        match kept.last() {
            Some(Kept::New(id) | Kept::Same(id, _)) => parent = Some(*id),
            _ => break,
        }
    }
    for block in (first..).take(kept.len()).collect::<Vec<_>>().into_iter().rev() {
        cache.note_use(block, false);
    }
    kept
}

#[test]
fn scopes_share_nothing() {
    let [a, b] = [AdapterId::unique(), AdapterId::unique()];
    let mut cache = PrefixCache::new(2);
    let own = scope(None, 0);
    store(&mut cache, &own, &[1, 2, 3], 0);
    assert_eq!(cache.find(&own, &[1, 2, 3, 4], 4).len, 3);
    for other in [scope(None, 1), scope(Some(a), 0), scope(Some(b), 0)] {
        assert_eq!(cache.find(&other, &[1, 2, 3], 3), Prefix::default());
    }
    store(&mut cache, &scope(Some(a), 0), &[1, 2], 5);
    assert_eq!(cache.find(&scope(Some(a), 0), &[1, 2], 2).blocks, [5]);
    assert_eq!(cache.find(&scope(Some(b), 0), &[1, 2], 2), Prefix::default());
}

#[test]
fn not_more_than_the_limit_is_found() {
    let mut cache = PrefixCache::new(2);
    let own = scope(None, 0);
    store(&mut cache, &own, &[1, 2, 3, 4], 0);
    for limit in 0..6 {
        let prefix = cache.find(&own, &[1, 2, 3, 4, 5], limit);
        assert_eq!(prefix.len, limit.min(4));
        assert_eq!(prefix.blocks.len(), limit.min(4).div_ceil(2));
    }
}

#[test]
fn the_least_recently_used_goes_first_and_ends_before_beginnings() {
    let mut cache = PrefixCache::new(1);
    let own = scope(None, 0);
    store(&mut cache, &own, &[1, 2, 3], 0);
    store(&mut cache, &own, &[7, 8], 10);
    // The first is used again, up to its second token.
    cache.tick();
    for block in cache.find(&own, &[1, 2], 2).blocks {
        cache.note_use(block, true);
        cache.note_use(block, false);
    }
    let order: Vec<BlockId> = std::iter::from_fn(|| cache.evict()).collect();
    assert_eq!(order, [2, 11, 10, 1, 0]);
    assert!(cache.nodes.iter().all(Option::is_none), "no root is left");
    assert!(cache.roots.is_empty() && cache.chains.is_empty() && cache.by_block.is_empty());
}

#[test]
fn what_is_in_use_is_not_evicted() {
    let mut cache = PrefixCache::new(1);
    let own = scope(None, 0);
    store(&mut cache, &own, &[1, 2], 0);
    cache.note_use(0, true);
    assert_eq!((cache.evict(), cache.evict()), (Some(1), None));
    assert_eq!(cache.find(&own, &[1, 2], 2).len, 1);
}

/// Every hash is the same.
#[derive(Default)]
struct Collide;

impl Hasher for Collide {
    fn finish(&self) -> u64 {
        7
    }

    fn write(&mut self, _: &[u8]) {}
}

#[test]
fn a_collision_of_hashes_does_not_give_wrong_blocks() {
    let mut cache = PrefixCache::with_hasher(2, BuildHasherDefault::<Collide>::default());
    let own = scope(None, 0);
    assert!(matches!(store(&mut cache, &own, &[1, 2, 1, 2], 0)[..], [Kept::New(_), Kept::No]));
    assert_eq!(store(&mut cache, &own, &[3, 4], 5), [Kept::No]);
    // Neither other tokens, nor the same ones elsewhere.
    assert_eq!(cache.find(&own, &[3, 4], 2), Prefix::default());
    assert_eq!(cache.find(&own, &[1, 2, 1, 2], 4).blocks, [0]);
    assert_eq!(cache.find(&scope(None, 1), &[1, 2], 2), Prefix::default());
    // What has no hash of its own is found all the same.
    assert!(matches!(store(&mut cache, &own, &[3], 6)[..], [Kept::New(_)]));
    assert_eq!(cache.find(&own, &[3, 4], 2).blocks, [6]);
}
