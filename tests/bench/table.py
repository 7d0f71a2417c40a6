"""The table: what is measured, what others reach, and whether that meets a goal."""

import statistics
from typing import NamedTuple


class Goal(NamedTuple):
    """What a figure should be."""

    limit: float
    at_most: bool
    relative: bool
    """Whether it is about the ratio to the anchor, and not about the figure itself."""

    def met(self, figure):
        """Tell whether a figure meets it."""
        return figure <= self.limit if self.at_most else figure >= self.limit

    def __str__(self):
        return f"{'≤' if self.at_most else '≥'} {number(self.limit)}{' ×' if self.relative else ''}"


def at_most(limit, *, relative=False):
    """Return the goal that a figure is this, or less."""
    return Goal(limit, at_most=True, relative=relative)


def at_least(limit, *, relative=False):
    """Return the goal that a figure is this, or more."""
    return Goal(limit, at_most=False, relative=relative)


class Row(NamedTuple):
    """A line of the table: which figures of a case it compares."""

    what: str
    unit: str
    ours: str
    """The name of our figure."""
    anchor: str | None = None
    """The name of the other one, which is what the table calls it."""
    goal: Goal | None = None


class Result(NamedTuple):
    """What a row came to."""

    case: str
    row: Row
    ours: list
    """Our figure in each round."""
    anchor: list
    """The anchor's, in the same rounds. Empty when there is none."""
    absent: str | None
    """The command that installs the anchor, where it is not here."""

    @property
    def ratios(self):
        """Ours by the anchor's, in each round: what both met at the same time counts, not what one met later."""
        if not all(self.anchor):
            return []  # nothing is so many times nothing
        return [ours / anchor for ours, anchor in zip(self.ours, self.anchor, strict=True)] if self.anchor else []

    @property
    def met(self):
        """Whether the median meets the goal; None when there is no goal, or nothing to compare with."""
        goal = self.row.goal
        figures = self.ratios if goal and goal.relative else self.ours
        return goal.met(statistics.median(figures)) if goal and figures else None

    def to_map(self):
        """Return it as a map of JSON values."""
        return {
            "case": self.case,
            "what": self.row.what,
            "unit": self.row.unit,
            "ours": self.ours,
            "anchor": self.row.anchor,
            "anchor_figures": self.anchor,
            "anchor_missing": self.absent,
            "ratios": self.ratios,
            "goal": str(self.row.goal) if self.row.goal else None,
            "met": self.met,
        }

    def cells(self):
        """Return the texts of its line."""
        unit = f" {self.row.unit}" if self.row.unit else ""
        if self.anchor:
            anchor = f"{number(statistics.median(self.anchor))}{unit}, {self.row.anchor}"
        elif self.absent:
            anchor = f"{self.row.anchor}: not installed"
        else:
            anchor = ""
        return (
            self.row.what,
            f"{number(statistics.median(self.ours))}{unit}",
            anchor,
            f"{statistics.median(self.ratios):.2f}" if self.ratios else "",
            str(self.row.goal or ""),
            {None: "", True: "met", False: "NOT MET"}[self.met],
        )


def results(case, rows, rounds, absent):
    """Make a case's results of the figures of its rounds.

    :param rounds: for each round the figures by their names.
    :param absent: the commands that install what is not here, by the names of the figures.
    """
    made = []
    for row in rows:
        anchor = [figures[row.anchor] for figures in rounds] if row.anchor and row.anchor in rounds[0] else []
        made.append(Result(case, row, [figures[row.ours] for figures in rounds], anchor, absent.get(row.anchor)))
    return made


def render(head, lines):
    """Return lines of cells as a table."""
    widths = [max(len(line[at]) for line in (head, *lines)) for at in range(len(head))]
    rule = ["-" * width for width in widths]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |"
        for line in (head, rule, *lines)
    )


HEAD = ("what", "ours", "anchor", "ratio", "goal", "met")


def number(figure):
    """Return a figure as text."""
    if figure >= 1000:
        return f"{figure:,.0f}"
    return f"{figure:.3g}"
