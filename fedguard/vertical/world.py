"""`VerticalWorld`: parties hold different features of the same rows and train one model."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from flwr.serverapp import Grid
from torch import Tensor

from fedguard.config import SimulationConfig
from fedguard.models.device import resolve_device
from fedguard.records.checkpoints import Checkpoint
from fedguard.records.writer import read_jsonl
from fedguard.tasks.base import task_of
from fedguard.vertical.attacks.base import Evidence
from fedguard.vertical.exchange import Exchange, FusedExchange, MessageExchange, usable
from fedguard.vertical.parts import World as Parts
from fedguard.vertical.strategy import VerticalRound, VerticalStrategy

Record = Callable[[int, Mapping[str, Any], list[dict[str, Any]]], None]


class VerticalWorld:
    """The parts of a vertical run, and what happens in its rounds; see `fedguard.runs.world`.

    Parameters
    ----------
    config : SimulationConfig
        A run with a vertical strategy; `clients` are parties, `rounds` passes over the rows.

    Raises
    ------
    ConfigurationError
        If a part cannot be made or two parts do not fit.
    """

    def __init__(self, config: SimulationConfig) -> None:
        self.config = config
        self.device = resolve_device(config.device)
        self.world = Parts(config, self.device)
        self.dataset = self.world.dataset
        self.task = task_of(self.dataset)
        self.attack = self.world.attack
        self.checkpoint: Checkpoint | None = None
        self.gained: dict[str, float] = {}
        self.bottoms: dict[int, dict[str, Tensor]] = {}

    @property
    def judge(self) -> None:
        """None: what parties hold is known at the end alone."""

    def bound_to(self, planned: int, done: int) -> str:
        """Return an empty text: no round depends on how many there are."""
        return ""

    @property
    def strategy(self) -> VerticalStrategy:
        """The strategy."""
        return self.world.strategy

    @property
    def size(self) -> int:
        """Parameters of all parties' models and the top model."""
        parties = [self.world.party(p) for p in range(self.config.clients)]
        tensors = [value for party in parties for value in party.state().values()]
        top = self.world.label_holder().top.parameters()
        return sum(int(value.numel()) for value in (*tensors, *top))

    def settle(self, out: Path, *, resume: bool) -> None:
        """Do nothing: there is nothing to measure."""

    def open(self, out: Path, checkpoint: Checkpoint | None) -> None:
        """Prepare an execution; see `World.open`."""
        self.checkpoint = checkpoint
        self.holder = self.world.label_holder()
        self.strategy.bind(self.holder, self.world.schedule(), self.config.clients)

    @property
    def rounds_done(self) -> int:
        """Rounds that an earlier execution finished."""
        return self.checkpoint.server_round if self.checkpoint else 0

    def serve(self, grid: Grid, record: Record) -> None:
        """Train with parties behind a grid of messages; its node ids are party indices."""
        self._gather(grid)
        self._train(MessageExchange(grid, self.config.round_timeout), record)

    def check_deployed(self) -> None:
        """Nothing to refuse: what a vertical strategy needs, its traits say."""

    def serve_here(self, record: Record) -> None:
        """Train with parties of this process."""
        parties = [self.world.party(p) for p in range(self.config.clients)]
        self._train(FusedExchange(parties), record)

    def _train(self, exchange: Exchange, record: Record) -> None:
        self.exchange, self._record = exchange, record
        if self.checkpoint is None:
            self._ended(VerticalRound(0))
        else:
            self._restore(self.checkpoint)
        self.strategy.train(
            exchange, self.config.rounds, rounds_done=self.rounds_done, on_round=self._ended
        )
        self.bottoms = exchange.states(range(self.config.clients))
        self._measure_attack()

    def _gather(self, grid: Grid) -> None:
        """Wait until every party is connected and has said who it is, or the patience ends."""
        deadline = time.monotonic() + self.config.join_timeout
        wanted = set(range(self.config.clients))
        while not wanted <= set(grid.get_node_ids()) and time.monotonic() < deadline:
            time.sleep(0.2)

    def _measure_attack(self) -> None:
        """Let the attackers do what they planned for after the training, and score them."""
        attackers = self.world.attackers
        if not attackers or len(self.bottoms) < self.config.clients:
            return
        parties = [self.world.party(p) for p in range(self.config.clients)]
        for party in parties:
            party.load_state(self.bottoms[party.index])
        evidence = Evidence(parties, attackers, self.holder, self.config.seed, self.config.rounds)
        self.gained = self.world.attack.measure(evidence)

    # --- records ------------------------------------------------------------------------------

    def _ended(self, found: VerticalRound) -> None:
        figures = self._metrics(found)
        figures["training_seconds"] = round(found.seconds, 4)
        clients = self._party_records(found) if found.server_round else []
        self._record(found.server_round, figures, clients)

    def _metrics(self, found: VerticalRound) -> dict[str, Any]:
        result = self.holder.evaluate(self._test_blocks(found, triggered=False))
        facts = self.strategy.round_facts(found)
        accepted = len(found.asked) - len(found.faults)
        return {
            "accuracy": result.accuracy,
            "loss": result.loss,
            "attack_success_rate": self._backdoor_success(found),
            "per_class_recall": list(result.per_class_recall),
            "macro_f1": result.macro_f1,
            **self._tally(found, accepted),
            **self._detection(found),
            "train_loss": found.loss,
            **facts,
        }

    def _test_blocks(self, found: VerticalRound, *, triggered: bool) -> dict[int, Tensor]:
        """Return the usable test embeddings; report what is missing or broken."""
        exchange = self.exchange
        present = [p for p in range(self.config.clients) if p not in self.strategy.left]
        blocks = exchange.embed_test(present, found.server_round, triggered=triggered)
        released = {party: {"embedding": block} for party, block in blocks.items()}
        rows = len(self.holder.y_test)
        good, faults = usable(released, rows, self.strategy.embedding, ("embedding",))
        for party, reason in {**exchange.missing, **faults}.items():
            found.faults.setdefault(party, f"evaluation: {reason}")
        return {party: one["embedding"] for party, one in good.items()}

    def _backdoor_success(self, found: VerticalRound) -> float | None:
        """Return the share of triggered test rows of other classes that get the target class."""
        target = self.world.attack.target_class
        if not (self.world.attack.backdoor and self.world.attackers) or target is None:
            return None
        predicted = self.holder.predict(self._test_blocks(found, triggered=True))
        others = self.holder.y_test != target
        return float((predicted[others] == target).double().mean())

    def _tally(self, found: VerticalRound, accepted: int) -> dict[str, Any]:
        """Return the round's counts; a party that left was put out by the strategy."""
        if not found.server_round:
            return dict.fromkeys(_COUNTS, 0)
        out = self.config.clients - len(found.asked)
        return {
            "asked": self.config.clients,
            "answered": self.config.clients - len(found.faults),
            "failed": 0,
            "set_aside": len(found.faults),
            "rejected": out,
            "accepted": accepted,
            "malformed": len(found.faults),
        }

    def _detection(self, found: VerticalRound) -> dict[str, float | None]:
        attackers = set(self.world.attackers)
        out = set(found.faults) | set(found.left)
        caught = len(out & attackers) / len(attackers) if attackers else None
        honest = self.config.clients - len(attackers)
        wronged = len(out - attackers) / honest if found.server_round else None
        return {
            "true_positive_rate": caught if found.server_round else None,
            "false_positive_rate": wronged,
        }

    def _party_records(self, found: VerticalRound) -> list[dict[str, Any]]:
        paid = sum(found.tokens.values())
        rows = len(self.world.dataset.y_train)
        records = []
        for party in range(self.config.clients):
            reason = found.faults.get(party) or found.left.get(party)
            if party in found.fault_batches:
                reason = f"{reason} ({found.fault_batches[party]} of {found.batches} batches)"
            scores = {
                name: values[party] for name, values in found.scores.items() if party in values
            }
            tokens = found.tokens.get(party)
            records.append(
                {
                    "round": found.server_round,
                    "client": party,
                    "malicious": party in self.world.attackers,
                    "accepted": party in found.asked and party not in found.faults,
                    "outcome": _outcome(found, party),
                    "weight": None if tokens is None or not paid else tokens / paid,
                    "num_examples": rows,
                    "tokens": tokens,
                    "scores": scores,
                    "reason": reason,
                }
            )
        return records

    # --- checkpoints --------------------------------------------------------------------------

    def state(self, server_round: int, seconds: float) -> Checkpoint | None:
        """Return what must survive a crash; None where parties do not show what they hold."""
        states = self.exchange.states(range(self.config.clients))
        if len(states) < self.config.clients:
            return None
        top = torch.cat([p.detach().flatten().cpu() for p in self.holder.top.parameters()])
        state = {f"holder.{name}": value for name, value in self.holder.state().items()}
        state |= {f"loop.{name}": value for name, value in self.strategy.state().items()}
        for party, one in states.items():
            state |= {f"party-{party}.{name}": value for name, value in one.items()}
        return Checkpoint(server_round, top, top.clone(), state, seconds)

    def _restore(self, checkpoint: Checkpoint) -> None:
        state = checkpoint.strategy_state
        self.holder.load_state(_under("holder.", state))
        self.strategy.load_state(_under("loop.", state))
        parties = range(self.config.clients)
        self.exchange.restore({p: _under(f"party-{p}.", state) for p in parties})

    # --- the end ------------------------------------------------------------------------------

    def tensors(self) -> dict[str, Tensor]:
        """Return the top model and every party's bottom; see `World.tensors`."""
        tensors = {f"top.{n}": v for n, v in self.holder.top.state_dict().items()}
        for party, state in self.bottoms.items():
            found = _under("bottom.", state)
            tensors |= {f"party-{party}.{name}": value for name, value in found.items()}
        return tensors

    def finish(self) -> None:
        """Do nothing: what the attackers gained is measured while parties are there."""

    def threat_model(self) -> dict[str, Any]:
        """Return the threat model; see `World.threat_model`."""
        return threat_model(self.world)

    def summary(self, rounds: list[dict[str, Any]], clients: Path) -> dict[str, Any]:
        """Return what the summary says beside what all runs say; see `World.summary`."""
        config, world = self.config, self.world
        final = rounds[-1]
        if "success" in self.gained:
            final = {**final, "attack_success_rate": self.gained["success"]}
        return {
            "attack": config.attack.name if world.attackers else "none",
            "partition": "strips" if world.dataset.is_image else "columns",
            "model": self.strategy.arch,
            "malicious": len(world.attackers),
            "malicious_clients": list(world.attackers),
            "device": str(self.device),
            "final": final,
            "attack_result": self.gained,
            "parties": party_totals(read_jsonl(clients)),
            "notes": [*world.dataset.notes, *self._notes()],
        }

    def _notes(self) -> list[str]:
        spent = self.strategy.account().values()
        delta = getattr(getattr(self.strategy, "privacy", None), "delta", None)
        notes = [f"attack: {name} {value:.4g}" for name, value in self.gained.items()]
        if spent and delta is not None:
            notes.append(
                f"privacy of a training row over all rounds: epsilon {max(spent):.1f} "
                f"at delta {delta:g} (largest of {len(spent)} parties)"
            )
        return notes


_COUNTS = ("asked", "answered", "failed", "set_aside", "rejected", "accepted", "malformed")


def _outcome(found: VerticalRound, party: int) -> str:
    """Return what became of a party in a round, in the words of ``clients.jsonl``."""
    if party not in found.asked:
        return "rejected"
    return "set aside" if party in found.faults else "accepted"


def party_totals(records: list[dict[str, Any]]) -> dict[str, Any]:
    """Return each party's tokens over all rounds, and its last scores."""
    totals: dict[str, Any] = {}
    for record in records:
        one = totals.setdefault(str(record["client"]), {"tokens": 0})
        one["tokens"] += record["tokens"] or 0
        one["last"] = record["scores"]
        one["active"] = record["accepted"]
    return totals


def threat_model(world: Parts) -> dict[str, Any]:
    """Return what the attacker knows and controls, what the defence assumes, what is measured."""
    config = world.config
    return {
        "attacker": {
            "attack": config.attack.name,
            "controls": f"{len(world.attackers)} of {config.clients} parties",
            "parties": list(world.attackers),
            "knowledge": (type(world.attack).__doc__ or "").strip().split("\n")[0],
        },
        "defence": {
            "strategy": config.strategy.name,
            "label holder": "party 0 and the server are one organisation; it follows the protocol",
            "sees who is malicious": False,
        },
        "measured": [
            "accuracy, loss and recall per class on the test rows",
            "what the attack gained, by its own measure, after the last round",
            "tokens, epsilon, contribution and utility of every party",
        ],
    }


def _under(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
