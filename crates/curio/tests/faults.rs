//! What goes wrong: panics, misuse, kernels that are gone or were stopped, deadlocks.
//!
//! Each test makes one fault happen, looks at the error's kind and at its text, and
//! then goes on with the same kernel, if there is one, to see that it still works.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use curio::testing::virtual_kernel;
use curio::{
    Error, Kernel, Result, Task, TaskBuilder, TaskRef, clock, current_task, disable_cancellation,
    sleep, spawn, timeout_after,
};
use futures::FutureExt;

const LONG: Duration = Duration::from_secs(1000);

const fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

fn run<T: 'static>(program: impl Future<Output = Result<T>> + 'static) -> Result<T> {
    virtual_kernel().run(program)
}

/// A panic of the given text that leaves standard error alone.
fn fail(text: &str) -> ! {
    std::panic::resume_unwind(Box::new(text.to_owned()))
}

fn poll_once<F: Future>(future: F) -> Poll<F::Output> {
    pin!(future).poll(&mut Context::from_waker(Waker::noop()))
}

#[test]
fn a_panic_ends_one_task_and_its_joiner_is_told() {
    run(async {
        let kid = TaskBuilder::new().name("kid").spawn(async {
            sleep(ms(1)).await?;
            fail("ouch");
            #[allow(unreachable_code)]
            Ok(())
        });
        let bystander = spawn(async { sleep(ms(5)).await.map(|_| "unharmed") });
        let error = kid.join().await.unwrap_err();
        assert!(error.is_task_error() && !error.is_panic());
        let cause = error.task_cause().unwrap();
        assert!(cause.is_panic() && !cause.is_cancellation());
        assert_eq!(cause.to_string(), "panicked: ouch");
        assert_eq!(
            error.to_string(),
            format!("task {} (kid) did not return: panicked: ouch", kid.id())
        );
        assert_eq!(bystander.join().await?, "unharmed");
        Ok(())
    })
    .unwrap();
}

#[test]
fn panics_of_any_kind_of_value_are_reported() {
    run(async {
        let text = spawn(async {
            std::panic::resume_unwind(Box::new("static"));
            #[allow(unreachable_code)]
            Ok(())
        });
        assert_eq!(
            text.join().await.unwrap_err().task_cause().unwrap().to_string(),
            "panicked: static"
        );
        let number = spawn(async {
            std::panic::resume_unwind(Box::new(42));
            #[allow(unreachable_code)]
            Ok(())
        });
        assert!(number.join().await.unwrap_err().task_cause().unwrap().is_panic());
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_panic_in_the_main_task_is_runs_error_and_the_kernel_lives() {
    let mut kernel = virtual_kernel();
    let error = kernel
        .run(async {
            fail("ouch");
            #[allow(unreachable_code)]
            Ok(())
        })
        .unwrap_err();
    assert!(error.is_panic());
    assert_eq!(kernel.run(async { Ok(3) }).unwrap(), 3);
    kernel.shutdown().unwrap();
}

#[test]
fn a_panic_during_clean_up_ends_the_task_for_its_canceller() {
    run(async {
        let kid = spawn(async {
            let _ = sleep(LONG).await;
            fail("in the clean-up");
            #[allow(unreachable_code)]
            Ok(())
        });
        sleep(ms(1)).await?;
        assert!(kid.cancel().await?);
        assert!(kid.join().await.unwrap_err().task_cause().unwrap().is_panic());
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_panic_in_a_destructor_ends_one_task() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            if !std::thread::panicking() {
                fail("in a destructor");
            }
        }
    }
    run(async {
        let kid = spawn(async {
            let _bomb = Bomb;
            sleep(ms(1)).await.map(drop)
        });
        assert!(kid.join().await.unwrap_err().is_task_error());
        sleep(ms(1)).await?;
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_panic_that_is_caught_inside_of_a_region_leaves_no_region_behind() {
    run(async {
        let panicking = AssertUnwindSafe(timeout_after(ms(10), async {
            fail("ouch");
            #[allow(unreachable_code)]
            Ok(())
        }));
        assert!(panicking.catch_unwind().await.is_err());
        let panicking = AssertUnwindSafe(disable_cancellation(async {
            fail("ouch");
            #[allow(unreachable_code)]
            Ok(())
        }));
        assert!(panicking.catch_unwind().await.is_err());
        // No limit is left, no shield, and new limits work.
        sleep(ms(50)).await?;
        let error = timeout_after(ms(10), sleep(LONG)).await.unwrap_err();
        assert!(error.is_timeout());
        Ok(())
    })
    .unwrap();
}

#[test]
fn joining_oneself_is_misuse() {
    run(async {
        let itself: Rc<Cell<Option<Task<()>>>> = Rc::default();
        let kid = spawn({
            let itself = itself.clone();
            async move {
                sleep(ms(1)).await?;
                let itself = itself.take().unwrap();
                let error = itself.join().await.unwrap_err();
                assert_eq!(error.to_string(), "a task cannot wait for its own end");
                assert!(error.is_misuse());
                assert!(itself.wait().await.unwrap_err().is_misuse());
                sleep(ms(1)).await.map(drop)
            }
        });
        let watch: TaskRef = kid.clone();
        itself.set(Some(kid));
        watch.wait().await?;
        Ok(())
    })
    .unwrap();
}

#[test]
fn cancelling_oneself_is_misuse_but_asking_for_it_is_not() {
    run(async {
        let kid = spawn(async {
            let me = current_task()?;
            let error = me.cancel().await.unwrap_err();
            assert!(error.is_misuse());
            assert!(error.to_string().starts_with("a task cannot cancel itself"), "{error}");
            sleep(ms(1)).await?; // nothing was asked for
            assert!(me.request_cancel());
            sleep(LONG).await.map(drop)
        });
        let error = kid.join().await.unwrap_err();
        let cause = error.task_cause().unwrap();
        assert!(cause.is_cancelled());
        assert_eq!(cause.cancellation().unwrap().by, Some(kid.id()));
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_task_that_its_own_kid_cancels_is_cancelled() {
    let error = run(async {
        let parent = current_task()?;
        let kid = spawn(async move { parent.cancel().await.map(drop) });
        let joined = kid.join().await;
        // Each waits for the other; the cancellation is what ends it.
        assert!(joined.as_ref().unwrap_err().is_cancelled());
        joined
    })
    .unwrap_err();
    assert!(error.is_cancelled());
}

#[test]
fn a_cancellation_says_who_where_and_why() {
    run(async {
        let kid = spawn(async { sleep(LONG).await.map(drop) });
        let canceller = TaskBuilder::new().name("boss").spawn({
            let kid = kid.clone();
            async move { kid.cancel_because("too late").await }
        });
        assert!(canceller.join().await?);
        let error = kid.join().await.unwrap_err();
        let cancellation = error.task_cause().unwrap().cancellation().unwrap().clone();
        assert_eq!(cancellation.by, Some(canceller.id()));
        assert_eq!(cancellation.by_name, "boss");
        assert_eq!(cancellation.site.unwrap().file(), file!());
        assert_eq!(cancellation.reason.as_deref(), Some("too late"));
        let text = cancellation.to_string();
        assert!(
            text.starts_with(&format!("cancelled by task {} (boss) at ", canceller.id())),
            "{text}"
        );
        assert!(text.ends_with(": too late"), "{text}");
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_value_is_joined_once_and_an_error_as_often_as_one_likes() {
    run(async {
        let kid = spawn(async { Ok(7) });
        assert_eq!(kid.join().await?, 7);
        let error = kid.join().await.unwrap_err();
        assert!(error.is_misuse() && !error.is_task_error());
        assert!(error.to_string().contains("an earlier join has taken the result"), "{error}");
        kid.wait().await?;
        let failed: Task<()> = spawn(async { Err(Error::other("no luck")) });
        for _ in 0..2 {
            let error = failed.join().await.unwrap_err();
            assert_eq!(error.task_cause().unwrap().to_string(), "no luck");
        }
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_second_kernel_in_the_same_thread_is_misuse() {
    run(async {
        let error = curio::run(async { Ok(()) }).unwrap_err();
        assert!(error.is_misuse());
        assert!(error.to_string().contains("already running in this thread"), "{error}");
        // Nothing of the attempt is left in the running kernel.
        assert_eq!(curio::get_all_tasks()?.len(), 1);
        sleep(ms(1)).await.map(drop)
    })
    .unwrap();
    assert_eq!(curio::run(async { Ok(1) }).unwrap(), 1);
}

#[test]
fn run_after_shutdown_is_misuse() {
    let mut kernel = virtual_kernel();
    kernel.shutdown().unwrap();
    let error = kernel.run(async { Ok(()) }).unwrap_err();
    assert!(error.is_misuse());
    assert_eq!(error.to_string(), "the kernel has been shut down; make a new one");
    assert!(kernel.add_task(async { Ok(()) }).unwrap_err().is_misuse());
}

#[test]
fn awaiting_outside_of_a_kernel_is_misuse() {
    let Poll::Ready(Err(error)) = poll_once(sleep(ms(1))) else { panic!("not an error") };
    assert!(error.is_misuse());
    assert!(
        error.to_string().starts_with("sleep was awaited outside of a Curio kernel"),
        "{error}"
    );
    let Poll::Ready(Err(error)) = poll_once(sleep(Duration::ZERO)) else { panic!("not an error") };
    assert!(error.is_misuse());
    let limited = timeout_after(ms(1), async { Ok(()) });
    let Poll::Ready(Err(error)) = poll_once(limited) else { panic!("not an error") };
    assert!(error.to_string().starts_with("timeout_after was awaited outside"), "{error}");
    let shielded = disable_cancellation(async { Ok(()) });
    let Poll::Ready(Err(error)) = poll_once(shielded) else { panic!("not an error") };
    assert!(error.is_misuse());
    assert!(clock().unwrap_err().is_misuse());
    assert!(current_task().unwrap_err().is_misuse());
    assert!(curio::get_all_tasks().unwrap_err().is_misuse());
    assert!(curio::check_cancellation().unwrap_err().is_misuse());
    let kernel = virtual_kernel();
    let task = kernel.add_task(async { Ok(()) }).unwrap();
    let Poll::Ready(Err(error)) = poll_once(task.join()) else { panic!("not an error") };
    assert!(error.to_string().starts_with("join was awaited outside"), "{error}");
}

#[test]
fn spawning_outside_of_a_kernel_panics_and_says_what_to_do() {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let panic = catch_unwind(|| drop(spawn(async { Ok(()) }))).unwrap_err();
    std::panic::set_hook(hook);
    let text = panic.downcast_ref::<&str>().unwrap();
    assert_eq!(*text, "curio::spawn outside of a Curio kernel: use Kernel::add_task there");
}

#[test]
fn kernels_in_several_threads_do_not_meddle() {
    let threads: Vec<_> = (0..8)
        .map(|number| {
            std::thread::spawn(move || {
                curio::run(async move {
                    let kids: Vec<_> = (0..50)
                        .map(|kid| {
                            spawn(async move {
                                sleep(Duration::from_micros(kid)).await?;
                                sleep(Duration::ZERO).await?;
                                Ok(number * kid)
                            })
                        })
                        .collect();
                    let mut sum = 0;
                    for kid in &kids {
                        sum += kid.join().await?;
                    }
                    assert_eq!(curio::get_all_tasks()?.len(), 1);
                    Ok(sum)
                })
                .unwrap()
            })
        })
        .collect();
    let sums: Vec<u64> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    assert_eq!(sums, (0..8).map(|number| number * 49 * 50 / 2).collect::<Vec<_>>());
}

#[test]
fn a_stopper_in_another_thread_wakes_a_kernel_that_sleeps() {
    let mut kernel = Kernel::new().unwrap();
    let stopper = kernel.stopper();
    let (asleep, is_asleep) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        is_asleep.recv().unwrap();
        // Perhaps it is not quite asleep yet: either way it has to stop.
        stopper.stop();
    });
    let program = async move {
        asleep.send(()).unwrap();
        sleep(Duration::from_secs(3600)).await.map(drop)
    };
    let error = kernel.run(program).unwrap_err();
    assert!(error.is_misuse());
    assert!(error.to_string().contains("stopped before its main task had ended"), "{error}");
    thread.join().unwrap();
    // The sleeper is still there, and goes with the shutdown.
    assert_eq!(kernel.tasks().len(), 1);
    kernel.shutdown().unwrap();
}

#[test]
fn stopping_a_kernel_that_has_ended_is_harmless() {
    let mut kernel = virtual_kernel();
    let stopper = kernel.stopper();
    kernel.run(async { Ok(()) }).unwrap();
    drop(kernel);
    std::thread::spawn(move || stopper.stop()).join().unwrap();
}

#[test]
fn a_stop_in_the_last_step_does_not_stop_the_next_run() {
    let mut kernel = virtual_kernel();
    let stopper = kernel.stopper();
    let program = async move {
        stopper.stop();
        Ok(1)
    };
    assert_eq!(kernel.run(program).unwrap(), 1);
    assert_eq!(kernel.run(async { sleep(ms(1)).await.map(|_| 2) }).unwrap(), 2);
}

#[test]
fn a_deadlock_on_the_virtual_clock_is_reported() {
    let mut kernel = virtual_kernel();
    let program = async {
        let (sender, receiver) = futures::channel::oneshot::channel::<()>();
        let waiting = receiver.await;
        drop(sender);
        waiting.map_err(Error::other)
    };
    let error = kernel.run(program).unwrap_err();
    assert_eq!(error.as_io().unwrap().kind(), std::io::ErrorKind::Deadlock);
    assert!(error.to_string().starts_with("deadlock"), "{error}");
    // A cancellation still reaches the task.
    kernel.shutdown().unwrap();
    assert!(kernel.tasks().is_empty());
}

#[test]
fn two_tasks_that_join_each_other_are_a_deadlock_that_a_timeout_ends() {
    run(async {
        let first: Rc<Cell<Option<TaskRef>>> = Rc::default();
        let task = spawn({
            let first = first.clone();
            async move {
                sleep(ms(1)).await?;
                first.take().unwrap().wait().await
            }
        });
        let other = spawn({
            let task = task.clone();
            async move { timeout_after(ms(10), task.wait()).await }
        });
        first.set(Some(other.clone()));
        assert!(other.join().await.unwrap_err().task_cause().unwrap().is_timeout());
        task.join().await
    })
    .unwrap();
}

#[test]
fn dropping_a_kernel_drops_its_tasks_newest_first() {
    let order: Rc<std::cell::RefCell<Vec<u32>>> = Rc::default();
    struct Noted(u32, Rc<std::cell::RefCell<Vec<u32>>>);
    impl Drop for Noted {
        fn drop(&mut self) {
            self.1.borrow_mut().push(self.0);
        }
    }
    let mut kernel = virtual_kernel();
    let tasks = kernel
        .run({
            let order = order.clone();
            async move {
                let tasks: Vec<TaskRef> = (1..=3)
                    .map(|number| {
                        let noted = Noted(number, order.clone());
                        let builder = TaskBuilder::new().daemon();
                        let task = builder.spawn(async move {
                            let _noted = noted;
                            sleep(LONG).await.map(drop)
                        });
                        task.clone()
                    })
                    .collect();
                sleep(ms(1)).await?;
                Ok(tasks)
            }
        })
        .unwrap();
    drop(kernel);
    assert_eq!(*order.borrow(), [3, 2, 1]);
    // The handles are still good for looking.
    assert!(tasks.iter().all(|task| task.terminated() && task.children().is_empty()));
    assert!(tasks.iter().all(|task| !task.request_cancel()));
}

#[test]
fn a_task_of_another_kernel_cannot_be_waited_for() {
    let mut theirs = virtual_kernel();
    let task = theirs
        .run(async {
            let task = TaskBuilder::new().daemon().spawn(async { sleep(LONG).await.map(drop) });
            sleep(ms(1)).await?;
            Ok(task)
        })
        .unwrap();
    run(async move {
        // It would be a lie to say that it has ended.
        assert!(task.wait().await.unwrap_err().is_misuse());
        assert!(task.join().await.unwrap_err().is_misuse());
        assert!(!task.terminated());
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_task_that_has_cancelled_itself_is_freed() {
    // What was noted about the cancellation held the task that had asked for it: itself.
    let info = run(async {
        let kid = spawn(async {
            current_task()?.request_cancel();
            sleep(LONG).await.map(drop)
        });
        kid.wait().await?;
        Ok(std::sync::Arc::downgrade(kid.info()))
    });
    assert!(info.unwrap().upgrade().is_none());
}
