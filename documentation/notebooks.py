"""Notebooks as pages: the text and the code of docs/notebooks, cell by cell."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "notebooks"


def pages() -> dict[str, str]:
    """Return every notebook as a page of Markdown, by its place in the site."""
    return {
        f"notebooks/{path.stem}.md": as_page(path.read_text(encoding="utf-8"), path.name)
        for path in sorted(FOLDER.glob("*.py"))
    }


def as_page(text: str, name: str) -> str:
    """Return a notebook in jupytext's percent form as Markdown: words, and code in blocks."""
    blocks: list[str] = []
    for cell in text.split("\n# %%")[1:]:
        head, _, body = cell.partition("\n")
        if "[markdown]" in head:
            words = [line.removeprefix("#").removeprefix(" ") for line in body.splitlines()]
            blocks.append("\n".join(words).strip())
        elif body.strip():
            blocks.append(f"```python\n{body.strip()}\n```")
    how = f"Run it: `jupytext --to ipynb docs/notebooks/{name}`, then open it in Jupyter."
    return "\n\n".join([blocks[0], how, *blocks[1:]]) + "\n"
