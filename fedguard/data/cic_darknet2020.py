"""CIC-Darknet2020: flows through Tor and VPN beside ordinary ones."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

import pandas as pd

from fedguard.data.dataset import Dataset
from fedguard.data.flows import FlowOptions, clean, find_files, read_flows, to_dataset
from fedguard.errors import ConfigurationError, check_choice

Classes = Literal["traffic", "application", "darknet"]

_TRAFFIC = ("label",)
_APPLICATION = ("label.1", "label1", "label2", "label")
_LABELS = frozenset({"label", "label.1", "label1", "label2", "label3"})

_SPELLINGS = {
    "audio": "audio-streaming",
    "audio-stream": "audio-streaming",
    "mail": "email",
    "transfer": "file-transfer",
    "video": "video-streaming",
    "video-stream": "video-streaming",
}
"""Other spellings of the applications, lower case; the file itself mixes cases."""


class CicDarknet2020:
    """CIC-Darknet2020, about 77 features of a flow, by kind of traffic or by application.

    Lashkari, Kaur and Rahali, "DIDarknet: A Contemporary Approach to Detect and Characterize the
    Darknet Traffic using Deep Image Learning", ICCNS 2020. It merges ISCXTor2016 and ISCXVPN2016,
    whose own CSV files are read as well, one file at a time. Cleaning and scaling are told at
    `fedguard.data.flows`; the split is by class, after near-duplicates were dropped.

    Parameters
    ----------
    classes : str
        ``"traffic"``: Non-Tor, NonVPN, Tor and VPN (the file's first label);
        ``"application"``: the eight applications (its second, or a parent file's only label);
        ``"darknet"``: Benign (Non-Tor, NonVPN) and Darknet (Tor, VPN).
    file : str
        Name of the file, with ``*`` for any characters.
    test_fraction : float
        Share of each class that becomes test rows, in (0, 1).
    rows_per_class : int, optional
        Most rows of one class; all if left out.
    reference_rows : int
        Training rows set aside for the scaling, >= 2.
    """

    looks_for: ClassVar[tuple[str, ...]] = ("*Darknet*.csv",)

    def __init__(
        self,
        classes: Classes = "traffic",
        file: str = "*Darknet*.csv",
        test_fraction: float = 0.25,
        rows_per_class: int | None = None,
        reference_rows: int = 500,
    ) -> None:
        check_choice("classes", classes, ("traffic", "application", "darknet"))
        self.classes = classes
        self.file = file
        self.options = FlowOptions(test_fraction, rows_per_class, reference_rows)

    def load(self, data_dir: Path | None) -> Dataset:
        """Return the data set from its CSV file under `data_dir`.

        Raises
        ------
        ConfigurationError
            On ``data_dir`` if the file is missing or has no label column of that kind.
        """
        path = find_files(data_dir, [self.file], f"the file {self.file}")[0]
        frame = read_flows(path)
        candidates = _APPLICATION if self.classes == "application" else _TRAFFIC
        found = [name for name in candidates if name in frame.columns]
        if not found:
            raise ConfigurationError("data_dir", str(path), f"a file with a column {candidates[0]}")
        labels = self._labels(frame[found[0]])
        features = frame.drop(columns=[name for name in frame.columns if name in _LABELS])
        features, labels, notes = clean(features, labels)
        return to_dataset("cic-darknet2020", (features, labels), None, self.options, notes=notes)

    def _labels(self, column: pd.Series) -> pd.Series:
        texts = column.astype("string").str.strip()
        if self.classes == "application":
            return texts.str.lower().replace(_SPELLINGS)
        if self.classes == "darknet":
            names = {"tor": "Darknet", "vpn": "Darknet", "non-tor": "Benign", "nonvpn": "Benign"}
            return texts.str.lower().map(names)
        return texts
