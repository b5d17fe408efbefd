"""Python-Markdown's extension that draws the formulas of `documentation.formulas`."""

from __future__ import annotations

import re
from typing import Any

from markdown import Markdown
from markdown.extensions import Extension
from markdown.inlinepatterns import InlineProcessor
from markdown.preprocessors import Preprocessor

from documentation.formulas import BLOCK, INLINE, latex_of, mathml


class _Blocks(Preprocessor):
    """Puts every ``.. math::`` in a box that scrolls within itself."""

    def run(self, lines: list[str]) -> list[str]:
        text = BLOCK.sub(self._drawn, "\n".join(lines) + "\n")
        return text.rstrip("\n").split("\n")

    def _drawn(self, found: re.Match[str]) -> str:
        drawn = f'<div class="formula">{mathml(latex_of(found), block=True)}</div>'
        return f"\n{found['indent']}{self.md.htmlStash.store(drawn)}\n\n"


class _Inline(InlineProcessor):
    """Draws every formula within a line."""

    def handleMatch(  # type: ignore[override]  # noqa: N802
        self, m: re.Match[str], data: str
    ) -> tuple[str, int, int]:
        return self.md.htmlStash.store(mathml(m[1])), m.start(0), m.end(0)


class FormulaExtension(Extension):
    """Python-Markdown's extension; fenced code stays as it is written."""

    def extendMarkdown(self, md: Markdown) -> None:  # noqa: N802
        """Register both, after fences and before code within a line."""
        md.preprocessors.register(_Blocks(md), "formula", 22)
        md.inlinePatterns.register(_Inline(INLINE, md), "formula", 195)


def makeExtension(**settings: Any) -> FormulaExtension:  # noqa: N802
    """Return the extension; mkdocs names this module in its list."""
    return FormulaExtension(**settings)
