"""All that the command line prints as tables, gathered; it imports rich, so import it where it is used."""

from ridgepoint.report.bets_terminal import bets_side_by_side
from ridgepoint.report.card_terminal import card
from ridgepoint.report.chart_terminal import speedup_chart
from ridgepoint.report.result_terminal import compare_table, result_table
from ridgepoint.report.score_terminal import Score, score_table
from ridgepoint.report.side_by_side_terminal import side_by_side
from ridgepoint.report.targets_terminal import datasheet_card, source_list, targets_table
from ridgepoint.report.why_terminal import answer_table, bet_panel

__all__ = [
    "Score",
    "answer_table",
    "bet_panel",
    "bets_side_by_side",
    "card",
    "compare_table",
    "datasheet_card",
    "result_table",
    "score_table",
    "side_by_side",
    "source_list",
    "speedup_chart",
    "targets_table",
]
