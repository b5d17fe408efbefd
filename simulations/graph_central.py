"""Poisoned links of one whole graph: Cora in one place, crafted edits beside their controls.

python -m simulations.graph_central --data-dir DIR     # DIR holds cora.npz

Every arm edits 10 % of the training edges and trains a model from the same start for 150 epochs.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor, nn

from fedguard import registry
from fedguard.attacks.base import Attack
from fedguard.data.dataset import Dataset
from fedguard.data.graphs import Graph, shared_features
from fedguard.models.build import build
from fedguard.tasks.base import Task, task_of
from fedguard.tasks.link_prediction import link_figures
from simulations.common import ROOT, machine, markdown_table, spread, write_section

PAGE = ROOT / "docs" / "graphs.md"

ARMS: dict[str, tuple[str, dict[str, Any]]] = {
    "clean": ("none", {}),
    "random": ("random-edges", {}),
    "dissimilar": ("dice-edges", {}),
    "known pairs": ("meta-edges", {}),
    "known pairs, additions": ("meta-edges", {"edits": "add"}),
    "proxy pairs": ("meta-edges", {"objective": "proxy-pairs"}),
}


def train(task: Task, data: Dataset, x: Tensor, y: Tensor, epochs: int, seed: int) -> nn.Module:
    """Train a VGAE on all rows at once with Adam."""
    graph: Graph = data.facts
    module = build(
        "vgae",
        (2,),
        2,
        seed,
        sample=task.sample((2,), 2),
        fault=lambda _: None,
        features=graph.width,
    )
    module.train()
    task.settle(module, x, y)
    optimiser = torch.optim.Adam(module.parameters(), lr=0.01)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for _ in range(epochs):
            optimiser.zero_grad()
            torch.autograd.backward(task.losses(module(x), y).mean())
            optimiser.step()
    return module.eval()


@torch.no_grad()
def measured(
    task: Task, module: nn.Module, data: Dataset, x: Tensor, y: Tensor
) -> dict[str, float]:
    """Return figures with the graph that was trained on, and with the clean one."""
    task.settle(module, x, y)
    auc, ap = link_figures(module(data.x_test)[:, 0], data.y_test)
    return {
        "auc": auc,
        "ap": ap,
        "clean graph": task.evaluate(module, data.x_test, data.y_test)["auc"],
    }


def one_arm(arm: str, data: Dataset, epochs: int, seed: int) -> dict[str, float]:
    """Return one arm's figures, and those of the Jaccard filter on its edges."""
    task, graph = task_of(data), data.facts
    name, arguments = ARMS[arm]
    attack: Attack = registry.create("attack", name, **arguments)
    attack.bind(2, (2,))
    attack.meet(data)
    x, y = attack.poison(data.x_train, data.y_train, torch.Generator().manual_seed(seed))
    told = measured(task, train(task, data, x, y, epochs, seed), data, x, y)
    kept = (shared_features(graph.features, x) > 0) | (y <= 0)
    rows = x[kept], y[kept]
    filtered = measured(task, train(task, data, *rows, epochs, seed), data, *rows)
    size = graph.nodes
    before = data.x_train[data.y_train > 0] @ torch.tensor([size, 1])
    after = x[y > 0].sort(dim=1).values
    added = ~torch.isin(after @ torch.tensor([size, 1]), before)
    found = (shared_features(graph.features, after[added]) == 0).float()
    return {
        **told,
        "filtered": filtered["auc"],
        "found": float(found.mean()) if len(found) else float("nan"),
    }


def main(
    data_dir: Annotated[Path, typer.Option(help="Folder with cora.npz and citeseer.npz.")],
    out: Annotated[Path, typer.Option(help="Where figures are kept.")] = Path("runs/graph"),
    seeds: Annotated[int, typer.Option(help="Splits.")] = 3,
    epochs: Annotated[int, typer.Option(help="Epochs of each training.")] = 150,
) -> None:
    """Run every arm on every split; write the table into docs/graphs.md."""
    torch.set_num_threads(1)
    out.mkdir(parents=True, exist_ok=True)
    found: dict[str, list[dict[str, float]]] = {arm: [] for arm in ARMS}
    other = []
    for seed in range(seeds):
        data: Dataset = registry.create("dataset", "cora", communities=1, split=seed).load(data_dir)
        for arm in ARMS:
            found[arm].append(one_arm(arm, data, epochs, seed))
            print(seed, arm, found[arm][-1], flush=True)
        data = registry.create("dataset", "citeseer", communities=1, split=seed).load(data_dir)
        other.append(one_arm("clean", data, epochs, seed)["auc"])
        print(seed, "citeseer", other[-1], flush=True)
    (out / "figures.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    write_section("central", _text(found, other, seeds, epochs), PAGE)


def _text(
    found: dict[str, list[dict[str, float]]], other: list[float], seeds: int, epochs: int
) -> str:
    def of(arm: str, key: str) -> list[float | None]:
        return [one[key] if one[key] == one[key] else None for one in found[arm]]

    rows = []
    for arm in ARMS:
        drops = [c["auc"] - o["auc"] for c, o in zip(found["clean"], found[arm], strict=True)]
        told = [spread(of(arm, key)) for key in ("auc", "ap", "clean graph")]
        more = [spread(of(arm, key)) for key in ("filtered", "found")]
        rows.append([arm, *told, spread(drops), *more])
    head = [
        "edits of 10 % of the edges",
        "AUC",
        "AP",
        "AUC, clean graph",
        "AUC lost",
        "AUC, Jaccard filter",
        "added edges it finds",
    ]
    return "\n".join(
        [
            markdown_table(head, rows),
            "",
            f"In percent, mean and deviation over {seeds} splits of Cora, {epochs} epochs each. "
            f"Citeseer, clean: AUC {100 * statistics.fmean(other):.1f}. Made by "
            f"`python -m simulations.graph_central --data-dir DIR`; {machine()}.",
        ]
    )


if __name__ == "__main__":
    typer.run(main)
