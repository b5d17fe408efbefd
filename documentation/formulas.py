r"""Formulas of docstrings as MathML, which browsers draw without a script.

A docstring writes them as numpydoc does: a block after ``.. math::``, indented, and :math:`x_i`
within a line, both in LaTeX. A formula that does not parse ends the build of the site.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from html import escape
from typing import Any
from xml.etree import ElementTree

from fedguard import registry

KINDS = ("strategy", "attack", "pre", "repair", "training")
"""Kinds of part that have a formula in their docstring, or stand in `WITHOUT`."""

_HISTORY = "a choice of which items a fake history holds"

WITHOUT: dict[tuple[str, str], str] = {
    ("attack", "none"): "nothing is done",
    ("attack", "bandwagon"): _HISTORY,
    ("attack", "random-edges"): "links and pairs are drawn",
    ("attack", "random-profiles"): _HISTORY,
    ("attack", "repeat-target"): _HISTORY,
    ("attack", "semantic-stance"): "answers are rewritten",
}
"""Parts whose method is no formula, by kind and name, each with what it is."""

BLOCK = re.compile(
    r"^(?P<indent>[ \t]*)\.\. math::[ \t]*(?P<first>.*)\n"
    r"(?P<rest>(?:[ \t]*\n|(?P=indent)[ \t]+\S.*(?:\n|\Z))*)",
    re.MULTILINE,
)
INLINE = r":math:`([^`]+)`"
_NOTES = re.compile(
    r"^Notes\n-----\n(?P<notes>(?:[^\n]*\n)*?)(?=[^\s][^\n]*\n-{3,}\n|\Z)", re.MULTILINE
)
_CHILDREN = {
    "mfrac": 2,
    "mroot": 2,
    "msub": 2,
    "msup": 2,
    "munder": 2,
    "mover": 2,
    "msubsup": 3,
    "munderover": 3,
}
"""MathML elements that are drawn as an error with another number of children."""


class FormulaError(ValueError):
    """A formula that is no LaTeX, or none that the converter knows."""


def mathml(latex: str, *, block: bool = False) -> str:
    """Return a formula as a ``<math>`` element, with its LaTeX for readers that draw none.

    Parameters
    ----------
    latex : str
        The formula, without dollar signs or brackets around it.
    block : bool
        Whether it stands on a line of its own.

    Raises
    ------
    FormulaError
        If it does not parse, or has a command that the converter does not know.
    """
    from latex2mathml.converter import convert  # of the extra docs; pages are text without it

    source = " ".join(latex.split())
    bare = re.sub(r"\\[{}\\]", "", source)
    if not source or bare.count("{") != bare.count("}"):
        raise FormulaError(f"empty, or braces that do not match: {source!r}")
    try:
        made = convert(source, display="block" if block else "inline")
    except Exception as error:  # the converter's exceptions share no base
        raise FormulaError(f"{type(error).__name__}: {source!r}") from error
    for element in ElementTree.fromstring(made).iter():
        tag, text = element.tag.rpartition("}")[2], element.text or ""
        if "\\" in text:
            raise FormulaError(f"unknown command {text}: {source!r}")
        if len(element) != _CHILDREN.get(tag, len(element)):
            raise FormulaError(f"{tag} with {len(element)} parts: {source!r}")
    head, _, rest = made.partition(">")
    drawn = rest.removesuffix("</math>")
    note = f'<annotation encoding="application/x-tex">{escape(source, quote=False)}</annotation>'
    return f'{head} alttext="{escape(source)}"><semantics>{drawn}{note}</semantics></math>'


def notes(part: Callable[..., Any]) -> str:
    """Return the section "Notes" of a part's docstring, where its formulas are; else nothing."""
    found = _NOTES.search((inspect.getdoc(part) or "") + "\n")
    return found["notes"].strip() if found else ""


def formulas(text: str) -> list[tuple[str, bool]]:
    """Return the formulas of a docstring, each with whether it stands on a line of its own."""
    blocks = [(latex_of(found), True) for found in BLOCK.finditer(text + "\n")]
    return blocks + [(latex, False) for latex in re.findall(INLINE, BLOCK.sub("", text + "\n"))]


def parts() -> dict[tuple[str, str], Callable[..., Any]]:
    """Return fedguard's own parts of `KINDS`, those of vertical learning too."""
    return {
        (kind, name): registry.find(kind, name)
        for kind in KINDS
        for name in [*registry.own_parts(kind), *registry.names(kind, "vertical")]
    }


def latex_of(found: re.Match[str]) -> str:
    """Return the formula that `BLOCK` has found."""
    return f"{found['first']} {found['rest']}".strip()
