//! What crosses threads: every item comes exactly once, whoever waits, and however he stops waiting.
//!
//! Kernels run in threads of their own, with tasks that put, get and are cancelled; plain threads
//! do the same and give up in time. What is counted are items. Nothing is timed; limits are there to end
//! a test that hangs.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use curio::universal::{Event, Queue, channel, unbounded_channel};
use curio::{Error, Kernel, Result, Task, TaskState, ignore_after, sleep, spawn, timeout_after};
use futures::FutureExt;
use futures::executor::block_on;

const HANG: Duration = Duration::from_secs(60);
const MOMENT: Duration = Duration::from_millis(2);

fn run<T: 'static>(program: impl Future<Output = Result<T>> + 'static) -> T {
    curio::run(timeout_after(HANG, program)).unwrap()
}

async fn until(condition: impl Fn() -> bool) -> Result<()> {
    while !condition() {
        sleep(Duration::from_millis(1)).await?;
    }
    Ok(())
}

fn waits(condition: impl Fn() -> bool) {
    while !condition() {
        thread::sleep(Duration::from_millis(1));
    }
}

async fn blocked<T>(task: &Task<T>, state: TaskState) -> Result<()> {
    until(|| task.info().state() == state).await
}

/// Numbers that look drawn.
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
        (self.0 >> 33) % limit
    }
}

fn is_timed_out(error: &Error) -> bool {
    error.as_io().is_some_and(|error| error.kind() == std::io::ErrorKind::TimedOut)
}

#[test]
fn items_go_from_threads_to_tasks_in_order() {
    let queue = Queue::bounded(3);
    let there = queue.clone();
    let thread = thread::spawn(move || {
        for item in 0..1000 {
            there.put_blocking(item, HANG).unwrap();
        }
    });
    run(async move {
        for item in 0..1000 {
            assert_eq!(queue.get().await?, item);
        }
        Ok(())
    });
    thread.join().unwrap();
}

#[test]
fn items_go_from_tasks_to_threads_in_order() {
    let queue = Queue::bounded(3);
    let there = queue.clone();
    let thread = thread::spawn(move || {
        for item in 0..1000 {
            assert_eq!(there.get_blocking(HANG).unwrap(), item);
        }
    });
    run(async move {
        for item in 0..1000 {
            queue.put(item).await?;
        }
        Ok(())
    });
    thread.join().unwrap();
}

#[test]
fn two_kernels_play_ping_pong() {
    let (there, back) = (Queue::unbounded(), Queue::unbounded());
    let (there2, back2) = (there.clone(), back.clone());
    let thread = thread::spawn(move || {
        run(async move {
            for _ in 0..500 {
                back2.put(there2.get().await? + 1).await?;
            }
            Ok(())
        });
    });
    run(async move {
        let mut ball = 0;
        for _ in 0..500 {
            there.put(ball).await?;
            ball = back.get().await?;
        }
        assert_eq!(ball, 500);
        Ok(())
    });
    thread.join().unwrap();
}

#[test]
fn tasks_of_one_kernel_use_it_as_any_queue() {
    run(async {
        let queue = Queue::bounded(1);
        let getter = spawn({
            let queue = queue.clone();
            async move { Ok((queue.get().await?, queue.get().await?)) }
        });
        blocked(&getter, TaskState::QueueGet).await?;
        assert_eq!(queue.statistics().waiting, 1);
        queue.put(1).await?;
        queue.put(2).await?;
        assert_eq!(getter.join().await?, (1, 2));
        assert_eq!((queue.len(), queue.statistics().waiting), (0, 0));
        Ok(())
    });
}

#[test]
fn all_who_wait_stand_in_one_line() {
    let queue = Queue::<u32>::unbounded();
    let order = Arc::new(Mutex::new(Vec::new()));
    run({
        let (queue, order) = (queue.clone(), order.clone());
        async move {
            let mut threads = Vec::new();
            let mut tasks = Vec::new();
            for place in 0..6 {
                let (queue, order) = (queue.clone(), order.clone());
                let there = queue.clone();
                if place % 2 == 0 {
                    threads.push(thread::spawn(move || {
                        let item = there.get_blocking(HANG).unwrap();
                        order.lock().unwrap().push((place, item));
                    }));
                } else {
                    tasks.push(spawn(async move {
                        let item = there.get().await?;
                        order.lock().unwrap().push((place, item));
                        Ok(())
                    }));
                }
                until(|| queue.statistics().waiting == place + 1).await?;
            }
            // One at a time: else those who were told may come in any order.
            for item in 0..6 {
                queue.put(item).await?;
                until(|| order.lock().unwrap().len() == item as usize + 1).await?;
            }
            threads.into_iter().for_each(|thread| thread.join().unwrap());
            Ok(())
        }
    });
    let order = order.lock().unwrap().clone();
    assert_eq!(order, (0..6).map(|place| (place as usize, place)).collect::<Vec<_>>());
}

#[test]
fn a_cancelled_getter_leaves_the_line() {
    run(async {
        let queue = Queue::unbounded();
        let there = queue.clone();
        let getter = spawn(async move { there.get().await });
        blocked(&getter, TaskState::QueueGet).await?;
        assert!(getter.cancel().await?);
        assert_eq!(queue.statistics().waiting, 0);
        queue.put(1).await?;
        assert_eq!(queue.get_nowait(), Some(1));
        Ok(())
    });
}

/// An item was promised to a task that is then cancelled before it has run.
#[test]
fn what_was_promised_to_a_cancelled_getter_goes_to_the_next() {
    run(async {
        let queue = Queue::unbounded();
        let getters: Vec<_> = (0..3)
            .map(|_| {
                let queue = queue.clone();
                spawn(async move { queue.get().await })
            })
            .collect();
        for getter in &getters {
            blocked(getter, TaskState::QueueGet).await?;
        }
        // In another thread: the promise goes through the door, and the cancellation comes first.
        let there = queue.clone();
        thread::spawn(move || there.put_nowait(7).unwrap()).join().unwrap();
        assert!(getters[0].cancel().await?);
        assert_eq!(getters[1].join().await?, 7);
        queue.put(8).await?;
        assert_eq!(getters[2].join().await?, 8);
        Ok(())
    });
}

/// The other way round: what had come counts, and the cancellation waits for the next trap.
#[test]
fn what_was_delivered_before_the_cancellation_counts() {
    run(async {
        let queue = Queue::unbounded();
        let there = queue.clone();
        let getter = spawn(async move {
            let item = there.get().await?;
            assert!(sleep(HANG).await.unwrap_err().is_cancelled());
            Ok(item)
        });
        blocked(&getter, TaskState::QueueGet).await?;
        queue.put(1).await?;
        assert!(getter.cancel().await?);
        assert_eq!(getter.join().await?, 1);
        Ok(())
    });
}

#[test]
fn a_cancelled_putter_has_not_put() {
    run(async {
        let queue = Queue::bounded(1);
        queue.put(1).await?;
        let there = queue.clone();
        let putter = spawn(async move {
            let unsent = there.put(2).await.unwrap_err();
            assert_eq!(unsent.item, 2);
            Err::<(), _>(unsent.error)
        });
        blocked(&putter, TaskState::QueuePut).await?;
        putter.cancel().await?;
        assert_eq!(queue.get().await?, 1);
        assert!(queue.is_empty());
        queue.put(3).await?;
        assert_eq!(queue.get().await?, 3);
        Ok(())
    });
}

#[test]
fn a_place_that_was_promised_goes_to_the_next_putter() {
    run(async {
        let queue = Queue::bounded(1);
        queue.put(0).await?;
        let putters: Vec<_> = (1..3)
            .map(|item| {
                let queue = queue.clone();
                spawn(async move { Ok(queue.put(item).await?) })
            })
            .collect();
        for putter in &putters {
            blocked(putter, TaskState::QueuePut).await?;
        }
        let there = queue.clone();
        thread::spawn(move || there.get_nowait().unwrap()).join().unwrap();
        putters[0].cancel().await?;
        putters[1].join().await?;
        assert_eq!(queue.get().await?, 2);
        Ok(())
    });
}

#[test]
fn a_thread_gives_up_when_its_time_is_over() {
    let queue = Queue::bounded(1);
    assert!(is_timed_out(&queue.get_blocking(MOMENT).unwrap_err()));
    queue.put_blocking(1, None).unwrap();
    let unsent = queue.put_blocking(2, MOMENT).unwrap_err();
    assert!(is_timed_out(&unsent.error), "{unsent}");
    assert_eq!(unsent.item, 2);
    assert!(is_timed_out(&queue.join_blocking(MOMENT).unwrap_err()));
    assert_eq!(queue.statistics().waiting, 0);
    assert_eq!(queue.get_blocking(None).unwrap(), 1);
    queue.task_done().unwrap();
    queue.join_blocking(None).unwrap();
}

#[test]
fn a_task_does_not_block_its_kernel() {
    run(async {
        let queue = Queue::<u32>::unbounded();
        let error = queue.get_blocking(None).unwrap_err();
        assert!(error.is_misuse(), "{error}");
        assert_eq!(queue.statistics().waiting, 0);
        assert!(Event::new().wait_blocking(None).unwrap_err().is_misuse());
        Ok(())
    });
}

#[test]
fn futures_of_other_executors_wait_too() {
    let queue = Queue::unbounded();
    let there = queue.clone();
    let thread = thread::spawn(move || block_on(there.get()).unwrap());
    waits(|| queue.statistics().waiting == 1);
    queue.put_nowait(5).unwrap();
    assert_eq!(thread.join().unwrap(), 5);
    // A future that is dropped in the line leaves it, with what it was promised.
    let mut first = Box::pin(queue.get());
    let mut second = Box::pin(queue.get());
    assert!((&mut first).now_or_never().is_none());
    assert!((&mut second).now_or_never().is_none());
    queue.put_nowait(6).unwrap();
    drop(first);
    assert_eq!(second.now_or_never().unwrap().unwrap(), 6);
}

#[test]
fn a_combinator_that_drops_the_loser_loses_nothing() {
    run(async {
        let (left, right) = (Queue::unbounded(), Queue::unbounded());
        for round in 0..200 {
            let there = if round % 2 == 0 { left.clone() } else { right.clone() };
            let thread = thread::spawn(move || there.put_nowait(round).unwrap());
            let (got, _) = futures::future::select(Box::pin(left.get()), Box::pin(right.get()))
                .await
                .factor_first();
            assert_eq!(got?, round);
            thread.join().unwrap();
        }
        assert_eq!((left.statistics().waiting, right.statistics().waiting), (0, 0));
        Ok(())
    });
}

#[test]
fn join_waits_for_all_that_was_put() {
    let queue = Queue::unbounded();
    queue.join_blocking(None).unwrap();
    for item in 0..10 {
        queue.put_nowait(item).unwrap();
    }
    let there = queue.clone();
    let thread = thread::spawn(move || there.join_blocking(HANG).unwrap());
    run({
        let queue = queue.clone();
        async move {
            let there = queue.clone();
            let joiner = spawn(async move { there.join().await });
            blocked(&joiner, TaskState::QueueJoin).await?;
            for _ in 0..10 {
                queue.get().await?;
                assert!(!joiner.info().terminated());
                queue.task_done()?;
            }
            joiner.join().await
        }
    });
    thread.join().unwrap();
    assert_eq!(queue.unfinished(), 0);
    assert!(queue.task_done().unwrap_err().is_misuse());
}

#[test]
fn a_channel_ends_when_its_senders_are_gone() {
    let (sender, receiver) = channel(2);
    let other = sender.clone();
    sender.try_send(1).unwrap();
    other.try_send(2).unwrap();
    assert!(sender.try_send(3).unwrap_err().error.is_misuse());
    drop(sender);
    assert_eq!(receiver.try_recv().unwrap(), Some(1));
    drop(other);
    assert_eq!(receiver.recv_blocking(None).unwrap(), 2);
    for _ in 0..2 {
        let error = receiver.recv_blocking(None).unwrap_err();
        assert!(error.is_closed(), "{error}");
    }
    assert!(receiver.try_recv().unwrap_err().is_closed());
}

#[test]
fn receivers_that_wait_learn_of_the_end() {
    let (sender, receiver) = unbounded_channel::<u32>();
    let there = receiver.clone();
    let thread = thread::spawn(move || there.recv_blocking(HANG).unwrap_err().is_closed());
    run(async move {
        let there = receiver.clone();
        let task = spawn(async move { Ok(there.recv().await.unwrap_err().is_closed()) });
        until(|| receiver.queue().statistics().waiting == 2).await?;
        drop(sender);
        assert!(task.join().await?);
        Ok(())
    });
    assert!(thread.join().unwrap());
}

#[test]
fn what_nobody_will_receive_comes_back() {
    let (sender, receiver) = channel(1);
    let item = Arc::new(());
    sender.try_send(item.clone()).unwrap();
    let there = sender.clone();
    let thread = thread::spawn(move || {
        let unsent = there.send_blocking(Arc::new(()), HANG).unwrap_err();
        unsent.error.is_closed()
    });
    waits(|| sender.queue().statistics().waiting == 1);
    drop(receiver);
    assert!(thread.join().unwrap());
    assert_eq!(Arc::strong_count(&item), 1, "what was left is dropped");
    assert!(sender.try_send(item).unwrap_err().error.is_closed());
}

#[test]
fn what_is_being_sent_keeps_the_channel_open() {
    run(async {
        let (sender, receiver) = channel(1);
        sender.send(1).await?;
        let send = sender.send(2);
        drop(sender);
        let task = spawn(async move { Ok(send.await?) });
        assert_eq!(receiver.recv().await?, 1);
        assert_eq!(receiver.recv().await?, 2);
        task.join().await?;
        assert!(receiver.recv().await.unwrap_err().is_closed());
        Ok(())
    });
}

#[test]
fn an_event_wakes_everybody() {
    let event = Event::new();
    let threads: Vec<_> = (0..3)
        .map(|_| {
            let event = event.clone();
            thread::spawn(move || event.wait_blocking(HANG).unwrap())
        })
        .collect();
    run({
        let event = event.clone();
        async move {
            let there = event.clone();
            let task = spawn(async move { there.wait().await });
            until(|| event.statistics().waiting == 4).await?;
            let setter = event.clone();
            thread::spawn(move || setter.set()).join().unwrap();
            // Who was told goes on all the same.
            event.clear();
            task.join().await
        }
    });
    assert!(threads.into_iter().all(|thread| thread.join().unwrap()));
    assert!(!event.is_set());
    assert!(!event.wait_blocking(MOMENT).unwrap());
    event.set();
    event.set();
    assert!(event.is_set() && event.wait_blocking(None).unwrap());
    assert_eq!(event.statistics().waiting, 0);
}

#[test]
fn a_cancelled_wait_for_an_event_leaves_no_trace() {
    run(async {
        let event = Event::new();
        assert!(ignore_after(MOMENT, event.wait()).await?.is_none());
        assert_eq!(event.statistics().waiting, 0);
        event.set();
        event.wait().await
    });
}

#[test]
fn the_descriptor_can_be_read_while_items_are_free() {
    use rustix::event::{PollFd, PollFlags, poll};
    let queue = Queue::bounded(2);
    let readable = || {
        let look = |fd: std::os::fd::BorrowedFd<'_>| {
            let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
            poll(&mut fds, Some(&rustix::time::Timespec::default())).unwrap() == 1
        };
        queue.with_descriptor(look).unwrap()
    };
    queue.put_nowait(1).unwrap();
    assert!(readable());
    queue.put_nowait(2).unwrap();
    assert_eq!(queue.get_nowait(), Some(1));
    assert!(readable());
    assert_eq!(queue.get_nowait(), Some(2));
    assert!(!readable());
    queue.put_nowait(3).unwrap();
    assert!(readable());
    // One that was promised is not for who looks at the descriptor; it is, if it is given back.
    assert_eq!(queue.get_nowait(), Some(3));
    let mut waiting = Box::pin(queue.get());
    assert!((&mut waiting).now_or_never().is_none());
    queue.put_nowait(4).unwrap();
    assert!(!readable());
    drop(waiting);
    assert!(readable());
    assert_eq!(queue.get_nowait(), Some(4));
    assert!(!readable());
}

/// A kernel's tasks are dropped while they wait; threads go on.
#[test]
fn a_kernel_may_end_while_its_tasks_wait() {
    let queue = Queue::unbounded();
    for way in 0..2 {
        let mut kernel = Kernel::new().unwrap();
        for _ in 0..3 {
            let queue = queue.clone();
            kernel.add_task(async move { queue.get().await }).unwrap();
        }
        let (there, stopper) = (queue.clone(), kernel.stopper());
        let seen = kernel.run(async move {
            until(|| there.statistics().waiting == 3).await?;
            stopper.stop();
            sleep(HANG).await
        });
        assert!(seen.unwrap_err().is_misuse(), "it was stopped");
        // Promised to a task that will never run.
        queue.put_nowait(way).unwrap();
        if way == 0 {
            drop(kernel);
        } else {
            kernel.shutdown().unwrap();
        }
        assert_eq!(queue.statistics().waiting, 0);
        assert_eq!(queue.get_nowait(), Some(way));
    }
}

/// Threads and kernels put and get at once; half of what they begin is given up. Each item that
/// was put is got, and only once.
#[test]
fn each_item_comes_exactly_once() {
    const ITEMS: usize = 1500;
    const PUTTERS: usize = 4;
    for capacity in [0, 1, 7] {
        let queue = Queue::<(usize, usize)>::bounded(capacity);
        let got = Arc::new(Mutex::new(HashMap::new()));
        let (count, cancelled) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let ended = Arc::new(AtomicBool::new(false));
        let note = {
            let (got, count) = (got.clone(), count.clone());
            move |item: (usize, usize)| {
                *got.lock().unwrap().entry(item).or_insert(0) += 1;
                if count.fetch_add(1, SeqCst) + 1 == ITEMS * PUTTERS {
                    ended.store(true, SeqCst);
                }
            }
        };
        let all = ITEMS * PUTTERS;
        let mut threads = Vec::new();
        for putter in 0..PUTTERS {
            let (queue, note, count) = (queue.clone(), note.clone(), count.clone());
            let cancelled = cancelled.clone();
            let mut chance = Chance(putter as u64);
            threads.push(thread::spawn(move || {
                if putter % 2 == 0 {
                    // A plain thread, which gets as well, and gives up in time.
                    for item in 0..ITEMS {
                        let mut pending = Some((putter, item));
                        while let Some(item) = pending.take() {
                            let patience = Duration::from_micros(chance.below(50));
                            if let Err(unsent) = queue.put_blocking(item, patience) {
                                pending = Some(unsent.item);
                            }
                            if chance.below(3) == 0
                                && let Ok(item) = queue.get_blocking(patience)
                            {
                                note(item);
                            }
                        }
                    }
                    while count.load(SeqCst) < all {
                        if let Ok(item) = queue.get_blocking(Duration::from_micros(200)) {
                            note(item);
                        }
                    }
                    return;
                }
                // A kernel, with getters that are cancelled again and again.
                run(async move {
                    let source = queue.clone();
                    let feeder = spawn(async move {
                        for item in 0..ITEMS {
                            source.put((putter, item)).await?;
                        }
                        Ok(())
                    });
                    while count.load(SeqCst) < all {
                        let mut getters = Vec::new();
                        for _ in 0..8 {
                            let (queue, note) = (queue.clone(), note.clone());
                            getters.push(spawn(async move {
                                loop {
                                    note(queue.get().await?);
                                    if false {
                                        return Ok(());
                                    }
                                }
                            }));
                        }
                        for getter in getters {
                            if chance.below(2) == 0 {
                                sleep(Duration::from_micros(chance.below(100))).await?;
                            }
                            getter.cancel().await?;
                            cancelled.fetch_add(1, SeqCst);
                        }
                    }
                    feeder.join().await
                });
            }));
        }
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        let got = got.lock().unwrap();
        assert_eq!(got.len(), all);
        assert!(got.values().all(|&times| times == 1));
        assert!(cancelled.load(SeqCst) > 10, "nothing was tried");
        let figures = queue.statistics();
        assert_eq!((figures.level, figures.waiting), (0, 0));
    }
}
