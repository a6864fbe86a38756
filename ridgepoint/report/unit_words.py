"""Steps, weights, metrics and definitions in the unit of their model: tokens, rows of a layer, or items of a module."""

from ridgepoint.report.words import clean
from ridgepoint.result import METRICS, Value
from ridgepoint.study.document import Bet
from ridgepoint.study.units import Unit, unit_of

__all__ = [
    "beside_weights", "bet_definitions", "metric_definition", "metric_label", "metric_method", "step_words",
    "weights_words",
]  # fmt: skip

_BET_DEFINITIONS = {
    "speed-up": "speedup.v1: time per {one} of A / time per {one} of B at the same batch; above 1, B is faster",
    "predicted interval": "interval.v1: 80 %, from the errors of the calibration at points it was not fitted to",
    "measured interval": "paired.v1: 95 %, over interleaved rounds of A and B",
    "error": "error.v1: predicted / measured - 1",
    "flip": "flip.v1: batch where the speed-up crosses 1, log interpolated, between points over 5 % from it",
    "ceiling": "ceiling.v1: Amdahl, speed-up if the operators that differ took no time at all",
    "roofline": "roofline.v1: max(FLOPs / peak, bytes / bandwidth) per operator, summed: the yardstick",
}


def bet_definitions(model: str) -> dict[str, str]:
    """What each figure of an answer means, with the id of the definition."""
    unit = unit_of(model)
    ours = {name: words.format(one=unit.removesuffix("s")) for name, words in _BET_DEFINITIONS.items()}
    return ours | {metric_label(name, unit): metric_definition(name, unit) for name in METRICS}


def metric_label(name: str, unit: Unit) -> str:
    """`"items/s"` for tokens_per_s of a module."""
    return METRICS[name].label.replace("tokens", unit) if name in METRICS else name


def metric_definition(name: str, unit: Unit) -> str:
    """The definition with its id; a module and a single layer have no KV cache."""
    words = METRICS[name].definition
    if unit == "tokens":
        return words
    return words.replace("new tokens", unit).replace(" + KV cache", "")


def metric_method(value: Value, unit: Unit) -> str:
    """How the value was found."""
    return value.method if unit == "tokens" else value.method.replace("tokens", unit).replace(" KV cache,", "")


def step_words(bet: Bet) -> str:
    """What one step is: `"decode with 512 cached tokens"`, `"one forward pass over the items of the batch"`."""
    unit = unit_of(bet.model)
    if unit != "tokens":
        return f"one forward pass over the {unit} of the batch"
    if bet.phase == "decode":
        return f"decode with {bet.context} cached tokens" if bet.context else "one token per sequence"
    cached = f" on {bet.context} cached" if bet.context else ""
    return f"{clean(bet.phase)} of {bet.new} tokens{cached}"


def weights_words(bet: Bet) -> str:
    """Whose weights were run; those of a module are what the user's function makes of it."""
    if unit_of(bet.model) == "items":
        return "the weights that your function builds"
    return "random weights" if bet.random_weights else "the checkpoint's weights"


def beside_weights(bet: Bet) -> str:
    """What else a step holds in memory."""
    if bet.phase == "train":
        return "gradients, optimizer and activations"
    return "KV cache and activations" if unit_of(bet.model) == "tokens" else "activations"
