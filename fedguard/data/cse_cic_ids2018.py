"""CSE-CIC-IDS2018: flows of a network under fourteen attacks."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

import pandas as pd

from fedguard.data.dataset import Dataset
from fedguard.data.flows import FlowOptions, clean, find_files, read_flows, to_dataset
from fedguard.errors import ConfigurationError, check_choice

Classes = Literal["attacks", "binary"]

PATTERNS = (
    "*_TrafficForML_CICFlowMeter.csv",
    "*_TrafficForML_CICFlowMeter.parquet",
    "[0-9][0-9]-[0-9][0-9]-2018.csv",
)
"""Names of the official day files and of their Parquet copies."""

_FEWEST_COLUMNS = 20


class CseCicIds2018:
    """CSE-CIC-IDS2018, about 77 features of a flow, classes Benign and the attacks.

    Sharafaldin, Lashkari and Ghorbani, "Toward Generating a New Intrusion Detection Dataset and
    Intrusion Traffic Characterization", ICISSP 2018. All day files in the folder are read, or
    those of `files`; columns that not all of them have are dropped. Ports are dropped with the
    other identifiers, because in a test bed they tell the attack. Cleaning and scaling are told
    at `fedguard.data.flows`; the split is by class, after near-duplicates were dropped.

    Parameters
    ----------
    classes : str
        ``"attacks"``: every label with 20 rows or more; ``"binary"``: Benign and Attack.
    files : tuple of str
        Names of the files to read; all official day files if left out.
    test_fraction : float
        Share of each class that becomes test rows, in (0, 1).
    rows_per_class : int, optional
        Most rows of one class, per file and in all, such as to thin Benign; all if left out.
    reference_rows : int
        Training rows set aside for the scaling, >= 2.
    """

    looks_for: ClassVar[tuple[str, ...]] = PATTERNS

    def __init__(
        self,
        classes: Classes = "attacks",
        files: tuple[str, ...] = (),
        test_fraction: float = 0.25,
        rows_per_class: int | None = None,
        reference_rows: int = 500,
    ) -> None:
        check_choice("classes", classes, ("attacks", "binary"))
        self.classes = classes
        self.files = files
        self.options = FlowOptions(test_fraction, rows_per_class, reference_rows)

    def load(self, data_dir: Path | None) -> Dataset:
        """Return the data set from the day files under `data_dir`.

        Raises
        ------
        ConfigurationError
            On ``data_dir`` if there is no day file, or the files share too few columns.
        """
        what = ", ".join(self.files) or "CSE-CIC-IDS2018 day files such as 02-14-2018.csv"
        frames = []
        for path in find_files(data_dir, self.files or PATTERNS, what):
            frame = read_flows(path)
            if "label" not in frame.columns:
                raise ConfigurationError("data_dir", str(path), "files with a column Label")
            frames.append(_thinned(frame, self.options.rows_per_class))
        together = pd.concat(frames, join="inner", ignore_index=True)
        if together.shape[1] < _FEWEST_COLUMNS:
            allowed = f"files that share their column names; these share {together.shape[1]}"
            raise ConfigurationError("data_dir", str(data_dir), allowed)
        labels = together.pop("label")
        features, labels, notes = clean(together, labels)
        if self.classes == "binary":
            labels = labels.where(labels.str.lower() != "benign", "Benign")
            labels = labels.where(labels == "Benign", "Attack")
        return to_dataset("cse-cic-ids2018", (features, labels), None, self.options, notes=notes)


def _thinned(frame: pd.DataFrame, most: int | None) -> pd.DataFrame:
    """Return at most so many rows of each label, drawn the same way every time."""
    if most is None:
        return frame
    shuffled = frame.sample(frac=1.0, random_state=0)
    return shuffled.groupby(shuffled["label"].astype(str)).head(most).sort_index()
