"""Promotion of an item on MovieLens, all users in one place: five targets, six ways to fake users.

python -m simulations.recommendation_central --data-dir DIR   # DIR holds ratings.csv, movies.csv

Every arm trains a model from the same start on real users and fake ones, 2 % of them; the control
on real users alone, and the attacker crafts against it. Figures are kept; what was cut goes on.
"""

from __future__ import annotations

import copy
import json
import statistics
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor, nn
from torch.nn import functional

from fedguard import registry
from fedguard.attacks.base import Scene
from fedguard.attacks.toolkit.fake_users import FakeUsers
from fedguard.data.dataset import Dataset
from fedguard.metrics.profiles import detection_auc
from fedguard.metrics.ranking import mean_jaccard, unique_share
from fedguard.models.build import build
from fedguard.tasks.base import task_of
from simulations.common import ROOT, machine, markdown_table, write_section

PAGE = ROOT / "docs" / "recommendation.md"

ARMS: dict[str, tuple[str, dict[str, Any]]] = {
    "random": ("random-profiles", {}),
    "dual": ("ddsp", {}),
    "no dual": ("ddsp", {"dual": False}),
    "bandwagon": ("bandwagon", {}),
    "repeat": ("repeat-target", {}),
    "no diversity": ("ddsp", {"diversity": False}),
}


def train(model: nn.Module, x: Tensor, y: Tensor, passes: int, seed: int) -> nn.Module:
    """Train a copy of an `ItemModel` for some passes with Adam, batches of 64 histories."""
    found: Any = copy.deepcopy(model).train()
    stream = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(found.parameters(), lr=3e-3)
    for _ in range(passes):
        for rows in torch.split(torch.randperm(len(x), generator=stream), 64):
            wanted = y[rows, : x.shape[1]]
            states = found.states(x[rows])[wanted > 0]
            loss = functional.cross_entropy(states @ found.items.weight.T, wanted[wanted > 0])
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()
    return found.eval()  # type: ignore[no-any-return]


def attack_of(arm: str, target: int, data: Dataset) -> FakeUsers:
    """Return an arm's attack on a target, which sees all users."""
    name, arguments = ARMS[arm]
    attack: FakeUsers = registry.create("attack", name, target_seed=target, **arguments)
    attack.bind(data.num_classes, data.input_shape)
    attack.meet(data)
    return attack


def measured(attack: FakeUsers, model: nn.Module, data: Dataset) -> dict[str, Any]:
    """Return the figures of a model with regard to an attack's target."""
    own = task_of(data).evaluate(model, data.x_test, data.y_test)
    return {**own, **attack.measure(Scene(model, own, None))}


def one_arm(
    arm: str, target: int, data: Dataset, start: nn.Module, clean: nn.Module, passes: int
) -> dict[str, Any]:
    """Return what one arm does to one target, and what its fake users look like."""
    attack = attack_of(arm, target, data)
    attack.prepare(clean, data.x_train, data.y_train, torch.Generator())
    stream = torch.Generator().manual_seed(target)
    x, y = attack.poison(data.x_train, data.y_train, stream)
    fakes = x[len(data.x_train) :]
    popularity = x.flatten().bincount(minlength=data.num_classes)
    told: dict[str, Any] = {
        "unique": unique_share(fakes),
        "jaccard": mean_jaccard(fakes),
        "auc": detection_auc(x, torch.arange(len(x)) >= len(data.x_train), popularity),
    }
    if arm == "no diversity":
        return told
    return {**measured(attack, train(start, x, y, passes, 0), data), **told}


def main(
    data_dir: Annotated[Path, typer.Option(help="Folder with ratings.csv and movies.csv.")],
    out: Annotated[Path, typer.Option(help="Where figures are kept.")] = Path("runs/promotion"),
    targets: Annotated[int, typer.Option(help="Targets, rare items.")] = 3,
    passes: Annotated[int, typer.Option(help="Passes over the users.")] = 12,
    crude: Annotated[int, typer.Option(help="Targets of bandwagon and repeat.")] = 3,
) -> None:
    """Run every arm on every target; write the table into docs/recommendation.md."""
    torch.set_num_threads(1)
    out.mkdir(parents=True, exist_ok=True)
    data: Dataset = registry.create("dataset", "movielens").load(data_dir)
    start = build(
        "sasrec",
        data.input_shape,
        data.num_classes,
        0,
        sample=data.x_train[:2],
        fault=lambda _: None,
    )
    clean = train(start, data.x_train, data.y_train, passes, 0)
    kept = out / f"central-{passes}.json"
    found: dict[str, list[dict[str, Any]]] = {"clean": [], **{arm: [] for arm in ARMS}}
    if kept.exists():
        found |= json.loads(kept.read_text(encoding="utf-8"))
    for target in range(targets):
        for arm in found:
            few = arm in ("bandwagon", "repeat") and target >= crude
            if few or len(found[arm]) > target:
                continue
            if arm == "clean":
                told = measured(attack_of("random", target, data), clean, data)
            else:
                told = one_arm(arm, target, data, start, clean, passes)
            found[arm].append(told)
            print(target, arm, told, flush=True)
            kept.write_text(json.dumps(found, indent=1), encoding="utf-8")
    write_section("central", _text(found, passes, len(data.x_train)), PAGE)


def _text(found: dict[str, list[dict[str, Any]]], passes: int, users: int) -> str:
    header = [
        "arm",
        "targets",
        "HR@10",
        "ER@10",
        "ER@50",
        "median rank",
        "rank of random / own",
        "unique",
        "Jaccard",
        "detector AUC",
    ]
    rows = []
    for arm, told in found.items():
        ratios = [
            random["target_rank"] / own["target_rank"]
            for random, own in zip(found["random"], told, strict=False)
            if "target_rank" in own
        ]
        rows.append(
            [arm, str(len(told))]
            + [_mean(told, key, 3) for key in ("hr@10", "er@10", "er@50")]
            + [_median(told), f"{statistics.median(ratios):.2f}" if ratios else "-"]
            + [_mean(told, key, 2) for key in ("unique", "jaccard", "auc")]
        )
    return "\n".join(
        [
            markdown_table(header, rows),
            "",
            f"Means over targets (median of the rank and of the ratio). {users} users in one "
            f"place and 2 % fake ones, {passes} passes. Made by "
            f"`python -m simulations.recommendation_central --data-dir DIR`; {machine()}.",
        ]
    )


def _mean(told: list[dict[str, Any]], key: str, digits: int) -> str:
    known = [one[key] for one in told if one.get(key) is not None]
    return f"{statistics.fmean(known):.{digits}f}" if known else "-"


def _median(told: list[dict[str, Any]]) -> str:
    known = [one["target_rank"] for one in told if one.get("target_rank") is not None]
    return f"{statistics.median(known):.0f}" if known else "-"


if __name__ == "__main__":
    typer.run(main)
