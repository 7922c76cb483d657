//! Worlds that fail and are rebuilt.

use std::sync::Barrier;

use super::*;

const SHORT: Duration = Duration::from_millis(20);

fn everyone(end: &Rendezvous) -> Arc<[usize]> {
    (0..end.ranks()).collect()
}

fn failed_rank<R: std::fmt::Debug>(result: Result<R>) -> usize {
    match result {
        Err(Error::PeerFailed { rank, .. }) => rank,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_world_that_failed_begins_a_new_epoch() {
    // A failure ends also meetings that all have come to, for those who have not collected yet.
    let collected = Barrier::new(3);
    for results in both(3, |end| {
        let (me, all) = (end.rank() as u8, everyone(&end));
        for epoch in 0..3_u8 {
            // The same topics in each epoch, one of them left over from a meeting that failed.
            let told = end.exchange(topic(1), &all, vec![epoch, me], "a step", SOON);
            assert_eq!(told.expect("alive")[2], [epoch, 2]);
            assert!(end.failure().is_none(), "of an earlier epoch");
            collected.wait();
            if me != epoch {
                end.post(topic(2), &all, vec![epoch]).expect("post");
            } else {
                end.fail(&format!("cause {epoch}"));
            }
            let waited = end.wait_failure(SOON).expect("one failed");
            assert!(waited.to_string().contains(&format!("cause {epoch}")));
            if me != epoch {
                assert_eq!(
                    failed_rank(end.collect(topic(2), "a step", SOON)),
                    usize::from(epoch)
                );
            }
            for step in 0..2 {
                let values = end.convene(step, vec![me, step as u8], SOON).expect("all");
                assert!((0..3).all(|rank| values[rank] == [rank as u8, step as u8]));
            }
            assert!(end.failure().is_some() && end.gone().is_empty());
            end.renew();
            assert_eq!(end.epoch(), u64::from(epoch) + 1);
        }
        collected.wait(); // nobody leaves before
    }) {
        assert_eq!(results.len(), 3);
    }
}

#[test]
fn what_a_rank_that_is_ahead_says_is_kept_for_the_others() {
    let said = Barrier::new(2);
    for results in both(2, |end| {
        let all = everyone(&end);
        end.convene(0, vec![], SOON).expect("all");
        if end.rank() == 0 {
            end.renew();
            end.post(topic(5), &all, vec![7]).expect("post");
            end.post(topic(6), &all, vec![8]).expect("post");
            end.fail("in the next epoch");
            said.wait();
            said.wait(); // its goodbye comes last
            return (true, vec![]);
        }
        said.wait();
        // By the wire's order, what was said before has arrived when this fails.
        end.post(topic(5), &all, vec![9]).expect("post");
        let of_this = end.wait_failure(SHORT).is_none();
        let missed = end.collect(topic(5), "a step", SHORT);
        assert!(matches!(&missed, Err(Error::Timeout { missing, .. }) if missing[..] == [0]));
        end.renew();
        end.post(topic(5), &all, vec![9]).expect("post");
        let values = end.collect(topic(5), "a step", SOON).expect("all");
        end.post(topic(7), &all, vec![]).expect("post");
        let failed = end.collect(topic(7), "a step", SOON);
        assert_eq!(failed_rank(failed), 0);
        said.wait();
        (of_this, values[0].clone())
    }) {
        assert_eq!(results[1], (true, vec![7]));
    }
}

#[test]
fn a_rank_may_wait_in_short_turns() {
    for results in both(2, |end| {
        let all = everyone(&end);
        if end.rank() == 1 {
            thread::sleep(4 * SHORT);
        }
        end.post(topic(0), &all, vec![end.rank() as u8])
            .expect("post");
        let mut turns = 0;
        let values = loop {
            match end.collect(topic(0), "a step", SHORT / 10) {
                Err(Error::Timeout { missing, .. }) => {
                    assert_eq!(missing[..], [1 - end.rank()]);
                    turns += 1;
                }
                other => break other.expect("all came"),
            }
        };
        assert_eq!(values[1], [1]);
        // Once taken, they are gone.
        let again = end.collect(topic(0), "a step", SHORT);
        assert!(matches!(again, Err(Error::Rendezvous { .. })), "{again:?}");
        end.convene(0, vec![], SOON).expect("the end");
        turns
    }) {
        assert!(results[0] > 1, "{results:?}");
    }
}

#[test]
fn a_wait_can_be_stopped() {
    let end = &Rendezvous::threads(2)[0];
    let stop = std::sync::atomic::AtomicBool::new(false);
    let ordering = std::sync::atomic::Ordering::SeqCst;
    thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            end.post(topic(0), &everyone(end), vec![]).expect("post");
            let stop = || {
                stop.load(ordering).then(|| Error::Config {
                    what: "stopped".into(),
                })
            };
            end.collect_unless(topic(0), "a step", SOON, &stop)
        });
        thread::sleep(SHORT);
        stop.store(true, ordering);
        end.nudge();
        let stopped = waiting.join().expect("rank");
        assert!(matches!(stopped, Err(Error::Config { .. })), "{stopped:?}");
    });
}

#[test]
fn who_does_not_convene_is_named_and_may_come_later() {
    let late = Barrier::new(3);
    for results in both(3, |end| {
        end.convene(0, vec![1], SOON).expect("all");
        let missing = (end.rank() != 2).then(|| end.convene(1, vec![2], SHORT));
        late.wait();
        // Those who waited wait again, from the start; the first value counts.
        for (step, value) in [(0, 1), (1, 2), (0, 1), (2, 4)] {
            let mine = if missing.is_none() {
                value
            } else {
                2 * step + 9
            };
            let mine = if step == 2 { 4 } else { mine };
            let values = end.convene(u64::from(step), vec![mine], SOON).expect("all");
            assert!(values.iter().all(|one| *one == [value]), "{values:?}");
        }
        missing
    }) {
        for result in results.into_iter().flatten() {
            let Err(Error::Timeout { missing, .. }) = result else {
                panic!("{result:?}")
            };
            assert_eq!(missing[..], [2]);
        }
    }
}

#[test]
fn one_that_left_stays_away_in_every_epoch() {
    let gone = Barrier::new(3);
    for results in both(3, |end| {
        end.convene(0, vec![], SOON).expect("all");
        end.renew();
        if end.rank() == 1 {
            drop(end);
            gone.wait();
            gone.wait();
            return None;
        }
        gone.wait();
        let all = everyone(&end);
        let first = end.exchange(topic(0), &all, vec![], "a step", SOON);
        assert_eq!(failed_rank(first), 1);
        assert!(end.failure().is_none() && end.gone() == [1]);
        assert!(end.has_left(1) && !end.has_left(0) && !end.has_died(1));
        let convened = end.convene(0, vec![], SOON);
        gone.wait(); // nobody else leaves before
        Some(failed_rank(convened))
    }) {
        assert_eq!(results, [Some(1), None, Some(1)]);
    }
}

#[test]
fn one_that_died_stays_dead_in_every_epoch() {
    let port = free_port();
    // Nobody says goodbye before all have seen the death.
    let seen = Barrier::new(3);
    thread::scope(|scope| {
        for me in 0..3 {
            let seen = &seen;
            scope.spawn(move || {
                let end = Rendezvous::connect(me, 3, "127.0.0.1", port, SOON).expect("connect");
                let all = everyone(&end);
                end.exchange(topic(0), &all, vec![], "a step", SOON)
                    .expect("all");
                if me == 1 {
                    end.link.as_ref().expect("processes").sever();
                    seen.wait();
                    return;
                }
                end.post(topic(1), &all, vec![]).expect("post");
                assert_eq!(failed_rank(end.collect(topic(1), "a step", SOON)), 1);
                assert_eq!(failed_rank(end.convene(0, vec![], SOON)), 1);
                assert!(end.has_died(1) && !end.has_left(1) && end.gone() == [1]);
                end.renew();
                let failed = end.failure().map_or(Ok(()), Err);
                assert_eq!(failed_rank(failed), 1);
                let pair: Arc<[usize]> = [0, 2].into();
                end.post(topic(1), &pair, vec![]).expect("post");
                seen.wait();
            });
        }
    });
}
