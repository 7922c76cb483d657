//! A rank that dies or stops at any call of its backend: the others return an error that names it,
//! in time, and one that goes on is told what happened.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use libtest_mimic::Failed;
use symm_core::host::{At, Fault, Options, What};
use symm_core::{Buf, Config, GraphPool, Host, ReduceOp, Result, World, host, plain, symm};

use crate::Case;
use crate::child::{Running, meeting, number};
use crate::harness::Rank;

const DEADLINE: &str = "SYMM_AGREEMENT_DEADLINE";
const RANKS: usize = 3;
const KILLS: usize = 100;
const STOPS: usize = 20;
/// Worlds at a time.
const PARALLEL: usize = 4;
/// No test of speed: the machine may be busy.
const SLACK: Duration = Duration::from_secs(10);

pub(crate) const CASES: &[Case] = &[("killed_anywhere", killed), ("stopped_anywhere", stopped)];

/// What a process does: every part, with something under way on the device most of the time.
pub(crate) fn program(world: World<Host>) -> Result<u64> {
    let rank = Rank::new(world)?;
    let (next, last) = (
        (rank.me() + 1) % rank.tp.size(),
        (rank.me() + rank.tp.size() - 1) % rank.tp.size(),
    );
    let mut kept = Vec::new();
    for lap in 1..4 {
        let (mut x, mut y) = symm!(group = rank.tp, {
            let len = 100_000 * lap;
            (
                rank.tp.from_slice(&vec![1.0f32; len])?,
                rank.tp.zeros::<f32>(len)?,
            )
        })?;
        for _ in 0..4 {
            rank.tp.all_reduce(&x, &mut y, ReduceOp::Sum)?;
        }
        rank.tp.broadcast_in_place(&mut x, lap % rank.tp.size())?;
        let mut ring = rank.tp.batch();
        ring.send(&x, next);
        ring.recv(&mut y, last);
        ring.launch()?;
        y.to_vec()?;
        kept.push((x, y));
    }
    let graphs = GraphPool::new(rank.world.pool());
    let x = &kept[0].0;
    let mut graph = graphs.capture(rank.world.stream(), |_| -> Result<_> {
        let mut sum = symm!(group = rank.tp, { rank.tp.empty::<f32>(100)? })?;
        rank.tp
            .all_reduce(x.view(0..100)?, &mut sum, ReduceOp::Sum)?;
        let mut copy = Buf::<f32, Host>::empty(100)?;
        copy.copy_from(plain(&sum))?;
        Ok(copy)
    })?;
    for _ in 0..5 {
        graph.launch()?;
    }
    graph.output().to_vec()?;
    let calls = host::calls(&rank.world);
    // Nobody leaves before all are here.
    drop((graph, graphs));
    let mut end = rank.world.pool().from_slice(&[1u8])?;
    rank.tp
        .all_reduce_in_place(symm_core::plain_mut(&mut end), ReduceOp::Sum)?;
    end.to_vec()?;
    Ok(calls)
}

pub(crate) fn small(deadline: Duration) -> Config<Host> {
    Config::default()
        .deadline(deadline)
        .first_segment(512 << 10)
}

pub(crate) fn rank() -> Result<String, String> {
    let deadline = Duration::from_millis(number(DEADLINE).unwrap_or(5000));
    let world = small(deadline)
        .from_env()
        .map_err(|error| error.to_string())?;
    let calls = program(world).map_err(|error| error.to_string())?;
    Ok(calls.to_string())
}

/// The program's calls by name and number among those of their name, as rank 0 makes them.
fn calls() -> Result<Vec<(String, usize)>, Failed> {
    let config = small(Duration::from_secs(30));
    let count = config.run(RANKS, program)?[0];
    let mut seen = BTreeMap::new();
    let mut all = Vec::new();
    for k in 1..=count {
        let broken = Options::default().fault(Fault::new(0, At::Nth(k), What::Fail));
        let results = config.clone().options(broken).run_each(RANKS, program);
        let text = format!("{:?}", results[0]);
        // In the error's fields: call: "launch", .. injected fault, call 40.
        let name = text
            .split("call: \"")
            .nth(1)
            .and_then(|rest| rest.split('"').next());
        if let Some(name) = name {
            let number: &mut usize = seen.entry(name.to_owned()).or_default();
            *number += 1;
            all.push((name.to_owned(), *number));
        }
    }
    Ok(all)
}

/// What came of the worlds.
#[derive(Default)]
struct Tally {
    /// By the call at which a rank was hit.
    hit: BTreeMap<String, usize>,
    /// Worlds whose other ranks had all they needed.
    undisturbed: usize,
    /// Calls that were not reached.
    missed: usize,
    slowest: Duration,
}

/// Runs worlds in parallel, each with a rank that is hit at another of the program's calls.
fn everywhere(
    worlds: usize,
    what: &str,
    one: fn(usize, &[(String, String)], &mut Hit) -> Result<(), Failed>,
    deadline: Duration,
) -> Result<Tally, Failed> {
    let calls = calls()?;
    println!("{what}: {} calls to hit", calls.len());
    let (next, tally, wrong) = (
        AtomicUsize::new(0),
        Mutex::new(Tally::default()),
        Mutex::new(Vec::new()),
    );
    let work = || -> Result<(), Failed> {
        loop {
            let world = next.fetch_add(1, Ordering::Relaxed);
            if world >= worlds || wrong.lock().is_ok_and(|wrong| !wrong.is_empty()) {
                return Ok(());
            }
            let (name, number) = &calls[world * calls.len() / worlds];
            let victim = world % RANKS;
            let mut vars = meeting()?;
            vars.push((
                "SYMM_HOST_FAULTS".into(),
                format!("{victim}:{name}:{number}:{what}"),
            ));
            vars.push((DEADLINE.into(), deadline.as_millis().to_string()));
            let mut hit = Hit::default();
            one(victim, &vars, &mut hit).map_err(|failed| {
                let why = failed.message().unwrap_or_default();
                format!("rank {victim}, {what} at {name} {number}: {why}")
            })?;
            let Ok(mut tally) = tally.lock() else {
                return Ok(());
            };
            match hit.hit {
                true => *tally.hit.entry(name.clone()).or_default() += 1,
                false => tally.missed += 1,
            }
            tally.undisturbed += usize::from(hit.undisturbed);
            tally.slowest = tally.slowest.max(hit.took);
        }
    };
    thread::scope(|scope| {
        for _ in 0..PARALLEL {
            scope.spawn(|| {
                if let (Err(failed), Ok(mut wrong)) = (work(), wrong.lock()) {
                    wrong.push(failed.message().unwrap_or_default().to_owned());
                }
            });
        }
    });
    let wrong = wrong.into_inner()?;
    let tally = tally.into_inner()?;
    println!(
        "{what}: {} worlds, {} not reached, {} undisturbed, the last rank was told after {:?}; by call: {:?}",
        worlds, tally.missed, tally.undisturbed, tally.slowest, tally.hit
    );
    match wrong.first() {
        Some(first) => Err(first.clone().into()),
        None => Ok(tally),
    }
}

/// What came of one world.
#[derive(Default)]
struct Hit {
    hit: bool,
    undisturbed: bool,
    took: Duration,
}

impl Hit {
    /// The others returned an error that names the victim, in time.
    fn told(
        &mut self,
        at: Instant,
        deadline: Duration,
        victim: usize,
        others: &[&Running],
    ) -> Result<(), Failed> {
        self.undisturbed = others.iter().all(|other| other.end().starts_with("end ok"));
        for other in others {
            let Some((said, text)) = &other.said else {
                return Err("a rank died that nobody killed".into());
            };
            let named = [format!("rank {victim}"), format!("[{victim}]")];
            // While rank 0 is stopped nobody hears of anybody over the rendezvous, which it relays:
            // before there is a board, whoever is missing is named.
            let through = victim == 0 && text.contains("waited") && !text.contains("at step");
            let names = through || named.iter().any(|name| text.contains(&name[..]));
            if text.starts_with("end error") && !names {
                return Err(format!("it is not named: {text}").into());
            }
            let took = said.saturating_duration_since(at);
            if took > deadline + SLACK {
                return Err(format!("told after {took:?}: {text}").into());
            }
            self.took = self.took.max(took);
        }
        Ok(())
    }
}

fn start(vars: &[(String, String)]) -> Result<Vec<Running>, Failed> {
    let ranks = (0..RANKS).map(|rank| Running::rank("lives", rank, RANKS, vars));
    Ok(ranks.collect::<std::io::Result<_>>()?)
}

fn others(ranks: &[Running], victim: usize) -> Vec<&Running> {
    let others = ranks.iter().enumerate().filter(|(rank, _)| *rank != victim);
    others.map(|(_, running)| running).collect()
}

const KILL_DEADLINE: Duration = Duration::from_secs(5);

fn one_kill(victim: usize, vars: &[(String, String)], hit: &mut Hit) -> Result<(), Failed> {
    let mut ranks = start(vars)?;
    let signal = ranks[victim].join()?;
    let died = Instant::now();
    for rank in &mut ranks {
        rank.join()?;
    }
    hit.hit = signal == Some(9);
    match hit.hit {
        true => hit.told(died, KILL_DEADLINE, victim, &others(&ranks, victim)),
        false if ranks.iter().all(|rank| rank.end().starts_with("end ok")) => Ok(()),
        false => {
            let ends: Vec<_> = ranks.iter().map(Running::end).collect();
            Err(format!("nobody was killed: {ends:?}").into())
        }
    }
}

fn killed() -> Result<(), Failed> {
    let tally = everywhere(KILLS, "kill", one_kill, KILL_DEADLINE)?;
    let hit: usize = tally.hit.values().sum();
    match hit > KILLS * 8 / 10 && tally.undisturbed < KILLS / 5 {
        true => Ok(()),
        false => Err(format!("only {hit} of {KILLS} were hit").into()),
    }
}

const STOP_DEADLINE: Duration = Duration::from_millis(1500);

fn one_stop(victim: usize, vars: &[(String, String)], hit: &mut Hit) -> Result<(), Failed> {
    let mut ranks = start(vars)?;
    let until = Instant::now() + Duration::from_secs(40);
    while !ranks[victim].is_stopped()
        && !ranks[victim].listen(Instant::now() + Duration::from_millis(5))
    {
        if Instant::now() > until {
            return Err("it neither stops nor ends".into());
        }
    }
    let stopped = Instant::now();
    hit.hit = ranks[victim].is_stopped();
    // Until the others have ended, whom it holds up for longer than the deadline.
    let all = (0..RANKS).filter(|rank| *rank != victim);
    for rank in all {
        if !ranks[rank].listen(until) {
            return Err("a rank waits for one that is stopped".into());
        }
    }
    if hit.hit {
        hit.told(stopped, STOP_DEADLINE, victim, &others(&ranks, victim))?;
        ranks[victim].go_on()?;
    }
    for rank in &mut ranks {
        rank.join()?;
    }
    let end = ranks[victim].end();
    match hit.hit && !hit.undisturbed && !end.starts_with("end error") {
        true => Err(format!("the one that was stopped: {end}").into()),
        false => Ok(()),
    }
}

fn stopped() -> Result<(), Failed> {
    let tally = everywhere(STOPS, "stop=0", one_stop, STOP_DEADLINE)?;
    let hit: usize = tally.hit.values().sum();
    match hit > STOPS * 8 / 10 && tally.undisturbed < STOPS / 4 {
        true => Ok(()),
        false => Err(format!("only {hit} of {STOPS} were hit").into()),
    }
}
