"""The kernel: it runs tasks."""

__all__ = ["Kernel", "run"]

from ._curio import KernelBase, run


class Kernel(KernelBase):
    """Kernel(selector=None, *, taskcls=Task, with_monitor=False)

    Runs tasks. A kernel can be run several times, and keeps its unfinished tasks in
    between; `with Kernel() as kernel:` shuts it down at the end. A kernel that is dropped
    without a shutdown drops its tasks, quietly.

    `selector`: an instance from the standard library's `selectors` to poll with. `taskcls`:
    the class of which tasks are made, a subclass of `Task`::

        async def main():
            await curio.sleep(0.01)
            return 42

        with curio.Kernel() as kernel:
            print(kernel.run(main))
    """

    __slots__ = ("__weakref__",)
