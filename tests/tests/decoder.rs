//! The main job, small: every split of the model computes what one rank computes.

use symm_examples::decoder::{Choice, Options, TOLERANCE, run};

#[test]
fn every_split_agrees_with_one_rank() {
    for (tp, cp) in [(2, 2), (1, 4), (4, 1), (2, 1)] {
        let options = Options {
            backend: Choice::Host,
            tp: Some(tp),
            cp: Some(cp),
            layers: 2,
            hidden: 32,
            heads: 4,
            prompt: 11,
            chunk: 4,
            steps: 5,
            ..Options::default()
        };
        let report = run(&options).unwrap();
        let alone = report.alone.expect("compared with one rank");
        assert!(
            alone.relative < TOLERANCE,
            "tp {tp} x cp {cp}: {}",
            alone.relative
        );
        assert_eq!(
            alone.same_token, alone.positions,
            "tp {tp} x cp {cp}: other tokens"
        );
        let (windows, one) = (&report.windows, |ranks| usize::from(ranks > 1));
        assert_eq!((windows["tp"], windows["cp"]), (one(tp), one(cp)));
        for ((group, operation, path), count) in &report.collectives {
            let ranks = if *group == "tp" { tp } else { cp };
            assert_eq!(
                path == "symmetric",
                ranks > 1,
                "{count} x {operation} of {group} went {path}"
            );
        }
    }
}
