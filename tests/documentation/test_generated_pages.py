"""Pages of parts and the reference: every part has one, every public name is on one."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import fedguard
from documentation import formulas, notebooks, parts, reference
from fedguard import registry

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def api() -> str:
    return "\n".join(reference.pages().values())


def test_every_name_that_the_package_offers_is_in_the_reference(api):
    for name in fedguard.__all__:
        if name != "__version__":
            assert f"{{ #fedguard.{name} }}" in api, name
            assert f"::: {fedguard._OFFERED[name]}.{name}\n" in api, name


@pytest.mark.parametrize("room", sorted({m for found in reference.ROOMS.values() for m in found}))
def test_every_public_name_of_a_room_is_in_the_reference(api, room):
    module = importlib.import_module(room)
    listed = getattr(module, "__all__", None)
    if listed is None:
        own = vars(module).items()
        listed = [
            name
            for name, value in own
            if not name.startswith("_")
            and callable(value)
            and getattr(value, "__module__", "") == room
            and hasattr(value, "__qualname__")
        ]
    assert listed, room
    for name in listed:
        assert re.search(rf"^::: fedguard\.[\w.]*\b{name}$", api, re.MULTILINE), f"{room}: {name}"


@pytest.fixture(scope="module")
def pages(api) -> str:
    own = [text for kind in formulas.KINDS for text in parts.pages(kind).values()]
    return "\n".join([api, *own]) + "\n"


def offering() -> list[str]:
    """Return the modules of the package that say what they offer."""
    found = []
    for path in sorted((ROOT / "fedguard").rglob("*.py")):
        if re.search(r"^__all__ = ", path.read_text(encoding="utf-8"), re.MULTILINE):
            found.append(".".join(path.relative_to(ROOT).with_suffix("").parts))
    return [name.removesuffix(".__init__") for name in found if name != "fedguard.__init__"]


@pytest.mark.parametrize("name", offering())
def test_every_name_that_a_module_offers_is_on_a_page(pages, name):
    homes = reference.public_names(name).values()
    assert [home for home in homes if f"::: {home}\n" not in pages] == []


@pytest.mark.parametrize(
    "path",
    [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *notebooks.FOLDER.glob("*.py")],
    ids=lambda path: path.name,
)
def test_every_name_that_a_document_imports_is_on_a_page(pages, path):
    for module, names in re.findall(
        r"^ *from (fedguard\.[\w.]+) import ([\w, ]+)$", path.read_text("utf-8"), re.MULTILINE
    ):
        for name in re.split(r",\s*", names):
            home = reference._home(importlib.import_module(module), name)
            assert f"::: {home}\n" in pages, f"{path.name}: from {module} import {name}"


def test_what_is_documented_is_there(api):
    for path in re.findall(r"^::: (.+)$", api, re.MULTILINE):
        module, _, name = path.rpartition(".")
        assert hasattr(importlib.import_module(module), name), path


def test_a_name_on_two_pages_is_documented_once_and_linked_else():
    pages = {"a.md": "# a\n\n::: x.y\n", "b.md": "# b\n\n::: x.y\n\n::: x.z\n"}
    assert reference.once(pages) == {
        "a.md": "# a\n\n::: x.y\n",
        "b.md": "# b\n\nSee [`x.y`][x.y].\n\n::: x.z\n",
    }


@pytest.mark.parametrize("kind", ["strategy", "attack"])
def test_every_part_has_a_page(kind):
    names = {*registry.names(kind), *registry.names(kind, "vertical")}
    pages = parts.pages(kind)
    titles = {text.splitlines()[0].removeprefix("# ") for text in pages.values()}
    assert titles == names
    assert len(pages) == len(names)


def test_a_page_tells_paper_league_needs_cost_arguments_and_threat_model():
    page = parts.page("strategy", "fltrust")
    assert "Cao et al., *FLTrust" in page
    assert "| league | labelled |" in page
    assert "| cost | 0.23 s" in page
    assert "never told who lies" in page
    assert "::: fedguard.strategies.fltrust.FLTrust" in page
    assert "| `z` |" in parts.page("attack", "alie")
    assert "a copy of the deployed rule" in parts.page("attack", "adaptive-alie")
    assert "aims at triggered inputs" in parts.page("attack", "badnets")


def test_a_page_of_docs_that_stands_in_no_navigation_would_end_the_build():
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    assert config["strict"] is True
    assert config["validation"]["nav"]["omitted_files"] == "warn"
    named = set(re.findall(r"[\w]+\.md", yaml.safe_dump(config["nav"])))
    there = {path.name for path in (ROOT / "docs").glob("*.md")}
    assert there <= named, f"not in mkdocs.yml's navigation: {sorted(there - named)}"


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_holds_every_name(tmp_path, api):
    pytest.importorskip("mkdocs")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", str(tmp_path)]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stderr
    rooms = [*(tmp_path / "reference").glob("*.html"), *(tmp_path / "parts").rglob("*.html")]
    built = "\n".join(path.read_text(encoding="utf-8") for path in rooms)
    for path in set(re.findall(r"^::: (.+)$", api, re.MULTILINE)):
        assert f'id="{path}"' in built, path
    outside = re.findall(r'(?:src|href)="(https?:)?//[^"]*\.(?:js|css|woff2?)"', built)
    assert not outside
    assert built.count("<math") > 400
    assert not re.search(r":math:|\.\. math::", built)
