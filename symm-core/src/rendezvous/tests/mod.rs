//! Ends of worlds of threads, and of worlds joined by TCP.

mod epochs;

use std::net::TcpListener;
use std::thread;

use super::*;

const SOON: Duration = Duration::from_secs(20);

fn topic(step: u64) -> Topic {
    Topic { channel: 7, step }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    listener.local_addr().expect("bound").port()
}

/// Runs `rank` on every end of a world of threads, then of one joined by TCP.
fn both<R: Send>(ranks: usize, rank: impl Fn(Rendezvous) -> R + Sync) -> [Vec<R>; 2] {
    let threads = thread::scope(|scope| {
        let ends = Rendezvous::threads(ranks).into_iter();
        let running: Vec<_> = ends.map(|end| scope.spawn(|| rank(end))).collect();
        running
            .into_iter()
            .map(|thread| thread.join().expect("rank"))
            .collect()
    });
    let port = free_port();
    let joined = thread::scope(|scope| {
        let rank = &rank;
        let start = move |me| {
            rank(Rendezvous::connect(me, ranks, "127.0.0.1", port, SOON).expect("connect"))
        };
        let running: Vec<_> = (0..ranks)
            .map(|me| scope.spawn(move || start(me)))
            .collect();
        running
            .into_iter()
            .map(|thread| thread.join().expect("rank"))
            .collect()
    });
    [threads, joined]
}

#[test]
fn values_come_in_the_order_of_the_members_and_run_ahead() {
    for results in both(3, |end| {
        let members: Arc<[usize]> = [2, 0, 1].into();
        for step in 0..50 {
            end.post(
                topic(step),
                &members,
                vec![end.rank() as u8; 1 + step as usize],
            )
            .expect("post");
        }
        (0..50)
            .map(|step| end.collect(topic(step), "a step", SOON).expect("collect")[0].clone())
            .collect::<Vec<_>>()
    }) {
        for values in results {
            assert!(
                values
                    .iter()
                    .enumerate()
                    .all(|(step, value)| *value == vec![2; step + 1])
            );
        }
    }
}

#[test]
fn who_is_missing_is_named() {
    for results in both(3, |end| {
        let all: Arc<[usize]> = [0, 1, 2].into();
        let early = (end.rank() == 0)
            .then(|| end.exchange(topic(0), &all, vec![], "a step", Duration::from_millis(20)));
        end.exchange(topic(1), &all, vec![], "the end", SOON)
            .expect("all are there");
        early
    }) {
        let Some(Err(Error::Timeout {
            rank: 0, missing, ..
        })) = &results[0]
        else {
            panic!("{:?}", results[0])
        };
        assert_eq!(missing[..], [1, 2]);
    }
}

#[test]
fn one_that_left_or_failed_is_not_waited_for() {
    let all_are_there = std::sync::Barrier::new(3);
    for fails in [false, true] {
        for results in both(3, |end| {
            let all: Arc<[usize]> = [0, 1, 2].into();
            // Nobody fails before all are there: joining would meet the failure first.
            all_are_there.wait();
            if end.rank() == 1 {
                if fails {
                    end.fail("out of luck");
                }
                return None;
            }
            Some(end.exchange(topic(0), &all, vec![], "a step", SOON))
        }) {
            for result in results.into_iter().flatten() {
                let Err(Error::PeerFailed { rank: 1, cause }) = result else {
                    panic!("{result:?}")
                };
                assert_eq!(cause.contains("out of luck"), fails, "{cause}");
            }
        }
    }
}

#[test]
fn what_a_rank_posted_before_it_left_is_kept() {
    for results in both(2, |end| {
        let all: Arc<[usize]> = [0, 1].into();
        end.post(topic(0), &all, vec![end.rank() as u8])
            .expect("post");
        if end.rank() == 1 {
            return None;
        }
        thread::sleep(Duration::from_millis(30));
        Some(end.collect(topic(0), "the last step", SOON))
    }) {
        assert!(
            matches!(&results[0], Some(Ok(values)) if values[1] == [1]),
            "{results:?}"
        );
    }
}

#[test]
fn members_that_name_different_meetings_are_told() {
    for results in both(3, |end| {
        let mine: Arc<[usize]> = if end.rank() == 0 {
            [0, 1].into()
        } else {
            [0, 1, 2].into()
        };
        // Rank 2 cannot know: rank 0 does not send to it.
        let result = end.exchange(
            topic(0),
            &mine,
            vec![],
            "a step",
            if end.rank() < 2 { SOON } else { Duration::ZERO },
        );
        let all: Arc<[usize]> = [0, 1, 2].into();
        let _ = end.exchange(topic(1), &all, vec![], "the end", SOON);
        (end.rank() < 2).then_some(result)
    }) {
        for result in results.into_iter().flatten() {
            assert!(
                matches!(result, Err(Error::RanksDiffer { .. })),
                "{result:?}"
            );
        }
    }
}

#[test]
fn strangers_and_other_worlds_are_refused() {
    let port = free_port();
    thread::scope(|scope| {
        let hub = scope.spawn(|| {
            Rendezvous::connect_with([1; 16], 0, 2, "127.0.0.1", port, Duration::from_millis(600))
        });
        for (token, ranks, says) in [([2; 16], 2, "token"), ([1; 16], 3, "WORLD_SIZE")] {
            let refused = Rendezvous::connect_with(token, 1, ranks, "127.0.0.1", port, SOON);
            let Err(Error::Rendezvous { why, .. }) = &refused else {
                panic!("{refused:?}")
            };
            assert!(why.contains(says), "{why}");
        }
        let alone = hub.join().expect("rank 0");
        assert!(
            matches!(&alone, Err(Error::Timeout { missing, .. }) if missing[..] == [1]),
            "{alone:?}"
        );
    });
    // Connections wait in its queue, and nobody takes them; or somebody does, and hangs up.
    let silent = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let port = silent.local_addr().expect("bound").port();
    let says = |words: &str| {
        let refused = Rendezvous::connect(1, 2, "127.0.0.1", port, Duration::from_millis(500));
        let Err(Error::Rendezvous { why, .. }) = &refused else {
            panic!("{refused:?}")
        };
        assert!(why.contains(words), "{why}");
    };
    says("something accepted the connection and said nothing");
    thread::spawn(move || silent.incoming().for_each(drop));
    // The last attempt may end before the other side has looked.
    says("something accepted the connection and ");
    let nobody = Rendezvous::connect(1, 2, "127.0.0.1", free_port(), Duration::from_millis(50));
    assert!(
        matches!(nobody, Err(Error::Rendezvous { .. })),
        "{nobody:?}"
    );
}
