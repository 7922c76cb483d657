//! Ranks on several hosts: processes in mount and IPC namespaces of their own, with a `/dev/shm` of
//! their own, so that only the rendezvous joins the hosts.

use std::process::Command;
use std::time::Duration;

use libtest_mimic::Failed;
use symm_core::{Error, ReduceOp, Result, plain_mut, symm};

use crate::Case;
use crate::child::{Running, command, meeting};
use crate::harness::{Cp, Rank, cause, config};

pub(crate) const CASES: &[Case] = &[("two_hosts_of_two_ranks", two_hosts)];

pub(crate) fn rank() -> Result<String, String> {
    one().map_err(|error| error.to_string())
}

fn one() -> Result<String> {
    // Whatever the network does, nobody waits long.
    let rank = Rank::new(config().deadline(Duration::from_secs(5)).from_env()?)?;
    let host = rank.me() / 2;
    let cp = rank.world.split::<Cp>(host, 0)?; // inside each host

    // A group that spans hosts computes.
    let mut x = symm!(group = rank.tp, { rank.tp.from_slice(&[1.0f32; 64])? })?;
    let path = rank.tp.all_reduce_in_place(&mut x, ReduceOp::Sum)?;
    assert_eq!(x.to_vec()?, [4.0; 64]);

    // One rank has another segment: found through the rendezvous, by all.
    let scope = rank.tp.scope()?;
    let large = scope.empty::<u8>(if rank.me() == 3 { 32 << 20 } else { 16 << 20 })?;
    let told = rank.told(scope.close());
    assert!(cause(&told).contains("pending"), "{told}");
    drop(large);
    rank.world.rebuild()?;

    // A group inside a host has its ring: ranks that differ are told at once.
    let inside = || -> Result<()> {
        let mut y = symm!(group = cp, { cp.from_slice(&[1.0f32; 64])? })?;
        cp.all_reduce_in_place(&mut y, ReduceOp::Sum)?;
        assert_eq!(y.to_vec()?, [2.0; 64]);
        match rank.me() {
            2 => cp.broadcast_in_place(&mut y, 0).map(drop),
            3 => cp.all_reduce_in_place(&mut y, ReduceOp::Sum).map(drop),
            // The other host has done nothing wrong, and is told wherever it is.
            _ => Ok(()),
        }
    };
    let told = rank.told(inside());
    let text = cause(&told);
    assert!(
        text.contains("broadcast") && text.contains("all_reduce"),
        "{told}"
    );
    rank.world.rebuild()?;
    let mut z = rank.world.pool().from_slice(&[1.0f32])?;
    rank.tp
        .all_reduce_in_place(plain_mut(&mut z), ReduceOp::Sum)?;
    match z.to_vec()?[..] {
        [4.0] => Ok(format!("{path}; {text}")),
        _ => Err(Error::Config {
            what: "the rebuilt world computes something else".into(),
        }),
    }
}

/// Starts the two ranks of a host, and waits for both.
const HOST: &str = r#"
if [ "$OWN" = 1 ]; then mount -t tmpfs none /dev/shm || exit 9; fi
RANK=$FIRST LOCAL_RANK=$FIRST "$0" &
RANK=$((FIRST + 1)) LOCAL_RANK=$((FIRST + 1)) "$0"
wait
"#;

fn may_unshare() -> bool {
    let mount = "mount -t tmpfs none /dev/shm";
    let tried = Command::new("unshare")
        .args(["-Urmi", "sh", "-c", mount])
        .output();
    tried.is_ok_and(|output| output.status.success())
}

fn two_hosts() -> Result<(), Failed> {
    let own = may_unshare();
    if !own {
        println!("unshare is not permitted: the hosts differ by NCCL_HOSTID alone");
    }
    let vars = meeting()?;
    let mut hosts = Vec::new();
    for host in 0..2 {
        let ranks = command("spans")?;
        let mut shell = match own {
            true => Command::new("unshare"),
            false => Command::new("sh"),
        };
        if own {
            shell.args(["-Urmi", "sh"]);
        }
        shell.arg("-c").arg(HOST).arg(ranks.get_program());
        for (name, value) in ranks.get_envs() {
            shell.env(name, value.unwrap_or_default());
        }
        shell
            .envs(vars.iter().cloned())
            .env("WORLD_SIZE", "4")
            .env("FIRST", (2 * host).to_string())
            .env("OWN", if own { "1" } else { "0" })
            .env("NCCL_HOSTID", format!("host-{host}"));
        hosts.push(Running::start(shell)?);
    }
    let mut ends = Vec::new();
    for host in &mut hosts {
        for _ in 0..2 {
            host.said = None;
            host.listen(std::time::Instant::now() + Duration::from_secs(50));
            ends.push(host.end().to_owned());
        }
        host.join()?;
    }
    for end in &ends {
        println!("{end}");
    }
    match ends.iter().all(|end| end.starts_with("end ok")) {
        true => Ok(()),
        false => Err(format!("{ends:#?}").into()),
    }
}
