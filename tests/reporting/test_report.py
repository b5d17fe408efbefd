"""The page: what it says, that it is safe to open, and that nothing in a run can break it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from sklearn.metrics import roc_auc_score
from synthetic_run import count_replies, lead_with_perplexity, write_run

from fedguard.reporting.page import guarded
from fedguard.reporting.report import main, write_report

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&<b>"


class Tags(HTMLParser):
    """Collects the elements of a page, and the texts of its data scripts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.data: list[str] = []
        self._inside = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = tag == "script" and dict(attrs).get("type") == "application/json"
        if self._inside:
            self.data.append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = False

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.data[-1] += data

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.elements)


def page_of(run_dir: Path) -> str:
    path = write_report(run_dir)
    assert path == run_dir / "report.html"
    return path.read_text(encoding="utf-8")


def test_page_tells_the_result_and_every_part(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", final={"accuracy": 0.942, "per_class_recall": [0.9] * 10})
    page = page_of(path)
    assert "geminiguard kept 94.2 % accuracy under min-max by 4 of 20 clients" in page
    for part in ("course", "clients", "scores", "classes", "threat", "configuration", "provenance"):
        assert f'<section id="{part}">' in page
    assert "could not be drawn" not in re.sub(r"<script.*?</script>", "", page, flags=re.S)
    assert "assumed_malicious: 0.25" in page
    assert "fewer than half of the clients are malicious" in page
    assert "the server keeps 100 training examples" in page


def test_page_of_a_language_model_is_led_by_perplexity(tmp_path: Path) -> None:
    path = lead_with_perplexity(write_run(tmp_path / "run", rounds=6))
    summary = json.loads((path / "summary.json").read_text())
    summary |= {"training": "adam", "enrolment": "tokens", "repair": "rnp"}
    (path / "summary.json").write_text(json.dumps(summary))
    page = page_of(path)
    last, best = summary["final"]["perplexity"], summary["best"]["perplexity"]
    strong = f'<b class="share">{last:.4g}</b>'
    assert f"geminiguard kept a perplexity of {strong} under" in page
    assert f"geminiguard kept a perplexity of {last:.4g} under min-max by 4 of 20 clients" in page
    assert f'final perplexity</span><span class="value">{last:.4g}</span>' in page
    assert f'best perplexity</span><span class="value">{best:.4g}</span>' in page
    assert "On the test examples; lower is better." in page
    assert (
        "accuracy" not in page.split("<main>")[1].replace("var(--accuracy)", "").split("Threat")[0]
    )
    for name, value in (("training", "adam"), ("enrolment", "tokens"), ("repair", "rnp")):
        assert f"<li><span>{name}</span> {value}</li>" in page


def test_figures_of_a_language_model_hold_its_numbers(tmp_path: Path) -> None:
    path = lead_with_perplexity(write_run(tmp_path / "run", rounds=6))
    lines = [json.loads(line) for line in (path / "rounds.jsonl").read_text().splitlines()]
    drawn = [json.loads(text) for text in Tags(page_of(path)).data]
    perplexity, success, _, loss = drawn[:4]
    assert perplexity["data"][0]["y"] == [line["perplexity"] for line in lines]
    assert len(perplexity["data"]) == 1, "attack success is a share: it has a figure of its own"
    assert success["data"][0]["y"] == [line["attack_success_rate"] for line in lines]
    assert perplexity["layout"]["yaxis"].get("tickformat") is None
    assert success["layout"]["yaxis"]["tickformat"] == ".0%"
    assert [trace["name"] for trace in loss["data"]] == ["test", "training"]
    assert loss["data"][1]["y"] == [line["train_loss"] for line in lines]


def test_scores_tell_how_well_they_separate_as_scikit_learn_does(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", rounds=10)
    records = [json.loads(line) for line in (path / "clients.jsonl").read_text().splitlines()]
    told = [record for record in records if record["scores"]]
    truth = [record["malicious"] for record in told]
    section = page_of(path).split('<section id="scores">')[1].split("</section>")[0]
    for name in ("cluster", "trust", "distance"):
        area = roc_auc_score(truth, [record["scores"][name] for record in told])
        own = section.split(f"<h3>{name}</h3>")[1].split("</figure>")[0]
        assert f"higher than an honest one in {100 * area:.1f} % of pairs" in own


def test_a_part_that_no_page_can_hold_is_told_in_one_line() -> None:
    def broken(_: object) -> str:
        raise ValueError("<b>\x1b\nx" * 200)

    words = guarded(broken, 1)
    assert "ValueError: &lt;b&gt;� x" in words
    assert len(words) < 1500
    assert guarded(str.upper, "fine") == "FINE"


def test_every_figure_is_valid_json_of_plotly(tmp_path: Path) -> None:
    tags = Tags(page_of(write_run(tmp_path / "run")))
    assert len(tags.data) == 9  # 3 courses, the map, 3 scores, recall, split
    assert all({"data", "layout"} <= json.loads(text).keys() for text in tags.data)


def test_page_is_small_and_loads_nothing(tmp_path: Path) -> None:
    page = page_of(write_run(tmp_path / "run"))
    assert len(page.encode()) < 3_000_000
    for _, attributes in Tags(page).elements:
        for name in ("src", "href"):
            assert (attributes.get(name) or "#").startswith(("#", "data:,"))
    assert "@import" not in page
    assert "url(" not in page


def hostile_run(path: Path) -> Path:
    """Write a run in which every text that a stranger could have written is an attack."""
    write_run(path, rounds=3, strategy=HOSTILE, attack=HOSTILE, dataset=HOSTILE, notes=[HOSTILE])
    summary = json.loads((path / "summary.json").read_text())
    summary |= {"class_names": [HOSTILE] * 10, "versions": {HOSTILE: HOSTILE}, "model": HOSTILE}
    summary |= {"engine": {HOSTILE: [HOSTILE]}, "model_sha256": HOSTILE}
    summary |= {"headline": {"name": HOSTILE, "unit": "share"}}
    lines = [json.loads(line) for line in (path / "rounds.jsonl").read_text().splitlines()]
    lines = [line | {HOSTILE: line["accuracy"]} for line in lines]
    (path / "rounds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (path / "summary.json").write_text(json.dumps(summary))
    records = [json.loads(line) for line in (path / "clients.jsonl").read_text().splitlines()]
    for record in records:
        record |= {
            "reason": HOSTILE,
            "scores": {HOSTILE: 1.0},
            "client": f"{HOSTILE}{record['client']}",
        }
    (path / "clients.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    (path / "threat_model.json").write_text(json.dumps({HOSTILE: {HOSTILE: [HOSTILE]}}))
    (path / "config.yaml").write_text(HOSTILE)
    return path


def test_no_text_from_a_run_becomes_an_element(tmp_path: Path) -> None:
    page = page_of(hostile_run(tmp_path / "run"))
    tags = Tags(page)
    assert HOSTILE not in page
    assert tags.count("img") == 0
    assert tags.count("script") == len(tags.data) + 2
    assert not any(name.startswith("on") for _, attributes in tags.elements for name in attributes)
    for text in tags.data:
        # plotly reads a subset of HTML in texts: no tag may survive there either.
        assert "<b>" not in json.dumps(json.loads(text), ensure_ascii=False)


def damage(name: str, content: str) -> Any:
    def apply(path: Path) -> None:
        (path / name).write_text(content)

    return pytest.param(apply, id=f"{name}: {content[:30]!r}")


@pytest.mark.parametrize(
    "apply",
    [
        damage("summary.json", "{}"),
        damage("summary.json", "not json"),
        damage("summary.json", "[1]"),
        damage("summary.json", '{"final": 3, "best": [], "detection": "x", "class_names": {}}'),
        damage("summary.json", '{"final": {"per_class_recall": [NaN, null, "x", 0.5]}}'),
        damage("summary.json", '{"split": {"counts": [[1], [], [2, NaN, null], "x"]}}'),
        damage("summary.json", '{"split": {"counts": [[0, 0]]}, "malicious": NaN, "clients": "x"}'),
        damage("summary.json", "[" * 100_000),
        damage("rounds.jsonl", ""),
        damage("rounds.jsonl", '{"round": 0, "accuracy": NaN, "loss": Infinity}\n'),
        damage("rounds.jsonl", '{"round": 1e999}\n{"round": 5, "accuracy": "x", "seconds": []}\n'),
        damage("clients.jsonl", ""),
        damage("clients.jsonl", '{"round": 1}\n{"round": 1, "client": 2}\n'),
        damage("clients.jsonl", '{"round": 1, "client": 2, "scores": {"a": NaN, "b": 1e308}}\n'),
        damage("clients.jsonl", '{"round": 1, "client": 18446744073709551615, "scores": []}\n'),
        damage("threat_model.json", '{"attacker": 3, "x": null, "y": [[[[[[1]]]]]]}'),
        damage("config.yaml", "\x00\ufffd"),
    ],
)
def test_damaged_files_cost_no_page(tmp_path: Path, apply: Any) -> None:
    path = write_run(tmp_path / "run", rounds=3)
    apply(path)
    page = page_of(path)
    assert "This part could not be drawn" not in page
    assert page.rstrip().endswith("</html>")
    for text in Tags(page).data:
        json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} in a figure"))


def test_empty_directory_still_gives_a_page(tmp_path: Path) -> None:
    page = page_of(tmp_path)
    assert "This run left no results yet." in page
    assert "summary.json: No such file or directory" in page


def test_run_of_one_client_and_no_rounds(tmp_path: Path) -> None:
    path = write_run(tmp_path / "a", clients=1, malicious=0, rounds=0, attack="none")
    assert "No round was recorded" not in page_of(path)  # round 0 is the initial model
    page = page_of(write_run(tmp_path / "b", clients=1, malicious=1, rounds=1))
    assert "by 1 of 1 client" in page


def test_a_part_that_breaks_costs_that_part_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: object) -> None:
        raise ZeroDivisionError("<oops>")

    monkeypatch.setattr("fedguard.reporting.report.client_map_figure", broken)
    page = page_of(write_run(tmp_path / "run", rounds=2))
    assert "This part could not be drawn. ZeroDivisionError: &lt;oops&gt;" in page
    assert '<section id="threat">' in page


def test_a_strategy_that_tells_no_verdict_rejects_nobody_on_the_page(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", rounds=1, clients=3, malicious=0)
    blank = {"accepted": None, "weight": None, "num_examples": None, "scores": {}, "reason": None}
    lines = [json.dumps({"round": 1, "client": c, "malicious": False} | blank) for c in range(3)]
    (path / "clients.jsonl").write_text("\n".join(lines))
    page = page_of(path)
    assert "took part, no verdict told" in page
    assert 'class="num">0</td>' in page


def test_a_run_that_counts_replies_shows_them_beside_the_map(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", rounds=12)
    count_replies(path)
    page = page_of(path)
    clients = page.split('<section id="clients">')[1].split("</section>")[0]
    for title in ("Who was rejected, who lied", "Replies by outcome", "Reasons"):
        assert f"<h3>{title}</h3>" in clients


def test_hundreds_of_clients_and_rounds(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", clients=300, malicious=60, rounds=200)
    page = page_of(path)
    assert len(page.encode()) < 4_000_000


def test_plotly_is_loaded_for_a_report_only() -> None:
    code = "import sys, fedguard.reporting.progress, fedguard.reporting.summary; "
    code += "sys.exit('plotly' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_command_rewrites_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_run(tmp_path / "run", rounds=1)
    assert main([str(path)]) == 0
    assert capsys.readouterr().out.strip() == str(path / "report.html")
    assert main([]) == 2
    assert main([str(tmp_path / "nowhere")]) == 2
    assert "RUN_DIR" in capsys.readouterr().err
