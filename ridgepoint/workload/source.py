"""Where a model comes from: a catalogue name, a local directory, a bare `config.json`, or a Hugging Face id."""

import logging
import re
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import msgspec

from ridgepoint.errors import BadInput, UnknownName
from ridgepoint.workload.decoder import Decoder
from ridgepoint.workload.encoder import Encoder
from ridgepoint.workload.families import from_config
from ridgepoint.workload.operator import LinearLayer, linear_layer
from ridgepoint.workload.weights import check_weights

__all__ = ["calibration_text", "catalogue_names", "heldout_text", "load_model", "trained_names", "weights_directory"]

_CATALOGUE = tuple(files("ridgepoint.workload") / "data" / kind for kind in ("llm", "encoder"))
_TRAINED = files("ridgepoint.workload") / "data" / "trained"
"""Models that ship with their weights, a directory each, with the text on which they are to be judged."""
_MAX_CONFIG_BYTES = 4 * 2**20
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def catalogue_names() -> list[str]:
    """Names of the models that ship, as a config or with their weights."""
    configs = (
        f.name.removesuffix(".json") for folder in _CATALOGUE for f in folder.iterdir() if f.name.endswith(".json")
    )
    return sorted([*configs, *trained_names()])


def trained_names() -> list[str]:
    """Names of the models that ship with their weights."""
    return sorted(f.name for f in _TRAINED.iterdir()) if _TRAINED.is_dir() else []


def heldout_text(name: str) -> Path | None:
    """The text that a shipped model was not trained on; None for every other model."""
    return Path(str(_TRAINED / name / "heldout.txt")) if name in trained_names() else None


def calibration_text(name: str) -> Path | None:
    """The text that a shipped model's layers may be shown to choose codes by; None for every other model."""
    return Path(str(_TRAINED / name / "calibration.txt")) if name in trained_names() else None


def load_model(name: str) -> Decoder | Encoder | LinearLayer:
    """The model of that name; only its config is read.

    Order: `linear:NxK`, catalogue name, directory with a `config.json`, path of a config, Hugging Face id (`org/name`,
    through the user's own Hugging Face client and cache).
    """
    layer = linear_layer(name)
    if layer is not None:
        return layer
    if name in trained_names():
        return from_config(name, _parse(Path(str(_TRAINED / name / "config.json"))))
    if name in catalogue_names():
        return _from_catalogue(name)
    path = _local(name)
    if path is not None and path.is_dir():
        return from_config(path.name, _parse(path / "config.json"))
    if path is not None:
        return from_config(path.parent.name if path.name == "config.json" else path.stem, _parse(path))
    if _HUB_ID.fullmatch(name) and not name.endswith(".json"):
        return from_config(name, _parse(_hub_config(name)))
    raise UnknownName("model", name, catalogue_names(), "or give a directory, a config.json or a Hugging Face id")


def weights_directory(name: str) -> Path | None:
    """The directory that holds `*.safetensors` for this model, if it is local; None means random weights.

    BadInput where they cannot be read.
    """
    path = Path(str(_TRAINED / name)) if name in trained_names() else _local(name)
    if path is None or not path.is_dir() or not any(path.glob("*.safetensors*")):
        return None
    check_weights(path)
    return path


def _local(name: str) -> Path | None:
    try:
        path = Path(name).expanduser()
        return path if path.is_dir() or path.is_file() else None
    except (OSError, RuntimeError, ValueError):  # not a name that this file system can have, or nobody's home
        return None


@cache
def _from_catalogue(name: str) -> Decoder | Encoder:
    (path,) = (f for folder in _CATALOGUE if (f := folder / f"{name}.json").is_file())
    return from_config(name, _decode(name, path.read_bytes()))


def _parse(path: Path) -> Any:
    if not path.is_file():
        raise BadInput(f"{path.parent}: no config.json there; a model directory needs one")
    if path.stat().st_size > _MAX_CONFIG_BYTES:
        raise BadInput(f"{path}: {path.stat().st_size} bytes are too many for a config; at most {_MAX_CONFIG_BYTES}")
    try:
        return _decode(str(path), path.read_bytes())
    except OSError as error:
        raise BadInput(f"{path}: cannot be read: {error.strerror}") from None


def _decode(name: str, text: bytes) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadInput(f"{name}: not valid JSON: {error}") from None


def _hub_config(repo: str) -> Path:
    try:
        from huggingface_hub import hf_hub_download
    except ImportError:
        raise BadInput(f"{repo!r} looks like a Hugging Face id; to fetch it: pip install 'ridgepoint[hub]'") from None
    logging.getLogger("huggingface_hub").setLevel(logging.CRITICAL)  # its retries are not for a person
    try:
        return Path(hf_hub_download(repo, "config.json"))
    except Exception as error:  # the client raises many kinds; each means that the config is not to be had
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BadInput(f"could not get config.json of {repo!r} from Hugging Face: {reason}") from None
