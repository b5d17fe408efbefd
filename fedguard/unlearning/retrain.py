"""Retraining from scratch: the gold standard, and the most expensive."""

from __future__ import annotations

from fedguard.unlearning.method import Erased, Situation, UnlearningMethod


class Retrain(UnlearningMethod):
    """Go back to the model before round 1 and train again without what is forgotten.

    Give the run as many rounds after the request as before it.
    """

    def erase(self, situation: Situation) -> Erased:
        """Return the initial model; see `UnlearningMethod.erase`."""
        return Erased(situation.initial)
