"""Killed, interrupted or out of memory: every finished point is there, and the same command goes on."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ridgepoint.store import Record, Store

DATA = Path(__file__).parent / "data"
MODEL, TARGET = str(DATA / "tiny-llama.json"), str(DATA / "test-target.calibrated.toml")
BATCHES = (1, 2, 4, 8, 16, 32)
PATIENCE_S = 60.0


class Run:
    """`ridge why … --json` as a process in a session of its own, with its store and its measuring child in view."""

    def __init__(self, home: Path, seconds: float = 0.4):
        words = ["why", MODEL, "fp32..bf16", "--on", TARGET, "--isl", "16", "--points", "all", "--json"]
        self.path = home / "ridge.db"
        self.process = subprocess.Popen(
            [sys.executable, "-c", "from ridgepoint.cli import main; main()", *words, "--seconds", str(seconds),
             "--batch", ",".join(map(str, BATCHES))],
            env={**os.environ, "RIDGEPOINT_HOME": str(home)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            start_new_session=True,
        )  # fmt: skip

    def records(self, kind: str) -> list[Record]:
        """What its store holds right now."""
        if not self.path.exists():
            return []
        with Store(self.path) as store:
            return store.records(kind=kind)

    def wait_for(self, what: Callable[[], Any]) -> Any:
        """The first truth of `what()`."""
        until = time.monotonic() + PATIENCE_S
        while time.monotonic() < until:
            if found := what():
                return found
            assert self.process.poll() is None, f"it ended before: {self.process.communicate()}"
            time.sleep(0.01)
        raise AssertionError("it took too long")

    def child(self) -> int | None:
        """Process id of the measuring child."""
        return next(iter(children(self.process.pid)), None)

    def finish(self) -> tuple[int, str, str]:
        """Exit code, standard output, standard error."""
        out, err = self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode, out, err

    def end(self) -> None:
        """Kill what is left."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()


def processes() -> dict[int, tuple[int, str]]:
    """Process id -> (parent's id, state), zombies left out."""
    lines = subprocess.run(["ps", "-A", "-o", "pid=,ppid=,stat="], capture_output=True, text=True, check=True).stdout
    rows = [line.split() for line in lines.splitlines()]
    return {int(pid): (int(parent), state) for pid, parent, state in rows if not state.startswith("Z")}


def children(parent: int) -> list[int]:
    return [pid for pid, (of, _) in processes().items() if of == parent]


def ends(pid: int) -> bool:
    """Whether that process ends within ten seconds; it is killed if not."""
    until = time.monotonic() + 10
    while pid in processes():
        if time.monotonic() > until:
            os.kill(pid, signal.SIGKILL)
            return False
        time.sleep(0.02)
    return True


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Run]]:
    """Starts runs in one home; none of them outlives the test."""
    runs: list[Run] = []

    def begin(**options: Any) -> Run:
        runs.append(Run(tmp_path, **options))
        return runs[-1]

    yield begin
    for run in runs:
        run.end()


def batches(records: list[Record]) -> list[int]:
    return [r.body["point"]["batch"] for r in records]


def test_killed_before_the_first_point_the_bet_is_there_and_is_taken_up(start):
    run = start()
    run.wait_for(lambda: run.records("bet"))
    child = run.wait_for(run.child)
    run.process.kill()
    run.finish()
    (bet,) = run.records("bet")
    assert bet.body["bet"]["grid"] == list(BATCHES)
    assert run.records("point") == run.records("answer") == []
    with Store(run.path) as store:
        assert store.digest_of(bet.id) == bet.digest
    assert ends(child), "the measuring child outlived its parent"


def test_a_child_whose_parent_is_gone_already_does_not_begin():
    worker = [sys.executable, "-m", "ridgepoint.measurement.worker", "1"]
    with subprocess.Popen(worker, stdin=subprocess.PIPE) as child:  # an open pipe: it would wait for requests
        assert child.wait(timeout=PATIENCE_S) == 1


PARENT = """
import os, subprocess, sys, time
worker = [sys.executable, "-m", "ridgepoint.measurement.worker", str(os.getpid())]
print(subprocess.Popen(worker, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).pid, flush=True)
time.sleep(1)
"""


def test_a_child_ends_with_its_parent_whatever_it_does():
    read, write = os.pipe()  # stays open here, so that the end of its input is not what ends the child
    parent = subprocess.run([sys.executable, "-c", PARENT], stdin=read, capture_output=True, text=True, check=True)
    assert ends(int(parent.stdout))
    os.close(read)
    os.close(write)


def test_killed_after_a_point_it_goes_on_with_the_rest(start):
    run = start()
    run.wait_for(lambda: run.records("point"))
    child = run.child()
    run.process.kill()
    run.finish()
    assert ends(child), "the measuring child outlived its parent"
    (bet,) = run.records("bet")
    kept = run.records("point")
    assert 1 <= len(kept) < len(BATCHES)
    assert run.records("answer") == []

    again = start()
    code, out, err = again.finish()
    assert code == 0, err
    answer = json.loads(out)
    assert (answer["id"], answer["digest"]) == (bet.id, bet.digest)
    assert [b.id for b in again.records("bet")] == [bet.id]
    assert sorted(batches(again.records("point"))) == list(BATCHES), "each point is measured once"
    assert again.records("point")[: len(kept)] == kept
    assert [p["batch"] for p in answer["points"]] == list(BATCHES)
    assert {r.id for r in kept} <= {p["record"] for p in answer["points"]}
    assert answer["complete"] is True


def test_ctrl_c_prints_what_is_known_and_the_same_command_goes_on(start):
    run = start()
    run.wait_for(lambda: run.records("point"))
    child = run.child()
    os.killpg(run.process.pid, signal.SIGINT)  # as a terminal does: to the whole foreground group
    code, out, err = run.finish()
    assert code == 130
    assert "Traceback" not in err
    assert err.splitlines()[-1] == "ridge: interrupted"
    assert ends(child)
    known = json.loads(out)
    kept = run.records("point")
    assert known["complete"] is False
    assert known["flags"][0].startswith("interrupted")
    assert sorted(p["record"] for p in known["points"]) == [r.id for r in kept]
    assert known["verdict"].startswith("bf16: ") and "not measured" not in known["verdict"]
    (answer,) = run.records("answer")
    assert answer.study == known["id"] and answer.body["answer"] == known
    assert answer.body["flags"] == known["flags"]

    again = start()
    code, out, err = again.finish()
    assert code == 0, err
    whole = json.loads(out)
    assert (whole["id"], whole["complete"]) == (known["id"], True)
    assert sorted(batches(again.records("point"))) == list(BATCHES), "each point is measured once"
    assert not any(flag.startswith("interrupted") for flag in whole["flags"])


@pytest.mark.slow
def test_a_child_killed_in_a_point_is_a_recorded_failure_and_the_rest_goes_on(start):
    run = start(seconds=0.8)
    run.wait_for(lambda: run.records("point"))
    child = run.child()
    os.kill(child, signal.SIGKILL)  # as the kernel does when memory runs out
    code, out, err = run.finish()
    assert code == 0, err
    assert "Traceback" not in err
    answer = json.loads(out)
    (failure,) = run.records("failure")
    assert failure.study == answer["id"]
    assert len(run.records("point")) == len(BATCHES) - 1
    (missing,) = [p for p in answer["points"] if p["measured_speedup"] is None]
    assert [p["batch"] for p in answer["points"]] == list(BATCHES)
    assert missing["record"] == failure.id
    assert "killed, as the kernel does when memory runs out" in missing["flags"][0]
    assert any(flag.startswith(f"bf16 at batch {missing['batch']}: ChildDied") for flag in answer["flags"])
    assert missing["predicted_speedup"] > 0
