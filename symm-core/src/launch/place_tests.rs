//! A table of environments: each launcher, each variable that is missing or wrong, and launchers
//! that differ.

use super::*;

type Env<'a> = &'a [(&'a str, &'a str)];

const SYMM: Env<'_> = &[
    ("SYMM_RANK", "1"),
    ("SYMM_WORLD_SIZE", "4"),
    ("SYMM_RENDEZVOUS", "10.0.0.1:29500"),
];
const TORCHRUN: Env<'_> = &[
    ("RANK", "1"),
    ("WORLD_SIZE", "4"),
    ("LOCAL_RANK", "1"),
    ("MASTER_ADDR", "127.0.0.1"),
    ("MASTER_PORT", "29500"),
];
const OPEN_MPI: Env<'_> = &[
    ("OMPI_COMM_WORLD_RANK", "3"),
    ("OMPI_COMM_WORLD_SIZE", "4"),
    ("OMPI_COMM_WORLD_LOCAL_RANK", "1"),
    ("OMPI_COMM_WORLD_LOCAL_SIZE", "2"),
    ("MASTER_ADDR", "10.0.0.1"),
    ("PMIX_NAMESPACE", "prterun-login-77@1"),
];
const SLURM: Env<'_> = &[
    ("SLURM_PROCID", "5"),
    ("SLURM_STEP_NUM_TASKS", "7"),
    ("SLURM_NTASKS", "7"),
    ("SLURM_LOCALID", "1"),
    ("SLURM_NODEID", "1"),
    ("SLURM_STEP_TASKS_PER_NODE", "4,3"),
    ("SLURM_TASKS_PER_NODE", "8(x2)"),
    ("SLURM_STEP_NODELIST", "gpu[03,07]"),
    ("SLURM_JOB_NODELIST", "gpu[01-09]"),
    ("SLURM_LAUNCH_NODE_IPADDR", "10.9.9.9"),
    ("SLURM_JOB_ID", "4711"),
    ("SLURM_STEP_ID", "0"),
];

/// The place in the environments together; `change` comes first, and an empty value takes away.
fn place(envs: &[Env<'_>], change: Env<'_>) -> Result<Place> {
    Place::from_env(|name| {
        let mut all = change.iter().chain(envs.iter().copied().flatten());
        let (_, value) = all.find(|(key, _)| *key == name)?;
        (!value.is_empty()).then(|| OsString::from(value))
    })
}

/// Launcher; rank, ranks and those on this host; where rank 0 is.
fn told(place: Result<Place>) -> (Launcher, [usize; 4], String) {
    let place = place.expect("a place");
    let numbers = [place.rank, place.ranks, place.local_rank, place.local_ranks];
    (
        place.launcher,
        numbers,
        format!("{} {}", place.host, place.port),
    )
}

#[track_caller]
fn wrong(place: Result<Place>, named: &str, says: &str) {
    match place {
        Err(Error::Environment { name, problem }) => {
            assert_eq!(name, named, "{problem}");
            assert!(problem.contains(says), "{says:?} is not in {problem:?}");
        }
        other => panic!("{other:?} instead of {named}"),
    }
}

#[test]
fn each_launcher_is_understood() {
    let job = port_of("prterun-login-77@1");
    for (envs, change, launcher, numbers, meeting) in [
        (
            SYMM,
            &[][..],
            Launcher::Symm,
            [1, 4, 1, 4],
            "10.0.0.1 29500".to_owned(),
        ),
        (
            SYMM,
            &[
                ("SYMM_LOCAL_RANK", "0"),
                ("SYMM_LOCAL_WORLD_SIZE", "2"),
                ("SYMM_RENDEZVOUS", "[::1]:1"),
            ],
            Launcher::Symm,
            [1, 4, 0, 2],
            "::1 1".to_owned(),
        ),
        (
            TORCHRUN,
            &[],
            Launcher::Torchrun,
            [1, 4, 1, 4],
            "127.0.0.1 29500".to_owned(),
        ),
        (
            TORCHRUN,
            &[("TORCHELASTIC_USE_AGENT_STORE", "True"), ("LOCAL_RANK", "")],
            Launcher::Torchrun,
            [1, 4, 1, 4],
            "127.0.0.1 29501".to_owned(),
        ),
        (
            OPEN_MPI,
            &[],
            Launcher::OpenMpi,
            [3, 4, 1, 2],
            format!("10.0.0.1 {job}"),
        ),
        (
            OPEN_MPI,
            &[
                ("OMPI_COMM_WORLD_LOCAL_RANK", "3"),
                ("OMPI_COMM_WORLD_LOCAL_SIZE", "4"),
                ("MASTER_ADDR", ""),
                ("MASTER_PORT", "29500"),
            ],
            Launcher::OpenMpi,
            [3, 4, 3, 4],
            "127.0.0.1 29500".to_owned(),
        ),
        (
            SLURM,
            &[],
            Launcher::Slurm,
            [5, 7, 1, 3],
            format!("gpu03 {}", port_of("4711.0")),
        ),
        (
            SLURM,
            &[
                ("SLURM_STEP_NUM_TASKS", ""),
                ("SLURM_STEP_TASKS_PER_NODE", ""),
                ("SLURM_STEP_NUM_NODES", "1"),
                ("SLURM_TASKS_PER_NODE", ""),
                ("SLURM_STEP_NODELIST", ""),
                ("MASTER_PORT", "29500"),
            ],
            Launcher::Slurm,
            [5, 7, 1, 7],
            "gpu01 29500".to_owned(),
        ),
    ] {
        assert_eq!(told(place(&[envs], change)), (launcher, numbers, meeting));
    }
    assert!(PORTS.contains(&u64::from(job)) && job != port_of("prterun-login-78@1"));
}

#[test]
fn a_variable_that_is_missing_is_named() {
    for (env, launcher, names) in [
        (
            SYMM,
            Launcher::Symm,
            &["SYMM_RANK", "SYMM_WORLD_SIZE", "SYMM_RENDEZVOUS"][..],
        ),
        (
            TORCHRUN,
            Launcher::Torchrun,
            &["RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"],
        ),
        (
            OPEN_MPI,
            Launcher::OpenMpi,
            &[
                "OMPI_COMM_WORLD_RANK",
                "OMPI_COMM_WORLD_SIZE",
                "OMPI_COMM_WORLD_LOCAL_RANK",
                "OMPI_COMM_WORLD_LOCAL_SIZE",
                "MASTER_ADDR",
            ],
        ),
        (
            SLURM,
            Launcher::Slurm,
            &[
                "SLURM_PROCID",
                "SLURM_LOCALID",
                "SLURM_NODEID",
                "SLURM_STEP_ID",
            ],
        ),
    ] {
        for name in names {
            let says = launcher.to_string();
            wrong(place(&[env], &[(name, "")]), name, &says);
        }
    }
    for (env, gone, name) in [
        (SYMM, &["SYMM_LOCAL_RANK"][..], "SYMM_LOCAL_RANK"),
        (TORCHRUN, &["LOCAL_RANK"], "LOCAL_RANK"),
        (OPEN_MPI, &["PMIX_NAMESPACE"], "MASTER_PORT"),
        (SLURM, &["SLURM_JOB_ID"], "MASTER_PORT"),
        (
            SLURM,
            &["SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST"],
            "MASTER_ADDR",
        ),
        (
            SLURM,
            &["SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"],
            "SLURM_NTASKS",
        ),
        (
            SLURM,
            &["SLURM_STEP_TASKS_PER_NODE", "SLURM_TASKS_PER_NODE"],
            "SLURM_STEP_TASKS_PER_NODE",
        ),
    ] {
        // With fewer ranks on this host than there are.
        let mut change = vec![("SYMM_LOCAL_WORLD_SIZE", "2"), ("LOCAL_WORLD_SIZE", "2")];
        change.extend(gone.iter().map(|gone| (*gone, "")));
        wrong(place(&[env], &change), name, "is not set");
    }
    wrong(place(&[], &[]), "RANK", "torchrun, mpirun or srun");
    // A batch script's own shell: the ranks are started with srun.
    let batch = [
        ("SLURM_PROCID", "0"),
        ("SLURM_NTASKS", "4"),
        ("SLURM_JOB_ID", "1"),
    ];
    wrong(place(&[&batch], &[]), "SLURM_STEP_ID", "with srun");
}

#[test]
fn what_is_wrong_is_named() {
    for (env, name, value, says) in [
        (SYMM, "SYMM_RANK", "-1", "a number from 0"),
        (SYMM, "SYMM_RANK", "4", "numbered from 0"),
        (SYMM, "SYMM_RENDEZVOUS", "10.0.0.1", "host:port"),
        (SYMM, "SYMM_RENDEZVOUS", ":29500", "host:port"),
        (SYMM, "SYMM_RENDEZVOUS", "here:0", "host:port"),
        (SYMM, "SYMM_LOCAL_WORLD_SIZE", "8", "SYMM_WORLD_SIZE is 4"),
        (TORCHRUN, "RANK", "one", "a number from 0"),
        (TORCHRUN, "RANK", "4", "WORLD_SIZE is 4"),
        (TORCHRUN, "LOCAL_RANK", "4", "4 ranks on this host"),
        (TORCHRUN, "LOCAL_WORLD_SIZE", "8", "WORLD_SIZE is 4"),
        (TORCHRUN, "MASTER_PORT", "0", "TCP port"),
        (TORCHRUN, "MASTER_PORT", "70000", "TCP port"),
        (
            OPEN_MPI,
            "OMPI_COMM_WORLD_LOCAL_RANK",
            "2",
            "2 ranks on this host",
        ),
        (SLURM, "SLURM_PROCID", "7", "numbered from 0"),
        (SLURM, "SLURM_STEP_TASKS_PER_NODE", "4", "nothing of node 1"),
        (SLURM, "SLURM_STEP_NODELIST", "gpu[03", "gpu[03"),
        (SLURM, CHOICE, "lsf", "symm, torchrun, openmpi, slurm"),
    ] {
        wrong(place(&[env], &[(name, value)]), name, says);
    }
    #[cfg(unix)]
    {
        use std::os::unix::ffi::OsStringExt;
        let read = |name: &str| (name == "RANK").then(|| OsString::from_vec(vec![0xFF]));
        wrong(Place::from_env(read), "RANK", "UTF-8");
    }
}

#[test]
fn the_innermost_launcher_holds() {
    let elastic: Env<'_> = &[("TORCHELASTIC_RUN_ID", "none")];
    let by_hand: Env<'_> = &[("RANK", "3"), ("MASTER_PORT", "29500")];
    for (envs, launcher) in [
        (&[SLURM, OPEN_MPI, TORCHRUN, SYMM][..], Launcher::Symm),
        // torchrun on each node, started there by srun or mpirun.
        (&[elastic, TORCHRUN, SLURM], Launcher::Torchrun),
        (&[elastic, TORCHRUN, OPEN_MPI], Launcher::Torchrun),
        // mpirun in an allocation of Slurm.
        (&[OPEN_MPI, SLURM], Launcher::OpenMpi),
        // A script that hands on what the launcher said.
        (&[by_hand, TORCHRUN, OPEN_MPI], Launcher::Torchrun),
        // A number of ranks alone does not say who started this process.
        (&[&[("WORLD_SIZE", "7")], SLURM], Launcher::Slurm),
    ] {
        assert_eq!(told(place(envs, &[])).0, launcher, "{envs:?}");
    }
}

#[test]
fn launchers_that_differ_are_told() {
    for (envs, says) in [
        ([TORCHRUN, OPEN_MPI], "OMPI_COMM_WORLD_RANK=3"),
        ([TORCHRUN, SLURM], "SLURM_PROCID=5"),
    ] {
        wrong(place(&envs, &[]), "RANK", says);
        wrong(place(&envs, &[]), "RANK", CHOICE);
    }
    let sizes = place(&[TORCHRUN, OPEN_MPI], &[("RANK", "3"), ("WORLD_SIZE", "8")]);
    wrong(sizes, "WORLD_SIZE", "OMPI_COMM_WORLD_SIZE=4");
    // A choice settles it, and a shell of a batch script says nothing.
    for (choice, launcher) in [("torchrun", Launcher::Torchrun), ("slurm", Launcher::Slurm)] {
        let chosen = place(&[TORCHRUN, SLURM], &[(CHOICE, choice)]);
        assert_eq!(told(chosen).0, launcher);
    }
    let batch = place(&[TORCHRUN, SLURM], &[("SLURM_STEP_ID", "")]);
    assert_eq!(told(batch).0, Launcher::Torchrun);
}
