"""The table of broken promises from its record, `ridge promises --run all --keep benchmarks/records/promises.json`."""

from pathlib import Path

from sheet_figures import read_record

__all__ = ["promise_figures"]


def promise_figures(records: Path) -> dict[str, str]:
    """Name of a figure -> its text; nothing where there is no record, or it measured nothing."""
    from ridgepoint.report.promise_words import markdown_table, score_cells
    from ridgepoint.study.promises.outcome import outcome_from
    from ridgepoint.study.promises.scoring import score

    record = read_record(records, "promises.json")
    outcomes = [outcome_from(o) for o in record["outcomes"]] if record else []
    measured = [o for o in outcomes if not o.on_paper and o.measured]
    if not measured:
        return {}
    rows = score(outcomes)
    found = {
        "promises.table": f"\n\n{markdown_table(outcomes, rows)}\n\n",
        "promises.cases": str(len(measured)),
        "promises.paper": str(sum(o.on_paper for o in outcomes)),
        "promises.points": str(rows[0].points),
    }
    for row in rows:
        _, sign, flat, error, flips = score_cells(row)
        found |= {
            f"promises.{row.by}.{name}": text
            for name, text in (("sign", sign), ("flat", flat), ("error", error), ("flips", flips))
        }
    return found
