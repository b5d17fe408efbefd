"""NSL-KDD: connections of a simulated network, in five classes."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

import pandas as pd

from fedguard.data.dataset import Dataset
from fedguard.data.flows import FlowOptions, clean, find_files, to_dataset
from fedguard.errors import ConfigurationError, check_choice

Classes = Literal["five", "binary"]
Split = Literal["official", "stratified"]

FAMILIES: dict[str, tuple[str, ...]] = {
    "normal": ("normal",),
    "dos": (
        *("back", "land", "neptune", "pod", "smurf", "teardrop", "apache2", "udpstorm"),
        *("processtable", "worm", "mailbomb"),
    ),
    "probe": ("satan", "ipsweep", "nmap", "portsweep", "mscan", "saint"),
    "r2l": (
        *("guess_passwd", "ftp_write", "imap", "phf", "multihop", "warezmaster", "warezclient"),
        *("spy", "xlock", "xsnoop", "snmpguess", "snmpgetattack", "httptunnel", "sendmail"),
        "named",
    ),
    "u2r": (
        *("buffer_overflow", "loadmodule", "rootkit", "perl", "sqlattack", "xterm"),
        "ps",
    ),
}
"""Attacks of the training and the test files by class, in class order."""

COLUMNS = (
    *("duration", "protocol_type", "service", "flag", "src_bytes", "dst_bytes", "land"),
    *("wrong_fragment", "urgent", "hot", "num_failed_logins", "logged_in", "num_compromised"),
    *("root_shell", "su_attempted", "num_root", "num_file_creations", "num_shells"),
    *("num_access_files", "num_outbound_cmds", "is_host_login", "is_guest_login", "count"),
    *("srv_count", "serror_rate", "srv_serror_rate", "rerror_rate", "srv_rerror_rate"),
    *("same_srv_rate", "diff_srv_rate", "srv_diff_host_rate", "dst_host_count"),
    *("dst_host_srv_count", "dst_host_same_srv_rate", "dst_host_diff_srv_rate"),
    *("dst_host_same_src_port_rate", "dst_host_srv_diff_host_rate", "dst_host_serror_rate"),
    *("dst_host_srv_serror_rate", "dst_host_rerror_rate", "dst_host_srv_rerror_rate"),
    *("attack", "difficulty"),
)
"""Columns of the files, which have no header; the last is left out of some copies."""

_CATEGORICAL = ("protocol_type", "service", "flag")


class NslKdd:
    """NSL-KDD, 41 features of a connection, classes normal, dos, probe, r2l and u2r.

    Tavallaee, Bagheri, Lu and Ghorbani, "A Detailed Analysis of the KDD CUP 99 Data Set", CISDA
    2009. The difficulty column, which was made with the labels, is not used. The official test
    set holds attacks that the training set does not, so that no model does well on r2l and u2r.
    Cleaning and scaling are told at `fedguard.data.flows`.

    Parameters
    ----------
    classes : str
        ``"five"``, or ``"binary"``: normal and attack.
    split : str
        ``"official"``: trained on the training file, tested on `test_file`; ``"stratified"``: the
        training file is split by class and the test file not read.
    train_file : str, optional
        Name of the training file; ``KDDTrain+.txt`` or else ``KDDTrain+_20Percent.txt`` if left
        out.
    test_file : str
        Name of the test file.
    test_fraction : float
        Share of each class that becomes test rows under ``"stratified"``, in (0, 1).
    rows_per_class : int, optional
        Most training rows of one class; all if left out.
    reference_rows : int
        Training rows set aside for the scaling, >= 2.
    """

    looks_for: ClassVar[tuple[str, ...]] = ("KDDTrain+*.txt",)

    def __init__(
        self,
        classes: Classes = "five",
        split: Split = "official",
        train_file: str | None = None,
        test_file: str = "KDDTest+.txt",
        test_fraction: float = 0.25,
        rows_per_class: int | None = None,
        reference_rows: int = 1000,
    ) -> None:
        check_choice("classes", classes, ("five", "binary"))
        check_choice("split", split, ("official", "stratified"))
        self.classes = classes
        self.split = split
        self.train_file = train_file
        self.test_file = test_file
        self.options = FlowOptions(test_fraction, rows_per_class, reference_rows)

    def load(self, data_dir: Path | None) -> Dataset:
        """Return the data set from the official text files under `data_dir`.

        Raises
        ------
        ConfigurationError
            On ``data_dir`` if a file is missing, cannot be read or names an unknown attack.
        """
        wanted = [self.train_file] if self.train_file else ["KDDTrain+.txt", "KDDTrain+_*.txt"]
        files = find_files(data_dir, wanted, "KDDTrain+.txt or KDDTrain+_20Percent.txt")
        train = self._read(min(files, key=lambda path: len(path.name)))
        notes = train[2]
        test = None
        if self.split == "official":
            found = self._read(find_files(data_dir, [self.test_file], self.test_file)[0])
            test = found[:2]
            notes = [*notes, *(f"test file: {note}" for note in found[2])]
        names = tuple(FAMILIES) if self.classes == "five" else ("normal", "attack")
        return to_dataset(
            "nsl-kdd",
            train[:2],
            test,
            self.options,
            classes=names,
            categorical=_CATEGORICAL,
            notes=notes,
        )

    def _read(self, path: Path) -> tuple[pd.DataFrame, pd.Series, list[str]]:
        try:
            frame = pd.read_csv(path, header=None, skipinitialspace=True)
        except (OSError, ValueError, UnicodeError, pd.errors.ParserError) as error:
            reason = " ".join(str(error).split())[:160]
            allowed = f"a readable file of NSL-KDD ({reason})"
            raise ConfigurationError("data_dir", str(path), allowed) from error
        if frame.shape[1] not in (len(COLUMNS), len(COLUMNS) - 1):
            allowed = f"a file of NSL-KDD with {len(COLUMNS)} columns, not {frame.shape[1]}"
            raise ConfigurationError("data_dir", str(path), allowed)
        frame.columns = pd.Index(COLUMNS[: frame.shape[1]])
        attacks = frame.pop("attack").astype(str).str.strip().str.lower()
        features = frame.drop(columns="difficulty", errors="ignore")
        return clean(features, attacks.map(self._classes_of(attacks, path)), _CATEGORICAL)

    def _classes_of(self, attacks: pd.Series, path: Path) -> dict[str, str]:
        families = {attack: family for family, found in FAMILIES.items() for attack in found}
        unknown = sorted(set(attacks) - set(families))
        if unknown:
            raise ConfigurationError("data_dir", str(path), f"known attacks, not {unknown[0]!r}")
        if self.classes == "binary":
            return {a: "normal" if f == "normal" else "attack" for a, f in families.items()}
        return families
