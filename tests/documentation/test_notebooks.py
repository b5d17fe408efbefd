"""Every notebook runs from its first cell to its last, in Jupyter, and says what it asserts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from documentation import notebooks

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted(notebooks.FOLDER.glob("*.py"))


def test_there_are_four():
    assert len(NOTEBOOKS) == 4


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_becomes_a_page_with_all_its_words_and_code(path):
    text = path.read_text(encoding="utf-8")
    compile(text, str(path), "exec")
    page = notebooks.as_page(text, path.name)
    assert page.startswith("# ")
    assert page.count("```python") == text.count("# %%\n")
    assert "assert " in text, "it says what must have come out"
    code = [line for line in text.split("# %%", 1)[1].splitlines() if line.startswith("import ")]
    assert all(line in page for line in code)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_in_jupyter(path, tmp_path, monkeypatch):
    jupytext = pytest.importorskip("jupytext")
    nbclient = pytest.importorskip("nbclient")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    book = jupytext.read(path)
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(book, timeout=240, kernel_name="python3", resources=resources).execute()
    codes = [cell for cell in book.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in codes)
