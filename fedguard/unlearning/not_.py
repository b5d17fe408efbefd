"""NoT: negate the first layer."""

from __future__ import annotations

from fedguard.unlearning.method import Erased, Situation, UnlearningMethod


class NoT(UnlearningMethod):
    """Multiply the first layer's weights by -1 and let the others train the model back.

    ``W_1' = -W_1``

    Khalil et al., "NoT: Federated Unlearning via Weight Negation", CVPR 2025. Needs nothing of
    the requester and stores nothing.
    """

    def erase(self, situation: Situation) -> Erased:
        """Negate; see `UnlearningMethod.erase`."""
        vector = situation.vector.clone()
        tensors = situation.layout.unflatten(vector)
        first = next(name for name, tensor in tensors.items() if tensor.dim() > 1)
        tensors[first].neg_()
        return Erased(vector)
