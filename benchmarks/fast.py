"""How long the tool itself takes: import, help, one prediction, and a sweep (CPU seconds, best of several).

python benchmarks/fast.py [--out DIR]
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from record import keep

from ridgepoint import load_model, load_target
from ridgepoint.choice import resolve
from ridgepoint.prediction import predict, step_time
from ridgepoint.workload import decode

RUNS = 7


def main() -> None:
    """Print each figure beside its bound; keep them in `--out`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    target, model = load_target("host"), load_model("smollm2-135m")
    side = resolve("int4", model.dtype)
    batches, contexts = np.arange(1.0, 257.0)[:, None], np.arange(16.0, 4096.0, 16.0)[None, :]
    found = {
        "import_s": child_seconds("import ridgepoint"),
        "help_s": child_seconds(HELP),
        "prediction_ms": 1e3 * best(lambda: predict(side.plan(model, decode(4, 128)), target)),
        "sweep_per_s": batches.size * contexts.size
        / best(lambda: step_time(side.plan(model, decode(batches, contexts)), target), 3),
        "report_s": report_seconds(),
    }  # fmt: skip
    print(f"import ridgepoint       {found['import_s']:.3f} s CPU   (bound 0.2)")
    print(f"ridge --help            {found['help_s']:.3f} s CPU   (bound 0.3)")
    print(f"one prediction          {found['prediction_ms']:.2f} ms CPU   (bound 10)")
    print(f"sweep                   {found['sweep_per_s']:,.0f} configurations/s")
    print(f"report of 500 records   {found['report_s']:.2f} s CPU    (bound 3)")
    if options.out:
        keep(options.out, "fast.json", found)


HELP = (
    "import sys; sys.argv = ['ridge', '--help']; from ridgepoint.cli import main\ntry: main()\nexcept SystemExit: pass"
)


def child_seconds(code: str) -> float:
    """CPU seconds of a fresh interpreter that runs `code`, its own start included; the best of RUNS."""
    return min(cpu(code) for _ in range(RUNS))


def cpu(code: str, environment: dict[str, str] | None = None) -> float:
    """User and system seconds of one child."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, **(environment or {})}, **streams)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def report_seconds(count: int = 500) -> float:
    """CPU seconds of `ridge report --all --html` over a store of that many settled bets, copies of one of this machine."""
    from ridgepoint.store import Provenance, Store, default_path, new_record

    with Store(default_path()) as store, tempfile.TemporaryDirectory() as folder:
        answer = store.records(kind="answer", limit=1)[-1].body["answer"]
        bet = store.records(kind="bet", limit=1)[-1].body["bet"]
        with Store(Path(folder) / "ridge.db") as copy:
            for _ in range(count):
                asked = new_record("bet", {"bet": bet}, Provenance({}, {}, {}))
                copy.append(asked)
                copy.append(new_record("answer", {"answer": answer}, Provenance({}, {}, {}), study=asked.id))
        code = REPORT.format(out=str(Path(folder) / "all.html"))
        return min(cpu(code, {"RIDGEPOINT_HOME": folder}) for _ in range(3))


REPORT = (
    "import sys; sys.argv = ['ridge', 'report', '--all', '--html', {out!r}]; from ridgepoint.cli import main\n"
    "try: main()\nexcept SystemExit: pass"
)


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
