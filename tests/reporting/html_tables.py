"""Reads the tables of a page back, as a browser would show them."""

from __future__ import annotations

from html.parser import HTMLParser


class _Tables(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self._cell: str | None = None
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self._cell = ""

    def handle_data(self, data: str) -> None:
        if self._cell is not None:
            self._cell += data

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th") and self._cell is not None:
            self.tables[-1][-1].append(self._cell)
            self._cell = None


def tables_of(page: str) -> list[list[list[str]]]:
    """Return the tables of a page: rows of cells, the head first."""
    return _Tables(page).tables


def columns_of(table: list[list[str]]) -> dict[str, list[str]]:
    """Return a table's cells by the title of their column."""
    head, *rows = table
    return {title: [row[place] for row in rows] for place, title in enumerate(head)}
