"""The referee: held-out data, attacks and seeds on which no default of ours was chosen.

Run once per version; nothing may be changed after a look at it without a new set of seeds (see
docs/protocol.md). Rules stand in three leagues, by what their server holds: nothing, examples
without labels, examples with labels. A rule is compared with its own league.

    python -m simulations.referee --data-dir DIR                  # everything, a day on two cores
    python -m simulations.referee --data-dir DIR --size medium    # one seed, 20 %, an hour
    python -m simulations.referee --data-dir DIR --size quick     # three data sets, few attacks
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from fedguard import registry
from fedguard.traits import SERVER_DATA, ServerData, traits_of
from simulations.common import (
    ROOT,
    Cell,
    machine,
    markdown_table,
    run_cells,
    spread,
    write_section,
)
from simulations.held_out import named

Run = Mapping[str, Any]
Measure = Callable[[Run], float | None]
Grouped = dict[tuple[str, ...], list[dict[str, Any]]]

PAGE = ROOT / "docs" / "referee.md"

SEEDS = (3037, 3041, 3049, 3061, 3067)
"""Of the whole size: looked at by nobody while a default was chosen. A new version takes new ones,
and so does a default that is changed after a look; see docs/protocol.md."""

HALF = 0.5
"""Success that plain averaging must have for a backdoor to count."""

FRACTIONS = (0.1, 0.2, 0.3, 0.45)

RULES: dict[str, dict[str, Any]] = {
    "fedavg": {"name": "fedavg"},
    "copies alone": {"name": "simulations.controls:CopiesAlone"},
    "length alone": {"name": "simulations.controls:LengthAlone"},
    "trimmed-mean": {"name": "trimmed-mean"},
    "multi-krum": {"name": "multi-krum"},
    "geminiguard": {"name": "geminiguard"},
    "geminiguard, paper mode": {"name": "geminiguard", "mode": "paper"},
    "server alone": {"name": "simulations.controls:ServerAlone"},
    "fltrust": {"name": "fltrust"},
    "sentinel": {"name": "sentinel"},
}

TABLES = ("iscxtor2016", "cicids2017-web", "adult", "bank-marketing", "credit-default")
IMAGES = ("gtsrb",)
TWO_CLASSES = ("adult", "bank-marketing", "credit-default")
"""Data of which no client can hold three labels: judged on the other split alone."""

# None at a strength, or with a trigger, that a default was tuned on.
ATTACKS: dict[str, dict[str, Any]] = {
    "sign-flip": {"name": "sign-flip", "scale": 1.5},
    "ipm": {"name": "ipm", "epsilon": 2.0},
    "min-sum": {"name": "min-sum", "direction": "std"},
    "gaussian": {"name": "gaussian", "std": 0.1},
    "label-flip": {"name": "label-flip", "mode": "cyclic"},
}
BACKDOORS: dict[str, dict[str, Any]] = {
    "badnets": {"name": "badnets", "size": 6, "position": "top-left", "target_class": 3},
    "blended": {"name": "blended", "alpha": 0.15, "pattern_seed": 7, "target_class": 3},
    "sig": {"name": "sig", "target_class": 3},
    "wanet": {"name": "wanet", "pattern_seed": 7, "target_class": 3},
}

# What is told beside the attack; its rounds are a window, or drawn.
TIMED: dict[str, dict[str, Any]] = {
    "sign-flip, rounds 4 to 7": {
        "attack": {"name": "sign-flip", "scale": 2.5},
        "attack_rounds": {"window": [4, 7]},
    },
    "label-flip, random rounds": {
        "attack": {"name": "label-flip", "mode": "cyclic"},
        "attack_rounds": {"probability": 0.6},
    },
}

# They rehearse the deployed rule; framing sees every client's update too.
KNOWING: dict[str, dict[str, Any]] = {
    "adaptive-gemini": {"attack": {"name": "adaptive-gemini", "stretch": 6.0}},
    "boiling-frog": {"attack": {"name": "boiling-frog", "growth": 2.0}},
    "framing": {"attack": {"name": "framing", "noise": 0.02}, "attack_knowledge": "full"},
}
REHEARSED = ("fedavg", "trimmed-mean", "multi-krum", "geminiguard", "fltrust", "sentinel")
"""Rules that are judged against attackers that know them."""

MOST_LOST = 0.05
"""What an attacker that knows a rule of ours may cost it, against peace."""

PARTITIONS: dict[str, dict[str, Any]] = {
    "dirichlet 0.3": {"name": "dirichlet", "alpha": 0.3},
    "three labels": {"name": "label-quantity", "labels_per_client": 3},
}

BASE: dict[str, Any] = {
    "model": {"name": "mlp", "hidden": [64]},
    "clients": 16,
    "local_epochs": 1,
    "batch_size": 32,
    "lr": 0.1,
    "server_samples": 100,
    "assumed_malicious": 0.25,
}

QUICK_ATTACKS = ("label-flip", "badnets", "blended")
QUICK_RULES = tuple(rule for rule in RULES if rule not in ("multi-krum", "geminiguard, paper mode"))


@dataclass(frozen=True)
class Size:
    """How much of the battery is run.

    Attributes
    ----------
    seeds : tuple of int
        `quick` and `medium` have one each, which `whole` has not.
    rounds : int
        Of a run.
    data, rules, attacks, splits : tuple of str
        Which of them.
    timed : tuple of str
        Which attacks that come and go.
    knowing : tuple of str
        On which data there are attackers that know the rule; they take a tenfold of time.
    shares : tuple of float
        Shares of malicious clients.
    proof : str
        What the page says of it.
    """

    seeds: tuple[int, ...]
    rounds: int
    proof: str
    data: tuple[str, ...] = (*IMAGES, *TABLES)
    rules: tuple[str, ...] = tuple(RULES)
    attacks: tuple[str, ...] = (*ATTACKS, *BACKDOORS)
    splits: tuple[str, ...] = tuple(PARTITIONS)
    timed: tuple[str, ...] = tuple(TIMED)
    knowing: tuple[str, ...] = (*IMAGES, *TABLES)
    shares: tuple[float, ...] = (0.2,)


SIZES = {
    "quick": Size(
        seeds=(3001,),
        rounds=10,
        proof="the quick size: one seed, a hint and no proof",
        data=("cicids2017-web", "iscxtor2016", "gtsrb"),
        rules=QUICK_RULES,
        attacks=QUICK_ATTACKS,
        timed=(),
        knowing=(),
        splits=("dirichlet 0.3",),
    ),
    "medium": Size(
        seeds=(3023,),
        rounds=10,
        knowing=TABLES,
        proof="the medium size: every data set, split and attack, one seed and one share",
    ),
    "whole": Size(seeds=SEEDS, rounds=20, shares=FRACTIONS, proof="every share and seed"),
}


def league(rule: str) -> ServerData:
    """Return which data of the server a rule plays with."""
    spec = dict(RULES[rule])
    made = registry.create("strategy", spec.pop("name"), **spec)
    return traits_of(made).server_data


def attacks_on(data: str) -> dict[str, dict[str, Any]]:
    """Return the fields of the attacks that a data set can carry: triggers are for images."""
    plain = {**ATTACKS, **(BACKDOORS if data in IMAGES else {})}
    return {**{name: {"attack": spec} for name, spec in plain.items()}, **TIMED, **KNOWING}


def splits_of(data: str, size: Size) -> list[str]:
    """Return the splits of a size that a data set has the classes for."""
    return [split for split in size.splits if split != "three labels" or data not in TWO_CLASSES]


def cells(folder: str, size: Size, only: Sequence[str] = ()) -> Iterator[Cell]:
    """Yield every run, by (rule, data, split, attack, share of malicious clients).

    Parameters
    ----------
    folder : str
        Where the data sets lie.
    size : Size
        How much is run.
    only : sequence of str
        Data sets to judge on; all of the size if empty.
    """
    for seed in size.seeds:
        for name in (name for name in size.data if not only or name in only):
            dataset = named(name)
            own = dataset["name"] == name
            base = {**BASE, "dataset": dataset, "data_dir": f"{folder}/{name}" if own else folder}
            for split in splits_of(name, size):
                more = {"partition": PARTITIONS[split], "seed": seed, "rounds": size.rounds}
                yield from _of_split({**base, **more}, (name, split), size)


def _of_split(common: Mapping[str, Any], where: tuple[str, str], size: Size) -> Iterator[Cell]:
    known = attacks_on(where[0])
    wanted = (*size.attacks, *size.timed, *(KNOWING if where[0] in size.knowing else ()))
    attacks = {attack: known[attack] for attack in wanted if attack in known}
    for rule in size.rules:
        values = {**common, "strategy": RULES[rule]}
        yield Cell((rule, *where, "none", "0"), {**values, "attack": "none", "malicious": 0})
        for attack, fields in attacks.items():
            if rule == "server alone" or (attack in KNOWING and rule not in REHEARSED):
                continue  # no client moves the former
            for share in size.shares:
                attacked = {**values, **fields, "malicious": share}
                yield Cell((rule, *where, attack, f"{share:g}"), attacked)
    for attack in (attack for attack in attacks if attack in BACKDOORS):
        floor = {**common, "strategy": RULES["fedavg"], **attacks[attack]}
        yield Cell(("fedavg", *where, attack, "0"), {**floor, "malicious": 0})


def headline(run: Run) -> float | None:
    """Return the last round's accuracy, on tables macro F1: their classes are unequal."""
    final = run["final"]
    value: float | None = final["accuracy" if run["dataset"].endswith("gtsrb") else "macro_f1"]
    return value


def success(run: Run) -> float | None:
    """Return the last round's attack success rate."""
    value: float | None = run["final"].get("attack_success_rate")
    return value


def rejected(run: Run) -> float | None:
    """Return the share of honest clients rejected, as a mean over rounds."""
    value: float | None = run["detection"]["false_positive_rate"]
    return value


def tables(grouped: Grouped) -> Iterator[str]:
    """Yield one table per data set, split and share, a league after the other in each."""
    places = sorted({key[1:3] for key in grouped})
    shares = sorted({key[4] for key in grouped} - {"0"}, key=float)
    for data, split in places:
        for share in shares:
            yield f"### {data}, {split}, {float(share):.0%} malicious"
            yield _table(grouped, data, split, share)


def _table(grouped: Grouped, data: str, split: str, share: str) -> str:
    found = {key[3] for key in grouped if key[1:3] == (data, split)}
    attacks = [attack for attack in attacks_on(data) if attack in found]
    rows = []
    for group in SERVER_DATA:
        for rule in RULES:
            if (rule, data, split, "none", "0") in grouped and league(rule) == group:
                rows.append(_row(grouped, rule, (data, split), attacks, share))
    floors = [_floor(grouped, (data, split), attack) for attack in attacks]
    rows.append(["-", "clean floor of the trigger", "-", "-", *floors])
    header = ("server data", "rule", "no attack", "honest rejected in peace", *attacks)
    return markdown_table(header, rows)


def _row(
    grouped: Grouped, rule: str, where: tuple[str, str], attacks: Sequence[str], share: str
) -> list[str]:
    peace = grouped[rule, *where, "none", "0"]
    texts = []
    for attack in attacks:
        runs = grouped.get((rule, *where, attack, share), [])
        text = spread([headline(run) for run in runs])
        if attack in BACKDOORS and runs:
            text += f", success {spread([success(run) for run in runs])}"
        texts.append(text)
    alone = spread([rejected(run) for run in peace]) if rule != "server alone" else "-"
    return [league(rule), rule, spread([headline(run) for run in peace]), alone, *texts]


def _floor(grouped: Grouped, where: tuple[str, str], attack: str) -> str:
    runs = grouped.get(("fedavg", *where, attack, "0"), [])
    return f"success {spread([success(run) for run in runs])}" if runs else "-"


def peace(grouped: Grouped, rule: str) -> str:
    """Return in one line what a rule costs without attackers, at its worst."""
    lost = {}
    for key, runs in grouped.items():
        if key[0] == rule and key[3] == "none":
            plain = grouped["fedavg", *key[1:]]
            gaps = [
                (headline(mine) or 0.0) - (headline(other) or 0.0)
                for mine, other in zip(runs, plain, strict=True)
            ]
            lost[", ".join(key[1:3])] = statistics.fmean(gaps)
    where = min(lost, key=lost.__getitem__)
    turned = [
        rejected(run) or 0.0
        for key, runs in grouped.items()
        if key[0] == rule and key[3] == "none"
        for run in runs
    ]
    return (
        f"- `{rule}`: {100 * lost[where]:+.1f} points against plain averaging at its worst "
        f"({where}); {100 * max(turned):.0f} % of the honest clients rejected at most"
    )


def version() -> str:
    """Return the version that is judged."""
    from importlib.metadata import version as of

    return of("fedguard")


def _mean(grouped: Grouped, key: tuple[str, ...], measure: Measure) -> float:
    return statistics.fmean(measure(run) or 0.0 for run in grouped[key])


def bars(grouped: Grouped) -> Iterator[str]:
    """Yield in a line each which cells a rule of ours falls short in; see docs/protocol.md."""
    attacked = sorted({key[1:] for key in grouped if key[4] != "0"})
    ours = [rule for rule in ("geminiguard", "sentinel") if any(key[0] == rule for key in grouped)]
    for rule in ours:
        behind, passed = {}, {}
        for where in attacked:
            rivals = [
                key
                for key in grouped
                if key[1:] == where
                and (rule == "sentinel" or league(key[0]) in ("none", league(rule)))
            ]
            best = max(_mean(grouped, key, headline) for key in rivals)
            mine = _mean(grouped, (rule, *where), headline)
            if where[2] in KNOWING:
                continue
            if where[2] not in BACKDOORS:
                behind[where] = best - mine
            elif _mean(grouped, ("fedavg", *where), success) >= HALF:
                floor = _mean(grouped, ("fedavg", *where[:3], "0"), success)
                passed[where] = _mean(grouped, (rule, *where), success) - floor
        of = "of any league" if rule == "sentinel" else "without labels"
        yield _short_of(
            f"`{rule}`, untargeted: more than 2 points behind the best rule {of}", behind, 0.02
        )
        if passed:
            yield _short_of(
                f"`{rule}`, backdoors: success more than 15 points over the floor", passed, 0.15
            )
        lost = {
            where: _mean(grouped, (rule, *where[:2], "none", "0"), headline)
            - _mean(grouped, (rule, *where), headline)
            for where in attacked
            if where[2] in KNOWING
        }
        if lost:
            told = f"more than {100 * MOST_LOST:.0f} points behind peace"
            yield _short_of(f"`{rule}`, attackers that know it: {told}", lost, MOST_LOST)


def _short_of(what: str, found: Mapping[tuple[str, ...], float], bar: float) -> str:
    missed = {where: gap for where, gap in found.items() if gap > bar}
    if not missed:
        return f"- {what} in none of {len(found)} cells"
    worst = max(missed, key=missed.__getitem__)
    return (
        f"- {what} in {len(missed)} of {len(found)} cells, at worst {100 * missed[worst]:.1f} "
        f"({', '.join(worst[:3])})"
    )


def report(grouped: Grouped, name: str, only: Sequence[str] = ()) -> str:
    """Return the section of this version, of a size by name, in Markdown."""
    size = SIZES[name]
    part = f"; **of its data sets only {', '.join(only)}**" if only else ""
    command = f"--size {name}" + (f" --only {','.join(only)}" if only else "")
    ours = ("geminiguard", "sentinel")
    parts = [
        f"## Version {version()}, {name}",
        f"""{BASE["clients"]} clients, mlp with 64 hidden units, {size.rounds}
rounds, {BASE["server_samples"]} examples of the server, drawn as they come; {size.proof}{part}
({", ".join(map(str, size.seeds))}). Images: accuracy; tables: macro F1; in percent. `copies alone`,
`length alone` and `server alone` are controls: one filter, or no client at all.""",
        "Without attackers:",
        "\n".join(peace(grouped, rule) for rule in ours),
        "Under attack:",
        "\n".join(bars(grouped)),
        *tables(grouped),
        f"Data: {', '.join(sorted({key[1] for key in grouped}))}. Made by "
        f"`python -m simulations.referee {command}`; {machine()}.",
    ]
    return "\n\n".join(parts)


def main(
    data_dir: Annotated[str, typer.Option(help="Folder that holds the held-out data sets.")],
    size: Annotated[str, typer.Option(help="quick, medium or whole.")] = "whole",
    only: Annotated[str, typer.Option(help="Data sets to judge on, by commas; all if empty.")] = "",
    jobs: Annotated[int, typer.Option(help="Runs at a time, one thread each.")] = 2,
    folder: Annotated[Path, typer.Option(help="Where the runs go.")] = Path("runs/referee"),
) -> None:
    """Run the battery, go on where it stopped, and write docs/referee.md."""
    if size not in SIZES:
        raise typer.BadParameter(f"{size!r} is none of {', '.join(SIZES)}", param_hint="--size")
    wanted = only.split(",") if only else []
    for name in wanted:
        if name not in SIZES[size].data:
            told = f"{name!r} is none of {', '.join(SIZES[size].data)}"
            raise typer.BadParameter(told, param_hint="--only")
    found = run_cells(cells(data_dir, SIZES[size], wanted), folder, jobs)
    section = f"referee {version()}" + ("" if size == "whole" else f" {size}")
    write_section(section, report(found, size, wanted), PAGE)


if __name__ == "__main__":
    typer.run(main)
