//! Decodes a text file with a small transformer, tensor parallel by context parallel, through captured
//! graphs, and checks it against eager work and against one rank.
//!
//! ```sh
//! cargo run --release --example decoder                       # on GPUs if there are two or more
//! cargo run --release --example decoder -- --tp 4 --steps 200 # another split, a longer text
//! cargo run --release --example decoder -- --graph false      # without graphs
//! cargo run --release --example decoder -- --help
//! # one process a rank:
//! torchrun --no-python --nproc-per-node 4 target/release/examples/decoder
//! ```
//!
//! The model is real in all but its weights, which are seeded noise: RMSNorm, grouped attention
//! with rotary positions and a KV cache, a gated MLP. Its weights lie in a safetensors file, of
//! which every rank reads its own slices. Heads, the MLP's columns and the vocabulary are split
//! over `Tp`, the positions of the KV cache over `Cp`; `src/decoder/layers.rs` is where the
//! annotations are.
//!
//! The sequences end one after another, so batches shrink. For each power of two sequences a step is
//! captured once (`src/decoder/batches.rs`) and launched with the tokens and positions of the moment.
//! Then the same code runs without graphs, and on one rank, and the logits of every position must
//! agree.
//!
//! Without GPUs, four ranks run as threads on the host backend. On GPUs the kernels need NVRTC and
//! cuBLAS where the loader looks. For those of pip's wheels:
//!
//! ```sh
//! nvidia=$(python -c 'import nvidia; print(nvidia.__path__[0])')
//! export LD_LIBRARY_PATH=$(echo "$nvidia"/*/lib | tr ' ' :)
//! ```

use std::process::ExitCode;

use clap::Parser;
use symm_examples::decoder::{Options, run};

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(report) if report.rank == 0 => print!("{report}"),
        Ok(_) => {}
        Err(error) => {
            eprintln!("error: {error:#}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
