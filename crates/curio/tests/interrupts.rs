//! Interrupting everywhere: what the harness finds, and that it finds nothing in Curio itself.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use curio::sync::{Condition, Event, Lock, RLock, Semaphore};
use curio::testing::{Interrupter, Report, interrupt_everywhere};
use curio::{
    Error, Queue, Result, check_cancellation, disable_cancellation, ignore_after, sleep, spawn,
    timeout_after,
};

const SECOND: Duration = Duration::from_secs(1);

/// A program that is right, interrupted everywhere, in several orders of running.
fn everywhere<T: 'static, F>(mut program: impl FnMut() -> F) -> Report
where
    F: Future<Output = Result<T>> + 'static,
{
    for seed in 0..20 {
        let in_this_order = Interrupter::new().run_order_seed(seed);
        in_this_order.run(&mut program, |_| ()).unwrap();
    }
    interrupt_everywhere(program).unwrap()
}

fn failure<T: 'static, F>(program: impl FnMut() -> F) -> String
where
    F: Future<Output = Result<T>> + 'static,
{
    interrupt_everywhere(program).unwrap_err().to_string()
}

// What it does.

#[test]
fn each_moment_has_its_turn() {
    let told = RefCell::new(Vec::new());
    let report = Interrupter::new()
        .run(
            || async {
                sleep(SECOND).await?;
                timeout_after(SECOND * 9, sleep(SECOND * 2)).await
            },
            |run| {
                let what = run.interruption.as_ref().map(ToString::to_string);
                let end = run.result.as_ref().map_err(|error| {
                    (error.is_cancelled(), error.is_timeout(), error.is_uncaught_timeout())
                });
                told.borrow_mut().push((what.unwrap_or_default(), end.map(|_| ())));
            },
        )
        .unwrap();
    let told = told.take();
    let name = "interrupts::each_moment_has_its_turn";
    let (cancelled, timed_out) = (Err((true, false, false)), Err((false, true, false)));
    let at = |line| format!(" at crates/curio/tests/interrupts.rs:{line}");
    let ours = line!() - 24;
    let expected = [
        (String::new(), Ok(())),
        (format!("cancelled at point 1 of 5, when task '{name}' was to start"), cancelled),
        (
            format!(
                "cancelled at point 2 of 5, when task '{name}' was blocked in TIME_SLEEP{}",
                at(ours)
            ),
            cancelled,
        ),
        (
            format!(
                "timed out (limit 1 from inside) at point 2 of 5, when task '{name}' was blocked in \
                 TIME_SLEEP{}",
                at(ours)
            ),
            timed_out,
        ),
    ];
    for ((told, end), (what, how)) in told.iter().zip(&expected) {
        assert_eq!((told.split("crates").next(), end), (what.split("crates").next(), how));
    }
    // 1 + point 1: one; points 2 and 3: two each; 4 and 5: three each.
    assert_eq!((report.points, report.runs), (5, 1 + 1 + 2 * 2 + 2 * 3), "{told:?}");
    let went_on = &told[4].0;
    assert!(went_on.contains("went on after TIME_SLEEP"), "{went_on}");
    // The last one: the program had succeeded, and nothing was there to be interrupted.
    assert_eq!(told[told.len() - 1].1, Ok(()));
}

#[test]
fn all_tasks_have_their_turn() {
    let names = RefCell::new(Vec::new());
    let program = || async {
        let kids: Vec<_> = (0..3).map(|_| spawn(sleep(SECOND))).collect();
        for kid in kids {
            _ = kid.join().await;
        }
        Ok(())
    };
    let check = |run: &curio::testing::Run<()>| {
        names.borrow_mut().extend(run.interruption.as_ref().map(|what| what.task.clone()));
    };
    Interrupter::new().run(program, check).unwrap();
    let names = names.take();
    assert!(names.iter().any(|name| name.contains("Sleep")), "{names:?}");
    assert!(names.iter().any(|name| name.contains("all_tasks")), "{names:?}");
}

#[test]
fn shielded_code_is_left_alone() {
    let report = interrupt_everywhere(|| async {
        disable_cancellation(async {
            for _ in 0..10 {
                sleep(SECOND).await.expect("not interrupted");
                check_cancellation().expect("not interrupted");
            }
            Ok(())
        })
        .await
    })
    .unwrap();
    // Before it, that is all.
    assert_eq!((report.points, report.runs), (1, 2));
}

#[test]
fn a_daemon_is_interrupted_and_is_no_leak() {
    everywhere(|| async {
        let server = async {
            loop {
                sleep(SECOND).await?;
            }
        };
        let server: Rc<curio::Task<()>> = Rc::new(curio::TaskBuilder::new().daemon().spawn(server));
        sleep(SECOND * 5).await?;
        server.cancel().await
    });
}

// What it finds.

#[test]
fn the_first_run_must_succeed() {
    let text = failure(|| async { Err::<(), _>(Error::other("no luck")) });
    assert_eq!(text, "without any interruption: the program fails: no luck");
    let text = failure(|| async { panic!("oh") as Result<()> });
    assert!(text.starts_with("without any interruption: the program fails: "), "{text}");
    assert!(text.ends_with("oh"), "{text}");
}

#[test]
fn a_lock_that_stays_locked_is_found() {
    let text = failure(|| async {
        let lock = RLock::new();
        lock.acquire().await?;
        sleep(SECOND).await?; // oh
        lock.release()
    });
    assert!(text.contains("is left locked by task") && text.contains("interrupts.rs"), "{text}");
}

#[test]
fn a_task_that_waits_for_ever_is_found() {
    let text = failure(|| async {
        let event = Rc::new(Event::new());
        let waiter = spawn({
            let event = event.clone();
            async move { event.wait().await }
        });
        sleep(SECOND).await?; // oh
        event.set().await?;
        waiter.join().await
    });
    assert!(text.starts_with("cancelled at point "), "{text}");
    assert!(text.contains("the program does not end: deadlock"), "{text}");
    assert!(text.contains(": EVENT_WAIT at ") && text.contains("interrupts.rs"), "{text}");
}

#[test]
fn a_program_that_does_not_let_itself_be_cancelled_is_found() {
    let text = failure(|| async {
        let done = Rc::new(Cell::new(false));
        let work = spawn({
            let done = done.clone();
            async move {
                sleep(SECOND).await?;
                done.set(true);
                Ok(())
            }
        });
        while !done.get() {
            _ = sleep(SECOND).await;
        }
        work.join().await
    });
    assert!(text.contains("the program does not end: it has been resumed a hundred"), "{text}");
}

#[test]
fn an_error_that_is_something_else_is_found_and_may_be_allowed() {
    let program = || async {
        let taken = timeout_after(SECOND * 3, sleep(SECOND)).await;
        taken.map_err(|_| Error::other("my own word for it")).map(drop)
    };
    let text = failure(program);
    assert!(text.ends_with("something else than the interruption: my own word for it"), "{text}");
    Interrupter::new().any_error().run(program, |_| ()).unwrap();
}

#[test]
fn a_check_that_panics_is_a_failure_with_its_place() {
    let sum = Rc::new(Cell::new(0));
    let program = || {
        let sum = sum.clone();
        sum.set(0);
        async move {
            sum.set(1);
            sleep(SECOND).await?; // what is between is not undone
            sum.set(2);
            Ok(())
        }
    };
    let found =
        Interrupter::new().run(program, |_| assert!(sum.get() != 1, "half done")).unwrap_err();
    let text = format!("{found:?}");
    assert!(text.starts_with("cancelled at point 1 of 3"), "{text}");
    assert!(text.ends_with("the check has panicked: half done"), "{text}");
}

#[test]
fn a_program_that_is_another_each_time_is_found() {
    let times = Cell::new(0);
    let text = failure(|| {
        times.set(times.get() + 1);
        let naps = if times.get() == 1 { 5 } else { 2 };
        async move {
            for _ in 0..naps {
                sleep(SECOND).await?;
            }
            Ok(())
        }
    });
    assert!(text.contains("does not run in the same way each time"), "{text}");
}

#[test]
fn a_missed_hand_over_is_found() {
    // What everybody writes once: an item is taken, and lost if the next step is interrupted.
    let text = failure(|| async {
        let (from, to) = (Queue::unbounded(), Queue::unbounded());
        for item in 0..3 {
            from.put(item).await?;
        }
        let mover = spawn({
            let (from, to) = (from.clone(), to.clone());
            async move {
                loop {
                    let item = from.get().await?;
                    sleep(SECOND).await?;
                    to.put(item).await?;
                }
                #[allow(unreachable_code)]
                Ok(())
            }
        });
        _ = ignore_after(SECOND * 10, mover.wait()).await;
        disable_cancellation(async {
            mover.cancel().await?;
            assert_eq!(from.len() + to.len(), 3, "an item is lost");
            Ok(())
        })
        .await
    });
    assert!(text.contains("an item is lost"), "{text}");
}

// Curio's own operations, each in a program that must hold whatever comes.

#[test]
fn locks() {
    let report = everywhere(|| async {
        let lock = Rc::new(Lock::new(0));
        let tasks: Vec<_> = (0..3)
            .map(|_| {
                let lock = lock.clone();
                spawn(async move {
                    for _ in 0..2 {
                        let mut held = lock.acquire().await?;
                        let before = *held;
                        sleep(SECOND).await?;
                        *held = before + 1;
                    }
                    Ok(())
                })
            })
            .collect();
        let mut ended = Ok(());
        for task in &tasks {
            ended = ended.and(task.join().await);
        }
        disable_cancellation(async {
            for task in tasks {
                task.cancel().await?;
            }
            assert!(!lock.is_locked());
            assert!(*timeout_after(SECOND, lock.acquire()).await? <= 6);
            Ok(())
        })
        .await?;
        ended
    });
    assert!(report.points > 20, "{report}");
}

#[test]
fn semaphores_and_limits() {
    everywhere(|| async {
        let places = Rc::new(Semaphore::new(2));
        let tasks: Vec<_> = (1..4)
            .map(|number| {
                let places = places.clone();
                spawn(async move {
                    let _place = timeout_after(SECOND * 2, places.acquire()).await?;
                    sleep(SECOND * number).await.map(drop)
                })
            })
            .collect();
        let mut ended = Ok(());
        for task in &tasks {
            ended = ended.and(task.join().await);
        }
        disable_cancellation(async {
            for task in tasks {
                task.cancel().await?;
            }
            assert_eq!(places.value(), 2);
            Ok(())
        })
        .await?;
        // The third has waited too long, or not; all that counts is that the places are back.
        match ended {
            Err(error) if error.task_cause().is_some_and(Error::is_timeout) => Ok(()),
            ended => ended,
        }
    });
}

#[test]
fn conditions() {
    everywhere(|| async {
        let (items, more) = (Lock::new(Vec::new()), Condition::new());
        let consumer = spawn({
            let (items, more) = (items.clone(), more.clone());
            async move {
                for _ in 0..3 {
                    let mut items = items.acquire().await?;
                    more.wait_for(&mut items, |items| !items.is_empty()).await?;
                    items.pop();
                }
                Ok(())
            }
        });
        let produced = async {
            for item in 0..3 {
                sleep(SECOND).await?;
                items.acquire().await?.push(item);
                more.notify(1);
            }
            consumer.join().await
        }
        .await;
        disable_cancellation(consumer.cancel()).await?;
        produced
    });
}

#[test]
fn queues_lose_nothing() {
    everywhere(|| async {
        let queue = Queue::bounded(1);
        let (put, got) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
        let producer = spawn({
            let (queue, put) = (queue.clone(), put.clone());
            async move {
                for item in 0..4 {
                    queue.put(item).await?;
                    put.set(put.get() + 1);
                }
                Ok(())
            }
        });
        let consumer = spawn({
            let (queue, got) = (queue.clone(), got.clone());
            async move {
                for _ in 0..4 {
                    let item = queue.get().await?;
                    assert_eq!(item, got.get());
                    got.set(got.get() + 1);
                    queue.task_done()?;
                }
                Ok(())
            }
        });
        // Each waits for the other for ever, when that one has been interrupted.
        let ended = ignore_after(SECOND, async {
            producer.join().await?;
            consumer.join().await?;
            queue.join().await
        })
        .await;
        disable_cancellation(async {
            producer.cancel().await?;
            consumer.cancel().await?;
            assert_eq!(put.get(), got.get() + queue.len());
            Ok(())
        })
        .await?;
        ended.map(drop)
    });
}
