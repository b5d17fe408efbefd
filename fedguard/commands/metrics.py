"""Shows the runs of a folder to Prometheus: ``python -m fedguard.commands.metrics runs``.

Reads the run directories and asks nobody else, so it works for a federation's server, for several
runs at once and for one whose process has died. Needs the extra ``metrics``.
"""

from __future__ import annotations

import argparse
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from fedguard.records.reader import OUTCOMES, mapping, number
from fedguard.records.writer import read_jsonl

COUNTS = ("asked", "answered", "failed", "set_aside", "rejected", "accepted")
"""Counts of a round's replies in ``rounds.jsonl``."""

HEADLINES = ("accuracy", "loss", "attack_success_rate", "true_positive_rate", "false_positive_rate")
"""What is shown of the last round's measurements, where the run has it."""

REASONS = 30
"""Reasons shown of a run, the commonest ones; the others are counted together."""


def general(reason: object) -> str:
    """Return a reason without its numbers: one that names a distance is the same each round.

    A client may have a word in it, so it is short and holds no character that shows nothing.
    """
    text = re.sub(r"[-+]?\d[\d.,]*(e[-+]?\d+)?", "#", str(reason or "none given"))
    return " ".join("".join(c for c in text if c.isprintable()).split())[:80]


class Runs:
    """A collector of prometheus_client's over the run directories of a folder.

    Parameters
    ----------
    folder : Path
        Holds one folder per run.
    newest : int
        How many runs are shown, those with the latest records.
    """

    def __init__(self, folder: Path, newest: int = 20) -> None:
        self.folder = folder
        self.newest = newest

    def collect(self) -> Iterable[Any]:
        """Yield the metrics of all runs."""
        from prometheus_client.core import CounterMetricFamily as Counts
        from prometheus_client.core import GaugeMetricFamily as Gauge

        last = Gauge("fedguard_round", "Last round recorded", labels=["run"])
        planned = Gauge("fedguard_rounds_planned", "Rounds asked for", labels=["run"])
        finished = Gauge("fedguard_run_finished", "Whether the summary is written", labels=["run"])
        age = Gauge("fedguard_record_age_seconds", "Since the last record", labels=["run"])
        seconds = Gauge("fedguard_round_seconds", "Length of the last round", labels=["run"])
        figures = Gauge("fedguard_figure", "The last round's", labels=["run", "figure"])
        replies = Counts("fedguard_replies", "Replies so far", labels=["run", "outcome"])
        reasons = Counts(
            "fedguard_turned_away",
            "Replies that did not count, by reason",
            labels=["run", "outcome", "reason"],
        )
        for run in self._runs():
            rounds = [r for r in _records(run / "rounds.jsonl") if number(r.get("round"))]
            latest = rounds[-1] if rounds else {}
            name = [run.name]
            last.add_metric(name, number(latest.get("round")) or 0.0)
            planned.add_metric(name, _planned(run))
            finished.add_metric(name, float((run / "summary.json").exists()))
            age.add_metric(name, max(time.time() - _touched(run), 0.0))
            seconds.add_metric(name, number(latest.get("seconds")) or 0.0)
            for figure in HEADLINES:
                if (value := number(latest.get(figure))) is not None:
                    figures.add_metric([*name, figure], value)
            for count in COUNTS:
                total = sum(number(record.get(count)) or 0.0 for record in rounds)
                replies.add_metric([*name, count], total)
            for (outcome, reason), times in _turned_away(run).items():
                reasons.add_metric([*name, outcome, reason], times)
        yield from (last, planned, finished, age, seconds, figures, replies, reasons)

    def _runs(self) -> list[Path]:
        found = [path.parent for path in self.folder.glob("*/config.yaml")]
        return sorted(found, key=_touched)[-self.newest :]


def _touched(run: Path) -> float:
    records = [path for path in (run / "rounds.jsonl", run / "config.yaml") if path.exists()]
    return records[0].stat().st_mtime if records else 0.0


def _records(path: Path) -> list[dict[str, Any]]:
    try:
        return [mapping(record) for record in read_jsonl(path)]
    except (OSError, UnicodeDecodeError):
        return []


def _planned(run: Path) -> float:
    try:
        config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return 0.0
    return number(mapping(config).get("rounds")) or 0.0


def _turned_away(run: Path) -> dict[tuple[str, str], int]:
    told: Counter[tuple[str, str]] = Counter()
    for record in _records(run / "clients.jsonl"):
        outcome = record.get("outcome")
        if outcome in OUTCOMES and outcome != "accepted":
            told[str(outcome), general(record.get("reason"))] += 1
    shown = dict(told.most_common(REASONS))
    for (outcome, _), times in told.most_common()[REASONS:]:
        shown[outcome, "other"] = shown.get((outcome, "other"), 0) + times
    return shown


def main(arguments: list[str] | None = None) -> int:
    """Serve the metrics until the process is ended; return 2 where it cannot."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="holds one folder per run")
    parser.add_argument("--listen", default="127.0.0.1:9464", help="address and port")
    parser.add_argument("--newest", type=int, default=20, help="number of runs shown")
    options = parser.parse_args(arguments)
    host, _, port = options.listen.rpartition(":")
    try:
        from prometheus_client import CollectorRegistry, start_http_server
    except ModuleNotFoundError:
        print("fedguard: metrics need: pip install 'fedguard[metrics]'", file=sys.stderr)
        return 2
    if not host or not port.isdigit() or options.newest < 1:
        print("fedguard: --listen is HOST:PORT, --newest at least 1", file=sys.stderr)
        return 2
    registry = CollectorRegistry()
    registry.register(Runs(options.folder, options.newest))
    try:
        start_http_server(int(port), host, registry)
    except (OSError, OverflowError) as error:
        print(f"fedguard: cannot listen at {options.listen}: {error}", file=sys.stderr)
        return 2
    print(f"metrics of the runs in {options.folder} at http://{options.listen}/metrics", flush=True)
    threading.Event().wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
