"""The rules of the house as tests; they find files by themselves, so that new ones are covered."""

import ast
import io
import json
import re
import subprocess
import sys
import tokenize
import tomllib
from functools import cache
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "ridgepoint"
MODULES = sorted(PACKAGE.rglob("*.py"))
SOURCES = [*MODULES, *sorted((ROOT / "tests").rglob("*.py")), *sorted((ROOT / "benchmarks").rglob("*.py"))]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
LONGER_FILES: dict[str, int] = {}
"""Exceptions, `path: code lines`; each needs a reason beside it."""
LONGER_FUNCTIONS: dict[str, int] = {}
"""Exceptions, `path:function: code lines`; each needs a reason beside it."""
MAY_PRINT = ("cli.py", "cli")
BANNED_NAMES = {"utils.py", "util.py", "helpers.py", "helper.py", "common.py", "misc.py"}

LIGHT = ("", "cli", "errors", "quantity", "result", "hardware", "workload", "prediction", "choice", "store", "study")
"""What must import without the heavy packages; `""` is `import ridgepoint` itself."""
HEAVY = ("torch", "transformers", "bitsandbytes", "peft", "safetensors", "plotly", "huggingface_hub")
METAL = ("engine", "kernels", "measurement", "analog", "server")
"""Layers that predicting code cannot import."""
MACHINES = ("engine", "kernels", "analog", "scheduling")
"""Layers that know nothing of those in WORKBENCH."""
WORKBENCH = ("cli", "labs", "report", "study", "prediction", "measurement", "store", "choice")


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def each(paths):
    return pytest.mark.parametrize("path", paths, ids=name_of)


def is_built(layer: str) -> bool:
    return (PACKAGE / f"{layer}.py").is_file() or any((PACKAGE / layer).glob("*.py"))


# Files


@cache
def code_lines(path: Path) -> frozenset[int]:
    """Line numbers that hold code: no blank lines, comments or docstrings."""
    layout = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline):
        if token.type not in layout:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            lines.difference_update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return frozenset(lines)


@each(SOURCES)
def test_file_starts_with_one_sentence(path):
    docstring = ast.get_docstring(tree_of(path))
    assert docstring, "no docstring: one sentence says what the file is for"
    sentence = " ".join(docstring.split("\n\n")[0].split())
    assert sentence.endswith("."), f"not a sentence: {sentence!r}"
    inner = re.sub(r"\b(e\.g|i\.e|vs|cf|etc)\.", "", sentence)
    assert not re.search(r"[.!?]\s+[A-Z`]", inner), f"more than one sentence, so more than one file: {sentence!r}"


@each(SOURCES)
def test_file_is_short(path):
    count = len(code_lines(path))
    assert count < LONGER_FILES.get(name_of(path), MAX_FILE_LINES), f"{count} lines of code: split the file"


@each(SOURCES)
def test_functions_are_short(path):
    lines = code_lines(path)
    long = []
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            count = len(lines.intersection(range(node.lineno, (node.end_lineno or node.lineno) + 1)))
            if count >= LONGER_FUNCTIONS.get(f"{name_of(path)}:{node.name}", MAX_FUNCTION_LINES):
                long.append(f"{node.name} ({count} lines)")
    assert not long, f"split {', '.join(long)}"


def test_exceptions_to_sizes_are_still_needed():
    sizes = {name_of(path): len(code_lines(path)) for path in SOURCES}
    stale = [name for name in LONGER_FILES if sizes.get(name, 0) < MAX_FILE_LINES]
    functions = {
        f"{name_of(path)}:{node.name}"
        for path in SOURCES
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    stale += [name for name in LONGER_FUNCTIONS if name not in functions]
    assert not stale, f"drop from the exceptions: {stale}"


def test_no_file_is_a_drawer():
    found = [name_of(path) for path in SOURCES if path.name in BANNED_NAMES]
    assert not found, f"say what is in it instead: {found}"


def test_every_folder_with_modules_is_a_package():
    folders = {path.parent for path in MODULES} | {PACKAGE}
    missing = sorted(name_of(folder) for folder in folders if not (folder / "__init__.py").is_file())
    assert not missing, f"no __init__.py in {missing}"


# Names and statements


def public_names(tree: ast.Module) -> list[str] | None:
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == "__all__" for target in targets):
            names = ast.literal_eval(node.value)
            assert all(isinstance(name, str) for name in names)
            return list(names)
    return None


def defined_names(tree: ast.Module) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names.update(alias.asname or alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return names


@each([path for path in MODULES if not path.name.startswith("_") or path.name == "__init__.py"])
def test_public_names_are_listed_and_exist(path):
    tree = tree_of(path)
    listed = public_names(tree)
    assert listed is not None, "no __all__"
    assert len(listed) == len(set(listed)), "__all__ names something twice"
    defined = defined_names(tree)
    if "__getattr__" not in defined:  # a lazy module defines its names when asked
        missing = [name for name in listed if name not in defined]
        assert not missing, f"__all__ lists what is not there: {missing}"


@each(MODULES)
def test_no_print_and_no_assert_false(path):
    found = []
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
            if path.relative_to(PACKAGE).parts[0] not in MAY_PRINT:
                found.append(f"line {node.lineno}: print; return the text, the command line prints it")
        elif isinstance(node, ast.Assert) and isinstance(node.test, ast.Constant) and not node.test.value:
            found.append(f"line {node.lineno}: assert {node.test.value}; raise, with what to do next")
    assert not found, "\n".join(found)


@each(MODULES)
def test_no_keywords_passed_through(path):
    """`def f(**kwargs): g(**kwargs)` hides which options exist; a wrapper of any callable takes `*args` as well."""
    found = []
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.args.kwarg and not node.args.vararg:
            caught = node.args.kwarg.arg
            passed = [
                k for call in ast.walk(node) if isinstance(call, ast.Call) for k in call.keywords if k.arg is None
            ]
            if any(isinstance(k.value, ast.Name) and k.value.id == caught for k in passed):
                found.append(f"line {node.lineno}: {node.name} passes **{caught} through")
    assert not found, "\n".join(found)


# Layers


@pytest.mark.parametrize("layer", [layer for layer in LIGHT if not layer or is_built(layer)])
def test_imports_without_heavy_packages(layer):
    module = f"ridgepoint.{layer}" if layer else "ridgepoint"
    code = f"import sys, {module}; print(*(name for name in {HEAVY!r} if name in sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert not done.stdout.split(), f"import {module} loads {done.stdout.strip()}"


def contract(name: str) -> dict:
    return next(c for c in PYPROJECT["tool"]["importlinter"]["contracts"] if c["id"] == name)


def test_layers_in_parentheses_are_not_built():
    layers = [layer.strip() for row in contract("layers")["layers"] for layer in row.split("|")]
    stale = [layer for layer in layers if layer.startswith("(") and is_built(layer.strip("()"))]
    assert not stale, f"built: drop the parentheses in pyproject.toml of {stale}"


@pytest.mark.parametrize(
    ("name", "field", "layers"),
    [
        ("paper", "forbidden_modules", METAL),
        ("machines", "source_modules", MACHINES),
        ("machines", "forbidden_modules", WORKBENCH),
    ],
)
def test_contracts_cover_every_built_layer(name, field, layers):
    """A forbidden contract can name only what exists, so a new layer must be added to it when it is built."""
    missing = [f"ridgepoint.{layer}" for layer in layers if is_built(layer)]
    missing = [module for module in missing if module not in contract(name)[field]]
    assert not missing, f"add to {field} of the contract {name!r} in pyproject.toml: {missing}"


# Text that travels


@cache
def tracked_texts() -> tuple[tuple[str, str], ...]:
    """Path and text of each file that is, or could be, committed."""
    git = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(git, cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout: no list of tracked files")
    texts = []
    for name in sorted(filter(None, listed.stdout.split("\0"))):
        try:
            texts.append((name, (ROOT / name).read_text(encoding="utf-8")))
        except (UnicodeDecodeError, FileNotFoundError, IsADirectoryError):
            continue
    return tuple(texts)


def lines_with(pattern: str, skip: tuple[str, ...] = ()) -> list[str]:
    found = []
    for name, text in tracked_texts():
        if name.endswith(skip or ("\0",)):
            continue
        for match in re.finditer(pattern, text):
            found.append(f"{name}:{text.count(chr(10), 0, match.start()) + 1}: {match.group()!r}")
    return found


def test_no_paths_of_one_machine():
    found = lines_with(
        r"(?<![\w./~$})*-])/(?:work|home|root|Users|opt)(?:/\w|\b(?=[\"'\s]))",
        skip=(
            "tests/test_house.py",
            "ridgepoint/workload/data/trained/pocket/heldout.txt",
            "tests/data/tasks/continuation/items.jsonl",
        ),  # the last two are Python's own
    )
    assert not found, "\n".join(found)


def test_no_package_registry():
    """Where packages come from is the business of whoever installs; documents may name a public index."""
    hosts = r"pypi\.org|pythonhosted\.org|download\.pytorch\.org|conda\.anaconda\.org"
    found = lines_with(hosts, skip=("tests/test_house.py", ".md"))
    found += lines_with(
        r"file:/{2,}|(?:localhost|127\.0\.0\.1):?\d*/simple|/simple/?[\"'\s]", skip=("tests/test_house.py",)
    )
    assert not found, "\n".join(found)


def test_constraints_pin_every_dependency_exactly():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    wrong = [pin for pin in pins if not re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][0-9A-Za-z.]*", pin)]
    assert not wrong, f"neither hashes, addresses nor ranges: {wrong}"
    project = PYPROJECT["project"]
    extras = {name: wanted for name, wanted in project["optional-dependencies"].items() if name != "gpu"}
    wanted = [Requirement(line) for line in sum(extras.values(), start=project["dependencies"])]
    versions = {canonicalize_name(pin.split("==")[0]): pin.split("==")[1] for pin in pins}
    loose = [
        str(need) for need in wanted if not need.specifier.contains(versions.get(canonicalize_name(need.name), "0"))
    ]
    assert not loose, f"not pinned, or outside the range of pyproject.toml: {loose}"


# Data that ships


MODELS = sorted((PACKAGE / "workload" / "data").glob("*/*.json"))
DATA = sorted(path for path in PACKAGE.glob("*/data/**/*") if path.suffix in (".json", ".toml"))
PUBLISHED = tomllib.loads((ROOT / "tests" / "data" / "published_parameters.toml").read_text(encoding="utf-8"))


@each(MODELS)
def test_model_has_the_published_number_of_parameters(path):
    from ridgepoint.workload import load_model

    assert path.stem in PUBLISHED, "add its published count, with the source, to tests/data/published_parameters.toml"
    assert PUBLISHED[path.stem]["source"]
    assert load_model(path.stem).parameters == PUBLISHED[path.stem]["parameters"]


def content_of(path: Path) -> dict:
    text = path.read_text(encoding="utf-8")
    return json.loads(text) if path.suffix == ".json" else tomllib.loads(text)


@each(DATA)
def test_data_file_is_named_after_its_content(path):
    assert re.fullmatch(r"[a-z0-9][a-z0-9._-]*", path.stem), "lower case letters, digits, . _ -"
    content = content_of(path)
    assert content, "an empty file"
    assert content.get("name", path.stem) == path.stem, f"the file says it is {content['name']!r}"


@pytest.mark.parametrize("layer", sorted({path.relative_to(PACKAGE).parts[0] for path in DATA}))
def test_names_and_aliases_are_unique(layer):
    owners: dict[str, str] = {}
    for path in (path for path in DATA if path.is_relative_to(PACKAGE / layer)):
        for name in (path.stem, *content_of(path).get("aliases", ())):
            other = owners.setdefault(name.lower(), name_of(path))
            assert other == name_of(path), f"{name!r} is both {other} and {name_of(path)}"
