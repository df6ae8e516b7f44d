"""What is measured."""

from __future__ import annotations

from . import bulk, checksums, files, million, slow, small
from .base import Bench, Scenario, Subject, Unsupported, Values, Wrong

MODULES = (bulk, small, checksums, files, slow, million)
SCENARIOS: dict[str, Scenario] = {
    scenario.name: scenario for module in MODULES for scenario in module.SCENARIOS
}

__all__ = ["SCENARIOS", "Bench", "Scenario", "Subject", "Unsupported", "Values", "Wrong"]
