"""Tables as people have them: what a person would read, or one line that says what to do."""

from __future__ import annotations

import csv
import gzip
import io
import sys
import zipfile
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from fedguard.commands.data_check import describe
from fedguard.data.dataset import Dataset
from fedguard.data.table import Table
from fedguard.data.table_files import read_table
from fedguard.errors import ConfigurationError

N = None


def written(cells: list[str], separator: str = ",", repeat: int = 1) -> str:
    """Return a file with a column `v` of these cells, a plain column `k` and classes a and b."""
    text = io.StringIO()
    out = csv.writer(text, delimiter=separator)
    out.writerow(["k", "v", "y"])
    for row, cell in enumerate(cells * repeat):
        out.writerow([row, cell, "ab"[row % 2]])
    return text.getvalue()


def loaded(path: Path, **options: Any) -> tuple[Dataset, dict[str, Any]]:
    """Return a table and, for each column, its kind and all its features (rows, features)."""
    table = Table(**{"label": "y", **options}, path=path)
    data = table.load(None)
    x = torch.cat([data.x_train, data.x_test])
    found: dict[str, Any] = {}
    start = 0
    for column in table.columns:
        found[column.name] = (column, x[:, start : start + column.features])
        start += column.features
    assert start == x.shape[1]
    return data, found


def numbers_of(features: torch.Tensor, missing: int) -> list[float]:
    """Return the sorted numbers of a column, those that were filled in left out."""
    known = features[:, 0] if not missing else features[features[:, 1] == 0][:, 0]
    return sorted(known.tolist())


NUMBERS: list[tuple[str, list[str], list[float | None]]] = [
    ("plain", ["1", "2.5", "-3", "1e2"], [1, 2.5, -3, 100]),
    ("blanks around", [" 1", "2 ", "\t3", " 4 "], [1, 2, 3, 4]),
    ("question marks", ["1", "?", "3", "4"], [1, N, 3, 4]),
    (
        "many words for missing",
        ["1", "NA", "n/a", "3", "-", "7", "#N/A", "9"],
        [1, N, N, 3, N, 7, N, 9],
    ),
    ("empty", ["1", "", "3", "4"], [1, N, 3, 4]),
    ("null and none", ["1", "null", "None", "4", "5", "6"], [1, N, N, 4, 5, 6]),
    ("thousands", ["1,234", "2,500,000", "7", "1,000.5"], [1234, 2500000, 7, 1000.5]),
    ("only thousands", ["1,234", "2,345", "3,456", "4,567"], [1234, 2345, 3456, 4567]),
    ("Indian thousands", ["1,23,456", "12,345", "7", "8"], [123456, 12345, 7, 8]),
    ("spaced thousands", ["1 234", "12 345 678", "7", "8"], [1234, 12345678, 7, 8]),
    ("Swiss thousands", ["1'234", "12'345.5", "7", "8"], [1234, 12345.5, 7, 8]),
    ("decimal commas", ["1,5", "2,25", "0,125", "7"], [1.5, 2.25, 0.125, 7]),
    ("commas and points", ["1.234,5", "0,5", "2.000", "7"], [1234.5, 0.5, 2000, 7]),
    ("percent", ["12%", "5 %", "100%", "0.5%"], [0.12, 0.05, 1.0, 0.005]),
    ("dollars", ["$3", "$1,000.50", "-$4", "($5)"], [3, 1000.5, -4, -5]),
    ("euros behind", ["3 €", "4,50 €", "5 €", "6 €"], [3, 4.5, 5, 6]),
    ("brackets", ["(7)", "8", "(9.5)", "1"], [-7, 8, -9.5, 1]),
    ("true minus", ["−5", "+3", "2", "1"], [-5, 3, 2, 1]),
    ("truth values", ["True", "False", "true", "FALSE"], [1, 0, 1, 0]),
    ("times of day", ["12:30", "06:00", "23:15", "00:00"], [12.5, 6, 23.25, 0]),
    ("leading zeros", ["007", "010", "1", "2"], [7, 10, 1, 2]),
    ("exponents", ["1e3", "1E-2", "2.5e+1", "3"], [1000, 0.01, 25, 3]),
    ("errors of a spreadsheet", ["#DIV/0!", "2", "#VALUE!", "4", "5"], [N, 2, N, 4, 5]),
]


@pytest.mark.parametrize(("cells", "wanted"), [c[1:] for c in NUMBERS], ids=[c[0] for c in NUMBERS])
def test_numbers_as_people_write_them(
    tmp_path: Path, cells: list[str], wanted: list[float | None]
) -> None:
    path = tmp_path / "t.csv"
    path.write_text(written(cells, repeat=3), encoding="utf-8")
    _, found = loaded(path)
    column, features = found["v"]
    missing = 3 * wanted.count(None)
    assert (column.kind, column.missing) == ("number", missing)
    assert features.shape[1] == (2 if missing else 1)
    known = sorted([value for value in wanted if value is not None] * 3)
    assert numbers_of(features, missing) == pytest.approx(known, rel=1e-6)
    assert features[:, -1].sum() == missing or not missing


def test_missing_numbers_are_the_training_rows_median(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(written(["1", "2", "30", "?", "5"], repeat=20))
    data, _ = loaded(path)
    v, absent = data.x_train[:, 1], data.x_train[:, 2]
    assert absent.sum() > 0
    assert set(v[absent == 1].tolist()) == {v[absent == 0].median().item()}
    assert (data.mean[2], data.std[2]) == (0.0, 1.0)
    assert "missing numbers filled in: v 20" in data.notes


DATES = [
    ("ISO", ["2024-01-31", "2024-02-01", "2024-03-01", "2024-02-29"]),
    ("with times", ["2024-01-31 06:00", "2024-02-01T12:00:00", "2024-03-01 00:00", "2024-02-29"]),
    ("slashes, day first", ["31/01/2024", "01/02/2024", "01/03/2024", "29/02/2024"]),
    ("slashes, month first", ["01/31/2024", "02/01/2024", "03/01/2024", "02/29/2024"]),
    ("points", ["31.01.2024", "1.2.2024", "01.03.2024", "29.02.2024"]),
    ("words", ["31 Jan 2024", "Feb 1, 2024", "1-Mar-2024", "29 February 2024"]),
    ("year first", ["2024/01/31", "2024/2/1", "2024/03/01", "2024/02/29"]),
]


@pytest.mark.parametrize("cells", [c[1] for c in DATES], ids=[c[0] for c in DATES])
def test_dates_are_days_since_the_first(tmp_path: Path, cells: list[str]) -> None:
    path = tmp_path / "t.csv"
    path.write_text(written(cells, repeat=10))
    data, found = loaded(path)
    column, features = found["v"]
    assert column.kind == "date"
    assert column.why == "days since 2024-01-31"
    days = {round(day) for day in features[:, 0].tolist()}
    assert days <= {0, 1, 2, 29, 30}
    assert any("days since 2024-01-31" in note for note in data.notes)
    if any(":" in cell for cell in cells):
        assert sorted(set(features[:, 0].tolist())) == [0.25, 1.5, 29.0, 30.0]


FILES: list[tuple[str, str, bytes, dict[str, str], int]] = [
    ("trailing commas", "t.csv", b"k,v,y,\n1,5,a,\n2,6,b,\n3,7,a,\n4,8,b,\n", {"v": "number"}, 4),
    (
        "commas behind rows alone",
        "t.csv",
        b"k,v,y\n1,5,a,\n2,6,b,\n3,7,a,\n4,8,b,\n",
        {"v": "number"},
        4,
    ),
    (
        "semicolons with quoted commas",
        "t.csv",
        b'k;v;y\n1;"p, q";a\n2;"r, s";b\n3;"p, q";a\n4;"r, s";b\n',
        {"v": "category"},
        4,
    ),
    (
        "semicolons, decimal commas",
        "t.csv",
        b"k;v;y\n1;1,5;a\n2;2,5;b\n3;3,5;a\n4;4,5;b\n",
        {"v": "number", "k": "number"},
        4,
    ),
    ("tabs", "t.tsv", b"k\tv\ty\n1\tp, q\ta\n2\tr\tb\n3\tp, q\ta\n4\tr\tb\n", {"v": "category"}, 4),
    ("sep= line", "t.csv", b"sep=;\nk;v;y\n1;5;a\n2;6;b\n3;7;a\n4;8;b\n", {"v": "number"}, 4),
    ("blank lines", "t.csv", b"\nk,v,y\n\n1,5,a\n2,6,b\n\n3,7,a\n4,8,b\n,,\n", {"v": "number"}, 4),
    ("footer", "t.csv", b"k,v,y\n1,5,a\n2,6,b\n3,7,a\n4,8,b\nTotal,26,\n", {"k": "number"}, 4),
    (
        "source line",
        "t.csv",
        b"k,v,y\n1,5,a\n2,6,b\n3,7,a\n4,8,b\nSource: us\n",
        {"k": "number"},
        4,
    ),
    ("saved row numbers", "t.csv", b",v,y\n0,5,a\n1,6,b\n2,7,a\n3,8,b\n", {"v": "number"}, 4),
    ("names of rows", "t.csv", b"v,y\nr1,5,a\nr2,6,b\nr3,7,a\nr4,8,b\n", {"v": "number"}, 4),
    ("break in a header", "t.csv", b'"k\nk",v,y\n1,5,a\n2,6,b\n3,7,a\n4,8,b\n', {"v": "number"}, 4),
    ("byte order mark", "t.csv", b"\xef\xbb\xbfy,v\na,5\nb,6\na,7\nb,8\n", {"v": "number"}, 4),
    ("UTF-16", "t.csv", "y,v\na,5\nb,6\na,7\nb,8\n".encode("utf-16"), {"v": "number"}, 4),
    ("Windows text", "t.csv", "y,v\na,é\nb,ü\na,é\nb,ü\n".encode("cp1252"), {"v": "category"}, 4),
    ("Windows line ends", "t.csv", b"y,v\r\na,5\r\nb,6\r\na,7\r\nb,8\r\n", {"v": "number"}, 4),
    ("packed", "t.csv.gz", gzip.compress(b"y,v\na,5\nb,6\na,7\nb,8\n"), {"v": "number"}, 4),
    (
        "JSON lines",
        "t.jsonl",
        b'{"y":"a","v":5}\n{"y":"b","v":null}\n{"y":"a","v":7}\n{"y":"b","v":8.5}\n',
        {"v": "number"},
        4,
    ),
    (
        "empty column",
        "t.csv",
        b"e,v,y\n,5,a\n,6,b\n,7,a\n,8,b\n",
        {"e": "dropped", "v": "number"},
        4,
    ),
    ("mostly empty", "t.csv", b"e,v,y\n,5,a\n1,6,b\n,7,a\n,8,b\n", {"e": "dropped"}, 4),
    ("mostly empty words", "t.csv", b"e,v,y\n,5,a\np,6,b\n,7,a\nq,8,b\n", {"e": "category"}, 4),
    ("no label in some", "t.csv", b"v,y\n5,a\n6,b\n7,a\n8,b\n9,\n10, \n", {"v": "number"}, 4),
    ("infinite", "t.csv", b"v,y\n5,a\n6,b\n7,a\n8,b\ninf,a\n1e39,b\n", {"v": "number"}, 4),
    ("short rows", "t.csv", b"y,k,v\na,1,5\nb,2\na,3,7\nb,4,8\n", {"v": "number"}, 4),
    (
        "quotes in quotes",
        "t.csv",
        b'y,v\na,"p ""q"""\nb,r\na,"p ""q"""\nb,r\n',
        {"v": "category"},
        4,
    ),
]


@pytest.mark.parametrize(
    ("name", "content", "kinds", "rows"), [c[1:] for c in FILES], ids=[c[0] for c in FILES]
)
def test_files_as_programs_write_them(
    tmp_path: Path, name: str, content: bytes, kinds: dict[str, str], rows: int
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    data, found = loaded(path)
    assert {column: found[column][0].kind for column in kinds} == kinds
    assert len(data.x_train) + len(data.x_test) == rows
    assert data.class_names == ("a", "b")
    assert torch.isfinite(data.x_train).all()
    if found.get("v", (None,))[0].kind == "number":
        column, features = found["v"]
        known = numbers_of(features, column.missing)
        plain = [1.5, 2.5, 3.5, 4.5] if b"1,5;a" in content else [5.0, 6.0, 7.0, 8.0]
        if name.endswith("jsonl"):
            plain = [5.0, 7.0, 8.5]
        assert known == ([5.0, 7.0, 8.0] if b"b,2\n" in content else plain)
    elif "v" in found:
        assert found["v"][1].sum(dim=0).tolist() == [2, 2, 0]


@pytest.mark.parametrize("name", ["None", "NA", "null", "nan", "N/A", "No", "true"])
def test_a_class_may_be_called_anything(tmp_path: Path, name: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text("v,y\n" + f"1,{name}\n2,some\n" * 5)
    data, _ = loaded(path)
    assert data.class_names == tuple(sorted([name, "some"]))
    assert len(data.x_train) + len(data.x_test) == 10


def frames() -> dict[str, tuple[pd.Series, str, list[float] | None]]:
    return {
        "decimals": (
            pd.Series([Decimal("1.5"), Decimal("2"), None, Decimal("4")]),
            "number",
            [1.5, 2, 4],
        ),
        "nullable": (pd.Series([1, 2, None, 4], dtype="Int64"), "number", [1, 2, 4]),
        "words of numbers": (pd.Series(["1,234", "2", "3", "4"]), "number", [2, 3, 4, 1234]),
        "half": (pd.Series([1, 2, 3, 4], dtype="float16"), "number", [1, 2, 3, 4]),
        "days": (
            pd.to_datetime(pd.Series(["2024-01-01"] * 3 + ["2024-01-05"])),
            "date",
            [0, 0, 0, 4],
        ),
        "spans": (pd.to_timedelta(pd.Series([1, 2, 3, 4]), unit="h"), "number", [1, 2, 3, 4]),
        "categorical": (pd.Series(["1", "2", "1", "2"], dtype="category"), "category", None),
        "lists": (pd.Series([[1], [2], [3], [4]]), "dropped", None),
    }


@pytest.mark.parametrize("form", ["parquet", "feather"])
@pytest.mark.parametrize("name", list(frames()))
def test_typed_files_keep_their_types(tmp_path: Path, form: str, name: str) -> None:
    values, kind, wanted = frames()[name]
    frame = pd.DataFrame({"k": [1.0, 2.0, 3.0, 4.0], "v": values, "y": ["a", "b", "a", "b"]})
    path = tmp_path / f"t.{form}"
    frame.to_parquet(path) if form == "parquet" else frame.to_feather(path)
    _, found = loaded(path)
    column, features = found["v"]
    assert column.kind == kind
    if wanted is not None:
        assert numbers_of(features, column.missing) == pytest.approx(wanted)


REFUSED: list[tuple[str, str, str, str, str]] = [
    (
        "half numbers",
        "t.csv",
        written(["1", "2", "3", "old"], repeat=5),
        "numbers",
        r"categories=\[v\]",
    ),
    (
        "half dates",
        "t.csv",
        written(["2024-01-01", "2024-01-02", "2024-01-03", "soon"]),
        "numbers",
        "75%",
    ),
    ("doubtful days", "t.csv", written(["01/02/2024", "03/04/2024"] * 2), "numbers", "2024-01-31"),
    ("commas both ways", "t.csv", written(["1.5", "1,5"] * 2), "numbers", "commas"),
    ("a thousand or one", "t.csv", written(["1,234", "2,345"] * 2, ";"), "numbers", "decimal"),
    ("shares and percent", "t.csv", written(["12%", "0.5"] * 2), "numbers", "percent"),
    ("two currencies", "t.csv", written(["$3", "€4"] * 2), "numbers", "currencies"),
    ("units", "t.csv", written([f"{n} kg" for n in range(20)]), "numbers", "leave 'kg' out"),
    ("twice", "t.csv", "a,b,a,y\n1,2,3,x\n", "path", "once each"),
    ("too many cells", "t.csv", "v,y\n1,a\n1,2,3\n", "path", "need quotes"),
    ("uneven cells", "t.csv", "v,y\n1,a\n1,b,3\n", "path", "more cells"),
    ("empty", "t.csv", "", "path", "empty"),
    ("no rows", "t.csv", "v,y\n", "path", "usable rows"),
    ("no labels", "t.csv", "v,y\n1,\n2,\n", "path", "2 of 2 rows dropped: no label"),
    ("no header", "t.csv", "1,2,0\n3,4,1\n", "label", "first line must hold"),
    ("not text", "t.csv", "a\x00\x01,y\n1,2\n", "path", "not text"),
    ("damaged packing", "t.csv.gz", "v,y\n1,a\n", "path", "zip"),
    ("pickle", "t.pkl", "x", "path", "CSV"),
    ("statistics program", "t.sav", "x", "path", "save it as one of these"),
    ("no spreadsheet", "t.xlsx", "x", "path", "CSV"),
    ("damaged JSON", "t.jsonl", "{", "path", "CSV"),
    (
        "numbers as label",
        "t.csv",
        "v,y\n" + "".join(f"1,{n}.5\n" for n in range(9)),
        "label",
        "2 rows each",
    ),
]


@pytest.mark.parametrize(
    ("name", "text", "field", "says"), [c[1:] for c in REFUSED], ids=[c[0] for c in REFUSED]
)
def test_what_is_doubtful_or_no_table_is_refused_in_one_line(
    tmp_path: Path, name: str, text: str, field: str, says: str
) -> None:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigurationError, match=says) as caught:
        loaded(path)
    assert caught.value.field == f"dataset.{field}"
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("cells", "options", "kind", "wanted"),
    [
        (["1", "2", "3", "old"], {"numbers": ("v",)}, "number", [1.0, 2.0, 3.0]),
        (["1", "2", "3", "old"], {"categories": ("v",)}, "category", None),
        (["1", "2", "3", "4"], {"categories": ("v",)}, "category", None),
        (["1,234", "2,345"] * 2, {"decimal": ","}, "number", [1.234, 1.234, 2.345, 2.345]),
        (["1,234", "2,345"] * 2, {"decimal": "."}, "number", [1234, 1234, 2345, 2345]),
        (["1", "", "", ""], {"max_missing": 0.9}, "number", [1.0]),
    ],
)
def test_what_was_asked_can_be_answered(
    tmp_path: Path, cells: list[str], options: dict[str, Any], kind: str, wanted: list[float] | None
) -> None:
    path = tmp_path / "t.csv"
    path.write_text(written(cells, ";"))
    _, found = loaded(path, **options)
    column, features = found["v"]
    assert column.kind == kind
    if wanted is not None:
        assert numbers_of(features, column.missing) == pytest.approx(wanted)
    else:
        assert features.sum(dim=1).eq(1).all()


def test_points_mark_thousands_where_another_column_has_decimal_commas(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("w;v;y\n0,5;1.234;a\n1,5;2.000;b\n2,5;3.500;a\n0,1;4.000;b\n")
    _, found = loaded(path)
    assert numbers_of(found["v"][1], 0) == [1234, 2000, 3500, 4000]
    assert numbers_of(found["w"][1], 0) == pytest.approx([0.1, 0.5, 1.5, 2.5])


SHEET = pd.DataFrame(
    {
        "price": [1, "2,5", None, 4.0, "$7", "NA"],
        "day": pd.to_datetime(["2024-01-01"] * 5 + ["2024-01-05"]),
        "sold": [True, False, True, False, True, False],
        "kind": ["p", "q", "p", "q", "p", "q"],
        "y": ["None", "b", "None", "b", "None", "b"],
    },
    dtype=object,
)


def check_sheet(path: Path) -> None:
    """Compare a spreadsheet's columns with what a person reads in it."""
    data, found = loaded(path)
    assert numbers_of(found["price"][1], 2) == [1.0, 2.5, 4.0, 7.0]
    assert found["price"][0].missing == 2
    assert found["day"][0].kind == "date"
    assert sorted(found["day"][1][:, 0].tolist()) == [0.0] * 5 + [4.0]
    assert found["sold"][0].kind == "number"
    assert found["sold"][1].sum() == 3
    assert found["kind"][0].kind == "category"
    assert data.class_names == ("None", "b")
    assert len(data.x_train) + len(data.x_test) == 6


def test_a_spreadsheet_is_read_as_its_cells_are(tmp_path: Path) -> None:
    pytest.importorskip("openpyxl")
    path = tmp_path / "t.xlsx"
    SHEET.to_excel(path, index=False)
    check_sheet(path)


def test_what_a_spreadsheets_reader_hands_over_is_read_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = SHEET.fillna("")
    monkeypatch.setattr(pd, "read_excel", lambda *_, **__: cells)
    path = tmp_path / "t.xlsx"
    path.touch()
    check_sheet(path)


@pytest.mark.parametrize(
    ("ending", "said"),
    [("xlsx", "pip install 'fedguard[excel]'"), ("xls", "xlrd: pip install xlrd")],
)
def test_a_spreadsheet_without_its_reader_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str, said: str
) -> None:
    # None makes an import fail, whether or not the package is there.
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    monkeypatch.setitem(sys.modules, "xlrd", None)
    path = tmp_path / f"t.{ending}"
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr("xl/workbook.xml", "<workbook/>")
    with pytest.raises(ConfigurationError) as error:
        loaded(path)
    assert said in str(error.value)
    assert error.value.field == "dataset.path"
    assert "\n" not in str(error.value)


PLAIN = pd.DataFrame(
    {
        "n": [1.5, 2.0, None, 4.0],
        "w": ["red", "blue", "red", "blue"],
        "t": [True, False, True, False],
        "y": ["a", "b", "a", "b"],
    }
)


@pytest.mark.parametrize("ending", ["feather", "arrow", "jsonl", "ndjson", "csv.gz", "csv.bz2"])
def test_every_form_of_one_table_is_the_same_table(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"t.{ending}"
    if ending in ("feather", "arrow"):
        PLAIN.to_feather(path)
    elif ending in ("jsonl", "ndjson"):
        PLAIN.to_json(path, orient="records", lines=True)
    else:
        PLAIN.to_csv(path, index=False)
    data, found = loaded(path)
    assert numbers_of(found["n"][1], 1) == [1.5, 2.0, 4.0]
    assert found["n"][0].missing == 1
    assert found["w"][0].kind == "category"
    assert found["w"][1].sum(dim=0).tolist() == [2.0, 2.0, 0.0]
    assert found["t"][1][:, 0].sum() == 2.0
    assert data.class_names == ("a", "b")
    bare = Table("y", path=tmp_path / "bare.csv")
    PLAIN.to_csv(tmp_path / "bare.csv", index=False)
    wanted = bare.load(None)
    assert torch.equal(data.x_train, wanted.x_train)
    assert torch.equal(data.y_test, wanted.y_test)


def test_stray_cells_of_a_long_column_are_taken_for_missing_and_told(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(written([*map(str, range(49)), "broken"]))
    data, found = loaded(path)
    column, features = found["v"]
    assert (column.kind, column.missing) == ("number", 1)
    assert numbers_of(features, 1) == list(range(49))
    assert any("'broken' taken for missing" in note for note in data.notes)


def test_every_column_of_a_file_is_described(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(
        "n,c,d,e,x,y\n" + "1,p,2024-01-01,,1,a\n2,q,2024-01-02,,2,b\n3,p,2024-01-03,,z,a\n"
    )
    found = describe(read_table(path), "y")
    kinds = [(column.name, column.kind) for column in found]
    assert kinds == [
        ("n", "number"),
        ("c", "category"),
        ("d", "date"),
        ("e", "dropped"),
        ("x", "doubtful"),
        ("y", "doubtful"),
    ]
    assert "1 has 1" not in found[-1].why
    assert "'b' has 1" in found[-1].why


def test_the_command_prints_a_line_per_column(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from fedguard.commands.data_check import check

    path = tmp_path / "t.csv"
    path.write_text("price,city,y\n$3,p,a\n?,q,b\n$5,p,a\n$6,q,b\n")
    check(path, "y")
    printed = capsys.readouterr().out
    assert "4 rows, 3 columns" in printed
    lines = [line for line in printed.splitlines() if "price" in line]
    assert len(lines) == 1
    assert "number" in lines[0]
    assert " 1 " in lines[0]
    assert "amounts in $" in lines[0]
    with pytest.raises(ConfigurationError, match="did you mean 'city'"):
        check(path, "citty")


def test_groups_come_from_the_column_asked_for_and_it_is_no_feature(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    sites = ["north", "south", "east"]
    rows = [f"{n},{sites[n % 3]},{'ab'[n % 2]}" for n in range(60)] + ["60,,a"]
    path.write_text("\n".join(["v,site,y", *rows]))
    table = Table("y", path=path)
    table.group_by("site")
    data = table.load(None)
    assert data.x_train.shape[1] == 1
    assert data.group_names == {"site": ("east", "north", "south")}
    assert data.groups is not None
    told = [data.group_names["site"][group] for group in data.groups["site"].tolist()]
    assert told == [sites[int(v) % 3] for v in data.x_train[:, 0].tolist()]
    assert "1 of 61 rows dropped: no site" in data.notes
    kept = Table("y", path=path, group="site", group_feature=True).load(None)
    assert kept.x_train.shape[1] == 1 + 4
