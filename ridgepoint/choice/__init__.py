"""Choices an engineer makes, one file each: what it changes on paper, and in the model."""

from ridgepoint.choice.base import Choice, Metal
from ridgepoint.choice.grammar import parse_bet, parse_choices
from ridgepoint.choice.registry import CHOICES
from ridgepoint.choice.side import Side, resolve

__all__ = ["CHOICES", "Choice", "Metal", "Side", "parse_bet", "parse_choices", "resolve"]
