"""Where targets live: the user's data folder first, then the package; a path is taken as it is."""

import os
from functools import cache, lru_cache
from importlib.resources import files
from pathlib import Path

import platformdirs

from ridgepoint.errors import BadInput, UnknownName
from ridgepoint.hardware.target import Target, decode_target, encode_target

__all__ = ["HOST", "data_folder", "load_target", "save_target", "target_names"]

HOST = "host"
"""The machine at hand: the newest calibrated file of this host."""
_MAX_BYTES = 8 * 2**20


def data_folder() -> Path:
    """The user's data folder: `$RIDGEPOINT_HOME`, else the platform's."""
    home = os.environ.get("RIDGEPOINT_HOME")
    return Path(home or _platform_folder(os.environ.get("XDG_DATA_HOME", ""), os.environ.get("HOME", "")))


@cache
def _platform_folder(_data_home: str, _home: str) -> str:
    """Looked up once for an environment: a prediction asks each time."""
    return platformdirs.user_data_dir("ridgepoint")


def target_names() -> list[str]:
    """Names of all targets, the user's own included."""
    return sorted({_stem(path) for path in _paths()})


def load_target(name: str, device: str = "cpu") -> Target:
    """The target of that name, alias or path; `host` is this machine's `device` as `ridge calibrate` left it."""
    path = _file(name)
    if path is not None:
        return _read(path)
    if name == HOST:
        return _calibrated(HOST, device)
    for candidate in _paths():
        if name in (_stem(candidate), candidate.name.removesuffix(".toml")):
            return _read(candidate)
    for candidate in _paths():
        target = _read(candidate)
        if name in target.aliases or name == target.name:
            return target
    raise UnknownName(
        "target", name, [*target_names(), HOST],
        "or the path of a target file; `ridge calibrate` measures this machine, `ridge calibrate --from FILE.csv` fits a "
        "datasheet target to a sweep",
    )  # fmt: skip


def _stem(path: Path) -> str:
    return path.name.removesuffix(".toml").removesuffix(".calibrated")


def save_target(target: Target, name: str) -> Path:
    """Write `<name>.calibrated.toml` into the user's folder, whole or not at all."""
    folder = data_folder() / "targets"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.calibrated.toml"
    partial = path.with_suffix(".partial")
    partial.write_bytes(encode_target(target))
    partial.replace(path)
    return path


def _file(name: str) -> Path | None:
    try:
        path = Path(name).expanduser()
        return path if name.endswith(".toml") and path.is_file() else None
    except (OSError, RuntimeError, ValueError):  # not a name that this file system can have, or nobody's home
        return None


def _paths() -> list[Path]:
    own = sorted((data_folder() / "targets").glob("*.toml"))
    packaged = Path(str(files("ridgepoint.hardware") / "data"))
    return [*own, *(path for kind in _KINDS for path in sorted((packaged / kind).glob("*.toml")))]


_KINDS = ("gpu", "cpu", "accelerator")
"""Folders of the package that hold targets; the others hold classes, nodes and prices."""


def _calibrated(name: str, device: str) -> Target:
    """The newest calibration of this device: a target of kind gpu for cuda, of any other kind for the CPU."""
    found = sorted((data_folder() / "targets").glob("*.calibrated.toml"), key=lambda p: p.stat().st_mtime)
    for path in reversed(found):
        target = _read(path)
        if (target.kind == "gpu") == (device == "cuda"):
            return target
    command = "ridge calibrate" + (f" --device {device}" if device != "cpu" else "")
    raise UnknownName("target", name, target_names(), f"this machine is not calibrated yet: run `{command}`")


def _read(path: Path) -> Target:
    try:
        stat = path.stat()
    except OSError as error:
        raise BadInput(f"target {path}: cannot be read: {error.strerror}") from None
    return _read_once(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=256)
def _read_once(path: Path, changed_ns: int, size: int) -> Target:
    """The target in the file as it was last changed: who asks for an alias, or a name that nothing has, reads them all."""
    if size > _MAX_BYTES:
        raise BadInput(f"target {path}: {size} bytes are too many; at most {_MAX_BYTES}")
    try:
        text = path.read_bytes()
    except OSError as error:
        raise BadInput(f"target {path}: cannot be read: {error.strerror}") from None
    return decode_target(str(path), text)
