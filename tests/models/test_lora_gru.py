"""Low-rank adapters on the recurrent network: what travels, and what it starts from."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional

from fedguard.errors import ConfigurationError
from fedguard.layout import ParameterLayout
from fedguard.models.lora_gru import LoraGru
from fedguard.models.word_gru import WordGru
from fedguard.strategies.toolkit.products import pairs_of

V, W = 11, 6
X = torch.randint(0, V, (3, 5), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def base(tmp_path):
    torch.manual_seed(1)
    model = WordGru((5,), V, width=W)
    save_file(model.state_dict(), tmp_path / "base.safetensors")
    return model, str(tmp_path / "base.safetensors")


def adapted(base, **more):
    return LoraGru((5,), V, width=W, base=base[1], rank=2, **more)


def test_it_starts_from_the_base_and_its_adapters_alone_travel(base):
    model = adapted(base)
    torch.testing.assert_close(model(X), base[0](X))
    layout = ParameterLayout.from_module(model)
    assert len(layout.names) == 6
    assert all(name.startswith("lora_") for name in layout.names)
    assert layout.size == 2 * ((3 * W + W) * 2 + V + W)
    assert len(pairs_of(layout)) == 3
    alone = ParameterLayout.from_module(adapted(base, freeze_a=True))
    assert all(name.startswith("lora_b") for name in alone.names)


def test_it_is_the_base_with_the_products_added_to_its_matrices(base):
    model, plain = adapted(base, alpha=3.0), base[0]
    torch.manual_seed(2)
    with torch.no_grad():
        for name, b in model.lora_b.items():
            b.normal_()
            more = 1.5 * b @ model.lora_a[name]
            whole = plain.head.weight if name == "head" else getattr(plain.gru, name)
            whole += more
    torch.testing.assert_close(model(X), plain(X))


def test_every_adapter_gets_a_gradient_and_nothing_else_does(base):
    model = adapted(base)
    with torch.no_grad():
        for b in model.lora_b.values():
            b.fill_(0.1)
    functional.cross_entropy(model(X).flatten(0, 1), X.flatten()).backward()
    for name, value in model.named_parameters():
        assert (value.grad is not None and bool(value.grad.any())) == name.startswith("lora_")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"base": "gone.safetensors"}, "base.*no such file"),
        ({"width": W + 1}, "base.*has shape"),
        ({"rank": 0}, "rank"),
        ({"alpha": 0.0}, "alpha"),
    ],
)
def test_what_cannot_be_is_refused(base, given, words):
    with pytest.raises(ConfigurationError, match=words):
        LoraGru((5,), V, **{"width": W, "base": base[1], **given})
