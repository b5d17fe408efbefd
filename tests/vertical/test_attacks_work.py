"""Every attack works where nothing defends."""

from __future__ import annotations

import pytest
import torch
from vertical_worlds import config, run

from fedguard.vertical.attacks.few_labels import FewLabelClassifier, draw_known, standardised
from fedguard.vertical.shapley import RetrainedValue, exact_shapley

LONG = {"rounds": 15}


def tokens(records, party):
    return sum(r["tokens"] or 0 for r in records if r["client"] == party)


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    return run(tmp_path_factory.mktemp("honest"), strategy="opus-vfl", rounds=6)


def test_the_completion_head_uses_rows_without_labels():
    stream = torch.Generator().manual_seed(0)
    y = torch.randint(4, (800,), generator=stream)
    x = 3.0 * torch.eye(4)[y] + torch.randn(800, 4, generator=stream)
    known = draw_known(y, 2, 4, seed=0)
    assert y[known].bincount().tolist() == [2, 2, 2, 2]
    model = FewLabelClassifier(4, 4, seed=0).fit(standardised(x), known, y[known])
    assert (model.predict(standardised(x)) == y).double().mean() > 0.85


def test_passive_completion_knows_more_than_its_features_alone(tmp_path):
    attack = {"name": "label-inference-passive", "parties": [2]}
    summary, _, _ = run(tmp_path, strategy="vfl", attack=attack, **LONG)
    gained = summary["attack_result"]
    assert gained["success"] > 0.45
    assert gained["success"] > gained["untrained"] + 0.02
    assert summary["final"]["attack_success_rate"] == gained["success"]


def test_active_completion_beats_passive(tmp_path):
    found = {}
    for name in ("passive", "active"):
        attack = {"name": f"label-inference-{name}", "parties": [1]}
        summary, _, _ = run(tmp_path / name, strategy="vfl", attack=attack, **LONG)
        found[name] = summary["attack_result"]["success"]
    assert found["active"] > found["passive"]


def test_colluders_know_more_than_one_of_them(tmp_path):
    one, _, _ = run(
        tmp_path / "one",
        strategy="vfl",
        attack={"name": "label-inference-passive", "parties": [4]},
        **LONG,
    )
    both, _, _ = run(
        tmp_path / "both",
        strategy="vfl",
        attack={"name": "label-inference-colluding", "parties": [2, 4]},
        **LONG,
    )
    assert both["malicious_clients"] == [2, 4]
    assert both["attack_result"]["success"] > one["attack_result"]["success"] + 0.05


def test_gradients_show_the_labels(tmp_path):
    summary, _, _ = run(tmp_path, strategy="vfl", attack="label-inference-gradient", rounds=3)
    assert summary["attack_result"]["success"] > 0.7


def test_losses_alone_do_not(tmp_path):
    summary, _, _ = run(tmp_path, strategy="vfl-czofo", attack="label-inference-gradient", rounds=3)
    assert summary["attack_result"]["success"] < 0.2


def test_the_generator_reconstructs_features(tmp_path):
    attack = {"name": "feature-reconstruction", "parties": [2]}
    summary, _, _ = run(tmp_path, strategy="vfl", attack=attack, rounds=6)
    gained = summary["attack_result"]
    assert gained["feature_mse"] < 0.35 * gained["baseline_mse"]
    assert gained["output_mse"] > 0.0


def test_the_generator_needs_no_known_row(tmp_path):
    attack = {"name": "feature-reconstruction", "parties": [2], "known_rows": 0}
    summary, _, _ = run(tmp_path, strategy="vfl", attack=attack, rounds=6)
    gained = summary["attack_result"]
    assert gained["feature_mse"] < 0.9 * gained["baseline_mse"]


def test_the_backdoor_opens(tmp_path):
    attack = {"name": "vertical-backdoor", "parties": [2]}
    summary, rounds, _ = run(tmp_path, strategy="vfl", attack=attack, rounds=10)
    assert rounds[-1]["attack_success_rate"] > 0.6
    assert summary["final"]["accuracy"] > 0.9


def test_a_free_rider_lives_off_its_noise_where_nothing_caps_the_pay(tmp_path):
    shares = {}
    for cap in (0.5, None):
        strategy = {
            "name": "opus-vfl",
            "privacy_cap": cap,
            "beta": 100.0,
            "verify_noise": False,
            "warmup": 99,
        }
        attack = {"name": "free-rider-party", "parties": [3]}
        _, _, records = run(tmp_path / str(cap), strategy=strategy, attack=attack, rounds=6)
        shares[cap] = tokens(records, 3) / (6 * 400)
    assert shares[None] > 0.1
    assert shares[0.5] < 0.05


def test_lying_about_noise_pays_until_it_is_tested(tmp_path, honest):
    found = {}
    for checked in (False, True):
        strategy = {"name": "opus-vfl", "verify_noise": checked}
        attack = {"name": "lying-noise", "parties": [3]}
        _, _, records = run(tmp_path / str(checked), strategy=strategy, attack=attack, rounds=6)
        found[checked] = records
    assert tokens(found[False], 3) > 1.1 * tokens(honest[2], 3)
    assert tokens(found[True], 3) == 0
    told = [r["reason"] or "" for r in found[True] if r["client"] == 3]
    assert all("less noise" in reason for reason in told[:5])
    others = [r for r in found[True] if r["client"] != 3 and "less noise" in (r["reason"] or "")]
    assert not others


def test_lying_about_cost_pays_where_it_is_believed(tmp_path, honest):
    attack = {"name": "lying-cost", "parties": [3]}
    found = {}
    for claims in ("believed", "tariff"):
        strategy = {"name": "opus-vfl", "cost_claims": claims}
        _, _, found[claims] = run(tmp_path / claims, strategy=strategy, attack=attack, rounds=6)
    assert tokens(found["believed"], 3) > 1.1 * tokens(honest[2], 3)
    assert tokens(found["tariff"], 3) == tokens(honest[2], 3)
    told = {r["reason"] for r in found["tariff"] if r["client"] == 3}
    assert told == {"claims to cost 32; paid as 1"}


def test_neither_duplicate_is_missed_but_both_together_are():
    attack = {"name": "colluding-duplicates", "parties": [1, 2]}
    settings = config(strategy="vfl", clients=4, attack=attack, rounds=4)
    value = RetrainedValue(settings)
    everyone = value(frozenset({1, 2, 3}))
    one_less = everyone - value(frozenset({1, 3}))
    both_less = everyone - value(frozenset({3}))
    assert one_less < 0.03
    assert both_less > 0.06
    worth = exact_shapley([1, 2], lambda who: value(who | {3}))
    assert min(worth.values()) > 0.025
