"""`Battery`: the fixed set of runs that defences are ranked by, read from ``leaderboard/*.yaml``.

A battery has a version, the defence that clean cost is counted from, and sizes. A size is the base
and the grid of a campaign with its seeds, and the defences that are run on it; a defence is a
name, or a mapping of ``strategy``, ``pre`` and ``assumed_malicious``, with ``name`` and ``by`` if
wanted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedguard import registry
from fedguard.campaigns.campaign import Cell, parse_campaign, spell
from fedguard.config import load_yaml
from fedguard.errors import ConfigurationError, check_choice, nearest
from fedguard.traits import ServerData, traits_of

FIELDS = ("version", "reference", "sizes")
SIZE_FIELDS = ("base", "grid", "seeds", "defences")
ENTRY_FIELDS = ("name", "by", "strategy", "pre", "assumed_malicious")


@dataclass(frozen=True)
class Contender:
    """A defence on the board.

    Attributes
    ----------
    name : str
        What it is called there.
    by : str
        Whose it is; empty for fedguard's own.
    fields : mapping
        Its fields of a run's configuration: ``strategy``, ``pre``, ``assumed_malicious``.
    """

    name: str
    by: str
    fields: Mapping[str, Any]

    @classmethod
    def of(cls, given: Any, where: str = "defences") -> Contender:
        """Return the defence of a name or of a mapping.

        Raises
        ------
        ConfigurationError
            If it has no strategy, or a field that no defence has.
        """
        values = {"strategy": given} if isinstance(given, str) else given
        if not isinstance(values, Mapping) or "strategy" not in values:
            raise ConfigurationError(where, given, "a strategy's name, or a mapping with strategy")
        for field in values:
            if field not in ENTRY_FIELDS:
                hint = nearest(str(field), ENTRY_FIELDS)
                raise ConfigurationError(where, field, f"{hint}{', '.join(ENTRY_FIELDS)}")
        fields = {k: values[k] for k in ENTRY_FIELDS[2:] if values.get(k) is not None}
        words = [spell(fields["strategy"])]
        words += [f"pre={spell(fields['pre'])}"] if "pre" in fields else []
        return cls(str(values.get("name") or " ".join(words)), str(values.get("by") or ""), fields)

    @property
    def strategy(self) -> str:
        """Registered name of its strategy, or ``package.module:Class``."""
        given = self.fields["strategy"]
        return str(given.get("name", "") if isinstance(given, Mapping) else given)

    @property
    def league(self) -> ServerData:
        """What its strategy declares that the server lends it; a league is ranked by itself."""
        return traits_of(registry.find("strategy", self.strategy)).server_data


@dataclass(frozen=True)
class Battery:
    """The runs of one size of a battery.

    Attributes
    ----------
    version, size : str
        What the board is called by.
    reference : str
        Strategy whose accuracy without an attack the others' is compared with.
    campaign : mapping
        ``base``, ``grid`` and ``seeds``, without a strategy.
    contenders : tuple of Contender
        The defences.
    """

    version: str
    size: str
    reference: str
    campaign: Mapping[str, Any]
    contenders: tuple[Contender, ...]

    @property
    def name(self) -> str:
        """Name of the board and of its folder: ``v1-quick``."""
        return f"{self.version}-{self.size}"

    def cells(self, contender: Contender, settings: Mapping[str, Any]) -> list[Cell]:
        """Return a defence's runs, in the order of the grid.

        Parameters
        ----------
        contender : Contender
            The defence.
        settings : mapping
            Fields of a run that are no part of what is measured, such as ``data_dir``.

        Raises
        ------
        ConfigurationError
            For the first run that is not valid.
        """
        base = {**self.campaign["base"], **settings, **contender.fields}
        values = {"name": f"leaderboard-{self.name}", **self.campaign, "base": base}
        return parse_campaign(values).cells()


def scenario(cell: Cell) -> str:
    """Return what a run faces, in one line: all that the grid chose but the seed."""
    return " · ".join(spell(value) for field, value in cell.choices.items() if field != "seed")


def read_battery(path: Path, size: str, added: Sequence[Path] = ()) -> Battery:
    """Return one size of a battery's file, with the defences of further files.

    Raises
    ------
    ConfigurationError
        If a file is no battery or no defence, or the file has no such size; one line.
    """
    values = load_yaml(path)
    _known(values, FIELDS)
    sizes = values.get("sizes")
    if not isinstance(sizes, Mapping):
        raise ConfigurationError("sizes", sizes, "a mapping of sizes, such as quick and full")
    check_choice("--size", size, sizes)
    chosen = sizes[size]
    if not isinstance(chosen, Mapping):
        raise ConfigurationError(f"sizes.{size}", chosen, f"a mapping of {', '.join(SIZE_FIELDS)}")
    _known(chosen, SIZE_FIELDS)
    defences = chosen.get("defences")
    if not isinstance(defences, list) or not defences:
        raise ConfigurationError("defences", defences, "a list of at least one defence")
    contenders = [Contender.of(one) for one in defences]
    contenders += [Contender.of(load_yaml(file), str(file)) for file in added]
    names = [one.name for one in contenders]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigurationError("defences", twice, "a name that no other defence has")
    grid, base = chosen.get("grid") or {}, chosen.get("base") or {}
    for field in ENTRY_FIELDS[2:4]:
        if field in grid or field in base:
            raise ConfigurationError(field, (grid or base).get(field), "a defence's field alone")
    if "attack" not in grid:
        raise ConfigurationError("grid.attack", None, "a list of attacks")
    campaign = {"base": base, "grid": grid, "seeds": chosen.get("seeds", 1)}
    version, reference = str(values.get("version") or path.stem), values.get("reference")
    return Battery(version, size, str(reference or ""), campaign, tuple(contenders))


def _known(values: Mapping[str, Any], fields: Sequence[str]) -> None:
    for field in values:
        if field not in fields:
            hint = nearest(str(field), fields)
            raise ConfigurationError(str(field), values[field], f"{hint}{', '.join(fields)}")
