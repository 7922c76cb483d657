//! Draws the map of a rank's memory: what the arenas say, with what was recorded.

use std::collections::BTreeMap;

use super::arena::ArenaId;
use super::history::{Book, Owner};
use super::placement::Position;
use super::snapshot::{
    BlockMap, BlockState, GraphMap, GraphName, PlainMap, SegmentMap, Snapshot, WindowMap,
    WindowState,
};
use super::watch::{Chart, GraphNote};
use crate::backend::Backend;
use crate::group::world::Rank;

/// Of this rank, now.
pub(crate) fn take<B: Backend>(rank: &Rank<B>) -> Snapshot {
    let pool = &rank.pool;
    let (charts, graphs) = (pool.charts(), pool.watch.graphs());
    let totals = pool.totals();
    let mut snapshot = Snapshot {
        rank: rank.seat.rank,
        sequence: pool.watch.sequence(),
        reserved_bytes: totals.reserved,
        live_bytes: charts.iter().map(|chart| chart.live).sum(),
        plain_live_bytes: totals.plain,
        budget_bytes: pool.config.budget,
        graphs: graphs.iter().map(graph).collect(),
        ..Snapshot::default()
    };
    for chart in &charts {
        snapshot.segments.extend(segments(rank, chart));
    }
    match pool.watch.recorder() {
        None => blocks(&mut snapshot, &charts, &graphs, &Book::default(), 0),
        Some(recorder) => recorder.look(|book| {
            let now = recorder.now_us();
            (snapshot.recording, snapshot.at_us) = (true, now);
            blocks(&mut snapshot, &charts, &graphs, book, now);
            snapshot.plain = plain(book, now);
            snapshot.timeline = book.samples().copied().collect();
        }),
    }
    snapshot
}

fn graph(note: &GraphNote) -> GraphMap {
    GraphMap {
        name: note.name,
        site: note.site.to_string(),
        collectives: note.collectives,
        owned_bytes: note.owned_bytes,
        leased_bytes: note.leased.iter().map(|(.., bytes)| bytes).sum(),
    }
}

fn segments<B: Backend>(rank: &Rank<B>, chart: &Chart) -> Vec<SegmentMap> {
    let groups = rank.live_groups();
    let windows = |index| {
        let window = groups.iter().filter_map(|group| {
            let state = group.with_ledger(|ledger| ledger.state(chart.arena, index))?;
            Some(WindowMap {
                group: group.short_label(),
                state: match group.size() {
                    1 => WindowState::Alone,
                    _ => state,
                },
            })
        });
        window.collect()
    };
    let segments = chart.segments.iter().enumerate();
    let segments = segments.map(|(index, &(base, bytes))| SegmentMap {
        arena: chart.name.clone(),
        graph_pool: chart.graph_pool,
        index,
        base,
        bytes,
        windows: windows(index),
    });
    segments.collect()
}

fn plain(book: &Book, now: u64) -> Vec<PlainMap> {
    let plain = book.plain.iter().map(|(&address, owner)| PlainMap {
        address,
        bytes: owner.bytes,
        group: owner.group.clone(),
        site: Some(site(owner)),
        sequence: owner.sequence,
        age_us: now.saturating_sub(owner.at_us),
    });
    plain.collect()
}

fn site(owner: &Owner) -> String {
    format!("{}:{}", owner.site.file(), owner.site.line())
}

fn blocks(snapshot: &mut Snapshot, charts: &[Chart], graphs: &[GraphNote], book: &Book, now: u64) {
    let of_charts = charts
        .iter()
        .flat_map(|chart| (0..chart.segments.len()).map(move |index| (chart, index)));
    for (segment, (chart, index)) in of_charts.enumerate() {
        let Some(map) = snapshot.segments.get(segment) else {
            return;
        };
        let survey = Survey {
            segment,
            bytes: map.bytes,
            // Whoever has a block in it works on it.
            group: match &map.windows[..] {
                [one] => Some(one.group.clone()),
                _ => None,
            },
            known: known(chart, index, graphs, book),
            written: written(chart, index),
            now,
        };
        let free = chart.free.get(index).map_or(&[][..], |free| free);
        survey.draw(free, &mut snapshot.blocks);
    }
}

/// What is known of a block.
#[derive(Debug, Default)]
struct Known<'a> {
    bytes: u64,
    owner: Option<&'a Owner>,
    returning: bool,
    leased: Vec<GraphName>,
}

/// The blocks of a segment of which anything is known, by their offsets.
fn known<'a>(
    chart: &Chart,
    index: usize,
    graphs: &[GraphNote],
    book: &'a Book,
) -> BTreeMap<u64, Known<'a>> {
    let mut known: BTreeMap<u64, Known<'a>> = BTreeMap::new();
    let at = |offset| {
        let segment = index;
        (chart.arena, Position { segment, offset })
    };
    for (&(_, position), owner) in book.blocks.range(at(0)..=at(u64::MAX)) {
        let bytes = owner.bytes;
        let owner = Some(owner);
        known.insert(
            position.offset,
            Known {
                bytes,
                owner,
                ..Known::default()
            },
        );
    }
    let mut of = |arena: ArenaId, position: Position, bytes, note: &dyn Fn(&mut Known<'a>)| {
        if (arena, position.segment) == (chart.arena, index) {
            let block = known.entry(position.offset).or_default();
            block.bytes = bytes;
            note(block);
        }
    };
    for &(position, bytes) in &chart.taken {
        of(chart.arena, position, bytes, &|_| {});
    }
    for &(position, bytes) in &chart.returning {
        of(chart.arena, position, bytes, &|block| {
            block.returning = true
        });
    }
    for graph in graphs {
        for &(arena, position, bytes) in &graph.leased {
            of(arena, position, bytes, &|block| {
                block.leased.push(graph.name)
            });
        }
    }
    known
}

/// What live graphs write to in a segment when they run.
type Written = Vec<(GraphName, Vec<(u64, u64)>)>;

fn written(chart: &Chart, index: usize) -> Written {
    let pool = chart.graph_pool.unwrap_or_default();
    let here = |ranges: &[(Position, u64)]| {
        let here = ranges
            .iter()
            .filter(|(position, _)| position.segment == index);
        here.map(|(position, bytes)| (position.offset, position.offset + bytes))
            .collect()
    };
    let graphs = chart.written.iter();
    let graphs = graphs.map(|(number, ranges)| {
        (
            GraphName {
                pool,
                number: *number,
            },
            here(ranges),
        )
    });
    graphs.collect()
}

/// One segment.
struct Survey<'a> {
    segment: usize,
    bytes: u64,
    group: Option<String>,
    known: BTreeMap<u64, Known<'a>>,
    written: Written,
    now: u64,
}

impl Survey<'_> {
    /// Ranges without gaps, lowest first; `free` is ascending.
    fn draw(&self, free: &[(u64, u64)], blocks: &mut Vec<BlockMap>) {
        let mut at = 0;
        for &(offset, bytes) in free {
            self.taken(at, offset, blocks);
            at = offset + bytes;
            self.free(offset, at, blocks);
        }
        self.taken(at, self.bytes, blocks);
    }

    /// A range that is taken from end to end.
    fn taken(&self, start: u64, end: u64, blocks: &mut Vec<BlockMap>) {
        let mut at = start;
        for (&offset, known) in self.known.range(start..end.max(start)) {
            // What was taken or given back since the arena was looked at.
            if offset < at || offset + known.bytes > end {
                continue;
            }
            if at < offset {
                blocks.push(self.live(at, offset, &Known::default()));
            }
            at = offset + known.bytes;
            blocks.push(self.live(offset, at, known));
        }
        if at < end {
            blocks.push(self.live(at, end, &Known::default()));
        }
    }

    fn live(&self, start: u64, end: u64, known: &Known<'_>) -> BlockMap {
        let mut graphs = self.writers(start, end);
        graphs.extend(&known.leased);
        BlockMap {
            segment: self.segment,
            offset: start,
            bytes: end - start,
            state: match known.returning {
                true => BlockState::Returning,
                false => BlockState::Live,
            },
            group: match known.owner {
                Some(owner) => owner.group.clone(),
                None => self.group.clone(),
            },
            graphs,
            site: known.owner.map(site),
            sequence: known.owner.map(|owner| owner.sequence),
            age_us: known
                .owner
                .map(|owner| self.now.saturating_sub(owner.at_us)),
        }
    }

    /// A range that is free, of which graphs may write to parts.
    fn free(&self, start: u64, end: u64, blocks: &mut Vec<BlockMap>) {
        let ranges = self.written.iter().flat_map(|(_, ranges)| ranges);
        let edges = ranges.flat_map(|&(from, to)| [from, to]);
        let mut cuts: Vec<u64> = edges.filter(|&edge| start < edge && edge < end).collect();
        cuts.extend([start, end]);
        cuts.sort_unstable();
        cuts.dedup();
        for piece in cuts.windows(2) {
            let (from, to) = (piece[0], piece[1]);
            let graphs = self.writers(from, to);
            let first = from == start;
            match blocks
                .last_mut()
                .filter(|last| !first && last.graphs == graphs)
            {
                Some(last) => last.bytes += to - from,
                None => blocks.push(BlockMap {
                    segment: self.segment,
                    offset: from,
                    bytes: to - from,
                    state: match graphs.is_empty() {
                        true => BlockState::Free,
                        false => BlockState::Scratch,
                    },
                    group: None,
                    graphs,
                    site: None,
                    sequence: None,
                    age_us: None,
                }),
            }
        }
    }

    /// The graphs that write to a byte of the range.
    fn writers(&self, start: u64, end: u64) -> Vec<GraphName> {
        let writes =
            |ranges: &[(u64, u64)]| ranges.iter().any(|&(from, to)| from < end && start < to);
        let writers = self.written.iter().filter(|(_, ranges)| writes(ranges));
        writers.map(|(graph, _)| *graph).collect()
    }
}
