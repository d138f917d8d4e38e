//! `Queue`: the native base of the classes in `curio/queue.py`.

use std::mem::ManuallyDrop;

use curio::embed::{Container, Fifo, Lifo, RawQueue, Unsent};
use curio::{Error, Result};
use pyo3::exceptions::PyValueError;
use pyo3::ffi;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

use crate::error::raise;
use crate::function::Call;
use crate::object::{Attached, Object, Outcome, Raised, take_error};
use crate::op::{self, Instant, Keep, Mapped, Plain};
use crate::sync::{Figures, figures, this, value_error};

/// The items of a queue, in one of three orders.
pub(crate) enum Items {
    Fifo(Fifo<Object>),
    Lifo(Lifo<Object>),
    Heap(Heap),
}

impl Default for Items {
    fn default() -> Self {
        Items::Fifo(Fifo::default())
    }
}

impl Items {
    fn visit(&self, visit: &PyVisit<'_>) -> std::result::Result<(), PyTraverseError> {
        match self {
            Items::Fifo(items) => items.0.iter().try_for_each(|item| traverse(item, visit)),
            Items::Lifo(items) => items.0.iter().try_for_each(|item| traverse(item, visit)),
            Items::Heap(items) => items.0.iter().try_for_each(|item| traverse(item, visit)),
        }
    }
}

pub(crate) fn traverse(
    item: &Object,
    visit: &PyVisit<'_>,
) -> std::result::Result<(), PyTraverseError> {
    // SAFETY: attached, for the collector runs; a live object. No reference is counted: the
    // container's own is lent, and the `ManuallyDrop` does not give it back.
    let lent = ManuallyDrop::new(unsafe {
        let py = Python::assume_attached();
        Bound::from_owned_ptr(py, item.as_ptr()).unbind()
    });
    visit.call(&*lent)
}

impl Container for Items {
    type Item = Object;

    fn push(&mut self, item: Object) -> std::result::Result<(), Unsent<Object>> {
        match self {
            Items::Fifo(items) => items.push(item),
            Items::Lifo(items) => items.push(item),
            Items::Heap(items) => items.push(item),
        }
    }

    fn pop(&mut self) -> Result<Object> {
        match self {
            Items::Fifo(items) => items.pop(),
            Items::Lifo(items) => items.pop(),
            Items::Heap(items) => items.pop(),
        }
    }

    fn len(&self) -> usize {
        match self {
            Items::Fifo(items) => items.len(),
            Items::Lifo(items) => items.len(),
            Items::Heap(items) => items.len(),
        }
    }
}

#[pyclass(subclass, frozen, module = "curio", name = "QueueBase")]
pub(crate) struct QueueBase(Attached<RawQueue<Items>>);

#[pymethods]
impl QueueBase {
    #[new]
    fn new(maxsize: isize, order: &str) -> PyResult<Self> {
        let Ok(capacity) = usize::try_from(maxsize) else {
            let message = format!("maxsize is a number of items, 0 for no limit, not {maxsize}");
            return Err(PyValueError::new_err(message));
        };
        let queue = RawQueue::bounded(capacity);
        *queue.container().borrow_mut() = match order {
            "smallest" => Items::Heap(Heap::default()),
            "newest" => Items::Lifo(Lifo::default()),
            _ => Items::default(),
        };
        Ok(QueueBase(Attached::new(queue)))
    }

    /// Whether no item is in it.
    fn empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether it takes no more items for now.
    fn full(&self) -> bool {
        self.0.is_full()
    }

    /// How many items are in it.
    fn qsize(&self) -> usize {
        self.0.len()
    }

    /// How many items are in it.
    fn size(&self) -> usize {
        self.0.len()
    }

    /// The most items it takes at a time; 0 for no limit.
    #[getter]
    fn maxsize(&self) -> usize {
        self.0.capacity()
    }

    #[getter]
    fn _id(&self) -> u64 {
        self.0.resource().id()
    }

    fn _figures(&self) -> Figures {
        figures(self.0.resource())
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> std::result::Result<(), PyTraverseError> {
        // While items are compared, the container is borrowed. Then they are kept, as if somebody
        // outside had them.
        self.0.container().try_borrow().map_or(Ok(()), |items| items.visit(&visit))
    }

    fn __clear__(&self) {
        let items =
            self.0.container().try_borrow_mut().map(|mut items| std::mem::take(&mut *items));
        drop(items);
    }
}

pub(crate) fn put(py: Python<'_>, call: &Call<'_>) -> Outcome {
    let queue = this::<QueueBase>(call, py)?.0.clone();
    let place = queue.clone().place();
    let add = move |py: Python<'_>, keep: &Keep, ()| {
        let item = keep.take_second().expect("the op is made with an item, and ends once");
        let added = queue.add(item);
        added.map_err(|Unsent { error, .. }| raise(py, &error))?;
        Ok(Object::none())
    };
    // The op holds the queue and the item: the collector sees them.
    let (queue, item) = (call.object(0), call.object(1));
    op::new_with(call.function, Some(queue), Some(item), Mapped::new(place, add))
}

pub(crate) fn get(py: Python<'_>, call: &Call<'_>) -> Outcome {
    let get = this::<QueueBase>(call, py)?.0.clone().get_raw();
    op::new(call.function, Some(call.object(0)), Mapped::new(get, |_, _, item| Ok(item)))
}

pub(crate) fn join(py: Python<'_>, call: &Call<'_>) -> Outcome {
    let join = this::<QueueBase>(call, py)?.0.join();
    op::new(call.function, None, Plain(Mapped::new(join, |_, _, ()| Ok(Object::none()))))
}

pub(crate) fn task_done(py: Python<'_>, call: &Call<'_>) -> Outcome {
    let queue = this::<QueueBase>(call, py)?.0.clone();
    let done = move |_: Python<'_>, _: &Keep| {
        queue.task_done().map_err(|error| value_error(&error))?;
        Ok(Object::none())
    };
    op::new(call.function, Some(call.object(0)), Instant::new(done))
}

/// A binary heap, the smallest first, whose comparisons are Python's, and may fail.
///
/// What is to be moved is found out before anything moves; so a comparison that raises leaves
/// the heap as it was.
#[derive(Default)]
pub(crate) struct Heap(Vec<Object>);

/// `a < b`, as Python says.
fn less(a: &Object, b: &Object) -> Result<bool> {
    // SAFETY: live objects, attached: queues are used by operations, which slots poll.
    match unsafe { ffi::PyObject_RichCompareBool(a.as_ptr(), b.as_ptr(), ffi::Py_LT) } {
        -1 => {
            // SAFETY: as above.
            let py = unsafe { Python::assume_attached() };
            // As an error of the system's it finds its way back to Python as it is.
            Err(Error::from(std::io::Error::other(take_error(py, Raised))))
        }
        answer => Ok(answer == 1),
    }
}

impl Heap {
    /// The places, from the end upwards, whose objects are larger than `item`.
    fn larger_parents(&self, item: &Object) -> Result<Vec<usize>> {
        let mut path = Vec::new();
        let mut place = self.0.len();
        while place > 0 {
            place = (place - 1) / 2;
            if !less(item, &self.0[place])? {
                break;
            }
            path.push(place);
        }
        Ok(path)
    }

    /// The places, from the top downwards, whose objects are smaller than the last.
    fn smaller_children(&self) -> Result<Vec<usize>> {
        let mut path = Vec::new();
        let last = self.0.len() - 1;
        let mut child = 1;
        while child < last {
            if child + 1 < last && less(&self.0[child + 1], &self.0[child])? {
                child += 1;
            }
            if !less(&self.0[child], &self.0[last])? {
                break;
            }
            path.push(child);
            child = 2 * child + 1;
        }
        Ok(path)
    }
}

impl Container for Heap {
    type Item = Object;

    fn push(&mut self, item: Object) -> std::result::Result<(), Unsent<Object>> {
        let path = match self.larger_parents(&item) {
            Ok(path) => path,
            Err(error) => return Err(Unsent { error, item }),
        };
        let mut place = self.0.len();
        self.0.push(item);
        for parent in path {
            self.0.swap(place, parent);
            place = parent;
        }
        Ok(())
    }

    fn pop(&mut self) -> Result<Object> {
        let path = self.smaller_children()?;
        let first = self.0.swap_remove(0);
        let mut place = 0;
        for child in path {
            self.0.swap(place, child);
            place = child;
        }
        Ok(first)
    }

    fn len(&self) -> usize {
        self.0.len()
    }
}
