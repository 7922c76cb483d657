//! Ranks that were not started alike.

use libtest_mimic::Failed;
use symm_core::{Config, Error, Host, Reason, ReduceOp, plain_mut};

use crate::Case;
use crate::child::{Running, meeting, number};
use crate::harness::{Rank, config};

const SEGMENT: &str = "SYMM_AGREEMENT_SEGMENT";

pub(crate) const CASES: &[Case] = &[
    ("other_settings", other_settings),
    ("other_environment", other_environment),
    ("strict_by_the_environment", strict_by_the_environment),
];

fn open(config: &Config<Host>) -> Result<Rank, String> {
    let world = config.from_env().map_err(|error| error.to_string())?;
    Rank::new(world).map_err(|error| error.to_string())
}

pub(crate) fn rank() -> Result<String, String> {
    let bytes = number(SEGMENT).unwrap_or(8 << 20);
    open(&config().first_segment(bytes)).map(|_| String::new())
}

pub(crate) fn strict_rank() -> Result<String, String> {
    let rank = open(&config())?;
    let mut x = rank.world.pool().from_slice(&[1.0f32; 8]);
    let x = x.as_mut().map_err(|error| error.to_string())?;
    match rank.tp.all_reduce_in_place(plain_mut(x), ReduceOp::Sum) {
        Err(Error::NotSymmetric {
            reason: Reason::Foreign,
            ..
        }) => Ok("refused".into()),
        other => Err(format!("{other:?}")),
    }
}

/// Two ranks, each with variables of its own; what they say at their ends.
fn two(program: &str, vars: [&[(&str, &str)]; 2]) -> Result<[String; 2], Failed> {
    let meeting = meeting()?;
    let mut ranks = Vec::new();
    for (rank, vars) in vars.into_iter().enumerate() {
        let own = vars
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_string()));
        let vars: Vec<_> = meeting.iter().cloned().chain(own).collect();
        ranks.push(Running::rank(program, rank, 2, &vars)?);
    }
    for rank in &mut ranks {
        rank.join()?;
    }
    Ok([ranks[0].end().to_owned(), ranks[1].end().to_owned()])
}

fn both_say(ends: &[String; 2], words: &[&str]) -> Result<(), Failed> {
    for end in ends {
        if let Some(word) = words.iter().find(|word| !end.contains(**word)) {
            return Err(format!("{word:?} is not in {end:?}").into());
        }
    }
    Ok(())
}

fn other_settings() -> Result<(), Failed> {
    let ends = two("joins", [&[(SEGMENT, "1048576")], &[(SEGMENT, "2097152")]])?;
    let words = [
        "end error the ranks of the world differ at its start",
        "Config::first_segment is",
        "`1048576` on rank 0",
        "`2097152` on rank 1",
    ];
    both_say(&ends, &words)?;
    both_say(&two("joins", [&[], &[]])?, &["end ok"])
}

fn other_environment() -> Result<(), Failed> {
    let ends = two("joins", [&[], &[("SYMM_STRICT", "1")]])?;
    both_say(&ends, &["Config::strict is", "`true` on rank 1"])?;
    let ends = two("joins", [&[("SYMM_REDZONES", "1")], &[]])?;
    both_say(&ends, &["Config::redzones is", "`true` on rank 0"])
}

fn strict_by_the_environment() -> Result<(), Failed> {
    let strict: &[(&str, &str)] = &[("SYMM_STRICT", "1")];
    both_say(&two("strict", [strict; 2])?, &["end ok refused"])
}
