from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from fedguard import registry
from fedguard.data.table import Table
from fedguard.errors import ConfigurationError

FLOWS = Path(__file__).parents[2] / ".." / "shared" / "data" / "cse-cic-ids2018"


def make_frame(rows: int = 100) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "id": np.arange(rows),
            "bytes": rng.normal(5.0, 3.0, rows),
            "constant": np.full(rows, 7),
            "flag": rng.random(rows) < 0.5,
            "protocol": rng.choice(["tcp", "udp", "icmp"], rows, p=[0.6, 0.3, 0.1]),
            "Label": np.where(np.arange(rows) % 4 == 0, "attack", "benign"),
        }
    )


@pytest.fixture
def frame() -> pd.DataFrame:
    return make_frame()


def load(frame: pd.DataFrame, folder: Path, label: str = "Label", **options: object):
    frame.to_csv(folder / "table.csv", index=False)
    return registry.create("dataset", "table", label=label, **options).load(folder)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_table_becomes_numbers_and_indicators(
    frame: pd.DataFrame, tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"table{suffix}"
    if suffix == ".csv":
        frame.to_csv(path, index=False)
    else:
        frame.to_parquet(path)
    data = Table("Label", path=path, drop=("id",)).load(None)
    assert data.x_train.shape == (80, 3 + 4)
    assert data.x_train.dtype == torch.float32
    assert data.x_train.is_contiguous()
    assert data.class_names == ("attack", "benign")
    assert data.y_train.bincount().tolist() == [20, 60]
    assert data.y_test.bincount().tolist() == [5, 15]
    assert data.notes == ("columns: 3 numbers, 1 of categories", "columns read: flag (true is 1)")
    assert not data.is_image
    # Indicators: tcp, udp, icmp by frequency, then "other", which nothing here is.
    indicators = torch.cat([data.x_train, data.x_test])[:, 3:]
    assert indicators.sum(dim=1).eq(1).all()
    expected = [(frame["protocol"] == name).sum() for name in ("tcp", "udp", "icmp")]
    assert indicators.sum(dim=0).tolist() == [*expected, 0]
    assert data.mean[3:] == (0.0,) * 4
    assert data.std[3:] == (1.0,) * 4


def test_scaling_uses_the_training_rows_alone(frame: pd.DataFrame, tmp_path: Path) -> None:
    data = load(frame, tmp_path, drop=("id",))
    scaled = (data.x_train - torch.tensor(data.mean)) / torch.tensor(data.std)
    assert scaled[:, 0].mean().item() == pytest.approx(0.0, abs=1e-5)
    assert scaled[:, 0].std(correction=0).item() == pytest.approx(1.0, abs=1e-4)
    assert data.mean[0] != pytest.approx(frame["bytes"].mean(), abs=1e-6)
    assert scaled[:, 1].abs().max() == 0.0, "a constant column stays finite"


def test_rows_belong_to_their_labels(tmp_path: Path) -> None:
    frame = pd.DataFrame({"x": np.arange(60.0), "y": np.arange(60) % 3})
    data = load(frame, tmp_path, "y")
    assert data.class_names == ("0", "1", "2")
    assert torch.equal(data.x_train[:, 0].long() % 3, data.y_train)
    assert torch.equal(data.x_test[:, 0].long() % 3, data.y_test)
    assert sorted(torch.cat([data.x_train, data.x_test])[:, 0].tolist()) == list(range(60))


def test_rare_and_unseen_and_missing_categories(tmp_path: Path) -> None:
    values = ["a"] * 50 + ["b"] * 30 + ["c"] * 10 + ["d"] * 6 + [None] * 4
    frame = pd.DataFrame({"v": values, "y": [0, 1] * 50})
    data = load(frame, tmp_path, "y", max_categories=2)
    both = torch.cat([data.x_train, data.x_test])
    assert both.shape == (100, 3)
    assert both.sum(dim=0).tolist() == [50, 30, 20]


def test_unusable_rows_are_dropped_and_counted(frame: pd.DataFrame, tmp_path: Path) -> None:
    frame.loc[2, "bytes"] = np.inf
    frame.loc[3, "bytes"] = 1e39  # beyond float32
    frame.loc[[5, 6], "Label"] = None
    data = load(frame, tmp_path)
    assert len(data.x_train) + len(data.x_test) == 96
    assert torch.isfinite(data.x_train).all()
    assert data.notes[:2] == (
        "2 of 100 rows dropped: no label",
        "2 of 100 rows dropped: infinite number",
    )


def test_whole_numbers_that_became_floats_keep_their_names(tmp_path: Path) -> None:
    labels = [0.0, 1.0] * 10 + [np.nan]
    data = load(pd.DataFrame({"x": range(21), "y": labels}), tmp_path, "y")
    assert data.class_names == ("0", "1")


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_the_header_tells_the_separator(
    frame: pd.DataFrame, tmp_path: Path, separator: str
) -> None:
    frame.to_csv(tmp_path / "t.csv", index=False, sep=separator)
    assert Table("Label").load(tmp_path).x_train.shape == (80, 4 + 4)


def test_names_are_stripped_of_blanks(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(" x , Label\n" + "1, a\n2, b \n" * 5)
    assert Table("Label").load(tmp_path).class_names == ("a", "b")


@pytest.mark.parametrize(
    ("options", "field", "says"),
    [
        ({"label": "label"}, "dataset.label", "did you mean 'Label'"),
        ({"drop": ("Id",)}, "dataset.drop", "did you mean 'id'"),
        ({"drop": ("Label",)}, "dataset.drop", "other than the label"),
        ({"label": "id"}, "dataset.label", "at least 2 rows each"),
        ({"label": "constant"}, "dataset.label", "at least 2 classes"),
        ({"test_fraction": 1.0}, "dataset.test_fraction", "< 1"),
        ({"max_categories": 0}, "dataset.max_categories", ">= 1"),
        ({"path": "other.csv"}, "dataset.path", "existing"),
        (
            {"drop": ("id", "bytes", "constant", "flag", "protocol")},
            "dataset.drop",
            "fewer columns",
        ),
    ],
)
def test_bad_options_end_in_one_line(
    frame: pd.DataFrame, tmp_path: Path, options: dict[str, object], field: str, says: str
) -> None:
    with pytest.raises(ConfigurationError, match=says) as caught:
        load(frame, tmp_path, **options)
    assert caught.value.field == field
    assert "\n" not in str(caught.value)


def test_the_label_is_demanded() -> None:
    with pytest.raises(ConfigurationError, match=r"dataset\.label"):
        registry.create("dataset", "table")


def test_the_folder_must_hold_one_table(frame: pd.DataFrame, tmp_path: Path) -> None:
    for missing in (None, tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ConfigurationError, match="one table, CSV"):
            Table("Label").load(missing)
    frame.to_csv(tmp_path / "a.csv")
    frame.to_csv(tmp_path / "b.csv")
    with pytest.raises(ConfigurationError, match="here 2"):
        Table("Label").load(tmp_path)
    assert len(Table("Label", path=Path("b.csv")).load(tmp_path).x_train) == 80


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv", b""),
        ("t.csv", b"a,b\n1,2\n1,2,3,4\n"),
        ("t.csv", b"a,b\x00\x01\n1,2"),
        ("t.csv", b"a,a\n1,2\n"),
        ("t.parquet", b"PAR1 but not really"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigurationError) as caught:
        Table("a").load(tmp_path)
    assert caught.value.field == "dataset.path"
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not FLOWS.is_dir(), reason=f"no network flows in {FLOWS}")
def test_real_network_flows() -> None:
    data = Table("Label", path=FLOWS / "sample_flows.parquet").load(None)
    assert len(data.x_train) + len(data.x_test) == 18_000
    assert data.x_train.shape[1] == 36
    assert data.num_classes == 3
    scaled = (data.x_train - torch.tensor(data.mean)) / torch.tensor(data.std)
    assert torch.isfinite(scaled).all()
    assert scaled.std(dim=0).max() == pytest.approx(1.0, abs=0.05)
