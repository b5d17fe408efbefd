"""Small apps in the shape of Flower's templates, run as an audit's child would run them."""

from __future__ import annotations

import sys
from pathlib import Path

from fedguard.auditing.cell import Cell, perform
from fedguard.auditing.hook import DataHook
from fedguard.auditing.project import Project, function_of
from fedguard.auditing.verdict import Headline, headline, judge

APPS = Path(__file__).parent / "apps"


class Audited:
    """An app that is loaded, its peaceful outcome and its headline."""

    def __init__(self, name: str, monkeypatch, tmp_path, data: str | None = None, **config) -> None:
        settings = [f"{key.replace('_', '-')}={value}" for key, value in config.items()]
        self.project = Project.read(APPS / name, settings=settings, data=data)
        monkeypatch.syspath_prepend(self.project.folder)
        monkeypatch.chdir(tmp_path)
        self.apps = self.project.load()
        self.hook = None
        if data is not None:
            self.hook = DataHook(function_of("data", data))
            self.hook.install()
        self.peaceful = self.outcome("peace", 0)
        self.headline: Headline = headline([self.peaceful])

    def outcome(self, threat: str, malicious: int, rule: str = "", seed: int = 0, **arguments):
        cell = Cell(threat, malicious, seed, rule, arguments)
        return perform(self.project, self.apps, cell, self.hook)

    def verdict(self, threat: str, malicious: int, rule: str = "", **arguments):
        found = self.outcome(threat, malicious, rule, **arguments)
        return judge(found, self.headline, self.peaceful)


def forget(package: str) -> None:
    """Take an app's modules away, so that the next test imports them anew."""
    for name in [n for n in sys.modules if n.split(".")[0] == package]:
        del sys.modules[name]
