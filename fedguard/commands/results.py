"""What a run, a campaign and a comparison left, for Python: frames, tensors, pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedguard.errors import RunError

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from fedguard.reporting.comparison import Comparison as Compared
    from fedguard.reporting.comparison import Missing


@dataclass(frozen=True)
class Page:
    """A page that opens without a network, and shows inside a notebook.

    Attributes
    ----------
    path : Path
        The HTML file.
    height : int
        Of its frame in a notebook, in pixels.
    """

    path: Path
    height: int = 800

    def _repr_html_(self) -> str:
        from fedguard.reporting.notebook import inline

        return inline(self.path, self.height)


@dataclass(frozen=True, repr=False)
class Result:
    """What a run left in its directory; files are read when they are asked for.

    Attributes
    ----------
    directory : Path
        The run directory.
    """

    directory: Path

    @cached_property
    def summary(self) -> dict[str, Any]:
        """The content of ``summary.json``; empty where the run has not finished."""
        from fedguard.records.reader import read_run

        return read_run(self.directory, clients=False).summary

    @property
    def rounds(self) -> pd.DataFrame:
        """One row per round, a column per figure; see `fedguard.reporting.notebook.frames`."""
        return self._frames[0]

    @property
    def clients(self) -> pd.DataFrame:
        """One row per round and client asked: who was accepted, with which weight and scores."""
        return self._frames[1]

    @cached_property
    def _frames(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        from fedguard.reporting.notebook import frames

        return frames(self.directory)

    @cached_property
    def model(self) -> dict[str, Tensor]:
        """The final model's tensors by name, as ``Module.load_state_dict`` takes them.

        Raises
        ------
        RunError
            If the run has not finished.
        """
        from safetensors.torch import load_file

        path = self.directory / "model.safetensors"
        if not path.is_file():
            raise RunError(f"{self.directory} holds no model: the run has not finished")
        found: dict[str, Tensor] = load_file(path)
        return found

    def report(self, height: int = 800) -> Page:
        """Write ``report.html`` into the run directory; a notebook shows what is returned.

        Parameters
        ----------
        height : int
            Of its frame in a notebook, in pixels, at least 1.
        """
        from fedguard.reporting.report import write_report

        return Page(write_report(self.directory), height)

    def __repr__(self) -> str:
        from fedguard.reporting.headline import Headline
        from fedguard.reporting.wording import setting

        if not self.summary:
            return f"Result({str(self.directory)!r}, unfinished)"
        lead = Headline.of(self.summary)
        reached = lead.labelled(self.summary.get("final", {}).get(lead.name))
        return f"Result({str(self.directory)!r}, {setting(self.summary)}: {reached})"


@dataclass(frozen=True, repr=False)
class Sweep:
    """What a campaign left.

    Attributes
    ----------
    folder : Path
        The campaign's folder.
    results : sequence of Result
        The finished runs, in the order of the grid.
    failed : mapping of str to str
        Directories of the runs that failed, each with its error.
    choices : mapping of str to mapping
        What the grid chose for each run, by the name of its directory.
    """

    folder: Path
    results: Sequence[Result]
    failed: Mapping[str, str] = field(default_factory=dict)
    choices: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row per finished run: what the grid chose, the last round's figures, directory."""
        import pandas as pd

        return pd.DataFrame([self._row(result.directory) for result in self.results])

    def _row(self, directory: Path) -> dict[str, Any]:
        from fedguard.campaigns.campaign import spell
        from fedguard.records.reader import read_run
        from fedguard.reporting.comparison_runs import Entry

        chosen = {
            name: spell(value) if isinstance(value, Mapping) else value
            for name, value in self.choices.get(directory.name, {}).items()
        }
        figures = Entry(read_run(directory, clients=False), {}).metrics
        return {**chosen, **figures, "directory": str(directory)}

    def compare(self) -> Comparison:
        """Compare the campaign's finished runs."""
        return Comparison.of([self])

    def _repr_html_(self) -> str:
        return str(self.table.to_html(index=False))

    def __repr__(self) -> str:
        failed = f", {len(self.failed)} failed" if self.failed else ""
        return f"Sweep({str(self.folder)!r}, {len(self.results)} runs done{failed})"


@dataclass(frozen=True, repr=False)
class Comparison:
    """Runs side by side.

    Attributes
    ----------
    found : sequence of fedguard.reporting.comparison.Comparison
        One for each data set, number of rounds and headline.
    missing : sequence of Missing
        Runs that could not be compared, and why.
    """

    found: Sequence[Compared]
    missing: Sequence[Missing]

    @classmethod
    def of(cls, runs: Sequence[Path | str | Result | Sweep]) -> Comparison:
        """Return the comparison of run directories, campaign folders and results."""
        from fedguard.reporting import comparison

        entries, missing = comparison.find_runs(path for run in runs for path in _paths(run))
        return cls(comparison.compare(entries), missing)

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row per defence, best first: mean, worst case and where, detection, rank, time."""
        import pandas as pd

        from fedguard.reporting.comparison_text import as_plain

        plain = as_plain(self.found, self.missing)["comparisons"]
        return pd.DataFrame(
            [{"world": one["title"], **standing} for one in plain for standing in one["standings"]]
        )

    @cached_property
    def groups(self) -> pd.DataFrame:
        """One row per defence and scenario: mean, deviation, low and high over the seeds."""
        import pandas as pd

        from fedguard.reporting.comparison_text import group_rows

        return pd.DataFrame([row for one in self.found for row in group_rows(one)])

    def report(self, path: Path | str, height: int = 800) -> Page:
        """Write the comparison's page; a notebook shows what is returned.

        Parameters
        ----------
        path : path
            The HTML file to write.
        height : int
            Of its frame in a notebook, in pixels, at least 1.
        """
        from fedguard.reporting.comparison_page import write_page

        write_page(Path(path), self.found, self.missing)
        return Page(Path(path), height)

    def _repr_html_(self) -> str:
        return str(self.table.to_html(index=False))

    def __repr__(self) -> str:
        runs = sum(len(one.entries) for one in self.found)
        worlds = "; ".join(one.title for one in self.found)
        missing = f", {len(self.missing)} not in it" if self.missing else ""
        return f"Comparison({runs} runs, {worlds}{missing})"


def _paths(run: Path | str | Result | Sweep) -> list[Path]:
    if isinstance(run, Sweep):
        return [result.directory for result in run.results]
    return [run.directory if isinstance(run, Result) else Path(run)]
