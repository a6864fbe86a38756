"""How long the tool itself takes: import, help, one prediction, and a sweep (CPU seconds, best of several).

python benchmarks/fast.py
"""

import resource
import subprocess
import sys
import time

import numpy as np

from ridgepoint import load_model, load_target
from ridgepoint.choice import resolve
from ridgepoint.prediction import predict, step_time
from ridgepoint.workload import decode

RUNS = 7


def main() -> None:
    """Print each figure beside its bound."""
    print(f"import ridgepoint       {child_seconds('import ridgepoint'):.3f} s CPU   (bound 0.2)")
    print(f"ridge --help            {child_seconds(HELP):.3f} s CPU   (bound 0.3)")
    target, model = load_target("host"), load_model("smollm2-135m")
    side = resolve("int4", model.dtype)
    one = best(lambda: predict(side.plan(model, decode(4, 128)), target))
    print(f"one prediction          {1e3 * one:.2f} ms CPU   (bound 10)")
    batches, contexts = np.arange(1.0, 257.0)[:, None], np.arange(16.0, 4096.0, 16.0)[None, :]
    sweep = best(lambda: step_time(side.plan(model, decode(batches, contexts)), target), 3)
    print(
        f"sweep of {batches.size * contexts.size} points    {batches.size * contexts.size / sweep:,.0f} configurations/s"
    )


HELP = (
    "import sys; sys.argv = ['ridge', '--help']; from ridgepoint.cli import main\ntry: main()\nexcept SystemExit: pass"
)


def child_seconds(code: str) -> float:
    """CPU seconds of a fresh interpreter that runs `code`, less those of an empty one; the best of RUNS."""
    return min(cpu(code) for _ in range(RUNS))


def cpu(code: str) -> float:
    """User and system seconds of one child."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def best(call, runs: int = 20) -> float:
    """Smallest CPU seconds of a call, after a warm-up."""
    call()
    times = []
    for _ in range(runs):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return min(times)


if __name__ == "__main__":
    main()
