"""Each method's rule against its formula, worked out by hand or by another way."""

from __future__ import annotations

import math

import pytest
import torch
from unlearning_worlds import CLASSES, flat, network, request, situation

from fedguard.unlearning.ascent import PlainAscent
from fedguard.unlearning.class_pruning import ClassPruning, tf_idf
from fedguard.unlearning.climbing import AscentSettings
from fedguard.unlearning.finetune import FineTune
from fedguard.unlearning.method import Activations, LastModel, Options
from fedguard.unlearning.not_ import NoT
from fedguard.unlearning.pga import ProjectedAscent
from fedguard.unlearning.random_prune import RandomPrune
from fedguard.unlearning.retrain import Retrain
from fedguard.unlearning.soul import SoulMethod, silenced

UNITS = 8
OPTIONS = Options(alpha=0.25, beta=0.25, ascent=AscentSettings(lr=0.5, repair=1.0, tolerance=0.1))


def drawn(seed, like):
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(seed))


def test_nothing_is_done_by_fine_tuning_and_everything_by_retraining():
    known = situation()
    assert torch.equal(FineTune(OPTIONS).erase(known).vector, known.vector)
    assert torch.equal(Retrain(OPTIONS).erase(known).vector, known.initial)
    assert FineTune.asks == Retrain.asks == frozenset()


def test_not_turns_the_first_layers_weights_round_and_nothing_else():
    known = situation()
    before = known.vector.clone()
    found = known.layout.unflatten(NoT(OPTIONS).erase(known).vector)
    assert torch.equal(known.vector, before)
    for name, tensor in known.layout.unflatten(before).items():
        sign = -1.0 if name == "hidden.0.weight" else 1.0
        assert torch.equal(found[name], sign * tensor), name


def test_plain_ascent_adds_every_requesters_step():
    known = situation(request(1), request(2))
    steps = {1: drawn(1, known.vector), 2: drawn(2, known.vector)}
    found = PlainAscent(OPTIONS).erase(situation(climbed=steps))
    torch.testing.assert_close(found.vector, known.vector + steps[1] + steps[2])
    settings = PlainAscent(OPTIONS).settings(known, request(1))
    assert settings == AscentSettings(lr=0.5)
    assert math.isinf(settings.radius)


def test_random_pruning_takes_a_share_of_units_and_all_their_weights():
    known = situation()
    keep = known.layout.unflatten(RandomPrune(OPTIONS).erase(known).keep)
    gone = ~keep["hidden.0.bias"]
    assert int(gone.sum()) == 2  # a quarter of 8
    assert torch.equal(~keep["hidden.0.weight"].any(dim=1), gone)
    assert torch.equal(~keep["output.weight"].any(dim=0), gone)
    assert bool(keep["output.bias"].all())


# --- projected gradient ascent ------------------------------------------------------------------


def test_the_reference_is_the_mean_of_the_other_clients_models():
    """Where w = sum_k p_k w_k, (w - p_i w_i) / (1 - p_i) is the others' weighted mean."""
    models = torch.randn(4, flat(network())[1].numel(), generator=torch.Generator().manual_seed(0))
    shares = torch.tensor([0.1, 0.2, 0.3, 0.4])
    known = situation(
        vector=shares @ models, last_models={1: LastModel(models[1], float(shares[1]))}
    )
    found = ProjectedAscent(OPTIONS).origin(known, request(1))
    others = (shares[[0, 2, 3]] / 0.8) @ models[[0, 2, 3]]
    torch.testing.assert_close(found, others, rtol=1e-4, atol=1e-5)


def test_a_client_that_never_took_part_or_was_alone_has_no_reference():
    known = situation()
    assert torch.equal(ProjectedAscent(OPTIONS).origin(known, request(1)), known.vector)
    alone = situation(last_models={1: LastModel(known.vector, 1.0)})
    assert torch.equal(ProjectedAscent(OPTIONS).origin(alone, request(1)), known.vector)


def test_the_ball_is_a_third_of_the_way_to_shuffled_initial_models():
    known = situation()
    settings = ProjectedAscent(OPTIONS).settings(known, request(1))
    away = []
    stream = torch.Generator().manual_seed(9)
    for _ in range(300):
        parts = []
        for tensor in known.layout.unflatten(known.initial).values():
            flatly = tensor.flatten()
            parts.append(flatly[torch.randperm(len(flatly), generator=stream)])
        away.append(float((known.vector - torch.cat(parts)).norm()))
    expected = sum(away) / len(away) / 3.0
    assert settings.radius == pytest.approx(expected, rel=0.03)
    assert settings == OPTIONS.ascent.plain(radius=settings.radius)


def test_several_requesters_models_are_averaged_each_from_its_own_reference():
    plain = situation().vector
    last = {1: LastModel(drawn(1, plain), 0.5), 2: LastModel(drawn(2, plain), 0.2)}
    steps = {1: drawn(3, plain), 2: drawn(4, plain)}
    known = situation(request(1), request(2), request(3), last_models=last, climbed=steps)
    first = (plain - 0.5 * last[1].model) / 0.5 + steps[1]
    second = (plain - 0.2 * last[2].model) / 0.8 + steps[2]
    found = ProjectedAscent(OPTIONS).erase(known)
    torch.testing.assert_close(found.vector, (first + second) / 2)  # 3 did not answer
    assert found.keep is None
    nobody = situation(request(3))
    assert torch.equal(ProjectedAscent(OPTIONS).erase(nobody).vector, nobody.vector)


# --- SoUL ---------------------------------------------------------------------------------------


def contributed(*best):
    """Return contributions of 1 per unit, more for some of them."""
    values = torch.ones(UNITS, dtype=torch.float64)
    for rank, unit in enumerate(best):
        values[unit] = 10.0 - rank
    return values


def test_soul_mixes_then_silences_what_stands_out():
    plain = situation().vector
    step = drawn(1, plain)
    known = situation(
        climbed={1: step},
        contributions={1: contributed(6, 3)},
        held_out_contributions=contributed(),
    )
    found = SoulMethod(OPTIONS).erase(known)
    # alpha theta + (1 - alpha) theta_u
    torch.testing.assert_close(found.vector, 0.25 * plain + 0.75 * (plain + step))
    keep = known.layout.unflatten(found.keep)
    assert (~keep["hidden.0.bias"]).nonzero().flatten().tolist() == [3, 6]


def test_soul_asks_for_what_its_pruning_rule_reads():
    def asks(rule):
        return SoulMethod(Options(pruning=rule)).asks

    assert asks("attribution-ratio") == {"ascent", "contributions"}
    assert asks("activation-ratio") == {"ascent", "activations"}
    assert asks("paper") == asks("none") == {"ascent"}
    assert SoulMethod(OPTIONS).settings(situation(), request(1)).retries == 3


def test_what_everyone_needs_is_not_silenced():
    """The ratio counts: a unit that non-members need more stays, however much it contributes."""
    needed = contributed(6, 3)
    known = situation(
        contributions={1: needed}, held_out_contributions=torch.where(needed > 1, 20.0, 1.0)
    )
    options = Options(beta=0.125, pruning="attribution-ratio")
    keep = known.layout.unflatten(silenced(known, known.vector, options))
    (gone,) = (~keep["hidden.0.bias"]).nonzero().flatten().tolist()
    assert gone not in (3, 6)


def test_without_evidence_nothing_is_silenced():
    known = situation()
    assert silenced(known, known.vector, Options(pruning="attribution-ratio")) is None
    assert silenced(known, known.vector, Options(pruning="none")) is None


def test_evidence_is_magnitudes_of_incoming_weights():
    known = situation()
    unlearned = known.vector + drawn(5, known.vector)
    (found,) = known.evidence(unlearned)
    weights = {name: t.double() for name, t in known.layout.unflatten(known.vector).items()}
    moved = {name: t.double() for name, t in known.layout.unflatten(unlearned).items()}
    for unit in range(UNITS):
        row, bias = weights["hidden.0.weight"][unit], weights["hidden.0.bias"][unit]
        other, its = moved["hidden.0.weight"][unit], moved["hidden.0.bias"][unit]
        assert float(found.learned[unit]) == pytest.approx(float(row.abs().sum() + bias.abs()))
        assert float(found.unlearned[unit]) == pytest.approx(float(other.abs().sum() + its.abs()))
        change = (other - row).abs().sum() + (its - bias).abs()
        assert float(found.change[unit]) == pytest.approx(float(change), rel=1e-4)
    assert found.forget is None


def measured(forget, retain, counts=(1.0, 1.0, 1.0)):
    shape = (CLASSES, UNITS)
    return Activations(
        torch.as_tensor(forget, dtype=torch.float64).expand(shape),
        torch.tensor(counts, dtype=torch.float64),
        torch.as_tensor(retain, dtype=torch.float64).expand(shape),
        torch.tensor(counts, dtype=torch.float64),
    )


def test_mean_activations_weigh_clients_by_their_rows():
    one, many = measured(3.0, 1.0), measured(9.0, 2.0, counts=(3.0, 3.0, 3.0))
    known = situation(activations={1: one, 2: many})
    forget, retain = known.mean_activations()
    assert forget.tolist() == pytest.approx([(9.0 + 27.0) / 12.0] * UNITS)
    assert retain.tolist() == pytest.approx([(3.0 + 6.0) / 12.0] * UNITS)
    assert torch.equal(known.both_sides()[0], forget)
    # contributions, where there are any, come first and are averaged over requesters
    known = situation(
        activations={1: one},
        contributions={1: contributed(0), 2: contributed()},
        held_out_contributions=contributed(),
    )
    assert known.both_sides()[0].tolist() == [5.5] + [1.0] * 7


# --- class-discriminative pruning ---------------------------------------------------------------


def test_tf_idf_by_hand():
    documents = torch.tensor([[6.0, 2.0, 2.0], [6.0, 0.0, 1.0], [6.0, 1.0, 3.0]]).double()
    (found,) = tf_idf(documents[0], documents, [3])
    # columns' means are 6, 1, 2; documents at or above them: 3, 2, 2
    expected = [
        6 / 10 * math.log((1 + 3) / (1 + 3)),
        2 / 10 * math.log((1 + 3) / (1 + 2)),
        2 / 10 * math.log((1 + 3) / (1 + 2)),
    ]
    assert found.tolist() == pytest.approx(expected)


def test_tf_idf_is_taken_layer_by_layer():
    documents = torch.rand(4, 5, dtype=torch.float64)
    parts = tf_idf(documents[1], documents, [2, 3])
    for columns, part in zip((slice(0, 2), slice(2, 5)), parts, strict=True):
        (alone,) = tf_idf(
            documents[1, columns], documents[:, columns], [documents[:, columns].shape[1]]
        )
        assert torch.equal(part, alone)


def test_a_class_loses_the_units_that_answer_to_it_alone():
    sums = torch.ones(CLASSES, UNITS, dtype=torch.float64)
    sums[2, 5] = 9.0  # unit 5 answers to class 2
    sums[:, 1] = 9.0  # unit 1 to all
    found = Activations(0 * sums, torch.zeros(CLASSES), sums, torch.ones(CLASSES))
    options = Options(beta=0.125)
    known = situation(request(1, label=2), activations={1: found, 2: found})
    keep = known.layout.unflatten(ClassPruning(options).erase(known).keep)
    assert (~keep["hidden.0.bias"]).nonzero().flatten().tolist() == [5]


def test_a_client_loses_the_units_that_answer_to_it_alone():
    own = measured(1.0, 1.0)
    forget = own.forget_sums.clone()
    forget[:, 3] = 9.0
    own = Activations(forget, own.forget_counts, own.retain_sums, own.retain_counts)
    known = situation(request(1), activations={1: own, 2: measured(0.0, 1.0)})
    keep = known.layout.unflatten(ClassPruning(Options(beta=0.125)).erase(known).keep)
    assert (~keep["hidden.0.bias"]).nonzero().flatten().tolist() == [3]


def test_who_sent_nothing_makes_nobody_lose_anything():
    found = ClassPruning(OPTIONS).erase(situation(request(1), activations={2: measured(0.0, 1.0)}))
    assert found.keep is None
