"""Where targets live: the user's data folder first, then the package; a path is taken as it is."""

import os
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
    return Path(os.environ.get("RIDGEPOINT_HOME") or platformdirs.user_data_dir("ridgepoint"))


def target_names() -> list[str]:
    """Names of all targets, the user's own included."""
    return sorted({path.name.removesuffix(".toml") for path in _paths()})


def load_target(name: str) -> Target:
    """The target of that name, alias or path; `host` is this machine as `ridge calibrate` left it."""
    path = Path(name).expanduser()
    if name.endswith(".toml") and path.is_file():
        return _read(path)
    if name == HOST:
        return _read(_calibrated(HOST))
    for candidate in _paths():
        if candidate.name.removesuffix(".toml") == name:
            return _read(candidate)
    for candidate in _paths():
        target = _read(candidate)
        if name in target.aliases or name == target.name:
            return target
    raise UnknownName(
        "target", name, [*target_names(), HOST], "or the path of a target file; `ridge calibrate` makes one"
    )


def save_target(target: Target, name: str) -> Path:
    """Write `<name>.calibrated.toml` into the user's folder, whole or not at all."""
    folder = data_folder() / "targets"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.calibrated.toml"
    partial = path.with_suffix(".partial")
    partial.write_bytes(encode_target(target))
    partial.replace(path)
    return path


def _paths() -> list[Path]:
    own = sorted((data_folder() / "targets").glob("*.toml"))
    packaged = Path(str(files("ridgepoint.hardware") / "data"))
    return [*own, *sorted(packaged.rglob("*.toml"))]


def _calibrated(name: str) -> Path:
    found = sorted((data_folder() / "targets").glob("*.calibrated.toml"), key=lambda p: p.stat().st_mtime)
    if not found:
        raise UnknownName("target", name, target_names(), "this machine is not calibrated yet: run `ridge calibrate`")
    return found[-1]


def _read(path: Path) -> Target:
    if path.stat().st_size > _MAX_BYTES:
        raise BadInput(f"target {path}: {path.stat().st_size} bytes are too many; at most {_MAX_BYTES}")
    return decode_target(path.name, path.read_bytes())
