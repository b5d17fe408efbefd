from __future__ import annotations

import numpy as np
import torch
from worlds import a_round, images

from fedguard.attacks.soda import Soda, foreign


def linear_model():
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(144, 10))
    with torch.no_grad():
        for value in model.parameters():
            value.copy_(0.05 * torch.randn(value.shape, generator=torch.Generator().manual_seed(2)))
    return model


def crafted(count=80, **more):
    model, (x, y) = linear_model(), images(count)
    attack = Soda(target_class=6, max_examples=200, **more)
    attack.prepare(model, x, y, torch.Generator().manual_seed(1))
    honest = 0.01 * torch.randn(5, 1450, generator=torch.Generator().manual_seed(4))
    coalition, seen = a_round(honest, 2)
    return attack, coalition, attack.craft(coalition, seen), x[y != 6]


def test_foreign_images_are_turned_over_and_inverted():
    x = torch.tensor([[[[0.1, 0.2], [0.3, 0.4]]]])
    torch.testing.assert_close(foreign(x), torch.tensor([[[[0.7, 0.6], [0.9, 0.8]]]]))
    assert torch.allclose(foreign(foreign(x)), x)


def test_one_step_follows_the_slope_of_the_loss():
    """One batch from w_ref, where the distance and the cosine have no slope, in float64."""
    attack, coalition, sent, _ = crafted(20, epochs=1, lr=0.1, poison_fraction=0.5)
    assert attack._seen is not None
    model, rows, labels = attack._seen
    assert labels[20:].tolist() == [6] * 10
    flat = rows.flatten(1).double().numpy()
    start = torch.nn.utils.parameters_to_vector(model.parameters()).detach().double()
    start = (start + coalition.deltas.double().mean(dim=0)).numpy()
    weight, bias = start[:1440].reshape(10, 144), start[1440:]
    logits = flat @ weight.T + bias
    share = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    share[np.arange(30), labels.numpy()] -= 1.0
    slope = np.concatenate([(share.T @ flat / 30).ravel(), share.mean(axis=0)])
    steps = (sent - coalition.deltas).double().numpy()
    np.testing.assert_allclose(steps, np.stack([-0.1 * slope] * 2), rtol=1e-3, atol=2e-7)


def test_the_backdoor_is_learnt_and_pulls_keep_it_near():
    def success(more):
        attack, coalition, sent, x = crafted(epochs=30, lr=0.1, **more)
        taught = linear_model()
        with torch.no_grad():
            flat = torch.nn.utils.parameters_to_vector(taught.parameters()) + sent[0]
            torch.nn.utils.vector_to_parameters(flat, taught.parameters())
            shown = attack.trigger(x)
            rate = float((taught(shown).argmax(dim=1) == 6).float().mean())
        return rate, float((sent[0] - coalition.deltas[0]).norm())

    rate, far = success({"distance": 0.0, "alignment": 0.0})
    _, near = success({"distance": 2.0, "alignment": 0.0})
    _, aligned = success({"distance": 0.0, "alignment": 100.0})
    assert rate > 0.9
    assert near < 0.8 * far
    assert aligned < far


def test_clients_train_honestly_and_send_so_without_a_look_at_the_model():
    attack = Soda()
    x, y = images(10)
    assert attack.poison(x, y, torch.Generator()) == (x, y)
    coalition, seen = a_round(torch.ones(4, 9), 2)
    assert attack.craft(coalition, seen) is coalition.deltas
