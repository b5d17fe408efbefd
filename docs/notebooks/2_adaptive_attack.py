# ---
# jupyter:
#   kernelspec: {name: python3, display_name: Python 3}
# ---

# %% [markdown]
# # An adaptive attack against your own rule
#
# A defence is only as good as the attacker who knows it. We write a rule, see it stand against an
# attack that does not know it, then search for the vector that moves *this rule* furthest.

# %%
from fedguard.strategies import RobustStrategy
from fedguard.updates import Verdict


class Nearest(RobustStrategy):
    """Average the 60 % of the updates that lie nearest to the coordinate-wise median."""

    properties = frozenset({"robust", "translation", "scale"})

    def combine(self, updates):
        gap = (updates.deltas - updates.deltas.quantile(0.5, dim=0)).norm(dim=1).double()
        keep = gap <= gap.quantile(0.6)
        weights = keep.double() / keep.sum()
        far = [node for node, kept in zip(updates.node_ids, keep, strict=True) if not kept]
        delta = (weights.float() @ updates.deltas).float()
        return Verdict(delta, weights, {"gap": gap}, dict.fromkeys(far, "far from the median"))


# %% [markdown]
# Does it conform? Hostile rows, ties, few clients, the order of clients: one call.

# %%
from fedguard.testing import check_strategy

print(check_strategy(Nearest, quick=True))

# %% [markdown]
# The attack asks for a copy of the deployed rule (`needs` says `"aggregate"`) and rehearses the round:
# which multiple of the turned mean gets furthest through it?

# %%
from fedguard.attacks.base import Attack
from fedguard.attacks.toolkit.crafting import visible
from fedguard.attacks.toolkit.rehearsal import send_furthest


class KnowsYou(Attack):
    """Send ``mu - t mu`` with the t that moves the deployed rule furthest from the mean."""

    needs = frozenset({"updates", "aggregate"})

    def craft(self, coalition, knowledge):
        mean = visible(coalition, knowledge).mean(dim=0)
        return send_furthest(coalition, knowledge, lambda t: mean - t * mean, 10.0, 12)


# %%
import fedguard

common = {"clients": 10, "malicious": 0.3, "partition": "iid", "rounds": 5, "local_epochs": 2}
rule = f"{__name__}:Nearest"
blunt = fedguard.run(
    strategy=rule, attack={"name": "sign-flip", "scale": 4.0}, out="runs/blunt", **common
)
knows = fedguard.run(strategy=rule, attack=f"{__name__}:KnowsYou", out="runs/knows", **common)

# %%
{
    name: (
        round(run.summary["final"]["accuracy"], 3),
        run.summary["detection"]["true_positive_rate"],
    )
    for name, run in {"sign-flip": blunt, "knows you": knows}.items()
}

# %% [markdown]
# The first figure is accuracy, the second the share of the attackers' updates that was rejected. The
# blunt attack is rejected whole. The one that rehearses stays inside what the rule accepts. Report a
# defence under both.

# %%
caught = [run.summary["detection"]["true_positive_rate"] for run in (blunt, knows)]
assert caught[0] > 0.9, "the blunt attack is seen"
assert caught[1] < caught[0], "the one that knows the rule gets further"
