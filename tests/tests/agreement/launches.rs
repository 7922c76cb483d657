//! Graphs: ranks that launch different ones, or something else, are told; graphs of a world that was
//! rebuilt say that they are stale.

use std::sync::Barrier;

use libtest_mimic::Failed;
use symm_core::{Error, Graph, GraphPool, Host, ReduceOp, Result, SymmBuf, symm};

use crate::Case;
use crate::harness::{Rank, Step, Tp, config, differs};

const LEN: usize = 64;

pub(crate) const CASES: &[Case] = &[
    ("different_graphs", different_graphs),
    ("a_launch_beside_a_call", a_launch_beside_a_call),
    ("one_launch_more", one_launch_more),
    ("different_captures", different_captures),
    ("a_graph_is_stale_after_a_rebuild", stale),
    ("strays_before_captures", strays_before_captures),
];

type Summed = Graph<SymmBuf<f32, Tp, Host>, Host>;

/// Sums of the first `len` elements.
fn sums(
    rank: &Rank,
    graphs: &GraphPool<Host>,
    x: &SymmBuf<f32, Tp, Host>,
    len: usize,
) -> Result<Summed> {
    graphs.capture(rank.world.stream(), |_| {
        let mut sum = symm!(group = rank.tp, { rank.tp.empty::<f32>(len)? })?;
        rank.tp
            .all_reduce(x.view(0..len)?, &mut sum, ReduceOp::Sum)?;
        Ok(sum)
    })
}

struct Two {
    x: SymmBuf<f32, Tp, Host>,
    one: Summed,
    two: Summed,
    _graphs: GraphPool<Host>,
}

impl Two {
    fn new(rank: &Rank) -> Result<Self> {
        let graphs = GraphPool::new(rank.world.pool());
        let x = symm!(group = rank.tp, { rank.tp.from_slice(&[1.0f32; LEN])? })?;
        let one = sums(rank, &graphs, &x, LEN)?;
        let two = sums(rank, &graphs, &x, LEN / 2)?;
        Ok(Self {
            x,
            one,
            two,
            _graphs: graphs,
        })
    }
}

fn different_graphs() -> Result<(), Failed> {
    let step: Step = |rank, odd| {
        let mut both = Two::new(rank)?;
        match odd {
            true => both.two.launch()?,
            false => both.one.launch()?,
        }
        both.one.output().to_vec()
    };
    differs(3, step, &["a launch of graph", "launches.rs:"]).map(drop)
}

fn a_launch_beside_a_call() -> Result<(), Failed> {
    let step: Step = |rank, odd| {
        let mut both = Two::new(rank)?;
        let mut sum = symm!(group = rank.tp, { rank.tp.zeros::<f32>(LEN)? })?;
        match odd {
            // The same work, at another place of it.
            true => drop(rank.tp.all_reduce(&both.x, &mut sum, ReduceOp::Sum)?),
            false => both.one.launch()?,
        }
        both.one.output().to_vec()
    };
    differs(3, step, &["a launch of graph", "all_reduce of 256 bytes"]).map(drop)
}

fn one_launch_more() -> Result<(), Failed> {
    let step: Step = |rank, odd| {
        let mut both = Two::new(rank)?;
        for _ in 0..2 + u32::from(odd) {
            both.one.launch()?;
        }
        both.two.launch()?;
        both.one.output().to_vec()
    };
    differs(3, step, &["a launch of graph"]).map(drop)
}

fn different_captures() -> Result<(), Failed> {
    let results = config().run_each(3, |world| {
        let rank = Rank::new(world)?;
        let graphs = GraphPool::new(rank.world.pool());
        let x = symm!(group = rank.tp, { rank.tp.from_slice(&[1.0f32; LEN])? })?;
        let len = if rank.me() == 1 { 8 } else { 16 };
        sums(&rank, &graphs, &x, len).map(drop)
    });
    match results.iter().all(Result::is_err) {
        true => Ok(()),
        false => Err(format!("{results:?}").into()),
    }
}

fn stale() -> Result<(), Failed> {
    let all = Barrier::new(2);
    config().run(2, |world| {
        let rank = Rank::new(world)?;
        let mut both = Two::new(&rank)?;
        both.one.launch()?;
        assert_eq!(both.one.output().to_vec()?, [2.0; LEN]);
        // A rebuild ends whatever a peer is still at.
        all.wait();
        rank.world.rebuild()?;
        for _ in 0..2 {
            let refused = both.one.launch();
            assert!(
                matches!(refused, Err(Error::StaleGraph { .. })),
                "{refused:?}"
            );
        }
        // The world goes on, beside what is left of the graphs, and without.
        let mut again = Two::new(&rank)?;
        again.one.launch()?;
        assert_eq!(again.one.output().to_vec()?, [2.0; LEN]);
        drop(both);
        again.two.launch()?;
        assert_eq!(again.two.output().to_vec()?, [2.0; LEN / 2]);
        Ok(())
    })?;
    Ok(())
}

fn strays_before_captures() -> Result<(), Failed> {
    config().run(2, |world| {
        let rank = Rank::new(world)?;
        let _first = symm!(group = rank.tp, { rank.tp.zeros::<f32>(1)? })?;
        // Rank 1 warmed something up alone: its own arena went through more.
        let stray = match rank.me() {
            1 => {
                let scope = rank.tp.scope()?;
                let strays = (scope.empty::<f32>(100)?, scope.empty::<f32>(7)?);
                drop(scope);
                Some(strays)
            }
            _ => None,
        };
        let mut x = rank.world.pool().from_slice(&[1.0f32; LEN])?;
        let graphs = GraphPool::new(rank.world.pool());
        let mut graph = graphs.capture(rank.world.stream(), |_| -> Result<_> {
            let (mut source, mut sum) = symm!(group = rank.tp, {
                (rank.tp.empty::<f32>(LEN)?, rank.tp.empty::<f32>(LEN)?)
            })?;
            source.copy_from(symm_core::plain(&x))?;
            rank.tp.all_reduce(&source, &mut sum, ReduceOp::Sum)?;
            Ok(sum)
        })?;
        for round in 1..4 {
            x.copy_from_slice(&[round as f32; LEN])?;
            graph.launch()?;
            assert_eq!(graph.output().to_vec()?, [2.0 * round as f32; LEN]);
        }
        drop(stray);
        Ok(())
    })?;
    Ok(())
}
