"""`VerticalSimulation`: a vertical run, from its configuration to a run directory."""

from __future__ import annotations

import resource
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from flwr.serverapp import Grid
from safetensors.torch import save
from torch import Tensor

from fedguard.config import SimulationConfig
from fedguard.models.device import resolve_device
from fedguard.records import writer as files
from fedguard.records.checkpoints import Checkpoint, CheckpointStore
from fedguard.records.provenance import model_sha256, versions
from fedguard.records.writer import Recorder, read_jsonl, write_atomically
from fedguard.vertical.attacks.base import Evidence
from fedguard.vertical.exchange import Exchange, FusedExchange, MessageExchange, usable
from fedguard.vertical.parts import World
from fedguard.vertical.strategy import VerticalRound, VerticalStrategy

RoundListener = Callable[[dict[str, Any]], None]


class VerticalSimulation:
    """One vertical run; the counterpart of `fedguard.runs.simulation.Simulation`.

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
        self.world = World(config, self.device)
        self.dataset = self.world.dataset
        self.attack = self.world.attack

    @property
    def strategy(self) -> VerticalStrategy:
        """The strategy."""
        return self.world.strategy

    def run(
        self,
        out: Path,
        *,
        resume: bool = False,
        on_round: RoundListener = lambda _: None,
        grid: Grid | None = None,
    ) -> dict[str, Any]:
        """Run all rounds and write the run directory; return the summary.

        Parameters
        ----------
        out : Path
            Run directory.
        resume : bool
            Go on from the newest checkpoint in `out`, if there is one.
        on_round : callable
            Called with each round's record.
        grid : Grid, optional
            Where parties are, in place of the configured engine; its node ids are party indices.
        """
        return VerticalExecution(self, out, resume, on_round, grid).execute()


class VerticalExecution:
    """One execution of a vertical simulation, from its first or next round to its summary."""

    def __init__(
        self,
        simulation: VerticalSimulation,
        out: Path,
        resume: bool,
        on_round: RoundListener,
        grid: Grid | None,
    ) -> None:
        self.simulation, self.out, self.on_round = simulation, out, on_round
        self.grid = grid
        self.config, self.world = simulation.config, simulation.world
        self.recorder = Recorder(out)
        self.store = CheckpointStore(out / "checkpoint", self.config.digest())
        self.checkpoint = self.store.newest() if resume else None
        self.holder = self.world.label_holder()
        self.strategy = self.world.strategy
        self.strategy.bind(self.holder, self.world.schedule(), self.config.clients)
        self.exchange: Exchange
        self.gained: dict[str, float] = {}
        self.bottoms: dict[int, dict[str, Tensor]] = {}
        self.started = self.round_started = time.monotonic()
        self.training_seconds = 0.0

    @property
    def rounds_done(self) -> int:
        """Rounds that an earlier execution finished."""
        return self.checkpoint.server_round if self.checkpoint else 0

    def execute(self) -> dict[str, Any]:
        """Run what is left of the rounds; see `VerticalSimulation.run`."""
        self._prepare_files()
        self._start()
        self._write_model()
        summary = self._summary()
        self.recorder.write_json(files.SUMMARY, summary)
        return summary

    def _prepare_files(self) -> None:
        if self.checkpoint is None:
            for name in (files.ROUNDS, files.CLIENTS, files.SUMMARY):
                (self.out / name).unlink(missing_ok=True)
            shutil.rmtree(self.store.directory, ignore_errors=True)
        else:
            self.recorder.truncate_after(self.rounds_done)
        self.recorder.write_config(self.config.resolved())
        self.recorder.write_json(files.THREAT_MODEL, threat_model(self.world))

    def _start(self) -> None:
        if self.grid is not None:
            self._serve(MessageExchange(self.grid, self.config.round_timeout))
        elif self.config.engine == "flower":
            from fedguard.nodes.in_flower import run_in_flower

            run_in_flower(
                self.config,
                lambda grid: self._serve(MessageExchange(grid, self.config.round_timeout)),
            )
        else:
            parties = [self.world.party(p) for p in range(self.config.clients)]
            self._serve(FusedExchange(parties))

    def _serve(self, exchange: Exchange) -> None:
        self.exchange = exchange
        if isinstance(exchange, MessageExchange):
            self._gather(exchange.grid)
        if self.checkpoint is None:
            self._record(VerticalRound(0), exchange)
        else:
            self._restore(self.checkpoint, exchange)
        self.round_started = time.monotonic()
        self.strategy.train(
            exchange,
            self.config.rounds,
            rounds_done=self.rounds_done,
            on_round=lambda found: self._record(found, exchange),
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

    def _record(self, found: VerticalRound, exchange: Exchange) -> None:
        current = found.server_round
        record = {"round": current, **self._metrics(found, exchange)}
        now = time.monotonic()
        record["seconds"] = round(now - self.round_started, 4)
        record["training_seconds"] = round(found.seconds, 4)
        self.round_started = now
        if current:
            self.recorder.append(files.CLIENTS, self._party_records(found))
        self.recorder.append(files.ROUNDS, [record])
        if current:
            self._save_checkpoint(current, exchange)
        self.on_round(record)

    def _metrics(self, found: VerticalRound, exchange: Exchange) -> dict[str, Any]:
        result = self.holder.evaluate(self._test_blocks(found, exchange, triggered=False))
        facts = self.strategy.round_facts(found)
        accepted = len(found.asked) - len(found.faults)
        return {
            "accuracy": result.accuracy,
            "loss": result.loss,
            "attack_success_rate": self._backdoor_success(found, exchange),
            "per_class_recall": list(result.per_class_recall),
            "macro_f1": result.macro_f1,
            "accepted": accepted,
            "rejected": self.config.clients - accepted if found.server_round else 0,
            "malformed": len(found.faults),
            **self._detection(found),
            "train_loss": found.loss,
            **facts,
        }

    def _test_blocks(
        self, found: VerticalRound, exchange: Exchange, *, triggered: bool
    ) -> dict[int, Tensor]:
        """Return the usable test embeddings; report what is missing or broken."""
        present = [p for p in range(self.config.clients) if p not in self.strategy.left]
        blocks = exchange.embed_test(present, found.server_round, triggered=triggered)
        released = {party: {"embedding": block} for party, block in blocks.items()}
        rows = len(self.holder.y_test)
        good, faults = usable(released, rows, self.strategy.embedding, ("embedding",))
        for party, reason in {**exchange.missing, **faults}.items():
            found.faults.setdefault(party, f"evaluation: {reason}")
        return {party: one["embedding"] for party, one in good.items()}

    def _backdoor_success(self, found: VerticalRound, exchange: Exchange) -> float | None:
        """Return the share of triggered test rows of other classes that get the target class."""
        target = self.world.attack.target_class
        if not (self.world.attack.backdoor and self.world.attackers) or target is None:
            return None
        predicted = self.holder.predict(self._test_blocks(found, exchange, triggered=True))
        others = self.holder.y_test != target
        return float((predicted[others] == target).double().mean())

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
                    "weight": None if tokens is None or not paid else tokens / paid,
                    "num_examples": rows,
                    "tokens": tokens,
                    "scores": scores,
                    "reason": reason,
                }
            )
        return records

    # --- checkpoints --------------------------------------------------------------------------

    def _save_checkpoint(self, current: int, exchange: Exchange) -> None:
        states = exchange.states(range(self.config.clients))
        if len(states) < self.config.clients:
            return  # parties of a real federation do not show what they hold
        top = torch.cat([p.detach().flatten().cpu() for p in self.holder.top.parameters()])
        state = {f"holder.{name}": value for name, value in self.holder.state().items()}
        state |= {f"loop.{name}": value for name, value in self.strategy.state().items()}
        for party, one in states.items():
            state |= {f"party-{party}.{name}": value for name, value in one.items()}
        seconds = self._seconds()
        self.store.save(Checkpoint(current, top, top.clone(), state, seconds))

    def _restore(self, checkpoint: Checkpoint, exchange: Exchange) -> None:
        state = checkpoint.strategy_state
        self.holder.load_state(_under("holder.", state))
        self.strategy.load_state(_under("loop.", state))
        parties = range(self.config.clients)
        exchange.restore({p: _under(f"party-{p}.", state) for p in parties})

    def _seconds(self) -> float:
        before = self.checkpoint.seconds if self.checkpoint else 0.0
        return before + time.monotonic() - self.started

    # --- the end ------------------------------------------------------------------------------

    def _write_model(self) -> None:
        tensors = {f"top.{n}": v for n, v in self.holder.top.state_dict().items()}
        for party, state in self.bottoms.items():
            found = _under("bottom.", state)
            tensors |= {f"party-{party}.{name}": value for name, value in found.items()}
        plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        write_atomically(self.out / files.MODEL, save(plain))

    def _summary(self) -> dict[str, Any]:
        config, world = self.config, self.world
        rounds = read_jsonl(self.out / files.ROUNDS)
        trained = [record for record in rounds if record["round"] > 0]
        best = max(trained, key=lambda record: record["accuracy"])
        final = trained[-1]
        if "success" in self.gained:
            final = {**final, "attack_success_rate": self.gained["success"]}
        return {
            "strategy": config.strategy.name,
            "attack": config.attack.name if world.attackers else "none",
            "dataset": config.dataset.name,
            "partition": "strips" if world.dataset.is_image else "columns",
            "model": self.strategy.arch,
            "clients": config.clients,
            "malicious": len(world.attackers),
            "malicious_clients": list(world.attackers),
            "rounds": config.rounds,
            "seed": config.seed,
            "engine": "inprocess" if config.engine == "auto" else config.engine,
            "device": str(self.simulation.device),
            "final": final,
            "best": {"round": best["round"], "accuracy": best["accuracy"]},
            "detection": {
                name: _mean(record[name] for record in trained)
                for name in ("true_positive_rate", "false_positive_rate")
            },
            "attack_result": self.gained,
            "parties": party_totals(read_jsonl(self.out / files.CLIENTS)),
            "seconds": round(self._seconds(), 3),
            "seconds_per_round": round(sum(r["seconds"] for r in trained) / len(trained), 4),
            "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            "model_sha256": model_sha256(self.out),
            "config_digest": config.digest(),
            "class_names": list(world.dataset.class_names),
            "notes": [*world.dataset.notes, *self._notes()],
            "versions": versions(),
            "out": str(self.out),
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


def party_totals(records: list[dict[str, Any]]) -> dict[str, Any]:
    """Return each party's tokens over all rounds, and its last scores."""
    totals: dict[str, Any] = {}
    for record in records:
        one = totals.setdefault(str(record["client"]), {"tokens": 0})
        one["tokens"] += record["tokens"] or 0
        one["last"] = record["scores"]
        one["active"] = record["accepted"]
    return totals


def threat_model(world: World) -> dict[str, Any]:
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


def _mean(values: Any) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _under(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
