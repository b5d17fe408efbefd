"""Networks as people write them: each builds and trains, or is refused in one line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from fedguard.errors import ConfigurationError
from fedguard.models.build import build, latent_activations

HERE = __name__
SHAPE = (6, 4)


def head(width: int = 4) -> nn.Linear:
    return nn.Linear(width, 3)


class Norm(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(24, 5), nn.BatchNorm1d(5), nn.ReLU(), head(5))


class Recurrent(nn.Module):
    """An LSTM or GRU whose last state is read; its own output is a tuple."""

    def __init__(self, core: str = "LSTM") -> None:
        super().__init__()
        self.core = getattr(nn, core)(4, 5, batch_first=True)
        self.head = head(5)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(self.core(x)[0][:, -1])
        return found


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.into, self.back = nn.Linear(4, 3), nn.Linear(4, 3)
        self.back.weight = self.into.weight

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.into(x.mean(1)) + self.back(x.sum(1))
        return found


class Double(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(24, 3, dtype=torch.float64))


class Half(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(24, 3, dtype=torch.float16))


class Spectral(nn.Sequential):
    def __init__(self, old: bool = False) -> None:
        norm = nn.utils.spectral_norm if old else nn.utils.parametrizations.spectral_norm
        super().__init__(nn.Flatten(), norm(nn.Linear(24, 5)), nn.ReLU(), head(5))


class Twice(nn.Module):
    """One module that runs twice, and a head that never does."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.unused, self.out = nn.Linear(4, 4), nn.Linear(4, 9), head()

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.out(self.layer(self.layer(x.mean(1))))
        return found


class Frozen(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(24, 5).requires_grad_(False), head(5))


class Counting(nn.Sequential):
    """Buffers of truth values and whole numbers."""

    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(24, 3), nn.Identity())
        self.register_buffer("mask", torch.ones(3, dtype=torch.bool))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        self.seen += len(x)
        return super().forward(x) * self.mask


class Noisy(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(24, 5), nn.Dropout(0.5), head(5))


class Lazy(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.LazyLinear(3))


class Functional(nn.Module):
    """Parameters of its own, and no submodule at all."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(24, 3))

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight


def factory(**keywords: Any) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(24, keywords["num_classes"]))


BUILT: list[tuple[str, dict[str, Any], str | None]] = [
    ("Norm", {}, "3"),
    ("Recurrent", {}, "head"),
    ("Recurrent", {"core": "GRU"}, "head"),
    ("Tied", {}, "into"),
    ("Double", {}, "0"),
    ("Half", {}, "0"),
    ("Spectral", {}, "2"),
    ("Spectral", {"old": True}, "2"),
    ("Twice", {}, "out"),
    ("Frozen", {}, "1"),
    ("Counting", {}, "1"),
    ("Noisy", {}, "2"),
    ("Lazy", {}, "0"),
    ("Functional", {}, None),
    ("factory", {}, "0"),
]


@pytest.mark.parametrize(("name", "options", "latent"), BUILT)
def test_it_builds_and_the_trial_leaves_no_trace(
    name: str, options: dict[str, Any], latent: str | None
) -> None:
    model = build(f"{HERE}:{name}", SHAPE, 3, 0, **options)
    again = build(f"{HERE}:{name}", SHAPE, 3, 0, **options)
    assert model.training
    assert model.latent_layer == latent
    for (key, value), other in zip(
        model.state_dict().items(), again.state_dict().values(), strict=True
    ):
        assert torch.equal(value, other), key
        assert value.dtype not in (torch.float64, torch.float16)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert model(torch.rand(5, *SHAPE)).shape == (5, 3)
    if latent is None:
        with pytest.raises(ConfigurationError, match="latent_layer"):
            latent_activations(model, torch.rand(5, *SHAPE))
    else:
        assert len(latent_activations(model, torch.rand(5, *SHAPE))) == 5


def test_buffers_are_as_before_the_trial() -> None:
    norm = build(f"{HERE}:Norm", SHAPE, 3, 0)
    assert torch.equal(norm[2].running_mean, torch.zeros(5))
    assert int(norm[2].num_batches_tracked) == 0


def test_tied_weights_stay_tied() -> None:
    model = build(f"{HERE}:Tied", SHAPE, 3, 0)
    assert model.into.weight is model.back.weight


def test_floats_keep_their_values_when_they_become_float32() -> None:
    model = build(f"{HERE}:Double", SHAPE, 3, 0)
    with torch.random.fork_rng(devices=[]):
        from fedguard.randomness import SERVER, stream_seed

        torch.manual_seed(stream_seed(0, 0, SERVER, "model"))
        wanted = Double()
    assert torch.equal(model[1].weight, wanted[1].weight.float())


def test_a_factory_of_torchvision_gets_the_number_of_classes() -> None:
    resnet = build("torchvision.models:resnet18", (3, 32, 32), 3, 0)
    assert resnet.fc.out_features == 3
    assert resnet.latent_layer == "avgpool"


class Outputs(NamedTuple):
    logits: Tensor
    other: Tensor


class TwoHeads(nn.Module):
    """Returns a tuple while it is trained, as some of torchvision's networks do."""

    def __init__(self) -> None:
        super().__init__()
        self.out = head()

    def forward(self, x: Tensor) -> Any:
        found = self.out(x.mean(1))
        return Outputs(found, found) if self.training else found


class Nothing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :3]


class AllFrozen(Norm):
    def __init__(self) -> None:
        super().__init__()
        self.requires_grad_(False)


class Detached(Norm):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).detach()


class Raising(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.out = head()

    def forward(self, x: Tensor) -> Tensor:
        raise KeyError("attention")


class Unmade(nn.Module):
    def __init__(self) -> None:
        raise OSError("no weights here")


class Bare(nn.LSTM):
    """A recurrent layer alone: it returns a tuple."""

    def __init__(self) -> None:
        super().__init__(4, 3, batch_first=True)


class Words(nn.Sequential):
    """Wants whole numbers."""

    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Embedding(9, 2), nn.Flatten(), nn.Linear(48, 3))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("TwoHeads", "in training it returned Outputs"),
        ("Nothing", "no parameter to train"),
        ("AllFrozen", "no parameter to train"),
        ("Detached", "does not depend on what is trained"),
        ("Raising", "KeyError: 'attention'"),
        ("Unmade", "no weights here"),
        ("Bare", "it returned tuple"),
        ("Words", "maps inputs of shape"),
    ],
)
def test_what_cannot_train_is_refused_in_one_line(name: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says) as caught:
        build(f"{HERE}:{name}", SHAPE, 3, 0)
    assert caught.value.field == "model"
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("asked", ["core", "nowhere"])
def test_a_latent_layer_that_was_asked_for_must_do(asked: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        build(f"{HERE}:Recurrent", SHAPE, 3, 0, latent_layer=asked)
    assert caught.value.field == "latent_layer"


def test_another_task_says_what_is_tried_and_what_is_wrong() -> None:
    tokens = torch.zeros(2, 6, 4, dtype=torch.int64)
    judge: Callable[[Any], str | None] = lambda out: None if out.shape == (2, 3) else "odd"  # noqa: E731
    assert build(f"{HERE}:Words", SHAPE, 3, 0, sample=tokens, fault=judge).latent_layer == "2"
    with pytest.raises(ConfigurationError, match="never right"):
        build(f"{HERE}:Words", SHAPE, 3, 0, sample=tokens, fault=lambda _: "never right")
