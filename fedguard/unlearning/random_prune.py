"""Random pruning: what silencing units does by itself."""

from __future__ import annotations

from dataclasses import replace

from fedguard.unlearning.method import Erased, Situation, UnlearningMethod
from fedguard.unlearning.soul import silenced


class RandomPrune(UnlearningMethod):
    """Silence a drawn share beta of every hidden layer's units, without ascent."""

    def erase(self, situation: Situation) -> Erased:
        """Prune at random; see `UnlearningMethod.erase`."""
        options = replace(self.options, pruning="random")
        return Erased(situation.vector, silenced(situation, situation.vector, options))
