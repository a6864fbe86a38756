"""Whether the safetensors beside a config can be read at all, told from their headers, without torch."""

from pathlib import Path

import msgspec

from ridgepoint.errors import BadInput

__all__ = ["check_weights"]

_INDEX = "model.safetensors.index.json"
_MOST_HEADER = 100_000_000
"""Bytes; the format's own limit (safetensors, "Format")."""


def check_weights(directory: Path) -> None:
    """Refuse a file whose header is no safetensors header, and an index that names files which are not there."""
    for path in sorted(directory.glob("*.safetensors")):
        _check_header(path)
    index = directory / _INDEX
    if not index.is_file():
        return
    try:
        files = set(msgspec.json.decode(index.read_bytes(), type=_Index).weight_map.values())
    except (OSError, msgspec.DecodeError, RecursionError, ValueError) as error:
        raise BadInput(f"{index}: not an index of safetensors files: {error}") from None
    missing = sorted(name for name in files if not _is_file(directory, name))
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise BadInput(f"{directory}: {missing[0][:80]}{more} is missing, though {_INDEX} names it")


def _is_file(directory: Path, name: str) -> bool:
    try:
        return (directory / name).is_file()
    except (OSError, ValueError):  # not a name that this file system can have
        return False


class _Index(msgspec.Struct):
    weight_map: dict[str, str]


def _check_header(path: Path) -> None:
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = file.read(length) if 2 <= length <= min(_MOST_HEADER, size - 8) else b""
        tensors = msgspec.json.decode(header, type=dict[str, dict[str, object]]) if header else None
    except OSError as error:
        raise BadInput(f"{path}: cannot be read: {error.strerror}") from None
    except (msgspec.DecodeError, RecursionError, ValueError):
        tensors = None
    if tensors is None:
        raise BadInput(f"{path}: not a safetensors file; its header cannot be read")
