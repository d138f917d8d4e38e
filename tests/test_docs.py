"""Every Python program in the README and in docs/ runs as it stands.

A block marked ```python is a whole program. One that is not meant to run by itself is
marked otherwise (```text, ```sh). The Rust blocks are the crate's documentation tests.
"""

import re

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
    path.write_text(BLOCK.findall(text)[-1])
    with Program(path, cwd=tmp_path) as program:
        program.succeed()
        assert program.output == said
