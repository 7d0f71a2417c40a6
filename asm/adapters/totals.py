"""What runs used, added up; and how many tokens one used."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import Any

from asm.core import checks, sums

__all__ = ["token_totals", "tokens"]


def token_totals(usages: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the sums of maps of token usage, number by number, also in nested maps.

    What is no number is left out. A sum that no integer of 64 bits holds is a float, and none is infinite.
    """
    total: dict[str, Any] = {}
    for usage in usages:
        sums.add(total, usage)
    return {key: _sendable(value) for key, value in total.items()}


def tokens(usage: Mapping[str, Any]) -> float:
    """Return how many tokens a run used: its ``total_tokens``, else its ``input_tokens`` and ``output_tokens``, else 0."""
    total = usage.get("total_tokens")
    if sums.is_number(total):
        return total
    parts = (usage.get("input_tokens"), usage.get("output_tokens"))
    return sum(part for part in parts if sums.is_number(part))


def _sendable(total: Any) -> Any:
    if isinstance(total, dict):
        return {key: _sendable(value) for key, value in total.items()}
    if isinstance(total, int) and not checks.LEAST <= total <= checks.MOST:
        total = float(total)
    return max(-sys.float_info.max, min(sys.float_info.max, total)) if isinstance(total, float) else total
