//! Events, locks, semaphores and conditions: what each of them promises.
//!
//! Small programs on the virtual clock. What can come between a task and its turn, in all
//! orders, is in `sync_products.rs`; here is what a user reads in the documentation: order,
//! hand-over, errors and their texts, figures, futures that are dropped, and life before, between
//! and after kernels.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use curio::sync::{Condition, Event, Guard, Lock, Permit, RLock, Semaphore, Statistics};
use curio::testing::virtual_kernel;
use curio::{
    Error, Kernel, Result, Target, Task, TaskBuilder, TaskState, current_task,
    disable_cancellation, sleep, spawn, timeout_after,
};
use futures::future::{Either, LocalBoxFuture, select};
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

/// What has happened, in order.
#[derive(Clone, Default)]
struct Trace(Rc<RefCell<Vec<String>>>);

impl Trace {
    fn note(&self, event: impl Into<String>) {
        self.0.borrow_mut().push(event.into());
    }

    #[track_caller]
    fn expect(&self, events: &[&str]) {
        assert_eq!(*self.0.borrow(), events);
    }
}

/// The primitives behind one face: something to wait for, and a way to give it.
#[derive(Clone)]
enum Any {
    Event(Event),
    Lock(Lock<u32>),
    Semaphore(Semaphore),
    Condition(Condition, Lock<u32>),
}

/// What makes others wait, and what one has waited for. Dropped, it is given back.
#[allow(dead_code, reason = "kept for their drops")]
enum Held<'a> {
    Nothing,
    Lock(Guard<'a, u32>),
    Permit(Permit<'a>),
}

impl Any {
    fn all() -> Vec<Any> {
        vec![
            Any::Event(Event::new()),
            Any::Lock(Lock::new(0)),
            Any::Semaphore(Semaphore::new(1)),
            Any::Condition(Condition::new(), Lock::new(0)),
        ]
    }

    async fn take(&self) -> Result<Held<'_>> {
        match self {
            Any::Event(event) => event.wait().await.map(|()| Held::Nothing),
            Any::Lock(lock) => lock.acquire().await.map(Held::Lock),
            Any::Semaphore(semaphore) => semaphore.acquire().await.map(Held::Permit),
            Any::Condition(condition, lock) => {
                let mut guard = lock.acquire().await?;
                condition.wait(&mut guard).await?;
                Ok(Held::Lock(guard))
            }
        }
    }

    /// Makes it so that others wait.
    fn occupy(&self) -> Held<'_> {
        match self {
            Any::Event(event) => {
                event.clear();
                Held::Nothing
            }
            Any::Lock(lock) => Held::Lock(lock.acquire_nowait().unwrap()),
            Any::Semaphore(semaphore) => Held::Permit(semaphore.acquire_nowait().unwrap()),
            Any::Condition(..) => Held::Nothing,
        }
    }

    /// Lets one in.
    fn give(&self, held: Held<'_>) {
        drop(held);
        match self {
            Any::Event(event) => event.set_nowait(),
            Any::Condition(condition, _) => condition.notify(1),
            Any::Lock(_) | Any::Semaphore(_) => {}
        }
    }

    fn statistics(&self) -> Statistics {
        match self {
            Any::Event(event) => event.statistics(),
            Any::Lock(lock) => lock.statistics(),
            Any::Semaphore(semaphore) => semaphore.statistics(),
            Any::Condition(condition, _) => condition.statistics(),
        }
    }

    /// Nobody has it and nobody waits for it; it is as new.
    #[track_caller]
    fn expect_idle(&self) {
        let Statistics { owner, waiting, .. } = self.statistics();
        assert_eq!((owner, waiting), (None, 0));
        match self {
            Any::Event(_) => {}
            Any::Lock(lock) | Any::Condition(_, lock) => {
                assert!(!lock.is_locked() && lock.statistics().waiting == 0);
            }
            Any::Semaphore(semaphore) => assert_eq!(semaphore.value(), 1),
        }
    }

    fn state(&self) -> TaskState {
        match self {
            Any::Event(_) => TaskState::EventWait,
            Any::Lock(_) => TaskState::LockAcquire,
            Any::Semaphore(_) => TaskState::SemaAcquire,
            Any::Condition(..) => TaskState::CondWait,
        }
    }
}

// What holds for all of them.

#[test]
fn who_waits_is_seen() {
    for any in Any::all() {
        let program = async move {
            let held = any.occupy();
            let kid = with(&any, |any| async move { any.take().await.map(drop) });
            turns(1).await?;
            assert_eq!(kid.state(), any.state());
            assert!(matches!(kid.info().target(), Target::Resource(_)));
            assert!(kid.info().site().unwrap().file().ends_with("sync.rs"));
            assert_eq!(any.statistics().waiting, 1);
            any.give(held);
            assert_eq!(any.statistics().waiting, 0);
            assert_eq!(kid.state(), TaskState::Ready);
            kid.join().await?;
            any.expect_idle();
            Ok(())
        };
        run(program);
    }
}

#[test]
fn tasks_are_served_in_the_order_in_which_they_came() {
    for any in Any::all() {
        let trace = Trace::default();
        let seen = trace.clone();
        let program = async move {
            let held = any.occupy();
            for (name, delay) in [("third", 3), ("first", 1), ("fourth", 4), ("second", 2)] {
                let (any, trace) = (any.clone(), trace.clone());
                spawn(async move {
                    sleep(ms(delay)).await?;
                    let held = any.take().await?;
                    trace.note(name);
                    turns(3).await?;
                    any.give(held); // to the next
                    Ok(())
                });
            }
            sleep(ms(10)).await?;
            any.give(held);
            Ok(())
        };
        run(program);
        seen.expect(&["first", "second", "third", "fourth"]);
    }
}

#[test]
fn waking_does_not_switch() {
    for any in Any::all() {
        let program = async move {
            let held = any.occupy();
            let kid = with(&any, |any| async move { any.take().await.map(drop) });
            turns(1).await?;
            let before = cycles();
            any.give(held);
            assert_eq!(cycles(), before);
            assert_eq!(kid.state(), TaskState::Ready);
            kid.join().await
        };
        run(program);
    }
}

#[test]
fn what_is_there_is_taken_at_once_and_is_no_cancellation_point() {
    let all = Any::all().into_iter().filter(|any| !matches!(any, Any::Condition(..)));
    for any in all {
        if let Any::Event(event) = &any {
            event.set_nowait();
        }
        let program = async move {
            let kid = spawn(timeout_after(Duration::ZERO, async move {
                let before = cycles();
                let held = any.take().await?;
                assert_eq!(cycles(), before);
                drop(held);
                let next = sleep(ms(1)).await;
                assert!(next.unwrap_err().is_cancelled());
                any.take().await.map(drop)
            }));
            kid.cancel().await?;
            kid.join().await
        };
        run(program);
    }
}

#[test]
fn outside_of_a_kernel_the_error_names_the_operation() {
    for any in Any::all() {
        let held = any.occupy();
        // A condition's lock comes first.
        let operation = match &any {
            Any::Event(_) => "Event.wait",
            Any::Lock(_) | Any::Condition(..) => "Lock.acquire",
            Any::Semaphore(_) => "Semaphore.acquire",
        };
        let error = any.take().now_or_never().unwrap().err().unwrap();
        assert!(error.is_misuse());
        let text = error.to_string();
        assert!(text.starts_with(&format!("{operation} was awaited outside")), "{text}");
        drop(held);
        any.expect_idle();
    }
}

#[test]
fn they_outlive_kernels() {
    for any in Any::all() {
        for _ in 0..3 {
            let here = any.clone();
            let program = async move {
                let held = here.occupy();
                let kid = with(&here, |any| async move { any.take().await.map(drop) });
                turns(1).await?;
                here.give(held);
                kid.join().await
            };
            run(program);
            any.expect_idle();
        }
    }
}

#[test]
fn what_is_given_outside_of_a_kernel_is_had_in_its_next_run() {
    for any in Any::all() {
        let held = any.occupy();
        let mut kernel = virtual_kernel();
        let kid = kernel
            .add_task({
                let any = any.clone();
                async move { any.take().await.map(drop) }
            })
            .unwrap();
        let failed = async { Err::<(), _>(Error::other("stop")) };
        kernel.run(async { turns(2).await }.then(|_| failed)).unwrap_err();
        assert_eq!(kid.state(), any.state());
        any.give(held);
        assert_eq!(kid.state(), TaskState::Ready);
        kernel.run(async move { kid.join().await }).unwrap();
        any.expect_idle();
    }
}

#[test]
fn a_kernel_that_is_dropped_takes_its_tasks_out_of_line() {
    for any in Any::all() {
        for crowd in CROWDS {
            drop(stopped_with(crowd, &any));
            any.expect_idle();
            they_work(&any);
        }
    }
}

#[test]
fn a_kernel_that_is_shut_down_takes_its_tasks_out_of_line() {
    for any in Any::all() {
        for crowd in CROWDS {
            stopped_with(crowd, &any).shutdown().unwrap();
            any.expect_idle();
            they_work(&any);
        }
    }
}

/// Who holds while others wait.
#[derive(Clone, Copy, PartialEq)]
enum Crowd {
    Oldest,
    Youngest,
    /// One that was given it, and has not run since.
    Given,
}

const CROWDS: [Crowd; 3] = [Crowd::Oldest, Crowd::Youngest, Crowd::Given];

fn stopped_with(crowd: Crowd, any: &Any) -> Kernel {
    let mut kernel = virtual_kernel();
    kernel.run(gather(crowd, any.clone())).unwrap();
    assert!(any.statistics().waiting > 1);
    kernel
}

async fn gather(crowd: Crowd, any: Any) -> Result<()> {
    let hold = |any: Any| async move {
        let held = any.occupy();
        sleep(LONG).await?;
        any.give(held);
        Ok(())
    };
    let wait = |any: Any| async move {
        turns(2).await?;
        let _held = any.take().await?;
        sleep(LONG).await.map(drop)
    };
    let daemon = TaskBuilder::daemon;
    if crowd == Crowd::Oldest {
        daemon(TaskBuilder::new()).spawn(hold(any.clone()));
    }
    let held = (crowd == Crowd::Given).then(|| any.occupy());
    for _ in 0..3 {
        daemon(TaskBuilder::new()).spawn(wait(any.clone()));
    }
    if crowd == Crowd::Youngest {
        daemon(TaskBuilder::new()).spawn(hold(any.clone()));
    }
    turns(5).await?;
    if let (Some(held), false) = (held, matches!(any, Any::Event(_))) {
        any.give(held);
    }
    Ok(())
}

fn they_work(any: &Any) {
    let any = any.clone();
    run(async move {
        let held = any.occupy();
        let kid = with(&any, |any| async move { any.take().await.map(drop) });
        turns(1).await?;
        any.give(held);
        kid.join().await
    });
}

#[test]
fn one_kernel_at_a_time_may_wait() {
    for any in Any::all() {
        let held = any.occupy();
        let mut first = virtual_kernel();
        let kid = first
            .add_task({
                let any = any.clone();
                async move { any.take().await.map(drop) }
            })
            .unwrap();
        first.run(async { Err::<(), _>(Error::other("stop")) }).unwrap_err();
        // The kid has not run yet, or has; after this it has for sure.
        first.run(turns(2).then(|_| async { Err::<(), _>(Error::other("stop")) })).unwrap_err();
        assert_eq!(any.statistics().waiting, 1);

        let of_another = any.clone();
        let error =
            virtual_kernel().run(async move { of_another.take().await.map(drop) }).unwrap_err();
        assert!(error.is_misuse());
        let text = error.to_string();
        assert!(text.starts_with("tasks of another kernel are waiting for "), "{text}");
        assert_eq!(any.statistics().waiting, 1);

        // From inside of another kernel it can be given all the same.
        let giver = any.clone();
        drop(held);
        run(async move {
            giver.give(Held::Nothing);
            Ok(())
        });
        assert_eq!(kid.state(), TaskState::Ready);
        first.run(async move { kid.join().await }).unwrap();
        any.expect_idle();
        they_work(&any);
    }
}

#[test]
fn futures_may_be_dropped_at_every_stage() {
    for any in Any::all() {
        let program = async move {
            drop(any.take()); // never polled
            any.expect_idle();

            let held = any.occupy();
            let mut in_line = Box::pin(any.take());
            assert!(poll_once(&mut in_line).await.is_pending());
            assert_eq!(any.statistics().waiting, 1);
            drop(in_line);
            assert_eq!(any.statistics().waiting, 0);

            // Given, and not polled since: the next one has it.
            let (mut given, mut next) = (Box::pin(any.take()), Box::pin(any.take()));
            assert!(poll_once(&mut given).await.is_pending());
            assert!(poll_once(&mut next).await.is_pending());
            any.give(held);
            drop(given);
            assert!(poll_once(&mut next).await.is_ready());
            drop(next);
            any.expect_idle();
            Ok(())
        };
        run(program);
    }
}

#[test]
fn what_the_last_one_was_given_in_vain_is_free() {
    for any in Any::all() {
        let program = async move {
            let held = any.occupy();
            let mut given = Box::pin(any.take());
            assert!(poll_once(&mut given).await.is_pending());
            any.give(held);
            drop(given);
            any.expect_idle();
            match &any {
                Any::Event(event) => assert!(event.is_set()),
                Any::Lock(_) | Any::Semaphore(_) => drop(any.occupy()),
                // A notification is for those who wait.
                Any::Condition(..) => {
                    let waited = timeout_after(ms(1), any.take()).await;
                    assert!(waited.err().unwrap().is_timeout());
                }
            }
            Ok(())
        };
        run(program);
    }
}

#[test]
fn two_in_one_task() {
    for any in Any::all() {
        let program = async move {
            let (trace, held) = (Trace::default(), any.occupy());
            let one = |name: &'static str| {
                let (any, trace) = (any.clone(), trace.clone());
                async move {
                    let held = any.take().await?;
                    trace.note(name);
                    turns(2).await?;
                    any.give(held);
                    Ok::<_, Error>(())
                }
            };
            let both = async { futures::join!(one("first"), one("second")) };
            let give = async {
                turns(3).await?;
                any.give(held);
                Ok::<_, Error>(())
            };
            let ((first, second), given) = futures::join!(both, give);
            first.and(second).and(given)?;
            trace.expect(&["first", "second"]);
            any.expect_idle();
            Ok(())
        };
        run(program);
    }
}

#[test]
fn the_loser_of_a_select_leaves_no_trace() {
    for any in Any::all() {
        let program = async move {
            let held = any.occupy();
            let (slept, taken) = (Box::pin(sleep(ms(1))), Box::pin(any.take()));
            assert!(matches!(select(slept, taken).await, Either::Left(_)));
            assert_eq!(any.statistics().waiting, 0);

            // Both at once: one of them is dropped with what it was given.
            let (one, other) = (Box::pin(any.take()), Box::pin(any.take()));
            let race = async { select(one, other).await.factor_first().0.map(drop) };
            let give = async {
                turns(1).await?;
                any.give(held);
                any.give(Held::Nothing);
                Ok::<_, Error>(())
            };
            let (won, given) = futures::join!(race, give);
            won.and(given)?;
            any.expect_idle();
            Ok(())
        };
        run(program);
    }
}

#[test]
fn many_in_a_combinator_come_in_their_order() {
    for any in Any::all() {
        let program = async move {
            let held = any.occupy();
            let take = |number| {
                let any = any.clone();
                async move {
                    any.give(any.take().await.unwrap());
                    number
                }
            };
            let mut all: FuturesUnordered<_> = (0..20).map(take).collect();
            assert!(poll_once(&mut all.next()).await.is_pending());
            any.give(held);
            let order: Vec<_> = all.collect().await;
            assert_eq!(order.len(), 20);
            // An event lets all of them go at once, and the set does not keep their order then.
            if !matches!(any, Any::Event(_)) {
                assert_eq!(order, (0..20).collect::<Vec<_>>());
            }
            any.expect_idle();
            Ok(())
        };
        run(program);
    }
}

#[test]
fn a_cancelled_waiter_gets_nothing_and_the_next_one_does() {
    for any in Any::all() {
        let program = async move {
            let held = any.occupy();
            let kids: Vec<_> = (0..3)
                .map(|_| {
                    let any = any.clone();
                    spawn(async move { any.take().await.map(drop) })
                })
                .collect();
            turns(1).await?;
            kids[0].cancel().await?;
            assert_eq!(any.statistics().waiting, 2);
            assert!(kids[0].join().await.unwrap_err().task_cause().unwrap().is_cancelled());
            // Asked, given, and then run: the request came first.
            kids[1].request_cancel();
            any.give(held);
            assert!(kids[1].join().await.unwrap_err().is_task_error());
            kids[2].join().await?;
            any.expect_idle();
            Ok(())
        };
        run(program);
    }
}

#[test]
fn who_was_given_it_before_the_request_has_it() {
    for any in Any::all() {
        let program = async move {
            let held = any.occupy();
            let kid = with(&any, |any| async move {
                let held = any.take().await?;
                let next = turns(1).await;
                assert!(next.unwrap_err().is_cancelled());
                any.give(held);
                Ok(())
            });
            turns(1).await?;
            any.give(held);
            kid.request_cancel();
            kid.join().await?;
            any.expect_idle();
            Ok(())
        };
        run(program);
    }
}

#[test]
fn a_timeout_is_for_the_wait_alone() {
    for any in Any::all() {
        let program = async move {
            let held = any.occupy();
            let error = timeout_after(ms(1), any.take()).await.err().unwrap();
            assert!(error.is_timeout());
            assert_eq!(any.statistics().waiting, 0);
            let give = with(&any, |any| async move {
                sleep(ms(5)).await?;
                any.give(Held::Nothing);
                Ok(())
            });
            drop(held);
            timeout_after(ms(100), any.take()).await.map(drop)?;
            give.join().await
        };
        run(program);
    }
}

#[test]
fn clones_are_the_same() {
    for any in Any::all() {
        let other = any.clone();
        let held = any.occupy();
        run(async move {
            let waited = timeout_after(ms(1), other.take()).await;
            assert!(waited.err().unwrap().is_timeout());
            Ok(())
        });
        drop(held);
        any.expect_idle();
    }
}

// Events.

#[test]
fn an_event_that_is_set_lets_everybody_through() {
    let event = Event::new();
    assert!(!event.is_set());
    event.set_nowait();
    assert!(event.is_set());
    event.set_nowait();
    let here = event.clone();
    run(async move {
        let before = cycles();
        here.wait().await?;
        here.wait().await?;
        assert_eq!(cycles(), before);
        here.clear();
        here.clear();
        assert!(timeout_after(ms(1), here.wait()).await.unwrap_err().is_timeout());
        Ok(())
    });
    assert!(!event.is_set());
}

#[test]
fn set_lets_those_that_waited_run_first() {
    let trace = Trace::default();
    let seen = trace.clone();
    run(async move {
        let event = Event::new();
        for name in ["first", "second", "third"] {
            let (event, trace) = (event.clone(), trace.clone());
            spawn(async move {
                event.wait().await?;
                trace.note(name);
                Ok(())
            });
        }
        turns(1).await?;
        event.set().await?;
        trace.note("the setter is back");
        Ok(())
    });
    seen.expect(&["first", "second", "third", "the setter is back"]);
}

#[test]
fn set_nowait_goes_on_first() {
    let trace = Trace::default();
    let seen = trace.clone();
    run(async move {
        let event = Event::new();
        let of_waiter = (event.clone(), trace.clone());
        let waiter = spawn(async move {
            of_waiter.0.wait().await?;
            of_waiter.1.note("woken");
            Ok(())
        });
        turns(1).await?;
        event.set_nowait();
        trace.note("the setter goes on");
        waiter.join().await
    });
    seen.expect(&["the setter goes on", "woken"]);
}

#[test]
fn set_always_switches_once() {
    run(async {
        let event = Event::new();
        for _ in 0..2 {
            let before = cycles();
            event.set().await?; // nobody waits
            assert_eq!(cycles(), before + 1);
        }
        Ok(())
    });
}

#[test]
fn those_that_were_woken_go_on_though_it_is_cleared() {
    run(async {
        let event = Event::new();
        let waiter = with(&event, |event| async move { event.wait().await });
        turns(1).await?;
        event.set_nowait();
        event.clear();
        assert!(!event.is_set());
        waiter.join().await
    });
}

#[test]
fn set_is_no_cancellation_point() {
    run(async {
        let event = Event::new();
        let setter = spawn({
            let event = event.clone();
            timeout_after(Duration::ZERO, async move {
                event.set().await?;
                assert!(sleep(ms(1)).await.unwrap_err().is_cancelled());
                Ok(())
            })
        });
        setter.request_cancel();
        setter.join().await?;
        assert!(event.is_set());
        // A request that comes while it lets others run waits as well.
        let event = Event::new();
        let setter = with(&event, |event| async move {
            event.set().await?;
            assert!(sleep(ms(1)).await.unwrap_err().is_cancelled());
            Ok(())
        });
        turns(1).await?;
        assert!(event.is_set() && setter.request_cancel());
        setter.join().await
    });
}

#[test]
fn set_outside_of_a_kernel_is_misuse() {
    let error = Event::new().set().now_or_never().unwrap().unwrap_err();
    assert!(error.is_misuse());
    assert!(error.to_string().starts_with("Event.set was awaited outside"), "{error}");
}

#[test]
fn set_works_in_a_combinator() {
    run(async {
        let event = Event::new();
        let (set, waited) = futures::join!(event.set(), event.wait());
        set.and(waited)?;
        let mut both: FuturesUnordered<LocalBoxFuture<'_, Result<()>>> = FuturesUnordered::new();
        let event = Event::new();
        both.push(event.wait().boxed_local());
        both.push(event.set().boxed_local());
        while let Some(ended) = both.next().await {
            ended?;
        }
        Ok(())
    });
}

#[test]
fn figures_and_text_of_an_event() {
    let event = Event::new();
    assert_eq!(event.statistics(), Statistics::default());
    assert_eq!(format!("{event:?}"), "Event { set: false, waiting: 0 }");
    event.set_nowait();
    assert_eq!((event.statistics().level, event.statistics().highest), (1, 1));
    event.clear();
    assert_eq!((event.statistics().level, event.statistics().highest), (0, 1));
    let here = event.clone();
    run(async move {
        let (first, second) = (here.wait(), here.wait());
        let look = async {
            assert_eq!(format!("{here:?}"), "Event { set: false, waiting: 2 }");
            here.set_nowait();
            assert_eq!(format!("{here:?}"), "Event { set: true, waiting: 0 }");
        };
        let (first, second, ()) = futures::join!(first, second, look);
        first.and(second)
    });
}

// Locks.

#[test]
fn a_lock_keeps_others_from_its_value() {
    let counter = Lock::new(0);
    let of_tasks = counter.clone();
    run(async move {
        let inside = Rc::new(Cell::new(false));
        for _ in 0..10 {
            let (counter, inside) = (of_tasks.clone(), inside.clone());
            spawn(async move {
                for _ in 0..10 {
                    let mut count = counter.acquire().await?;
                    assert!(!inside.replace(true));
                    let before = *count;
                    turns(2).await?;
                    *count = before + 1;
                    inside.set(false);
                }
                Ok(())
            });
        }
        Ok(())
    });
    assert_eq!(*counter.acquire_nowait().unwrap(), 100);
}

#[test]
fn nobody_overtakes_who_was_handed_the_lock() {
    run(async {
        let lock = Lock::new(());
        let guard = lock.acquire().await?;
        let waiter = with(&lock, |lock| async move { lock.acquire().await.map(drop) });
        turns(1).await?;
        drop(guard);
        // The waiter has not run, and has it.
        assert!(lock.is_locked() && lock.acquire_nowait().is_none());
        assert_eq!(lock.statistics().owner, Some(waiter.id()));
        let before = waiter.cycles();
        drop(lock.acquire().await?);
        assert_eq!(waiter.cycles(), before + 1);
        assert!(waiter.terminated());
        Ok(())
    });
}

#[test]
fn a_lock_goes_from_hand_to_hand_and_the_releaser_goes_to_the_end() {
    let trace = Trace::default();
    let seen = trace.clone();
    run(async move {
        let lock = Lock::new(());
        for name in ["a", "b"] {
            let (lock, trace) = (lock.clone(), trace.clone());
            spawn(async move {
                for round in 0..3 {
                    let _guard = lock.acquire().await?;
                    trace.note(format!("{name}{round}"));
                    turns(1).await?;
                }
                Ok(())
            });
        }
        Ok(())
    });
    seen.expect(&["a0", "b0", "a1", "b1", "a2", "b2"]);
}

#[test]
fn a_panic_releases_the_lock() {
    run(async {
        let lock = Lock::new(7);
        let clumsy = with(&lock, |lock| async move {
            let mut guard = lock.acquire().await?;
            *guard = 8;
            turns(1).await?;
            if *guard == 8 {
                panic!("oh");
            }
            Ok(())
        });
        turns(1).await?;
        assert_eq!(*lock.acquire().await?, 8);
        assert!(clumsy.join().await.unwrap_err().task_cause().unwrap().is_panic());
        Ok(())
    });
}

#[test]
fn a_cancelled_holder_releases_on_its_way_out() {
    run(async {
        let lock = Lock::new(());
        let holder = with(&lock, |lock| async move {
            let _guard = lock.acquire().await?;
            sleep(LONG).await.map(drop)
        });
        turns(1).await?;
        assert!(lock.is_locked());
        holder.cancel().await?;
        assert!(!lock.is_locked());
        Ok(())
    });
}

#[test]
fn figures_and_text_of_a_lock() {
    let lock = Lock::new(5);
    assert_eq!(lock.statistics(), Statistics::default());
    assert_eq!(format!("{lock:?}"), "Lock { owner: None, waiting: 0 }");
    let guard = lock.acquire_nowait().unwrap();
    // Held, but by no task.
    assert!(lock.is_locked() && lock.statistics().owner.is_none());
    assert_eq!(format!("{guard:?}"), "Guard(Some(5))");
    drop(guard);
    run(async move {
        let me = current_task()?.id();
        for nowait in [true, false] {
            let guard =
                if nowait { lock.acquire_nowait().unwrap() } else { lock.acquire().await? };
            assert_eq!(lock.statistics().owner, Some(me));
            assert_eq!(format!("{lock:?}"), format!("Lock {{ owner: Some({me}), waiting: 0 }}"));
            drop(guard);
            assert_eq!(lock.statistics().owner, None);
        }
        Ok(())
    });
}

/// The table's place of a task that had ended was taken as the new owner.
#[test]
fn a_lock_belongs_to_who_has_it_though_its_future_was_moved() {
    type Moved = Pin<Box<dyn Future<Output = Result<()>>>>;
    run(async {
        let (lock, slot) = (RLock::new(), Rc::new(RefCell::new(None::<Moved>)));
        lock.acquire().await?;
        let first = spawn({
            let (lock, slot) = (lock.clone(), slot.clone());
            async move {
                let mut acquiring: Moved = Box::pin(lock.acquire());
                assert!(poll_once(&mut acquiring).await.is_pending());
                *slot.borrow_mut() = Some(acquiring);
                Ok(())
            }
        });
        first.join().await?;
        let stranger = spawn(async { sleep(LONG).await.map(drop) });
        let second = spawn({
            let (lock, slot) = (lock.clone(), slot.clone());
            async move {
                let acquiring = slot.borrow_mut().take().unwrap();
                acquiring.await?;
                assert_eq!(lock.statistics().owner, Some(current_task()?.id()));
                assert!(lock.is_ours());
                lock.release()
            }
        });
        lock.release()?;
        second.join().await?;
        assert!(!lock.is_locked());
        stranger.cancel().await.map(drop)
    });
}

// Locks that their owner may take again.

#[test]
fn an_rlock_is_released_as_often_as_it_was_acquired() {
    run(async {
        let lock = RLock::new();
        assert!(!lock.is_ours() && !lock.is_locked());
        for depth in 0..5 {
            let before = cycles();
            lock.acquire().await?;
            assert_eq!(cycles(), before, "at depth {depth}");
        }
        let waiter = with(&lock, |lock| async move {
            assert!(!lock.is_ours() && lock.is_locked());
            lock.acquire().await?;
            assert!(lock.is_ours());
            lock.release()
        });
        for _ in 0..5 {
            turns(1).await?;
            assert!(lock.is_ours() && !waiter.terminated());
            lock.release()?;
        }
        assert!(!lock.is_ours() && lock.is_locked());
        waiter.join().await?;
        assert!(!lock.is_locked());
        Ok(())
    });
}

#[test]
fn who_takes_an_rlock_again_waits_behind_the_others() {
    let trace = Trace::default();
    let seen = trace.clone();
    run(async move {
        let lock = RLock::new();
        for name in ["a", "b"] {
            let (lock, trace) = (lock.clone(), trace.clone());
            spawn(async move {
                for round in 0..2 {
                    lock.acquire().await?;
                    lock.acquire().await?;
                    trace.note(format!("{name}{round}"));
                    turns(1).await?;
                    lock.release()?;
                    lock.release()?;
                }
                Ok(())
            });
        }
        Ok(())
    });
    seen.expect(&["a0", "b0", "a1", "b1"]);
}

#[test]
fn to_release_what_one_does_not_hold_says_who_does_and_since_where() {
    run(async {
        let lock = RLock::new();
        let text = lock.release().unwrap_err().to_string();
        assert!(text.ends_with("which it does not hold: nobody holds it"), "{text}");
        let holder = with(&lock, |lock| async move {
            lock.acquire().await?;
            turns(2).await?;
            lock.release()
        });
        let line = line!() - 4;
        turns(1).await?;
        let error = lock.release().unwrap_err();
        assert!(error.is_misuse());
        let (me, text) = (current_task()?.id(), error.to_string());
        assert!(text.starts_with(&format!("task {me} has released RLock ")), "{text}");
        let whose = format!("task {} holds it, since {}:{line}", holder.id(), file!());
        assert!(text.ends_with(&whose), "{text}");
        assert!(lock.is_locked());
        holder.join().await?;
        assert!(lock.release().is_err());
        Ok(())
    });
    let error = RLock::new().release().unwrap_err();
    assert!(error.is_misuse() && !error.to_string().contains("task 0"), "{error}");
}

#[test]
fn the_place_is_that_of_who_waited_as_well() {
    run(async {
        let lock = RLock::new();
        lock.acquire().await?;
        let waiter = with(&lock, |lock| async move {
            lock.acquire().await?;
            turns(3).await?;
            lock.release()
        });
        let line = line!() - 4;
        turns(1).await?;
        lock.release()?;
        // Handed over, and then had.
        for _ in 0..2 {
            let text = lock.release().unwrap_err().to_string();
            let whose = format!("task {} holds it, since {}:{line}", waiter.id(), file!());
            assert!(text.ends_with(&whose), "{text}");
            turns(1).await?;
        }
        waiter.join().await
    });
}

#[test]
fn a_child_is_not_its_parent() {
    run(async {
        let lock = RLock::new();
        lock.acquire().await?;
        let kid = with(&lock, |lock| async move {
            assert!(!lock.is_ours());
            assert!(lock.release().is_err());
            assert!(timeout_after(ms(1), lock.acquire()).await.unwrap_err().is_timeout());
            assert!(!lock.is_ours());
            Ok(())
        });
        kid.join().await?;
        assert!(lock.is_ours());
        lock.release()
    });
}

#[test]
fn a_cancelled_waiter_does_not_own_the_rlock() {
    run(async {
        let lock = RLock::new();
        lock.acquire().await?;
        let waiters: Vec<_> = (0..2)
            .map(|_| {
                let lock = lock.clone();
                spawn(async move {
                    lock.acquire().await?;
                    lock.release()
                })
            })
            .collect();
        turns(1).await?;
        waiters[0].request_cancel();
        lock.release()?;
        assert_eq!(lock.statistics().owner, Some(waiters[0].id()));
        waiters[0].wait().await?;
        waiters[1].join().await?;
        assert_eq!(lock.statistics(), Statistics::default());
        Ok(())
    });
}

#[test]
fn a_task_that_waits_for_an_rlock_in_two_futures_has_it_in_one_after_the_other() {
    run(async {
        let (lock, trace) = (RLock::new(), Trace::default());
        lock.acquire().await?;
        let kid = with(&(lock.clone(), trace.clone()), |(lock, trace)| async move {
            let one = async |name: &str| {
                lock.acquire().await?;
                trace.note(name);
                turns(2).await?;
                trace.note(name);
                lock.release()
            };
            let (first, second) = futures::join!(one("first"), one("second"));
            first.and(second)
        });
        turns(1).await?;
        assert_eq!(lock.statistics().waiting, 2);
        lock.release()?;
        kid.join().await?;
        trace.expect(&["first", "first", "second", "second"]);
        assert_eq!(lock.statistics(), Statistics::default());
        Ok(())
    });
}

#[test]
fn an_rlock_that_was_handed_over_is_ours_once_we_know() {
    run(async {
        let lock = RLock::new();
        lock.acquire().await?;
        let kid = with(&lock, |lock| async move {
            let me = Some(current_task()?.id());
            let look = async {
                while lock.statistics().owner != me {
                    turns(1).await?;
                }
                // The other future has not been polled since.
                assert!(!lock.is_ours() && lock.release().is_err());
                Ok::<_, Error>(())
            };
            let (looked, acquired) = futures::join!(look, lock.acquire());
            looked.and(acquired)?;
            assert!(lock.is_ours());
            lock.release()
        });
        turns(3).await?;
        lock.release()?;
        kid.join().await
    });
}

#[test]
fn an_rlock_in_a_combinator_is_the_tasks_own() {
    run(async {
        let lock = RLock::new();
        let one = async || {
            lock.acquire().await?;
            turns(2).await?;
            assert!(lock.is_ours());
            lock.release()
        };
        let (first, second) = futures::join!(one(), one());
        first.and(second)?;
        assert!(!lock.is_locked());
        Ok(())
    });
}

#[test]
fn an_rlock_outlives_kernels() {
    let lock = RLock::new();
    for _ in 0..2 {
        let here = lock.clone();
        run(async move {
            here.acquire().await?;
            let waiter = with(&here, |lock| async move {
                lock.acquire().await?;
                lock.release()
            });
            turns(1).await?;
            here.release()?;
            waiter.join().await
        });
        assert_eq!(lock.statistics(), Statistics::default());
        assert_eq!(format!("{lock:?}"), "RLock { owner: None, waiting: 0 }");
    }
    let error = lock.acquire().now_or_never().unwrap().unwrap_err();
    assert!(error.to_string().starts_with("RLock.acquire was awaited outside"), "{error}");
}

// Semaphores.

#[test]
fn a_semaphore_lets_as_many_in_as_it_has_permits() {
    run(async {
        let (seats, inside) = (Semaphore::new(3), Rc::new(Cell::new(0)));
        for _ in 0..10 {
            let (seats, inside) = (seats.clone(), inside.clone());
            spawn(async move {
                let _seat = seats.acquire().await?;
                inside.set(inside.get() + 1);
                assert!(inside.get() <= 3);
                sleep(ms(1)).await?;
                inside.set(inside.get() - 1);
                Ok(())
            });
        }
        turns(1).await?;
        assert_eq!((inside.get(), seats.value(), seats.statistics().waiting), (3, 0, 7));
        sleep(ms(10)).await?;
        assert_eq!((inside.get(), seats.value()), (0, 3));
        Ok(())
    });
}

#[test]
fn a_permit_that_is_handed_over_is_not_free_in_between() {
    run(async {
        let semaphore = Semaphore::new(1);
        let permit = semaphore.acquire().await?;
        let waiter =
            with(&semaphore, |semaphore| async move { semaphore.acquire().await.map(drop) });
        turns(1).await?;
        drop(permit);
        assert_eq!((semaphore.value(), semaphore.statistics().level), (0, 0));
        assert!(semaphore.acquire_nowait().is_none());
        waiter.join().await?;
        assert_eq!(semaphore.value(), 1);
        Ok(())
    });
}

#[test]
fn release_adds_permits_without_limit() {
    let semaphore = Semaphore::new(0);
    assert_eq!(semaphore.bound(), None);
    assert!(semaphore.acquire_nowait().is_none());
    for count in 1..=100 {
        semaphore.release().unwrap();
        assert_eq!(semaphore.value(), count);
    }
    let permits: Vec<_> = std::iter::from_fn(|| semaphore.acquire_nowait()).collect();
    assert_eq!(permits.len(), 100);
    drop(permits);
    assert_eq!(semaphore.value(), 100);
}

#[test]
fn a_bounded_semaphore_has_never_more_than_it_starts_with() {
    let semaphore = Semaphore::bounded(2);
    assert_eq!((semaphore.bound(), semaphore.value()), (Some(2), 2));
    let error = semaphore.release().unwrap_err();
    assert!(error.is_misuse());
    let text = error.to_string();
    assert!(text.starts_with("Semaphore "), "{text}");
    assert!(
        text.ends_with("released more often than acquired: it has all of its 2 permits"),
        "{text}"
    );
    semaphore.acquire_nowait().unwrap().forget();
    assert_eq!(semaphore.value(), 1);
    semaphore.release().unwrap();
    assert!(semaphore.release().is_err());
    assert_eq!(semaphore.value(), 2);
    assert!(Semaphore::bounded(0).release().is_err());
}

#[test]
fn a_permit_released_by_hand_and_then_dropped_is_one() {
    let semaphore = Semaphore::bounded(1);
    let permit = semaphore.acquire_nowait().unwrap();
    semaphore.release().unwrap();
    drop(permit);
    assert_eq!(semaphore.value(), 1);
}

#[test]
fn a_permit_that_is_forgotten_is_gone_until_a_release() {
    run(async {
        let semaphore = Semaphore::new(1);
        semaphore.acquire().await?.forget();
        assert_eq!(semaphore.value(), 0);
        let waiter =
            with(
                &semaphore,
                |semaphore| async move { semaphore.acquire().await.map(Permit::forget) },
            );
        turns(1).await?;
        semaphore.release()?;
        waiter.join().await?;
        assert_eq!(semaphore.value(), 0);
        semaphore.release()?;
        assert_eq!(semaphore.value(), 1);
        Ok(())
    });
}

#[test]
fn several_releases_wake_several() {
    let trace = Trace::default();
    let seen = trace.clone();
    run(async move {
        let semaphore = Semaphore::new(0);
        for name in ["a", "b", "c"] {
            let (semaphore, trace) = (semaphore.clone(), trace.clone());
            spawn(async move {
                semaphore.acquire().await?.forget();
                trace.note(name);
                Ok(())
            });
        }
        turns(1).await?;
        (0..5).try_for_each(|_| semaphore.release())?;
        assert_eq!(semaphore.value(), 2);
        turns(1).await
    });
    seen.expect(&["a", "b", "c"]);
}

#[test]
fn figures_and_text_of_a_semaphore() {
    let semaphore = Semaphore::new(2);
    let figures = || (semaphore.statistics().level, semaphore.statistics().highest);
    assert_eq!(figures(), (2, 2));
    let permit = semaphore.acquire_nowait();
    assert_eq!(figures(), (1, 2));
    semaphore.release().unwrap();
    semaphore.release().unwrap();
    drop(permit);
    assert_eq!(figures(), (4, 4));
    assert_eq!(format!("{semaphore:?}"), "Semaphore { value: 4, waiting: 0 }");
    let here = semaphore.clone();
    run(async move {
        let all = (0..4).filter_map(|_| here.acquire_nowait()).collect::<Vec<_>>();
        assert!(timeout_after(ms(1), here.acquire()).await.is_err());
        assert_eq!((here.statistics().level, here.statistics().waiting), (0, 0));
        drop(all);
        Ok(())
    });
    assert_eq!(figures(), (4, 4));
}

// Conditions.

/// A condition and its lock, and tasks that wait: they note their names when they are woken.
fn waiters(names: &[&'static str], trace: &Trace) -> (Condition, Lock<u32>) {
    let (condition, lock) = (Condition::new(), Lock::new(0));
    for &name in names {
        let (condition, lock, trace) = (condition.clone(), lock.clone(), trace.clone());
        spawn(async move {
            let mut guard = lock.acquire().await?;
            match condition.wait(&mut guard).await {
                Ok(()) => trace.note(format!("{name} woken, lock taken: {}", lock.is_locked())),
                Err(error) => trace.note(format!("{name} given up: {}", error.is_cancellation())),
            }
            *guard += 1; // it is good whatever came
            Ok(())
        });
    }
    (condition, lock)
}

#[test]
fn notify_wakes_those_that_have_waited_longest() {
    let trace = Trace::default();
    let seen = trace.clone();
    run(async move {
        let (condition, lock) = waiters(&["a", "b", "c", "d"], &trace);
        turns(2).await?;
        assert_eq!(condition.statistics().waiting, 4);
        assert!(!lock.is_locked());
        let before = cycles();
        condition.notify(0);
        condition.notify(1);
        assert_eq!((cycles(), condition.statistics().waiting), (before, 3));
        turns(2).await?;
        trace.note("two more");
        condition.notify(2);
        turns(2).await?;
        trace.note("more than wait");
        condition.notify(7);
        turns(2).await?;
        assert_eq!(*lock.acquire().await?, 4);
        Ok(())
    });
    seen.expect(&[
        "a woken, lock taken: true",
        "two more",
        "b woken, lock taken: true",
        "c woken, lock taken: true",
        "more than wait",
        "d woken, lock taken: true",
    ]);
}

#[test]
fn notify_all_wakes_everybody_one_after_the_other() {
    let trace = Trace::default();
    let seen = trace.clone();
    run(async move {
        let (condition, lock) = waiters(&["a", "b", "c"], &trace);
        turns(2).await?;
        let guard = lock.acquire().await?;
        condition.notify_all();
        turns(3).await?;
        // They stand in line for the lock, in their order.
        assert_eq!((condition.statistics().waiting, lock.statistics().waiting), (0, 3));
        trace.note("released");
        drop(guard);
        turns(5).await?;
        assert_eq!(*lock.acquire().await?, 3);
        Ok(())
    });
    seen.expect(&[
        "released",
        "a woken, lock taken: true",
        "b woken, lock taken: true",
        "c woken, lock taken: true",
    ]);
}

#[test]
fn a_notification_is_for_those_who_wait_now() {
    run(async {
        let (condition, lock) = (Condition::new(), Lock::new(()));
        condition.notify(1);
        condition.notify_all();
        let mut guard = lock.acquire().await?;
        let waited = timeout_after(ms(1), condition.wait(&mut guard)).await;
        assert!(waited.unwrap_err().is_timeout());
        Ok(())
    });
    Condition::new().notify(1); // outside of a kernel, too
}

#[test]
fn wait_for_waits_while_it_is_not_true() {
    run(async {
        let (condition, lock) = (Condition::new(), Lock::new(0));
        let waiter = spawn({
            let (condition, lock) = (condition.clone(), lock.clone());
            async move {
                let (mut guard, mut looks) = (lock.acquire().await?, 0);
                let enough = |count: &mut u32| {
                    looks += 1;
                    *count >= 3
                };
                condition.wait_for(&mut guard, enough).await?;
                Ok((*guard, looks))
            }
        });
        for _ in 0..5 {
            turns(2).await?;
            *lock.acquire().await? += 1;
            condition.notify(1);
        }
        assert_eq!(waiter.join().await?, (3, 4));
        let mut guard = lock.acquire().await?;
        let before = cycles();
        condition.wait_for(&mut guard, |count| *count == 5).await?;
        assert_eq!(cycles(), before);
        Ok(())
    });
}

#[test]
fn a_cancelled_wait_takes_the_lock_again_first() {
    let trace = Trace::default();
    let seen = trace.clone();
    run(async move {
        let (condition, lock) = (Condition::new(), Lock::new(0));
        let waiter = spawn({
            let (condition, lock, trace) = (condition.clone(), lock.clone(), trace.clone());
            timeout_after(LONG, async move {
                let mut guard = lock.acquire().await?;
                let waited = condition.wait(&mut guard).await;
                trace.note(format!("told with the value {}", *guard));
                assert!(waited.as_ref().unwrap_err().is_cancelled());
                waited
            })
        });
        turns(1).await?;
        let mut guard = lock.acquire().await?;
        waiter.request_cancel();
        turns(2).await?;
        assert_eq!(waiter.state(), TaskState::LockAcquire);
        assert_eq!(condition.statistics().waiting, 0);
        // Further interrupts do not cut it short.
        waiter.request_cancel();
        sleep(LONG * 2).await?;
        *guard = 7;
        trace.note("released");
        drop(guard);
        waiter.wait().await?;
        assert!(!lock.is_locked());
        Ok(())
    });
    seen.expect(&["released", "told with the value 7"]);
}

#[test]
fn a_timeout_of_a_wait_takes_the_lock_again_first() {
    run(async {
        let (condition, lock) = (Condition::new(), Lock::new(0));
        let holder = with(&lock, |lock| async move {
            sleep(ms(5)).await?;
            let _guard = lock.acquire().await?;
            sleep(ms(20)).await.map(drop)
        });
        let mut guard = lock.acquire().await?;
        let start = curio::clock()?;
        let waited = timeout_after(ms(10), condition.wait(&mut guard)).await;
        assert!(waited.unwrap_err().is_timeout());
        assert_eq!(curio::clock()? - start, ms(25));
        *guard += 1;
        drop(guard);
        holder.join().await
    });
}

#[test]
fn an_interrupt_during_the_locking_waits_for_the_next_trap() {
    run(async {
        let (condition, lock) = (Condition::new(), Lock::new(0));
        let waiter = spawn({
            let (condition, lock) = (condition.clone(), lock.clone());
            async move {
                let mut guard = lock.acquire().await?;
                condition.wait(&mut guard).await?; // it was notified
                condition.wait(&mut guard).await // the next one is interrupted before it blocks
            }
        });
        turns(1).await?;
        let guard = lock.acquire().await?;
        condition.notify(1);
        turns(1).await?;
        assert_eq!(waiter.state(), TaskState::LockAcquire);
        waiter.request_cancel();
        turns(2).await?;
        assert_eq!(waiter.state(), TaskState::LockAcquire);
        drop(guard);
        let error = waiter.join().await.unwrap_err();
        assert!(error.task_cause().unwrap().is_cancelled());
        Ok(())
    });
}

#[test]
fn the_notification_of_a_cancelled_waiter_goes_to_another() {
    let trace = Trace::default();
    let seen = trace.clone();
    run(async move {
        let (condition, _lock) = waiters(&["a", "b", "c"], &trace);
        turns(2).await?;
        let kids = current_task()?.children();
        kids[0].request_cancel();
        condition.notify(1);
        turns(3).await?;
        assert_eq!(condition.statistics().waiting, 1);
        condition.notify(1);
        turns(2).await
    });
    seen.expect(&["a given up: true", "b woken, lock taken: true", "c woken, lock taken: true"]);
}

/// It was gone when the future was dropped at its last stage.
#[test]
fn the_notification_of_a_dropped_wait_goes_to_another() {
    run(async {
        let (condition, lock, other) = (Condition::new(), Lock::new(0), Lock::new(0));
        let mut guard = lock.acquire().await?;
        let mut dropped = Box::pin(condition.wait(&mut guard));
        assert!(poll_once(&mut dropped).await.is_pending());
        let waiter = spawn({
            let (condition, lock) = (condition.clone(), other.clone());
            async move {
                let mut guard = lock.acquire().await?;
                condition.wait(&mut guard).await
            }
        });
        turns(1).await?;
        let taken = lock.acquire().await?;
        condition.notify(1);
        assert!(poll_once(&mut dropped).await.is_pending()); // stands in line for the lock
        drop(dropped);
        timeout_after(ms(1), waiter.join()).await?;
        drop(taken);
        assert!(!lock.is_locked());
        Ok(())
    });
}

#[test]
fn after_a_dropped_wait_the_lock_is_not_held() {
    run(async {
        let (condition, lock) = (Condition::new(), Lock::new(7));
        for stage in 0..4 {
            let mut guard = lock.acquire().await?;
            let mut waiting = Box::pin(condition.wait(&mut guard));
            if stage == 0 {
                // Never polled: nothing has happened.
                drop(waiting);
                assert_eq!(*guard, 7);
                continue;
            }
            assert!(poll_once(&mut waiting).await.is_pending());
            let taken = (stage == 3).then(|| lock.acquire_nowait().unwrap());
            if stage > 1 {
                condition.notify(1);
            }
            if stage == 3 {
                assert!(poll_once(&mut waiting).await.is_pending());
                assert_eq!(lock.statistics().waiting, 1);
            }
            drop(waiting);
            drop(taken);
            assert!(!lock.is_locked(), "at stage {stage}");
            assert_eq!((condition.statistics().waiting, lock.statistics().waiting), (0, 0));
            assert_eq!(format!("{guard:?}"), "Guard(None)");
            assert!(catch_unwind(AssertUnwindSafe(|| *guard)).is_err());
            assert!(catch_unwind(AssertUnwindSafe(|| *guard = 8)).is_err());
            // Nor does the guard release what others have meanwhile.
            let others = lock.acquire().await?;
            drop(guard);
            assert!(lock.is_locked());
            drop(others);
        }
        Ok(())
    });
}

/// The lock was gone, and the guard panicked when it was used.
#[test]
fn a_wait_outside_of_a_kernel_leaves_the_lock_as_it_is() {
    let (condition, lock) = (Condition::new(), Lock::new(7));
    let mut guard = lock.acquire_nowait().unwrap();
    let error = condition.wait(&mut guard).now_or_never().unwrap().unwrap_err();
    assert!(error.to_string().starts_with("Condition.wait was awaited outside"), "{error}");
    assert!(lock.is_locked());
    assert_eq!(*guard, 7);
}

#[test]
fn a_pending_interrupt_does_not_spoil_the_guard() {
    run(async {
        let (condition, lock) = (Condition::new(), Lock::new(0));
        let waiter = spawn({
            let (condition, lock) = (condition.clone(), lock.clone());
            async move {
                let mut guard = lock.acquire().await?;
                let waited = condition.wait_for(&mut guard, |_| false).await;
                *guard = 1;
                waited
            }
        });
        assert!(waiter.cancel().await?);
        assert_eq!(*lock.acquire().await?, 1);
        Ok(())
    });
}

#[test]
fn a_shielded_wait_is_not_interrupted() {
    run(async {
        let (condition, lock) = (Condition::new(), Lock::new(0));
        let waiter = spawn({
            let (condition, lock) = (condition.clone(), lock.clone());
            async move {
                let mut guard = lock.acquire().await?;
                disable_cancellation(condition.wait(&mut guard)).await?;
                *guard = 1;
                turns(1).await
            }
        });
        turns(1).await?;
        waiter.request_cancel();
        turns(2).await?;
        assert_eq!(waiter.state(), TaskState::CondWait);
        condition.notify(1);
        assert!(waiter.join().await.unwrap_err().task_cause().unwrap().is_cancelled());
        assert_eq!(*lock.acquire().await?, 1);
        Ok(())
    });
}

#[test]
fn two_conditions_of_one_lock() {
    // A place for one item: the classic.
    run(async {
        let (place, filled, emptied) = (Lock::new(None), Condition::new(), Condition::new());
        let producer = spawn({
            let (place, filled, emptied) = (place.clone(), filled.clone(), emptied.clone());
            async move {
                for item in 0..100 {
                    let mut guard = place.acquire().await?;
                    emptied.wait_for(&mut guard, |place| place.is_none()).await?;
                    *guard = Some(item);
                    filled.notify(1);
                }
                Ok(())
            }
        });
        for expected in 0..100 {
            let mut guard = place.acquire().await?;
            filled.wait_for(&mut guard, |place| place.is_some()).await?;
            assert_eq!(guard.take(), Some(expected));
            emptied.notify(1);
        }
        producer.join().await
    });
}

#[test]
fn text_of_a_condition() {
    let condition = Condition::new();
    assert_eq!(format!("{condition:?}"), "Condition { waiting: 0 }");
    assert_eq!(condition.statistics(), Statistics::default());
}

// Kernels.

#[test]
fn a_guard_may_be_dropped_when_its_kernel_is_gone() {
    let lock: &'static Lock<u32> = Box::leak(Box::new(Lock::new(0)));
    let guard = run(async { lock.acquire().await });
    assert!(lock.is_locked());
    drop(guard);
    assert!(!lock.is_locked() && lock.statistics().owner.is_none());
}

#[test]
fn a_task_of_a_stopped_kernel_keeps_what_it_was_handed() {
    let lock = Lock::new(0);
    let mut first = virtual_kernel();
    let guard = lock.acquire_nowait().unwrap();
    let kid = first
        .add_task({
            let lock = lock.clone();
            async move {
                *lock.acquire().await? += 1;
                Ok(())
            }
        })
        .unwrap();
    first.run(turns(1).then(|_| async { Err::<(), _>(Error::other("stop")) })).unwrap_err();
    drop(guard); // the kid's now
    assert!(lock.acquire_nowait().is_none());
    // Nobody is in line, so tasks of another kernel may stand there, and wait for the kid.
    let mut second = virtual_kernel();
    let other = second
        .add_task({
            let lock = lock.clone();
            async move {
                *lock.acquire().await? += 10;
                Ok(())
            }
        })
        .unwrap();
    second.run(turns(1).then(|_| async { Err::<(), _>(Error::other("stop")) })).unwrap_err();
    assert_eq!(lock.statistics().waiting, 1);
    first.run(async move { kid.join().await }).unwrap();
    second.run(async move { other.join().await }).unwrap();
    assert_eq!(*lock.acquire_nowait().unwrap(), 11);
}

#[test]
fn what_a_dropped_kernel_gives_back_goes_to_tasks_of_another() {
    let lock = Lock::new(0);
    let mut first = virtual_kernel();
    let guard = lock.acquire_nowait().unwrap();
    let here = lock.clone();
    drop(first.add_task(async move { here.acquire().await.map(drop) }).unwrap());
    first.run(turns(1).then(|_| async { Err::<(), _>(Error::other("stop")) })).unwrap_err();
    drop(guard);
    let mut second = virtual_kernel();
    let here = lock.clone();
    let other = second.add_task(async move { here.acquire().await.map(drop) }).unwrap();
    second.run(turns(1).then(|_| async { Err::<(), _>(Error::other("stop")) })).unwrap_err();
    drop(first);
    assert_eq!(lock.statistics().owner, Some(other.id()));
    second.run(async move { other.join().await }).unwrap();
    assert!(!lock.is_locked());
}

/// The newest task, which needs the lock for its clean-up, was waited for, and nobody had asked
/// the older one, which held it, to end.
#[test]
fn shutdown_ends_though_a_clean_up_needs_what_an_older_task_holds() {
    let mut kernel = virtual_kernel();
    let lock = Lock::new(0);
    let (of_holder, of_waiter) = (lock.clone(), lock.clone());
    let program = async move {
        TaskBuilder::new().daemon().spawn(async move {
            sleep(ms(1)).await?;
            let _guard = of_holder.acquire().await?;
            Event::new().wait().await // which nobody sets
        });
        TaskBuilder::new().daemon().spawn(async move {
            let mut guard = of_waiter.acquire().await?;
            Condition::new().wait(&mut guard).await
        });
        sleep(ms(5)).await.map(drop)
    };
    kernel.run(program).unwrap();
    assert!(lock.is_locked());
    kernel.shutdown().unwrap();
    assert!(kernel.tasks().is_empty() && !lock.is_locked());
}

#[test]
fn on_the_real_clock() {
    let lock = Lock::new(0);
    let (event, semaphore, condition) = (Event::new(), Semaphore::new(2), Condition::new());
    let total = curio::run(async move {
        for _ in 0..20 {
            let (lock, event, semaphore) = (lock.clone(), event.clone(), semaphore.clone());
            let condition = condition.clone();
            spawn(async move {
                event.wait().await?;
                let _permit = semaphore.acquire().await?;
                sleep(Duration::from_micros(100)).await?;
                *lock.acquire().await? += 1;
                condition.notify(1);
                Ok(())
            });
        }
        sleep(ms(1)).await?;
        event.set().await?;
        let mut guard = lock.acquire().await?;
        condition.wait_for(&mut guard, |count| *count == 20).await?;
        Ok(*guard)
    });
    assert_eq!(total.unwrap(), 20);
}
