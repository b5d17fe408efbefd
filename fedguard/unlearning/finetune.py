"""Fine-tuning alone: go on without what is forgotten."""

from __future__ import annotations

from fedguard.unlearning.method import Erased, Situation, UnlearningMethod


class FineTune(UnlearningMethod):
    """Leave the model as it is and train on without what is forgotten; rely on it to fade."""

    def erase(self, situation: Situation) -> Erased:
        """Return the model as it is; see `UnlearningMethod.erase`."""
        return Erased(situation.vector)
