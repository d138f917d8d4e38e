//! The order of events: which task runs when, and who is told of an end first.
//!
//! Each test runs a small program on the virtual clock, writes down every step, and
//! compares the whole trace, so that a change of order anywhere is seen.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use curio::testing::virtual_kernel;
use curio::{Result, TaskBuilder, TaskState, current_task, sleep, spawn, timeout_after};

const LONG: Duration = Duration::from_secs(1000);

const fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
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

/// Goes to the end of the ready queue, `times` over.
async fn turns(times: usize) -> Result<()> {
    for _ in 0..times {
        sleep(Duration::ZERO).await?;
    }
    Ok(())
}

#[test]
fn the_spawner_goes_on_first_then_its_tasks_in_order() {
    let trace = Trace::default();
    let seen = trace.clone();
    let program = async move {
        for name in ["first", "second", "third"] {
            let trace = trace.clone();
            trace.note(format!("spawn {name}"));
            spawn(async move {
                trace.note(name);
                Ok(())
            });
        }
        trace.note("spawner ends");
        Ok(())
    };
    virtual_kernel().run(program).unwrap();
    seen.expect(&[
        "spawn first",
        "spawn second",
        "spawn third",
        "spawner ends",
        "first",
        "second",
        "third",
    ]);
}

#[test]
fn yielding_tasks_take_turns() {
    let trace = Trace::default();
    let seen = trace.clone();
    let program = async move {
        for name in ["a", "b", "c"] {
            let trace = trace.clone();
            spawn(async move {
                for round in 1..=3 {
                    trace.note(format!("{name}{round}"));
                    sleep(Duration::ZERO).await?;
                }
                Ok(())
            });
        }
        Ok(())
    };
    virtual_kernel().run(program).unwrap();
    seen.expect(&["a1", "b1", "c1", "a2", "b2", "c2", "a3", "b3", "c3"]);
}

#[test]
fn joiners_wake_in_the_order_they_came() {
    let trace = Trace::default();
    let seen = trace.clone();
    let program = async move {
        let target = Rc::new(spawn(async { sleep(ms(10)).await.map(drop) }));
        // They come at different times, and not in the order of their names.
        for (name, delay) in [("late", 3), ("early", 1), ("middle", 2)] {
            let (trace, target) = (trace.clone(), target.clone());
            spawn(async move {
                sleep(ms(delay)).await?;
                trace.note(format!("{name} waits"));
                target.wait().await?;
                trace.note(format!("{name} woken"));
                Ok(())
            });
        }
        Ok(())
    };
    virtual_kernel().run(program).unwrap();
    seen.expect(&[
        "early waits",
        "middle waits",
        "late waits",
        "early woken",
        "middle woken",
        "late woken",
    ]);
}

#[test]
fn a_joiner_that_gives_up_leaves_the_line() {
    let trace = Trace::default();
    let seen = trace.clone();
    let program = async move {
        let target = Rc::new(spawn(async { sleep(ms(10)).await.map(drop) }));
        for (name, patience) in [("first", 20), ("impatient", 5), ("last", 20)] {
            let (trace, target) = (trace.clone(), target.clone());
            spawn(async move {
                match timeout_after(ms(patience), target.wait()).await {
                    Ok(()) => trace.note(format!("{name} woken")),
                    Err(error) => trace.note(format!("{name} gave up: {}", error.is_timeout())),
                }
                Ok(())
            });
        }
        Ok(())
    };
    virtual_kernel().run(program).unwrap();
    seen.expect(&["impatient gave up: true", "first woken", "last woken"]);
}

#[test]
fn joining_an_ended_task_does_not_yield() {
    let trace = Trace::default();
    let seen = trace.clone();
    let program = async move {
        let ended = spawn(async { Ok(7) });
        turns(1).await?;
        let other = trace.clone();
        spawn(async move {
            other.note("the other task");
            Ok(())
        });
        ended.wait().await?;
        trace.note(format!("joined {}", ended.join().await?));
        Ok(())
    };
    virtual_kernel().run(program).unwrap();
    seen.expect(&["joined 7", "the other task"]);
}

#[test]
fn sleepers_wake_by_deadline_and_equal_ones_in_order() {
    let trace = Trace::default();
    let seen = trace.clone();
    let program = async move {
        for (name, delay) in [("a", 20), ("b", 10), ("c", 20), ("d", 5), ("e", 10), ("f", 20)] {
            let trace = trace.clone();
            spawn(async move {
                sleep(ms(delay)).await?;
                trace.note(name);
                Ok(())
            });
        }
        Ok(())
    };
    virtual_kernel().run(program).unwrap();
    seen.expect(&["d", "b", "e", "a", "c", "f"]);
}

#[test]
fn the_canceller_returns_after_the_clean_up() {
    let trace = Trace::default();
    let seen = trace.clone();
    let program = async move {
        let of_kid = trace.clone();
        let kid = spawn(async move {
            of_kid.note("kid plays");
            let played = sleep(LONG).await;
            of_kid.note(format!("kid is told: {}", played.is_err_and(|e| e.is_cancelled())));
            for part in 1..=2 {
                sleep(ms(1)).await?;
                of_kid.note(format!("kid saves part {part}"));
            }
            Ok(())
        });
        turns(1).await?;
        trace.note("parent cancels");
        assert!(kid.cancel().await?);
        trace.note(format!("parent is back, kid is {}", kid.state()));
        assert!(!kid.cancel().await?);
        Ok(())
    };
    virtual_kernel().run(program).unwrap();
    seen.expect(&[
        "kid plays",
        "parent cancels",
        "kid is told: true",
        "kid saves part 1",
        "kid saves part 2",
        "parent is back, kid is TERMINATED",
    ]);
}

#[test]
fn further_cancellers_only_wait() {
    let trace = Trace::default();
    let seen = trace.clone();
    let program = async move {
        let of_kid = trace.clone();
        let kid = Rc::new(spawn(async move {
            while let Err(error) = sleep(ms(10)).await {
                of_kid.note(format!(
                    "kid: {}",
                    error.cancellation().unwrap().reason.as_ref().unwrap()
                ));
            }
            of_kid.note("kid ends");
            Ok(())
        }));
        turns(1).await?;
        // The third comes when the kid has been told already.
        for (reason, delay) in [("one", 0), ("two", 0), ("three", 5)] {
            let (kid, trace) = (kid.clone(), trace.clone());
            spawn(async move {
                sleep(ms(delay)).await?;
                assert!(kid.cancel_because(reason).await?);
                trace.note(format!("{reason} is back"));
                Ok(())
            });
        }
        Ok(())
    };
    virtual_kernel().run(program).unwrap();
    seen.expect(&["kid: one", "kid ends", "one is back", "two is back", "three is back"]);
}

#[test]
fn a_task_cancelled_before_its_first_turn_runs_to_its_first_trap() {
    let trace = Trace::default();
    let seen = trace.clone();
    let program = async move {
        let of_kid = trace.clone();
        let kid = spawn(async move {
            of_kid.note("kid starts");
            let slept = sleep(LONG).await;
            of_kid.note("kid is told");
            slept.map(drop)
        });
        kid.cancel().await?;
        trace.note("back");
        Ok(())
    };
    virtual_kernel().run(program).unwrap();
    seen.expect(&["kid starts", "kid is told", "back"]);
}

#[test]
fn cancel_children_asks_all_of_them_before_it_waits() {
    let trace = Trace::default();
    let seen = trace.clone();
    let program = async move {
        // The oldest cleans up longest; the others do not wait for it.
        for (name, clean_up) in [("a", 30), ("b", 20), ("c", 10)] {
            let trace = trace.clone();
            spawn(async move {
                let slept = sleep(LONG).await;
                trace.note(format!("{name} told"));
                sleep(ms(clean_up)).await?;
                trace.note(format!("{name} ends"));
                slept.map(drop)
            });
        }
        let daemon = TaskBuilder::new().daemon().spawn(async { sleep(LONG).await.map(drop) });
        turns(1).await?;
        let me = current_task()?;
        assert_eq!(me.children().len(), 3);
        me.cancel_children().await?;
        trace.note(format!("{} children left", me.children().len()));
        assert!(!daemon.terminated());
        Ok(())
    };
    virtual_kernel().run(program).unwrap();
    seen.expect(&["a told", "b told", "c told", "c ends", "b ends", "a ends", "0 children left"]);
}

#[test]
fn shutdown_cancels_the_newest_first_and_waits_for_each() {
    let trace = Trace::default();
    let seen = trace.clone();
    let mut kernel = virtual_kernel();
    let program = async move {
        for name in ["old", "daemon", "new"] {
            let trace = trace.clone();
            let builder = TaskBuilder::new().name(name).daemon();
            builder.spawn(async move {
                let slept = sleep(LONG).await;
                trace.note(format!("{name} told"));
                sleep(ms(1)).await?;
                trace.note(format!("{name} ends"));
                slept.map(drop)
            });
        }
        turns(1).await
    };
    kernel.run(program).unwrap();
    assert_eq!(kernel.tasks().len(), 3);
    kernel.shutdown().unwrap();
    kernel.shutdown().unwrap();
    assert!(kernel.tasks().is_empty());
    seen.expect(&["new told", "new ends", "daemon told", "daemon ends", "old told", "old ends"]);
}

#[test]
fn shutdown_ends_what_is_spawned_during_it() {
    let trace = Trace::default();
    let seen = trace.clone();
    let mut kernel = virtual_kernel();
    let program = async move {
        TaskBuilder::new().daemon().spawn(async move {
            let slept = sleep(LONG).await;
            let of_heir = trace.clone();
            spawn(async move {
                let slept = sleep(LONG).await;
                of_heir.note("heir told");
                slept.map(drop)
            });
            trace.note("told");
            slept.map(drop)
        });
        turns(1).await
    };
    kernel.run(program).unwrap();
    kernel.shutdown().unwrap();
    seen.expect(&["told", "heir told"]);
}

#[test]
fn shutdown_ends_though_a_task_is_always_ready_and_another_ends_by_itself() {
    let mut kernel = virtual_kernel();
    let program = async {
        // Oldest: always ready. Middle: ends while the newest cleans up.
        TaskBuilder::new().daemon().spawn(async {
            loop {
                turns(1).await?;
            }
            #[allow(unreachable_code)]
            Result::<()>::Ok(())
        });
        TaskBuilder::new().daemon().spawn(async { sleep(ms(1)).await.map(drop) });
        TaskBuilder::new().daemon().spawn(async {
            let slept = sleep(LONG).await;
            sleep(ms(5)).await?;
            slept.map(drop)
        });
        turns(2).await
    };
    kernel.run(program).unwrap();
    kernel.shutdown().unwrap();
}

#[test]
fn run_does_not_wait_for_a_daemon_that_is_always_ready() {
    let mut kernel = virtual_kernel();
    let program = async {
        TaskBuilder::new().daemon().spawn(async {
            loop {
                turns(1).await?;
            }
            #[allow(unreachable_code)]
            Result::<()>::Ok(())
        });
        Ok("done")
    };
    assert_eq!(kernel.run(program).unwrap(), "done");
    assert_eq!(kernel.tasks().len(), 1);
}

#[test]
fn tasks_that_are_always_ready_do_not_stop_the_clock() {
    let trace = Trace::default();
    let seen = trace.clone();
    let program = async move {
        let busy = spawn(async {
            loop {
                turns(1).await?;
            }
            #[allow(unreachable_code)]
            Result::<()>::Ok(())
        });
        sleep(ms(1)).await?;
        trace.note("slept");
        busy.cancel().await?;
        trace.note("cancelled");
        Ok(())
    };
    virtual_kernel().run(program).unwrap();
    seen.expect(&["slept", "cancelled"]);
}

#[test]
fn run_waits_for_all_tasks_and_keeps_daemons_for_the_next_run() {
    let trace = Trace::default();
    let seen = trace.clone();
    let of_daemon = trace.clone();
    let mut kernel = virtual_kernel();
    let first = async move {
        TaskBuilder::new().daemon().spawn(async move {
            sleep(ms(50)).await?;
            of_daemon.note("daemon");
            Ok(())
        });
        let of_task = trace.clone();
        spawn(async move {
            sleep(ms(20)).await?;
            of_task.note("task");
            Ok(())
        });
        trace.note("main");
        Ok(())
    };
    kernel.run(first).unwrap();
    seen.expect(&["main", "task"]);
    kernel.run(async { sleep(ms(100)).await.map(drop) }).unwrap();
    seen.expect(&["main", "task", "daemon"]);
}

#[test]
fn a_failed_main_task_ends_run_at_once_and_the_others_go_on_later() {
    let trace = Trace::default();
    let seen = trace.clone();
    let mut kernel = virtual_kernel();
    let failing = async move {
        spawn(async move {
            sleep(ms(20)).await?;
            trace.note("the other task");
            Ok(())
        });
        sleep(ms(1)).await?;
        Err::<(), _>(curio::Error::other("no luck"))
    };
    assert_eq!(kernel.run(failing).unwrap_err().to_string(), "no luck");
    seen.expect(&[]);
    kernel.run(async { Ok(()) }).unwrap();
    seen.expect(&["the other task"]);
}

#[test]
fn a_stopped_kernel_goes_on_where_it_was() {
    let trace = Trace::default();
    let seen = trace.clone();
    let mut kernel = virtual_kernel();
    let stopper = kernel.stopper();
    let program = async move {
        trace.note("before");
        stopper.stop();
        trace.note("still running");
        turns(1).await?;
        trace.note("after");
        Ok(())
    };
    assert!(kernel.run(program).unwrap_err().is_misuse());
    seen.expect(&["before", "still running"]);
    kernel.run(async { Ok(()) }).unwrap();
    seen.expect(&["before", "still running", "after"]);
}

#[test]
fn states_are_those_of_what_a_task_is_blocked_in() {
    let program = async {
        let (sender, receiver) = futures::channel::oneshot::channel::<()>();
        let sleeper = spawn(async { sleep(LONG).await.map(drop) });
        assert_eq!(sleeper.state(), TaskState::Ready);
        let target = sleeper.clone();
        let joiner = spawn(async move { target.wait().await });
        let foreign = spawn(async move {
            let _ = receiver.await;
            Ok(())
        });
        let canceller = spawn({
            let stubborn = spawn(async {
                let slept = sleep(LONG).await;
                sleep(ms(5)).await?;
                slept.map(drop)
            });
            async move { stubborn.cancel().await.map(drop) }
        });
        let me = current_task()?;
        assert_eq!(me.state(), TaskState::Running);
        turns(2).await?;
        let blocked = [sleeper.state(), joiner.state(), foreign.state(), canceller.state()];
        use TaskState::{FutureWait, TaskJoin, TimeSleep};
        assert_eq!(blocked, [TimeSleep, TaskJoin, FutureWait, TaskJoin]);
        assert!(sleeper.info().sleep().is_some());

        sender.send(()).unwrap();
        assert_eq!(foreign.state(), TaskState::Ready);
        sleeper.request_cancel();
        assert_eq!(sleeper.state(), TaskState::Ready);
        turns(2).await?;
        assert_eq!(sleeper.state(), TaskState::Terminated);
        assert_eq!(joiner.state(), TaskState::Terminated);
        assert_eq!(foreign.state(), TaskState::Terminated);
        assert_eq!(sleeper.info().sleep(), None);
        Ok(())
    };
    virtual_kernel().run(program).unwrap();
}

#[test]
fn cycles_count_resumptions_and_nothing_else() {
    let program = async {
        let kid = spawn(async {
            let me = current_task()?;
            assert_eq!(me.cycles(), 1);
            // None of these suspends.
            curio::clock()?;
            let ended = spawn(async { Ok(()) });
            timeout_after(LONG, async { Ok(()) }).await?;
            assert_eq!(me.cycles(), 1);
            sleep(ms(1)).await?; // 2
            ended.join().await?; // has ended: no cycle
            sleep(Duration::ZERO).await?; // 3
            let napper = spawn(async { sleep(ms(1)).await.map(drop) });
            napper.join().await?; // 4
            assert!(timeout_after(ms(1), sleep(LONG)).await.is_err()); // 5
            assert_eq!(me.cycles(), 5);
            Ok(())
        });
        assert_eq!(kid.cycles(), 0);
        kid.join().await?;
        assert_eq!(kid.cycles(), 5);
        Ok(())
    };
    virtual_kernel().run(program).unwrap();
}

#[test]
fn ids_count_up_and_parents_are_known() {
    let program = async {
        let me = current_task()?;
        let kid = spawn(async { sleep(ms(1)).await.map(drop) });
        let second = TaskBuilder::new().name("second").spawn(async { Ok(()) });
        assert!(me.id() < kid.id() && kid.id() < second.id());
        assert_eq!(kid.info().parent(), Some(me.id()));
        assert_eq!(second.name(), "second");
        let ids: Vec<u64> = curio::get_all_tasks()?.iter().map(|task| task.id()).collect();
        assert_eq!(ids, [me.id(), kid.id(), second.id()]);
        let children: Vec<u64> = me.children().iter().map(|task| task.id()).collect();
        assert_eq!(children, [kid.id(), second.id()]);
        second.wait().await?;
        let children: Vec<u64> = me.children().iter().map(|task| task.id()).collect();
        assert_eq!(children, [kid.id()]);
        Ok(())
    };
    virtual_kernel().run(program).unwrap();
}

#[test]
fn the_same_seed_gives_the_same_order_and_others_give_others() {
    let order = |seed| {
        let trace = Trace::default();
        let seen = trace.clone();
        let program = async move {
            for name in 0..8 {
                let trace = trace.clone();
                spawn(async move {
                    for _ in 0..3 {
                        trace.note(name.to_string());
                        turns(1).await?;
                    }
                    Ok(())
                });
            }
            Ok(())
        };
        curio::testing::seeded_kernel(seed).run(program).unwrap();
        seen.0.take()
    };
    assert_eq!(order(1), order(1));
    let orders: std::collections::HashSet<_> = (0..20).map(order).collect();
    assert!(orders.len() > 10);
}
