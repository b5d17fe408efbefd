from __future__ import annotations

import numpy as np
import pytest
import torch
from references import random_rows, updates_of
from scipy.fft import dct

from fedguard.strategies import freqfed
from fedguard.strategies.freqfed import FreqFed, low_frequencies, spectrum_gram


def test_spectrum_is_the_start_of_the_dct_of_the_models():
    rows = random_rows(3, 64, seed=0)
    start = random_rows(1, 64, seed=1)[0]
    found = low_frequencies(updates_of(rows, global_vector=torch.from_numpy(start)), 2, 16)
    wanted = dct((rows + start).astype(np.float64), norm="ortho")[:, 2:16]
    np.testing.assert_allclose(found.numpy(), wanted, atol=1e-5)


@pytest.mark.parametrize("most", [1, 10**6])
def test_halves_of_the_spectrum_add_up(monkeypatch, most):
    rows = random_rows(4, 75, seed=4)
    monkeypatch.setattr(freqfed, "_WHOLE_UP_TO", most)
    found = spectrum_gram(updates_of(rows), 0.5)
    wide = dct(rows.astype(np.float64), norm="ortho")[:, :38]
    np.testing.assert_allclose(found.numpy(), wide @ wide.T, atol=1e-5)


def test_rejects_clients_whose_low_frequencies_differ():
    wave = np.cos(np.linspace(0, 6 * np.pi, 500))
    rows = 0.2 * wave + random_rows(15, 500, seed=2, mean=0.0, std=0.05)
    rows[:4] = -0.2 * wave + random_rows(4, 500, seed=3, mean=0.0, std=0.05)
    verdict = FreqFed(frequency_share=0.1).decide(updates_of(rows))
    assert {0, 1, 2, 3} <= set(verdict.reasons)
    assert float(verdict.delta.double().numpy() @ wave) > 0
