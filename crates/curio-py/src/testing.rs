//! Kernels on virtual time, the simulated network, and programs that are interrupted everywhere.

use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{BorrowedFd, IntoRawFd, RawFd};
use std::rc::Rc;
use std::time::Duration;

use curio::testing::{Exploration, Network, Probe, Watch};
use curio::{Builder, TaskRef};
use pyo3::exceptions::{PyAssertionError, PyValueError};
use pyo3::prelude::*;

use crate::kernel::KernelBase;
use crate::object::Attached;
use crate::task;

/// A task's name, and where it is.
fn describe(task: &TaskRef) -> (String, Option<String>) {
    let Some(object) = task::object_of(task) else { return (task.name().to_owned(), None) };
    // SAFETY: activations are told, and kernels asked, in attached threads.
    let py = unsafe { Python::assume_attached() };
    let place = py
        .import("curio._stack")
        .and_then(|stack| stack.call_method1("where", (object.bind(py),)))
        .and_then(|place| place.extract::<(String, u32)>());
    (task::name_of(py, &object), place.ok().map(|(file, line)| format!("{file}:{line}")))
}

/// How a kernel is to be tested.
#[pyclass(frozen, module = "curio._curio")]
pub(crate) struct Testing {
    seed: Option<u64>,
    network: Option<Py<NetworkBase>>,
    content: Attached<Content>,
}

#[derive(Default)]
struct Content {
    exploration: RefCell<Exploration>,
    run: RefCell<Option<(Rc<Probe>, Watch)>>,
}

impl Testing {
    /// Gives the kernel what is to observe it.
    pub(crate) fn attach(&self, mut builder: Builder) -> Builder {
        if let Some(seed) = self.seed {
            builder = builder.run_order_seed(seed);
        }
        match self.probe() {
            Some(probe) => builder.activation(probe),
            None => builder,
        }
    }

    pub(crate) fn watch(&self, kernel: &curio::Kernel) {
        if let Some(probe) = self.probe() {
            probe.watch(kernel);
        }
    }

    pub(crate) fn network(&self) -> Option<Network> {
        Some(self.network.as_ref()?.get().0.clone())
    }

    fn probe(&self) -> Option<Rc<Probe>> {
        self.content.run.borrow().as_ref().map(|(probe, _)| probe.clone())
    }
}

#[pymethods]
impl Testing {
    #[new]
    #[pyo3(signature = (seed=None, network=None))]
    fn new(seed: Option<u64>, network: Option<Py<NetworkBase>>) -> Self {
        let exploration = RefCell::new(Exploration::describing(describe));
        let content = Attached::new(Content { exploration, ..Content::default() });
        Testing { seed, network, content }
    }

    /// Whether there is to be a further run.
    fn next_run(&self) -> bool {
        self.content.run.take();
        let probe = self.content.exploration.borrow_mut().next_run();
        let run = probe.map(|probe| (probe, Watch::start()));
        let more = run.is_some();
        *self.content.run.borrow_mut() = run;
        more
    }

    /// Whether the program is to run inside of a limit that can expire.
    #[getter]
    fn limits_program(&self) -> bool {
        self.probe().is_some_and(|probe| probe.limits_program())
    }

    /// Says how the run was interrupted.
    #[getter]
    fn interruption(&self) -> Option<String> {
        Some(self.probe()?.interruption()?.to_string())
    }

    /// The run has come to an end, or could not. AssertionError says what is wrong.
    #[pyo3(signature = (kernel, end))]
    fn ended(&self, kernel: &KernelBase, end: Option<&str>) -> PyResult<()> {
        let Some(probe) = self.probe() else { return Ok(()) };
        probe.ended(kernel.inside(), end).map_err(PyAssertionError::new_err)
    }

    /// The kernel has been shut down. AssertionError says what is left.
    fn finish(&self, kernel: &KernelBase) -> PyResult<()> {
        let run = self.content.run.borrow();
        let Some((probe, watch)) = run.as_ref() else { return Ok(()) };
        let left = kernel.inside().leftovers().and_then(|()| watch.end());
        let noted = self.content.exploration.borrow_mut().note(probe);
        left.and(noted).map_err(PyAssertionError::new_err)
    }

    /// Points, and runs.
    fn report(&self) -> (usize, usize) {
        let report = self.content.exploration.borrow().report();
        (report.points, report.runs)
    }
}

/// A simulated network; `curio.testing.Network` is its face.
#[pyclass(frozen, subclass, module = "curio._curio")]
pub(crate) struct NetworkBase(Attached<Network>);

#[pymethods]
impl NetworkBase {
    #[new]
    fn new(seed: u64) -> Self {
        NetworkBase(Attached::new(Network::seeded(seed)))
    }

    fn _set(
        &self,
        delay: (f64, f64),
        loss: f64,
        duplicates: f64,
        resets: f64,
        buffer: usize,
    ) -> PyResult<()> {
        let duration = |seconds| {
            Duration::try_from_secs_f64(seconds)
                .map_err(|_| PyValueError::new_err(format!("not a number of seconds: {seconds}")))
        };
        self.0.set_delay(duration(delay.0)?..=duration(delay.1)?);
        self.0.set_loss(loss);
        self.0.set_duplicates(duplicates);
        self.0.set_resets(resets);
        self.0.set_buffer(buffer);
        Ok(())
    }

    /// The address of a host, as text.
    fn _host(&self, name: &str) -> String {
        self.0.host(name).to_string()
    }

    fn _cut(&self, one: &str, other: Option<&str>) {
        self.0.cut(self.0.host(one), other.map(|other| self.0.host(other)));
    }

    fn _heal(&self) {
        self.0.heal();
    }

    fn _reset_all(&self) {
        self.0.reset_all();
    }

    /// The descriptors of two connected sockets.
    fn _pair(&self, datagrams: bool) -> PyResult<(RawFd, RawFd)> {
        let (one, other) = self.0.raw_pair(datagrams)?;
        Ok((one.into_raw_fd(), other.into_raw_fd()))
    }

    /// The descriptor of a listening socket.
    fn _listen(&self, host: IpAddr, port: u16) -> PyResult<RawFd> {
        Ok(self.0.raw_listen(SocketAddr::new(host, port))?.into_raw_fd())
    }

    /// To be called with the descriptor of a connection that has been accepted.
    fn _welcome(&self, fd: RawFd) -> PyResult<()> {
        // SAFETY: the caller's socket is open during the call; -1 is no descriptor, and refused.
        let fd = (fd >= 0).then(|| unsafe { BorrowedFd::borrow_raw(fd) });
        let fd = fd.ok_or_else(|| PyValueError::new_err("the socket is closed"))?;
        self.0.welcome(fd);
        Ok(())
    }
}

/// The network that the running kernel has, if its tasks are on a simulated one.
#[pyfunction]
pub(crate) fn network(py: Python<'_>) -> Option<Py<NetworkBase>> {
    let network = curio::testing::network()?;
    Py::new(py, NetworkBase(Attached::new(network))).ok()
}

/// Has the running kernel fire what is due, in the middle of a turn: for tests of orders.
#[pyfunction]
pub(crate) fn look_at_timers() {
    curio::testing::look_at_timers();
}

/// The address in the name of a socket of a network, which has a zero before it.
#[pyfunction]
pub(crate) fn simulated_address(name: &[u8]) -> Option<(String, u16)> {
    let address = curio::testing::parse_name(name.strip_prefix(b"\0")?)?;
    Some((address.ip().to_string(), address.port()))
}
