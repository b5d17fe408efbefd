from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fedguard.errors import ConfigurationError
from fedguard.models.build import build, latent_activations

SHAPES = {
    "digits": (1, 8, 8),
    "mnist": (1, 28, 28),
    "cifar": (3, 32, 32),
    "folder": (3, 64, 48),
    "table": (77,),
}
LATENT = {"cnn": 64, "mlp": 128, "logistic": 10, "resnet18": 512}
HERE = __name__


class Bare(nn.Module):
    """A user's class: no arguments, no latent layer named."""

    def __init__(self) -> None:
        super().__init__()
        self.flatten = nn.Flatten()
        self.first = nn.Linear(64, 5)
        self.squash = nn.Tanh()
        self.last = nn.Linear(5, 10)
        self.norm = nn.BatchNorm1d(10)
        self.unused = nn.Linear(1, 1)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.last(self.squash(self.first(self.flatten(x))))
        return logits


class Sized(nn.Sequential):
    """A user's class that takes the shapes, with BatchNorm and an in-place activation."""

    def __init__(self, input_shape: tuple[int, ...], num_classes: int, width: int = 6) -> None:
        super().__init__(
            nn.Conv2d(input_shape[0], width, 3),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Flatten(),
            nn.LazyLinear(num_classes),
        )


class WrongSize(nn.Module):
    """Always puts out three logits."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.layer(x.flatten(1))
        return logits


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("name", ["cnn", "mlp", "logistic", "resnet18"])
def test_logits_and_latent_activations_have_their_shapes(name: str, shape: tuple[int, ...]) -> None:
    if len(shape) == 1 and name in ("cnn", "resnet18"):
        with pytest.raises(ConfigurationError, match="an image") as caught:
            build(name, shape, 10, 0)
        assert caught.value.field == "model.input_shape"
        return
    model = build(name, shape, 10, 0)
    x = torch.rand(5, *shape)
    assert model.training
    assert model(x).shape == (5, 10)
    latent = latent_activations(model, x)
    assert latent.shape == (5, LATENT[name])
    assert not latent.requires_grad
    assert model.training, "the mode it came in"


@pytest.mark.parametrize("name", ["cnn", "mlp", "logistic", "resnet18"])
def test_the_seed_alone_decides_the_weights(name: str) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = build(name, (1, 28, 28), 10, 3)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    again, other = build(name, (1, 28, 28), 10, 3), build(name, (1, 28, 28), 10, 4)
    vectors = [nn.utils.parameters_to_vector(m.parameters()) for m in (first, again, other)]
    assert torch.equal(vectors[0], vectors[1])
    assert not torch.equal(vectors[0], vectors[2])


@pytest.mark.parametrize("name", ["cnn", "mlp", "resnet18"])
def test_a_linear_output_on_the_latent_activations_gives_the_logits(name: str) -> None:
    model = build(name, (1, 28, 28), 10, 0)
    x = torch.rand(4, 1, 28, 28)
    output = model.fc if name == "resnet18" else model.output
    expected = model.eval()(x)
    assert torch.allclose(output(latent_activations(model, x)), expected, atol=1e-6)


def test_no_network_keeps_batch_statistics() -> None:
    for name in LATENT:
        assert not list(build(name, (1, 28, 28), 10, 0).buffers())


def test_options_reach_the_network() -> None:
    assert build("mlp", (77,), 3, 0, hidden=(20, 7), layer_norm=True).hidden[-3].out_features == 7
    model = build("cnn", (1, 28, 28), 10, 0, channels=(4, 6), hidden=9)
    assert latent_activations(model, torch.zeros(2, 1, 28, 28)).shape == (2, 9)
    resnet = build("resnet18", (1, 28, 28), 10, 0, groups=8)
    assert resnet.bn1.num_groups == 8


def test_large_images_do_not_make_a_large_hidden_layer() -> None:
    sizes = [
        sum(p.numel() for p in build("cnn", (3, side, side), 10, 0).parameters())
        for side in (64, 224)
    ]
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize(
    ("name", "options", "field"),
    [
        ("mlp", {"hidden": ()}, "model.hidden"),
        ("mlp", {"hidden": (3, 0)}, "model.hidden"),
        ("mlp", {"layers": 3}, "model.layers"),
        ("cnn", {"hidden": 0}, "model.hidden"),
        ("cnn", {"channels": (0, 4)}, "model.channels"),
        ("cnn", {"channels": (1, 2, 3)}, "model.channels"),
        ("resnet18", {"groups": 3}, "model.groups"),
        ("resnet", {}, "model"),
    ],
)
def test_bad_options_are_refused(name: str, options: dict[str, object], field: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        build(name, (1, 28, 28), 10, 0, **options)
    assert caught.value.field == field


def test_images_below_eight_pixels_are_refused() -> None:
    for name in ("cnn", "resnet18"):
        with pytest.raises(ConfigurationError, match="at least 8 x 8"):
            build(name, (1, 7, 28), 10, 0)


def test_another_latent_layer_can_be_named() -> None:
    model = build("cnn", (1, 28, 28), 10, 0, latent_layer="features")
    assert model.latent_layer == "features"
    assert latent_activations(model, torch.zeros(2, 1, 28, 28)).shape == (2, 512)
    assert latent_activations(model, torch.zeros(2, 1, 28, 28), "output").shape == (2, 10)


def test_an_unknown_latent_layer_names_the_nearest() -> None:
    with pytest.raises(ConfigurationError, match="did you mean 'features'") as caught:
        build("cnn", (1, 28, 28), 10, 0, latent_layer="feature")
    assert caught.value.field == "latent_layer"


def test_a_latent_layer_that_never_runs_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="runs once"):
        build(f"{HERE}:Bare", (1, 8, 8), 10, 0, latent_layer="unused")


def test_a_users_class_without_arguments() -> None:
    # Its last submodule but one, "norm", is never used; of those that run it is "squash".
    assert build(f"{HERE}:Bare", (1, 8, 8), 10, 0).latent_layer == "squash"
    model = build(f"{HERE}:Bare", (1, 8, 8), 10, 0, latent_layer="squash")
    assert latent_activations(model, torch.zeros(3, 1, 8, 8)).shape == (3, 5)


def test_a_users_class_with_shapes_and_batch_statistics() -> None:
    model = build(f"{HERE}:Sized", (3, 10, 10), 4, 0, width=5)
    assert model.latent_layer == "3"
    assert model[1].num_batches_tracked == 0, "the trial run leaves the statistics alone"
    assert torch.equal(model[1].running_mean, torch.zeros(5))
    x = torch.randn(3, 3, 10, 10)
    before_relu = latent_activations(model, x, "1")
    assert before_relu.min() < 0, "an in-place layer after it does not reach the copy"


def test_a_network_that_does_not_fit_is_refused_on_model() -> None:
    with pytest.raises(ConfigurationError, match="10 logits") as caught:
        build(f"{HERE}:WrongSize", (1, 8, 8), 10, 0)
    assert caught.value.field == "model"
    with pytest.raises(ConfigurationError, match="maps inputs of shape") as caught:
        build(f"{HERE}:Bare", (3, 9, 9), 10, 0)
    assert caught.value.field == "model"
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigurationError, match=r"torch\.nn\.Module"):
        build("fedguard.data.digits:Digits", (1, 8, 8), 10, 0)
    with pytest.raises(ConfigurationError, match="model"):
        build("no.such.module:Net", (1, 8, 8), 10, 0)


def test_the_mode_of_every_part_is_kept() -> None:
    model = build(f"{HERE}:Sized", (3, 10, 10), 4, 0)
    model[1].eval()
    latent_activations(model, torch.zeros(2, 3, 10, 10))
    assert [part.training for part in model] == [True, False, True, True, True]


def test_gradients_under_vmap_equal_those_one_by_one() -> None:
    from torch.func import functional_call, grad, stack_module_state, vmap

    for name in ("cnn", "mlp", "logistic", "resnet18"):
        models = [build(name, (1, 8, 8), 10, seed) for seed in range(2)]
        stacked, _ = stack_module_state(models)
        x, y = torch.rand(2, 3, 1, 8, 8), torch.tensor([[0, 1, 2], [3, 4, 5]])

        def loss(
            weights: dict[str, Tensor], x: Tensor, y: Tensor, model: nn.Module = models[0]
        ) -> Tensor:
            return nn.functional.cross_entropy(functional_call(model, weights, (x,)), y)

        batched = vmap(grad(loss))(stacked, x, y)
        nn.functional.cross_entropy(models[1](x[1]), y[1]).backward()
        for key, weight in models[1].named_parameters():
            assert torch.allclose(batched[key][1], weight.grad, atol=1e-5), (name, key)


def test_the_networks_learn() -> None:
    from fedguard.data.digits import Digits

    data = Digits().load(None)
    scale = [(x - data.mean[0]) / data.std[0] for x in (data.x_train, data.x_test)]
    for name, at_least in (("cnn", 0.93), ("mlp", 0.92), ("logistic", 0.90)):
        model = build(name, data.input_shape, 10, 0)
        step = torch.optim.SGD(model.parameters(), lr=0.1)
        order = torch.Generator().manual_seed(0)
        for _ in range(5):
            for rows in torch.randperm(len(scale[0]), generator=order).split(32):
                step.zero_grad()
                nn.functional.cross_entropy(model(scale[0][rows]), data.y_train[rows]).backward()
                step.step()
        accuracy = (model(scale[1]).argmax(1) == data.y_test).float().mean()
        assert accuracy > at_least, name
