"""A batch curve as one page that stands alone: the answer, throughput against latency, the figures, and how they came."""

from ridgepoint.quantity import show_bytes, show_time
from ridgepoint.report.batch_words import (
    energy_words,
    error_words,
    gains,
    knee_mark,
    loss_words,
    mean_error_words,
    measured_words,
    method_words,
    mfu_words,
    point_at,
    question_words,
    slo_mark,
    slo_words,
    span_words,
    unit,
    wall_words,
)
from ridgepoint.report.charts_batch import decision_chart, latency_chart, memory_chart, throughput_chart
from ridgepoint.report.html import page
from ridgepoint.report.machine_words import machine_facts
from ridgepoint.report.markup import cell, escaped, fact_list, figure, legend, scrolling_table
from ridgepoint.report.unit_words import step_words, weights_words
from ridgepoint.report.words import ABSENT
from ridgepoint.study.batch.bet import rate_words
from ridgepoint.study.batch.document import BatchAnswer

__all__ = ["batch_html"]


def batch_html(answer: BatchAnswer) -> str:
    """The page. The same answer gives the same text; nothing is requested from anywhere and nothing is run."""
    sections = (_head(answer), _pictures(answer), _figures(answer), _memory(answer), _method(answer), _flags(answer))
    return page(question_words(answer.bet), sections)


def _head(answer: BatchAnswer) -> str:
    bet = answer.bet
    step = step_words(bet)  # type: ignore[arg-type]
    about = f"{step[0].upper()}{step[1:]}, with {weights_words(bet)}, on {bet.device} of {bet.target}."  # type: ignore[arg-type]
    cards = [
        _card(
            "knee",
            f"batch {answer.knee.batch}",
            _ends(answer.knee.low, answer.knee.high),
            f"predicted {bet.knee.batch}",
        )
    ]
    if answer.slo is not None and bet.slo is not None:
        slo, least = answer.slo, "≥ " if answer.slo.at_end else ""
        largest = f"batch {least}{slo.batch}" if slo.batch else "no batch"
        foretold = f"predicted {_ends(bet.slo.low, bet.slo.high)}"
        cards.append(_card(f"{slo.metric} ≤ {show_time(slo.bound_s)}", largest, _ends(slo.low, slo.high), foretold))
    if bet.wall is not None:
        ends = f"beyond {bet.wall.batch}" if bet.wall.searched else f"batch {bet.wall.batch}"
        ran = f"ran out at {answer.ran_out_at}" if answer.ran_out_at else "predicted"
        cards.append(_card("memory ends", ends, show_bytes(bet.wall.room_bytes), ran))
    return (
        f'<header>\n<p class="kicker">Ridgepoint · a batch curve · {escaped(answer.created[:10])}</p>\n'
        f"<h1>{escaped(question_words(bet))}</h1>\n"
        f'<div class="verdict"><p>{escaped(answer.verdict)}</p></div>\n'
        f'<p class="soft">Stated before measuring: “{escaped(bet.statement)}”. {escaped(about)}</p>\n</header>\n'
        f'<div class="cards">{"".join(cards)}</div>'
    )


def _card(title: str, big: str, ends: str, beside: str) -> str:
    body = f'<div class="big"><div><span>{escaped(ends)}; {escaped(beside)}</span><b>{escaped(big)}</b></div></div>'
    return f'<section class="card"><h3>{escaped(title)}</h3>{body}</section>'


def _ends(low: int, high: int) -> str:
    return f"{low or 'none'}" if low == high else f"{low or 'none'} to {high}"


def _pictures(answer: BatchAnswer) -> str:
    keys = [
        ("line", "prediction and measurements, weighed by their errors"), ("seen", "as measured"), ("hollow", "not measured"),
        ("aline", "as predicted before"), ("band", "80 % interval"), ("ring", "knee"),
        ("equal-key", "equal throughput / latency"), ("wall-key", "memory ends"),
    ]  # fmt: skip
    keys += [("bound-key", "the SLO")] if answer.slo else []
    wall = f"Memory ends {escaped(wall_words(answer.bet.wall))}."
    return (
        '<h2>Throughput and latency</h2>\n<p class="soft">Up and to the left is better. A batch on the dotted line is as '
        "good as the knee by throughput / latency; a batch twice the knee's gains less than 1.41x throughput and costs more "
        f"than 1.41x latency. All axes are logarithmic. {wall}</p>\n{legend(keys)}\n"
        f'<div class="charts">{figure("Throughput against latency, by batch", decision_chart(answer))}'
        f"{figure(f'{unit(answer.bet)}/s by batch', throughput_chart(answer))}"
        f"{figure('Time of a step by batch', latency_chart(answer))}"
        f"{figure('Memory of a step by batch', memory_chart(answer))}</div>"
    )


def _figures(answer: BatchAnswer) -> str:
    bet = answer.bet
    head = ["batch", "predicted", "80 %", "measured", "error", "step", "80 %", f"{unit(bet)}/s", "x2 gains", "knee"]
    head += ["SLO"] if answer.slo else []
    head += ["MFU"] if bet.curve.flops else []
    rows = []
    for i, gain in enumerate(gains([p.seconds for p in answer.curve], bet.grid)):
        p = answer.curve[i]
        seen = point_at(answer, p.batch)
        words = [
            str(p.batch), show_time(bet.curve.seconds[i]), span_words(bet.curve.low[i], bet.curve.high[i]),
            measured_words(p, seen), error_words(seen), show_time(p.seconds), span_words(p.low, p.high),
            rate_words(p.tokens_per_s), ABSENT if gain is None else f"{gain:.2f}x", knee_mark(answer.knee, p.batch),
        ]  # fmt: skip
        words += [slo_mark(answer.slo, p.low, p.seconds, p.high)] if answer.slo else []
        words += [mfu_words(bet, i, p.seconds)] if bet.curve.flops else []
        rows.append([cell(w) for w in words])
    return f"<h2>The figures</h2>\n{scrolling_table('Step time and throughput by batch', head, rows)}"


def _memory(answer: BatchAnswer) -> str:
    bet = answer.bet
    rows = []
    for i, batch in enumerate(bet.grid):
        seen = point_at(answer, batch)
        counted = show_bytes(seen.memory_bytes) if seen and seen.memory_bytes is not None else ABSENT
        rows.append([cell(str(batch)), cell(show_bytes(bet.curve.memory_bytes[i])), cell(counted)])
    facts = [("memory ends", wall_words(bet.wall)), *(("energy", words) for words in energy_words(answer))]
    facts += [("loss", words) for words in loss_words(answer)]
    facts += [("how loss was measured", answer.loss["definition"])] if answer.loss.get("measured") else []
    table = scrolling_table("Memory of a step", ("batch", "predicted", "counted"), rows)
    return f"<h2>Memory and energy</h2>\n{fact_list(facts)}\n{table}"


def _method(answer: BatchAnswer) -> str:
    bet = answer.bet
    facts = [
        ("order", "the curve was predicted and stored with its hash, then the batches that decide most were measured"),
        ("side", bet.side), ("measured", method_words(answer)), ("error", mean_error_words(answer)),
        ("grid", f"{', '.join(map(str, bet.grid))}; its end: {bet.capped}"),
        *(("SLO, predicted", slo_words(bet.slo, unit(bet))) for _ in range(bet.slo is not None)),  # type: ignore[arg-type]
        *bet.definitions.items(),
        ("target", f"{bet.target}, of {bet.target_date}"),
        *machine_facts({name: answer.machine[name] for name in answer.machine if name not in answer.versions}),
        *((str(name), str(value)) for name, value in sorted(answer.versions.items())),
        ("record", f"{answer.id}, sha256 {answer.digest}"),
    ]  # fmt: skip
    return f"<h2>How it was found</h2>\n{fact_list(facts)}"


def _flags(answer: BatchAnswer) -> str:
    if not answer.flags:
        return ""
    return f'<h2>To keep in mind</h2>\n<ul class="flags">{"".join(f"<li>{escaped(f)}</li>" for f in answer.flags)}</ul>'
