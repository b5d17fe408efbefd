"""What an unlearning strategy must remember from round to round, and across a restart."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fedguard.config.requests import SERVER_ASKS, UnlearnRequest
from fedguard.unlearning.method import LastModel
from fedguard.updates import ClientUpdates, Verdict


@dataclass
class Memory:
    """The strategy's memory.

    Attributes
    ----------
    initial : Tensor or None
        (D,) the model before round 1.
    keep : Tensor or None
        (D,) bool; what is False stays zero.
    last_models : dict of int to LastModel
        What clients with a request ahead sent last.
    carried_out : list of UnlearnRequest
        Requests carried out, each with the round it was carried out in.
    refused : list of dict
        Requests that were not genuine, with the reason.
    erased_round : int or None
        Round after which the newest erasure, calibration included, was complete.
    calibrating : list of int
        Stored rounds still to be calibrated.
    rejections : dict of int to int
        How often each client was rejected.
    by_verdict : dict of int to int
        Clients that the defence's verdict condemned, and the round they are forgotten in.
    notes : list of str
        What was odd, one line each.
    """

    initial: Tensor | None = None
    keep: Tensor | None = None
    last_models: dict[int, LastModel] = field(default_factory=dict)
    carried_out: list[UnlearnRequest] = field(default_factory=list)
    refused: list[dict[str, Any]] = field(default_factory=list)
    erased_round: int | None = None
    calibrating: list[int] = field(default_factory=list)
    rejections: dict[int, int] = field(default_factory=dict)
    by_verdict: dict[int, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def forgotten_clients(self) -> frozenset[int]:
        """Clients of whom nothing may be used any more."""
        return frozenset(
            request.client
            for request in self.carried_out
            if request.whole_client and request.client is not None
        )

    def partial(self, client: int) -> UnlearnRequest | None:
        """Return the request that took some of a client's rows, if there is one."""
        mine = [r for r in self.carried_out if r.client == client and not r.whole_client]
        return mine[-1] if mine else None

    def condemned(self, server_round: int) -> list[UnlearnRequest]:
        """Return the requests that verdicts made for a round."""
        return [
            UnlearnRequest(client=client, round=when, requester=SERVER_ASKS)
            for client, when in self.by_verdict.items()
            if when == server_round
        ]

    def refuse(self, request: UnlearnRequest) -> str:
        """Enter a request that is not genuine; return the reason."""
        reason = f"client {request.requester} may not ask to forget {request.client}"
        self.refused.append({"request": request.told(), "reason": reason})
        return reason

    def carry_out(
        self,
        requests: Sequence[UnlearnRequest],
        server_round: int,
        keep: Tensor | None,
        waiting: Sequence[int],
    ) -> None:
        """Enter requests that were carried out in a round.

        Parameters
        ----------
        requests : sequence of UnlearnRequest
            They.
        server_round : int
            The round.
        keep : Tensor or None
            (D,) bool, what is False is to stay zero; None if nothing was silenced.
        waiting : sequence of int
            Stored rounds to be calibrated from now on.
        """
        for request in requests:
            self.carried_out.append(request.model_copy(update={"round": server_round}))
            self.last_models.pop(request.client if request.client is not None else -1, None)
        if keep is not None:
            self.keep = keep if self.keep is None else self.keep & keep
        self.calibrating = list(waiting)
        self.erased_round = server_round + len(self.calibrating)

    def learn(
        self, updates: ClientUpdates, verdict: Verdict, requests: Sequence[UnlearnRequest]
    ) -> None:
        """Remember of an ordinary round what requests may need later.

        These are who was rejected, and the models of clients with a genuine request ahead; where
        requests wait for rejections, those of everyone who was ever rejected.
        """
        for node, weight in zip(updates.node_ids, verdict.weights.tolist(), strict=True):
            if weight == 0.0:
                self.rejections[node] = self.rejections.get(node, 0) + 1
        now = updates.server_round
        ahead = {r.client for r in requests if r.genuine and (r.round or 0) > now}
        if any(request.rejected for request in requests):
            ahead |= set(self.rejections)
        for row, node in enumerate(updates.node_ids):
            if node in ahead:
                model = updates.global_vector + updates.deltas[row]
                self.last_models[node] = LastModel(model, float(verdict.weights[row]))

    def condemn(self, server_round: int, limit: int, most: int) -> None:
        """Let a round forget whom the defence rejected `limit` times, `most` clients in all."""
        for client, count in sorted(self.rejections.items()):
            known = client in self.by_verdict or client in self.forgotten_clients
            if count >= limit and not known and len(self.by_verdict) < most:
                self.by_verdict[client] = server_round

    def to_tensors(self, costs: dict[int, dict[str, float]]) -> dict[str, Tensor]:
        """Return the memory as named tensors; words and numbers as JSON in bytes."""
        words = {
            "carried_out": [r.model_dump(exclude_none=True) for r in self.carried_out],
            "refused": self.refused,
            "erased_round": self.erased_round,
            "calibrating": self.calibrating,
            "rejections": list(self.rejections.items()),
            "by_verdict": list(self.by_verdict.items()),
            "notes": self.notes,
            "shares": [(client, last.share) for client, last in self.last_models.items()],
            "costs": list(costs.items()),
        }
        text = bytearray(json.dumps(words).encode())
        tensors = {"memory": torch.frombuffer(text, dtype=torch.uint8).clone()}
        if self.initial is not None:
            tensors["initial"] = self.initial
        if self.keep is not None:
            tensors["keep"] = self.keep
        for client, last in self.last_models.items():
            tensors[f"last.{client}"] = last.model
        return tensors

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> tuple[Memory, dict[int, dict[str, float]]]:
        """Return the memory and the costs that `to_tensors` wrote."""
        words = json.loads(bytes(tensors["memory"].tolist()).decode())
        memory = cls(
            initial=tensors.get("initial"),
            keep=tensors["keep"].bool() if "keep" in tensors else None,
            last_models={
                int(client): LastModel(tensors[f"last.{client}"], float(share))
                for client, share in words["shares"]
            },
            carried_out=[UnlearnRequest(**request) for request in words["carried_out"]],
            refused=words["refused"],
            erased_round=words["erased_round"],
            calibrating=words["calibrating"],
            rejections={int(client): count for client, count in words["rejections"]},
            by_verdict={int(client): when for client, when in words["by_verdict"]},
            notes=words["notes"],
        )
        return memory, {int(when): entry for when, entry in words["costs"]}
