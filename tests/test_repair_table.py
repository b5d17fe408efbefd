"""The repair table in a small form: digits, one strategy, one attack."""

from __future__ import annotations

import json

import pytest
import typer

from fedguard.audits.rnp_alarm import RnpAlarm
from simulations import repair_alarm
from simulations import repair_table as table


def figures(accuracy, success):
    return table.Figures(accuracy, success, 0.0, 0.0, 0.0, {})


def test_the_rating_by_hand():
    before = figures(0.9, 1.0)
    assert table.effectiveness(before, before) == 0.5
    assert table.effectiveness(before, figures(0.9, 0.0)) == 1.0
    assert table.effectiveness(before, figures(0.7, 0.5)) == pytest.approx(0.65)
    assert table.effectiveness(before, figures(0.95, 1.0)) == 0.5


def test_cells_run_are_found_again_and_make_a_section(tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    wanted = "none;super-finetune;rnp;rnp, as many at random"
    given = {"quick": True, "seeds": 1, "strategies": "fedavg", "attacks": "badnets"}
    run = {**given, "repairs": wanted, "out": tmp_path / "runs", "document": page}
    monkeypatch.setitem(table.REPAIRS, "rnp", {"name": "rnp", "confidence": 0.0, "threshold": 0.9})
    table.main(**run)
    text = page.read_text()
    for word in ("never attacked", "super-finetune", "as many at random", "<!-- begin quick -->"):
        assert word in text
    (cache,) = (tmp_path / "runs").glob("*.json")
    found = json.loads(cache.read_text())
    assert set(found) == {"floor", *wanted.split(";")}
    monkeypatch.setattr(table, "mended", None)  # what was measured is not measured again
    table.main(**run)
    assert page.read_text() == text
    # A cell that lacks a figure gets that one alone; until then there is no row of it.
    cache.write_text(json.dumps({name: found[name] for name in found if name != "rnp"}))
    table.main(**run, write_only=True)
    assert "| rnp |" not in page.read_text()
    assert "| super-finetune |" in page.read_text()
    asked = []

    def again(world, state, name, alike):
        asked.append(name)
        return table.Figures(**found[name])

    monkeypatch.setattr(table, "mended", again)
    table.main(**run)
    assert asked == ["rnp"]
    assert "| rnp |" in page.read_text()


def test_the_random_control_needs_what_it_controls(tmp_path):
    with pytest.raises(typer.BadParameter, match="needs 'rnp' before it"):
        table.main(quick=True, repairs=f"none;{table.RANDOM}", out=tmp_path)


def test_two_sizes_at_once_are_refused(tmp_path):
    with pytest.raises(typer.BadParameter, match="--quick and --signs: one of them"):
        table.main(quick=True, signs=True, out=tmp_path)


def test_a_backdoor_that_did_not_take_is_called_failed():
    never, weak, strong = figures(0.9, 0.1), figures(0.9, 0.35), figures(0.9, 0.6)
    for attacked, failed in ((weak, True), (strong, False)):
        seeds = [{"floor": never, "none": attacked, "nad": figures(0.8, 0.1)}]
        text = table.table({("fedavg", "badnets"): seeds})
        assert ("badnets (failed)" in text) == failed


def test_the_alarms_block_looks_at_backdoors_that_took_and_at_clean_models(tmp_path, monkeypatch):
    monkeypatch.setattr(
        table,
        "known_figures",
        lambda values, _: {
            "floor": figures(0.9, 0.1),
            "none": figures(0.9, 0.3 if values["strategy"] == "flame" else 0.9),
        },
    )
    asked = []

    def looked(values, folder):
        asked.append((values["strategy"], values["malicious"], values["attack"]))
        return (0, 0.7) if values["malicious"] or values["strategy"] == "flame" else (4, 0.5)

    monkeypatch.setattr(repair_alarm, "looked", looked)
    page = tmp_path / "page.md"
    given = {"quick": True, "seeds": 1, "strategies": "fedavg,flame", "attacks": "badnets,wanet"}
    table.main(**given, alarm=True, write_only=True, out=tmp_path, document=page)
    text = page.read_text()
    assert "| backdoor | fedavg, wanet | 0 | 0 | 0.70 | alarm |" in text
    assert "| clean | fedavg | 0 | 4 | 0.50 | - |" in text
    assert "Alarms: 2 of 2 with a backdoor, 1 of 2 clean ones" in text
    assert [name for name, share, _ in asked if share] == ["fedavg", "fedavg"]
    assert [attack for _, share, attack in asked if not share] == ["none", "none"]
    assert RnpAlarm().at_least == repair_alarm.AT_LEAST
