"""All that the command line prints as tables, gathered; it imports rich, so import it where it is used."""

from ridgepoint.report.card_terminal import card
from ridgepoint.report.chart_terminal import speedup_chart
from ridgepoint.report.result_terminal import compare_table, result_table
from ridgepoint.report.score_terminal import Score, score_table
from ridgepoint.report.why_terminal import answer_table, bet_panel

__all__ = [
    "Score",
    "answer_table",
    "bet_panel",
    "card",
    "compare_table",
    "result_table",
    "score_table",
    "speedup_chart",
]
