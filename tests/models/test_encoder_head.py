"""Encoders from files: what is read, what is refused, and the head that is trained on them."""

from __future__ import annotations

import hashlib

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_encoders import of_digits

from fedguard.config import parse
from fedguard.errors import ConfigurationError
from fedguard.layout import ParameterLayout
from fedguard.models.encoder_head import EncoderHead
from fedguard.runs.simulation import Simulation
from fedguard.training.encoder import Encoder, folded, read_encoder, write_encoder

WIDTHS = (3, 4, 5, 6)


def an_encoder(planes=1, widths=WIDTHS, seed=0):
    stream = torch.Generator().manual_seed(seed)
    encoder = Encoder(planes, widths).eval()
    with torch.no_grad():
        for name, value in encoder.state_dict().items():
            if value.is_floating_point():
                value.copy_(torch.rand(value.shape, generator=stream) - 0.3)
                if name.endswith("running_var"):
                    value.abs_().add_(0.1)
    return encoder


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "encoder.safetensors"
    write_encoder(an_encoder(), path)
    return path


def test_what_was_written_is_read_again(file):
    found, x = read_encoder(file), torch.rand(4, 1, 9, 8)
    assert (found.planes, found.widths, found.training) == (1, WIDTHS, False)
    assert torch.equal(found(x), an_encoder()(x))


def test_frozen_stages_are_the_encoders_own_in_evaluation_mode_and_hold_no_statistics():
    encoder, x = an_encoder(), torch.rand(4, 1, 8, 8)
    whole = folded(encoder)
    torch.testing.assert_close(whole(x), encoder.stages(x), rtol=1e-4, atol=1e-5)
    assert not list(whole.buffers())
    assert not any(value.requires_grad for value in whole.parameters())


def test_frozen_the_head_alone_travels_and_training_moves_nothing_else(file):
    frozen = EncoderHead((1, 8, 8), 10, encoder=str(file))
    assert ParameterLayout.from_module(frozen).names == ("output.weight", "output.bias")
    tuned = EncoderHead((1, 8, 8), 10, encoder=str(file), frozen=False, hidden=7)
    names = ParameterLayout.from_module(tuned).names
    assert "features.0.0.weight" in names
    assert "features.3.1.running_var" in names
    assert {"output.0.weight", "output.2.bias"} <= set(names)
    x = torch.rand(5, 1, 8, 8)
    features = an_encoder()(x)
    torch.testing.assert_close(frozen(x), frozen.output(features), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(tuned.eval()(x), tuned.output(features), rtol=1e-4, atol=1e-5)


def test_a_run_trains_a_head_on_the_file_and_goes_by_its_content(tmp_path):
    file = tmp_path / "digits.safetensors"
    write_encoder(of_digits(), file)
    values = {
        "model": {"name": "encoder-head", "encoder": str(file)},
        "clients": 3,
        "rounds": 2,
        "malicious": 0.0,
        "attack": "none",
        "strategy": "fedavg",
        "lr": 0.05,
    }
    one = Simulation(parse(values)).run(tmp_path / "one")
    assert one["final"]["accuracy"] > 0.8
    plain = Simulation(parse({**values, "executor": "reuse"})).run(tmp_path / "plain")
    assert plain["final"]["accuracy"] == pytest.approx(one["final"]["accuracy"], abs=0.02)
    write_encoder(Encoder(1, of_digits().widths), file)  # never trained
    other = Simulation(parse(values)).run(tmp_path / "other")
    assert other["final"]["accuracy"] < one["final"]["accuracy"]


def changed(change):
    def spoil(path):
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path)

    return spoil


def nan(tensors):
    tensors["stages.1.1.weight"][0] = float("nan")


def negative(tensors):
    tensors["stages.0.1.running_var"][0] = -1.0


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda path: path.unlink(), "no such file"),
        (lambda path: path.write_bytes(b"\x80\x04pickled"), "cannot be read"),
        (changed(lambda tensors: tensors.pop("stages.2.0.weight")), "not four stages"),
        (changed(lambda tensors: tensors.pop("stages.2.1.bias")), "it lacks 'stages.2.1.bias'"),
        (changed(lambda tensors: tensors.update(more=torch.ones(1))), "has 'more'"),
        (changed(nan), "NaN or infinity"),
        (changed(negative), "negative variance"),
        (
            changed(lambda tensors: tensors.update({"stages.3.1.bias": torch.ones(9)})),
            r"shape \(9,\) and not \(6,\)",
        ),
        (
            changed(lambda tensors: tensors.update({"stages.3.1.bias": torch.ones(6).double()})),
            "torch.float64 and not torch.float32",
        ),
    ],
)
def test_a_file_that_does_not_fit_is_refused_in_one_line(file, spoil, told):
    spoil(file)
    with pytest.raises(ConfigurationError, match=told) as caught:
        EncoderHead((1, 8, 8), 10, encoder=str(file))
    assert "\n" not in str(caught.value)
    assert "simulations.encoder" in str(caught.value)


def test_a_file_with_another_digest_than_asked_for_is_refused(file):
    own = hashlib.sha256(file.read_bytes()).hexdigest()
    EncoderHead((1, 8, 8), 10, encoder=str(file), sha256=own.upper())
    write_encoder(an_encoder(seed=1), file)
    with pytest.raises(ConfigurationError, match="not the one that was asked"):
        EncoderHead((1, 8, 8), 10, encoder=str(file), sha256=own)


def test_an_encoder_of_other_images_is_refused(file):
    with pytest.raises(ConfigurationError, match="images with 3 channels; this one takes 1"):
        EncoderHead((3, 8, 8), 10, encoder=str(file))
    with pytest.raises(ConfigurationError, match="8 x 8"):
        EncoderHead((1, 7, 8), 10, encoder=str(file))


@pytest.mark.parametrize("widths", [(1, 2, 3), (1, 2, 3, 0), (1, 2, 3, 5000)])
def test_widths_that_cannot_be_are_refused(widths):
    with pytest.raises(ConfigurationError, match="widths"):
        Encoder(1, widths)
