//! Where figures go: rank 0 prints them, and keeps them as JSON lines.

use std::env;
use std::fmt::Display;
use std::fs::File;
use std::io::Write;
use std::path::Path;

use serde_json::{Value, json};
use symm_core::{Backend, Cuda, Group, plain, plain_mut};
use symm_tests::suite::{Failure, Outcome};

use super::Tp;
use super::options::{Task, What};
use crate::plan::Backing;

/// Of rank 0, or silent.
pub(super) struct Output {
    speaks: bool,
    file: Option<File>,
    /// What every line says of its place.
    place: Value,
}

impl Output {
    pub(super) fn new(rank: usize, task: &Task) -> Outcome<Self> {
        let nccl = match (task.backing, Cuda::probe().nccl) {
            (Backing::Cuda, Ok(nccl)) => nccl.version.to_string(),
            _ => "none".to_owned(),
        };
        let speaks = rank == 0;
        let name = format!(
            "{}-{}-{}-nccl-{nccl}.jsonl",
            word(task.what),
            task.ranks,
            task.launched()
        );
        let file = match env::var_os("OUT").filter(|folder| speaks && !folder.is_empty()) {
            Some(folder) => Some(made(&Path::new(&folder).join(name))?),
            None => None,
        };
        let output = Self {
            speaks,
            file,
            place: json!({
                "bench": word(task.what), "ranks": task.ranks, "launch": task.launched(), "nccl": nccl,
            }),
        };
        output.say(match task.backing {
            Backing::Cuda => format!("{}\n{}", Cuda::probe(), task.place()),
            Backing::Host => format!("host backend, {}", task.place()),
        });
        Ok(output)
    }

    /// Prints a line, or several.
    pub(super) fn say(&self, text: impl Display) {
        if self.speaks {
            println!("{text}");
        }
    }

    /// Keeps a row, an object.
    pub(super) fn keep(&mut self, mut row: Value) -> Outcome {
        let Some(file) = &mut self.file else {
            return Ok(());
        };
        if let (Value::Object(row), Value::Object(place)) = (&mut row, &self.place) {
            row.extend(place.clone());
        }
        writeln!(file, "{row}").map_err(|error| Failure::new(format!("$OUT: {error}")))
    }
}

fn made(path: &Path) -> Outcome<File> {
    File::create(path).map_err(|error| Failure::new(format!("{}: {error}", path.display())))
}

fn word(what: What) -> &'static str {
    match what {
        What::Collectives => "collectives",
        What::Start => "start",
        What::Scopes => "scopes",
    }
}

/// The largest of all ranks' figures, each for itself.
pub(super) fn slowest<B: Backend>(
    tp: &Group<Tp, B>,
    pool: &symm_core::Pool<B>,
    figures: &[f64],
) -> Outcome<Vec<f64>> {
    let mine = pool.from_slice(figures)?;
    let mut all = pool.zeros::<f64>(figures.len() * tp.size())?;
    tp.all_gather(plain(&mine), plain_mut(&mut all))?;
    let all = all.to_vec()?;
    let largest = |at: usize| {
        let of_ranks = all.iter().skip(at).step_by(figures.len());
        of_ranks.copied().fold(f64::NEG_INFINITY, f64::max)
    };
    Ok((0..figures.len()).map(largest).collect())
}
