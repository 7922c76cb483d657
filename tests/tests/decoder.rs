//! The main job, small: every split of the model computes what one rank computes, through graphs and
//! without.

use symm_examples::decoder::{Choice, Comparison, Options, Report, TOLERANCE, run};

/// Sequences, which end one after another.
const BATCH: usize = 3;

fn decode(tp: usize, cp: usize, graph: bool) -> Report {
    let options = Options {
        backend: Choice::Host,
        tp: Some(tp),
        cp: Some(cp),
        layers: 2,
        hidden: 32,
        heads: 4,
        batch: BATCH,
        prompt: 11,
        chunk: 4,
        steps: 5,
        graph,
        ..Options::default()
    };
    run(&options).unwrap()
}

fn check_agreement(comparison: &Comparison, case: &str) {
    assert!(
        comparison.relative < TOLERANCE,
        "{case}: {}",
        comparison.relative
    );
    assert_eq!(
        comparison.same_token, comparison.positions,
        "{case}: other tokens"
    );
    assert_eq!(comparison.positions, BATCH * 11 + 5 + 4 + 2, "{case}");
}

#[test]
fn every_split_agrees_with_one_rank() {
    for (tp, cp) in [(2, 2), (1, 4), (4, 1), (2, 1)] {
        for graph in [true, false] {
            let case = format!("tp {tp} x cp {cp}, graph {graph}");
            let report = decode(tp, cp, graph);
            check_agreement(&report.alone.expect("compared with one rank"), &case);
            assert_eq!(report.graphs.is_some(), graph);
            let segments = 1 + usize::from(graph); // the graphs have one of their own
            let windows = |ranks| if ranks > 1 { segments } else { 0 };
            let found = (report.windows["tp"], report.windows["cp"]);
            assert_eq!(found, (windows(tp), windows(cp)), "{case}");
            for ((group, operation, path), count) in &report.collectives {
                let ranks = if *group == "tp" { tp } else { cp };
                assert_eq!(
                    path == "symmetric",
                    ranks > 1,
                    "{case}: {count} x {operation} of {group} went {path}"
                );
            }
        }
    }
}

#[test]
fn graphs_do_the_eager_work_in_memory_that_they_share() {
    let report = decode(2, 2, true);
    let graphs = report.graphs.expect("decoded through graphs");
    check_agreement(&graphs.eager, "beside eager work");
    // Two steps of three sequences, two of two, one of one.
    let launches: Vec<_> = graphs
        .captured
        .iter()
        .map(|(rows, graph)| (*rows, graph.launches))
        .collect();
    assert_eq!(launches, [(1, 1), (2, 2), (3, 2)]);
    assert!(
        graphs.captured.values().all(|graph| {
            // Each of two layers gathers attention and adds up twice; the logits are gathered.
            graph.calls.len() == 2 * 3 + 1
                && graph
                    .calls
                    .iter()
                    .all(|call| call.path.to_string() == "symmetric")
        }),
        "{:?}",
        graphs.captured
    );
    assert_eq!(graphs.pool.graphs, 3);
    // What is a graph's own are its logits, of 256 floats a row; all else is shared, so that it costs
    // what it costs the largest.
    assert_eq!(graphs.pool.live_bytes(), (1 + 2 + 3) * 256 * 4);
    assert!(graphs.pool.shared_bytes() > 0);
}

/// A batch between two powers of two, which shrinks by one sequence at a time.
#[test]
fn batches_are_padded_to_their_bucket() {
    let options = Options {
        backend: Choice::Host,
        layers: 1,
        hidden: 32,
        heads: 4,
        batch: 5,
        prompt: 3,
        steps: 10,
        ..Options::default()
    };
    let graphs = run(&options).unwrap().graphs.expect("through graphs");
    let launches: Vec<_> = graphs
        .captured
        .iter()
        .map(|(rows, graph)| (*rows, graph.launches))
        .collect();
    assert_eq!(launches, [(1, 2), (2, 2), (4, 4), (5, 2)]);
    let sequences: Vec<usize> = graphs.batches.into_keys().collect();
    assert_eq!(sequences, [1, 2, 3, 4, 5]);
}
