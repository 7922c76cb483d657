//! What is live now and was not then: the hunt for leaks.

use std::collections::BTreeMap;
use std::fmt;

use super::snapshot::{BlockMap, BlockState, Snapshot};

/// What is live in one snapshot and was not in an earlier one, by who allocated it.
///
/// ```
/// use symm_core::{Config, Host, groups, symm};
/// groups! { pub Tp = "tp"; }
///
/// Config::<Host>::default().memory_history(1000).run(2, |world| {
///     let tp = world.split::<Tp>(0, 0)?;
///     let mut kept = Vec::new();
///     let before = world.pool().snapshot();
///     for _ in 0..3 {
///         kept.push(symm!(group = tp, { tp.zeros::<f32>(256)? })?); // a cache that only grows
///     }
///     let leaked = world.pool().snapshot().diff(&before);
///     assert_eq!((leaked.blocks, leaked.bytes, leaked.rows.len()), (3, 3072, 1));
///     assert!(leaked.rows[0].site.as_deref().is_some_and(|site| site.contains(".rs:")));
///     println!("{leaked}");
///     Ok(())
/// })?;
/// # Ok::<(), symm_core::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct SnapshotDiff {
    /// Bytes of all rows.
    pub bytes: u64,
    /// Blocks of all rows.
    pub blocks: u64,
    /// By group and site; the most bytes first.
    pub rows: Vec<Growth>,
}

/// What one line of a program has allocated for one group and not given back.
///
/// ```
/// # use symm_core::{Config, Host, groups, symm};
/// # groups! { pub Tp = "tp"; }
/// Config::<Host>::default().memory_history(1000).run(2, |world| {
///     let tp = world.split::<Tp>(0, 0)?;
///     let before = world.pool().snapshot();
///     let (kept, line) = (symm!(group = tp, { tp.zeros::<f32>(256)? })?, line!());
///     let leaked = world.pool().snapshot().diff(&before);
///     let row = &leaked.rows[0];
///     assert_eq!((row.bytes, row.blocks, row.plain), (1024, 1, false));
///     assert!(row.group.as_deref().is_some_and(|group| group.starts_with("tp#")));
///     assert!(row.site.as_deref().is_some_and(|site| site.ends_with(&format!(":{line}"))));
///     Ok(())
/// })?;
/// # Ok::<(), symm_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Growth {
    /// The group; `None` for memory outside scopes.
    pub group: Option<String>,
    /// Whether it is ordinary memory, outside the arenas.
    pub plain: bool,
    /// Where it was allocated; `None` where nobody recorded it.
    pub site: Option<String>,
    /// Bytes that are live now and were not then.
    pub bytes: u64,
    /// Blocks of them; ranges, where nobody recorded them.
    pub blocks: u64,
}

/// Group, whether it is plain, site.
type Key = (Option<String>, bool, Option<String>);

impl Snapshot {
    /// What is live here and was not in `earlier`, a snapshot of the same pool, by group and site.
    ///
    /// Exact for what was recorded. Of what was not, it is known where bytes are live now that were
    /// free then, not who freed and allocated meanwhile.
    ///
    /// ```
    /// # use symm_core::{Host, World};
    /// # World::<Host>::run(1, |world| {
    /// let before = world.pool().snapshot();
    /// let kept = world.pool().zeros::<f32>(256)?;
    /// drop(world.pool().zeros::<f32>(256)?);
    /// let now = world.pool().snapshot();
    /// assert_eq!(now.diff(&before).bytes, 1024); // of `kept` alone
    /// assert_eq!(before.diff(&now).bytes, 0);
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    pub fn diff(&self, earlier: &Snapshot) -> SnapshotDiff {
        let mut rows: BTreeMap<Key, (u64, u64)> = BTreeMap::new();
        let mut add = |key: Key, bytes: u64| {
            if bytes > 0 {
                let row = rows.entry(key).or_default();
                *row = (row.0.saturating_add(bytes), row.1 + 1);
            }
        };
        let then = Then::new(earlier);
        for block in self.blocks.iter().filter(|block| is_held(block)) {
            let bytes = match block.sequence {
                Some(sequence) if sequence > earlier.sequence => block.bytes,
                // It was there: what is live now was allocated before that snapshot.
                Some(_) => 0,
                None => block.bytes.saturating_sub(then.held(self, block)),
            };
            add((block.group.clone(), false, block.site.clone()), bytes);
        }
        for plain in self
            .plain
            .iter()
            .filter(|plain| plain.sequence > earlier.sequence)
        {
            add((plain.group.clone(), true, plain.site.clone()), plain.bytes);
        }
        let unrecorded = self
            .unrecorded_plain()
            .saturating_sub(earlier.unrecorded_plain());
        add((None, true, None), unrecorded);
        let rows = rows.into_iter();
        let rows = rows.map(|((group, plain, site), (bytes, blocks))| Growth {
            group,
            plain,
            site,
            bytes,
            blocks,
        });
        let mut rows: Vec<Growth> = rows.collect();
        rows.sort_by_key(|row| std::cmp::Reverse(row.bytes));
        SnapshotDiff {
            bytes: sum(rows.iter().map(|row| row.bytes)),
            blocks: rows.iter().map(|row| row.blocks).sum(),
            rows,
        }
    }

    /// Bytes of ordinary memory that nobody recorded.
    fn unrecorded_plain(&self) -> u64 {
        let recorded = sum(self.plain.iter().map(|plain| plain.bytes));
        self.plain_live_bytes.saturating_sub(recorded)
    }

    /// The segment's name, which snapshots share.
    fn segment_name(&self, segment: usize) -> Option<SegmentName<'_>> {
        let segment = self.segments.get(segment)?;
        Some((segment.graph_pool, &segment.arena, segment.index))
    }
}

/// Of figures that may have been read from anywhere.
fn sum(figures: impl Iterator<Item = u64>) -> u64 {
    figures.fold(0, u64::saturating_add)
}

fn is_held(block: &BlockMap) -> bool {
    matches!(block.state, BlockState::Live | BlockState::Returning)
}

/// Graph pool, arena, index.
type SegmentName<'a> = (Option<u64>, &'a str, usize);

/// What was held, by segment and offset.
struct Then<'a>(BTreeMap<(SegmentName<'a>, u64), u64>);

impl<'a> Then<'a> {
    fn new(earlier: &'a Snapshot) -> Self {
        let held = earlier.blocks.iter().filter(|block| is_held(block));
        let held = held.filter_map(|block| {
            let segment = earlier.segment_name(block.segment)?;
            Some(((segment, block.offset), block.bytes))
        });
        Self(held.collect())
    }

    /// How many bytes of the block were held.
    fn held(&self, now: &'a Snapshot, block: &BlockMap) -> u64 {
        let Some(segment) = now.segment_name(block.segment) else {
            return 0;
        };
        let end = block.offset.saturating_add(block.bytes);
        let before = self
            .0
            .range((segment, 0)..(segment, block.offset))
            .next_back();
        let inside = self.0.range((segment, block.offset)..(segment, end));
        let overlap = |((_, offset), bytes): (&(SegmentName<'_>, u64), &u64)| {
            let to = offset.saturating_add(*bytes).min(end);
            to.saturating_sub((*offset).max(block.offset))
        };
        sum(before.into_iter().chain(inside).map(overlap))
    }
}

impl fmt::Display for SnapshotDiff {
    /// A table, one row for each group and site.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} B in {} blocks are live that were not before",
            self.bytes, self.blocks
        )?;
        if self.rows.is_empty() {
            return Ok(());
        }
        let group = |row: &Growth| match (&row.group, row.plain) {
            (Some(group), false) => group.clone(),
            (Some(group), true) => format!("{group}, plain"),
            (None, true) => "plain".into(),
            (None, false) => "none".into(),
        };
        let rows: Vec<_> = self.rows.iter().map(|row| (group(row), row)).collect();
        let widest = rows.iter().map(|(group, _)| group.chars().count()).max();
        let width = widest.unwrap_or(0).max("group".len());
        write!(
            f,
            "\n{:>14}  {:>7}  {:width$}  site",
            "bytes", "blocks", "group"
        )?;
        for (group, row) in rows {
            let site = row.site.as_deref().unwrap_or("not recorded");
            let (bytes, blocks) = (row.bytes, row.blocks);
            write!(f, "\n{bytes:>14}  {blocks:>7}  {group:width$}  {site}")?;
        }
        Ok(())
    }
}
