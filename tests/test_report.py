"""What a person gets to see: tables that fit, charts that hold the figures, a page that stands alone and escapes."""


import msgspec

from ridgepoint.study.document import Answer, Bet, Curve, Flip, Point, SideCard

GRID = (1, 4, 16, 64)
HOSTILE = "<script>alert(1)</script>\"'&[bold red]\x1b[31m\u202e{x}"
ROLES = ("attention.in", "attention", "attention.out", "mlp.in", "mlp.out", "head", "other operators")


def side(
    text: str, spec: str, kernel: str, memory: float, bounds: tuple[dict, dict], shares: tuple[tuple, tuple]
) -> SideCard:
    names = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    return SideCard(
        text=text, spec=spec, kernels={**dict.fromkeys(names, kernel), "lm_head": "F.linear:bf16"}, memory_bytes=memory * 1.3e6,
        weight_bytes=memory * 1e6, bounds=dict(zip(("1", "64"), bounds, strict=True)),
        shares={batch: dict(zip(ROLES, row, strict=True)) for batch, row in zip(("1", "64"), shares, strict=True)},
    )  # fmt: skip


def curve(b: str, speedup: tuple[float, ...], b_s: tuple[float, ...], roofline: tuple[float, ...]) -> Curve:
    return Curve(
        b=b, batch=GRID, speedup=speedup, low=tuple(0.88 * s for s in speedup), high=tuple(1.13 * s for s in speedup),
        a_s=tuple(s * t for s, t in zip(speedup, b_s, strict=True)), b_s=b_s, roofline=roofline, ceiling=(5.1, 4.8, 1e6, 3.3),
    )  # fmt: skip


def point(bet: Bet, which: int, i: int, measured: float | None, verdict: str, **changes) -> Point:
    c = bet.curves[which]
    seen = (
        {}
        if measured is None
        else {"measured_speedup": measured, "measured_low": 0.97 * measured, "measured_high": 1.03 * measured}
    )
    times = {} if measured is None else {"measured_a_s": c.b_s[i] * 0.98 * measured, "measured_b_s": c.b_s[i] * 0.98, "rounds": 24 + i,
                                         "spread": 0.021, "clock": "thread CPU time", "load": "run queue 1.1, CPU 99 % of wall"}  # fmt: skip
    point = Point(
        a=bet.a.text, b=c.b, batch=c.batch[i], predicted_speedup=c.speedup[i], predicted_low=c.low[i], predicted_high=c.high[i],
        measured_speedup=None, measured_low=None, measured_high=None, verdict=verdict, predicted_a_s=c.a_s[i], predicted_b_s=c.b_s[i],
        measured_a_s=None, measured_b_s=None, roofline_speedup=c.roofline[i], record=f"rec{which}{i}",
    )  # fmt: skip
    return msgspec.structs.replace(point, **{**seen, **times, **changes})


def make_answer(model: str = "smollm2-135m", several: bool = True) -> Answer:
    """A plausible answer: int8 and int4 against bf16 on a small model, one point refused, one not run."""
    a = side("bf16", "bf16+threads:1", "F.linear:bf16", 269, ({"memory": 0.86, "dispatch": 0.14}, {"compute": 0.7, "memory": 0.3}),
             ((0.14, 0.03, 0.09, 0.31, 0.15, 0.21, 0.07), (0.13, 0.13, 0.08, 0.28, 0.14, 0.16, 0.08)))  # fmt: skip
    int8 = side("int8", "bf16+int8+threads:1", "torch._weight_int8pack_mm", 163, ({"memory": 0.8}, {"compute": 0.9}),
                ((0.12, 0.05, 0.07, 0.24, 0.12, 0.30, 0.10), (0.2, 0.05, 0.12, 0.34, 0.17, 0.08, 0.04)))  # fmt: skip
    int4 = side("int4", "bf16+int4:g32+threads:1", "torch._weight_int4pack_mm_for_cpu", 113, ({"memory": 0.55, "dispatch": 0.4}, {"compute": 0.95}),
                ((0.09, 0.07, 0.06, 0.19, 0.09, 0.37, 0.13), (0.21, 0.04, 0.13, 0.36, 0.17, 0.06, 0.03)))  # fmt: skip
    curves = (
        curve("int8", (1.62, 1.31, 0.92, 0.55), (0.0121, 0.0184, 0.0479, 0.1722), (1.83, 1.83, 1.8, 1.2)),
        curve("int4", (2.24, 1.55, 0.84, 0.402), (0.0088, 0.0155, 0.0525, 0.2356), (2.9, 2.9, 2.7, 1.4)),
    )
    count = 2 if several else 1
    bet = Bet(
        model=model, random_weights=True, phase="decode", context=512, new=1, grid=GRID, device="cpu", target="host",
        target_date="2026-11-23", machine_id="m1", a=a, b=(int8, int4)[:count], curves=curves[:count],
        flips={"int8": Flip(batch=12.1, low=9, high=17), "int4": Flip(batch=10.4, low=8, high=13)}, tie=0.03,
        statement="int8: 1.62x faster than bf16 at batch 1, 1.8x slower at 64; flips at 12", flags=("weights are random",),
    )  # fmt: skip
    points = [
        point(bet, 0, 0, 1.55, "faster"), point(bet, 0, 1, 1.36, "faster"), point(bet, 0, 2, 0.987, "tie"),
        point(bet, 0, 3, None, "not measured", flags=("MachineBusy: run queue 3.4, wall time is needed",)),
    ]  # fmt: skip
    if several:
        points += [
            point(bet, 1, 0, 2.31, "faster"),
            point(bet, 1, 2, 0.79, "slower"),
            point(bet, 1, 3, 0.437, "slower"),
        ]
    verdict = "int8: 1.55x faster than bf16 at batch 1; flips at 4–16, predicted 12; because it moves 1.9x fewer bytes"
    if several:
        verdict += "\nint4: 2.3x faster than bf16 at batch 1; 2.3x slower at batch 64; flips at 1–16, predicted 10"
    flips = ({"int8": 12.1, "int4": 10.4}, {"int8": 14.8, "int4": 9.2}) if several else (12.1, 14.8)
    return Answer(
        id="01j9zq8c2m5v7x1y3z5b7d9f1h", created="2026-11-23T08:33:36.000000Z", digest="ab12" * 16, bet=bet, points=tuple(points),
        flip_predicted=flips[0], flip_measured=flips[1], accuracy={"measured": False, "reason": "random weights: speed only"},
        energy={"measured": False, "reason": "not measurable here: no counter for this device"}, verdict=verdict,
        flags=("weights are random", "int8 at batch 64: MachineBusy: run queue 3.4"), machine={"cpu": "Xeon, 2 cores", "cores": 2},
        versions={"torch": "2.13.0", "ridgepoint": "0.1.0"},
    )  # fmt: skip
