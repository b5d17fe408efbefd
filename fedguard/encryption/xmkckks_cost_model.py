"""Multi-key CKKS without the cryptography: its error and its costs, for large sweeps."""

from __future__ import annotations

from collections.abc import Iterable
from logging import INFO

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.common.logger import log
from flwr.serverapp import Grid

from fedguard.encryption.cost_model import noise_std, predicted_cost, simulated_mean
from fedguard.encryption.grouping import draw_groups
from fedguard.encryption.protocol.weights import GroupMean, exponent_of, weight_limit
from fedguard.encryption.xmkckks import XmkCkks
from fedguard.errors import RunError
from fedguard.randomness import SERVER, numpy_generator
from fedguard.strategies.base import RobustStrategy
from fedguard.updates import ClientUpdates, Verdict


class XmkCkksCostModel(XmkCkks):
    r"""Do to updates what `XmkCkks` does, on plaintext: nothing is encrypted, nothing protected.

    Means are clipped, weighted and given noise of the distribution that fused shares have; bytes
    follow the wire formats; client seconds come from a short measurement on this machine. Clients
    need nothing of ours and send their models in the clear.

    Parameters
    ----------
    As for `XmkCkks`.

    Notes
    -----
    .. math::
       \delta = \frac{\sum_i w_i \operatorname{clip}_B(\delta_i) + \xi}{\sum_i w_i + \xi_0 / B}

    where :math:`\delta_i` is client i's update with every entry clipped to plus and minus B, the
    profile's bound, :math:`w_i` its examples in units of the group's limit, at most 1, and
    :math:`\xi`, :math:`\xi_0` are noise of the fused shares' distribution.
    """

    # A deployment that says it encrypts must encrypt.
    traits = XmkCkks.traits.but(deployable=False)

    @property
    def client_options(self) -> None:
        """None: clients do not encrypt."""
        return

    def describe(self, clients: int) -> str:
        """Return one line that says that nothing is protected."""
        return "cost model, NO CRYPTOGRAPHY, of " + super().describe(clients)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Sample clients and send them the model, without the protocol."""
        messages = list(RobustStrategy.configure_train(self, server_round, arrays, config, grid))
        if messages:
            self._divide()
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Compute what the protocol would open, combine it, return the new model."""
        if self.layout is None or self._global_vector is None:
            raise RuntimeError("aggregate_train was called before configure_train")
        plain = ClientUpdates.from_replies(
            replies,
            self._global_vector,
            self.layout,
            expected=self._asked,
            weighted_by_key=self.weighted_by_key,
            server_round=server_round,
        )
        means = self._simulated_means(plain)
        if not means:
            raise RunError(f"round {server_round}: no client sent a usable update")
        updates, verdict = self._combine_groups(means, plain, plain.malformed)
        for observer in self.observers:
            observer(server_round, updates, verdict)
        metrics = self._metrics(means, updates, verdict)
        log(INFO, "cost model, no cryptography: %s", dict(metrics))
        return self.layout.to_arrays(self._global_vector + verdict.delta), metrics

    def _simulated_means(self, plain: ClientUpdates) -> list[GroupMean]:
        rows = {node: row for row, node in enumerate(plain.node_ids)}
        means = []
        for cohort in draw_groups(self._asked, self.groups, self.seed):
            present = [node for node in cohort if node in rows]
            if present:
                means.append(self._simulated_mean(plain, present, rows))
        return means

    def _simulated_mean(
        self, plain: ClientUpdates, present: list[int], rows: dict[int, int]
    ) -> GroupMean:
        chosen = [rows[node] for node in present]
        examples = plain.num_examples[chosen].numpy()
        return simulated_mean(
            plain.deltas[chosen].to(torch.float64).numpy(),
            examples,
            tuple(present),
            weight_limit([exponent_of(value) for value in examples]),
            self.profile.clip,
            noise_std(self.profile.name, self.packing, len(present)),
            numpy_generator(self.seed, plain.server_round, SERVER, f"noise {present[0]}"),
        )

    def _metrics(
        self, means: list[GroupMean], updates: ClientUpdates, verdict: Verdict
    ) -> MetricRecord:
        """Return the counters of `XmkCkks`, predicted, and the clients' CPU seconds."""
        largest = max(len(mean.contributors) for mean in means)
        cost = predicted_cost(
            self.profile.name,
            self.packing,
            updates.layout.size,
            largest,
            threshold=self.threshold,
            backend=self.backend,
        )
        return MetricRecord(
            {
                "cost-model-no-cryptography": 1,
                "accepted": int((verdict.weights > 0).sum()),
                "rejected": len(verdict.reasons) + len(updates.malformed),
                "trips": 3 if self.threshold else 2,
                "client-upload-bytes": cost.upload,
                "client-download-bytes": cost.download,
                "client-seconds": cost.seconds,
                "clipped-share": float(np.mean([mean.clipped for mean in means])),
            }
        )
