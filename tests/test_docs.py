"""The documents' code blocks run as written: Python in order, marked consoles through the command line."""

import importlib.util
import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [path for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))) if path.is_file()]
FENCE = re.compile(r"^(?P<indent> *)(?P<ticks>`{3,})(?P<language>[\w-]*)[^`]*$")


@dataclass(frozen=True)
class Block:
    """One fenced code block; `line` is that of its first line, `mark` the comment on the line before its fence."""

    language: str
    text: str
    line: int
    mark: str


def blocks(text: str) -> Iterator[Block]:
    """The fenced code blocks of a Markdown text, in order."""
    lines = text.splitlines()
    start = 0
    while start < len(lines):
        fence = FENCE.match(lines[start])
        if fence is None:
            start += 1
            continue
        end = start + 1
        while end < len(lines) and lines[end].strip() != fence["ticks"]:
            end += 1
        indent = len(fence["indent"])
        body = "\n".join(line[indent:] for line in lines[start + 1 : end])
        yield Block(fence["language"], body, start + 2, lines[start - 1].strip() if start else "")
        start = end + 1


def commands(text: str) -> list[list[str]]:
    """Arguments of each `$ ridge …` line; a backslash at its end continues it."""
    joined = re.sub(r"\\\n\s*", " ", text)
    words = [shlex.split(line[2:], comments=True) for line in joined.splitlines() if line.startswith("$ ")]
    return [line[1:] for line in words if line[:1] == ["ridge"]]


def exit_code(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    """What `ridge` with these arguments returns, run in this process."""
    from ridgepoint.cli import main

    monkeypatch.setattr(sys, "argv", ["ridge", *arguments])
    try:
        returned: object = main()
    except SystemExit as leaving:
        returned = leaving.code
    return returned if isinstance(returned, int) else int(returned is not None)


def python_blocks(path: Path) -> list[Block]:
    """Python blocks that are not marked `<!-- no-test -->`."""
    found = blocks(path.read_text(encoding="utf-8"))
    return [block for block in found if block.language == "python" and block.mark != "<!-- no-test -->"]


def console_blocks(path: Path) -> list[Block]:
    """Console blocks marked `<!-- test -->`."""
    found = blocks(path.read_text(encoding="utf-8"))
    return [block for block in found if block.language == "console" and block.mark == "<!-- test -->"]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_python_blocks_run_in_order(path, tmp_path, monkeypatch):
    found = python_blocks(path)
    if not found:
        pytest.skip("no Python block to run")
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "__main__"}
    for block in found:
        code = compile("\n" * (block.line - 1) + block.text, str(path), "exec")
        exec(code, namespace)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_marked_consoles_succeed(path, tmp_path, monkeypatch):
    found = console_blocks(path)
    if not found:
        pytest.skip("no console block marked <!-- test -->")
    monkeypatch.chdir(tmp_path)
    for block in found:
        lines = commands(block.text)
        assert lines, f"{path.name}:{block.line}: a block marked <!-- test --> has no line `$ ridge …`"
        for arguments in lines:
            code = exit_code(arguments, monkeypatch)
            assert code == 0, f"{path.name}:{block.line}: `ridge {shlex.join(arguments)}` exits with {code}"


def test_blocks_are_found_with_their_marks_and_lines():
    text = "a\n<!-- no-test -->\n```python\nx = 1\n```\n\n  ````console\n  $ ridge a \\\n    b  # why\n  ```\n  ````\n"
    first, second = blocks(text)
    assert first == Block("python", "x = 1", 4, "<!-- no-test -->")
    assert (second.language, second.line, second.mark) == ("console", 8, "")
    assert commands(second.text) == [["a", "b"]]


def test_the_figures_of_the_readme_are_those_of_the_records(monkeypatch):
    """None is typed in by hand: `python benchmarks/figures.py` writes them."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    path = ROOT / "benchmarks" / "figures.py"
    spec = importlib.util.spec_from_file_location("figures", path)
    figures = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(figures)
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    found = figures.figures()
    named = set(re.findall(r"<!-- figure: ([\w.-]+) -->", text))
    assert named <= set(found), f"no record for {sorted(named - set(found))}"
    assert figures.written(text, found) == text
    document = figures.DATASHEET.read_text(encoding="utf-8")
    assert figures.with_table(document) == document and "| gemm | h100_sxm | bf16 |" in document
    assert (
        figures.written("<!-- figure: a.b -->x<!-- /figure -->", {"a.b": "3"})
        == "<!-- figure: a.b -->3<!-- /figure -->"
    )
