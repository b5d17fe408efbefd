# ---
# jupyter:
#   kernelspec: {name: python3, display_name: Python 3}
# ---

# %% [markdown]
# # Unlearning a client
#
# Client 3 asks to be forgotten after round 4. `soul` takes its influence out of the model without
# training again from scratch; `retrain` is the honest, dear way to compare it with.

# %%
import json

import fedguard

common = {"clients": 8, "attack": "none", "rounds": 7, "local_epochs": 2, "partition": "iid"}
request = [{"client": 3, "round": 4}]
soul = fedguard.run(strategy="soul", unlearn=request, out="runs/soul", **common)
retrain = fedguard.run(
    strategy={"name": "soul", "method": "retrain"}, unlearn=request, out="runs/retrain", **common
)

# %% [markdown]
# The round of the request goes to the erasure; rounds without the client follow and recover.

# %%
soul.rounds[["round", "accuracy", "loss"]].round(3)

# %% [markdown]
# Client 3 is not asked again.

# %%
asked = soul.clients.query("client == 3 or client == '3'")["round"]
sorted(asked)

# %% [markdown]
# What was done and what it cost is in `unlearning.json`: bytes, passes over the data, and what the
# verification found. The report has a section about it.

# %%
record = json.loads((soul.directory / "unlearning.json").read_text())
sorted(record)

# %%
final = {
    name: run.summary["final"]["accuracy"] for name, run in [("soul", soul), ("again", retrain)]
}
print({name: round(value, 3) for name, value in final.items()})
assert max(asked) <= 4, "it takes no part from the request on"
assert final["soul"] > 0.5, "the model recovers"
