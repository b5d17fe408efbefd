"""Roads that geminiguard did not take: what each would have done, and what latent signs tell.

Fashion-MNIST, 6,000 training images, 20 clients, a fifth malicious, 10 rounds, two splits. First
the area under the curve of each sign, attackers against honest clients, where nobody is rejected;
then what other forms of the rule leave, beside the rule and plain averaging. Resumable.

    python -m simulations.geminiguard_roads --data-dir DIR    # torchvision's layout
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from simulations.common import ROOT, Cell, fashion_command, machine, markdown_table, spread
from simulations.geminiguard_ablation import BASE, SPLITS, Grouped, in_splits, threats

PAGE = ROOT / "docs" / "geminiguard.md"

_HERE = "simulations.road_forms"

SIGNS = ("weights", "mmd", "change", "class", "output", "aggregate")
BACKDOORS = ("badnets", "blended .2")
ATTACKS: dict[str, Any] = {
    "sign-flip x 1.5": {"name": "sign-flip", "scale": 1.5},
    "fang-trim": "fang-trim",
    "min-max, unlike": {
        "name": "disguised",
        "attack": {"name": "min-max", "direction": "unit"},
        "noise": 0.3,
    },
    "label-flip": "label-flip",
    "badnets": "badnets",
    "blended .2": {"name": "blended", "alpha": 0.2},
}
FIRST_SEED = 110
FIRST_ROUND = 3
"""Signs are judged from here on: a first model has learnt nothing."""


def forms(data_dir: str) -> dict[str, dict[str, Any]]:
    """Return every form's strategy field."""
    return {
        "plain averaging": {"strategy": "fedavg"},
        "**geminiguard**": {"strategy": "geminiguard"},
        "without `opposition`": {"strategy": {"name": "geminiguard", "opposition": 0.0}},
        "clip 1": {"strategy": {"name": "geminiguard", "clip_ratio": 1.0}},
        "`pre: nnm`": {"strategy": "geminiguard", "pre": "nnm"},
        "`pre: bucketing`": {"strategy": "geminiguard", "pre": "bucketing"},
        "a representative per cluster": {"strategy": f"{_HERE}:Representatives"},
        "patches asked of clusters": {"strategy": f"{_HERE}:OnAggregates"},
        "rows of noise": {"strategy": f"{_HERE}:Elsewhere"},
        "rows of MNIST": {
            "strategy": {"name": f"{_HERE}:Elsewhere", "rows": "mnist", "folder": data_dir},
            "check_plugins": False,  # they try it on rows of another shape
        },
    }


def cells(data_dir: str, seeds: int, rounds: int) -> Iterator[Cell]:
    """Yield every run by (form, split, attack), the first seed of all first."""
    for split, common in in_splits(data_dir, FIRST_SEED, seeds, rounds):
        for name, threat in threats(ATTACKS).items():
            for form, fields in forms(data_dir).items():
                yield Cell((form, split, name), {**common, **threat, **fields})
            if name != "none":
                signs = {**common, **threat, "strategy": f"{_HERE}:Signs"}
                yield Cell(("signs", split, name), signs)


def _areas(run: dict[str, Any]) -> dict[str, list[float]]:
    """Return each sign's area under the curve, by round."""
    from sklearn.metrics import roc_auc_score

    lines = (Path(run["out"]) / "clients.jsonl").read_text(encoding="utf-8").splitlines()
    rounds: dict[int, list[dict[str, Any]]] = {}
    for line in lines:
        row = json.loads(line)
        if row["round"] >= FIRST_ROUND and row["scores"]:
            rounds.setdefault(row["round"], []).append(row)
    found: dict[str, list[float]] = {sign: [] for sign in SIGNS}
    for rows in rounds.values():
        truth = [row["malicious"] for row in rows]
        if len(set(truth)) == 2:
            for sign in SIGNS:
                scores = [row["scores"][sign] for row in rows]
                found[sign].append(float(roc_auc_score(truth, scores)))
    return found


def signs(grouped: Grouped) -> str:
    """Return the areas under the curve, a row per sign."""
    rows = []
    areas = {
        (split, attack): [_areas(run) for run in grouped["signs", split, attack]]
        for split in SPLITS
        for attack in ATTACKS
    }
    for sign in SIGNS:
        texts = [
            f"{statistics.fmean(area for run in runs for area in run[sign]):.2f}"
            for runs in areas.values()
        ]
        rows.append([sign, *texts])
    return markdown_table(("sign", *(f"{attack}, {split}" for split, attack in areas)), rows)


def table(grouped: Grouped) -> str:
    """Return what each form leaves: accuracy, success beside it, the honest rejected in peace."""
    rows = []
    for split in SPLITS:
        for form in forms(""):
            row = [split, form]
            for attack in ("none", *ATTACKS):
                runs = grouped[form, split, attack]
                text = spread([run["final"]["accuracy"] for run in runs])
                if attack in BACKDOORS:
                    text += f" / {spread([r['final']['attack_success_rate'] for r in runs])}"
                if attack == "none" and form != "plain averaging":
                    rate = spread([run["detection"]["false_positive_rate"] for run in runs])
                    text += f" [{rate}]"
                row.append(text)
            rows.append(row)
    return markdown_table(("split", "form", "none", *ATTACKS), rows)


def report(grouped: Grouped, seeds: int, rounds: int) -> str:
    """Return the section in Markdown."""
    told = "seed" if seeds == 1 else f"seeds {FIRST_SEED} to"
    return f"""## Roads measured

Fashion-MNIST, 6,000 training and 2,000 test images, mlp with 64 hidden units, {BASE["clients"]}
clients, {BASE["malicious"]:.0%} malicious, {rounds} rounds, {BASE["server_samples"]} rows of the
server as they come; {told} {FIRST_SEED + seeds - 1}. What each sign tells of who
attacks: area under the curve, mean over rounds from the third, nobody rejected (.5 tells nothing,
below it honest clients look worse). `mmd` is the median discrepancy of a client's latent
activations from the others', `change` that of their difference from the global model's, `class` the
latter's worst predicted class, `output` that of class probabilities, `aggregate` the change of the
mean of a client's cluster, `weights` the distance of its update:

{signs(grouped)}

What other forms leave: accuracy in percent, mean ± standard deviation, after the stroke success of
the backdoor, in brackets the honest rejected in peace (`simulations/road_forms.py` has the forms):

{table(grouped)}

Made by `python -m simulations.geminiguard_roads --data-dir DIR --seeds {seeds}`; {machine()}."""


main = fashion_command("geminiguard roads", PAGE, cells, report, Path("runs/gemini-roads"))

if __name__ == "__main__":
    typer.run(main)
