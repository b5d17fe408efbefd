"""Formulas of docstrings: every part has one that parses, and no page shows LaTeX."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from documentation import formulas, parts
from fedguard import registry
from fedguard.commands.catalogue import summary

ROOT = Path(__file__).resolve().parents[2]
PARTS = formulas.parts()


def docs(name: str) -> str:
    kind, _, part = name.partition(" ")
    return inspect.getdoc(PARTS[kind, part]) or ""


NAMES = [f"{kind} {name}" for kind, name in PARTS]
"""As pytest shows them."""


@pytest.mark.parametrize("name", NAMES)
def test_every_part_has_a_formula_that_parses_or_says_why_it_has_none(name):
    pytest.importorskip("latex2mathml")
    kind, _, part = name.partition(" ")
    found = formulas.formulas(docs(name))
    blocks = [latex for latex, block in found if block]
    if (kind, part) in formulas.WITHOUT:
        assert not blocks, "it has one: take it off the list"
        return
    assert 1 <= len(blocks) <= 3
    for latex, block in found:
        ElementTree.fromstring(formulas.mathml(latex, block=block))


@pytest.mark.parametrize("name", sorted(set(NAMES) - {" ".join(one) for one in formulas.WITHOUT}))
def test_a_formula_stands_in_the_notes_and_its_symbols_are_named_after_it(name):
    kind, _, part = name.partition(" ")
    notes = formulas.notes(PARTS[kind, part])
    inside = sum(block for _, block in formulas.formulas(notes))
    assert inside == sum(block for _, block in formulas.formulas(docs(name))) > 0
    assert re.sub(r"\s", "", formulas.BLOCK.split(notes + "\n")[-1]), "no word on its symbols"
    assert ":math:" not in re.sub(formulas.INLINE, "", notes), "a formula without its end"


def test_the_list_of_parts_without_a_formula_holds_parts_alone():
    assert set(formulas.WITHOUT) <= set(PARTS)
    assert all(formulas.WITHOUT.values())


@pytest.mark.parametrize("name", NAMES)
def test_what_lists_and_tables_show_of_a_part_is_plain_text(name):
    kind, _, part = name.partition(" ")
    shown = summary(registry.find(kind, part))
    assert "math" not in re.findall(r"[.:]\s*(math)", shown)
    assert "\\" not in shown
    assert not shown.startswith("r")


def test_every_formula_of_the_package_parses():
    pytest.importorskip("latex2mathml")
    seen = 0
    for path in sorted((ROOT / "fedguard").rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        if "math" not in source or not re.search(r":math:|\.\. math::", source):
            continue
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                for latex, block in formulas.formulas(ast.get_docstring(node) or ""):
                    formulas.mathml(latex, block=block)
                    seen += 1
    assert seen > 200


@pytest.mark.parametrize(
    "latex",
    [
        r"\foo x",
        r"x_{i",
        r"x}",
        r"\frac{1}",
        r"\left( x",
        r"\begin{cases} a",
        "",
    ],
)
def test_a_formula_that_does_not_parse_is_an_error(latex):
    pytest.importorskip("latex2mathml")
    with pytest.raises(formulas.FormulaError):
        formulas.mathml(latex)


def test_a_formula_carries_its_latex_for_readers_that_draw_none():
    pytest.importorskip("latex2mathml")
    made = formulas.mathml('a < b \\text{ "so"}', block=True)
    tree = ElementTree.fromstring(made)
    assert tree.get("alttext") == 'a < b \\text{ "so"}'
    assert tree.get("display") == "block"
    notes = [one for one in tree.iter() if one.tag.endswith("annotation")]
    assert [one.text for one in notes] == ['a < b \\text{ "so"}']


TEXT = r"""
Words :math:`x_i` go on.

.. math::

   y = \sum_i x_i

.. math:: z = 1

1. in a list

   .. math::
      w = 2

```
.. math::
   left = alone
```
"""


def test_markdown_draws_blocks_and_lines_and_leaves_code_alone():
    pytest.importorskip("latex2mathml")
    markdown = pytest.importorskip("markdown")
    pytest.importorskip("pymdownx")
    made = markdown.markdown(TEXT, extensions=["pymdownx.superfences", "documentation.drawing"])
    assert made.count('<div class="formula"><math') == 3
    assert made.count('display="inline"') == 1
    assert made.count(".. math::") == 1, "the one in the code"
    assert ":math:" not in made


def test_markdown_ends_on_a_formula_that_does_not_parse():
    pytest.importorskip("latex2mathml")
    markdown = pytest.importorskip("markdown")
    with pytest.raises(formulas.FormulaError, match="unknown command"):
        markdown.markdown(".. math::\n   \\foo\n", extensions=["documentation.drawing"])


def test_a_page_shows_the_formula_once_and_a_reason_where_there_is_none():
    page = parts.page("strategy", "krum")
    top, _, full = page.partition("## In full")
    assert ".. math::" in top.partition("## Formula")[2].partition("## Arguments")[0]
    assert "notes: false" in full
    assert "None: answers are rewritten." in parts.page("attack", "semantic-stance")


@pytest.mark.parametrize("kind", ["pre", "repair", "training"])
def test_other_parts_with_a_formula_have_pages_too(kind):
    pages = parts.pages(kind)
    assert len(pages) == len(registry.names(kind))
    assert all("## Formula" in page for page in pages.values())


def test_the_catalogue_links_every_part_that_has_a_page(monkeypatch):
    pytest.importorskip("mkdocs")
    from documentation import hooks

    made = {place: "" for kind in formulas.KINDS for place in parts.pages(kind)}
    monkeypatch.setattr(hooks, "_made", made)
    text = hooks.linked((ROOT / "docs" / "catalogue.md").read_text(encoding="utf-8"))
    assert {place for place in made if f"]({place})" not in text} == set()
