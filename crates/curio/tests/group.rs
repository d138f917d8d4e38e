//! Task groups: what is waited for, what becomes of the rest, and that nothing is left over.
//!
//! Goal: the contract of `TaskGroup`. Method: on a virtual clock, every way to wait meets every way
//! for a task to end and every way for the waiting to end, and result and moment are those of a
//! model; then the rules one by one.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use curio::testing::{seeded_kernel, virtual_kernel};
use curio::{
    Error, Kernel, Result, Task, TaskBuilder, TaskGroup, TaskRef, WaitFor, clock,
    disable_cancellation, sleep, spawn, timeout_after,
};

const fn quarters(count: u64) -> Duration {
    Duration::from_millis(250 * count)
}

const NEVER: Duration = Duration::from_secs(1_000_000);
const YIELD: Duration = Duration::ZERO;

/// Sleeps, with a clean-up of a second.
async fn careful(time: Duration) -> Result<()> {
    let slept = sleep(time).await;
    if slept.is_err() {
        sleep(quarters(4)).await?;
    }
    slept.map(drop)
}

async fn value(time: Duration, value: u32) -> Result<u32> {
    careful(time).await?;
    Ok(value)
}

// --- the product --------------------------------------------------------------------------

#[derive(Clone, Copy, Debug, PartialEq)]
enum Outcome {
    Value,
    Nothing,
    Error,
    Panic,
    Cancelled,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Ending {
    Join,
    Scope,
    Cancelled,
    TimedOut,
}

#[derive(Debug, PartialEq)]
enum Seen {
    Values(Vec<u32>),
    TaskError,
    Cancelled,
    Timeout,
}

fn seen(result: Result<Vec<u32>>) -> Seen {
    match result {
        Ok(values) => Seen::Values(values),
        Err(error) if error.is_task_error() => Seen::TaskError,
        Err(error) if error.is_cancelled() => Seen::Cancelled,
        Err(error) if error.is_timeout() => Seen::Timeout,
        Err(error) => panic!("{error}"),
    }
}

/// When the first task of the group ends, by itself or because it is cancelled by somebody else.
const FIRST: u64 = 9;
/// When the second one ends, with nothing.
const SECOND: u64 = 4;
/// When the third one would end, with a value.
const THIRD: u64 = 40;
/// When the waiting is given up, if it is.
const GIVEN_UP: u64 = 6;

/// What the one who waits sees, and when.
fn model(wait: WaitFor<u32>, outcome: Outcome, ending: Ending) -> (Seen, Duration) {
    let failed = !matches!(outcome, Outcome::Value | Outcome::Nothing);
    let first = u32::from(outcome == Outcome::Value);
    let (mut result, mut time) = match wait {
        WaitFor::Nobody => (Seen::Values(vec![]), 0),
        WaitFor::Any => (Seen::Values(vec![0]), SECOND),
        WaitFor::All | WaitFor::First(_) if failed => (Seen::TaskError, FIRST),
        WaitFor::First(_) if outcome == Outcome::Value => (Seen::Values(vec![1]), FIRST),
        WaitFor::First(_) => (Seen::Values(vec![7]), THIRD),
        WaitFor::All => (Seen::Values(vec![first, 0, 7]), THIRD),
    };
    if time > GIVEN_UP && matches!(ending, Ending::Cancelled | Ending::TimedOut) {
        time = GIVEN_UP;
        result = if ending == Ending::Cancelled { Seen::Cancelled } else { Seen::Timeout };
    }
    if ending == Ending::Scope
        && let Seen::Values(values) = &mut result
    {
        values.clear();
    }
    let clean_up = if time < THIRD { 4 } else { 0 };
    (result, quarters(time + clean_up))
}

async fn fill(group: &TaskGroup<u32>, outcome: Outcome) -> Result<Vec<TaskRef>> {
    let first = group.spawn(async move {
        match outcome {
            Outcome::Value => value(quarters(FIRST), 1).await,
            Outcome::Nothing => value(quarters(FIRST), 0).await,
            Outcome::Cancelled => value(NEVER, 1).await,
            Outcome::Error => {
                careful(quarters(FIRST)).await?;
                Err(Error::other("as it should"))
            }
            Outcome::Panic => {
                careful(quarters(FIRST)).await?;
                panic!("as it should")
            }
        }
    })?;
    let second = group.spawn(value(quarters(SECOND), 0))?;
    let third = group.spawn(value(quarters(THIRD), 7))?;
    if outcome == Outcome::Cancelled {
        let first = first.clone();
        spawn(async move {
            sleep(quarters(FIRST - 4)).await?;
            first.cancel().await
        });
    }
    Ok(vec![first, second, third])
}

fn meet(kernel: &mut Kernel, wait: WaitFor<u32>, outcome: Outcome, ending: Ending) {
    let case = format!("{wait:?} {outcome:?} {ending:?}");
    let name = case.clone();
    kernel
        .run(async move {
            let start = clock()?;
            let tasks: Rc<RefCell<Vec<TaskRef>>> = Rc::default();
            let joiner: Task<(Seen, Duration)> = spawn({
                let tasks = tasks.clone();
                async move {
                    let group = TaskGroup::new(wait);
                    let joined = match ending {
                        Ending::Join | Ending::Cancelled => {
                            *tasks.borrow_mut() = fill(&group, outcome).await?;
                            group.join().await
                        }
                        Ending::TimedOut => {
                            *tasks.borrow_mut() = fill(&group, outcome).await?;
                            timeout_after(quarters(GIVEN_UP), group.join()).await
                        }
                        Ending::Scope => {
                            TaskGroup::scope(wait, async |group| {
                                *tasks.borrow_mut() = fill(group, outcome).await?;
                                Ok(vec![])
                            })
                            .await
                        }
                    };
                    // None of them runs any more, whatever has happened.
                    assert!(tasks.borrow().iter().all(|task| task.terminated()));
                    Ok((seen(joined), clock()? - start))
                }
            });
            if ending == Ending::Cancelled {
                sleep(quarters(GIVEN_UP)).await?;
                joiner.request_cancel();
            }
            assert_eq!(joiner.join().await?, model(wait, outcome, ending), "{name}");
            Ok(())
        })
        .unwrap_or_else(|error| panic!("{case}: {error}"));
}

#[test]
fn every_way_to_wait_meets_every_end() {
    use Ending::{Join, Scope, TimedOut};
    let mut kernel = virtual_kernel();
    for wait in [WaitFor::All, WaitFor::Any, WaitFor::First(|&value| value != 0), WaitFor::Nobody] {
        for outcome in
            [Outcome::Value, Outcome::Nothing, Outcome::Error, Outcome::Panic, Outcome::Cancelled]
        {
            for ending in [Join, Scope, Ending::Cancelled, TimedOut] {
                meet(&mut kernel, wait, outcome, ending);
            }
        }
    }
}

// --- ends in order ------------------------------------------------------------------------

fn run<T: 'static>(main: impl Future<Output = Result<T>> + 'static) -> T {
    virtual_kernel().run(main).unwrap()
}

#[test]
fn ends_come_in_their_order() {
    run(async {
        let group = TaskGroup::new(WaitFor::All);
        for n in [3, 1, 2] {
            group.spawn(value(quarters(n), n as u32))?;
        }
        assert_eq!(group.next_result().await?, Some(1));
        let two = group.next_done().await?.unwrap();
        assert!(two.terminated());
        assert_eq!(two.join().await?, 2);
        assert_eq!(group.tasks().len(), 1);
        assert_eq!(group.join().await?, [3]);
        assert_eq!(group.next_result().await?, None);
        Ok(())
    });
}

#[test]
fn a_failed_task_is_the_error_of_its_next_result_alone() {
    run(async {
        let group = TaskGroup::new(WaitFor::All);
        group.spawn(async { Err::<u32, _>(Error::other("oops")) })?;
        group.spawn(value(quarters(1), 5))?;
        let error = group.next_result().await.unwrap_err();
        assert!(error.is_task_error());
        assert_eq!(error.task_cause().unwrap().to_string(), "oops");
        assert_eq!(group.join().await?, [5]);
        Ok(())
    });
}

#[test]
fn who_waits_for_an_end_that_never_comes_is_told() {
    // Two wait, one task ends: the other would have waited for ever.
    run(async {
        let group = Rc::new(TaskGroup::new(WaitFor::All));
        group.spawn(value(quarters(1), 5))?;
        let next = |group: &Rc<TaskGroup<u32>>| {
            let group = group.clone();
            spawn(async move { group.next_result().await })
        };
        let (one, other) = (next(&group), next(&group));
        assert_eq!((one.join().await?, other.join().await?), (Some(5), None));
        Ok(())
    });
}

#[test]
fn an_end_that_was_announced_in_vain_is_for_the_next() {
    run(async {
        let group = Rc::new(TaskGroup::new(WaitFor::All));
        group.spawn(value(quarters(1), 5))?;
        group.spawn(value(NEVER, 6))?;
        let next = |group: &Rc<TaskGroup<u32>>| {
            let group = group.clone();
            spawn(async move { group.next_result().await })
        };
        let (one, other) = (next(&group), next(&group));
        sleep(quarters(1)).await?; // the end has come, and `one` was told
        one.cancel().await?;
        let results = (one.join().await.ok(), timeout_after(quarters(1), other.join()).await.ok());
        assert!(matches!(results, (Some(Some(5)), None) | (None, Some(Some(5)))), "{results:?}");
        group.cancel_remaining().await
    });
}

#[test]
fn giving_up_next_done_leaves_the_tasks_alone() {
    run(async {
        let group = TaskGroup::new(WaitFor::All);
        let task = group.spawn(value(quarters(4), 5))?;
        let error = timeout_after(quarters(1), group.next_done()).await.err();
        assert!(error.is_some_and(|error| error.is_timeout()));
        assert!(!task.terminated() && task.info().cancellation().is_none());
        assert_eq!(group.join().await?, [5]);
        Ok(())
    });
}

// --- structure ----------------------------------------------------------------------------

#[test]
fn what_interrupts_the_end_of_a_group_waits_until_it_is_over() {
    run(async {
        let group = TaskGroup::<u32>::new(WaitFor::Nobody);
        let task = group.spawn(value(NEVER, 1))?;
        let start = clock()?;
        let outer: Result<()> = timeout_after(quarters(1), async {
            group.join().await?;
            assert!(task.terminated());
            assert_eq!(clock()? - start, quarters(4));
            sleep(NEVER).await.map(drop)
        })
        .await;
        assert!(outer.unwrap_err().is_timeout());
        Ok(())
    });
}

#[test]
fn an_error_of_the_body_comes_after_the_end_of_the_tasks() {
    run(async {
        let kid: Rc<RefCell<Option<TaskRef>>> = Rc::default();
        let start = clock()?;
        let result: Result<()> = TaskGroup::<u32>::scope(WaitFor::All, async |group| {
            *kid.borrow_mut() = Some(group.spawn(value(NEVER, 1))?);
            sleep(YIELD).await?;
            Err(Error::other("of the body"))
        })
        .await;
        assert_eq!(result.unwrap_err().to_string(), "of the body");
        assert!(kid.borrow().as_ref().unwrap().terminated());
        assert_eq!(clock()? - start, quarters(4));
        Ok(())
    });
}

#[test]
fn the_values_of_a_scope_and_of_its_group_are_two_things() {
    run(async {
        let sum = TaskGroup::scope(WaitFor::All, async |group| {
            for n in 1..=3 {
                group.spawn(value(quarters(n), n as u32))?;
            }
            let mut sum = 0;
            while let Some(value) = group.next_result().await? {
                sum += value;
            }
            Ok(sum)
        });
        assert_eq!(sum.await?, 6);
        Ok(())
    });
}

#[test]
fn all_are_asked_before_any_is_waited_for() {
    run(async {
        let group = TaskGroup::new(WaitFor::Nobody);
        for _ in 0..1000 {
            group.spawn(value(NEVER, 0))?;
        }
        let start = clock()?;
        group.join().await?;
        assert!(clock()? - start < quarters(5)); // not a thousand clean-ups
        Ok(())
    });
}

#[test]
fn a_group_that_ends_takes_no_more() {
    run(async {
        let group = Rc::new(TaskGroup::<u32>::new(WaitFor::Nobody));
        let refused = Rc::new(Cell::new(false));
        group.spawn({
            let (group, refused) = (Rc::downgrade(&group), refused.clone());
            async move {
                let interrupted = sleep(NEVER).await;
                // A clean-up that makes a task would leave one behind.
                let spawned = group.upgrade().unwrap().spawn(value(NEVER, 1));
                refused.set(spawned.is_err_and(|error| error.is_misuse()));
                interrupted.map(|_| 0)
            }
        })?;
        group.join().await?;
        assert!(refused.get());
        let error = group.spawn(value(NEVER, 1)).unwrap_err();
        assert!(error.to_string().contains("has been joined: it takes no more tasks"), "{error}");
        Ok(())
    });
}

#[test]
fn a_group_grows_while_it_is_joined() {
    fn grow(group: &Rc<TaskGroup<u32>>, n: u32) -> Result<TaskRef> {
        let weak = Rc::downgrade(group);
        group.spawn(async move {
            sleep(quarters(1)).await?;
            if n > 0 {
                grow(&weak.upgrade().unwrap(), n - 1)?;
            }
            Ok(n)
        })
    }
    run(async {
        let group = Rc::new(TaskGroup::new(WaitFor::All));
        grow(&group, 3)?;
        assert_eq!(group.join().await?, [3, 2, 1, 0]);
        Ok(())
    });
}

#[test]
fn daemons_do_not_count_and_end_with_the_others() {
    run(async {
        let group = TaskGroup::new(WaitFor::All);
        let daemon = group.spawn_with(TaskBuilder::new().name("d").daemon(), value(NEVER, 9))?;
        let brief = group.spawn_with(TaskBuilder::new().daemon(), value(YIELD, 8))?;
        group.spawn(value(quarters(1), 1))?;
        assert_eq!(group.next_result().await?, Some(1));
        assert!(brief.terminated() && !daemon.terminated());
        assert_eq!(group.next_result().await?, None);
        assert_eq!(group.join().await?, [0; 0]);
        assert!(daemon.terminated());
        Ok(())
    });
}

#[test]
fn tasks_that_run_already_can_join_in() {
    run(async {
        let (ended, running) = (spawn(value(YIELD, 1)), spawn(value(quarters(1), 2)));
        ended.wait().await?;
        let group = TaskGroup::new(WaitFor::All);
        group.add(ended)?;
        group.add(running)?;
        assert_eq!(group.join().await?, [1, 2]);
        let late = spawn(value(YIELD, 3));
        assert!(group.add(late).unwrap_err().is_misuse());
        Ok(())
    });
}

#[test]
fn a_task_cannot_end_its_own_group() {
    run(async {
        let group = Rc::new(TaskGroup::new(WaitFor::All));
        let inside = Rc::downgrade(&group);
        group.spawn(async move {
            let group: Rc<TaskGroup<()>> = inside.upgrade().unwrap();
            for result in [group.join().await.map(drop), group.cancel_remaining().await] {
                let error = result.unwrap_err();
                assert!(error.is_misuse());
                assert!(error.to_string().contains("would wait for its own end"), "{error}");
            }
            Ok(())
        })?;
        group.join().await.map(drop)
    });
}

#[test]
fn a_dropped_group_asks_its_tasks_to_end() {
    run(async {
        let group = TaskGroup::new(WaitFor::All);
        let task = group.spawn(value(NEVER, 1))?;
        drop(group);
        assert!(task.info().cancellation().is_some());
        task.wait().await
    });
}

#[test]
fn cancel_remaining_leaves_the_group_open() {
    run(async {
        let group = TaskGroup::new(WaitFor::All);
        group.spawn(value(YIELD, 1))?;
        let slow = group.spawn(value(NEVER, 2))?;
        sleep(quarters(1)).await?;
        let given_up = timeout_after(quarters(1), group.cancel_remaining()).await;
        assert!(given_up.unwrap_err().is_timeout());
        assert!(!slow.terminated() && slow.info().cancellation().is_some()); // the request stands
        group.cancel_remaining().await?;
        assert!(slow.terminated());
        group.spawn(value(YIELD, 3))?;
        assert_eq!(group.join().await?, [1, 3]);
        Ok(())
    });
}

#[test]
fn a_joined_group_can_be_joined_again() {
    run(async {
        let group = Rc::new(TaskGroup::new(WaitFor::All));
        group.spawn(value(quarters(1), 1))?;
        let other = spawn({
            let group = group.clone();
            async move { group.join().await }
        });
        let first = group.join().await?;
        let second = other.join().await?;
        assert_eq!(first.len() + second.len(), 1); // one of them has the value
        assert_eq!(group.join().await?, [0; 0]);
        Ok(())
    });
}

#[test]
fn tasks_of_two_kernels_make_no_group() {
    let other = virtual_kernel();
    let stranger = other.add_task(value(NEVER, 1)).unwrap();
    run(async {
        let group = TaskGroup::new(WaitFor::All);
        group.add(stranger)?;
        let error = group.add(spawn(value(YIELD, 2))).unwrap_err();
        assert!(error.is_misuse() && error.to_string().contains("another kernel's"), "{error}");
        let error = group.next_done().await.err().unwrap();
        assert!(error.is_misuse() && error.to_string().contains("another kernel's"), "{error}");
        Ok(())
    });
}

#[test]
fn a_shield_holds_a_join_until_it_is_satisfied() {
    run(async {
        let group = TaskGroup::new(WaitFor::All);
        group.spawn(value(quarters(4), 1))?;
        let joined: Result<Vec<u32>> =
            timeout_after(quarters(1), disable_cancellation(group.join())).await;
        assert_eq!(joined?, [1]);
        Ok(())
    });
}

#[test]
fn a_task_that_waits_for_a_group_is_seen() {
    run(async {
        let group = Rc::new(TaskGroup::new(WaitFor::All));
        group.spawn(value(quarters(1), 1))?;
        let joiner = spawn({
            let group = group.clone();
            async move { group.join().await }
        });
        sleep(YIELD).await?;
        assert_eq!(joiner.state().name(), "TASK_JOIN");
        assert!(matches!(joiner.info().target(), curio::Target::Resource(_)));
        joiner.wait().await
    });
}

#[test]
fn no_order_of_running_leaves_anything_over() {
    // Tasks, joiners, cancellers and clean-ups, in orders drawn by chance.
    for seed in 0..200 {
        let tasks: Rc<RefCell<Vec<TaskRef>>> = Rc::default();
        let mut kernel = seeded_kernel(seed);
        kernel
            .run({
                let tasks = tasks.clone();
                async move {
                    let joiner = spawn(async move {
                        TaskGroup::scope(WaitFor::All, async |group| {
                            for n in 0..6 {
                                let body = value(quarters(n % 3), n as u32);
                                tasks.borrow_mut().push(group.spawn(body)?);
                            }
                            tasks.borrow()[3].request_cancel();
                            let mut count = 0;
                            while let Ok(Some(_)) = group.next_done().await {
                                count += 1;
                            }
                            Ok(count)
                        })
                        .await
                    });
                    sleep(quarters(seed % 4)).await?;
                    joiner.cancel().await?;
                    assert!(joiner.terminated());
                    Ok(())
                }
            })
            .unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        assert!(tasks.borrow().iter().all(|task| task.terminated()), "seed {seed}");
    }
}
