"""Tasks of lm-eval in local YAML files: read without running any code of theirs, their data found beside them, hashed."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ridgepoint.errors import BadInput, NotSupported

__all__ = ["CODE_FLAG", "TaskFile", "is_local", "task_files"]

CODE_FLAG = "--allow-task-code"
_DATA = ("json", "csv", "text", "parquet", "arrow")
"""Readers of the package datasets that read plain data; pandas reads pickles, which run code."""
_MOST_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class TaskFile:
    """A task as the dict that lm-eval takes, and the hash of the files it was read from."""

    path: Path
    config: dict[str, Any]
    sha256: str


def is_local(name: str) -> bool:
    """Whether this names a file or a folder rather than one of lm-eval's own tasks."""
    return name.endswith((".yaml", ".yml")) or "/" in name or Path(name).is_dir()


def task_files(name: str, allow_code: bool) -> tuple[TaskFile, ...]:
    """The task in a file, or each in a folder, in the order of their names; files without `task:` are for others to include.

    BadInput where there is none, for data files that are missing or not local, and, unless allowed, for whatever in them
    runs code: `!function`, `class`, `custom_dataset`, `unsafe_code`, `dataset_kwargs.trust_remote_code`, `hf_evaluate`.
    """
    path = Path(name)
    if not path.exists():
        raise BadInput(
            f"--tasks {name}: no such file or folder; give a YAML file, a folder of them, or a task of lm-eval"
        )
    paths = sorted(p for p in path.iterdir() if p.suffix in (".yaml", ".yml")) if path.is_dir() else [path]
    found = [task for p in paths if (task := _read(p, allow_code, many=path.is_dir())) is not None]
    if not found:
        raise BadInput(f"--tasks {name}: no YAML file in it has a line `task: NAME`")
    return tuple(found)


def _read(path: Path, allow_code: bool, many: bool) -> TaskFile | None:
    hashed = hashlib.sha256()
    config = _merged(path.resolve(), allow_code, hashed, ())
    if not isinstance(config.get("task"), str):
        if many:
            return None
        raise BadInput(f"--tasks {path}: no line `task: NAME` in it; groups of tasks are given as a folder")
    if not allow_code:
        _check_plain(path, config)
    if config.get("dataset_path") in _DATA:
        config["dataset_kwargs"] = _found_data(path.resolve(), config.get("dataset_kwargs"), hashed)
    return TaskFile(path, config, hashed.hexdigest())


def _merged(path: Path, allow_code: bool, hashed: Any, above: tuple[Path, ...]) -> dict[str, Any]:
    """The file over those that it includes, as lm-eval merges them."""
    if path in above:
        raise BadInput(f"--tasks {path}: it includes itself")
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise BadInput(f"--tasks {path}: more than {_MOST_BYTES // 2**20} MiB of YAML")
        data = path.read_bytes()
    except OSError as error:
        raise BadInput(f"--tasks {path}: cannot be read: {error.strerror}") from None
    hashed.update(data)
    config = _parsed(path, data, allow_code)
    included = config.pop("include", [])
    out: dict[str, Any] = {}
    for other in included if isinstance(included, list) else [included]:
        out |= _merged((path.parent / str(other)).resolve(), allow_code, hashed, (*above, path))
    return out | config


def _parsed(path: Path, data: bytes, allow_code: bool) -> dict[str, Any]:
    try:
        import yaml
    except ImportError:
        raise NotSupported("tasks need the package lm-eval; pip install 'ridgepoint[tasks]'") from None

    class Loader(yaml.SafeLoader):
        """YAML without tags of Python, and `!function` only where it was allowed."""

    def function(loader: Any, node: Any) -> Any:
        where = f"--tasks {path}, line {node.start_mark.line + 1}"
        if not allow_code:
            raise BadInput(f"{where}: !function runs code of the task; if you trust it, add {CODE_FLAG}")
        from lm_eval.tasks._yaml_loader import _import_func_in_yml

        return _import_func_in_yml(loader.construct_scalar(node), path.parent)

    Loader.add_constructor("!function", function)
    try:
        config = yaml.load(data, Loader=Loader)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise BadInput(f"--tasks {path}: no YAML that can be read: {' '.join(str(error).split())[:160]}") from None
    if not isinstance(config, dict):
        raise BadInput(
            f"--tasks {path}: YAML of a {type(config).__name__}, where a task is a mapping with `task: NAME`"
        )
    return config


def _check_plain(path: Path, config: dict[str, Any]) -> None:
    """Refuse what makes lm-eval, datasets or evaluate run code of somebody else."""
    kwargs = config.get("dataset_kwargs")
    metrics = config.get("metric_list")
    runs = [key for key in ("class", "custom_dataset", "unsafe_code") if config.get(key)]
    if isinstance(kwargs, dict) and kwargs.get("trust_remote_code"):
        runs.append("dataset_kwargs.trust_remote_code")
    for entry in metrics if isinstance(metrics, list) else ():
        if isinstance(entry, dict) and (entry.get("hf_evaluate") or not str(entry.get("metric", "")).isidentifier()):
            runs.append(f"the metric {str(entry.get('metric'))[:40]}")
    if runs:
        raise BadInput(f"--tasks {path}: {runs[0]} runs code of the task; if you trust it, add {CODE_FLAG}")
    data = str(config.get("dataset_path", ""))
    if data not in _DATA and ("/" not in data or Path(data).exists() or data.endswith(".py") or "://" in data):
        raise BadInput(
            f"--tasks {path}: dataset_path is {data[:60]!r}; possible is {', '.join(_DATA)} with local data_files, "
            "or a data set of the Hugging Face hub as OWNER/NAME"
        )


def _found_data(path: Path, kwargs: Any, hashed: Any) -> dict[str, Any]:
    """`dataset_kwargs` with its data files beside the YAML file, else below the working directory; each is hashed."""
    files = kwargs.get("data_files") if isinstance(kwargs, dict) else None
    if not files:
        raise BadInput(f"--tasks {path}: no dataset_kwargs.data_files; give the local file of each split")

    def found(name: Any) -> str:
        place = next((p for p in (path.parent / str(name), Path(str(name))) if p.is_file()), None)
        if place is None:
            raise BadInput(f"--tasks {path}: data file {str(name)[:100]!r} is not there; looked beside the YAML file")
        with place.open("rb") as stream:
            hashed.update(hashlib.file_digest(stream, "sha256").digest())
        return str(place.resolve())

    def each(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: each(v) for key, v in value.items()}
        return [found(v) for v in value] if isinstance(value, list) else found(value)

    return {**kwargs, "data_files": each(files)}
