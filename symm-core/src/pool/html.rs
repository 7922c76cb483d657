//! A snapshot as one page of HTML that needs nothing else.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::snapshot::{BlockMap, GraphName, Sample, SegmentMap, Snapshot};

const TEMPLATE: &str = include_str!("map.html");

/// Where the data goes in the template.
const PLACE: &str = "{{snapshot}}";

/// Points of the timeline that a page draws: more than it has pixels.
const POINTS: usize = 4000;

impl Snapshot {
    /// One page that shows the memory: segments with their blocks coloured by group, windows, graphs,
    /// ordinary memory and what was in use over time; who allocated what is told where one points,
    /// and in tables. It fetches nothing, so it can be kept and sent.
    ///
    /// ```
    /// use symm_core::{Config, Host, groups, symm};
    /// groups! { pub Tp = "tp"; }
    ///
    /// let pages = Config::<Host>::default().memory_history(1 << 16).run(2, |world| {
    ///     let tp = world.split::<Tp>(0, 0)?;
    ///     let _weights = symm!(group = tp, { tp.zeros::<f32>(4096)? })?;
    ///     Ok(world.pool().snapshot().to_html())
    /// })?;
    /// let file = std::env::temp_dir().join(format!("memory-{}.html", std::process::id()));
    /// std::fs::write(&file, &pages[0])?; // to be opened in a browser
    /// assert!(pages[0].starts_with("<!doctype html>") && pages[0].contains("tp#"));
    /// # std::fs::remove_file(&file)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn to_html(&self) -> String {
        // In a script element only `<` can end the data.
        let data = page(self).to_string().replace('<', "\\u003c");
        TEMPLATE.replacen(PLACE, &data, 1)
    }
}

/// Texts, each once, by their index.
#[derive(Default)]
struct Strings<'a> {
    all: Vec<&'a str>,
    index: HashMap<&'a str, i64>,
}

impl<'a> Strings<'a> {
    /// -1 of none.
    fn of(&mut self, text: Option<&'a str>) -> i64 {
        let Some(text) = text else {
            return -1;
        };
        *self.index.entry(text).or_insert_with(|| {
            self.all.push(text);
            self.all.len() as i64 - 1
        })
    }
}

/// What the template's script reads: columns of numbers, because ten thousand blocks with the names
/// of their fields would be megabytes.
fn page(snapshot: &Snapshot) -> Value {
    let mut strings = Strings::default();
    let mut sets: Vec<&[GraphName]> = Vec::new();
    let segments: Vec<Value> = snapshot
        .segments
        .iter()
        .map(|segment| self::segment(segment, &mut strings))
        .collect();
    let blocks: Vec<i64> = snapshot
        .blocks
        .iter()
        .flat_map(|block| self::block(block, &mut strings, &mut sets))
        .collect();
    let plain = snapshot.plain.iter().map(|plain| {
        let group = strings.of(plain.group.as_deref());
        let site = strings.of(plain.site.as_deref());
        json!([hex(plain.address), plain.bytes, group, site, plain.age_us])
    });
    let plain: Vec<Value> = plain.collect();
    let graphs = snapshot.graphs.iter().map(|graph| {
        let name = graph.name.to_string();
        json!([
            name,
            graph.site,
            graph.collectives,
            graph.owned_bytes,
            graph.leased_bytes
        ])
    });
    let place = |name: &GraphName| snapshot.graphs.iter().position(|graph| graph.name == *name);
    let sets = sets
        .iter()
        .map(|set| set.iter().filter_map(place).collect::<Vec<_>>());
    let timeline = thin(&snapshot.timeline, POINTS);
    let timeline = timeline.iter().flat_map(|sample| {
        let Sample {
            at_us,
            live_bytes,
            reserved_bytes,
            plain_bytes,
        } = **sample;
        [at_us, live_bytes, reserved_bytes, plain_bytes]
    });
    json!({
        "rank": snapshot.rank,
        "recording": snapshot.recording,
        "at_us": snapshot.at_us,
        "sequence": snapshot.sequence,
        "reserved": snapshot.reserved_bytes,
        "live": snapshot.live_bytes,
        "plain_live": snapshot.plain_live_bytes,
        "budget": (snapshot.budget_bytes < u64::MAX).then_some(snapshot.budget_bytes),
        "segments": segments,
        "blocks": blocks,
        "graphs": graphs.collect::<Vec<_>>(),
        "graph_sets": sets.collect::<Vec<_>>(),
        "plain": plain,
        "timeline": timeline.collect::<Vec<_>>(),
        "strings": strings.all,
    })
}

fn segment<'a>(segment: &'a SegmentMap, strings: &mut Strings<'a>) -> Value {
    let arena = strings.of(Some(&segment.arena));
    let windows = segment.windows.iter();
    let windows = windows.map(|window| json!([strings.of(Some(&window.group)), window.state]));
    let windows: Vec<Value> = windows.collect();
    let base = hex(segment.base);
    json!([
        arena,
        segment.graph_pool,
        segment.index,
        base,
        segment.bytes,
        windows
    ])
}

/// Nine numbers, -1 for what is not known.
fn block<'a>(
    block: &'a BlockMap,
    strings: &mut Strings<'a>,
    sets: &mut Vec<&'a [GraphName]>,
) -> [i64; 9] {
    let set = match &block.graphs[..] {
        [] => -1,
        graphs => sets
            .iter()
            .position(|set| *set == graphs)
            .unwrap_or_else(|| {
                sets.push(graphs);
                sets.len() - 1
            }) as i64,
    };
    let known = |number: Option<u64>| number.map_or(-1, |number| number as i64);
    [
        block.segment as i64,
        block.offset as i64,
        block.bytes as i64,
        block.state as i64,
        strings.of(block.group.as_deref()),
        strings.of(block.site.as_deref()),
        known(block.sequence),
        known(block.age_us),
        set,
    ]
}

/// Addresses are more than a number of JavaScript may hold.
fn hex(address: u64) -> String {
    format!("{address:#x}")
}

/// At most about so many samples, with the peaks and the valleys of what was live, the first and the
/// last.
fn thin(samples: &[Sample], points: usize) -> Vec<&Sample> {
    let run = samples.len().div_ceil((points / 2).max(1));
    if run <= 2 {
        return samples.iter().collect();
    }
    let mut kept: Vec<&Sample> = samples.first().into_iter().collect();
    for run in samples.chunks(run) {
        let by_live = |sample: &(usize, &Sample)| sample.1.live_bytes;
        let low = run.iter().enumerate().min_by_key(by_live);
        let high = run.iter().enumerate().max_by_key(by_live);
        let mut both: Vec<(usize, &Sample)> = low.into_iter().chain(high).collect();
        both.sort_by_key(|(index, _)| *index);
        both.dedup_by_key(|(index, _)| *index);
        kept.extend(both.into_iter().map(|(_, sample)| sample));
    }
    kept.extend(samples.last());
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(at_us: u64, live_bytes: u64) -> Sample {
        let (reserved_bytes, plain_bytes) = (0, 0);
        Sample {
            at_us,
            live_bytes,
            reserved_bytes,
            plain_bytes,
        }
    }

    #[test]
    fn a_timeline_keeps_its_peaks_and_its_order() {
        let live = |at: u64| if at == 7777 { 1000 } else { at % 3 };
        let samples: Vec<Sample> = (0..60_000).map(|at| sample(at, live(at))).collect();
        let kept = thin(&samples, 100);
        assert!(kept.len() <= 102, "{}", kept.len());
        assert!(kept.iter().any(|sample| sample.live_bytes == 1000));
        assert!(kept.is_sorted_by_key(|sample| sample.at_us));
        assert_eq!(
            (kept[0], kept[kept.len() - 1]),
            (&samples[0], &samples[59_999])
        );
        assert_eq!(thin(&samples[..90], 100).len(), 90);
        assert_eq!(thin(&[], 100).len(), 0);
    }

    #[test]
    fn nothing_in_the_data_ends_its_script() {
        let mut snapshot = Snapshot::default();
        snapshot.segments.push(SegmentMap {
            arena: "</script><script>alert(1)</script><!--".into(),
            graph_pool: None,
            index: 0,
            base: u64::MAX,
            bytes: 512,
            windows: Vec::new(),
        });
        let page = snapshot.to_html();
        let template = TEMPLATE.matches("</script>").count();
        assert_eq!(page.matches("</script>").count(), template);
        assert!(page.contains("\\u003c/script>") && page.contains("0xffffffffffffffff"));
    }
}
