//! Work in threads: what comes back, what a cancellation leaves behind, whose turn it is.
//!
//! Nothing here is timed: threads stand at gates until the test lets them go, and a limit on time
//! is there to end a test that hangs.

use std::cell::RefCell;
use std::collections::HashSet;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use curio::embed::{Pool, completion};
use curio::{
    Error, Kernel, Result, Task, TaskState, disable_cancellation, ignore_after, run_in_thread,
    sleep, spawn, timeout_after,
};
use futures::FutureExt;

const YIELD: Duration = Duration::ZERO;
const HANG: Duration = Duration::from_secs(60);
const SOON: Duration = Duration::from_millis(5);

fn run<T: 'static>(program: impl Future<Output = Result<T>> + 'static) -> T {
    curio::run(timeout_after(HANG, program)).unwrap()
}

/// Lets others run until `condition` holds.
async fn until(condition: impl Fn() -> bool) -> Result<()> {
    while !condition() {
        sleep(Duration::from_millis(1)).await?;
    }
    Ok(())
}

async fn blocked<T>(task: &Task<T>) -> Result<()> {
    until(|| task.info().state() == TaskState::FutureWait).await
}

/// Sets its flag when it is dropped.
struct Noted(Arc<AtomicBool>);

impl Drop for Noted {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

fn noted() -> (Noted, Arc<AtomicBool>) {
    let flag = Arc::new(AtomicBool::new(false));
    (Noted(flag.clone()), flag)
}

/// Where a thread stands until the test opens, or drops, the other end.
fn gate() -> (Sender<()>, Receiver<()>) {
    channel()
}

#[test]
fn the_result_of_the_work_is_the_call_s() {
    run(async {
        let here = thread::current().id();
        let (there, name) = run_in_thread(move || {
            let thread = thread::current();
            (thread.id(), thread.name().map(str::to_owned))
        })
        .await?;
        assert_ne!(here, there);
        assert!(name.unwrap().starts_with("curio-worker-"));
        Ok(())
    });
}

#[test]
fn other_tasks_run_meanwhile() {
    run(async {
        let (open, closed) = gate();
        let kid = spawn(async move {
            sleep(SOON).await?;
            open.send(()).unwrap();
            Ok(())
        });
        run_in_thread(move || closed.recv().unwrap()).await?;
        kid.join().await
    });
}

#[test]
fn the_monitor_sees_a_future_wait() {
    run(async {
        let (open, closed) = gate();
        let kid = spawn(run_in_thread(move || closed.recv().is_ok()));
        blocked(&kid).await?;
        open.send(()).unwrap();
        assert!(kid.join().await?);
        Ok(())
    });
}

#[test]
fn a_panic_is_an_error_of_the_call_and_the_thread_goes_on() {
    run(async {
        let pool = Pool::new(1, "panics");
        let error = pool.run(|| panic!("on purpose")).await.map(|(): ()| ()).unwrap_err();
        assert!(error.is_panic());
        assert!(error.to_string().contains("on purpose"), "{error}");
        // What was thrown may itself throw when it is dropped.
        struct Nasty;
        impl Drop for Nasty {
            fn drop(&mut self) {
                panic!("again, on purpose");
            }
        }
        let nasty = || std::panic::panic_any(Nasty);
        let error = pool.run(nasty).await.map(|(): ()| ()).unwrap_err();
        assert!(!error.is_cancellation());
        assert_eq!(pool.run(|| 42).await?, 42);
        Ok(())
    });
}

#[test]
fn outside_of_a_kernel_nothing_begins() {
    let (work, dropped) = noted();
    let call = run_in_thread(move || drop(work));
    let error = futures::executor::block_on(call).unwrap_err();
    assert!(error.is_misuse());
    assert!(dropped.load(SeqCst));
}

#[test]
fn what_is_about_to_be_cancelled_does_not_begin() {
    run(async {
        let begun = Arc::new(AtomicBool::new(false));
        let work = {
            let begun = begun.clone();
            move || begun.store(true, SeqCst)
        };
        assert!(ignore_after(Duration::ZERO, run_in_thread(work)).await?.is_none());
        run_in_thread(|| ()).await?;
        assert!(!begun.load(SeqCst));
        Ok(())
    });
}

#[test]
fn a_cancelled_call_leaves_at_once_and_its_result_is_dropped() {
    run(async {
        let (open, closed) = gate();
        let (begin, begun) = gate();
        let (result, dropped) = noted();
        let kid = spawn(run_in_thread(move || {
            begin.send(()).unwrap();
            closed.recv().unwrap();
            result
        }));
        // Other tests have calls in line.
        until(|| begun.try_recv().is_ok()).await?;
        assert!(kid.cancel().await?); // the thread stands at its gate
        assert!(!dropped.load(SeqCst));
        open.send(()).unwrap();
        until(|| dropped.load(SeqCst)).await
    });
}

#[test]
fn a_timeout_ends_a_call_and_a_shield_keeps_it() {
    run(async {
        let (open, closed) = gate();
        let error = timeout_after(SOON, run_in_thread(move || closed.recv())).await.unwrap_err();
        assert!(error.is_timeout());
        drop(open);

        let (open, closed) = gate();
        let opener = spawn(async move {
            sleep(4 * SOON).await?;
            open.send(()).unwrap();
            Ok(())
        });
        let shielded = async {
            let result = disable_cancellation(run_in_thread(move || closed.recv().is_ok())).await;
            assert!(result?);
            sleep(HANG).await
        };
        assert!(timeout_after(SOON, shielded).await.unwrap_err().is_timeout());
        opener.join().await
    });
}

#[test]
fn a_result_that_came_before_the_cancellation_is_the_result() {
    run(async {
        let (completer, mut completion) = completion();
        let kid = spawn(async move { completion.wait().await });
        blocked(&kid).await?;
        let giver = thread::spawn(move || completer.give(42));
        // Seen between the firing and the kid's turn, since the order is first come, first served.
        while kid.info().state() != TaskState::Ready {
            sleep(YIELD).await?;
        }
        kid.cancel().await?;
        assert_eq!(kid.join().await?, 42);
        giver.join().unwrap().unwrap();
        Ok(())
    });
}

#[test]
fn what_has_come_already_is_waited_for_all_the_same() {
    run(async {
        let (completer, mut completion) = completion();
        completer.give("early").unwrap();
        // Interrupted, so blocked: a program does not depend on who was quicker.
        assert!(timeout_after(Duration::ZERO, completion.wait()).await.unwrap_err().is_timeout());
        assert_eq!(completion.wait().await?, "early");
        assert!(completion.wait().await.unwrap_err().is_misuse());
        Ok(())
    });
}

#[test]
fn a_completion_may_be_asked_again_after_a_cancellation() {
    run(async {
        let (completer, mut completion) = completion();
        for _ in 0..3 {
            assert!(completion.take().is_none());
            assert!(ignore_after(SOON, completion.wait()).await?.is_none());
        }
        let giver = thread::spawn(move || completer.give(7));
        assert_eq!(completion.wait().await?, 7);
        giver.join().unwrap().unwrap();
        Ok(())
    });
}

#[test]
fn a_completion_can_be_given_in_the_kernel_s_own_thread() {
    run(async {
        let (completer, mut completion) = completion();
        let kid = spawn(async move { completion.wait().await });
        blocked(&kid).await?;
        completer.give(1).unwrap();
        assert_eq!(kid.join().await?, 1);
        Ok(())
    });
}

#[test]
fn a_giver_that_ends_without_a_value_says_so() {
    run(async {
        let (completer, mut early) = completion::<()>();
        drop(completer);
        let error = early.wait().await.unwrap_err();
        assert!(error.to_string().contains("no value will come"), "{error}");

        let (completer, mut late) = completion::<()>();
        let kid = spawn(async move { late.wait().await });
        blocked(&kid).await?;
        thread::spawn(move || drop(completer)).join().unwrap();
        let error = kid.join().await.unwrap_err();
        assert!(error.to_string().contains("no value will come"), "{error}");
        Ok(())
    });
}

#[test]
fn a_value_that_nobody_wants_comes_back() {
    let (completer, completion) = completion();
    assert!(completer.is_wanted());
    drop(completion);
    assert!(!completer.is_wanted());
    assert_eq!(completer.give(3), Err(3));
}

#[test]
fn a_value_that_is_never_asked_for_is_dropped() {
    let (completer, completion) = completion();
    let (value, dropped) = noted();
    assert!(completer.give(value).is_ok());
    assert!(!dropped.load(SeqCst));
    drop(completion);
    assert!(dropped.load(SeqCst));
}

#[test]
fn a_pool_keeps_to_its_limit_and_its_line_is_first_come_first_served() {
    const LIMIT: usize = 3;
    run(async {
        let pool = Pool::new(LIMIT, "limited");
        let (inside, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut gates = Vec::new();
        let mut calls = Vec::new();
        for number in 0..20 {
            let (open, closed) = gate();
            gates.push(open);
            let (inside, most, order) = (inside.clone(), most.clone(), order.clone());
            calls.push(spawn(pool.run(move || {
                most.fetch_max(inside.fetch_add(1, SeqCst) + 1, SeqCst);
                order.lock().unwrap().push(number);
                closed.recv().unwrap();
                inside.fetch_sub(1, SeqCst);
                number
            })));
        }
        let begun = || order.lock().unwrap().len();
        for (number, open) in gates.iter().enumerate() {
            let expected = (number + LIMIT).min(20);
            until(|| begun() >= expected).await?;
            open.send(()).unwrap();
        }
        for (number, call) in calls.iter().enumerate() {
            assert_eq!(call.join().await?, number);
        }
        assert_eq!(most.load(SeqCst), LIMIT);
        // The first ones run together; from then on one begins when one ends.
        let order = order.lock().unwrap();
        let mut first = order[..LIMIT].to_vec();
        first.sort_unstable();
        assert_eq!(first, [0, 1, 2]);
        assert_eq!(order[LIMIT..], (LIMIT..20).collect::<Vec<_>>());
        Ok(())
    });
}

#[test]
fn a_cancelled_call_that_has_not_begun_never_does() {
    run(async {
        let pool = Pool::new(1, "line");
        let order = Arc::new(Mutex::new(Vec::new()));
        let (open, closed) = gate();
        let first = spawn(pool.run(move || closed.recv().is_ok()));
        let mut calls = Vec::new();
        let mut flags = Vec::new();
        for number in 0..5 {
            let (work, dropped) = noted();
            flags.push(dropped);
            let order = order.clone();
            calls.push(spawn(pool.run(move || {
                let _work = &work;
                order.lock().unwrap().push(number);
            })));
        }
        blocked(&calls[4]).await?;
        for cancelled in [0, 3] {
            assert!(calls[cancelled].cancel().await?);
            assert!(flags[cancelled].load(SeqCst)); // with all that it had
        }
        open.send(()).unwrap();
        assert!(first.join().await?);
        for number in [1, 2, 4] {
            calls[number].join().await?;
        }
        assert_eq!(*order.lock().unwrap(), [1, 2, 4]);
        Ok(())
    });
}

#[test]
fn the_place_of_a_cancelled_call_is_free_at_once() {
    run(async {
        let pool = Pool::new(1, "zombies");
        let mut gates = Vec::new();
        let left = Arc::new(AtomicUsize::new(0));
        for _ in 0..5 {
            let (open, closed) = gate();
            let (begin, begun) = gate();
            gates.push(open);
            let left = left.clone();
            let call = spawn(pool.run(move || {
                begin.send(()).unwrap();
                closed.recv().unwrap();
                left.fetch_add(1, SeqCst);
            }));
            let waiting = spawn(pool.run(|| 42));
            until(|| begun.try_recv().is_ok()).await?;
            assert!(call.cancel().await?);
            assert_eq!(waiting.join().await?, 42);
        }
        assert_eq!(left.load(SeqCst), 0);
        gates.iter().for_each(|open| open.send(()).unwrap());
        until(|| left.load(SeqCst) == 5).await?;
        // Their ends give no second place.
        assert_eq!(pool.run(|| 43).await?, 43);
        let (open, closed) = gate();
        let last = spawn(pool.run(move || closed.recv().is_ok()));
        blocked(&last).await?;
        let (work, begun) = noted();
        let next = spawn(pool.run(move || drop(work)));
        blocked(&next).await?;
        for _ in 0..10 {
            sleep(Duration::from_millis(1)).await?;
            assert!(!begun.load(SeqCst));
        }
        open.send(()).unwrap();
        assert!(last.join().await?);
        next.join().await
    });
}

#[test]
fn threads_are_used_again() {
    run(async {
        let pool = Pool::new(8, "reused");
        let mut threads = HashSet::new();
        for _ in 0..100 {
            threads.insert(pool.run(|| thread::current().id()).await?);
        }
        // One, but that a call may come before the thread of the last one has put things away.
        assert!(threads.len() < 50);
        Ok(())
    });
}

#[test]
fn a_dropped_pool_does_what_it_has() {
    run(async {
        let pool = Pool::new(1, "dropped");
        let (open, closed) = gate();
        let first = spawn(pool.run(move || closed.recv().is_ok()));
        let calls: Vec<_> = (0..10).map(|number| spawn(pool.run(move || number))).collect();
        blocked(&calls[9]).await?;
        drop(pool);
        open.send(()).unwrap();
        assert!(first.join().await?);
        for (number, call) in calls.iter().enumerate() {
            assert_eq!(call.join().await?, number);
        }
        Ok(())
    });
}

#[test]
fn a_thousand_calls() {
    run(async {
        let mut calls = Vec::new();
        for number in 0..1000 {
            calls.push(spawn(run_in_thread(move || number)));
        }
        for (number, call) in calls.iter().enumerate() {
            assert_eq!(call.join().await?, number);
        }
        Ok(())
    });
}

#[test]
fn a_thousand_calls_cancelled_anywhere() {
    run(async {
        let pool = Pool::new(4, "anywhere");
        let done = Rc::new(RefCell::new(Vec::new()));
        let mut calls = Vec::new();
        for number in 0..1000u64 {
            let (call, done) = (pool.run(move || number), done.clone());
            calls.push(spawn(async move {
                let number = call.await?;
                done.borrow_mut().push(number);
                Ok(())
            }));
        }
        for (number, call) in calls.iter().enumerate() {
            if number % 3 == 0 {
                call.cancel().await?;
            } else if number % 7 == 0 {
                sleep(YIELD).await?;
            }
        }
        for (number, call) in calls.iter().enumerate() {
            let joined = call.join().await;
            if number % 3 != 0 {
                joined?;
                assert!(done.borrow().contains(&(number as u64)));
            } else if let Err(error) = joined {
                assert!(error.task_cause().is_some_and(Error::is_cancelled));
            }
        }
        assert_eq!(pool.run(|| 1).await?, 1);
        Ok(())
    });
}

#[test]
fn combinators_wait_for_several() {
    run(async {
        let (open, closed) = gate();
        let one = run_in_thread(move || closed.recv().is_ok());
        let other = async {
            let value = run_in_thread(|| 5).await?;
            open.send(()).unwrap();
            Ok(value)
        };
        let (one, other): (_, Result<i32>) = futures::join!(one, other);
        assert!(one?);
        assert_eq!(other?, 5);
        // The loser is dropped in its wait.
        let (_open, closed) = gate();
        let slow = run_in_thread(move || closed.recv().is_ok()).boxed_local();
        let fast = run_in_thread(|| true).boxed_local();
        let (won, _) = futures::future::select_ok([slow, fast]).await?;
        assert!(won);
        Ok(())
    });
}

#[test]
fn a_kernel_ends_without_its_threads() {
    let (open, closed) = gate();
    let (result, dropped) = noted();
    let mut kernel = Kernel::new().unwrap();
    let (begin, begun) = gate();
    let call = kernel
        .add_task(run_in_thread(move || {
            begin.send(()).unwrap();
            closed.recv().unwrap();
            result
        }))
        .unwrap();
    kernel
        .run(async move {
            until(|| begun.try_recv().is_ok()).await?;
            assert!(call.cancel().await?);
            Ok(())
        })
        .unwrap();
    // And so does one that is dropped where it stands.
    let (still_open, still_closed) = gate();
    drop(kernel.add_task(run_in_thread(move || still_closed.recv().is_ok())).unwrap());
    let error = kernel.run(async { Err::<(), _>(Error::other("enough")) }).unwrap_err();
    assert_eq!(error.to_string(), "enough");
    drop(kernel);
    open.send(()).unwrap();
    let _ = still_open.send(());
    while !dropped.load(SeqCst) {
        thread::yield_now();
    }
}

#[test]
fn two_kernels_share_the_threads() {
    let kernels: Vec<_> = (0..2)
        .map(|kernel| {
            thread::spawn(move || {
                run(async move {
                    let mut calls = Vec::new();
                    for number in 0..300 {
                        calls.push(spawn(run_in_thread(move || (kernel, number))));
                    }
                    for (number, call) in calls.iter().enumerate() {
                        if number % 5 == 0 {
                            call.cancel().await?;
                        } else {
                            assert_eq!(call.join().await?, (kernel, number));
                        }
                    }
                    Ok(())
                });
            })
        })
        .collect();
    kernels.into_iter().for_each(|kernel| kernel.join().unwrap());
}

#[test]
fn a_completion_goes_from_kernel_to_kernel() {
    // Awaited in vain in one kernel, then in another, to which a third gives it.
    let (completer, mut completion) = completion();
    let mut completion = run(async move {
        assert!(ignore_after(SOON, completion.wait()).await?.is_none());
        Ok(completion)
    });
    let (begin, begun) = gate();
    let waiter = thread::spawn(move || {
        run(async move {
            begin.send(()).unwrap();
            completion.wait().await
        })
    });
    begun.recv().unwrap();
    run(async move {
        sleep(SOON).await?;
        completer.give(9).unwrap();
        Ok(())
    });
    assert_eq!(waiter.join().unwrap(), 9);
}

#[test]
fn a_call_can_ask_whether_it_was_abandoned() {
    assert!(!curio::is_abandoned());
    let (begin, begun) = gate();
    let (gave_up, has_given_up) = gate();
    run(async move {
        assert!(!run_in_thread(curio::is_abandoned).await?);
        let call = spawn(run_in_thread(move || {
            assert!(!curio::is_abandoned());
            begin.send(()).unwrap();
            while !curio::is_abandoned() {
                thread::yield_now();
            }
            gave_up.send(()).unwrap();
        }));
        run_in_thread(move || begun.recv().unwrap()).await?;
        call.cancel().await?;
        run_in_thread(move || has_given_up.recv().unwrap()).await?;
        // The next call of a thread is another.
        assert!(!run_in_thread(curio::is_abandoned).await?);
        Ok(())
    });
}

#[test]
fn a_virtual_kernel_waits_for_threads_really() {
    // It took this for a deadlock: nothing of its own could wake the task.
    let mut kernel = curio::testing::virtual_kernel();
    let result = kernel.run(async {
        for number in 0..3 {
            let work = move || {
                thread::sleep(Duration::from_millis(5));
                number
            };
            assert_eq!(run_in_thread(work).await?, number);
        }
        Ok("done")
    });
    assert_eq!(result.unwrap(), "done");
    // A wait that was given up is none: here is a deadlock.
    let (_never, mut completion) = completion::<()>();
    let error = kernel.run(async move {
        assert!(ignore_after(SOON, completion.wait()).await?.is_none());
        curio::sync::Event::new().wait().await
    });
    assert!(error.unwrap_err().to_string().contains("deadlock"));
}

#[test]
fn a_virtual_kernel_waits_for_other_processes_really() {
    use curio::embed::Outside;
    use std::os::unix::net::UnixStream;

    assert!(Outside::new().is_none(), "there is no kernel here");
    let mut kernel = curio::testing::virtual_kernel();
    let result = kernel.run(async {
        let (ours, mut theirs) = UnixStream::pair()?;
        let outside = Outside::new();
        let other = thread::spawn(move || {
            thread::sleep(Duration::from_millis(5));
            std::io::Write::write_all(&mut theirs, b"!").unwrap();
        });
        curio::net::wait_readable(&ours).await?;
        // Given up in another thread, it counts for nothing all the same.
        thread::spawn(move || drop(outside)).join().unwrap();
        other.join().unwrap();
        Ok(())
    });
    result.unwrap();
    let (ours, _theirs) = UnixStream::pair().unwrap();
    let error = kernel.run(async move { curio::net::wait_readable(&ours).await });
    assert!(error.unwrap_err().to_string().contains("deadlock"));
}
