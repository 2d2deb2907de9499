"""How every table on the terminal looks."""

from rich import box
from rich.table import Table


def plain_table(*columns: str, title: str | None = None) -> Table:
    """A table with a line under its head and no frame; more columns may be added."""
    return Table(*columns, box=box.SIMPLE, pad_edge=False, padding=(0, 1, 0, 0), title=title, title_justify="left")
