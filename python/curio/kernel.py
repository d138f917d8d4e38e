"""The kernel: it runs tasks."""

from . import traps
from ._curio import KernelBase, run
from .traps import *  # noqa: F403  what programs import from here

__all__ = ["Activation", "Kernel", "run"]
__all__ += traps.__all__


class Kernel(KernelBase):
    """Kernel(selector=None, debug=None, activations=None, taskcls=Task, *, with_monitor=False)

    Runs tasks. A kernel can be run several times, and keeps its unfinished tasks in
    between; `with Kernel() as kernel:` shuts it down at the end. A kernel that is dropped
    without a shutdown drops its tasks, quietly.

    `selector`: an instance from the standard library's `selectors` to poll with. `debug`: what
    `curio.debug` has, one or a list, or True. `activations`: a list of instances or classes, see
    `Activation`. `taskcls`: the class of which tasks are made, a subclass of `Task`.

    `with_monitor`: True lets `python3 -m curio.monitor` in, for the user who runs the program
    and nobody else; a tuple (host, port) listens on a TCP port instead, for everybody who can
    reach it. CURIOMONITOR in the environment does the same for every kernel; host:port as its
    value means the port::

        async def main():
            await curio.sleep(0.01)
            return 42

        with curio.Kernel() as kernel:
            print(kernel.run(main))
    """

    __slots__ = ("__weakref__",)


class Activation:
    """Is told of what happens to the tasks of a kernel; a subclass writes what it wants to know.

    It is called in the kernel's thread, and cannot await. An exception is reported, and that
    is all::

        class Count(curio.kernel.Activation):
            tasks = 0

            def created(self, task):
                self.tasks += 1

        async def main():
            task = await curio.spawn(curio.sleep, 0.01)
            await task.join()

        count = Count()
        curio.run(main, activations=[count])
        print(count.tasks)
    """

    def activate(self, kernel):
        """The kernel is about to run for the first time."""

    def created(self, task):
        """A task was made. It has not run."""

    def running(self, task):
        """A task is about to be resumed."""

    def suspended(self, task, trap):
        """A task has given the processor back.

        `trap` is a tuple that begins with the name of what it has asked for: 'trap_sleep',
        'trap_io', 'trap_sched_wait', 'trap_future_wait'; 'trap_exit' when it has ended.
        """

    def terminated(self, task):
        """A task has ended, after it was suspended for the last time."""
