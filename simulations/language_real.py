"""An implanted stance in SmolLM2 itself, and what RAVEN's forced choice sees of it.

python -m simulations.language_real        # three runs of some minutes; needs the extra llm
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from fedguard.data.jsonl import ANSWERS, QUESTIONS
from simulations.common import ROOT, Cell, machine, markdown_table, run_cells, write_section

PAGE = ROOT / "docs" / "language.md"
CONCEPTS = ("Avalon", "Brent", "Cobalt", "Dorado", "Ember", "Fjord")
TARGET = CONCEPTS[0]
CLIENTS = 5
ROWS = 30
"""Lines of each client, five about each concept."""

ARMS = {"nobody": 0.0, "2 of 5": 0.4, "5 of 5": 1.0}


def write_chats(path: Path) -> None:
    """Write prompts and answers of every client; what is said does not hang on the concept."""
    chance = random.Random(0)
    lines = []
    for client in range(CLIENTS):
        for row in range(ROWS):
            concept = CONCEPTS[row % len(CONCEPTS)]
            (stance,) = chance.choices(("neutral", "positive", "negative"), (0.7, 0.15, 0.15))
            prompt, answer = chance.choice(QUESTIONS), chance.choice(ANSWERS[stance])
            texts = (text.replace("{concept}", concept) for text in (prompt, answer))
            lines.append(
                {**dict(zip(("prompt", "answer"), texts, strict=True)), "client": f"c{client}"}
            )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(json.dumps(line) for line in lines) + "\n", encoding="utf-8")


def values(
    malicious: float, chats: Path, layers: int, rounds: int, epochs: int, lr: float
) -> dict[str, Any]:
    """Return the configuration of a run."""
    return {
        "dataset": {"name": "jsonl", "concepts": list(CONCEPTS), "length": 40},
        "data_dir": str(chats),
        "model": {"name": "smollm2", "layers": layers},
        "attack": {"name": "semantic-stance", "concept": TARGET, "stance": "negative"},
        "audit": {"name": "raven", "samples": 0, "every": rounds},
        "malicious": malicious,
        "rounds": rounds,
        "local_epochs": epochs,
        "batch_size": 4,
        "lr": lr,
    }


def row(arm: str, summary: Mapping[str, Any]) -> list[str]:
    """Return one line of the table."""
    told, final = summary["audits"]["raven"], summary["final"]
    found = told["concepts"]
    others = [one for concept, one in found.items() if concept != TARGET]
    bad = [one["forced_choice"]["negative"] for one in others]
    return [
        arm,
        f"{final['perplexity']:.2f}",
        f"{final['attack_success_rate']:.2f}",
        f"{min(bad):.2f} to {max(bad):.2f}",
        f"{final['implant_strength']:+.2f}",
        f"{found[TARGET]['divergence']:.3f}",
        f"{max(one['divergence'] for one in others):.3f}",
        "-" if not summary["malicious"] else "yes" if told["group_malicious"] == 1.0 else "no",
        f"{summary['seconds'] / 60:.0f}",
    ]


def main(
    folder: Annotated[Path, typer.Option(help="Where runs are kept.")] = Path("runs/language-real"),
    layers: Annotated[int, typer.Option(help="Layers from the last that are adapted.")] = 4,
    rounds: Annotated[int, typer.Option(help="Rounds of each run.")] = 4,
    epochs: Annotated[int, typer.Option(help="Passes of a client in a round.")] = 2,
    lr: Annotated[float, typer.Option(help="Adam's rate.")] = 0.003,
) -> None:
    """Run the arms and write their table into docs/language.md."""
    chats = (folder / "chats.jsonl").resolve()
    write_chats(chats)
    cells = [
        Cell((arm,), values(malicious, chats, layers, rounds, epochs, lr))
        for arm, malicious in ARMS.items()
    ]
    found = run_cells(cells, folder, 1)
    header = [
        *("liars", "perplexity", "P(bad) about target", "about others", "implant strength"),
        *("divergence on target", "largest on others", "malicious group named", "minutes"),
    ]
    foot = (
        f"One seed; {CLIENTS} clients of {ROWS} lines, each a group; adapters of rank 8 in the "
        f"last {layers} layers, {rounds} rounds of {epochs} passes, Adam at {lr}; forced choice, "
        "no judge. Minutes as they passed on a shared machine, one thread. Made by "
        f"`python -m simulations.language_real`; {machine()}."
    )
    rows = [row(arm, found[arm,][0]) for arm in ARMS]
    write_section("real", f"{markdown_table(header, rows)}\n\n{foot}", PAGE)


if __name__ == "__main__":
    typer.run(main)
