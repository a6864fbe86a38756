"""Laws of time: what a kernel costs on a machine as a short sum of physical terms, fitted by a calibration.

A law holds coefficients, evaluates for scalars or arrays, and knows its own relative error `sigma` (the standard
deviation of the log error at calibration points that the fit did not see).
"""

import msgspec
import numpy as np
import numpy.typing as npt

from ridgepoint.quantity import Array

__all__ = [
    "AttentionLaw",
    "LaunchLaw",
    "LinearLaw",
    "PointwiseLaw",
    "ResidencyLaw",
    "ScalingLaw",
    "block_pairs",
    "decode_terms",
    "filled_rows",
    "guesses",
    "linear_terms",
    "lines_used",
    "prefill_terms",
    "sparse_terms",
]

Rows = tuple[tuple[float, ...], ...]
WIDE_N = 4096
"""Output width beyond which some GEMM libraries switch to a costlier blocking; the law has a term for the excess."""


LONG_K = (512, 1024)
"""Row lengths at which kernels change how they block k, and prefetchers how well they follow the rows."""


def linear_terms(n: Array, k: Array) -> tuple[Array, ...]:
    """1 (call); weights n·k, apart for k up to 512, from there to 1024, and beyond; n (rows: output, scales, prefetch
    restarts); k (inputs); (n - 4096)⁺·k (wide)."""
    n, k = np.asarray(n, float), np.asarray(k, float)
    short, long = LONG_K
    weights = (np.minimum(k, short), np.clip(k - short, 0, long - short), np.maximum(k - long, 0))
    ones = np.ones(np.broadcast(n, k).shape)
    return (ones, *(n * part for part in weights), n + 0 * k, k + 0 * n, np.maximum(n - WIDE_N, 0) * k)


def sparse_terms(
    m: Array, n: Array, k: Array, density: Array, near_bytes: float, first_bytes: float = 0.0
) -> tuple[Array, ...]:
    """1 (call); weights stored; of them those whose input is not in the near cache, where a block of inputs of all m rows
    (fp32) is larger than it; those whose input is not in the first-level cache, by how much `guesses` are wrong; n (rows); k
    (inputs, transposed); 0. In the places of `linear_terms`. `first_bytes` 0: unknown, the fourth is 0."""
    n, k, m = np.asarray(n, float), np.asarray(k, float), filled_rows(m)
    stored, held = n * k * density, 4.0 * k * m
    far = np.maximum(1.0 - near_bytes / held, 0.0)
    beyond = np.maximum(1.0 - first_bytes / held, 0.0) * guesses(lines_used(m, density)) if first_bytes else 0.0
    ones = np.ones(np.broadcast(n, k, m, density).shape)
    return (ones, stored * ones, stored * far, stored * beyond, n * ones, k * ones, 0.0 * ones)


def lines_used(m: Array, density: Array) -> Array:
    """Share of the cache lines (64 bytes) of m rows of fp32 inputs, transposed, that a row of random sparse weights reads."""
    columns = np.maximum(64.0 / (4.0 * np.asarray(m, float)), 1.0)
    return 1.0 - (1.0 - np.asarray(density, float)) ** columns


def guesses(used: Array) -> Array:
    """How wrong a prefetcher guesses where a share `used` of the lines is read, in order: u²(1-u)³ over its greatest value, at
    2/5. It takes two lines in a row to start it, and what it fetches in vain is what is skipped. A description of what was
    measured (docs/sparsity.md), not of a known circuit: `benchmarks/prefetcher.py` sweeps the exponents."""
    used = np.asarray(used, float)
    return used**2 * (1.0 - used) ** 3 / (0.4**2 * 0.6**3)


def filled_rows(m: Array) -> Array:
    """Rows that a kernel of sparse rows computes: 1, 2, 4, 8, 16, 24… (`kernels.csr`)."""
    m = np.asarray(m, float)
    return np.where(m <= 2, m, np.where(m <= 4, 4.0, np.ceil(m / 8.0) * 8.0))


def decode_terms(tasks: Array, context: Array, head_dim: Array, kv_elements: Array) -> tuple[Array, ...]:
    """1 (call), tasks (batch x heads), task-keys, task-keys x head_dim (products), K and V elements read, those x head_dim
    (some kernels block a wide head worse)."""
    tasks, context, d = np.asarray(tasks, float), np.asarray(context, float), np.asarray(head_dim, float)
    ones = np.ones(np.broadcast(tasks, context, d).shape)
    kv = np.asarray(kv_elements, float) * ones
    return (ones, tasks * ones, tasks * context * ones, tasks * context * d, kv, kv * d)


def prefill_terms(tasks: Array, new: Array, pairs: Array, head_dim: Array) -> tuple[Array, ...]:
    """1 (call), task-rows, task-rows x head_dim, query-key pairs (softmax), pairs x head_dim (products)."""
    tasks, new, pairs, d = (np.asarray(x, float) for x in (tasks, new, pairs, head_dim))
    ones = np.ones(np.broadcast(tasks, new, pairs, d).shape)
    return (ones, tasks * new * ones, tasks * new * d, pairs * ones, pairs * d)


def block_pairs(new: Array, keys: Array, window: int = 0, block: int = 128) -> npt.NDArray[np.float64]:
    """Query-key pairs of one head that FlexAttention computes for `new` tokens behind `keys` - `new` cached ones: every block of
    `block` x `block` of which a pair is seen, whole (arXiv 2412.05496, section 3.2). `window` 0: all keys before a token."""
    new, keys = np.broadcast_arrays(np.asarray(new, float), np.asarray(keys, float))
    total = np.zeros(new.shape)
    for first in range(0, int(new.max()), block):
        last_key = np.minimum(keys - new + first + block, keys)  # of the block's last token, and one
        first_key = np.maximum(keys - new + first + 1 - window, 0) if window else np.zeros(new.shape)
        blocks = np.ceil(last_key / block) - np.floor(first_key / block)
        total = total + np.where(first < new, blocks * block * block, 0.0)
    return total


class LinearLaw(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Seconds of y[m, n] = x[m, k] W by one kernel: at each m of the grid a sum of `linear_terms`, linear in between.

    `cold`: weights come from memory; `hot`: from the last-level cache. [len(m)][7] seconds per term.
    """

    kernel: str
    rung: str
    """"dense", "naive" or "packed": its place on the format's kernel ladder; "ort": ONNX Runtime's, taken only by name."""
    format: str
    act: str
    threads: int
    m: tuple[float, ...]
    cold: Rows
    hot: Rows
    sigma: float
    source: str
    composed: float = 1.0
    """Factor by which the kernel is slower inside a network than on its own (from composed calibration nets)."""
    cold_code_s: float = 0.0
    """Added to a call whose code has left the last-level cache since the last one."""
    sigma_composed: float = 0.0
    n_multiple: int = 1
    k_multiple: int = 1
    """Shapes that the kernel takes."""
    near_bytes: float = 0.0
    """Of sparse rows, whose terms are `sparse_terms`: the cache that is near enough to gather inputs from. 0: a dense layer."""
    first_bytes: float = 0.0
    """Of sparse rows: the first-level cache. 0: unknown."""
    displaced_m: tuple[float, ...] = (1.0,)
    displaced: tuple[float, ...] = (1.0,)
    """Bytes of a shared cache that a call displaces per byte of its weights, by rows: packing writes a second copy."""

    def displacement(self, m: Array) -> npt.NDArray[np.float64] | float:
        """`displaced` at m rows, interpolated in log m, constant beyond the ends."""
        return np.interp(np.log(np.maximum(m, 1.0)), np.log(np.asarray(self.displaced_m)), self.displaced)

    def seconds(self, m: Array, n: Array, k: Array, miss: Array, code_miss: Array = 0.0, density: Array = 1.0) -> Array:
        """Time of one call; `miss` and `code_miss` in [0, 1]: shares of weights and of code that left the cache; `density`:
        share of the weights that sparse rows store."""
        terms = linear_terms(n, k)
        if self.near_bytes:
            m, terms = filled_rows(m), sparse_terms(m, n, k, density, self.near_bytes, self.first_bytes)
        cold, hot = self._at(m, self.cold, terms), self._at(m, self.hot, terms)
        return self.composed * (hot + miss * np.maximum(cold - hot, 0.0) + code_miss * self.cold_code_s)

    def _at(self, m: Array, rows: Rows, terms: tuple[Array, ...]) -> Array:
        table = np.asarray(rows)
        grid = np.asarray(self.m)
        m = np.asarray(m, float)
        right = np.clip(np.searchsorted(grid, m), 1, len(grid) - 1)
        weight = (m - grid[right - 1]) / (grid[right] - grid[right - 1])
        # Each side of the bracket is evaluated and then joined, so that the result is linear in m at fixed n and k.
        low = sum(table[right - 1, i] * term for i, term in enumerate(terms))
        high = sum(table[right, i] * term for i, term in enumerate(terms))
        value = low + weight * (high - low)
        if self.near_bytes:  # beyond the grid each row more costs what each of the last did
            value = np.where(m > grid[-1], high * m / grid[-1], value)
        return np.maximum(value, np.where(m > grid[-1], high, 0.0))


class AttentionLaw(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Seconds of scaled dot-product attention by one kernel: one sum of terms for decode, one for prefill."""

    kernel: str
    dtype: str
    threads: int
    decode: tuple[float, ...]
    prefill: tuple[float, ...]
    sigma: float
    source: str
    cold_code_s: float = 0.0
    composed: float = 1.0
    sigma_composed: float = 0.0


class PointwiseLaw(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Seconds of a pointwise operator: per call, per row, per element."""

    kind: str
    dtype: str
    threads: int
    terms: tuple[float, float, float]
    sigma: float
    source: str
    cold_code_s: float = 0.0
    cold_element_s: float = 0.0
    """Added per element to such a call: its temporaries have left the cache too."""
    far_element_s: float = 0.0
    """Added per element that is not in the last-level cache because the tensors are too large."""
    composed: float = 1.0
    sigma_composed: float = 0.0

    def seconds(self, rows: Array, cols: Array, code_miss: Array = 0.0, far: Array = 0.0) -> Array:
        """Time of one call on [rows, cols]; `code_miss` as in LinearLaw; `far`: share of its elements in memory."""
        call, row, element = self.terms
        rows = np.asarray(rows, float)
        elements = rows * cols
        warm = call + row * rows + element * elements
        cold = code_miss * (self.cold_code_s + self.cold_element_s * elements)
        return self.composed * (warm + cold) + far * self.far_element_s * elements


class ResidencyLaw(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Share of bytes that miss the last-level cache: measured, not assumed LRU.

    Of weights, read in turn: by the bytes that a whole turn displaces (the working set). Of code: by the bytes that are
    displaced between two calls; a line that is read again survives longer than one that is streamed by.
    """

    working_set_bytes: tuple[float, ...]
    miss: tuple[float, ...]
    source: str

    def miss_share(self, working_set_bytes: Array) -> npt.NDArray[np.float64] | float:
        """Interpolated in the logarithm of the working set; constant beyond the ends."""
        grid = np.log(np.asarray(self.working_set_bytes))
        return np.interp(np.log(np.maximum(working_set_bytes, 1.0)), grid, self.miss)


class ScalingLaw(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Speed-up of `threads` threads over one, by subject (a kernel, `attention` or `pointwise`) and rows m."""

    subject: str
    threads: int
    m: tuple[float, ...]
    speedup: tuple[float, ...]
    source: str

    def at(self, m: Array) -> npt.NDArray[np.float64] | float:
        """Interpolated in log m; constant beyond the ends."""
        return np.interp(np.log(np.maximum(m, 1.0)), np.log(np.asarray(self.m)), self.speedup)


class LaunchLaw(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Host seconds that one eager call of an operator takes on a GPU machine, whatever its shape.

    `subject`: a linear kernel, `attention <kernel>`, a pointwise kind, or `between` (see `prediction.launch`).
    """

    subject: str
    dtype: str
    seconds: float
    sigma: float
    source: str
