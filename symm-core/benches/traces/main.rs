//! Memory on the traces of real models: what is reserved beside what is live, with one arena for all
//! groups of a trace, with one for tp and cp, with one for each group, and as PyTorch's caching
//! allocator would round it. `cargo bench -p symm-core --bench traces`
//!
//! Each trace is played twice on two ranks of the host backend; pages that nobody touches cost nothing.
//! It fails if a goal is missed: reserved at most 1.10 times the live peak and one segment an arena, at
//! most 8 windows a group, no growth in the second pass. One segment is 128 MiB with the default sizes,
//! of which the first is 8 MiB and the next 128 MiB; they may be larger later, and count no more.

mod models;
mod torch;

use std::collections::BTreeMap;

use models::{Event, Of, Trace};
use symm_core::{Config, Dyn, Group, GroupTag, Host, Result, SymmBuf, World};
use torch::Torch;

const RANKS: usize = 2;
/// Windows of a group that a program may come to.
const WINDOWS: usize = 8;

/// What a pool came to.
#[derive(Clone, Copy, Debug)]
struct Came {
    reserved: u64,
    segments: usize,
    /// Of the group that has most.
    windows: usize,
    /// Bytes that the second pass added.
    grew: u64,
    arenas: usize,
}

/// The groups of a trace, in arenas as it says.
macro_rules! arrangement {
    ($name:ident, $($arena:tt)*) => {
        mod $name {
            use super::*;

            symm_core::groups! {
                pub(crate) Tp = "tp";
                pub(crate) Cp = "cp";
                pub(crate) Attn = "attn";
                pub(crate) Dp = "dp";
                pub(crate) Ep = "ep";
                $($arena)*
            }

            pub(crate) fn play(config: &Config<Host>, trace: &Trace) -> Result<Came> {
                let rank = |world: World<Host>| {
                    let tp = world.split::<Tp>(0, 0)?;
                    let cp = world.split::<Cp>(0, 0)?;
                    let attn = world.split::<Attn>(0, 0)?;
                    let dp = world.split::<Dp>(0, 0)?;
                    let ep = world.split::<Ep>(0, 0)?;
                    let mut reserved = Vec::new();
                    for _pass in 0..2 {
                        play_once(trace, |of, bytes| match of {
                            Of::Tp => buffer(&tp, bytes),
                            Of::Cp => buffer(&cp, bytes),
                            Of::Attn => buffer(&attn, bytes),
                            Of::Dp => buffer(&dp, bytes),
                            Of::Ep => buffer(&ep, bytes),
                        })?;
                        reserved.push(world.pool().stats().reserved_bytes);
                    }
                    let windows =
                        [tp.windows(), cp.windows(), attn.windows(), dp.windows(), ep.windows()];
                    Ok(came(&world, &reserved, &windows))
                };
                let ranks = config.run(RANKS, rank)?;
                Ok(ranks[0])
            }
        }
    };
}

arrangement!(together, arena(Tp, Cp, Attn, Dp, Ep););
arrangement!(tp_and_cp, arena(Tp, Cp););
arrangement!(apart,);

/// A buffer of one scope, whichever group's.
fn buffer<G: GroupTag>(group: &Group<G, Host>, bytes: u64) -> Result<SymmBuf<u8, Dyn, Host>> {
    let scope = group.scope()?;
    let buf = scope.empty(bytes as usize)?;
    scope.close()?;
    Ok(buf.erase())
}

fn play_once<T>(trace: &Trace, mut alloc: impl FnMut(Of, u64) -> Result<T>) -> Result<()> {
    let mut live = BTreeMap::new();
    for event in &trace.events {
        match *event {
            Event::Alloc { id, of, bytes } => drop(live.insert(id, alloc(of, bytes)?)),
            Event::Free { id } => drop(live.remove(&id)),
        }
    }
    Ok(())
}

fn came(world: &World<Host>, reserved: &[u64], windows: &[usize]) -> Came {
    let stats = world.pool().stats();
    Came {
        reserved: stats.reserved_bytes,
        segments: stats.segments,
        windows: windows.iter().copied().max().unwrap_or_default(),
        grew: reserved[1] - reserved[0],
        arenas: stats
            .arenas
            .iter()
            .filter(|arena| arena.segments > 0)
            .count(),
    }
}

/// The most bytes that were live at once.
fn live_peak(trace: &Trace) -> u64 {
    let (mut sizes, mut now, mut peak) = (BTreeMap::new(), 0, 0);
    for event in &trace.events {
        match *event {
            Event::Alloc { id, bytes, .. } => {
                sizes.insert(id, bytes);
                now += bytes;
            }
            Event::Free { id } => now -= sizes.remove(&id).unwrap_or_default(),
        }
        peak = peak.max(now);
    }
    peak
}

/// What PyTorch would reserve: with a pool for each group, and with one.
fn torch(trace: &Trace) -> [u64; 2] {
    let (mut each, mut one) = (BTreeMap::<Of, Torch>::new(), Torch::default());
    for event in &trace.events {
        match *event {
            Event::Alloc { id, of, bytes } => {
                each.entry(of).or_default().alloc(id, bytes);
                one.alloc(id, bytes);
            }
            Event::Free { id } => {
                each.values_mut().for_each(|pool| pool.free(id));
                one.free(id);
            }
        }
    }
    [each.values().map(|pool| pool.reserved).sum(), one.reserved]
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// Prints the table of one size of segments, and says which goals are missed. `segment` is what the
/// goal allows an arena.
fn table(config: &Config<Host>, segment: u64) -> Result<Vec<String>> {
    println!(
        "{:16} {:>7} {:>10} {:>18} {:>18} {:>18} {:>11} {:>10}",
        "trace",
        "events",
        "live peak",
        "one arena",
        "one for tp+cp",
        "one each",
        "torch each",
        "torch one"
    );
    let mut missed = Vec::new();
    for trace in models::all() {
        let peak = live_peak(&trace);
        let ours = [
            ("one arena", together::play(config, &trace)?),
            ("one for tp+cp", tp_and_cp::play(config, &trace)?),
            ("one each", apart::play(config, &trace)?),
        ];
        let [each, one] = torch(&trace);
        let [a, b, c] = ours.map(|(_, came)| {
            format!(
                "{:.0} ({}, {})",
                mib(came.reserved),
                came.segments,
                came.windows
            )
        });
        println!(
            "{:16} {:>7} {:>10.1} {a:>18} {b:>18} {c:>18} {:>11.0} {:>10.0}",
            trace.name,
            trace.events.len(),
            mib(peak),
            mib(each),
            mib(one),
        );
        for (name, came) in &ours {
            let most = peak + peak / 10 + came.arenas as u64 * segment;
            let mut miss = |what: String| missed.push(format!("{}, {name}: {what}", trace.name));
            if came.reserved > most {
                miss(format!(
                    "{:.0} MiB are reserved, {:.0} are allowed",
                    mib(came.reserved),
                    mib(most)
                ));
            }
            if came.windows > WINDOWS {
                miss(format!("{} windows of a group", came.windows));
            }
            if came.grew > 0 {
                miss(format!(
                    "the second pass reserved {:.0} MiB more",
                    mib(came.grew)
                ));
            }
        }
    }
    Ok(missed)
}

fn main() -> Result<()> {
    println!(
        "MiB reserved for traces; in brackets segments, and windows of the group that has most\n"
    );
    println!(
        "default: segments of 8 MiB, then 128 MiB, then half of what there is if that is more"
    );
    let mut missed = table(&Config::default(), 128 << 20)?;
    println!("\nsegments of 256 MiB");
    let even = Config::<Host>::default()
        .first_segment(256 << 20)
        .segment_cap(256 << 20);
    missed.extend(table(&even, 256 << 20)?);
    println!(
        "\ngoals: {}",
        if missed.is_empty() {
            "all met"
        } else {
            "missed"
        }
    );
    missed.iter().for_each(|goal| println!("  {goal}"));
    std::process::exit(i32::from(!missed.is_empty()));
}
