"""What all tests share: an isolated home, repeatable examples, one torch thread, and the data beside the checkout."""

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parent.parent

settings.register_profile("ci", derandomize=True, deadline=None, database=None, print_blob=True)
settings.register_profile("dev", deadline=None)
settings.load_profile("ci" if os.environ.get("CI") else "dev")


@pytest.fixture(scope="session")
def shared() -> Path:
    """Published measurements, texts and traces, where they lie beside the checkout."""
    path = ROOT.parent / "shared"
    if not (path / "DESIGN.md").is_file():
        pytest.skip("needs ../shared beside the checkout")
    return path


@pytest.fixture(autouse=True)
def isolated_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test reads or writes the user's calibrations and records."""
    home = tmp_path_factory.mktemp("ridgepoint-home")
    monkeypatch.setenv("RIDGEPOINT_HOME", str(home))
    return home


@dataclass(frozen=True)
class Ran:
    """What a command left: its exit code and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def complaint(self) -> str:
        """The one line on standard error of a refused command."""
        lines = [line for line in self.err.splitlines() if line.strip()]
        assert len(lines) == 1, f"one line, not {len(lines)}:\n{self.err}"
        assert lines[0].startswith("ridge: ")
        assert "Traceback" not in self.err
        return lines[0]


Ridge = Callable[..., Ran]


@pytest.fixture
def ridge(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Ridge:
    """Runs a command in this process; an exception that would be a traceback fails the test."""

    from ridgepoint.cli import main

    def run(*words: object) -> Ran:
        monkeypatch.setattr(sys, "argv", ["ridge", *map(str, words)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            main()
        out, err = capfd.readouterr()
        return Ran(int(stop.value.code or 0), out, err)

    return run


@pytest.fixture(autouse=True)
def one_torch_thread() -> Iterator[None]:
    """One thread in tests that already imported torch; nothing imports it for them."""
    torch = sys.modules.get("torch")
    if torch is None or not hasattr(torch, "set_num_threads"):
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests marked `gpu` skip with the reason where there is no CUDA device."""
    if item.get_closest_marker("gpu") is None:
        return
    torch = pytest.importorskip("torch", reason="needs a CUDA device, and torch is not installed")
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device; torch sees none")
