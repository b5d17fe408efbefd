"""The page in a real browser: figures are drawn, nothing fails, nothing scrolls sideways.

The page runs in a frame as wide as the screen it stands for, since a browser's window cannot be
made as narrow as a phone. A script at the end of a copy of the page measures it from within and
sends what it found to the frame around, which keeps it in its title.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from synthetic_run import count_replies, lead_with_perplexity, write_run
from test_report import hostile_run

from fedguard.reporting.report import write_report

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs the browser chromium")

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--hide-scrollbars",
    "--enable-logging=stderr",
    "--v=0",
    "--virtual-time-budget=60000",
]

FAILURES = """<script>
window.failures = [];
const note = (text) => window.failures.push(String(text));
window.addEventListener("error", (event) => note(event.message));
window.addEventListener("unhandledrejection", (event) => note(event.reason));
</script>"""

PROBE = """<script>
const shown = () =>
  [...document.querySelectorAll(".chart")].filter((plot) => !plot.closest("[hidden]"));
function probe() {
  const all = (selector) => [...document.querySelectorAll(selector)];
  const marks = "svg .cartesianlayer .trace, svg .cartesianlayer .hm";
  const right = (element) => element.getBoundingClientRect().right;
  const colour = (element, name) => getComputedStyle(element)[name];
  const cells = shown().find((plot) => plot.layout?.meta?.map);
  return {
    width: innerWidth,
    scrollWidth: document.documentElement.scrollWidth,
    plots: shown().length,
    drawn: shown().filter((plot) => plot.querySelector(marks)).length,
    outside: all(".chart svg").filter((svg) => right(svg) > innerWidth).length,
    page: colour(document.body, "backgroundColor"),
    tick: all(".chart .xtick text").map((text) => colour(text, "fill"))[0],
    unresolved: all(".chart [style*='var(--']").length,
    signs: cells ? cells.querySelectorAll(".heatmap-label").length : 0,
    hover: cells ? cells.data[0].hovertext[0][0] : "",
    images: all("img").length,
    links: all(".chart a").filter((a) => a.href).length,
    failures: window.failures,
  };
}
const later = (act, pause = 2000, tries = 100) => setTimeout(() => {
  if (tries && !shown().every((plot) => plot.dataset.drawn)) later(act, pause, tries - 1);
  else setTimeout(act, pause);
}, 200);
// Chooses every part of every menu in turn; tells what was seen of each.
async function browse() {
  const seen = [];
  for (const menu of document.querySelectorAll(".chooser select")) {
    for (let place = 0; place < menu.options.length; place += 1) {
      menu.selectedIndex = place;
      menu.dispatchEvent(new Event("change"));
      await new Promise((resolve) => later(resolve, 400));
      const { plots, drawn, outside, scrollWidth } = probe();
      seen.push({ plots, drawn, outside, scrollWidth });
    }
  }
  return seen;
}
addEventListener("load", () => later(async () => {
  const before = probe();
  document.getElementById("theme").click();
  later(async () => {
    const after = probe();
    parent.postMessage({ before, after, chosen: await browse() }, "*");
  });
}));
</script>"""

FRAME = """<!doctype html><body style="margin:0">
<script>
addEventListener("message", (event) => { document.title = JSON.stringify(event.data); });
</script>
<iframe src="copy.html" style="border:0;width:WIDTHpx;height:1200px"></iframe>"""


def visit(page: Path, folder: Path, width: int, dark: bool) -> dict[str, Any]:
    """Open a page at a width and in a theme; return what the probe found before and after."""
    text = page.read_text(encoding="utf-8")
    copy = text.replace("<head>", "<head>" + FAILURES, 1).replace("</body>", PROBE + "</body>", 1)
    (folder / "copy.html").write_text(copy, encoding="utf-8")
    (folder / "frame.html").write_text(FRAME.replace("WIDTH", str(width)), encoding="utf-8")
    command = [
        str(CHROMIUM),
        *FLAGS,
        f"--user-data-dir={folder / 'profile'}",
        f"--window-size={max(width, 500)},1200",
        f"--blink-settings=preferredColorScheme={0 if dark else 1}",
        "--dump-dom",
        (folder / "frame.html").as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert console == []
    title = re.search(r"<title>(.*?)</title>", done.stdout, flags=re.S)
    assert title is not None, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(unescape(title.group(1)))
    return found


def brightness(colour: str) -> float:
    red, green, blue = (int(part) for part in re.findall(r"\d+", colour)[:3])
    return (red + green + blue) / 765


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [400, 1400])
def test_page_is_drawn_in_both_themes_and_never_scrolls_sideways(
    tmp_path: Path, width: int, dark: bool
) -> None:
    page = write_report(write_run(tmp_path / "run"))
    found = visit(page, tmp_path, width, dark)
    for state, is_dark in ((found["before"], dark), (found["after"], not dark)):
        assert state["width"] == width
        assert state["scrollWidth"] <= width
        assert state["outside"] == 0
        assert state["drawn"] == state["plots"] == 9
        assert state["failures"] == []
        assert state["unresolved"] == 0
        assert (brightness(state["page"]) < 0.5) is is_dark
        assert abs(brightness(state["tick"]) - brightness(state["page"])) > 0.35
        assert state["signs"] == 20 * 20


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_a_language_models_page_with_failures_repairs_and_audits_is_drawn(
    tmp_path: Path, dark: bool
) -> None:
    path = lead_with_perplexity(write_run(tmp_path / "run", split={"counts": [[60]] * 20}))
    count_replies(path)
    for kind in ("repair", "audit"):
        lines = [{"round": r, kind: "some", "figure": 10.0**r, "seconds": 1.0} for r in (5, 10, 15)]
        (path / f"{kind}s.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = visit(write_report(path), tmp_path, 400, dark)
    for state in (found["before"], found["after"]):
        # perplexity, success, detection, loss, a repair, an audit, the map, 3 scores, recall's
        # absence leaves the split
        assert state["drawn"] == state["plots"] == 11
        assert state["failures"] == []
        assert state["unresolved"] == state["outside"] == 0
        assert state["scrollWidth"] <= 400


def test_hundreds_of_clients_and_rounds_are_drawn(tmp_path: Path) -> None:
    page = write_report(write_run(tmp_path / "run", clients=300, malicious=60, rounds=200))
    state = visit(page, tmp_path, 400, False)["before"]
    assert state["drawn"] == state["plots"] == 9
    assert state["failures"] == []
    assert state["signs"] == 0  # no cell is large enough for its sign
    assert state["hover"].startswith("client ◆")


def test_hostile_texts_stay_texts(tmp_path: Path) -> None:
    page = write_report(hostile_run(tmp_path / "run"))
    found = visit(page, tmp_path, 400, True)
    assert found["before"]["failures"] == []
    assert found["before"]["images"] == 0
    assert found["before"]["links"] == 0
    assert found["before"]["scrollWidth"] <= 400
    assert found["before"]["drawn"] == found["before"]["plots"] > 0
