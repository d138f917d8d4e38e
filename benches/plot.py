"""The documentation's page on speed, from stored results: `make plots`.

Takes of each workload the newest result in `results/`, and writes `docs/benchmarks.md` with its two
plots: how many times as fast as each peer Curio is, for either face. Where peers have
variants (a stream, a protocol), the plot has each of them.
"""

import json
from pathlib import Path

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot, ticker  # noqa: E402

HERE = Path(__file__).parent
DOCS = HERE.parent / "docs"
RUST = ("tokio", "smol")
COLOURS = {
    "asyncio": "#7a7a7a",
    "uvloop": "#d95f02",
    "rloop": "#7570b3",
    "trio": "#1b9e77",
    "gevent": "#a6761d",
    "curio16": "#e7298a",
    "epoll_echo": "#000000",
    "tokio": "#d95f02",
    "smol": "#7570b3",
}

PAGE = """\
# Benchmarks

Curio against the runtimes that its users come from, on one machine ({system}, {cores} cores,
{processor}). All runtimes take turns in each round, and the medians of the rounds are compared, so
that what the machine does at the time happens to all of them. `make bench` runs it; the programs
are in `benches/`, and this page is made of what is stored in `benches/results` by `make plots`.

A point is a peer: to the right of the line Curio is faster, by the factor below it. Curio loses
where a point is to the left, and the table says how much.

## Python

![Curio for Python against its peers](benchmarks-python.svg)

`epoll_echo` is no runtime but a server in Rust, one thread that does nothing but echo: what the
machine has to give. Words such as *sock*, *stream* and *protocol* say in which of a runtime's
ways the program is written.

{python}

## Rust

![Curio for Rust against its peers](benchmarks-rust.svg)

{rust}

## Versions

{versions}
"""


def newest():
    """The newest result of each workload, and what they were made with."""
    workloads, versions, machine = {}, {}, {}
    for path in sorted(HERE.glob("results/*.json")):
        result = json.loads(path.read_text())
        if not result["quick"]:
            machine = result["machine"]
            versions |= result["versions"]
            for name, workload in result["workloads"].items():
                # A later run of a few peers does not replace one of all.
                former = workloads.get(name, {"medians": {}})
                if len(workload["medians"]) >= len(former["medians"]):
                    workloads[name] = workload
    return workloads, versions, machine


def ours(name, face):
    return name == "curio-rust" if face == "rust" else name.split()[0] == "curio"


def peers_of(workload, face):
    for name in workload["medians"]:
        kind = name.split()[0]
        if face == "rust":
            if kind in RUST:
                yield name
        elif not ours(name, "python") and kind in COLOURS and kind not in RUST:
            yield name


def best(workload, names):
    pick = max if workload["unit"].endswith("/s") else min
    return pick(names, key=workload["medians"].get)


def ratio(workload, own, peer):
    """How many times as fast (or small) as the peer."""
    own, peer = workload["medians"][own], workload["medians"][peer]
    return own / peer if workload["unit"].endswith("/s") else peer / own


def rows(workloads, face):
    """Of each workload that both have: its name, itself, our best variant, the peers."""
    for name, workload in workloads.items():
        own = [each for each in workload["medians"] if ours(each, face)]
        peers = list(peers_of(workload, face))
        if own and peers:
            yield name, workload, best(workload, own), peers


def number(value):
    return f"{value:,.0f}".replace(",", " ") if value >= 100 else f"{value:.3g}"


def table(workloads, face):
    lines = [
        "| what | Curio | best peer | times as fast |",
        "|---|---|---|---|",
    ]
    for _, workload, own, peers in rows(workloads, face):
        peers = [peer for peer in peers if peer != "epoll_echo"] or peers
        peer = best(workload, peers)
        medians, unit = workload["medians"], workload["unit"]
        lines.append(
            f"| {workload['title']} | {number(medians[own])} {unit} "
            f"| {number(medians[peer])} ({peer.replace('curio16', 'Curio 1.6')}) "
            f"| {ratio(workload, own, peer):.2f} |"
        )
    return "\n".join(lines)


def plot(workloads, face, path):
    all_rows = list(rows(workloads, face))
    figure, axes = pyplot.subplots(figsize=(9, 1 + 0.3 * len(all_rows)))
    seen = set()
    for place, (_, workload, own, peers) in enumerate(all_rows):
        for peer in peers:
            kind = peer.split()[0]
            label = {"curio16": "Curio 1.6"}.get(kind, kind) if kind not in seen else None
            seen.add(kind)
            x = ratio(workload, own, peer)
            axes.plot(x, place, "o", color=COLOURS[kind], label=label, markersize=5, alpha=0.8)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(ticker.FuncFormatter(lambda x, _: f"{x:g}x"))
    axes.set_yticks(range(len(all_rows)), [workload["title"] for _, workload, *_ in all_rows])
    axes.invert_yaxis()
    axes.grid(axis="x", which="both", linewidth=0.3)
    axes.set_xlabel("times as fast as the peer; left of the line, Curio is slower")
    axes.legend(loc="upper center", bbox_to_anchor=(0.3, -0.08), ncols=7, frameon=False)
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None})
    pyplot.close(figure)


def main():
    # The same file for the same results.
    matplotlib.rcParams["svg.hashsalt"] = "curio"
    workloads, versions, machine = newest()
    for face in "python", "rust":
        plot(workloads, face, DOCS / f"benchmarks-{face}.svg")
    page = PAGE.format(
        **machine,
        python=table(workloads, "python"),
        rust=table(workloads, "rust"),
        versions="\n".join(f"- {name}: {version}" for name, version in versions.items()),
    )
    (DOCS / "benchmarks.md").write_text(page)


if __name__ == "__main__":
    main()
