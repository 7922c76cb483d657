#!/usr/bin/env python3
"""Times the scopes of PyTorch's users beside ours, on a machine with a GPU, and prints the ratios.

    cargo build --release -p symm-tests --bin device
    tests/torch_scope.py [--device target/release/device] [--ranks 2] [--backend cuda]

Ours is `device bench scopes`. Torch's are loops of the same scope in one process:

    use_mem_pool    `with torch.cuda.use_mem_pool(pool)`, as PyTorch documents it
    SGLang          what its scope comes to since #24190: the pool is begun and ended directly, and the exit
                    walks the segments from the communicator's saved index on, of which none is new
    snapshot        the same, but the exit takes the pool's snapshot and looks for segments that are not
                    registered yet, as vLLM's does, and SGLang's did before #21392

each bare and with one `torch.empty` of 64 KiB inside, freed behind it. The pool's memory is plain
`cudaMalloc` memory: once the pool has its segments, its allocator is not called any more, and nothing here is
new to register. Exit status 0 also where something is missing; a line then starts with SKIP.
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
BUFFER = 64 << 10
SEGMENT = 20 << 20  # from 10 MiB on, torch gives an allocation a segment of its own
SEGMENTS = (1, 25, 100)
ROUNDS = 15
SECONDS = 0.03  # of a round, about


def ours(arguments):
    """Microseconds by number of segments, bare and with a buffer; empty where our bench cannot run."""
    backend = ["host"] if arguments.backend == "host" else []
    command = [arguments.device, *backend, "bench", "scopes", "threads", str(arguments.ranks)]
    with tempfile.TemporaryDirectory() as folder:
        try:
            run = subprocess.run(command, env={**os.environ, "OUT": folder}, capture_output=True, text=True, timeout=120)
        except FileNotFoundError:
            print(f"SKIP: ours: {arguments.device} is not there: cargo build --release -p symm-tests --bin device")
            return {}
        except (OSError, subprocess.TimeoutExpired) as error:
            print(f"SKIP: ours: {error}")
            return {}
        lines = [line for file in pathlib.Path(folder).glob("*.jsonl") for line in file.read_text().splitlines()]
    rows = [json.loads(line) for line in lines]
    if run.returncode != 0 or not rows:
        told = (run.stdout + run.stderr).strip().splitlines()
        print(f"SKIP: ours: `{' '.join(command)}` ended with {run.returncode}: {told[-1] if told else 'no output'}")
        return {}
    return {row["segments"]: (row["scope_ns"] / 1e3, row["scope_with_buffer_ns"] / 1e3) for row in rows}


class Scope:
    """SGLang's scope, as far as it costs time when no segment is new."""

    def __init__(self, torch, pool, device):
        self.begin, self.end, self.release = (
            torch._C._cuda_beginAllocateCurrentThreadToPool,
            torch._C._cuda_endAllocateToPool,
            torch._C._cuda_releasePool,
        )
        self.pool, self.device, self.id = pool, device, pool.id
        segments = [(segment["address"], segment["total_size"]) for segment in pool.snapshot()]
        self.segments, self.next = segments, len(segments)
        self.registered = {address for address, _ in segments}

    def __enter__(self):
        self.begin(self.device, self.id)
        return self

    def __exit__(self, *_):
        self.end(self.device, self.id)
        self.release(self.device, self.id)
        self.register()

    def register(self):
        while self.next < len(self.segments):
            self.next += 1


class SnapshotScope(Scope):
    """The same with a scan of the pool."""

    def register(self):
        for segment in self.pool.snapshot():
            if segment["address"] not in self.registered:
                self.registered.add(segment["address"])


def microseconds(call):
    """The median of some rounds, each of as many calls as fit."""

    def timed(calls):
        started = time.perf_counter()
        for _ in range(calls):
            call()
        return (time.perf_counter() - started) / calls

    calls = max(10, min(20_000, int(SECONDS / timed(10))))
    timed(calls)
    return statistics.median(timed(calls) for _ in range(ROUNDS)) * 1e6


def loops(torch, scope):
    """The two loops over a scope, as functions of nothing."""

    def bare():
        with scope():
            pass

    def with_buffer():
        with scope():
            buffer = torch.empty(BUFFER, dtype=torch.uint8, device="cuda")
        del buffer

    return bare, with_buffer


def torchs(torch, segments):
    """Microseconds by name, bare and with a buffer, over so many segments."""
    device, pool = torch.cuda.current_device(), torch.cuda.MemPool()
    with torch.cuda.use_mem_pool(pool):
        # Small tensors have a segment of their own, which stays free for what the loops allocate.
        small = torch.empty(BUFFER, dtype=torch.uint8, device="cuda")
        large = [torch.empty(SEGMENT, dtype=torch.uint8, device="cuda") for _ in range(segments - 1)]
    del small
    found = len(pool.snapshot())
    if found != segments:
        print(f"note: torch's pool has {found} segments, not {segments}")
    scopes = {
        "use_mem_pool": lambda: torch.cuda.use_mem_pool(pool),
        "SGLang": (lambda scope: lambda: scope)(Scope(torch, pool, device)),
        "snapshot": (lambda scope: lambda: scope)(SnapshotScope(torch, pool, device)),
    }
    figures = {name: tuple(microseconds(loop) for loop in loops(torch, scope)) for name, scope in scopes.items()}
    torch.cuda.synchronize()
    del large
    return figures


def report(ours_by_segments, torch_by_segments):
    """The table of both, with how many times as long torch's takes."""
    print(f"{'us a scope':<40}" + "".join(f"{f'{segments} segments':>22}" for segments in SEGMENTS))
    for at, what in enumerate(("open and close", f"with a buffer of {BUFFER >> 10} KiB")):
        cells = [ours_by_segments.get(segments, (float("nan"),) * 2)[at] for segments in SEGMENTS]
        print(f"{what + ', ours':<40}" + "".join(f"{cell:>14.3f}{'':>8}" for cell in cells))
        for name in next(iter(torch_by_segments.values()), {}):
            line = f"{what + ', ' + name:<40}"
            for segments, mine in zip(SEGMENTS, cells):
                theirs = torch_by_segments[segments][name][at]
                ratio = f"x {theirs / mine:.3g}" if mine == mine else ""
                line += f"{theirs:>14.3f}{ratio:>8}"
            print(line)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default=str(ROOT / "target" / "release" / "device"), help="our bench's program")
    parser.add_argument("--ranks", type=int, default=2, help="ranks of ours")
    parser.add_argument("--backend", choices=("cuda", "host"), default="cuda", help="of ours")
    arguments = parser.parse_args()
    mine = ours(arguments)  # before torch takes the GPU
    theirs = {}
    try:
        import torch
    except ImportError as error:
        print(f"SKIP: torch: {error}")
    else:
        if torch.cuda.is_available():
            print(f"torch {torch.__version__}, {torch.cuda.get_device_name()}")
            theirs = {segments: torchs(torch, segments) for segments in SEGMENTS}
        else:
            print("SKIP: torch: it sees no GPU")
    if mine or theirs:
        report(mine, theirs)


if __name__ == "__main__":
    sys.exit(main())
