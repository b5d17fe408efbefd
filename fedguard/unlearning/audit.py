"""`UnlearningAudit`: watches a run that unlearns and writes ``unlearning.json``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from safetensors.torch import save
from torch import Tensor

from fedguard.audits.base import Audit, Scene
from fedguard.config.requests import UnlearnRequest
from fedguard.errors import ConfigurationError
from fedguard.models.flat import FlatModel
from fedguard.records import writer as files
from fedguard.records.writer import read_jsonl, write_atomically
from fedguard.traits import Traits
from fedguard.unlearning.costs import ratios
from fedguard.unlearning.strategy import SoUL
from fedguard.unlearning.verification import Bench, Trainer, gather, make_references

UNLEARNING = "unlearning.json"
RECOVERED = "recovered.safetensors"


class UnlearningAudit(Audit):
    """Verify unlearning: the model before a request, after it, after recovery, after relearning.

    With several requests, *before* is the model before the first one and the others follow the
    last one. The truth about clients and data comes from the run's scene.
    """

    traits = Traits(tasks=frozenset({"classification"}))
    columns: ClassVar[bool] = True

    def open(self, scene: Scene) -> None:
        """Learn of the run; what an earlier execution measured is kept."""
        super().open(scene)
        if not isinstance(scene.strategy, SoUL):
            raise ConfigurationError("audit", "unlearning", "it only with a strategy that unlearns")
        self.strategy: SoUL = scene.strategy
        self.path = scene.out / UNLEARNING
        self.phases: dict[str, dict[str, Any]] = {}
        self.relearn: dict[str, Any] = {}
        self.trainer = Trainer(scene.config.lr, scene.config.batch_size)
        self._bench: Bench | None = None
        self._subjects: tuple[UnlearnRequest, ...] = ()
        if scene.rounds_done:
            self._read(scene.rounds_done)
        else:
            self.path.unlink(missing_ok=True)

    def due(self, server_round: int, rounds: int) -> bool:
        """Return True: every round is looked at, most of them in vain."""
        return True

    def _read(self, rounds_done: int) -> None:
        try:
            found = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return
        phases = found.get("phases", {})
        self.phases = {name: p for name, p in phases.items() if p["round"] <= rounds_done}
        if "recovered" in self.phases:
            self.relearn = found.get("relearn", {})

    # --- what is measured when ---------------------------------------------------------------

    @property
    def subjects(self) -> tuple[UnlearnRequest, ...]:
        """Requests whose rows are verified: planned genuine ones, and those of verdicts."""
        memory = self.strategy.memory
        planned = [r for r in self.strategy.requests if r.genuine and r.client is not None]
        condemned = [UnlearnRequest(client=c, round=r) for c, r in memory.by_verdict.items()]
        return (*planned, *condemned)

    def look(self, current: int, vector: Tensor, rng: torch.Generator) -> dict[str, Any]:
        """Return what ``rounds.jsonl`` says of a round; measure more where a phase ends."""
        subjects, memory = self.subjects, self.strategy.memory
        if not subjects:
            return {}
        first = min(request.round or 0 for request in subjects)
        due = self._phases_of(current, first)
        if not due and not memory.carried_out:
            return {}
        model = self._model(vector)
        bench = self._bench_of(subjects)
        for name in due:
            model.load(vector.to(self.scene.device))
            self.phases[name] = {"round": current, **bench.measure(model.module)}
            if name == "recovered":
                self._keep(vector)
                self._relearn(bench, vector)
            self._write()
        model.load(vector.to(self.scene.device))
        return dict(bench.brief(model.module)) if memory.carried_out else {}

    def _phases_of(self, current: int, first: int) -> list[str]:
        strategy, memory = self.strategy, self.strategy.memory
        due = ["before"] if current == first - 1 else []
        if memory.erased_round is None:
            return due
        recovered = memory.erased_round + strategy.recovery_rounds
        ends = {
            "after": memory.erased_round,
            "recovered": recovered,
            "relearned": recovered + strategy.relearning_rounds,
        }
        return due + [name for name, end in ends.items() if end == current]

    def _model(self, vector: Tensor) -> FlatModel:
        model = self.scene.model
        model.load(vector.to(self.scene.device))
        return model

    def _bench_of(self, subjects: tuple[UnlearnRequest, ...]) -> Bench:
        if self._bench is not None and subjects == self._subjects:
            return self._bench
        scene, seed = self.scene, self.scene.config.seed
        rows = gather(scene.federation, subjects, seed)
        references = make_references(scene.fresh, rows.reference, self.trainer, seed)
        self._subjects = subjects
        self._bench = Bench(
            rows=rows,
            references=references,
            test=scene.test,
            triggered=scene.triggered,
            target_class=scene.federation.attack.target_class,
        )
        return self._bench

    def _keep(self, vector: Tensor) -> None:
        """Write the recovered model, for comparisons with retrained ones."""
        arrays = self.scene.model.layout.to_arrays(vector)
        tensors = {name: torch.from_numpy(array.numpy().copy()) for name, array in arrays.items()}
        write_atomically(self.path.with_name(RECOVERED), save(tensors))

    def _relearn(self, bench: Bench, vector: Tensor) -> None:
        wanted = self.phases.get("before", {}).get("forget_accuracy")
        initial = self.strategy.memory.initial
        if wanted is None or initial is None:
            return
        model, device = self.scene.model, self.scene.device
        epochs = [
            bench.relearn_epochs(
                model, start.to(device), wanted, self.trainer, self.scene.config.seed
            )
            for start in (vector, initial)
        ]
        self.relearn = {
            "forget_accuracy_wanted": 0.9 * wanted,
            "epochs": epochs[0],
            "epochs_of_a_fresh_model": epochs[1],
        }

    # --- what is written ---------------------------------------------------------------------

    def finish(self) -> Mapping[str, Any]:
        """Write ``unlearning.json`` with the whole run's costs, where there was a request."""
        if self.strategy.requests:
            self._write()
        return {}

    def _write(self) -> None:
        strategy, memory = self.strategy, self.strategy.memory
        text = json.dumps(
            files.jsonable(
                {
                    "method": strategy.method_name,
                    "pruning": strategy.options.pruning if strategy.method_name == "soul" else None,
                    "requests": [r.model_dump(exclude_none=True) for r in memory.carried_out],
                    "refused": memory.refused,
                    "notes": memory.notes,
                    "silenced_parameters": self._silenced(),
                    "erased_round": memory.erased_round,
                    "phases": self.phases,
                    "relearn": self.relearn,
                    "costs": self._costs(),
                }
            ),
            indent=2,
        )
        write_atomically(self.path, text.encode() + b"\n")

    def _silenced(self) -> float:
        keep = self.strategy.memory.keep
        return 0.0 if keep is None else float((~keep).double().mean())

    def _costs(self) -> dict[str, Any]:
        """Return the costs up to recovery, beside those of the rounds a retraining would repeat."""
        memory, ledger = self.strategy.memory, self.strategy.ledger
        if not memory.carried_out or memory.erased_round is None:
            return {}
        first = min(request.round or 0 for request in memory.carried_out)
        last = memory.erased_round + self.strategy.recovery_rounds
        own = {**ledger.between(first, last), "seconds": self._seconds(first, last)}
        share = self._retained_share()
        again = {name: share * v for name, v in ledger.between(1, first - 1).items()}
        again["seconds"] = share * self._seconds(1, first - 1)
        return {
            "first_round": first,
            "last_round": last,
            "unlearning": own,
            "retraining_as_long": again,
            "ratios": ratios(own, again),
        }

    def _seconds(self, first: int, last: int) -> float:
        path = self.path.with_name(files.ROUNDS)
        records = read_jsonl(path) if path.exists() else []
        return float(sum(r["seconds"] for r in records if first <= r["round"] <= last))

    def _retained_share(self) -> float:
        federation = self.scene.federation
        sizes = torch.tensor([len(rows) for rows in federation.shards], dtype=torch.float64)
        gone = list(self.strategy.memory.forgotten_clients)
        return float(1.0 - sizes[gone].sum() / sizes.sum())
