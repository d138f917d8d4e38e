//! The rules of timeouts, one test each, as they read in Rust.
//!
//! All on the virtual clock, where a deadline is met to the nanosecond; so the tests
//! can also say *when* something has ended.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use curio::sync::Event;
use curio::testing::{look_at_timers, virtual_kernel};
use curio::{
    Error, Result, check_cancellation, clock, disable_cancellation, ignore_after, sleep, spawn,
    timeout_after,
};

const LONG: Duration = Duration::from_secs(1000);

const fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

fn run<T: 'static>(program: impl Future<Output = Result<T>> + 'static) -> T {
    virtual_kernel().run(program).unwrap()
}

/// What `future` gives, and after which time.
async fn timed<T>(future: impl Future<Output = Result<T>>) -> Result<(Result<T>, Duration)> {
    let start = clock()?;
    let result = future.await;
    Ok((result, clock()? - start))
}

/// Which of the predicates hold.
fn kind(error: &Error) -> &'static str {
    let kinds = [
        (error.is_cancelled(), "cancelled"),
        (error.is_timeout(), "timeout"),
        (error.is_timeout_cancellation(), "timeout_cancellation"),
        (error.is_uncaught_timeout(), "uncaught_timeout"),
    ];
    let mut which = kinds.iter().filter(|(holds, _)| *holds).map(|(_, name)| *name);
    let kind = which.next().unwrap_or("other");
    assert_eq!(which.next(), None, "the predicates exclude each other: {error:?}");
    let cancellation = ["cancelled", "timeout", "timeout_cancellation"].contains(&kind);
    assert_eq!(error.is_cancellation(), cancellation, "{error:?}");
    kind
}

fn kind_of<T>(result: &Result<T>) -> &'static str {
    result.as_ref().err().map_or("ok", kind)
}

#[test]
fn a_result_in_time_and_an_error_in_time_pass_through() {
    run(async {
        assert_eq!(timeout_after(ms(10), async { Ok(5) }).await?, 5);
        let slow = async { sleep(ms(9)).await.map(|_| 6) };
        assert_eq!(timeout_after(ms(10), slow).await?, 6);
        let failing = async { Err::<(), _>(Error::other("mine")) };
        assert_eq!(timeout_after(ms(10), failing).await.unwrap_err().to_string(), "mine");
        assert_eq!(ignore_after(ms(10), async { Ok(7) }).await?, Some(7));
        let failing = async { Err::<(), _>(Error::other("mine")) };
        assert_eq!(ignore_after(ms(10), failing).await.unwrap_err().to_string(), "mine");
        Ok(())
    });
}

#[test]
fn the_blocked_trap_is_told_and_may_clean_up() {
    run(async {
        let (result, took) = timed(timeout_after(ms(10), async {
            let slept = sleep(LONG).await;
            assert_eq!(kind_of(&slept), "timeout");
            sleep(ms(5)).await?; // the timeout was delivered: it does not come again
            slept
        }))
        .await?;
        assert_eq!(kind_of(&result), "timeout");
        assert_eq!(took, ms(15));
        let (result, took) = timed(ignore_after(ms(10), sleep(LONG))).await?;
        assert_eq!(result?, None);
        assert_eq!(took, ms(10));
        Ok(())
    });
}

#[test]
fn a_result_in_spite_of_the_timeout_is_the_result() {
    run(async {
        let stubborn = async {
            let _ = sleep(LONG).await;
            Ok("all the same")
        };
        assert_eq!(timeout_after(ms(10), stubborn).await?, "all the same");
        let stubborn = async {
            let _ = sleep(LONG).await;
            Ok("all the same")
        };
        assert_eq!(ignore_after(ms(10), stubborn).await?, Some("all the same"));
        Ok(())
    });
}

#[test]
fn an_operation_that_ends_at_the_deadline_has_ended() {
    run(async {
        let (result, took) = timed(timeout_after(ms(10), sleep(ms(10)))).await?;
        assert_eq!((kind_of(&result), took), ("ok", ms(10)));
        Ok(())
    });
}

#[test]
fn rule_1_the_inner_one_expires_first() {
    run(async {
        let outer = timeout_after(ms(50), async {
            let inner = timeout_after(ms(10), sleep(LONG)).await;
            assert_eq!(kind_of(&inner), "timeout");
            sleep(ms(20)).await // the outer one has not expired
        });
        let (outer, took) = timed(outer).await?;
        assert_eq!((kind_of(&outer), took), ("ok", ms(30)));
        Ok(())
    });
}

#[test]
fn rule_2_the_outer_one_expires_first() {
    run(async {
        let outer = timeout_after(ms(10), async {
            let inner = timeout_after(ms(50), async {
                let slept = sleep(LONG).await;
                assert_eq!(kind_of(&slept), "timeout_cancellation");
                slept
            });
            let inner = inner.await;
            // Passes through the inner region as it is, and is not its timeout.
            assert_eq!(kind_of(&inner), "timeout_cancellation");
            inner
        });
        let (outer, took) = timed(outer).await?;
        assert_eq!((kind_of(&outer), took), ("timeout", ms(10)));
        // `ignore_after` inside does not swallow it, outside does.
        let outer = ignore_after(ms(10), ignore_after(ms(50), sleep(LONG)));
        assert_eq!(outer.await?, None);
        Ok(())
    });
}

#[test]
fn rule_3_both_together_count_as_the_outer_one() {
    run(async {
        let outer = timeout_after(ms(10), async {
            let inner = timeout_after(ms(10), sleep(LONG)).await;
            assert_eq!(kind_of(&inner), "timeout_cancellation");
            inner
        });
        assert_eq!(kind_of(&outer.await), "timeout");
        // Three levels, of which the outer two expire, at different times but unseen till then.
        let outer = timeout_after(ms(10), async {
            let middle = timeout_after(ms(5), async {
                disable_cancellation(sleep(ms(20))).await?;
                let inner = timeout_after(ms(50), sleep(LONG)).await;
                assert_eq!(kind_of(&inner), "timeout_cancellation");
                inner
            });
            let middle = middle.await;
            assert_eq!(kind_of(&middle), "timeout_cancellation");
            middle
        });
        assert_eq!(kind_of(&outer.await), "timeout");
        Ok(())
    });
}

#[test]
fn rule_4_an_inner_timeout_that_nobody_handles_is_uncaught() {
    run(async {
        let outer = timeout_after(LONG, async {
            timeout_after(ms(10), sleep(LONG)).await?;
            Ok(())
        });
        let outer = outer.await;
        assert_eq!(kind_of(&outer), "uncaught_timeout");
        let outer = ignore_after(LONG, async {
            timeout_after(ms(10), sleep(LONG)).await?;
            Ok(())
        });
        assert_eq!(kind_of(&outer.await), "uncaught_timeout");
        // An ordinary error from there on: it passes a third region unchanged.
        let outermost =
            timeout_after(LONG, timeout_after(LONG, timeout_after(ms(10), sleep(LONG))));
        assert_eq!(kind_of(&outermost.await), "uncaught_timeout");
        Ok(())
    });
}

#[test]
fn rule_5_a_longer_inner_one_extends_nothing() {
    run(async {
        let (outer, took) = timed(timeout_after(ms(10), timeout_after(LONG, sleep(LONG)))).await?;
        assert_eq!((kind_of(&outer), took), ("timeout", ms(10)));
        Ok(())
    });
}

#[test]
fn rule_6_no_limit_leaves_the_outer_one_in_force() {
    run(async {
        let outer = timeout_after(ms(10), async {
            let inner = timeout_after(Duration::MAX, sleep(LONG)).await;
            assert_eq!(kind_of(&inner), "timeout_cancellation");
            inner
        });
        let (outer, took) = timed(outer).await?;
        assert_eq!((kind_of(&outer), took), ("timeout", ms(10)));
        Ok(())
    });
}

#[test]
fn rule_7_zero_fires_at_the_first_trap_that_blocks() {
    run(async {
        let (zero, took) = timed(timeout_after(Duration::ZERO, sleep(LONG))).await?;
        assert_eq!((kind_of(&zero), took), ("timeout", Duration::ZERO));
        assert_eq!(kind_of(&timeout_after(Duration::ZERO, sleep(Duration::ZERO)).await), "timeout");
        let ended = spawn(async { Ok(7) });
        ended.wait().await?;
        let unblocked = timeout_after(Duration::ZERO, async {
            spawn(async { Ok(()) });
            ended.join().await // has ended: does not block
        });
        assert_eq!(unblocked.await?, 7);
        let asked = timeout_after(Duration::ZERO, async { check_cancellation() });
        assert_eq!(kind_of(&asked.await), "timeout");
        Ok(())
    });
}

#[test]
fn rule_8_one_that_falls_due_while_the_task_is_ready_comes_at_the_next_trap_inside() {
    run(async {
        let inside = timeout_after(ms(10), async {
            disable_cancellation(sleep(ms(30))).await?; // overruns
            let slept = sleep(LONG).await;
            assert_eq!(kind_of(&slept), "timeout");
            slept
        });
        let (inside, took) = timed(inside).await?;
        assert_eq!((kind_of(&inside), took), ("timeout", ms(30)));
        // Once the region is left, it is dropped.
        let overrun = timeout_after(ms(10), disable_cancellation(sleep(ms(30))));
        assert_eq!(kind_of(&overrun.await), "ok");
        sleep(ms(30)).await?;
        check_cancellation()?;
        Ok(())
    });
}

#[test]
fn rule_9_the_outer_deadline_is_back_after_the_region() {
    run(async {
        // Not passed yet: it fires when it is due.
        let outer = timeout_after(ms(10), async {
            timeout_after(ms(50), sleep(ms(5))).await?;
            sleep(LONG).await
        });
        let (outer, took) = timed(outer).await?;
        assert_eq!((kind_of(&outer), took), ("timeout", ms(10)));
        // Passed meanwhile: at the next trap.
        let outer = timeout_after(ms(10), async {
            timeout_after(ms(50), disable_cancellation(sleep(ms(20)))).await?;
            sleep(LONG).await
        });
        let (outer, took) = timed(outer).await?;
        assert_eq!((kind_of(&outer), took), ("timeout", ms(20)));
        Ok(())
    });
}

#[test]
fn rule_10_a_cancellation_drops_the_timeouts() {
    run(async {
        let cleaned = Rc::new(Cell::new(false));
        let kid = spawn({
            let cleaned = cleaned.clone();
            timeout_after(ms(20), async move {
                let slept = timeout_after(ms(10), sleep(LONG)).await;
                assert_eq!(kind_of(&slept), "cancelled");
                sleep(ms(100)).await?; // is not cut short
                // A limit of its own, though, is in force.
                assert_eq!(kind_of(&timeout_after(ms(5), sleep(LONG)).await), "timeout");
                cleaned.set(true);
                slept
            })
        });
        sleep(ms(5)).await?;
        let (cancelled, took) = timed(kid.cancel()).await?;
        assert!(cancelled?);
        assert_eq!(took, ms(105));
        assert!(cleaned.get());
        assert_eq!(
            kind_of(&kid.join().await.map_err(|e| e.task_cause().unwrap().clone())),
            "cancelled"
        );
        Ok(())
    });
}

#[test]
fn rule_10_also_drops_those_that_were_entered_between_the_request_and_its_arrival() {
    run(async {
        let kid = spawn(timeout_after(ms(10), async {
            let slept = sleep(LONG).await;
            assert_eq!(kind_of(&slept), "cancelled");
            sleep(ms(100)).await?; // is not cut short
            slept
        }));
        // It has not entered its timeout yet.
        let (cancelled, took) = timed(kid.cancel()).await?;
        assert!(cancelled?);
        assert_eq!(took, ms(100));
        Ok(())
    });
}

#[test]
fn rule_11_the_error_knows_how_late_it_is() {
    run(async {
        let error = timeout_after(ms(10), sleep(LONG)).await.unwrap_err();
        assert_eq!(error.to_string(), "timeout expired (0ns after its deadline)");
        let late = timeout_after(ms(10), async {
            disable_cancellation(sleep(ms(30))).await?;
            sleep(LONG).await
        });
        let error = late.await.unwrap_err();
        assert_eq!(error.to_string(), "timeout expired (20ms after its deadline)");
        let outer = timeout_after(ms(10), async {
            let error = timeout_after(LONG, sleep(LONG)).await.unwrap_err();
            let text = "timeout of an outer region expired (0ns after its deadline)";
            assert_eq!(error.to_string(), text);
            Ok(())
        });
        outer.await
    });
}

#[test]
fn a_timeout_is_the_tasks_own_affair() {
    run(async {
        // A task spawned inside of a region is outside of it.
        let kid = timeout_after(ms(10), async {
            let kid = spawn(async { sleep(ms(50)).await.map(drop) });
            let joined = kid.join().await;
            assert_eq!(kind_of(&joined), "timeout");
            Ok(kid)
        });
        let kid = kid.await?;
        kid.join().await?;
        // A task that ends with its own timeout is a failed task, to who joins it.
        let kid = spawn(timeout_after(ms(10), sleep(LONG)));
        let joined = timeout_after(LONG, kid.join()).await.unwrap_err();
        assert!(joined.is_task_error() && !joined.is_cancellation());
        assert_eq!(kind(joined.task_cause().unwrap()), "timeout");
        Ok(())
    });
}

#[test]
fn shields_nest_and_hold_back_everything() {
    run(async {
        let kid = spawn(async {
            let shielded = disable_cancellation(async {
                disable_cancellation(sleep(ms(10))).await?;
                sleep(ms(10)).await?;
                check_cancellation()?;
                // A timeout inside of the shield is held back, too.
                timeout_after(ms(5), sleep(ms(10))).await
            });
            shielded.await?;
            let slept = sleep(LONG).await;
            assert_eq!(kind_of(&slept), "cancelled");
            slept
        });
        sleep(ms(1)).await?;
        let (cancelled, took) = timed(kid.cancel()).await?;
        assert!(cancelled?);
        assert_eq!(took, ms(29));
        Ok(())
    });
}

#[test]
fn a_thousand_timeouts_that_do_not_fire_leave_nothing() {
    run(async {
        let start = clock()?;
        for _ in 0..1000 {
            timeout_after(LONG, sleep(Duration::ZERO)).await?;
        }
        // If one were left, time would jump to it.
        sleep(ms(1)).await?;
        assert!(clock()? - start < LONG);
        Ok(())
    });
}

#[test]
fn deadlines_are_not_rounded() {
    run(async {
        for nanoseconds in [1, 7, 999, 1_000_001] {
            let limit = Duration::from_nanos(nanoseconds);
            let (result, took) = timed(timeout_after(limit, sleep(LONG))).await?;
            assert_eq!((kind_of(&result), took), ("timeout", limit));
            let (slept, took) = timed(sleep(limit)).await?;
            assert_eq!((kind_of(&slept), took), ("ok", limit));
        }
        Ok(())
    });
}

/// A wait was fired when its task had been woken by its limit, and had not run yet; its timer was then
/// removed a second time, and with it perhaps another's.
#[test]
fn a_sleep_is_over_before_its_task_sees_that_its_limit_was() {
    let compute_until = |start: Instant, milliseconds| {
        while start.elapsed() < Duration::from_millis(milliseconds) {}
    };
    let expired = curio::run(async move {
        let start = Instant::now();
        let victim =
            spawn(ignore_after(Duration::from_millis(10), sleep(Duration::from_millis(20))));
        sleep(Duration::ZERO).await?;
        compute_until(start, 12);
        // The kernel sees that the limit is over, and then the sleep is over, too.
        look_at_timers();
        compute_until(start, 30);
        look_at_timers();
        victim.join().await
    });
    assert_eq!(expired.unwrap(), None);
}

/// The machine kept the kernel from running until both deadlines had passed: both fired at once,
/// and the second was a timeout for a task that the first one's had been about to wake.
#[test]
fn a_kernel_that_is_late_meets_deadlines_in_their_order() {
    let result = curio::run(async {
        let event = Rc::new(Event::new());
        let waiter = spawn({
            let event = event.clone();
            timeout_after(ms(20), async move { event.wait().await })
        });
        let setter = spawn({
            let event = event.clone();
            async move {
                sleep(ms(10)).await?;
                event.set().await
            }
        });
        sleep(ms(1)).await?;
        std::thread::sleep(ms(40));
        setter.join().await?;
        waiter.join().await
    });
    assert!(result.is_ok(), "{result:?}");
}

/// A task that its limit had woken saw, before it went on, that its sleep was over as well, and
/// was made ready for that in the middle of its turn: before the task that it woke then.
#[test]
fn whoever_comes_late_still_lets_those_go_first_that_it_wakes() {
    let order = curio::run(async {
        let (event, order) = (Rc::new(Event::new()), Rc::new(RefCell::new(Vec::new())));
        let waiter = spawn({
            let (event, order) = (event.clone(), order.clone());
            async move {
                event.wait().await?;
                order.borrow_mut().push("waiter");
                Ok(())
            }
        });
        let setter = spawn({
            let order = order.clone();
            async move {
                assert!(ignore_after(ms(1), sleep(ms(2))).await?.is_none());
                event.set().await?;
                order.borrow_mut().push("setter");
                Ok(())
            }
        });
        sleep(Duration::ZERO).await?;
        std::thread::sleep(ms(5));
        setter.join().await?;
        waiter.join().await?;
        Ok(order.take())
    });
    assert_eq!(order.unwrap(), ["waiter", "setter"]);
}
