//! Async requests, steps that are not: what drives a model from an async server.
//!
//! ```sh
//! cargo run --release --example async_server                    # on GPUs if there are two or more
//! cargo run --release --example async_server -- --backend host  # with a step that fails on purpose
//! ```
//!
//! Async code never opens a scope: a scope belongs to a thread, and tasks move between threads and
//! take turns on them. Each rank has a thread of its own that takes steps from a queue and runs them
//! one after the other, and a request waits for its answer. All queues are fed under one lock, so all
//! ranks run the same steps in the same order, however many tasks ask at once.

use std::process::ExitCode;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use symm_core::host::{At, CallKind, Fault, Options, What};
use symm_core::{
    Backend, Config, Cuda, Group, Host, ReduceOp, Result, SymmBuf, World, groups, symm, symmetric,
};
use symm_examples::Start;
use tokio::runtime;
use tokio::sync::oneshot;

groups! {
    /// Tensor parallel: partial sums of the linear layers.
    pub Tp = "tp";
}

/// How long a rank waits for a step before it looks whether another rank failed.
const IDLE: Duration = Duration::from_millis(100);
const REQUESTS: usize = 32;
const LAYERS: u32 = 3;

/// What every rank is to do. Rank 0 answers.
struct Step {
    number: u64,
    x: Vec<f32>,
    answer: Mutex<Option<oneshot::Sender<Result<Vec<f32>>>>>,
}

impl Step {
    fn answer(&self, result: Result<Vec<f32>>) {
        let mut answer = self.answer.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(answer) = answer.take() {
            let _ = answer.send(result); // who asked may have gone away
        }
    }
}

/// What async code holds: the way to the ranks, which end with its last clone.
#[derive(Clone)]
struct Model {
    queues: Arc<Mutex<Queues>>,
}

struct Queues {
    next: u64,
    ranks: Vec<Sender<Arc<Step>>>,
}

impl Model {
    /// Starts the ranks, without waiting for them.
    fn start<B: Backend>(config: Config<B>, ranks: usize) -> (Self, JoinHandle<Result<()>>) {
        let (senders, steps): (Vec<_>, Vec<_>) = (0..ranks).map(|_| mpsc::channel()).unzip();
        let steps: Vec<_> = steps.into_iter().map(Mutex::new).collect();
        let running = thread::spawn(move || {
            let ended = config.run(ranks, |world| {
                let steps = steps[world.rank()].lock();
                serve(&world, &steps.unwrap_or_else(PoisonError::into_inner))
            });
            ended.map(drop)
        });
        let queues = Queues {
            next: 0,
            ranks: senders,
        };
        let queues = Arc::new(Mutex::new(queues));
        (Self { queues }, running)
    }

    /// Runs `x` through the model on all ranks.
    async fn forward(&self, x: Vec<f32>) -> anyhow::Result<Vec<f32>> {
        let (sender, answer) = oneshot::channel();
        self.enqueue(x, sender);
        let lost = "the step was left out: the ranks were rebuilt meanwhile, or have ended";
        Ok(answer.await.context(lost)??)
    }

    /// One lock for all queues: no step overtakes another on some rank.
    fn enqueue(&self, x: Vec<f32>, answer: oneshot::Sender<Result<Vec<f32>>>) {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        let step = Arc::new(Step {
            number: queues.next,
            x,
            answer: Mutex::new(Some(answer)),
        });
        queues.next += 1;
        for rank in &queues.ranks {
            let _ = rank.send(Arc::clone(&step)); // a rank that has ended drops it, and so the answer
        }
    }
}

struct Layer<B: Backend> {
    tp: Group<Tp, B>,
}

impl<B: Backend> Layer<B> {
    /// Not async: its scope opens and closes on the rank's thread.
    #[symmetric(group = self.tp)]
    fn forward(&self, x: &[f32]) -> Result<SymmBuf<f32, Tp, B>> {
        let mut sum = SymmBuf::from_slice(x)?;
        self.tp.all_reduce_in_place(&mut sum, ReduceOp::Sum)?;
        Ok(sum)
    }

    /// The step from which all ranks go on: they may have come differently far when one failed.
    fn resume(&self, next: u64) -> Result<u64> {
        let mut latest = symm!(group = self.tp, { self.tp.from_slice(&[next])? })?;
        self.tp.all_reduce_in_place(&mut latest, ReduceOp::Max)?;
        Ok(latest.to_vec()?[0])
    }
}

/// A rank's thread, the only place where scopes are opened.
fn serve<B: Backend>(world: &World<B>, steps: &Receiver<Arc<Step>>) -> Result<()> {
    let layer = Layer {
        tp: world.split(0, 0)?,
    };
    let mut next = 0;
    loop {
        match steps.recv_timeout(IDLE) {
            Ok(step) if step.number >= next => {
                let result = layer.forward(&step.x).and_then(|sum| sum.to_vec());
                next = step.number + 1;
                if world.rank() == 0 {
                    step.answer(result);
                }
            }
            Ok(_left_out) => {}
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        }
        // On this rank or on another: all ranks come here, each after a step or an idle moment.
        if let Err(cause) = world.check() {
            if world.rank() == 0 {
                println!("rebuilding: {cause}");
            }
            world.rebuild()?;
            next = layer.resume(next)?;
        }
    }
}

/// A request: several steps, between which the steps of others run.
async fn request(model: Model, number: usize) -> anyhow::Result<(Vec<f32>, u32)> {
    let (mut x, mut again) = (vec![number as f32; 64 * (number + 1)], 0);
    let mut layer = 0;
    while layer < LAYERS {
        match model.forward(x.clone()).await {
            Ok(sum) => (x, layer) = (sum, layer + 1),
            Err(_) if again < 3 => again += 1,
            Err(error) => return Err(error),
        }
    }
    Ok((x, again))
}

async fn requests<B: Backend>(config: Config<B>, ranks: usize) -> anyhow::Result<()> {
    let (model, running) = Model::start(config, ranks);
    let tasks: Vec<_> = (0..REQUESTS)
        .map(|number| tokio::spawn(request(model.clone(), number)))
        .collect();
    let mut again = 0;
    for (number, task) in tasks.into_iter().enumerate() {
        let (x, repeats) = task.await??;
        let expected = number as f32 * (ranks as f32).powi(LAYERS as i32);
        anyhow::ensure!(x == vec![expected; 64 * (number + 1)], "request {number}");
        again += repeats;
    }
    println!("{ranks} ranks answered {REQUESTS} requests; steps asked for again: {again}");
    drop(model);
    match running.join() {
        Ok(ended) => Ok(ended?),
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

fn run(start: &Start) -> anyhow::Result<()> {
    let runtime = runtime::Builder::new_multi_thread().build()?;
    match start.on_gpus()? {
        Some(ranks) => runtime.block_on(requests(Config::<Cuda>::default(), ranks)),
        None => {
            // The host backend can be told to fail.
            let fault = Fault::new(1, At::Call(CallKind::Launch, 20), What::Fail);
            let config = Config::<Host>::default().options(Options::default().fault(fault));
            runtime.block_on(requests(config, start.on_host()))
        }
    }
}

fn main() -> ExitCode {
    match run(&Start::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:?}");
            ExitCode::FAILURE
        }
    }
}
