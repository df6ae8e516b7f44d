"""What is measured."""

from __future__ import annotations

from . import bulk, small
from .base import Bench, Scenario, Subject, Unsupported, Values, Wrong

SCENARIOS = {scenario.name: scenario for module in (bulk, small) for scenario in module.SCENARIOS}

__all__ = ["SCENARIOS", "Bench", "Scenario", "Subject", "Unsupported", "Values", "Wrong"]
