"""Predictions of the rows of a published table of operators, each with its interval, beside what was measured."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ridgepoint.errors import NotSupported, RidgeError
from ridgepoint.hardware import load_target
from ridgepoint.prediction.physics.device import Device, device_of
from ridgepoint.prediction.physics.found import Stack, find_fit
from ridgepoint.prediction.physics.parameters import read_parameters
from ridgepoint.prediction.physics.spread import Z80, spread_sigma
from ridgepoint.prediction.sheet.linear import alike
from ridgepoint.study.launch_floor import LaunchFloor, with_floor
from ridgepoint.study.published.cells import Cell, cells, measured_seconds
from ridgepoint.study.published.kind import Kind, datasheet_seconds
from ridgepoint.study.published.registry import kind_of
from ridgepoint.study.published.seen import fitted_on
from ridgepoint.study.published.spelling import our_dtypes
from ridgepoint.study.published.table import Floats, Table, Texts

__all__ = ["Scored", "datasheet_device", "score_operators"]


@dataclass(frozen=True)
class Scored:
    """Rows of one file, gpu, dtype and stack: predicted with its interval against measured, in base units of `metric`."""

    file: str
    kind: str
    metric: str
    gpu: str
    dtype: str
    framework: str
    version: str
    regimes: Texts
    models: Texts
    """Language models whose steps the rows are; "" for single operators."""
    lines: Floats
    measured: Floats
    predicted: Floats
    low: Floats
    high: Floats
    roofline: Floats
    """max(FLOPs / peak, bytes / bandwidth) by the datasheet."""
    basis: str
    """Where the parameters come from, in words."""
    steps: tuple[str, ...]
    """Of `STEPS`: in what these rows differ from what the parameters were fitted on."""
    inputs: int = 0
    """Rows that told the launch floor and are therefore not among these."""
    in_sample: bool = False
    """Whether the parameters were fitted on this very file."""


def score_operators(table: Table, floor: LaunchFloor = None) -> Iterator["Scored | RidgeError"]:
    """Every cell of the table, or the refusal that stands in its place (an unknown gpu, a dtype without a fit).

    `floor`: the stack's launch time as an input, instead of the fit's.
    """
    kind = kind_of(table)
    devices: dict[str, Device] = {}
    for cell, rows in cells(kind, table, our_dtypes).items():
        try:
            if cell[0] not in devices:
                devices[cell[0]] = datasheet_device(cell[0])
            yield _scored(kind, cell, devices[cell[0]], rows, floor)
        except RidgeError as error:
            yield error


def _scored(kind: Kind, cell: Cell, device: Device, rows: Table, floor: LaunchFloor) -> Scored:
    gpu, dtype, framework, version, variant = cell
    found = find_fit(device, kind.name, alike(dtype), Stack(framework, version, variant))
    p = read_parameters(kind.model, found.fit.values, f"architecture class {found.arch}")
    inputs = len(rows)
    p, scored, said = with_floor(kind, device, p, dtype, rows, floor)
    rows = rows.take(scored)
    inputs -= len(rows)
    time = kind.seconds(device, p, dtype, rows)
    seconds = np.asarray(time.seconds, float)
    half = np.exp(Z80 * np.hypot(spread_sigma(time, found.fit.spread), found.sigma))
    return Scored(
        file=rows.path.name, kind=kind.name, metric="latency", gpu=gpu, dtype=dtype, framework=framework, version=version,
        regimes=kind.regime(rows), models=np.full(len(rows), ""), lines=rows.lines.astype(float),
        measured=measured_seconds(rows), predicted=seconds, low=seconds / half, high=seconds * half,
        roofline=np.maximum(*datasheet_seconds(kind, device, p, dtype, rows)), basis="; ".join(filter(None, (found.label, said))),
        steps=found.steps, in_sample=fitted_on(found, rows.path, device.name), inputs=inputs,
    )  # fmt: skip


def datasheet_device(gpu: str) -> Device:
    """The device behind a name in a table; UnknownName with the nearest names, NotSupported without a datasheet."""
    target = load_target(gpu)
    if not target.arch:
        raise NotSupported(f"{target.name} was calibrated itself; tables of operators are scored on datasheet targets")
    return device_of(target)
