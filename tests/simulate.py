"""Random programs by the million, in both languages and on all processors.

    make simulate SEEDS=1000000     seeds 0 and up: nine of ten programs in Rust, the rest in Python
    make simulate SEED=4711         the programs of one seed, told in words

The programs are those of `crates/curio/tests/simulation.rs` and of `simulation.py`. Prints each
failure with its seed, and how many schedules were run; fails if one has failed.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).parent

#: One process runs so many programs of a language: what a failure leaves behind ends with it.
PORTION = {"rust": 10_000, "python": 2_000}


def rust_tests():
    """The test program, built."""
    command = ["cargo", "test", "-p", "curio", "--all-features", "--test", "simulation"]
    command += ["--no-run", "--quiet", "--message-format=json"]
    out = subprocess.run(command, cwd=HERE.parent, stdout=subprocess.PIPE, check=True).stdout
    made = [json.loads(line) for line in out.splitlines() if line.startswith(b"{")]
    [path] = [each["executable"] for each in made if each.get("executable")]
    return path


def start(language, rust, seeds, **options):
    """Run the programs of some seeds, or tell all of one, in a process."""
    environment = {**os.environ, "RUST_BACKTRACE": "0"}
    if language == "python":
        command = [sys.executable, HERE / "simulation.py", *map(str, seeds)]
    else:
        command = [rust, "--nocapture"]
        key = "CURIO_SEEDS" if len(seeds) == 2 else "CURIO_SEED"
        environment[key] = "..".join(map(str, seeds))
    return subprocess.run(command, env=environment, text=True, **options)


def portions(language, count):
    step = PORTION[language]
    return [(language, (first, min(first + step, count))) for first in range(0, count, step)]


def run_portion(language, rust, seeds):
    """The number of programs that have run, and what has failed."""
    ended = start(language, rust, seeds, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    failures = re.findall(r"^failure: (.*)$", ended.stdout, re.M)
    ran = re.search(r"^schedules: \w+ (\d+)", ended.stdout, re.M)
    if ran is None:
        failures.append(f"{language} seeds {seeds[0]} to {seeds[1]}: ended by {ended.returncode}")
    return int(ran[1]) if ran else 0, failures


def run_many(count, rust):
    python = count // 10
    work = portions("rust", count - python) + portions("python", python)
    begin, ran, failed = time.monotonic(), {"rust": 0, "python": 0}, 0
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = pool.map(lambda part: (part[0], *run_portion(part[0], rust, part[1])), work)
        for language, number, failures in results:
            ran[language] += number
            for failure in failures:
                failed += 1
                seed = re.search(r"seed (\d+)", failure)
                replay = f"\n  replay: make simulate SEED={seed[1]}" if seed else ""
                print(f"failure: {failure}{replay}", flush=True)
    seconds = time.monotonic() - begin
    total = sum(ran.values())
    print(
        f"{total} schedules ({ran['rust']} in Rust, {ran['python']} in Python) "
        f"in {seconds:.0f} s, {failed} failures"
    )
    return failed > 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("count", type=int, nargs="?", help="how many")
    parser.add_argument("--seed", type=int, help="one, in both languages")
    arguments = parser.parse_args()
    rust = rust_tests()
    if arguments.seed is None:
        return run_many(arguments.count or 1_000_000, rust)
    ends = [start(language, rust, [arguments.seed]).returncode for language in ("rust", "python")]
    return any(ends)


if __name__ == "__main__":
    sys.exit(main())
