"""Where a run is written: never over another run's results."""

from __future__ import annotations

from pathlib import Path

from fedguard.config import LENGTH, PLACE, SimulationConfig, load_yaml
from fedguard.errors import ConfigurationError


def choose_directory(config: SimulationConfig, out: Path | None, resume: bool) -> Path:
    """Return the run directory; never one that holds another run's results.

    Raises
    ------
    ConfigurationError
        If `out` holds a run and this is no resumption of it.
    """
    if out is None:
        name = f"{config.strategy.name}-{config.attack.name}-{config.dataset.name}"
        stem = name.replace("/", "_").replace(":", "_")
        base = Path("runs") / f"{stem}-s{config.seed}-{config.digest()[:8]}"
        if resume or not _holds_run(base):
            return base
        numbers = iter(range(2, 1_000_000))
        return next(p for n in numbers if not _holds_run(p := Path(f"{base}-{n}")))
    if out.exists() and not out.is_dir():
        raise ConfigurationError("out", str(out), "a folder")
    if _holds_run(out) and not resume:
        raise ConfigurationError(
            "out", str(out), "a folder without a run, or --resume to go on with the one in it"
        )
    if _holds_run(out):
        _check_same(config, out)
    return out


def _holds_run(path: Path) -> bool:
    return (path / "config.yaml").exists()


def _check_same(config: SimulationConfig, out: Path) -> None:
    """Refuse to resume a run under another configuration; name the first field that differs.

    How many rounds it may have, the run itself says once it knows how many are done.
    """
    before, now = load_yaml(out / "config.yaml"), config.resolved()
    for field in now:
        measured = field == "executor" and now[field] == "timed"
        if field not in PLACE | LENGTH and not measured and before.get(field) != now[field]:
            raise ConfigurationError(
                field, now[field], f"{before.get(field)!r}, as in the run that {out} holds"
            )
