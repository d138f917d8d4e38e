"""Child processes: what they say, how they end, and that nothing of them stays.

Goal: `curio.subprocess` by the contract of the standard library's module, in tasks. Method: the
system's small programs and scripts for `sh`. Nothing is timed: a child that is to be waited for
reads from a pipe until the test ends that, and cancellations come when the task's state says that
it waits.
"""

import asyncio
import gc
import os
import random
import signal
import subprocess as plain
import sys
import threading
import time

import curio
import pytest
from curio import subprocess
from curio import testing as curio_testing
from curio.subprocess import DEVNULL, PIPE, STDOUT, Popen

LARGE = random.Random(1).randbytes(1_000_000)
FOREVER = ["sleep", "1000"]


def sh(script, **kwargs):
    return Popen(["sh", "-c", script], **kwargs)


async def until(condition):
    async with curio.timeout_after(20):
        while not condition():
            await curio.sleep(0.001)


def is_there(pid):
    return os.path.exists(f"/proc/{pid}")


def children():
    """The numbers of all processes that this one has started, zombies too."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat") as file:
                    parent = file.read().rpartition(")")[2].split()[1]
            except OSError:
                continue
            if int(parent) == os.getpid():
                found.append(int(entry))
    return found


@pytest.fixture(autouse=True)
def nobody_stays():
    before = set(children())
    yield
    gc.collect()
    deadline = time.monotonic() + 20
    while left := set(children()) - before:
        assert time.monotonic() < deadline, f"{left} are still there"
        time.sleep(0.001)


# --- running to the end -------------------------------------------------------------------


def test_run_collects_what_was_written():
    async def main():
        script = "echo out; echo err >&2; exit 3"
        done = await subprocess.run(["sh", "-c", script], stdout=PIPE, stderr=PIPE)
        assert type(done) is plain.CompletedProcess
        assert (done.returncode, done.stdout, done.stderr) == (3, b"out\n", b"err\n")
        assert done.args == ["sh", "-c", script]
        done = await subprocess.run("echo out; echo err >&2", shell=True, capture_output=True)
        assert (done.stdout, done.stderr) == (b"out\n", b"err\n")
        done = await subprocess.run(["sh", "-c", script], stdout=PIPE, stderr=STDOUT)
        assert (done.stdout, done.stderr) == (b"out\nerr\n", None)
        done = await subprocess.run(["true"])
        assert (done.returncode, done.stdout, done.stderr) == (0, None, None)

    curio.run(main)


@pytest.mark.parametrize("data", [b"", b"x", LARGE, bytearray(b"abc"), memoryview(LARGE)])
def test_input_goes_through(data):
    async def main():
        done = await subprocess.run(["cat"], input=data, stdout=PIPE)
        assert done.stdout == data

    curio.run(main)


def test_a_child_need_not_read_its_input():
    async def main():
        done = await subprocess.run("exec <&-; echo done", shell=True, input=LARGE, stdout=PIPE)
        assert done.stdout == b"done\n"
        assert (await subprocess.run(["true"], input=LARGE)).returncode == 0

    curio.run(main)


def test_stdin_of_run_is_honoured(tmp_path):
    path = tmp_path / "input"
    path.write_bytes(b"from a file")

    async def main():
        with open(path) as file:
            assert await subprocess.check_output(["cat"], stdin=file) == b"from a file"
        assert await subprocess.check_output(["cat"], stdin=DEVNULL) == b""

    curio.run(main)


def test_check():
    async def main():
        assert await subprocess.check_output(["echo", "Hello"]) == b"Hello\n"
        with pytest.raises(plain.CalledProcessError) as failed:
            await subprocess.check_output("echo out; echo err >&2; exit 7", shell=True, stderr=PIPE)
        assert failed.value.returncode == 7
        assert (failed.value.output, failed.value.stderr) == (b"out\n", b"err\n")
        with pytest.raises(plain.CalledProcessError, match="SIGKILL"):
            await subprocess.run("kill -9 $$", shell=True, check=True)
        assert await subprocess.call(["sh", "-c", "exit 4"]) == 4
        assert await subprocess.check_call(["true"]) == 0
        with pytest.raises(plain.CalledProcessError):
            await subprocess.check_call(["false"])

    curio.run(main)


def test_the_names_are_the_standard_librarys():
    for name in (
        "PIPE STDOUT DEVNULL CalledProcessError TimeoutExpired SubprocessError CompletedProcess"
    ).split():
        assert getattr(subprocess, name) is getattr(plain, name)


@pytest.mark.parametrize(
    "call, error, words",
    [
        (lambda: subprocess.run(["cat"], stdin=PIPE, input=b""), ValueError, "input, and stdin"),
        (
            lambda: subprocess.run(["cat"], stdout=PIPE, capture_output=True),
            ValueError,
            "capture_output",
        ),
        (lambda: subprocess.check_output(["cat"], stdout=PIPE), ValueError, "its own stdout"),
        (lambda: subprocess.check_output(["cat"], check=False), ValueError, "its own check"),
        (lambda: subprocess.run(["no-such-program"]), FileNotFoundError, "no-such-program"),
        (lambda: subprocess.run(["/etc/passwd"]), PermissionError, "/etc/passwd"),
        (lambda: subprocess.run(["true"], cwd="/no/such"), FileNotFoundError, "/no/such"),
        (lambda: subprocess.run([]), (IndexError, ValueError), None),
        (lambda: subprocess.run(["a\0b"]), ValueError, "null byte"),
        (lambda: subprocess.run(["cat"], input="text"), TypeError, "bytes-like"),
        (lambda: subprocess.run(["true"], nonsense=1), TypeError, "nonsense"),
        (lambda: subprocess.run(["true"], universal_newlines=True), RuntimeError, "text=True"),
    ],
)
def test_bad_input(call, error, words):
    async def main():
        with pytest.raises(error, match=words):
            await call()

    curio.run(main)


# --- Popen --------------------------------------------------------------------------------


def test_lines_come_as_they_are_written():
    async def main():
        p = sh("while read n; do echo got $n; done", stdin=PIPE, stdout=PIPE)
        async with p:
            for n in range(100):
                await p.stdin.write(b"%d\n" % n)
                assert await p.stdout.readline() == b"got %d\n" % n
            await p.stdin.close()
            assert [line async for line in p.stdout] == []
        assert p.returncode == 0

    curio.run(main)


def test_what_is_not_piped_is_none():
    async def main():
        p = Popen(["true"])
        assert (p.stdin, p.stdout, p.stderr) == (None, None, None)
        assert p.returncode is None and "running" in repr(p)
        assert await p.wait() == p.returncode == p.poll() == 0
        assert await p.wait() == 0
        assert "ended with 0" in repr(p) and p.args == ["true"]
        assert not is_there(p.pid)

    curio.run(main)


def test_signals_end_a_child():
    async def main():
        for end, status in [
            (lambda p: p.terminate(), -signal.SIGTERM),
            (lambda p: p.kill(), -signal.SIGKILL),
            (lambda p: p.send_signal(signal.SIGINT), -signal.SIGINT),
        ]:
            p = Popen(FOREVER)
            waiting = await curio.spawn(p.wait)
            await until(lambda waiting=waiting: waiting.state == "READ_WAIT")
            end(p)
            assert await waiting.join() == status
            end(p)  # it has ended: nothing happens

    curio.run(main)


def test_several_tasks_wait_for_one_child():
    async def main():
        p = sh("read line; exit 5", stdin=PIPE)
        tasks = [await curio.spawn(p.wait) for _ in range(5)]
        await p.stdin.close()
        assert [await task.join() for task in tasks] == [5] * 5

    curio.run(main)


def test_wait_with_a_timeout():
    async def main():
        p = sh("read line; exit 5", stdin=PIPE)
        for timeout in 0, 0.01, -1:
            with pytest.raises(plain.TimeoutExpired) as expired:
                await p.wait(timeout=timeout)
            assert (expired.value.cmd, expired.value.timeout) == (p.args, timeout)
        await p.stdin.close()
        assert await p.wait(timeout=20) == 5
        assert await p.wait(timeout=0) == 5

    curio.run(main)


def test_async_with_waits_and_closes():
    async def main():
        async with sh("echo out; cat >&2", stdin=PIPE, stdout=PIPE, stderr=DEVNULL) as p:
            assert await p.stdout.read() == b"out\n"
        assert p.returncode == 0
        assert p.stdin.closed and p.stdout.closed

    curio.run(main)


def test_in_an_async_thread():
    async def main():
        def work():
            with sh("echo one; echo two", stdout=PIPE) as p:
                lines = list(p.stdout)
            return lines, curio.AWAIT(p.wait)

        thread = await curio.spawn_thread(work)
        assert await thread.join() == ([b"one\n", b"two\n"], 0)
        p = Popen(["true"])
        with pytest.raises(curio.AsyncOnlyError):
            with p:
                pass
        await p.wait()

    curio.run(main)


def test_a_pipeline():
    async def main():
        first = Popen(["seq", "1000"], stdout=PIPE)
        second = Popen(["grep", "99"], stdin=first.stdout, stdout=PIPE)
        await first.stdout.close()
        out, _ = await second.communicate()
        assert out == b"".join(b"%d\n" % n for n in range(1001) if "99" in str(n))
        assert await first.wait() == 0

    curio.run(main)


def test_a_stream_with_bytes_in_its_buffer_is_not_handed_over():
    async def main():
        async with Popen(["seq", "10"], stdout=PIPE) as first:
            await first.stdout.readline()
            with pytest.raises(OSError, match="bytes in its buffer"):
                Popen(["cat"], stdin=first.stdout)

    curio.run(main)


def test_many_at_once():
    async def main():
        async def one(n):
            done = await subprocess.run(
                f"cat; exit {n % 100}", shell=True, input=b"%d" % n, stdout=PIPE
            )
            return done.returncode, done.stdout

        async with curio.TaskGroup() as group:
            for n in range(200):
                await group.spawn(one, n)
        assert group.results == [(n % 100, b"%d" % n) for n in range(200)]

    curio.run(main)


def test_much_output_takes_no_memory_when_streamed():
    size = 128 * 1024 * 1024

    async def main():
        async with Popen(["head", "-c", str(size), "/dev/zero"], stdout=PIPE) as p:
            total = largest = 0
            while piece := await p.stdout.read():
                total += len(piece)
                largest = max(largest, len(piece))
        assert total == size and largest <= 2 * 1024 * 1024

    curio.run(main)


# --- communicate --------------------------------------------------------------------------


def test_communicate():
    async def main():
        p = sh("cat; echo err >&2", stdin=PIPE, stdout=PIPE, stderr=PIPE)
        assert await p.communicate(LARGE) == (LARGE, b"err\n")
        assert p.returncode == 0
        assert p.stdin.closed and p.stdout.closed and p.stderr.closed
        assert await p.communicate() == (LARGE, b"err\n")
        p = sh("exit 3")
        assert await p.communicate() == (None, None)
        assert p.returncode == 3

    curio.run(main)


def test_communicate_goes_on_after_a_timeout():
    async def main():
        p = sh("head -c 300000; echo now >&2; sleep 0.1; cat", stdin=PIPE, stdout=PIPE, stderr=PIPE)
        with pytest.raises(plain.TimeoutExpired) as expired:
            await p.communicate(LARGE, timeout=0.05)
        assert LARGE.startswith(expired.value.output)
        assert expired.value.stderr in (b"", b"now\n")
        with pytest.raises(ValueError, match="given its input already"):
            await p.communicate(b"more")
        tries = 0
        while True:
            try:
                done = await p.communicate(timeout=0.002)
                break
            except plain.TimeoutExpired:
                tries += 1
        assert done == (LARGE, b"now\n")
        assert tries

    curio.run(main)


def test_a_cancelled_communicate_says_what_was_read_and_can_go_on():
    async def main():
        p = sh("echo out; echo err >&2; cat", stdin=PIPE, stdout=PIPE, stderr=PIPE)
        keeping = p.stdin
        p.stdin = None  # the child waits
        caught = []

        async def talk():
            try:
                await p.communicate()
            except curio.CancelledError as error:
                caught.append(error)
                raise

        for number in range(1, 4):
            task = await curio.spawn(talk)
            await until(lambda: len(p._read) == 2 and all(p._read.values()))
            await task.cancel()
            assert len(caught) == number
            assert (caught[-1].stdout, caught[-1].stderr) == (b"out\n", b"err\n")
        with pytest.raises(curio.TaskTimeout) as timeout:
            await curio.timeout_after(0.01, p.communicate)
        assert timeout.value.stdout == b"out\n"
        with pytest.raises(curio.TaskTimeout):
            async with curio.timeout_after(0.01):
                await p.communicate(timeout=1000)
        assert p.poll() is None
        await keeping.close()
        assert await p.communicate() == (b"out\n", b"err\n")

    curio.run(main)


def test_input_needs_a_pipe():
    async def main():
        p = Popen(["true"])
        with pytest.raises(ValueError, match="not a pipe"):
            await p.communicate(b"input")
        await p.wait()

    curio.run(main)


def test_somebody_else_is_reading(log):
    async def main():
        p = sh("echo $$; exec cat", stdin=PIPE, stdout=PIPE, stderr=PIPE)
        await p.stdout.readline()
        reader = await curio.spawn(p.stdout.readline)
        await until(lambda: reader.state == "READ_WAIT")
        with pytest.raises(curio.ReadResourceBusy):
            await p.communicate()
        await reader.cancel()
        assert await p.communicate() == (b"", b"")

    curio.run(main)


def test_a_grandchild_keeps_the_pipe_open():
    async def main():
        script = "sleep 1000 & echo $!"
        p = sh(script, stdout=PIPE)
        assert await p.wait() == 0
        with pytest.raises(plain.TimeoutExpired) as expired:
            await p.communicate(timeout=0.05)
        os.kill(int(expired.value.output), signal.SIGKILL)
        out, _ = await p.communicate()
        assert out == expired.value.output

    curio.run(main)


# --- cancellation and timeouts of run -----------------------------------------------------

STUBBORN = "trap '' TERM INT HUP; echo $$; while :; do sleep 1000; done"


def test_a_timeout_of_run_kills():
    async def main():
        with pytest.raises(plain.TimeoutExpired) as expired:
            await subprocess.run(["sh", "-c", STUBBORN], stdout=PIPE, timeout=0.1)
        pid = int(expired.value.output)
        assert not is_there(pid)
        with pytest.raises(plain.TimeoutExpired):
            await subprocess.check_output(FOREVER, timeout=0)

    curio.run(main)


@pytest.mark.parametrize("how", ["cancel", "timeout", "block"])
def test_a_cancelled_run_has_killed_when_it_returns(how):
    async def main():
        noted = []

        async def work():
            try:
                await subprocess.check_output(["sh", "-c", STUBBORN])
            except curio.CancelledError as error:
                noted.append(int(error.stdout))
                assert not is_there(noted[0])
                raise

        if how == "cancel":
            task = await curio.spawn(work)
            await curio.sleep(0.1)
            await task.cancel()
        elif how == "timeout":
            with pytest.raises(curio.TaskTimeout):
                await curio.timeout_after(0.1, work)
        else:
            async with curio.ignore_after(0.1):
                await work()
        assert len(noted) == 1

    curio.run(main)


def test_a_run_that_is_cancelled_before_it_waits_has_killed():
    async def main():
        assert await curio.ignore_after(0, subprocess.run, FOREVER) is None

    curio.run(main)


def test_run_is_given_up_at_random():
    """Before, while and after: each either gives its result or has left nothing."""
    draw = random.Random(5)

    async def main():
        async def one(n):
            return await subprocess.check_output(["sh", "-c", f"echo {n}"])

        done = 0
        for n in range(300):
            result = await curio.ignore_after(draw.uniform(0, 0.004), one, n)
            assert result in (None, b"%d\n" % n)
            done += result is not None
        assert 0 < done < 300

    curio.run(main)


@pytest.mark.parametrize("interrupt", ["cancel", "timeout"])
def test_interrupted_everywhere(interrupt):
    """On a virtual clock, at each place where `run` can be interrupted."""

    async def program():
        await subprocess.run(["sleep", "0.01"])

    report = curio_testing.interrupt_everywhere(program)
    assert report.points > 1


def test_no_time_passes_on_a_virtual_clock_while_a_child_is_waited_for():
    async def main():
        start = await curio.clock()
        assert await Popen(["sleep", "0.05"]).wait() == 0
        assert await curio.clock() == start

    curio_testing.run(main)


# --- text ---------------------------------------------------------------------------------


def test_text():
    async def main():
        done = await subprocess.run(["cat"], input="h\u00e9\r\nx", stdout=PIPE, encoding="utf-8")
        assert done.stdout == "h\u00e9\nx"
        assert await subprocess.check_output(["printf", "a\\rb"], text=True) == "a\nb"
        out = await subprocess.check_output(
            ["printf", "\\377"], encoding="ascii", errors="backslashreplace"
        )
        assert out == "\\xff"
        with pytest.raises(UnicodeDecodeError):
            await subprocess.check_output(["printf", "\\377"], encoding="ascii")
        with pytest.raises(TypeError, match="text is wanted, not 'bytes'"):
            await subprocess.run(["cat"], input=b"bytes", text=True)
        with pytest.raises(LookupError):
            Popen(["true"], stdout=PIPE, encoding="no-such-encoding")

    curio.run(main)


def test_streams_of_text():
    async def main():
        p = sh("cat", stdin=PIPE, stdout=PIPE, encoding="utf-16")
        async with p:
            assert await p.stdin.write("\u00e9in\n") == 4
            assert await p.stdout.readline() == "\u00e9in\n"
            await p.stdin.buffer.write("zwei\r\ndr".encode("utf-16-le"))
            assert await p.stdout.readline() == "zwei\n"
            assert await p.stdout.read(1) == "d"
            assert await p.stdout.read() == "r"
            await p.stdin.writelines(["x\n", "y"])
            await p.stdin.flush()
            await p.stdin.close()
            assert await p.stdout.readall() == "x\ny"
            assert await p.stdout.read() == await p.stdout.readline() == ""

    curio.run(main)


def test_lines_of_text():
    async def main():
        p = Popen(["printf", "one\\ntwo\\x0cstill two\\nthree"], stdout=PIPE, text=True)
        async with p:
            assert "TextStream" in repr(p.stdout) and p.stdout.fileno() >= 0
            assert [line async for line in p.stdout] == ["one\n", "two\x0cstill two\n", "three"]
        async with Popen(["printf", "a\\nb"], stdout=PIPE, text=True) as p:
            assert await p.stdout.readlines() == ["a\n", "b"]
        async with Popen(["head", "-c", "3000000", "/dev/zero"], stdout=PIPE, text=True) as p:
            with pytest.raises(ValueError, match="no end within the stream's limit"):
                await p.stdout.readline()
            assert len(await p.stdout.readall()) == 3_000_000

    curio.run(main)


def test_a_cancelled_read_of_text_loses_nothing():
    async def main():
        read, write = os.pipe()
        with open(write, "wb", buffering=0) as writing:
            stream = subprocess.TextStream(curio.io.FileStream(open(read, "rb", buffering=0)))
            stream.__init__(stream.buffer, "utf-8")
            async with stream:
                for piece in "h\u00e9llo\n".encode():
                    assert await curio.ignore_after(0, stream.readline) is None
                    writing.write(bytes([piece]))
                    if piece != ord("\n"):
                        assert await curio.ignore_after(0.001, stream.readline) is None
                assert await stream.readline() == "h\u00e9llo\n"

    curio.run(main)


def test_part_of_a_character_is_no_error_in_a_timeout():
    async def main():
        p = sh(
            "printf 'h\\303'; read line; printf '\\251'", stdin=PIPE, stdout=PIPE, encoding="utf-8"
        )
        keeping, p.stdin = p.stdin, None
        with pytest.raises(plain.TimeoutExpired) as expired:
            await p.communicate(timeout=0.1)
        assert expired.value.output == "h"
        await keeping.close()
        assert await p.communicate() == ("h\u00e9", None)

    curio.run(main)


# --- nothing stays ------------------------------------------------------------------------


def test_a_dropped_child_is_no_zombie():
    async def main():
        p = sh("read line", stdin=PIPE)
        pid, keeping = p.pid, p.stdin
        del p
        gc.collect()
        assert is_there(pid)
        await keeping.close()
        await until(lambda: not is_there(pid))

    curio.run(main)


def test_a_kernel_may_end_while_its_task_waits():
    p = sh("read line", stdin=PIPE)
    keeping = p.stdin._file

    async def main():
        await curio.spawn(p.wait)
        await curio.sleep(0)

    curio.run(main)
    assert p.poll() is None
    keeping.close()

    async def other():
        return await p.wait()

    assert curio.run(other) == 1


def test_counts_are_back_after_many_calls():
    def counts():
        return len(os.listdir("/proc/self/fd")), set(threading.enumerate())

    def are_back(before):
        descriptors, threads = counts()
        # Threads of earlier tests may end now.
        return descriptors == before[0] and threads <= before[1]

    async def main():
        draw = random.Random(3)
        await subprocess.run(["true"], capture_output=True)
        before = counts()
        for _ in range(500):
            choice = draw.randrange(4)
            if choice == 0:
                await subprocess.run(["true"], capture_output=True)
            elif choice == 1:
                await subprocess.run(["cat"], input=b"x", stdout=PIPE)
            elif choice == 2:
                await curio.ignore_after(0, subprocess.run, FOREVER)
            else:
                async with Popen(["true"], stdout=PIPE, stderr=PIPE, stdin=PIPE):
                    pass
        assert are_back(before)
        with pytest.raises(FileNotFoundError):
            Popen(["no-such-program"], stdin=PIPE, stdout=PIPE)
        assert are_back(before)

    curio.run(main)


def test_without_a_pidfd_a_thread_waits(monkeypatch):
    def refused(pid, flags=0):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(os, "pidfd_open", refused)

    async def main():
        p = sh("read line; exit 5", stdin=PIPE)
        with pytest.raises(plain.TimeoutExpired):
            await p.wait(timeout=0.01)
        await p.stdin.close()
        assert await p.wait() == 5

    curio.run(main)


def test_no_thread_is_used():
    async def main():
        before = set(threading.enumerate())
        p = sh("read line", stdin=PIPE, stdout=PIPE)
        waiting = await curio.spawn(p.wait)
        await until(lambda: waiting.state == "READ_WAIT")
        assert before.issuperset(threading.enumerate())
        await p.stdin.close()
        await waiting.join()
        await p.stdout.close()

    curio.run(main)


def test_a_child_inherits_no_descriptor_of_the_kernels():
    async def main():
        done = await subprocess.run(["ls", "/proc/self/fd"], stdout=PIPE)
        assert done.stdout.split() == [b"0", b"1", b"2", b"3"]  # 3: the directory

    curio.run(main)


def test_asyncio_may_have_children_besides():
    async def ours():
        return await subprocess.check_output(["echo", "ours"])

    async def theirs():
        process = await asyncio.create_subprocess_exec("echo", "theirs", stdout=PIPE)
        return (await process.communicate())[0]

    results = []
    thread = threading.Thread(target=lambda: results.append(curio.run(ours)))
    thread.start()
    assert asyncio.run(theirs()) == b"theirs\n"
    thread.join()
    assert results == [b"ours\n"]


def test_ctrl_c_while_a_child_is_started_leaves_none(program):
    """The child was there, and whoever was about to get its number was interrupted."""
    running = program("""
import os, signal
import curio
from curio import subprocess

async def main():
    await subprocess.run(["sleep", "1000"], preexec_fn=press)

def press():
    os.kill(os.getppid(), signal.SIGINT)

for _ in range(10):
    try:
        curio.run(main)
    except KeyboardInterrupt:
        print("interrupted")
    try:
        print("left:", os.waitpid(-1, os.WNOHANG))
    except ChildProcessError:
        pass
print("done")
""")
    running.succeed()
    assert running.output == "interrupted\n" * 10 + "done\n"


def test_ctrl_c_leaves_no_child(program):
    running = program("""
import curio
from curio import subprocess

async def main():
    try:
        await subprocess.run(["sh", "-c", "echo $$; exec sleep 1000"])
    finally:
        print("cleaned up", flush=True)

try:
    curio.run(main)
except KeyboardInterrupt:
    print("interrupted")
""")
    deadline = time.monotonic() + 20
    while not running.output.strip():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    pid = int(running.output)
    running.process.send_signal(signal.SIGINT)
    assert running.wait() == 0, running.report()
    assert running.errors == ""
    assert "interrupted" in running.output
    deadline = time.monotonic() + 20
    while is_there(pid):
        assert time.monotonic() < deadline, "the child is still there"
        time.sleep(0.01)


def test_the_interpreter_ends_with_children_at_work(program):
    running = program("""
import curio
from curio import subprocess

kept = []

async def main():
    kept.append(subprocess.Popen(["sleep", "1"]))
    subprocess.Popen(["sleep", "1"])
    print("end")

curio.run(main)
""")
    running.succeed()
    assert running.output == "end\n"


def test_nothing_is_imported_before_it_is_wanted():
    code = "import curio, sys; print('subprocess' in sys.modules)"
    assert plain.check_output([sys.executable, "-c", code]) == b"False\n"


def test_wait_does_not_poll():
    """A waiting kernel sleeps: its thread uses no processor time worth mentioning."""

    async def main():
        p = sh("read line", stdin=PIPE)
        waiting = await curio.spawn(p.wait)
        await until(lambda: waiting.state == "READ_WAIT")
        task = await curio.current_task()
        before = task.cycles, waiting.cycles
        await curio.sleep(0.2)
        assert waiting.cycles == before[1]
        await p.stdin.close()
        await waiting.join()

    curio.run(main)
