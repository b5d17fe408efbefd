# ---
# jupyter:
#   kernelspec: {name: python3, display_name: Python 3}
# ---

# %% [markdown]
# # Reading a sweep
#
# One run is an anecdote. A sweep runs a grid, each cell once, over seeds; the comparison says which
# defence is better in its worst case, and how sure that is.

# %%
import fedguard

sweep = fedguard.sweep(
    {
        "name": "small",
        "base": {"clients": 8, "malicious": 0.25, "rounds": 4, "local_epochs": 1},
        "grid": {
            "strategy": ["fedavg", "median", "multi-krum"],
            "attack": [
                {"name": "sign-flip", "scale": 4.0},
                {"name": "min-max", "direction": "unit"},
            ],
        },
        "seeds": 2,
    },
    workers=1,
)
sweep.table[["strategy", "attack", "seed", "accuracy", "false_positive_rate"]].round(3)

# %% [markdown]
# Runs that differ by their seed alone are one group. The worst case of a defence is its lowest mean
# over seeds among all that it faced; that is what it is ranked by.

# %%
found = sweep.compare()
found.table[["defence", "worst_accuracy", "worst_scenario", "accuracy", "wronged"]].round(3)

# %%
found.groups.round(3).head(6)

# %% [markdown]
# With two seeds the spread is rough, and no test can be significant: the comparison says so rather
# than print a p-value. `found.report("compare.html")` writes the page with curves, heat maps and tests.

# %%
table = found.table
assert len(sweep.results) == 12, "three strategies, two attacks, two seeds"
assert not sweep.failed
worst = list(table["worst_accuracy"])
assert worst == sorted(worst, reverse=True), "best worst case first"
