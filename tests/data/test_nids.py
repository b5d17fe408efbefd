from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from fedguard import registry
from fedguard.data.flows import CELL, HEAVY_TAIL, LIMIT
from fedguard.data.nsl_kdd import COLUMNS, FAMILIES, NslKdd
from fedguard.errors import ConfigurationError

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"

DARKNET_COLUMNS = (
    *("Flow ID", "Src IP", "Src Port", "Dst IP", "Dst Port", "Protocol", "Timestamp"),
    *("Flow Duration", "Total Fwd Packet", "Total Bwd packets"),
    *("Total Length of Fwd Packet", "Total Length of Bwd Packet"),
    *(f"{way} Packet Length {what}" for way in ("Fwd", "Bwd") for what in ("Max", "Min", "Mean")),
    *("Fwd Packet Length Std", "Bwd Packet Length Std", "Flow Bytes/s", "Flow Packets/s"),
    *(f"Flow IAT {what}" for what in ("Mean", "Std", "Max", "Min")),
)


def shared(name: str) -> Path:
    folder = SHARED / name
    if not folder.is_dir():
        pytest.skip(f"needs the files of {name}")
    return folder


def flows(rows: int = 240, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame({f"Feature {k}": rng.normal(size=rows) for k in range(24)})
    frame["Flow Bytes/s"] = rng.lognormal(8.0, 3.0, rows)
    frame["Dst Port"] = rng.integers(1, 65535, rows)
    frame["Timestamp"] = "14/02/2018 08:31:01"
    frame["Label"] = np.where(np.arange(rows) % 3 == 0, "Benign", "Bot")
    return frame


def day(frame: pd.DataFrame, folder: Path, name: str = "02-14-2018.csv") -> Path:
    frame.to_csv(folder / name, index=False)
    return folder


def ids2018(folder: Path, **options: object):
    options = {"reference_rows": 40, **options}
    return registry.create("dataset", "cse-cic-ids2018", **options).load(folder)


# --- what all flow data sets share ------------------------------------------------------------


def test_rows_that_cannot_be_used_are_dropped_and_counted(tmp_path):
    frame = flows()
    frame.loc[3, "Flow Bytes/s"] = np.inf
    frame.loc[5, "Feature 1"] = np.nan
    frame = frame.astype(object)
    frame.loc[7] = list(frame.columns)  # official day files repeat their header
    data = ids2018(day(frame, tmp_path))
    assert len(data.y_train) + len(data.y_test) == 240 - 3 - 40
    text = " ".join(data.notes)
    assert "1 rows dropped: no label" in text
    assert "2 of 240 rows dropped: missing or infinite number" in text
    assert "identifiers dropped: dst port, timestamp" in text
    assert data.x_train.shape[1] == 25
    assert bool(torch.isfinite(data.x_train).all())


def test_near_duplicates_stay_on_one_side(tmp_path):
    frame = flows()
    twin = frame.copy()
    twin["Feature 0"] += 1e-7
    data = ids2018(day(pd.concat([frame, twin], ignore_index=True), tmp_path))
    assert len(data.y_train) + len(data.y_test) <= 240
    std = torch.tensor(data.std)
    near = torch.cdist(data.x_train / std, data.x_test / std)
    assert float(near.min()) > CELL / 2


def test_scaling_comes_from_rows_that_no_client_holds(tmp_path):
    frame = flows()
    data = ids2018(day(frame, tmp_path))
    mean, std = np.array(data.mean), np.array(data.std)
    # With other training rows, outliers among them, the scaling is what it was.
    values = data.x_train.numpy()
    assert abs(values.mean(axis=0) - mean).max() > 1e-6
    assert len(data.y_train) + len(data.y_test) + 40 == 240
    scaled = (values - mean) / std
    assert abs(scaled).max() <= LIMIT + 1e-4
    assert frame["Flow Bytes/s"].max() > HEAVY_TAIL
    column = list(frame.columns).index("Flow Bytes/s")
    assert values[:, column].max() < 30  # on a logarithmic scale


def test_day_files_are_joined_on_their_common_columns(tmp_path):
    day(flows(seed=1), tmp_path)
    extra = flows(seed=2).assign(**{"Flow ID": "x", "Src IP": "10.0.0.1"})
    day(extra, tmp_path, "Tuesday-20-02-2018_TrafficForML_CICFlowMeter.csv")
    data = ids2018(tmp_path, classes="binary", rows_per_class=60)
    assert data.class_names == ("Attack", "Benign")
    assert len(data.y_train) + len(data.y_test) == 120 - 30  # a quarter at most is reference
    assert data.x_train.shape[1] == 25


def test_rare_labels_are_dropped_with_a_note(tmp_path):
    frame = flows()
    frame.loc[:9, "Label"] = "SQL Injection"
    data = ids2018(day(frame, tmp_path))
    assert data.class_names == ("Benign", "Bot")
    assert any("SQL Injection" in note for note in data.notes)


@pytest.mark.parametrize("name", ["nsl-kdd", "cse-cic-ids2018", "cic-darknet2020"])
def test_missing_files_are_one_line(name, tmp_path):
    for folder in (None, tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ConfigurationError, match="data_dir"):
            registry.create("dataset", name).load(folder)


def test_a_day_file_without_labels_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="Label"):
        ids2018(day(flows().drop(columns="Label"), tmp_path))


# --- NSL-KDD ----------------------------------------------------------------------------------


def connections(rows: int, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    attacks = ["normal", "neptune", "satan", "guess_passwd", "rootkit"]
    frame = pd.DataFrame(rng.random((rows, 43)), columns=list(COLUMNS))
    frame["protocol_type"] = rng.choice(["tcp", "udp"], rows)
    frame["service"] = rng.choice(["http", "smtp", "ftp"], rows)
    frame["flag"] = rng.choice(["SF", "S0"], rows)
    frame["src_bytes"] = rng.lognormal(6.0, 3.0, rows)
    frame["attack"] = [attacks[row % 5] for row in range(rows)]
    return frame


def test_nsl_kdd_reads_the_official_layout(tmp_path):
    train, test = connections(300, 0), connections(100, 1)
    test.loc[0, "service"] = "never seen"
    test.loc[1, "attack"] = "mscan"
    train.to_csv(tmp_path / "KDDTrain+_20Percent.txt", header=False, index=False)
    test.to_csv(tmp_path / "KDDTest+.txt", header=False, index=False)
    data = NslKdd(reference_rows=60).load(tmp_path)
    assert data.class_names == ("normal", "dos", "probe", "r2l", "u2r")
    assert len(data.y_train) == 240
    assert data.y_test.tolist()[:5] == [0, 2, 2, 3, 4]
    # 38 numbers, and one indicator per category and one for others: protocol, service, flag.
    assert data.x_train.shape[1] == 38 + 3 + 4 + 3
    assert float(data.x_test[0, 38 + 3 + 3]) == 1.0
    assert float(data.x_test[1:, 38 + 3 + 3].sum()) == 0.0
    train.to_csv(tmp_path / "KDDTrain+.txt", header=False, index=False)
    binary = NslKdd(classes="binary", split="stratified").load(tmp_path)
    assert binary.class_names == ("normal", "attack")


def test_training_rows_that_are_also_test_rows_are_dropped(tmp_path):
    train = connections(300, 0)
    train.to_csv(tmp_path / "KDDTrain+.txt", header=False, index=False)
    train.iloc[:200].to_csv(tmp_path / "KDDTest+.txt", header=False, index=False)
    data = NslKdd(reference_rows=60).load(tmp_path)
    assert len(data.y_train) <= 100
    assert len(data.y_test) == 200


def test_an_unknown_attack_or_layout_is_refused(tmp_path):
    frame = connections(50, 0)
    frame.loc[0, "attack"] = "heartbleed"
    frame.to_csv(tmp_path / "KDDTrain+.txt", header=False, index=False)
    with pytest.raises(ConfigurationError, match="heartbleed"):
        NslKdd(split="stratified").load(tmp_path)
    frame.iloc[:, :30].to_csv(tmp_path / "KDDTrain+.txt", header=False, index=False)
    with pytest.raises(ConfigurationError, match="43 columns, not 30"):
        NslKdd(split="stratified").load(tmp_path)


def test_every_attack_has_one_class():
    attacks = [attack for found in FAMILIES.values() for attack in found]
    assert len(attacks) == len(set(attacks)) == 40


# --- CIC-Darknet2020 --------------------------------------------------------------------------


def darknet(rows: int = 160) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.lognormal(3.0, 2.0, (rows, len(DARKNET_COLUMNS))))
    frame.columns = list(DARKNET_COLUMNS)
    for name in ("Flow ID", "Src IP", "Dst IP", "Timestamp"):
        frame[name] = "text"
    frame["Label"] = [("Non-Tor", "NonVPN", "Tor", "VPN")[row % 4] for row in range(rows)]
    frame["Label.1"] = [
        ("AUDIO-STREAMING", "Audio-Streaming", "VOIP")[row % 3] for row in range(rows)
    ]
    return frame


@pytest.mark.parametrize(
    ("classes", "names"),
    [
        ("traffic", ("Non-Tor", "NonVPN", "Tor", "VPN")),
        ("application", ("audio-streaming", "voip")),
        ("darknet", ("Benign", "Darknet")),
    ],
)
def test_darknet_has_three_tasks(tmp_path, classes, names):
    darknet().to_csv(tmp_path / "Darknet.CSV", index=False)
    options = {"classes": classes, "reference_rows": 20}
    data = registry.create("dataset", "cic-darknet2020", **options).load(tmp_path)
    assert data.class_names == names
    assert data.x_train.shape[1] == len(DARKNET_COLUMNS) - 6
    assert data.name == "cic-darknet2020"


# --- the real files ---------------------------------------------------------------------------


def test_the_real_files_load():
    data = NslKdd().load(shared("nsl-kdd"))
    assert len(data.y_test) == 22_544
    assert 20_000 < len(data.y_train) < 24_192
    assert data.y_test.bincount().tolist() == [9711, 7460, 2421, 2885, 67]


def test_the_real_samples_of_ids2018_load_without_the_overlapping_one():
    data = ids2018(shared("cse-cic-ids2018"))
    assert data.class_names[0] == "Benign"
    assert data.num_classes == 4
    assert len(data.y_train) + len(data.y_test) < 12_053


def test_the_parent_data_of_darknet_load():
    options = {"classes": "application", "file": "TimeBased*.csv"}
    loader = registry.create("dataset", "cic-darknet2020", **options)
    data = loader.load(shared("iscxtor2016"))
    assert data.num_classes == 8
    assert data.x_train.shape[1] == 24
