//! Where the ranks of a world meet: each member of a [`Topic`] posts a value to it once, then every
//! member collects the values of all.
//!
//! One interface for ranks as threads, which share one [`Hub`], and for ranks as processes, where
//! every process has a hub of its own and [`tcp`] carries each post to the hubs of the other
//! members. It is the channel of set-up, and the wire of the host backend's collectives.

mod hub;
mod tcp;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, Result};
use hub::Hub;
use tcp::Link;

/// Names one meeting: all of `members` post to it once, then all can collect. Never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Topic {
    pub(crate) channel: u64,
    pub(crate) step: u64,
}

impl Topic {
    /// A channel that no other purpose uses: a mix of the words that name it.
    pub(crate) fn channel(words: &[u64]) -> u64 {
        words.iter().fold(0x5EED_0F0C_4A27_11E5, |hash, &word| {
            let mixed = (hash ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            (mixed ^ (mixed >> 32))
                .wrapping_mul(0xD6E8_FEB8_6659_FD93)
                .rotate_left(29)
        })
    }
}

/// What a meeting brought: the members' values, in the order of the members.
pub(crate) type Values = Arc<[Vec<u8>]>;

/// Called when something arrives or fails; must not wait.
pub(crate) type Wake = Arc<dyn Fn() + Send + Sync>;

/// One rank's end. Dropping it tells the others that this rank left.
#[doc(hidden)]
#[derive(Debug)]
pub struct Rendezvous {
    rank: usize,
    hub: Arc<Hub>,
    /// The way to the hubs of other processes.
    link: Option<Link>,
}

impl Rendezvous {
    /// The ends of a world whose ranks are threads of this process.
    pub(crate) fn threads(ranks: usize) -> Vec<Rendezvous> {
        let hub = Arc::new(Hub::new(ranks, None));
        (0..ranks)
            .map(|rank| Rendezvous {
                rank,
                hub: Arc::clone(&hub),
                link: None,
            })
            .collect()
    }

    /// The end of a rank that is a process of its own. Rank 0 listens at the address; all wait
    /// there for all until the deadline.
    pub(crate) fn connect(
        rank: usize,
        ranks: usize,
        host: &str,
        port: u16,
        deadline: Duration,
    ) -> Result<Rendezvous> {
        Self::connect_with(tcp::token(port), rank, ranks, host, port, deadline)
    }

    fn connect_with(
        token: tcp::Token,
        rank: usize,
        ranks: usize,
        host: &str,
        port: u16,
        deadline: Duration,
    ) -> Result<Rendezvous> {
        if rank >= ranks {
            return Err(Error::Config {
                what: format!("rank {rank} does not exist in a world of {ranks}").into(),
            });
        }
        let hub = Arc::new(Hub::new(ranks, Some(rank)));
        if ranks == 1 {
            return Ok(Rendezvous {
                rank,
                hub,
                link: None,
            });
        }
        let link = tcp::join(&hub, token, rank, host, port, deadline)?;
        let end = Rendezvous {
            rank,
            hub,
            link: Some(link),
        };
        let all: Arc<[usize]> = (0..ranks).collect();
        let start = Topic {
            channel: Topic::channel(&[]),
            step: 0,
        };
        end.exchange(
            start,
            &all,
            Vec::new(),
            &format!("the start of the world at {host}:{port}"),
            deadline,
        )?;
        Ok(end)
    }

    /// This end's rank.
    pub(crate) fn rank(&self) -> usize {
        self.rank
    }

    /// Ranks of the world.
    pub(crate) fn ranks(&self) -> usize {
        self.hub.ranks()
    }

    /// Posts this rank's value and does not wait. `members` are world ranks, this one among them;
    /// values are collected in their order.
    pub(crate) fn post(&self, topic: Topic, members: &Arc<[usize]>, value: Vec<u8>) -> Result<()> {
        if !members.contains(&self.rank) || members.iter().any(|&member| member >= self.ranks()) {
            let what = format!(
                "rank {} posted to a meeting of ranks {members:?} in a world of {}",
                self.rank,
                self.ranks()
            );
            return Err(Error::Config { what: what.into() });
        }
        if let Some(link) = &self.link
            && members.len() > 1
        {
            link.post(self.rank, topic, members, &value)
                .map_err(|error| self.failure().unwrap_or(error))?;
        }
        self.hub.post(self.rank, topic, members, value)
    }

    /// The values, once all members have posted; this rank has posted before, and takes them once.
    pub(crate) fn try_collect(&self, topic: Topic) -> Result<Option<Values>> {
        self.hub.try_collect(self.rank, topic, "a meeting with it")
    }

    /// Waits for the values. `Timeout` names the missing ranks; `PeerFailed` comes at once when a
    /// peer failed or a missing one left.
    pub(crate) fn collect(&self, topic: Topic, what: &str, deadline: Duration) -> Result<Values> {
        self.hub.collect(self.rank, topic, what, deadline)
    }

    /// Posts and collects.
    pub(crate) fn exchange(
        &self,
        topic: Topic,
        members: &Arc<[usize]>,
        value: Vec<u8>,
        what: &str,
        deadline: Duration,
    ) -> Result<Values> {
        self.post(topic, members, value)?;
        self.collect(topic, what, deadline)
    }

    /// The members that have not posted to a topic that this rank still waits for.
    pub(crate) fn missing(&self, topic: Topic) -> Box<[usize]> {
        self.hub.missing(topic)
    }

    /// Tells all ranks that this one failed. The first failure stays.
    pub(crate) fn fail(&self, cause: &str) {
        if self.hub.fail(self.rank, cause)
            && let Some(link) = &self.link
        {
            link.fail(self.rank, cause);
        }
    }

    /// The first failure of any rank, as `PeerFailed`; cheap while there is none.
    pub(crate) fn failure(&self) -> Option<Error> {
        self.hub.failure()
    }

    /// Waits until a rank fails, at most for `deadline`.
    pub(crate) fn wait_failure(&self, deadline: Duration) -> Option<Error> {
        self.hub.wait_failure(self.rank, deadline)
    }

    /// Has `wake` called whenever a meeting of this rank is complete, or a rank failed or left.
    pub(crate) fn notify(&self, wake: Wake) {
        self.hub.set_wake(self.rank, Some(wake));
    }
}

impl Drop for Rendezvous {
    fn drop(&mut self) {
        self.hub.set_wake(self.rank, None);
        self.hub.leave(self.rank);
        if let Some(link) = &self.link {
            link.leave(self.rank);
        }
    }
}

#[cfg(test)]
mod tests {
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
                Rendezvous::connect_with(
                    [1; 16],
                    0,
                    2,
                    "127.0.0.1",
                    port,
                    Duration::from_millis(600),
                )
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
        let nobody = Rendezvous::connect(1, 2, "127.0.0.1", free_port(), Duration::from_millis(50));
        assert!(
            matches!(nobody, Err(Error::Rendezvous { .. })),
            "{nobody:?}"
        );
    }
}
