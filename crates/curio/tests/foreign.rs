//! Futures and wakers that are not Curio's: channels, combinators, other threads.
//!
//! A task may wait in anything that keeps the contract of `Future`; what wakes it may
//! come from the task itself, from another one, or from another thread, at any time,
//! also too late. On the virtual clock wherever no thread is needed.

use std::cell::{Cell, RefCell};
use std::future::{pending, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::sync::mpsc;
use std::task::{Poll, Waker};
use std::time::Duration;

use curio::testing::virtual_kernel;
use curio::{
    Error, Kernel, Result, TaskState, clock, current_task, disable_cancellation, sleep, spawn,
    timeout_after,
};
use futures::channel::{mpsc as channel, oneshot};
use futures::future::{Either, select};
use futures::stream::FuturesUnordered;
use futures::{FutureExt, SinkExt, StreamExt};

const LONG: Duration = Duration::from_secs(1000);

const fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

fn run<T: 'static>(program: impl Future<Output = Result<T>> + 'static) -> T {
    virtual_kernel().run(program).unwrap()
}

async fn elapsed<T>(future: impl Future<Output = T>) -> (T, Duration) {
    let start = clock().unwrap();
    let result = future.await;
    (result, clock().unwrap() - start)
}

/// Says when it is dropped.
struct Noted(Rc<Cell<bool>>);

impl Drop for Noted {
    fn drop(&mut self) {
        self.0.set(true);
    }
}

// Channels.

#[test]
fn a_oneshot_from_another_task() {
    run(async {
        let (sender, receiver) = oneshot::channel();
        let kid = spawn(async move { receiver.await.map_err(Error::other) });
        sleep(ms(1)).await?;
        assert_eq!(kid.state(), TaskState::FutureWait);
        sender.send(42).unwrap();
        assert_eq!(kid.state(), TaskState::Ready);
        assert_eq!(kid.join().await?, 42);
        Ok(())
    });
}

#[test]
fn a_oneshot_from_another_thread_wakes_the_sleeping_kernel() {
    for _ in 0..200 {
        let (sender, receiver) = oneshot::channel();
        let thread = std::thread::spawn(move || sender.send(42).unwrap());
        let received = curio::run(async move { receiver.await.map_err(Error::other) });
        assert_eq!(received.unwrap(), 42);
        thread.join().unwrap();
    }
}

#[test]
fn a_stream_from_another_thread_loses_nothing() {
    const COUNT: u64 = 10_000;
    let (mut sender, mut receiver) = channel::channel(4);
    let thread = std::thread::spawn(move || {
        curio::run(async move {
            for number in 0..COUNT {
                sender.send(number).await.map_err(Error::other)?;
            }
            Ok(())
        })
        .unwrap();
    });
    let sum = curio::run(async move {
        let mut sum = 0;
        while let Some(number) = receiver.next().await {
            sum += number;
        }
        Ok(sum)
    });
    thread.join().unwrap();
    assert_eq!(sum.unwrap(), COUNT * (COUNT - 1) / 2);
}

#[test]
fn many_tasks_woken_by_many_threads() {
    let (senders, receivers): (Vec<_>, Vec<_>) =
        (0..400).map(|_| oneshot::channel::<usize>()).unzip();
    let mut senders: Vec<_> = senders.into_iter().enumerate().collect();
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let mine = senders.split_off(senders.len() - 100);
            std::thread::spawn(move || {
                for (number, sender) in mine {
                    sender.send(number).unwrap();
                }
            })
        })
        .collect();
    let sum = curio::run(async move {
        let kids: Vec<_> = receivers
            .into_iter()
            .map(|receiver| spawn(async move { receiver.await.map_err(Error::other) }))
            .collect();
        let mut sum = 0;
        for kid in kids {
            sum += kid.join().await?;
        }
        Ok(sum)
    });
    assert_eq!(sum.unwrap(), 399 * 400 / 2);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

// Combinators.

#[test]
fn join_of_two_sleeps_takes_the_longer_time() {
    run(async {
        let both = async { futures::join!(sleep(ms(10)), sleep(ms(30))) };
        let ((first, second), took) = elapsed(both).await;
        assert_eq!(second? - first?, ms(20));
        assert_eq!(took, ms(30));
        Ok(())
    });
}

#[test]
fn select_drops_the_loser_which_leaves_its_line() {
    run(async {
        let target = spawn(async { sleep(ms(50)).await.map(drop) });
        let (winner, took) = elapsed(select(sleep(ms(10)), target.wait())).await;
        assert!(matches!(winner, Either::Left((Ok(_), _))));
        assert_eq!(took, ms(10));
        let lost = pin!(target.wait());
        let mut quick = sleep(ms(5)).fuse();
        let mut lost = lost.fuse();
        futures::select! {
            slept = quick => drop(slept?),
            _ = lost => panic!("the target has not ended"),
        }
        // The target ends, and finds nobody in its line that is gone.
        target.join().await
    });
}

#[test]
fn a_dropped_sleep_leaves_no_timer() {
    run(async {
        let (_, took) = elapsed(select(sleep(LONG), sleep(ms(1)))).await;
        assert_eq!(took, ms(1));
        let (_, took) = elapsed(sleep(ms(1))).await;
        assert_eq!(took, ms(1));
        Ok(())
    });
    // Nor one that was dropped when its deadline had been met.
    run(async {
        let (first, second) = (Box::pin(sleep(ms(1))), Box::pin(sleep(ms(1))));
        let Either::Left((Ok(_), second)) = select(first, second).await else { panic!("order") };
        drop(second);
        sleep(ms(1)).await?;
        Ok(())
    });
}

#[test]
fn an_unordered_set_of_sleeps_comes_in_order_of_time() {
    run(async {
        let delays = [30, 10, 20, 10, 40];
        let mut sleeps: FuturesUnordered<_> =
            delays.iter().map(|&delay| sleep(ms(delay)).map(move |slept| (delay, slept))).collect();
        let mut order = Vec::new();
        while let Some((delay, slept)) = sleeps.next().await {
            slept?;
            order.push(delay);
        }
        assert_eq!(order, [10, 10, 20, 30, 40]);
        Ok(())
    });
}

#[test]
fn an_unordered_set_polls_only_what_has_happened() {
    run(async {
        let polls = Rc::new(Cell::new(0));
        let mut sleeps: FuturesUnordered<_> = (1..=100)
            .map(|delay| {
                let polls = polls.clone();
                let mut sleep = Box::pin(sleep(ms(delay)));
                poll_fn(move |cx| {
                    polls.set(polls.get() + 1);
                    sleep.as_mut().poll(cx)
                })
            })
            .collect();
        while let Some(slept) = sleeps.next().await {
            slept?;
        }
        assert_eq!(polls.get(), 200);
        Ok(())
    });
}

#[test]
fn sleep_zero_and_joins_inside_of_combinators() {
    run(async {
        let mut joins: FuturesUnordered<_> = (0..10)
            .map(|number| {
                let kid = spawn(async move {
                    sleep(ms(number)).await?;
                    Ok(number)
                });
                async move {
                    sleep(Duration::ZERO).await?;
                    let number = kid.join().await?;
                    sleep(Duration::ZERO).await?;
                    Ok::<_, Error>(number)
                }
            })
            .collect();
        let mut ended = Vec::new();
        while let Some(number) = joins.next().await {
            ended.push(number?);
        }
        assert_eq!(ended, (0..10).collect::<Vec<_>>());
        Ok(())
    });
}

// Timeouts and cancellations.

#[test]
fn a_timeout_around_a_foreign_future_drops_it() {
    run(async {
        let dropped = Rc::new(Cell::new(false));
        let noted = Noted(dropped.clone());
        let limited = timeout_after(ms(10), async move {
            let _noted = noted;
            pending::<Result<()>>().await
        });
        let (result, took) = elapsed(limited).await;
        assert!(result.unwrap_err().is_timeout());
        assert_eq!(took, ms(10));
        assert!(dropped.get());
        // In time.
        let (sender, receiver) = oneshot::channel();
        spawn(async move {
            sleep(ms(5)).await?;
            sender.send(7).map_err(|_| Error::other("nobody receives"))
        });
        let received = timeout_after(ms(10), async { receiver.await.map_err(Error::other) });
        assert_eq!(received.await?, 7);
        Ok(())
    });
}

#[test]
fn an_outer_timeout_around_a_foreign_future_passes_the_inner_region() {
    run(async {
        let outer = timeout_after(ms(10), async {
            let inner = timeout_after(LONG, pending::<Result<()>>()).await;
            assert!(inner.as_ref().unwrap_err().is_timeout_cancellation());
            sleep(ms(5)).await?; // this may clean up
            inner
        });
        let (outer, took) = elapsed(outer).await;
        assert!(outer.unwrap_err().is_timeout());
        assert_eq!(took, ms(15));
        Ok(())
    });
}

#[test]
fn cancelling_a_task_in_a_bare_foreign_future_ends_it() {
    run(async {
        let dropped = Rc::new(Cell::new(false));
        let noted = Noted(dropped.clone());
        let kid = spawn(async move {
            let _noted = noted;
            pending::<Result<()>>().await
        });
        sleep(ms(1)).await?;
        assert_eq!(kid.state(), TaskState::FutureWait);
        assert!(kid.cancel().await?);
        assert!(dropped.get());
        assert!(kid.join().await.unwrap_err().task_cause().unwrap().is_cancelled());
        Ok(())
    });
}

#[test]
fn a_shield_holds_around_a_foreign_future() {
    run(async {
        let (sender, receiver) = oneshot::channel::<u32>();
        let kid = spawn(async {
            let limited = timeout_after(ms(5), async {
                let received = disable_cancellation(async { receiver.await.map_err(Error::other) });
                assert_eq!(received.await?, 7);
                pending::<Result<()>>().await
            });
            let result = limited.await;
            assert!(result.as_ref().unwrap_err().is_cancelled());
            result
        });
        let cancel = spawn({
            let kid = kid.clone();
            async move {
                sleep(ms(1)).await?;
                kid.cancel().await
            }
        });
        sleep(ms(20)).await?;
        assert_eq!(kid.state(), TaskState::FutureWait);
        sender.send(7).unwrap();
        let (cancelled, took) = elapsed(cancel.join()).await;
        assert!(cancelled?);
        assert_eq!(took, Duration::ZERO);
        Ok(())
    });
}

#[test]
fn a_foreign_future_that_is_always_ready_to_go_on_can_be_timed_out() {
    run(async {
        let spinning = poll_fn(|cx| {
            cx.waker().wake_by_ref();
            Poll::<Result<()>>::Pending
        });
        let (result, _) = elapsed(timeout_after(Duration::from_micros(20), spinning)).await;
        assert!(result.unwrap_err().is_timeout());
        Ok(())
    });
}

#[test]
fn two_timeouts_polled_by_one_task() {
    run(async {
        let short = timeout_after(ms(10), sleep(LONG));
        let long = timeout_after(ms(30), sleep(LONG));
        let (first, second) = (elapsed(short), elapsed(long));
        let ((first, after_first), (second, after_second)) = futures::join!(first, second);
        assert!(first.unwrap_err().is_timeout() && second.unwrap_err().is_timeout());
        assert_eq!((after_first, after_second), (ms(10), ms(30)));
        // Neither limits the other, nor what comes after.
        let limited = timeout_after(ms(10), sleep(LONG));
        let (limited, slept) = futures::join!(limited, elapsed(sleep(ms(50))));
        assert!(limited.unwrap_err().is_timeout());
        assert_eq!(slept.1, ms(50));
        slept.0.map(drop)
    });
}

/// The same with every pair of things to be limited, in either place: what the other
/// future of the task waits in must not keep a timeout from arriving.
#[test]
fn two_timeouts_of_one_task_over_everything() {
    type Limited = futures::future::LocalBoxFuture<'static, Result<()>>;
    fn limited(what: usize, limit: Duration) -> Limited {
        match what {
            0 => timeout_after(limit, sleep(LONG).map(|slept| slept.map(drop))).boxed_local(),
            1 => timeout_after(limit, pending()).boxed_local(),
            2 => timeout_after(limit, timeout_after(LONG, pending())).map(own).boxed_local(),
            3 => timeout_after(limit, async {
                let mut naps: FuturesUnordered<_> =
                    [sleep(LONG), sleep(LONG)].into_iter().collect();
                naps.next().await.unwrap().map(drop)
            })
            .boxed_local(),
            4 => timeout_after(limit, async {
                futures::future::try_join(sleep(LONG), sleep(LONG)).await.map(drop)
            })
            .boxed_local(),
            _ => timeout_after(limit, async {
                let mut kids: FuturesUnordered<_> =
                    (0..2).map(|_| pending::<Result<()>>()).collect();
                kids.next().await.unwrap()
            })
            .boxed_local(),
        }
    }
    fn own(result: Result<()>) -> Result<()> {
        result
    }
    for first in 0..6 {
        for second in 0..6 {
            for (limit, other) in [(10, 30), (30, 10), (10, 10)] {
                for unordered in [false, true] {
                    let case = (first, second, limit, other, unordered);
                    run(async move {
                        let futures = [limited(first, ms(limit)), limited(second, ms(other))];
                        let timed: Vec<(Result<()>, Duration)> = if unordered {
                            let mut set: FuturesUnordered<_> = futures
                                .into_iter()
                                .enumerate()
                                .map(|(place, future)| elapsed(future).map(move |end| (place, end)))
                                .collect();
                            let mut ends: Vec<_> = Vec::new();
                            while let Some(end) = set.next().await {
                                ends.push(end);
                            }
                            ends.sort_by_key(|(place, _)| *place);
                            ends.into_iter().map(|(_, end)| end).collect()
                        } else {
                            futures::future::join_all(futures.map(elapsed)).await
                        };
                        for ((result, took), limit) in timed.into_iter().zip([limit, other]) {
                            assert!(result.unwrap_err().is_timeout(), "{case:?}");
                            assert_eq!(took, ms(limit), "{case:?}");
                        }
                        Ok(())
                    });
                }
            }
        }
    }
}

#[test]
fn a_shield_in_one_future_of_a_task_does_not_shield_the_other() {
    for shielded_first in [false, true] {
        for unordered in [false, true] {
            run(async move {
                type Part = futures::future::LocalBoxFuture<'static, ()>;
                let limited: Part = async {
                    let (result, took) = elapsed(timeout_after(ms(10), sleep(LONG))).await;
                    assert!(result.unwrap_err().is_timeout());
                    assert_eq!(took, ms(10));
                }
                .boxed_local();
                let shielded: Part = async {
                    let (result, took) = elapsed(disable_cancellation(sleep(ms(50)))).await;
                    result.unwrap();
                    assert_eq!(took, ms(50));
                }
                .boxed_local();
                let mut parts = vec![limited, shielded];
                if shielded_first {
                    parts.reverse();
                }
                if unordered {
                    let mut set: FuturesUnordered<_> = parts.into_iter().collect();
                    while set.next().await.is_some() {}
                } else {
                    futures::future::join_all(parts).await;
                }
                Ok(())
            });
        }
    }
}

#[test]
fn a_cancellation_reaches_one_future_of_a_combinator_once() {
    run(async {
        let told = Rc::new(Cell::new(0));
        let kid = spawn({
            let told = told.clone();
            async move {
                let part = |told: Rc<Cell<u32>>| async move {
                    if sleep(LONG).await.is_err_and(|error| error.is_cancelled()) {
                        told.set(told.get() + 1);
                    }
                    sleep(ms(5)).await
                };
                // The one that was told ends; the rest is given up.
                let first = select(Box::pin(part(told.clone())), Box::pin(part(told.clone())));
                let (Either::Left((end, _)) | Either::Right((end, _))) = first.await;
                end.map(drop)
            }
        });
        sleep(ms(1)).await?;
        let (cancelled, took) = elapsed(kid.cancel()).await;
        assert!(cancelled?);
        assert_eq!((told.get(), took), (1, ms(5)));
        Ok(())
    });
}

#[test]
fn a_limited_future_may_be_moved_out_of_a_region_that_has_ended() {
    run(async {
        let mut slow = Box::pin(timeout_after(ms(100), sleep(LONG)));
        for _ in 0..3 {
            // Looks at it for a while, within a limit of its own.
            let glance = timeout_after(LONG, async {
                Ok(matches!(select(slow.as_mut(), pin!(sleep(ms(10)))).await, Either::Right(_)))
            });
            assert!(glance.await?);
            // Others take the place of the region that has ended.
            timeout_after(ms(1), sleep(LONG)).await.unwrap_err();
        }
        let (result, took) = elapsed(slow).await;
        assert!(result.unwrap_err().is_timeout());
        assert_eq!(took, ms(67));
        Ok(())
    });
}

#[test]
fn a_future_moved_under_another_limit_obeys_that_one() {
    run(async {
        let mut slow = Box::pin(timeout_after(LONG, sleep(LONG)));
        assert!(futures::poll!(slow.as_mut()).is_pending());
        let (result, took) = elapsed(timeout_after(ms(10), slow)).await;
        assert!(result.unwrap_err().is_timeout());
        assert_eq!(took, ms(10));
        let mut shielded = Box::pin(disable_cancellation(sleep(ms(50))));
        let first =
            timeout_after(LONG, async { Ok(futures::poll!(shielded.as_mut()).is_pending()) });
        assert!(first.await?);
        let (result, took) = elapsed(timeout_after(ms(10), async {
            shielded.await?;
            timeout_after(LONG, sleep(LONG)).await
        }))
        .await;
        assert!(result.unwrap_err().is_timeout());
        assert_eq!(took, ms(50));
        Ok(())
    });
}

#[test]
fn a_future_moved_to_another_task_is_that_tasks() {
    run(async {
        let mut slow = Box::pin(timeout_after(ms(20), sleep(LONG)));
        let mut nap = Box::pin(sleep(ms(10)));
        assert!(futures::poll!(slow.as_mut()).is_pending());
        assert!(futures::poll!(nap.as_mut()).is_pending());
        let kid = spawn(async move {
            nap.await?;
            let result = slow.await;
            assert!(result.unwrap_err().is_timeout());
            Ok(())
        });
        let start = current_task()?.cycles();
        let (joined, took) = elapsed(kid.join()).await;
        joined?;
        assert_eq!(took, ms(20));
        assert_eq!(current_task()?.cycles() - start, 1);
        Ok(())
    });
}

// Wakers.

/// A waker of the task that calls it.
async fn waker() -> Waker {
    poll_fn(|cx| Poll::Ready(cx.waker().clone())).await
}

#[test]
fn a_wake_after_the_task_has_ended_is_harmless() {
    run(async {
        let kid = spawn(async { Ok(waker().await) });
        let waker = kid.join().await?;
        // Another task may live in its place.
        let heir = spawn(async { sleep(ms(10)).await.map(drop) });
        sleep(ms(1)).await?;
        let cycles = heir.cycles();
        waker.wake_by_ref();
        let thread = std::thread::spawn(move || waker.wake());
        thread.join().unwrap();
        sleep(ms(1)).await?;
        assert_eq!(heir.cycles(), cycles);
        heir.join().await
    });
}

#[test]
fn a_wake_after_the_kernel_has_gone_is_harmless() {
    let waker = curio::run(async { Ok(waker().await) }).unwrap();
    waker.wake_by_ref();
    std::thread::spawn(move || waker.wake()).join().unwrap();
}

#[test]
fn wakes_of_a_stopped_kernel_are_kept() {
    let mut kernel = virtual_kernel();
    let (sender, receiver) = oneshot::channel();
    let stopper = kernel.stopper();
    let task = kernel.add_task(async move { receiver.await.map_err(Error::other) }).unwrap();
    let program = async move {
        sleep(ms(1)).await?;
        stopper.stop();
        sleep(Duration::ZERO).await.map(drop)
    };
    kernel.run(program).unwrap_err();
    // Nobody runs in this thread now; and then from another one.
    assert_eq!(task.state(), TaskState::FutureWait);
    std::thread::spawn(move || sender.send(5).unwrap()).join().unwrap();
    assert_eq!(kernel.run(async move { task.join().await }).unwrap(), 5);
}

#[test]
fn a_wake_while_running_gives_one_more_turn() {
    run(async {
        let polls = Rc::new(Cell::new(0));
        let seen = polls.clone();
        poll_fn(move |cx| {
            polls.set(polls.get() + 1);
            if polls.get() == 3 {
                return Poll::Ready(());
            }
            // Several wakes are one.
            cx.waker().wake_by_ref();
            let clone = cx.waker().clone();
            clone.wake();
            Poll::Pending
        })
        .await;
        assert_eq!(seen.get(), 3);
        Ok(())
    });
}

#[test]
fn a_spurious_wake_ends_no_trap_early() {
    run(async {
        let (give, taken) = oneshot::channel();
        let kid = spawn(async {
            give.send(waker().await).unwrap();
            let (slept, took) = elapsed(sleep(ms(10))).await;
            assert_eq!(took, ms(10));
            slept.map(drop)
        });
        let waker = taken.await.map_err(Error::other)?;
        for _ in 0..5 {
            waker.wake_by_ref();
            sleep(ms(1)).await?;
        }
        kid.join().await
    });
}

#[test]
fn a_waker_whose_drop_and_wake_use_the_kernel() {
    // A foreign waker's code may call anything, so the kernel must not be in the middle
    // of a change when it calls one.
    use std::sync::Arc;
    use std::task::{Context, Wake};
    thread_local!(static CALLS: RefCell<Vec<&'static str>> = const { RefCell::new(Vec::new()) });
    struct Meddler(Waker);
    impl Wake for Meddler {
        fn wake(self: Arc<Self>) {
            assert!(clock().is_ok() && current_task().is_err());
            CALLS.with(|calls| calls.borrow_mut().push("wake"));
            self.0.wake_by_ref();
        }
    }
    impl Drop for Meddler {
        fn drop(&mut self) {
            if clock().is_ok() {
                assert!(!curio::get_all_tasks().unwrap().is_empty());
                CALLS.with(|calls| calls.borrow_mut().push("drop"));
            }
        }
    }
    run(async {
        let mut nap = Box::pin(sleep(ms(10)));
        poll_fn(move |cx| {
            // A new waker at each poll.
            let meddler = Waker::from(Arc::new(Meddler(cx.waker().clone())));
            nap.as_mut().poll(&mut Context::from_waker(&meddler))
        })
        .await?;
        assert_eq!(CALLS.take(), ["wake", "drop", "drop"]);
        Ok(())
    });
}

#[test]
fn a_cancellation_from_a_thread_goes_through_a_channel() {
    // Handles stay in their thread; what other threads can do is wake a task that acts.
    let (ask, asked) = oneshot::channel();
    let (started, has_started) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        has_started.recv().unwrap();
        ask.send(()).unwrap();
    });
    let mut kernel = Kernel::new().unwrap();
    let program = async move {
        let kid = spawn(async move {
            started.send(()).unwrap();
            sleep(Duration::from_secs(3600)).await.map(drop)
        });
        asked.await.map_err(Error::other)?;
        kid.cancel().await
    };
    assert!(kernel.run(program).unwrap());
    thread.join().unwrap();
    kernel.shutdown().unwrap();
}
