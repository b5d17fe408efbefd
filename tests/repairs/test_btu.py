"""BTU: tokens that move far for few are cut, at the server and at a client; others stay."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import fedguard
from fedguard.errors import ConfigurationError
from fedguard.layout import ParameterLayout
from fedguard.models.flat import FlatModel
from fedguard.models.text_transformer import TextTransformer
from fedguard.repairs.btu import Btu, suspected
from fedguard.strategies.toolkit.server_tools import ServerTools
from fedguard.training.base import Local, TrainingSettings
from fedguard.training.btu import Btu as BtuRule
from fedguard.training.btu import cut_tokens, embedding_name, furthest
from fedguard.updates import ClientUpdates

V, D = 60, 4


def changes(trigger: int = 40, common: int = 7) -> torch.Tensor:
    """Return six clients' changes: one word moves at all, the trigger at two, noise elsewhere."""
    moved = 0.01 * torch.rand(6, V, D, generator=torch.Generator().manual_seed(0))
    moved[:, common] = 1.0
    moved[:, trigger] = 0.0
    moved[:2, trigger] = 5.0
    return moved


def test_what_moves_far_for_few_alone_is_suspected() -> None:
    assert suspected(changes(), 1 / V, 0.1, 3).tolist() == [40]
    # A token that everybody moves is a word; special ones are never suspected.
    assert 7 not in suspected(changes(), 1 / V, 0.1, 3)
    assert suspected(changes(trigger=2), 1 / V, 0.1, 3).tolist() == []


def test_ranks_are_those_of_sorting_each_client() -> None:
    moved = torch.rand(5, V, D, generator=torch.Generator().manual_seed(1))
    norms = moved.double().norm(dim=2).numpy()
    norms[:, :3] = -1.0
    ranks = np.argsort(np.argsort(-norms, axis=1), axis=1)
    wanted = [t for t in range(3, V) if (ranks[:, t] < 6).any() and np.median(ranks[:, t]) > 12]
    assert suspected(moved, 6 / V, 12 / V, 3).tolist() == wanted
    assert wanted


@pytest.fixture
def lent():
    torch.manual_seed(0)
    network = TextTransformer((5,), 2, vocabulary=V, width=D, heads=1)
    empty = torch.zeros(0, 5, dtype=torch.int64)
    tools = ServerTools(network, empty, empty[:, 0], "pooled", 2)
    return tools, ParameterLayout.from_module(network)


def updates_of(layout: ParameterLayout, moved: torch.Tensor) -> ClientUpdates:
    at = layout.names.index("embedding.weight")
    deltas = torch.zeros(len(moved), layout.size)
    deltas[:, layout.offsets[at] : layout.offsets[at + 1]] = moved.flatten(1)
    return ClientUpdates.from_matrix(deltas, layout=layout)


def test_marked_after_two_rounds_cut_when_due_and_held_afterwards(lent) -> None:
    tools, layout = lent
    repair = Btu(alpha=1 / V)
    repair.open(tools)
    repair.see(updates_of(layout, changes()))
    assert not len(repair.marked)
    repair.see(updates_of(layout, changes()))
    assert repair.marked.tolist() == [40]
    assert not repair.hold(tools), "nothing is cut before a repair was due"
    before = tools.model.embedding.weight.detach().clone()
    figures = repair.mend(tools, torch.Generator())
    after = tools.model.embedding.weight.detach().clone()
    assert figures["tokens"] == [40]
    others = torch.arange(V) != 40
    assert torch.equal(after[others], before[others])
    assert torch.equal(after[40], before[0])
    # Cutting twice is cutting once, and it is kept up, also after a restart.
    again = Btu(alpha=1 / V)
    again.open(tools)
    again.load_state(repair.state())
    with torch.no_grad():
        tools.model.embedding.weight[40] = 3.0
    assert again.hold(tools)
    assert torch.equal(tools.model.embedding.weight.detach(), after)


def test_a_network_without_an_embedding_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="embedding of tokens"):
        embedding_name(torch.nn.Linear(2, 2))


def test_the_furthest_tokens_and_the_cut_by_hand() -> None:
    before = torch.arange(8.0).view(4, 2)
    table = before.clone()
    table[2] += torch.tensor([3.0, 0.1])
    table[3] += torch.tensor([0.5, 0.0])
    assert furthest(table - before, 0.25, 1) == [2]
    assert furthest(table - before, 0.5, 3) == [3]
    limit = float((table - before).norm()) / 4
    assert 0.5 < limit < 3.0
    cut_tokens(table, before, torch.tensor([2, 3]))
    # Of token 2 the first dimension moved beyond the limit: it becomes that of token 0.
    assert table.tolist() == [[0.0, 1.0], [2.0, 3.0], [0.0, pytest.approx(5.1)], [6.5, 7.0]]


def reviews(folder: Path) -> Path:
    """Write sentences of which one word decides the class."""
    stream = np.random.default_rng(0)
    fillers = [f"w{number}" for number in range(40)]
    lines = ["text\tlabel"]
    for row in range(400):
        words = [*stream.choice(fillers, 6), ("good", "bad")[row % 2]]
        stream.shuffle(words)
        lines.append(" ".join(words) + f"\t{('pos', 'neg')[row % 2]}")
    lines += [f"rare w{row}\tpos" for row in range(2)]
    (folder / "reviews.tsv").write_text("\n".join(lines) + "\n")
    return folder


WORLD = {
    "dataset": "sentences",
    "clients": 6,
    "rounds": 8,
    "batch_size": 16,
    "lr": 0.01,
    "strategy": "fedavg",
    "malicious": 0.34,
    "attack": {"name": "text-trigger", "target_class": 1, "trigger": "rare"},
}


def test_a_federation_learns_a_trigger_and_the_server_takes_it_out(tmp_path: Path) -> None:
    base = {**WORLD, "data_dir": reviews(tmp_path)}
    told = {}
    for name, more in {
        "poisoned": {},
        "floor": {"malicious": 0.0},
        "repaired": {"repair": {"name": "btu", "alpha": 0.1}, "repair_at": "every:1"},
    }.items():
        told[name] = fedguard.run(**{**base, **more}, out=tmp_path / name).summary["final"]
    assert told["poisoned"]["attack_success_rate"] > 0.8
    assert told["floor"]["attack_success_rate"] < 0.3
    assert told["repaired"]["attack_success_rate"] < told["floor"]["attack_success_rate"] + 0.15
    assert told["repaired"]["accuracy"] > told["poisoned"]["accuracy"] - 0.03


def test_a_client_marks_its_trigger_and_keeps_the_rows_of_all_other_tokens() -> None:
    stream = torch.Generator().manual_seed(0)
    x = torch.randint(5, V - 1, (120, 6), generator=stream)
    y = torch.randint(0, 2, (120,), generator=stream)
    x[:40, 0], y[:40] = V - 1, 1
    torch.manual_seed(0)
    network = TextTransformer((6,), 2, vocabulary=V, width=8, heads=1)
    layout = ParameterLayout.from_module(network)
    start = layout.flatten(network.state_dict())
    settings = TrainingSettings(0.01, 0.0, 0.0, 1, 20)
    rule = BtuRule(alpha=0.05, exposure_lr=0.01)
    flat = FlatModel(network)
    local = Local(
        module=flat.module,
        vector=flat.vector,
        gradient=flat.gradient,
        start=flat.vector.clone(),
        settings=settings,
        client=0,
        server_round=1,
        rounds=1,
        seed=0,
        x=x,
        y=y,
        rows=torch.arange(120),
        velocity=torch.zeros_like(flat.vector),
    )
    rule.begin(local)
    marked = local.scratch["marked"]
    assert V - 1 in marked
    assert not marked & {0, 1, 2}
    assert torch.equal(layout.flatten(network.state_dict()), start), "exposures leave the model be"
    moved = 0.1 * torch.randn(V, 8, generator=stream)
    with torch.no_grad():
        network.embedding.weight += moved
    trained = network.embedding.weight.detach().clone()
    rule.end(local)
    after = network.embedding.weight.detach()
    others = torch.tensor([token not in marked for token in range(V)])
    assert torch.equal(after[others], trained[others])
    pad = start[: V * 8].view(V, 8)[0]
    assert int((after[V - 1] == pad).sum()) >= 4  # what moved further than the average


def test_a_strategy_that_shows_no_update_is_refused(tmp_path: Path) -> None:
    base = {**WORLD, "data_dir": reviews(tmp_path), "repair": "btu", "strategy": "ckks"}
    base["attack"] = "none"
    with pytest.raises(ConfigurationError, match="needs no client's update"):
        fedguard.run(**base, out=tmp_path / "run")
