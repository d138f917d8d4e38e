"""Every Python program in the README, in docs/ and in docstrings runs as it stands.

A block marked ```python is a whole program. One that is not meant to run by itself is
marked otherwise (```text, ```sh). The Rust blocks are the crate's documentation tests.
"""

import importlib
import inspect
import pkgutil
import re
import textwrap

import curio
import pytest
from programs import ROOT, Program

DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.M | re.S)


def programs():
    for document in DOCUMENTS:
        text = document.read_text()
        for block in BLOCK.finditer(text):
            line = text.count("\n", 0, block.start()) + 1
            place = f"{document.relative_to(ROOT)}:{line}"
            yield pytest.param(block[1], id=place)


@pytest.mark.parametrize("text", list(programs()))
def test_program(text, tmp_path):
    path = tmp_path / "program.py"
    path.write_text(text)
    with Program(path, cwd=tmp_path) as program:
        program.succeed()
        assert program.output != ""


def test_the_readme_prints_what_it_says(tmp_path):
    text = (ROOT / "README.md").read_text()
    said = re.search(r"^Both print:\n\n```text\n(.*?)^```$", text, re.M | re.S)[1]
    path = tmp_path / "program.py"
    [program] = [block for block in BLOCK.findall(text) if "space ship" in block]
    path.write_text(program)
    with Program(path, cwd=tmp_path) as program:
        program.succeed()
        assert program.output == said


def test_lines_of_examples_are_where_it_is_said():
    frame = re.compile(r'^ *File "(examples/.*?)", line (\d+), in .*\n *(.*)$', re.M)
    shown = [found for document in DOCUMENTS for found in frame.findall(document.read_text())]
    assert shown
    for name, number, line in shown:
        assert (ROOT / name).read_text().splitlines()[int(number) - 1].strip() == line


def documented():
    """Whatever has a docstring in the package, once, by its name."""
    seen = {}
    for found in pkgutil.iter_modules(curio.__path__):
        if found.name.startswith("_"):
            continue
        module = importlib.import_module(f"curio.{found.name}")
        seen[module.__name__] = module
        for value in vars(module).values():
            if getattr(value, "__module__", None) != module.__name__ or not callable(value):
                continue
            name = f"{value.__module__}.{value.__qualname__}"
            seen[name] = value
            if inspect.isclass(value):
                for member, method in vars(value).items():
                    seen[f"{name}.{member}"] = method
    return seen.items()


def examples():
    """The programs in docstrings: blocks after `::` that have a `main`."""
    for name, thing in documented():
        paragraphs = re.split(r"::\n\n", inspect.getdoc(thing) or "")[1:]
        for number, text in enumerate(paragraphs):
            block = re.match(r"(?:(?:    .*)?\n)+", text + "\n")
            block = textwrap.dedent(block[0]) if block else ""
            if "async def main(" in block:
                yield pytest.param(block, id=f"{name}:{number}")


@pytest.mark.parametrize("text", list(examples()))
def test_example_in_a_docstring(text, tmp_path):
    path = tmp_path / "program.py"
    if "import curio" not in text:
        text = f"import curio\n\n{text}"
    if "run(main" not in text:
        text = f"{text}\nif __name__ == '__main__':\n    curio.run(main)\n"
    path.write_text(text)
    with Program(path, cwd=tmp_path) as program:
        assert (program.wait(), "Traceback" in program.errors) == (0, False), program.report()
