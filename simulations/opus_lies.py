"""What a party of OPUS-VFL gains by lies: about cost, contribution and noise, and by silence.

Digits in strips, one lying party among four paid ones, the tokens of the whole run with the lie
over those of the same party, honest, on the same seed. Resumable.

    python -m simulations.opus_lies
    python -m simulations.opus_lies --seeds 1 --rounds 3 --only-print
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from fedguard.errors import check_number
from fedguard.vertical.attacks.base import VerticalAttack
from fedguard.vertical.terms import SeenParty
from simulations.common import (
    Cell,
    Jobs,
    OnlyPrint,
    RunsFolder,
    Seeds,
    machine,
    markdown_table,
    run_cells,
    spread,
    tell,
)
from simulations.opus_table import DOCUMENT, Runs

LIAR = 2
"""A party that costs 1; parties 1 and 3 cost the ratio below."""

RATIOS = (1.0, 4.0, 32.0)
FIRST_SEED = 20


class Loud(VerticalAttack):
    r"""A party that multiplies what it releases, to be missed more; clipping still holds.

    Notes
    -----
    .. math::
       \tilde{h} = \operatorname{clip}(q h, C)

    where h is its embedding, C the clipping bound and q the `factor`.

    Parameters
    ----------
    factor : float
        Above 0.
    parties
        As for `VerticalAttack`.
    """

    def __init__(self, *, factor: float = 10.0, parties: tuple[int, ...] | None = None) -> None:
        super().__init__(parties=parties)
        check_number("factor", factor, above=0.0)
        self.factor = factor

    def before_release(self, party: SeenParty, h: Tensor, server_round: int, ids: Tensor) -> Tensor:
        """Return `factor` times the embedding."""
        return h.mul(self.factor)


class Silent(VerticalAttack):
    """A party that answers some batches alone; in place of the others comes nothing of use.

    Parameters
    ----------
    every : int
        It answers each batch of which the smallest row id is a multiple of this, from 1; 0 never
        answers.
    parties
        As for `VerticalAttack`.
    """

    def __init__(self, *, every: int = 0, parties: tuple[int, ...] | None = None) -> None:
        super().__init__(parties=parties)
        check_number("every", every, at_least=0)
        self.every = every

    def before_release(self, party: SeenParty, h: Tensor, server_round: int, ids: Tensor) -> Tensor:
        """Return the embedding, or what the label holder replaces by zeros."""
        if self.every and int(ids.min()) % self.every == 0:
            return h
        return torch.full_like(h, float("nan"))


_HERE = "simulations.opus_lies"

COST_LIES: dict[str, dict[str, Any]] = {
    f"cost x {factor:g}": {"name": "lying-cost", "factor": factor}
    for factor in (0.25, 4.0, 32.0, 1e6)
}
OTHER_LIES: dict[str, dict[str, Any]] = {
    "no noise, least epsilon claimed": {"name": "lying-noise", "factor": 0.0},
    "half of the noise, least epsilon claimed": {"name": "lying-noise", "factor": 0.5},
    "random features": {"name": "free-rider-party"},
    "embeddings ten times as long, then clipped": {"name": f"{_HERE}:Loud", "factor": 10.0},
    "answers about half of the batches": {"name": f"{_HERE}:Silent", "every": 2},
    "never answers": {"name": f"{_HERE}:Silent"},
}
LIES = {**COST_LIES, **OTHER_LIES}
CLAIMS = ("tariff", "believed")


def cells(seeds: int, rounds: int) -> Iterator[Cell]:
    """Yield every run; how claims are believed changes nothing for who tells the truth of cost."""
    for seed in range(FIRST_SEED, FIRST_SEED + seeds):
        for ratio in RATIOS:
            base = {"clients": 5, "rounds": rounds, "seed": seed, "device": "cpu"}
            for claims in CLAIMS:
                strategy = {
                    "name": "opus-vfl",
                    "cost_ratios": [ratio, 1.0],
                    "cost_claims": claims,
                }
                lies: Mapping[str, dict[str, Any] | None] = COST_LIES
                if claims == CLAIMS[0]:
                    lies = {"honest": None, **LIES}
                for name, attack in lies.items():
                    part: Any = "none" if attack is None else {**attack, "parties": [LIAR]}
                    values = {**base, "strategy": strategy, "attack": part}
                    yield Cell((claims, f"{ratio:g}", name), values)


def tokens(run: Any) -> float:
    """Return what the liar was paid over a whole run."""
    return float(run["parties"][str(LIAR)]["tokens"])


def gains(runs: Runs, claims: str, ratio: float, lie: str) -> list[float | None]:
    """Return, per seed, tokens with the lie over tokens without; None where there were none."""
    told = runs[claims, f"{ratio:g}", lie]
    honest = runs[CLAIMS[0], f"{ratio:g}", "honest"]
    pairs = [(tokens(one), tokens(other)) for one, other in zip(told, honest, strict=True)]
    return [one / other if other else None for one, other in pairs]


def gain_table(runs: Runs, claims: str) -> str:
    """Return the factor that each lie is worth, a column for each cost ratio."""
    rows = [
        [lie, *(_factor(gains(runs, claims, ratio, lie)) for ratio in RATIOS)]
        for lie in (LIES if claims == CLAIMS[0] else COST_LIES)
    ]
    paid = [
        spread([tokens(run) for run in runs[CLAIMS[0], f"{r:g}", "honest"]], percent=False)
        for r in RATIOS
    ]
    header = ("lie", *("equal" if ratio == 1.0 else f"1:{ratio:g}" for ratio in RATIOS))
    return markdown_table(header, [["honest, tokens", *paid], *rows])


def _factor(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    wide = statistics.stdev(known) if len(known) > 1 else 0.0
    return f"{statistics.fmean(known):.2f} ± {wide:.2f} (most {max(known):.2f})"


def report(runs: Runs, seeds: int, rounds: int) -> str:
    """Return the section in Markdown."""
    return f"""## What a lie is worth

Digits, {rounds} rounds, four paid parties, of which party {LIAR} lies; parties 1 and 3 cost what
the column says, the others 1. Its tokens with the lie over its tokens without, mean ± standard
deviation over seeds {FIRST_SEED} to {FIRST_SEED + seeds - 1}, the most that a seed gave in
brackets. By `cost_claims=tariff`, the default:

{gain_table(runs, "tariff")}

By `cost_claims=believed`, the authors' rule, lies about cost alone:

{gain_table(runs, "believed")}

Made by `python -m simulations.opus_lies --seeds {seeds} --rounds {rounds}`; {machine()}."""


def main(
    seeds: Seeds = 3,
    rounds: Annotated[int, typer.Option(min=1, help="Passes over the rows.")] = 5,
    jobs: Jobs = 1,
    only_print: OnlyPrint = False,
    folder: RunsFolder = Path("runs/opus-lies"),
) -> None:
    """Run what is missing and write the section into docs/opus_vfl.md."""
    torch.set_num_threads(1)
    text = report(run_cells(cells(seeds, rounds), folder, jobs), seeds, rounds)
    tell("opus lies", text, DOCUMENT, only_print=only_print)


if __name__ == "__main__":
    typer.run(main)
