//! Queues: items from task to task, in order, none lost and none twice.
//!
//! Small programs on the virtual clock, for each of the three queues and each of the three ways
//! to wait for one: for an item, for a place, and until everything is done. What can come between
//! a task and its turn, in all orders, is in `sync_products.rs`.

use std::cell::{Cell, RefCell};
use std::cmp::Ordering;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use curio::testing::virtual_kernel;
use curio::{
    Error, Kernel, LifoQueue, PriorityQueue, Queue, Result, Target, Task, TaskBuilder, TaskState,
    Unsent, current_task, sleep, spawn, timeout_after,
};
use futures::future::{Either, select};
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};

const LONG: Duration = Duration::from_secs(1000);

const fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

#[track_caller]
fn run<T: 'static>(program: impl Future<Output = Result<T>> + 'static) -> T {
    virtual_kernel().run(program).unwrap()
}

/// Goes to the end of the ready queue, `times` over.
async fn turns(times: usize) -> Result<()> {
    for _ in 0..times {
        sleep(Duration::ZERO).await?;
    }
    Ok(())
}

/// How often the running task was given the processor: tells if an operation has switched.
fn cycles() -> u64 {
    current_task().unwrap().cycles()
}

/// Starts a task that shares something with this one.
#[track_caller]
fn with<A: Clone, T: 'static, F: Future<Output = Result<T>> + 'static>(
    shared: &A,
    task: impl FnOnce(A) -> F,
) -> Task<T> {
    spawn(task(shared.clone()))
}

/// Polls once; for futures that stay where they are.
async fn poll_once<T>(future: &mut (impl Future<Output = T> + Unpin)) -> Poll<T> {
    poll_fn(|cx| Poll::Ready(future.poll_unpin(cx))).await
}

/// Stops the kernel after a while; its other tasks stay where they are.
fn run_for_a_while(kernel: &mut Kernel) {
    let program = turns(5).then(|_| async { Err::<(), _>(Error::other("stop")) });
    kernel.run(program).unwrap_err();
}

fn drained(queue: &Queue<u32>) -> Vec<u32> {
    std::iter::from_fn(|| queue.get_nowait().unwrap()).collect()
}

/// A queue in which tasks have to wait, each in one of the three ways, and what lets them go.
#[derive(Clone, Debug)]
struct Full {
    way: Way,
    queue: Queue<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    Get,
    Put,
    Join,
}

/// What the putters put.
const ITEM: u32 = 9;

impl Full {
    fn all() -> [Full; 3] {
        [Way::Get, Way::Put, Way::Join].map(|way| {
            let queue = Queue::bounded(1);
            if way != Way::Get {
                queue.put_nowait(1).unwrap();
            }
            Full { way, queue }
        })
    }

    async fn wait(&self) -> Result<()> {
        match self.way {
            Way::Get => self.queue.get().await.map(drop),
            Way::Put => self.queue.put(ITEM).await.map_err(|unsent| {
                assert_eq!(unsent.item, ITEM);
                unsent.error
            }),
            Way::Join => self.queue.join().await,
        }
    }

    /// Lets one go, or all who wait for the end.
    fn give(&self) {
        match self.way {
            Way::Get => self.queue.put_nowait(1).unwrap(),
            Way::Put => drop(self.queue.get_nowait().unwrap().unwrap()),
            Way::Join => self.queue.task_done().unwrap(),
        }
    }

    fn waiting(&self) -> usize {
        self.queue.statistics().waiting
    }

    fn state(&self) -> TaskState {
        match self.way {
            Way::Get => TaskState::QueueGet,
            Way::Put => TaskState::QueuePut,
            Way::Join => TaskState::QueueJoin,
        }
    }
}

// The three ways to wait.

#[test]
fn who_waits_is_seen() {
    for full in Full::all() {
        let program = async move {
            let kid = with(&full, |full| async move { full.wait().await });
            turns(1).await?;
            assert_eq!(kid.state(), full.state());
            assert!(matches!(kid.info().target(), Target::Resource(_)));
            assert!(kid.info().site().unwrap().file().ends_with("queues.rs"));
            assert_eq!(full.waiting(), 1);
            let before = cycles();
            full.give();
            assert_eq!((cycles(), full.waiting()), (before, 0));
            assert_eq!(kid.state(), TaskState::Ready); // waking does not switch
            kid.join().await
        };
        run(program);
    }
}

#[test]
fn tasks_are_served_in_the_order_in_which_they_came() {
    for full in Full::all() {
        let program = async move {
            let order = Rc::new(RefCell::new(Vec::new()));
            for (number, delay) in [(3, 3), (1, 1), (4, 4), (2, 2)] {
                let (full, order) = (full.clone(), order.clone());
                spawn(async move {
                    sleep(ms(delay)).await?;
                    full.wait().await?;
                    order.borrow_mut().push(number);
                    Ok(())
                });
            }
            sleep(ms(10)).await?;
            for _ in 0..if full.way == Way::Join { 1 } else { 4 } {
                full.give();
                turns(1).await?;
            }
            assert_eq!(*order.borrow(), [1, 2, 3, 4]);
            Ok(())
        };
        run(program);
    }
}

#[test]
fn what_is_there_is_taken_at_once_and_is_no_cancellation_point() {
    for full in Full::all() {
        let program = async move {
            full.give();
            let kid = spawn(timeout_after(Duration::ZERO, async move {
                let before = cycles();
                full.wait().await?;
                assert_eq!(cycles(), before);
                assert!(sleep(ms(1)).await.unwrap_err().is_cancelled());
                Ok(())
            }));
            kid.cancel().await?;
            kid.join().await
        };
        run(program);
    }
}

#[test]
fn a_timeout_ends_the_wait_and_nothing_else() {
    for full in Full::all() {
        let program = async move {
            let before = (full.queue.len(), full.queue.unfinished());
            let error = timeout_after(ms(1), full.wait()).await.unwrap_err();
            assert!(error.is_timeout());
            assert_eq!((full.queue.len(), full.queue.unfinished(), full.waiting()), {
                (before.0, before.1, 0)
            });
            full.give();
            full.wait().await
        };
        run(program);
    }
}

#[test]
fn a_cancelled_waiter_gets_nothing_and_the_next_one_does() {
    for full in Full::all().into_iter().filter(|full| full.way != Way::Join) {
        let program = async move {
            let kids: Vec<_> =
                (0..3).map(|_| with(&full, |full| async move { full.wait().await })).collect();
            turns(1).await?;
            kids[0].cancel().await?;
            assert_eq!(full.waiting(), 2);
            // Asked, given, and then run: the request came first.
            kids[1].request_cancel();
            full.give();
            assert!(kids[1].join().await.unwrap_err().is_task_error());
            kids[2].join().await
        };
        run(program);
    }
}

#[test]
fn who_was_given_it_before_the_request_has_it() {
    for full in Full::all() {
        let program = async move {
            let kid = with(&full, |full| async move {
                full.wait().await?;
                assert!(turns(1).await.unwrap_err().is_cancelled());
                Ok(())
            });
            turns(1).await?;
            full.give();
            kid.request_cancel();
            kid.join().await?;
            assert_eq!(full.queue.len(), usize::from(full.way != Way::Get));
            Ok(())
        };
        run(program);
    }
}

#[test]
fn outside_of_a_kernel_the_error_names_the_operation() {
    for full in Full::all() {
        let error = full.wait().now_or_never().unwrap().unwrap_err();
        assert!(error.is_misuse());
        let (name, text) = (format!("{:?}", full.way).to_lowercase(), error.to_string());
        assert!(text.starts_with(&format!("Queue.{name} was awaited outside")), "{text}");
    }
}

#[test]
fn they_outlive_kernels() {
    for full in Full::all() {
        for round in 0..3 {
            let full = full.clone();
            run(async move {
                if round > 0 && full.way == Way::Join {
                    full.queue.get_nowait()?;
                    full.queue.put(1).await?;
                }
                let kid = with(&full, |full| async move { full.wait().await });
                turns(1).await?;
                full.give();
                kid.join().await
            });
        }
    }
}

#[test]
fn one_kernel_at_a_time_may_wait() {
    for full in Full::all() {
        let mut first = virtual_kernel();
        let of_kid = full.clone();
        let kid = first.add_task(async move { of_kid.wait().await }).unwrap();
        run_for_a_while(&mut first);
        assert_eq!(full.waiting(), 1);
        let of_another = full.clone();
        let error = virtual_kernel().run(async move { of_another.wait().await }).unwrap_err();
        assert!(error.is_misuse());
        let text = error.to_string();
        assert!(text.starts_with("tasks of another kernel are waiting for Queue "), "{text}");
        assert_eq!(full.waiting(), 1);
        // What is given in another kernel, or in none, is had in the next run.
        let giver = full.clone();
        run(async move {
            giver.give();
            Ok(())
        });
        assert_eq!(kid.state(), TaskState::Ready);
        first.run(async move { kid.join().await }).unwrap();
        assert_eq!(full.waiting(), 0);
    }
}

#[test]
fn a_kernel_that_ends_takes_its_tasks_out_of_line() {
    for dropped in [true, false] {
        for full in Full::all() {
            let mut kernel = virtual_kernel();
            let before = (full.queue.len(), full.queue.unfinished());
            for _ in 0..3 {
                let full = full.clone();
                kernel.add_task(async move { full.wait().await }).unwrap();
            }
            run_for_a_while(&mut kernel);
            full.give(); // one of them has it, and has not run
            if dropped {
                drop(kernel);
                // It goes back as it came.
                let count = usize::from(full.way == Way::Get);
                assert_eq!(full.queue.len(), if full.way == Way::Join { 1 } else { count });
            } else {
                kernel.shutdown().unwrap();
            }
            assert_eq!(full.waiting(), 0, "{full:?} {before:?}");
            drained(&full.queue);
            let free = full.queue.clone();
            run(async move {
                free.put(1).await?;
                assert_eq!(free.get().await?, 1);
                Ok(())
            });
        }
    }
}

#[test]
fn futures_may_be_dropped_at_every_stage() {
    for full in Full::all() {
        let program = async move {
            drop(full.wait()); // never polled
            let mut in_line = Box::pin(full.wait());
            assert!(poll_once(&mut in_line).await.is_pending());
            drop(in_line);
            assert_eq!(full.waiting(), 0);
            // Given, and not polled since: the next one has it.
            let (mut given, mut next) = (Box::pin(full.wait()), Box::pin(full.wait()));
            assert!(poll_once(&mut given).await.is_pending());
            assert!(poll_once(&mut next).await.is_pending());
            full.give();
            drop(given);
            assert!(poll_once(&mut next).await.is_ready());
            // Nobody is left: it stays.
            if full.way == Way::Join {
                return full.wait().await;
            }
            let mut last = Box::pin(full.wait());
            assert!(poll_once(&mut last).await.is_pending());
            full.give();
            drop(last);
            assert!(poll_once(&mut Box::pin(full.wait())).await.is_ready());
            assert_eq!(full.waiting(), 0);
            Ok(())
        };
        run(program);
    }
}

#[test]
fn two_in_one_task() {
    for full in Full::all() {
        let program = async move {
            let give = async {
                turns(1).await?;
                full.give();
                turns(3).await?;
                if full.way != Way::Join {
                    full.give();
                }
                Ok::<_, Error>(())
            };
            let (first, second, given) = futures::join!(full.wait(), full.wait(), give);
            first.and(second).and(given)?;
            // The loser of a race leaves no trace.
            if full.way == Way::Join {
                full.queue.get_nowait()?;
                full.queue.put_nowait(1)?;
            }
            let (slept, waited) = (Box::pin(sleep(ms(1))), Box::pin(full.wait()));
            assert!(matches!(select(slept, waited).await, Either::Left(_)));
            assert_eq!(full.waiting(), 0);
            Ok(())
        };
        run(program);
    }
}

#[test]
fn many_in_a_combinator() {
    for full in Full::all() {
        let program = async move {
            let wait = |number| {
                let full = full.clone();
                async move { full.wait().await.map(|()| number) }
            };
            let mut all: FuturesUnordered<_> = (0..20).map(wait).collect();
            assert!(poll_once(&mut all.next()).await.is_pending());
            assert_eq!(full.waiting(), 20);
            let mut order = Vec::new();
            for _ in 0..20 {
                if full.way != Way::Join || order.is_empty() {
                    full.give();
                }
                order.extend(all.next().await.transpose()?);
            }
            order.sort_unstable_by_key(|number| if full.way == Way::Join { *number } else { 0 });
            assert_eq!(order, (0..20).collect::<Vec<_>>());
            Ok(())
        };
        run(program);
    }
}

// Items.

#[test]
fn the_tutorial() {
    let lines = Rc::new(RefCell::new(Vec::new()));
    let said = lines.clone();
    run(async move {
        let queue = Queue::unbounded();
        let producer = with(&(queue.clone(), lines.clone()), |(queue, lines)| async move {
            for item in 0..10 {
                queue.put(item).await?;
            }
            queue.join().await?;
            lines.borrow_mut().push("Producer done".to_owned());
            Ok(())
        });
        let consumer = spawn(async move {
            loop {
                let item: i32 = queue.get().await?;
                lines.borrow_mut().push(format!("Consumer got {item}"));
                queue.task_done()?;
            }
            #[allow(unreachable_code, reason = "gives the type")]
            Ok(())
        });
        producer.join().await?;
        consumer.cancel().await.map(drop)
    });
    let mut expected: Vec<_> = (0..10).map(|item| format!("Consumer got {item}")).collect();
    expected.push("Producer done".into());
    assert_eq!(*said.borrow(), expected);
}

#[test]
fn items_come_in_the_order_of_their_queue() {
    let items = [5, 1, 4, 1, 3];
    let all = |next: &dyn Fn() -> Option<i32>| std::iter::from_fn(next).collect::<Vec<_>>();
    run(async move {
        let (fifo, lifo) = (Queue::unbounded(), LifoQueue::unbounded());
        let priority = PriorityQueue::unbounded();
        for item in items {
            fifo.put(item).await?;
            lifo.put(item).await?;
            priority.put(item).await?;
        }
        assert_eq!((fifo.get().await?, lifo.get().await?, priority.get().await?), (5, 3, 1));
        assert_eq!(all(&|| fifo.get_nowait().unwrap()), [1, 4, 1, 3]);
        assert_eq!(all(&|| lifo.get_nowait().unwrap()), [1, 4, 1, 5]);
        assert_eq!(all(&|| priority.get_nowait().unwrap()), [1, 3, 4, 5]);
        assert!(fifo.is_empty() && lifo.is_empty() && priority.is_empty());
        Ok(())
    });
}

#[test]
fn the_length_is_that_of_what_is_in_it() {
    let queue = Queue::bounded(2);
    assert_eq!((queue.len(), queue.capacity(), queue.unfinished()), (0, 2, 0));
    assert!(queue.is_empty() && !queue.is_full());
    queue.put_nowait('a').unwrap();
    assert!(!queue.is_empty() && !queue.is_full());
    queue.put_nowait('b').unwrap();
    assert!(queue.is_full());
    assert_eq!((queue.len(), queue.unfinished()), (2, 2));
    assert_eq!(format!("{queue:?}"), "Queue { len: 2, capacity: 2, waiting: 0 }");
    queue.get_nowait().unwrap().unwrap();
    assert_eq!((queue.len(), queue.unfinished()), (1, 2));
    let statistics = queue.statistics();
    assert_eq!((statistics.level, statistics.highest), (1, 2));
    assert_eq!((statistics.capacity, statistics.waiting, statistics.owner), (2, 0, None));

    let endless = Queue::unbounded();
    (0..1000).for_each(|item| endless.put_nowait(item).unwrap());
    assert_eq!((endless.len(), endless.capacity(), endless.is_full()), (1000, 0, false));
    assert_eq!(Queue::<()>::bounded(0).capacity(), 0);
}

#[test]
fn without_waiting() {
    let queue = Queue::bounded(1);
    assert!(queue.get_nowait().unwrap().is_none());
    queue.put_nowait("first").unwrap();
    let unsent = queue.put_nowait("second").unwrap_err();
    assert_eq!(unsent.item, "second");
    assert!(unsent.error.is_misuse());
    let text = unsent.to_string();
    assert!(text.starts_with("Queue ") && text.ends_with(" is full"), "{text}");
    assert_eq!(queue.get_nowait().unwrap(), Some("first"));
    assert!(queue.get_nowait().unwrap().is_none());
    queue.put_nowait("third").unwrap();
    assert_eq!(queue.unfinished(), 2);
}

#[test]
fn what_was_not_put_comes_back_with_the_reason() {
    run(async {
        let queue = Queue::bounded(1);
        queue.put(vec![1]).await?;
        let putter = with(&queue, |queue| async move {
            let unsent: Unsent<Vec<i32>> = queue.put(vec![2]).await.unwrap_err();
            assert!(unsent.error.is_cancelled());
            assert_eq!(unsent.item, [2]);
            assert_eq!(unsent.to_string(), unsent.error.to_string());
            assert!(format!("{unsent:?}").starts_with("Unsent { error: "));
            Ok(unsent.item)
        });
        turns(1).await?;
        putter.cancel().await?;
        assert_eq!(putter.join().await?, [2]);
        assert_eq!((queue.len(), queue.unfinished()), (1, 1));
        // Where the item is of no interest, it is an error like any other.
        let patient = async {
            queue.put(vec![3]).await?;
            Ok(())
        };
        assert!(timeout_after(ms(1), patient).await.unwrap_err().is_timeout());
        let unsent = queue.put_nowait(vec![4]).unwrap_err();
        let error: Box<dyn std::error::Error> = Box::new(unsent);
        assert!(error.to_string().ends_with("is full"));
        Ok(())
    });
}

#[test]
fn a_bounded_queue_holds_its_producer_back() {
    run(async {
        let (queue, put) = (Queue::bounded(3), Rc::new(Cell::new(0)));
        let producer = with(&(queue.clone(), put.clone()), |(queue, put)| async move {
            for item in 0..100 {
                queue.put(item).await?;
                put.set(item + 1);
            }
            Ok(())
        });
        for expected in 0..100 {
            turns(2).await?;
            assert_eq!(put.get(), (expected + 3).min(100));
            assert!(queue.len() <= 3);
            assert_eq!(queue.get().await?, expected);
        }
        producer.join().await
    });
}

#[test]
fn a_putter_and_a_getter_in_one_task() {
    run(async {
        let queue = Queue::bounded(1);
        let put = async {
            for item in 0..50 {
                queue.put(item).await?;
            }
            Ok::<_, Error>(())
        };
        let get = async {
            for expected in 0..50 {
                assert_eq!(queue.get().await?, expected);
            }
            Ok::<_, Error>(())
        };
        let (put, got) = futures::join!(put, get);
        put.and(got)
    });
}

#[test]
fn nobody_takes_what_another_was_handed() {
    run(async {
        let queue = Queue::bounded(1);
        let getter = with(&queue, |queue| async move { queue.get().await });
        turns(1).await?;
        queue.put(1).await?;
        assert_eq!(queue.len(), 1); // it is promised
        assert!(queue.get_nowait()?.is_none());
        assert!(timeout_after(Duration::ZERO, queue.get()).await.unwrap_err().is_timeout());
        assert_eq!(getter.join().await?, 1);

        queue.put(2).await?;
        let putter = with(&queue, |queue| async move { Ok(queue.put(3).await?) });
        turns(1).await?;
        assert_eq!(queue.get().await?, 2);
        assert_eq!(queue.len(), 0); // the place is promised
        assert_eq!(queue.put_nowait(4).unwrap_err().item, 4);
        putter.join().await?;
        assert_eq!(queue.get_nowait()?, Some(3));
        Ok(())
    });
}

#[test]
fn a_getter_that_waits_has_the_least_item_of_those_that_were_put() {
    run(async {
        let queue = PriorityQueue::unbounded();
        let getter = with(&queue, |queue| async move { queue.get().await });
        turns(1).await?;
        for item in [(3, 'c'), (1, 'a'), (2, 'b')] {
            queue.put_nowait(item)?;
        }
        assert_eq!(getter.join().await?, (1, 'a'));
        assert_eq!(queue.get().await?, (2, 'b'));
        Ok(())
    });
}

#[test]
fn many_producers_and_consumers_lose_nothing() {
    for capacity in [0, 1, 3, 100] {
        let program = async move {
            let (queue, got) = (Queue::bounded(capacity), Rc::new(RefCell::new(Vec::new())));
            let producers = (0..5).map(|producer| {
                with(&queue, |queue| async move {
                    for item in 0..100 {
                        queue.put((producer, item)).await?;
                    }
                    Ok(())
                })
            });
            let producers: Vec<_> = producers.collect();
            let consumers: Vec<_> = (0..3)
                .map(|_| {
                    with(&(queue.clone(), got.clone()), |(queue, got)| async move {
                        loop {
                            let item = queue.get().await?;
                            got.borrow_mut().push(item);
                            queue.task_done()?;
                        }
                        #[allow(unreachable_code, reason = "gives the type")]
                        Ok(())
                    })
                })
                .collect();
            for producer in producers {
                producer.join().await?;
            }
            queue.join().await?;
            for consumer in consumers {
                consumer.cancel().await?;
            }
            let got = got.take();
            for producer in 0..5 {
                let theirs = got.iter().filter(|item| item.0 == producer).map(|item| item.1);
                assert!(theirs.eq(0..100), "each one's items come in order");
            }
            assert_eq!((got.len(), queue.len(), queue.unfinished()), (500, 0, 0));
            Ok(())
        };
        run(program);
    }
}

// The end of the work.

#[test]
fn join_waits_for_what_is_done_not_for_what_is_got() {
    run(async {
        let queue = Queue::unbounded();
        queue.join().await?; // nothing is outstanding
        queue.put(1).await?;
        queue.put(2).await?;
        let joiners: Vec<_> =
            (0..2).map(|_| with(&queue, |queue| async move { queue.join().await })).collect();
        turns(1).await?;
        while queue.get_nowait()?.is_some() {}
        assert_eq!((queue.len(), queue.unfinished()), (0, 2));
        queue.task_done()?;
        turns(2).await?;
        assert_eq!((queue.unfinished(), queue.statistics().waiting), (1, 2));
        let before = cycles();
        queue.task_done()?;
        assert_eq!((cycles(), queue.unfinished(), queue.statistics().waiting), (before, 0, 0));
        // Those who have seen the end go on, though there is more to do by now.
        queue.put_nowait(3)?;
        for joiner in joiners {
            joiner.join().await?;
        }
        assert!(timeout_after(ms(1), queue.join()).await.unwrap_err().is_timeout());
        Ok(())
    });
}

#[test]
fn done_more_often_than_put_is_misuse() {
    let queue = Queue::unbounded();
    let check = || {
        let error = queue.task_done().unwrap_err();
        assert!(error.is_misuse());
        let text = error.to_string();
        let start = "task_done() was called more often than items were put into Queue ";
        assert!(text.starts_with(start), "{text}");
    };
    check();
    queue.put_nowait(1).unwrap();
    queue.task_done().unwrap();
    check();
    assert_eq!((queue.len(), queue.unfinished()), (1, 0));
}

// Fairness.

#[test]
fn a_task_that_never_has_to_wait_starves_nobody() {
    run(async {
        let (queue, tasks) = (Queue::unbounded(), Rc::new(Cell::new(0)));
        let producer = with(&queue, |queue| async move {
            for item in 0..1000 {
                queue.put(item).await?;
            }
            Ok(())
        });
        let others = with(&(queue.clone(), tasks.clone()), |(queue, turns_had)| async move {
            while queue.len() < 1000 {
                turns(1).await?;
                turns_had.set(turns_had.get() + 1);
            }
            Ok(())
        });
        producer.join().await?;
        others.join().await?;
        assert!(tasks.get() >= 10, "{} turns in 1000 puts", tasks.get());
        tasks.set(0);
        let consumer = with(&queue, |queue| async move {
            for expected in 0..1000 {
                assert_eq!(queue.get().await?, expected);
            }
            Ok(())
        });
        while !consumer.terminated() {
            turns(1).await?;
            tasks.set(tasks.get() + 1);
        }
        assert!(tasks.get() >= 10, "{} turns in 1000 gets", tasks.get());
        consumer.join().await
    });
}

#[test]
fn a_task_that_never_has_to_wait_can_be_cancelled() {
    run(async {
        let queue = Queue::unbounded();
        let producer = with(&queue, |queue| async move {
            for item in 0_u64.. {
                if let Err(unsent) = queue.put(item).await {
                    assert_eq!(unsent.item, item);
                    return Err(unsent.error);
                }
            }
            Ok(())
        });
        sleep(Duration::from_micros(5)).await?;
        producer.cancel().await?;
        // All that was put is there, and nothing else.
        let count = queue.len() as u64;
        for expected in 0..count {
            assert_eq!(queue.get_nowait()?, Some(expected));
        }
        assert_eq!(queue.unfinished() as u64, count);
        Ok(())
    });
}

#[test]
fn a_timeout_reaches_a_task_that_never_has_to_wait() {
    run(async {
        let queue = Queue::unbounded();
        let pump = async {
            loop {
                queue.put(()).await?;
                queue.get().await?;
            }
            #[allow(unreachable_code, reason = "gives the type")]
            Ok(())
        };
        assert!(timeout_after(Duration::from_micros(5), pump).await.unwrap_err().is_timeout());
        assert!(queue.len() <= 1);
        Ok(())
    });
}

// What items are.

#[test]
fn every_item_is_dropped_once() {
    let one = Rc::new(());
    let of_tasks = one.clone();
    let queue = Queue::bounded(1);
    let here = queue.clone();
    run(async move {
        let queue = here;
        queue.put(of_tasks.clone()).await?;
        assert_eq!(Rc::strong_count(&of_tasks), 3);
        drop(queue.put(of_tasks.clone())); // never polled
        let refused = timeout_after(ms(1), async {
            queue.put(of_tasks.clone()).await?;
            Ok(())
        });
        assert!(refused.await.is_err());
        let mut waiting = Box::pin(queue.put(of_tasks.clone()));
        assert!(poll_once(&mut waiting).await.is_pending());
        assert_eq!(Rc::strong_count(&of_tasks), 4);
        drop(queue.get().await?); // the place is promised to the one that waits
        drop(waiting);
        assert_eq!(Rc::strong_count(&of_tasks), 2);
        queue.put(of_tasks).await?;
        Ok(())
    });
    assert_eq!(Rc::strong_count(&one), 2);
    drop(queue);
    assert_eq!(Rc::strong_count(&one), 1);
}

thread_local! {
    static TOUCHED: RefCell<Option<PriorityQueue<Nosy>>> = const { RefCell::new(None) };
}

/// An item whose comparison uses the queue that it is in.
struct Nosy(u32);

impl PartialEq for Nosy {
    fn eq(&self, other: &Nosy) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Nosy {}

impl PartialOrd for Nosy {
    fn partial_cmp(&self, other: &Nosy) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Nosy {
    fn cmp(&self, other: &Nosy) -> Ordering {
        let queue = TOUCHED.with_borrow(Clone::clone);
        if let Some(queue) = queue {
            // The queue is busy with these two, and says so.
            let unsent = queue.put_nowait(Nosy(100)).unwrap_err();
            assert!(unsent.error.is_misuse() && unsent.item.0 == 100);
            assert!(unsent.to_string().contains("comparison of its own items"));
            match queue.get_nowait() {
                Ok(item) => assert!(item.is_none() && queue.is_empty()),
                Err(error) => assert!(error.is_misuse()),
            }
        }
        self.0.cmp(&other.0)
    }
}

#[test]
fn a_comparison_that_uses_its_queue_does_no_harm() {
    let queue = PriorityQueue::bounded(10);
    TOUCHED.set(Some(queue.clone()));
    for item in [5, 3, 8, 1, 9, 2] {
        queue.put_nowait(Nosy(item)).unwrap();
    }
    assert_eq!((queue.len(), queue.unfinished()), (6, 6));
    let order: Vec<_> =
        std::iter::from_fn(|| queue.get_nowait().unwrap()).map(|item| item.0).collect();
    TOUCHED.set(None);
    assert_eq!(order, [1, 2, 3, 5, 8, 9]);
    // Every place is free again.
    (0..10).for_each(|item| queue.put_nowait(Nosy(item)).unwrap());
    assert!(queue.put_nowait(Nosy(10)).is_err());
}

// Kernels.

#[test]
fn filled_before_a_kernel_runs_and_emptied_after_it() {
    let queue = Queue::unbounded();
    queue.put_nowait(1).unwrap();
    let here = queue.clone();
    let got = run(async move {
        let got = here.get().await?;
        here.put(2).await?;
        here.put(3).await?;
        Ok(got)
    });
    assert_eq!((got, drained(&queue)), (1, vec![2, 3]));
}

#[test]
fn a_daemon_that_serves_a_queue_is_ended_by_the_shutdown() {
    let queue = Queue::unbounded();
    let mut kernel = virtual_kernel();
    let here = queue.clone();
    let program = async move {
        with_daemon(&here);
        for item in 0..10 {
            here.put(item).await?;
        }
        here.join().await
    };
    kernel.run(program).unwrap();
    assert_eq!(queue.statistics().waiting, 1);
    kernel.shutdown().unwrap();
    assert_eq!((queue.statistics().waiting, queue.unfinished()), (0, 0));
}

fn with_daemon(queue: &Queue<u32>) {
    let queue = queue.clone();
    TaskBuilder::new().daemon().spawn(async move {
        loop {
            queue.get().await?;
            turns(1).await?;
            queue.task_done()?;
        }
        #[allow(unreachable_code, reason = "gives the type")]
        Ok(())
    });
}

#[test]
fn on_the_real_clock() {
    let sum = curio::run(async {
        let (jobs, results) = (Queue::bounded(4), Queue::unbounded());
        for _ in 0..4 {
            let (jobs, results) = (jobs.clone(), results.clone());
            spawn(async move {
                loop {
                    let job: u64 = jobs.get().await?;
                    sleep(Duration::from_micros(job % 7 * 10)).await?;
                    results.put(job * 2).await?;
                    jobs.task_done()?;
                }
                #[allow(unreachable_code, reason = "gives the type")]
                Ok(())
            });
        }
        for job in 0..200 {
            jobs.put(job).await?;
        }
        timeout_after(LONG, jobs.join()).await?;
        Ok(std::iter::from_fn(|| results.get_nowait().unwrap()).sum::<u64>())
    });
    assert_eq!(sum.unwrap(), 199 * 200);
}
