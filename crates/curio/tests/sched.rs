//! Lines of tasks for primitives of one's own, and absolute deadlines.
//!
//! Goal: whoever is woken counts as served, whoever has gone does not, and the monitor sees the
//! reason. Method: the virtual clock; order and moment are compared exactly.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use curio::sched::{Barrier, Fifo};
use curio::testing::virtual_kernel;
use curio::{
    Result, Task, TaskState, clock, ignore_at, sleep, sleep_until, spawn, timeout_after, timeout_at,
};

const SECOND: Duration = Duration::from_secs(1);
const NEVER: Duration = Duration::from_secs(1_000_000);
const YIELD: Duration = Duration::ZERO;

fn run<T: 'static>(main: impl Future<Output = Result<T>> + 'static) -> T {
    virtual_kernel().run(main).unwrap()
}

fn gate() -> TaskState {
    TaskState::named("GATE")
}

/// Tasks that are suspended in line, and the numbers of those that went on, in their order.
async fn line(fifo: &Fifo, count: u32) -> Result<(Vec<Task<()>>, Rc<RefCell<Vec<u32>>>)> {
    let woken = Rc::new(RefCell::new(Vec::new()));
    let task = |n| {
        let (fifo, woken) = (fifo.clone(), woken.clone());
        spawn(async move {
            fifo.suspend(gate()).await?;
            woken.borrow_mut().push(n);
            Ok(())
        })
    };
    let tasks = (0..count).map(task).collect();
    sleep(YIELD).await?;
    Ok((tasks, woken))
}

#[test]
fn who_came_first_is_woken_first() {
    run(async {
        let fifo = Fifo::new();
        let (tasks, woken) = line(&fifo, 4).await?;
        assert_eq!((fifo.len(), tasks[0].state().name()), (4, "GATE"));
        assert_eq!(fifo.wake(2), 2);
        assert_eq!((fifo.len(), woken.borrow().len()), (2, 0)); // no switch
        sleep(YIELD).await?;
        assert_eq!(*woken.borrow(), [0, 1]);
        assert_eq!(fifo.wake(10), 2);
        sleep(YIELD).await?;
        assert_eq!(*woken.borrow(), [0, 1, 2, 3]);
        assert_eq!((fifo.wake(1), fifo.is_empty()), (0, true)); // and is not remembered
        let late = timeout_after(SECOND, fifo.suspend(gate())).await;
        assert!(late.unwrap_err().is_timeout());
        Ok(())
    });
}

#[test]
fn who_is_cancelled_leaves_the_line() {
    run(async {
        let fifo = Fifo::new();
        let (tasks, woken) = line(&fifo, 3).await?;
        tasks[1].cancel().await?;
        assert_eq!(fifo.wake(2), 2);
        sleep(YIELD).await?;
        assert_eq!(*woken.borrow(), [0, 2]);
        Ok(())
    });
}

#[test]
fn who_was_woken_is_served_though_it_was_cancelled_before() {
    // A primitive that hands something over as it wakes would lose it.
    run(async {
        let fifo = Fifo::new();
        let served = Rc::new(RefCell::new(None));
        let task = spawn({
            let (fifo, served) = (fifo.clone(), served.clone());
            async move {
                fifo.suspend(gate()).await?;
                *served.borrow_mut() = Some(sleep(NEVER).await.is_err_and(|e| e.is_cancelled()));
                Ok(())
            }
        });
        sleep(YIELD).await?;
        task.request_cancel();
        assert_eq!(fifo.wake(1), 1);
        task.wait().await?;
        assert_eq!(*served.borrow(), Some(true)); // and the cancellation came at the next trap
        Ok(())
    });
}

#[test]
fn a_barrier_wakes_all() {
    run(async {
        let barrier = Barrier::new();
        let tasks: Vec<Task<()>> = (0..3)
            .map(|_| {
                let barrier = barrier.clone();
                spawn(async move { barrier.suspend(gate()).await })
            })
            .collect();
        sleep(YIELD).await?;
        assert_eq!((barrier.len(), barrier.is_empty()), (3, false));
        assert_eq!(barrier.wake(), 3);
        for task in &tasks {
            task.join().await?;
        }
        assert_eq!((barrier.wake(), barrier.is_empty()), (0, true));
        Ok(())
    });
}

#[test]
fn names_of_states_are_few() {
    let other_tests = gate(); // which run beside this one, and need its name
    assert_eq!(TaskState::named("FIFO_LINE"), TaskState::named("FIFO_LINE"));
    assert_ne!(TaskState::named("FIFO_LINE"), TaskState::named("OTHER_LINE"));
    assert!(TaskState::named("FIFO_LINE").is_blocked());
    assert!(TaskState::named("RUNNING").is_blocked());
    assert_eq!(TaskState::named("TASK_JOIN"), TaskState::TaskJoin);
    let states: Vec<_> = (0..1000).map(|n| TaskState::named(&format!("STATE_{n}"))).collect();
    let last = states[999];
    assert_eq!(last.name(), "SUSPENDED");
    assert_eq!(TaskState::named("FIFO_LINE").name(), "FIFO_LINE");
    assert_eq!(other_tests.name(), "GATE");
}

#[test]
fn deadlines_are_moments_of_the_clock() {
    run(async {
        let start = clock()?;
        assert!(sleep_until(start + SECOND).await? >= start + SECOND);
        let woken = sleep_until(start).await?; // long past: a yield
        assert!(woken < start + 2 * SECOND);
        let nap = sleep(NEVER);
        let late = timeout_at(start + 2 * SECOND, nap).await.unwrap_err();
        assert!(late.is_timeout() && clock()? >= start + 2 * SECOND);
        assert_eq!(ignore_at(start + 3 * SECOND, sleep(NEVER)).await?, None);
        assert!(clock()? >= start + 3 * SECOND);
        assert!(timeout_at(start, sleep(YIELD)).await.unwrap_err().is_timeout());
        assert_eq!(timeout_at(start, async { Ok(1) }).await?, 1); // it does not block
        Ok(())
    });
}
