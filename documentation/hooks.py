"""mkdocs' hooks: generated pages, the README's table, links between pages of parts."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # mkdocs loads this file by its path

from documentation import board, notebooks, parts, reference  # noqa: E402

BEING_WRITTEN: tuple[str, ...] = ()
"""Pages that the navigation names already; one that is not there yet is left out."""

_made: dict[str, str] = {}


def on_config(config: Any) -> Any:
    """Make the generated pages, and put them where the navigation says ``@...``."""
    _made.clear()
    rooms = {
        "@strategies": parts.pages("strategy"),
        "@attacks": parts.pages("attack"),
        "@pre": parts.pages("pre"),
        "@repairs": parts.pages("repair"),
        "@training": parts.pages("training"),
        "@reference": reference.pages(),
        "@notebooks": notebooks.pages(),
    }
    everything = {place: text for made in rooms.values() for place, text in made.items()}
    _made.update(reference.once(everything))
    there = {path.name for path in Path(config.docs_dir).glob("*.md")}
    absent = {name for name in BEING_WRITTEN if name not in there}
    config.nav = _filled(config.nav, {mark: list(made) for mark, made in rooms.items()}, absent)
    return config


def _filled(nav: list[Any], rooms: dict[str, list[str]], absent: set[str]) -> list[Any]:
    """Return a navigation with its marks replaced and pages that are being written left out."""
    found: list[Any] = []
    for entry in nav:
        if isinstance(entry, str):
            found += [] if entry in absent else [entry]
            continue
        ((title, below),) = entry.items()
        if isinstance(below, str):
            found.append({title: rooms.get(below, below)})
        else:
            found.append({title: _filled(below, rooms, absent)})
    return found


def on_files(files: Any, config: Any) -> Any:
    """Add the generated pages."""
    for place, text in _made.items():
        files.append(File.generated(config, place, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Fill in what stands elsewhere, and turn links out of ``docs/`` into plain paths."""
    text = markdown.replace("<!-- include demo -->", demo())
    for size in (board.FULL, board.EVERY):
        text = text.replace(f"<!-- include leaderboard {size} -->", board.tables(size))
    if page.file.src_uri == "catalogue.md":
        text = linked(text)
    return re.sub(r"\[([^\]]+)\]\(\.\./([^)]+)\)", r"\1 (`\2`)", text)


def demo() -> str:
    """Return the demo's words and table as the README has them."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return text.split("<!-- begin demo -->")[1].split("<!-- end demo -->")[0].strip()


def linked(text: str) -> str:
    """Return the catalogue with a link from every part that has a page to it."""
    rooms = {"rules": "training", "pre-aggregations": "pre"}
    kind = ""
    lines = []
    for line in text.splitlines():
        if line.startswith("## "):
            title = line.removeprefix("## ").lower().split()[-1]
            kind = rooms.get(title, title)
        found = re.match(r"\| `([^`]+)` \|", line)
        if kind and found:
            place = f"parts/{kind}/{found[1].replace('+', '-plus')}.md"
            if place in _made:
                line = line.replace(f"| `{found[1]}` |", f"| [`{found[1]}`]({place}) |", 1)
        lines.append(line)
    return "\n".join(lines)
