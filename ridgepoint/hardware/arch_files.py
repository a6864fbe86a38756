"""Where architecture classes live: the user's data folder first, then the package."""

from functools import cache
from importlib.resources import files
from pathlib import Path

from ridgepoint.errors import BadInput, UnknownName
from ridgepoint.hardware.arch import Arch, decode_arch, encode_arch
from ridgepoint.hardware.catalogue import data_folder

__all__ = ["arch_names", "load_arch", "save_arch"]


def arch_names() -> list[str]:
    """Names of all classes, the user's own included."""
    return sorted({path.stem for folder in _folders() for path in folder.glob("*.toml")})


def load_arch(name: str) -> Arch:
    """The class of that name; UnknownName naming the nearest."""
    for folder in _folders():
        path = folder / f"{name}.toml"
        if name and "/" not in name and path.is_file():
            return _read(path, path.stat().st_mtime_ns)
    raise UnknownName("architecture class", name, arch_names())


def save_arch(arch: Arch, folder: Path) -> Path:
    """Write `<name>.toml` into the folder, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{arch.name}.toml"
    partial = path.with_suffix(".partial")
    partial.write_bytes(encode_arch(arch))
    partial.replace(path)
    return path


def _folders() -> tuple[Path, Path]:
    return data_folder() / "arch", Path(str(files("ridgepoint.hardware") / "data" / "arch"))


@cache
def _read(path: Path, _changed: int) -> Arch:
    try:
        return decode_arch(path.stem, path.read_bytes())
    except OSError as error:
        raise BadInput(f"architecture class {path}: cannot be read: {error.strerror}") from None
