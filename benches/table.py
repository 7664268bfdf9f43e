"""The numbers of the bench as tables, and what stands in place of a number that is not true."""

import os
import statistics

CORES = len(os.sched_getaffinity(0))


class Wrong(str):
    """Why there is no number."""


def median(values):
    values = list(values)
    return first_wrong(values) or statistics.median(values)


def quotient(one, other):
    return first_wrong([one, other]) or (one / other if other else Wrong("nothing to compare with"))


def first_wrong(values):
    return next((value for value in values if isinstance(value, Wrong)), None)


def plain(value):
    return f"{value:,.0f}" if value >= 100 else f"{value:,.1f}"


def percent(value):
    return f"{value:.0%}"


def times(value):
    return f"{value:.2f}" if value < 10 else f"{value:.1f}"


def print_table(title, columns, rows):
    """Columns: a name alone, or with how its numbers are shown. The first one is for words."""
    if not rows:
        return
    columns = [column if isinstance(column, tuple) else (column, plain) for column in columns]
    # A row that has no numbers says why in its second cell.
    rows = [row + [""] * (len(columns) - len(row)) for row in rows]
    cells = [[value if isinstance(value, str) else shown(value) for value, (_, shown) in zip(row, columns)] for row in rows]
    names = [name for name, _ in columns]
    widths = [max(map(len, column)) for column in zip(names, *cells)]
    print(f"\n{title}\n")
    print(line(names, widths))
    print("|" + "|".join("-" * (width + 2) if at == 0 else "-" * (width + 1) + ":" for at, width in enumerate(widths)) + "|")
    for row in cells:
        print(line(row, widths))


def line(cells, widths):
    return "| " + " | ".join(f"{cell:<{width}}" if at == 0 else f"{cell:>{width}}" for at, (cell, width) in enumerate(zip(cells, widths))) + " |"
