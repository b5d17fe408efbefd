"""The page on a backdoored encoder: every rule meets both encoders of every seed."""

from __future__ import annotations

from fedguard.config import parse
from simulations import bad_encoder_table


def test_every_rule_is_tried_on_both_encoders_of_every_seed(tmp_path, monkeypatch):
    made = []

    def write(file, *, seed, bad, **_):
        made.append((seed, bad))
        file.touch()

    monkeypatch.setattr(bad_encoder_table.encoder, "main", write)
    cells = bad_encoder_table.cells(2, tmp_path, tmp_path)
    assert made == [(0, False), (0, True), (1, False), (1, True)]
    assert len({parse(cell.values).digest() for cell in cells}) == len(cells)
    result = {"final": {"accuracy": 0.9, "attack_success_rate": 0.25}}
    text = bad_encoder_table.table({cell.key: [result, result] for cell in cells})
    for rule in bad_encoder_table.RULES:
        assert f"| {rule} | 90.0 ± 0.0 | 25.0 ± 0.0 | 90.0 ± 0.0 | 25.0 ± 0.0 |" in text
