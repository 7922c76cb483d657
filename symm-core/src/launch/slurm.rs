//! What Slurm writes into its variables: lists of hosts and of tasks, shortened.

/// Set in the processes of a step, which `srun` starts, and not in a batch script's own shell.
pub(super) const STEP: &str = "SLURM_STEP_ID";

/// The first host of a list such as `node[003-007,9],other`, where rank 0 runs.
pub(super) fn first_of(nodes: &str) -> Option<String> {
    let (mut name, mut rest) = (String::new(), nodes.trim());
    loop {
        let end = rest.find([',', '[']).unwrap_or(rest.len());
        name += &rest[..end];
        match rest[end..].strip_prefix('[') {
            None => return (!name.is_empty()).then_some(name),
            Some(ranges) => {
                let (numbers, behind) = ranges.split_once(']')?;
                name += numbers.split([',', '-']).next()?;
                rest = behind;
            }
        }
    }
}

/// The tasks of a node, from a list such as `4(x2),3`.
pub(super) fn tasks_of(list: &str, node: usize) -> Option<usize> {
    let mut left = node;
    for part in list.trim().split(',') {
        let (tasks, times) = match part.split_once("(x") {
            Some((tasks, times)) => (tasks, times.strip_suffix(')')?.parse().ok()?),
            None => (part, 1),
        };
        match left.checked_sub(times) {
            Some(behind) => left = behind,
            None => return tasks.parse().ok(),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_host_is_read_from_any_list() {
        for (list, first) in [
            ("node7", "node7"),
            ("node7,node9", "node7"),
            ("node[003-007,9],other", "node003"),
            ("node[12,14]", "node12"),
            ("rack[2-3]n[01-04]", "rack2n01"),
            ("gpu-[5]-ib,x", "gpu-5-ib"),
        ] {
            assert_eq!(first_of(list).as_deref(), Some(first), "{list}");
        }
        assert_eq!(["", ",a", "node[1-"].map(first_of), [None, None, None]);
    }

    #[test]
    fn tasks_are_counted_by_node() {
        let all = |list| [0, 1, 2, 3].map(|node| tasks_of(list, node));
        assert_eq!(all("4(x2),3"), [Some(4), Some(4), Some(3), None]);
        assert_eq!(all("8"), [Some(8), None, None, None]);
        assert_eq!(all("1,2(x2),5"), [Some(1), Some(2), Some(2), Some(5)]);
        assert_eq!(all("many"), [None; 4]);
        assert_eq!(tasks_of("2(x", 0), None);
    }
}
