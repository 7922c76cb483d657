#!/usr/bin/env python3
"""Plants known bugs, one at a time, in a copy of the workspace, and checks that the suite fails on each.

    tests/mutants.py [NAME ..]      run from anywhere; the copy and its build are under target/mutants

A mutant is a change of the text of one file. If the text has moved on, the script says so: mend the mutant.
"""
import pathlib
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
COPY = ROOT / "target" / "mutants" / "workspace"

# name: (file, text, replacement, what has to fail), or a list of the first three and what has to fail
MUTANTS = {
    # The last block that was freed comes back first: placement depends on the order of frees.
    "last-in-first-out": (
        "symm-core/src/pool/placement.rs",
        "            .min();\n        if !self.front",
        "            .max_by_key(|&(_, index)| index);\n        if !self.front",
        ["--test", "arena"],
    ),
    # Ties of the best fit go by address, which differs from rank to rank.
    "address-tie-break": (
        "symm-core/src/pool/placement.rs",
        "                fits.next().copied()\n            }\n",
        "                let first = fits.next().copied();\n"
        "                let address = self as *const Self as u64;\n"
        "                match first {\n"
        "                    Some((size, _)) if address.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 63 != 0 => {\n"
        "                        self.sizes.range((size, Spot(0))..=(size, Spot(u64::MAX))).next_back().copied()\n"
        "                    }\n"
        "                    first => first,\n"
        "                }\n"
        "            }\n",
        ["--test", "arena"],
    ),
    # Best fit forgets to merge.
    "no-merge": (
        "symm-core/src/pool/placement.rs",
        "        self.merge();\n        self.take_fit(bytes)\n",
        "        if self.sizes.is_empty() && self.cut.is_none() {\n            self.merge();\n        }\n"
        "        self.take_fit(bytes)\n",
        ["--test", "arena"],
    ),
    # A segment that has its window is registered again at the next touch.
    "second-window": (
        [
            (
                "symm-core/src/registration/ledger.rs",
                "if matches!(rows[index], Row::Untouched)",
                "if matches!(rows[index], Row::Untouched | Row::Window(..))",
            ),
            (
                "symm-core/src/pool/arena.rs",
                "        let news = match known.members & member.0 {\n",
                "        let news = match 0 {\n",
            ),
        ],
        ["--test", "conformance"],
    ),
    # The segment goes before its window.
    "deregistration-after-free": (
        [
            (
                "symm-core/src/group/link.rs",
                "                false => {\n                    for (window, segment) in windows {\n",
                "                false => {\n"
                "                    let (windows, segments): (Vec<_>, Vec<_>) = windows.into_iter().unzip();\n"
                "                    drop((arena, segments));\n"
                "                    let segment = ();\n"
                "                    for window in windows {\n",
            ),
            (
                "symm-core/src/group/link.rs",
                "            drop(arena);\n            outcome\n",
                "            outcome\n",
            ),
            (
                "symm-core/src/pool/reaper.rs",
                "        self.later(move || {\n"
                "            let waited = drain::<B>(&streams);\n"
                "            drop(segments);\n"
                "            waited\n"
                "        });\n",
                "        let waited = drain::<B>(&streams);\n"
                "        drop(segments);\n"
                "        self.report(waited);\n",
            ),
        ],
        ["--test", "conformance"],
    ),
    # Windows are taken away while work uses them.
    "no-drain": (
        "symm-core/src/group/link.rs",
        "reaper::drain::<B>(&arena.streams())",
        "Ok(())",
        ["--test", "conformance"],
    ),
    # What a scope touched is never registered.
    "no-registration": (
        "symm-core/src/registration/round.rs",
        "    let pending = link.ledger().pending();\n",
        "    let pending: Vec<Pending<B>> = Vec::new();\n",
        ["--test", "conformance"],
    ),
    # A block is reused on another stream without waiting for the work that uses it.
    "no-wait-on-reuse": (
        "symm-core/src/pool/streams.rs",
        "        if set == StreamSet::EMPTY {\n",
        "        if set == StreamSet::EMPTY || self.streams.len() > 1 {\n",
        ["--test", "conformance"],
    ),
    # A buffer that is used on two streams is not ordered between them.
    "no-fence": (
        "symm-core/src/buffer/uses.rs",
        "            None => B::fence_before(self.fence()?, stream, access),\n",
        "            None => Ok(()),\n",
        ["--test", "conformance"],
    ),
    # Collectives do not compare the instance of the group.
    "no-instance-check": (
        "symm-core/src/buffer/launch.rs",
        "    if operand.of_group && !owner",
        "    if false && operand.of_group && !owner",
        ["--test", "conformance"],
    ),
    # A way to the inside of a buffer, through which two groups' memory can be swapped.
    "deref-mut": (
        "symm-core/src/buffer/symm.rs",
        "impl<T: Element, G: GroupTag, B: Backend> Deref for SymmBuf<T, G, B> {",
        "impl<T: Element, G: GroupTag, B: Backend> std::ops::DerefMut for SymmBuf<T, G, B> {\n"
        "    fn deref_mut(&mut self) -> &mut Self::Target {\n"
        "        &mut self.buf\n"
        "    }\n"
        "}\n"
        "impl<T: Element, G: GroupTag, B: Backend> Deref for SymmBuf<T, G, B> {",
        ["-p", "symm-tests-ui", "--test", "compile_fail"],
    ),
    # A graph does not keep the buffers from outside that it uses.
    "no-lease": (
        "symm-core/src/capture/uses.rs",
        "        if lease.hold(&self.holder) {\n",
        "        if false && lease.hold(&self.holder) {\n",
        ["--test", "graphs"],
    ),
    # A graph does not keep what was made in its capture.
    "no-lease-on-outputs": (
        "symm-core/src/capture/graph.rs",
        "            lease.hold(&holder);\n",
        "            let _ = lease;\n",
        ["--test", "graphs"],
    ),
    # What outlives a capture is placed like a temporary, and nobody looks.
    "outputs-on-temporaries": (
        [
            (
                "symm-core/src/capture/layout.rs",
                "            Life::Outlives => self.back(bytes),\n",
                "            Life::Outlives => front(&self.free, bytes),\n",
            ),
            (
                "symm-core/src/capture/arena.rs",
                "        self.check_apart(site, |number| number >= first)\n",
                "        self.check_apart(site, |number| number >= first).or(Ok(()))\n",
            ),
        ],
        ["--test", "graphs"],
    ),
    # Launches of one pool do not follow each other.
    "no-order-of-launches": (
        "symm-core/src/capture/order.rs",
        "                B::wait_stream(stream, other)?;\n",
        "                let _ = other;\n",
        ["--test", "graphs"],
    ),
    # A launch does not wait for what other streams do to the graph's buffers.
    "launch-before-inputs": (
        "symm-core/src/buffer/lease.rs",
        "        self.before_launch()?;\n",
        "",
        ["--test", "graphs"],
    ),
    # Other streams do not wait for a launch that writes the buffer.
    "read-before-launch": (
        "symm-core/src/buffer/uses.rs",
        "            lease.before(stream)?;\n",
        "            let _ = lease;\n",
        ["--test", "graphs"],
    ),
    # A dropped graph's memory is given to others while its last launch runs.
    "freed-under-a-launch": (
        "symm-core/src/buffer/memory.rs",
        "        others.try_for_each(|stream| B::wait_stream(own, stream))\n",
        "        others.try_for_each(|_| { let _ = own; Ok(()) })\n",
        ["--test", "graphs"],
    ),
    # Captures allocate from the group's own arena, whose history is everybody's.
    "eager-arena-in-captures": (
        "symm-core/src/buffer/memory.rs",
        "        if let Some(active) = active::on_this_thread(&group.world) {\n            let memory = active.allocate(Some(group), true, bytes)?;\n            return Ok(memory.recorded(site));\n        }\n",
        "",
        ["--test", "graphs"],
    ),
    # A capture grows when it lacks memory.
    "growth-in-captures": (
        "symm-core/src/capture/active.rs",
        "            Pass::Capture if !self.pool.options.growth => Miss::Refuse,\n",
        "            Pass::Capture if !self.pool.options.growth => Miss::Grow,\n",
        ["--test", "graphs"],
    ),
    # Captures that differ by rank become graphs.
    "no-comparison": (
        "symm-core/src/capture/compare.rs",
        "mine.get(at) != theirs.get(at)",
        "false && mine.get(at) != theirs.get(at)",
        ["--test", "graphs"],
    ),
    # An error that the step keeps to itself is forgotten.
    "swallowed-error": (
        "symm-core/src/capture/guard.rs",
        "        let joined = active.check().and_then(|()| active.join_back());\n",
        "        let joined = active.join_back();\n",
        ["--test", "graphs"],
    ),
    # Streams that joined a capture are not waited for.
    "no-join": (
        "symm-core/src/capture/active.rs",
        "            .try_for_each(|other| B::wait_stream(&self.stream, other))\n",
        "            .try_for_each(|_| Ok(()))\n",
        ["--test", "graphs"],
    ),
    # Buffers that are freed in a capture and are not its own touch the captured stream.
    "frees-in-captures": (
        "symm-core/src/capture/uses.rs",
        "    if !here {\n",
        "    if false && !here {\n",
        ["--test", "graphs"],
    ),
    # The reaper waits for streams that are being captured.
    "reaper-in-captures": (
        "symm-core/src/pool/reaper.rs",
        "        while state.held > 0 {\n",
        "        while false && state.held > 0 {\n",
        ["--test", "graphs"],
    ),
    # Symmetric kernels that read too early are captured.
    "early-reads": (
        "symm-core/src/group/path.rs",
        "facts.reads_early && has_kernel",
        "false && has_kernel",
        ["--test", "graphs"],
    ),
    # Before NCCL 2.29.2, exchanges use the communicator that has the windows.
    "exchanges-on-windows": (
        "symm-core/src/group/twin.rs",
        "defects::EXCHANGE_FIRST.affects(self.version) && self.has_twin()",
        "false && self.has_twin()",
        ["--test", "conformance"],
    ),
    # A graph's groups end when the reaper comes to it, so ranks differ in when a shared arena ends.
    "groups-end-on-the-reaper": (
        "symm-core/src/capture/graph.rs",
        "        let links: Vec<_> = self.groups.drain(..).map(|bound| bound.link).collect();\n",
        "        let links: Vec<_> = self.groups.drain(..).collect();\n",
        ["--test", "graphs", "a_shared_arena_ends_with_its_last_group"],
    ),
    # A rebuild takes each rank's blocks of shared buffers as they are.
    "no-reclaim": (
        "symm-core/src/group/rebuild.rs",
        "    reclaim(rank, step)?;\n",
        "",
        ["--test", "agreement", "gives_back_on_some_ranks"],
    ),
    # What a shared buffer held is used again while other streams still read it.
    "one-stream-at-give-back": (
        "symm-core/src/registration/returns.rs",
        "        group.arena.give_back(&block, &streams);\n",
        "        group.arena.give_back(&block, &streams[..1]);\n",
        ["--test", "conformance", "reuse_waits_for_all_streams"],
    ),
    # A rank trims by what it has itself.
    "trim-by-local-survey": (
        "symm-core/src/registration/trim.rs",
        "            common(&told).ok_or_else(",
        "            let me = group.rank;\n            common(&told[me..=me]).ok_or_else(",
        ["--test", "conformance", "trim_stops_at_what_is_in_use"],
    ),
    # A graph reads a shared buffer before it is written.
    "launch-before-shared-writes": (
        "symm-core/src/capture/uses.rs",
        "            .for_each(|stream| self.holder.launch_after(stream));\n",
        "            .for_each(|_| ());\n",
        ["--test", "conformance", "a_graph_comes_after_its_writes"],
    ),
    # A rank passes a slot that holds another digest.
    "ring-compare-weakened": (
        "symm-core/src/agreement/ring.rs",
        "        if found != mine {\n",
        "        if found >> TAG != mine >> TAG {\n",
        ["--test", "loom"],
    ),
    # A rank enters a slot that one peer has not left.
    "ring-lap-check-weakened": (
        "symm-core/src/agreement/ring.rs",
        "            if seq + N as u64 <= cursor.seq {\n",
        "            if seq + (N as u64) < cursor.seq {\n",
        ["--test", "loom"],
    ),
    # Two ranks find a slot empty, and both write.
    "ring-plain-store": (
        "symm-core/src/agreement/ring.rs",
        "            found = match slot.compare_exchange(found, mine, Ordering::Relaxed, Ordering::Relaxed) {\n"
        "                Ok(_) => mine,\n"
        "                Err(theirs) => theirs,\n"
        "            };\n",
        "            slot.store(mine, Ordering::Relaxed);\n            found = mine;\n",
        ["--test", "loom"],
    ),
    # Ranks that take different paths look alike.
    "path-not-compared": (
        "symm-core/src/agreement/fingerprint.rs",
        "    compared.iter().fold(SEED, |hash, &word| fold(hash, word))\n",
        "    compared.iter().enumerate().fold(SEED, |hash, (at, &word)| fold(hash, if at == 0 { word & !(0xFF << 32) } else { word }))\n",
        ["-p", "symm-core", "--lib", "fingerprint"],
    ),
}


def copy_workspace():
    COPY.mkdir(parents=True, exist_ok=True)
    files = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, check=True, capture_output=True, text=True)
    for name in files.stdout.split("\n"):
        source, target = ROOT / name, COPY / name
        if name and source.is_file() and (not target.is_file() or source.read_bytes() != target.read_bytes()):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)


def suite_fails(test):
    """Whether the suite fails, for another reason than that it does not build."""
    command = ["cargo", "test", "-q", "-p", "symm-tests", *test]
    build = subprocess.run([*command, "--no-run"], cwd=COPY, capture_output=True, text=True)
    if build.returncode != 0:
        sys.exit(f"the mutant does not build:\n{build.stderr[-3000:]}")
    try:
        return subprocess.run(command, cwd=COPY, capture_output=True, timeout=900).returncode != 0
    except subprocess.TimeoutExpired:
        return True


def main():
    survivors = []
    for name in sys.argv[1:] or MUTANTS:
        *edit, test = MUTANTS[name]
        edits = edit[0] if isinstance(edit[0], list) else [edit]
        copy_workspace()
        for file, text, replacement in edits:
            original = (COPY / file).read_text()
            if original.count(text) != 1:
                sys.exit(f"{name}: the text occurs {original.count(text)} times in {file}")
            (COPY / file).write_text(original.replace(text, replacement))
        caught = suite_fails(test)
        print(f"{name:28} {'caught by ' + test[-1] if caught else 'SURVIVED'}", flush=True)
        survivors += [] if caught else [name]
    copy_workspace()
    sys.exit(f"survivors: {', '.join(survivors)}" if survivors else 0)


if __name__ == "__main__":
    main()
