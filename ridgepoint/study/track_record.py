"""The errors of earlier bets on this machine, to be shown beside a new one: how far its prediction is to be trusted."""

from ridgepoint.store import Provenance, Store
from ridgepoint.study.document import Bet, RecordRow
from ridgepoint.study.score import score_answers, settled
from ridgepoint.study.score_row import ScoreRow

__all__ = ["record_behind"]

_MOST_ANSWERS = 300


def record_behind(store: Store, bet: Bet, provenance: Provenance) -> tuple[RecordRow, ...]:
    """A row for each choice of the bet that was settled before, and one for all bets; of this machine alone.

    The newest answers count, one for each bet; at most 300 of them.
    """
    answers = settled(store, provenance.machine.get("machine_id", ""), _MOST_ANSWERS)
    rows = {row.group: row for row in score_answers(answers)}
    asked = [f"{bet.a.text}..{curve.b}" for curve in bet.curves]
    return tuple(_row(rows[group]) for group in (*asked, "all") if group in rows)


def _row(row: ScoreRow) -> RecordRow:
    return RecordRow(
        group=row.group, points=row.n, step_error=row.mape, sign_right=row.sign_right, sign_n=row.sign_n,
        inside=row.coverage80,
    )  # fmt: skip
