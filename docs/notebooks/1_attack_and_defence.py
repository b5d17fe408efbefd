# ---
# jupyter:
#   kernelspec: {name: python3, display_name: Python 3}
# ---

# %% [markdown]
# # A first attack and a first defence
#
# Ten clients share scikit-learn's handwritten digits. Three of them lie: they send back four times the
# opposite of what they learnt. We look at plain averaging in peace, under attack, and at a defence.

# %%
import fedguard

common = {"clients": 10, "malicious": 0.3, "rounds": 6, "local_epochs": 2, "seed": 1}
attack = {"name": "sign-flip", "scale": 4.0}

peace = fedguard.run(strategy="fedavg", attack="none", out="runs/peace", **common)
fallen = fedguard.run(strategy="fedavg", attack=attack, out="runs/fallen", **common)
saved = fedguard.run(strategy="geminiguard", attack=attack, out="runs/saved", **common)

# %% [markdown]
# `rounds` is a pandas frame with a row per round.

# %%
import pandas as pd

runs = {"in peace": peace, "averaging": fallen, "geminiguard": saved}
courses = pd.DataFrame(
    {name: run.rounds.set_index("round")["accuracy"] for name, run in runs.items()}
)
courses.round(3)

# %% [markdown]
# Who was rejected? The defence does not know who lies; the records do, and set both side by side.

# %%
clients = saved.clients
clients.assign(rejected=clients["outcome"] == "rejected").groupby("malicious")["rejected"].mean()

# %% [markdown]
# `saved.report()` shows the whole page here; `runs/saved/config.yaml` repeats the run exactly.

# %%
last = courses.iloc[-1]
assert last["averaging"] < last["in peace"] - 0.2, "the attack does harm"
assert last["geminiguard"] > last["averaging"] + 0.2, "the defence undoes most of it"
