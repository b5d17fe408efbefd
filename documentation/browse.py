"""Every page of the built site in a real browser: narrow and wide, light and dark.

    python -m documentation.browse site

Prints how many pages were seen and every console error, exception, request beyond the disk and page
that scrolls sideways; the exit code is 1 if there was any. Needs chromium.
"""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

WIDTHS = (400, 1400)
SCHEMES = ("light", "dark")
PATIENCE = 60.0
"""Seconds that a page may take to load."""

_PROBE = """JSON.stringify({
  width: document.documentElement.clientWidth,
  scroll: document.documentElement.scrollWidth,
  page: getComputedStyle(document.body).backgroundColor,
  images: [...document.images].filter((one) => one.complete && !one.naturalWidth).length,
})"""

_SEARCH = """new Promise((resolve) => {
  const field = document.querySelector("[data-md-component=search-query]");
  field.focus();
  field.value = "krum";
  field.dispatchEvent(new Event("input", { bubbles: true }));
  field.dispatchEvent(new KeyboardEvent("keyup", { bubbles: true }));
  const begun = Date.now();
  const look = () => {
    const found = document.querySelectorAll(".md-search-result__item").length;
    if (found || Date.now() - begun > 30000) resolve(found);
    else setTimeout(look, 200);
  };
  look();
})"""

_TURN = """(() => {
  const found = document.querySelector("input[data-md-color-scheme=%s]");
  if (found && document.body.dataset.mdColorScheme !== "%s") found.click();
})()"""
"""Chooses a scheme by the page's own switch: one that is open does not follow the system's."""

_PALETTES = {"light": "default", "dark": "slate"}


class Browser:
    """A tab, spoken to in Chromium's DevTools protocol."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket, self._ids = socket, itertools.count(1)
        self.events: list[dict[str, Any]] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        # Without it no field gets the focus that opens the search.
        self.call("Emulation.setFocusEmulationEnabled", enabled=True)

    def call(self, method: str, **given: Any) -> dict[str, Any]:
        """Send a command and return its result; events that come first are kept."""
        number = next(self._ids)
        self._socket.send(json.dumps({"id": number, "method": method, "params": given}))
        while True:
            message = json.loads(self._socket.recv(timeout=PATIENCE))
            if message.get("id") == number:
                found: dict[str, Any] = message.get("result", {})
                return found
            self.events.append(message)

    def open(self, address: str) -> None:
        """Go to a page and wait until it is loaded."""
        self.events.clear()
        self.call("Page.navigate", url=address)
        while not any(one.get("method") == "Page.loadEventFired" for one in self.events):
            self.events.append(json.loads(self._socket.recv(timeout=PATIENCE)))

    def ask(self, expression: str) -> Any:
        """Return the value of an expression on the page."""
        found = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        return found["result"].get("value")

    def complaints(self) -> list[str]:
        """Return the errors that the page has made, and the requests that left the disk."""
        told = []
        for event in self.events:
            method, given = event.get("method"), event.get("params", {})
            if method == "Runtime.exceptionThrown":
                told.append(f"exception: {given['exceptionDetails'].get('text')}")
            elif method == "Runtime.consoleAPICalled" and given["type"] in ("error", "assert"):
                told.append(f"console: {[one.get('value') for one in given['args']]}")
            elif method == "Log.entryAdded" and given["entry"]["level"] == "error":
                told.append(f"log: {given['entry']['text']} {given['entry'].get('url', '')}")
            elif method == "Network.requestWillBeSent":
                address = given["request"]["url"]
                if not address.startswith(("file:", "data:", "blob:", "about:")):
                    told.append(f"request: {address}")
        return told


@contextmanager
def browser() -> Iterator[Browser]:
    """Start chromium without a window; end it afterwards."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        raise SystemExit("chromium is not installed")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [program, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"]
        command += ["--disable-background-networking", "--remote-debugging-port=0"]
        command += [f"--user-data-dir={profile}", "about:blank"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            with connect(_address(Path(profile)), max_size=None) as socket:
                yield Browser(socket)
        finally:
            process.terminate()
            process.wait(timeout=20)


def _address(profile: Path) -> str:
    """Return the address of the first tab, once the browser says where it listens."""
    import urllib.request

    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            port = (profile / "DevToolsActivePort").read_text().splitlines()[0]
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list") as answer:
                tabs = json.load(answer)
            return str(next(tab["webSocketDebuggerUrl"] for tab in tabs if tab["type"] == "page"))
        except (OSError, IndexError, StopIteration, ValueError):
            time.sleep(0.1)
    raise SystemExit("chromium did not start")


def visit(site: Path) -> tuple[int, list[str]]:
    """Open every page in every width and scheme; return the pages and what was wrong."""
    pages = sorted(path for path in site.rglob("*.html") if path.name != "404.html")
    wrong: list[str] = []
    grounds: dict[str, set[str]] = {scheme: set() for scheme in SCHEMES}
    with browser() as tab:
        for page in pages:
            tab.open(page.resolve().as_uri())
            name = page.relative_to(site)
            for width, scheme in itertools.product(WIDTHS, SCHEMES):
                seen = _seen(tab, width, scheme)
                grounds[scheme].add(seen["page"])
                if seen["scroll"] > seen["width"]:
                    told = f"scrolls sideways: {seen['scroll']} of {seen['width']} px"
                    wrong.append(f"{name}, {width} px, {scheme}: {told}")
                if seen["images"]:
                    wrong.append(f"{name}: {seen['images']} pictures are missing")
            wrong += [f"{name}: {one}" for one in tab.complaints()]
        tab.open((site / "index.html").resolve().as_uri())
        if not tab.ask(_SEARCH):
            wrong.append("the search finds nothing")
    if grounds["light"] & grounds["dark"]:
        wrong.append(f"light and dark share a ground: {grounds}")
    return len(pages), wrong


def _seen(tab: Browser, width: int, scheme: str) -> dict[str, Any]:
    """Return what the page is like at a width and in a scheme."""
    tab.call(
        "Emulation.setDeviceMetricsOverride",
        width=width,
        height=1000,
        deviceScaleFactor=1,
        mobile=width < 600,
    )
    feature = {"name": "prefers-color-scheme", "value": scheme}
    tab.call("Emulation.setEmulatedMedia", features=[feature])
    tab.ask(_TURN % ((_PALETTES[scheme],) * 2))
    settled = time.monotonic() + 2.0
    while True:
        found: dict[str, Any] = json.loads(tab.ask(_PROBE))
        # The header slides for a moment where the width has changed.
        if found["scroll"] <= found["width"] or time.monotonic() > settled:
            return found
        time.sleep(0.1)


def main() -> None:
    """Visit the site that the first argument names, and say what was seen."""
    site = Path(sys.argv[1] if len(sys.argv) > 1 else "site")
    count, wrong = visit(site)
    print("\n".join(dict.fromkeys(wrong)))
    views = count * len(WIDTHS) * len(SCHEMES)
    print(f"{count} pages, {views} views, {len(wrong)} complaints")
    raise SystemExit(1 if wrong or not count else 0)


if __name__ == "__main__":
    main()
