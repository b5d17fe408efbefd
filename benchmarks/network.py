"""Time per round of a deployed federation on links of a given rate, delay and loss.

SuperLink and SuperNodes run as `docker/federation.sh` runs them, each in a network namespace of its
own, each SuperNode with a link of its own to the SuperLink. Rates are set in both directions by
``tbf``, delay and loss by ``netem`` where the kernel has it (it is said where not). Last, one
SuperNode's link is so slow that it misses the round's deadline: the round closes without it.

    python -m benchmarks.network [--rates 100 10 2] [--delay 25 --loss 0.5] [--out FILE.md]

Needs root, ``ip`` and ``tc``. The time that a round takes whatever the rate is that of the apps'
processes: each SuperNode starts one for every message.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ROUNDS = 3
SERVER = "10.213.0.1"
MODELS = {
    "mlp of 64": "set='model.hidden=[64]'",
    "mlp of 4,096": "set='model.hidden=[4096]'",
    "mlp of 2 x 1,024": "set='model.hidden=[1024,1024]'",
}


def sh(*command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a command and return what it printed."""
    return subprocess.run(command, capture_output=True, text=True, check=check)


class Links:
    """Network namespaces, each but the first with a link of its own to the first, the server's.

    Parameters
    ----------
    names : sequence of str
        The namespaces; the server's address is `SERVER` from everywhere.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.server, *self.nodes = names
        self.no_netem = ""

    def __enter__(self) -> Links:
        self._remove()
        self._within(self.server, "addr", "add", f"{SERVER}/32", "dev", "lo", made=True)
        for place, name in enumerate(self.nodes, start=1):
            link = ("link", "add", "uplink", "type", "veth", "peer", "name", f"node{place}")
            self._within(name, *link, "netns", self.server, made=True)
            self._within(name, "addr", "add", f"10.213.{place}.2/24", "dev", "uplink")
            self._within(name, "link", "set", "uplink", "up")
            there = f"node{place}"
            self._within(self.server, "addr", "add", f"10.213.{place}.1/24", "dev", there)
            self._within(self.server, "link", "set", there, "up")
            self._within(name, "route", "add", SERVER, "via", f"10.213.{place}.1")
        return self

    def __exit__(self, *exception: object) -> None:
        self._remove()

    def _within(self, name: str, *command: str, made: bool = False) -> None:
        """Run ``ip`` in a namespace, which is made first if it is to be."""
        if made:
            sh("ip", "netns", "add", name)
            sh("ip", "-n", name, "link", "set", "lo", "up")
        sh("ip", "-n", name, *command)

    def _remove(self) -> None:
        for name in (self.server, *self.nodes):
            sh("ip", "netns", "del", name, check=False)

    def limit(self, name: str, mbit: float, delay_ms: float = 0.0, loss: float = 0.0) -> None:
        """Limit a node's link to `mbit` Mbit/s each way, `delay_ms` late, `loss` percent lost."""
        place = self.nodes.index(name) + 1
        for where, device in ((name, "uplink"), (self.server, f"node{place}")):
            tc = ("tc", "-n", where, "qdisc")
            sh(*tc, "del", "dev", device, "root", check=False)
            burst = max(16_000, int(mbit * 1e6 / 8 / 250))
            rate = ("tbf", "rate", f"{mbit}mbit", "burst", str(burst), "latency", "200ms")
            sh(*tc, "add", "dev", device, "root", "handle", "1:", *rate)
            if delay_ms or loss:
                worse = ("netem", "delay", f"{delay_ms}ms", "loss", f"{loss}%")
                below = ("dev", device, "parent", "1:1", "handle", "2:")
                done = sh(*tc, "add", *below, *worse, check=False)
                self.no_netem = "" if done.returncode == 0 else done.stderr.strip()


class Federation:
    """A SuperLink and SuperNodes, each in its namespace.

    Parameters
    ----------
    folder : Path
        Certificates, logs and runs.
    links : Links
        The server's namespace first, then one for each SuperNode.
    """

    def __init__(self, folder: Path, links: Links) -> None:
        self.folder, self.links = folder, links
        self.supernodes = len(links.nodes)
        self._started: list[subprocess.Popen[bytes]] = []

    def _command(self, name: str, role: str, **more: str) -> tuple[list[str], dict[str, str]]:
        environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "FEDERATION": str(self.folder),
            "FLWR_HOME": str(self.folder / "home" / f"{name}-{role}"),
            "SUPERLINK_HOST": SERVER,
            "SUPERNODES": str(self.supernodes),
            "MALICIOUS": "0",
            "STRATEGY": "median",
            "ROUNDS": str(ROUNDS),
            "OMP_NUM_THREADS": "1",
            "APP_PATIENCE": "120",
            **more,
        }
        script = str(ROOT / "docker" / "federation.sh")
        return ["ip", "netns", "exec", name, script, role], environment

    def start(self, name: str, role: str, **more: str) -> None:
        """Start a role in the background."""
        command, environment = self._command(name, role, **more)
        with (self.folder / f"{name}.log").open("ab") as log:
            self._started.append(
                subprocess.Popen(
                    command, env=environment, stdout=log, stderr=log, start_new_session=True
                )
            )

    def do(self, role: str, **more: str) -> subprocess.CompletedProcess[str]:
        """Run a role on the server to its end."""
        command, environment = self._command(self.links.server, role, **more)
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=1200
        )

    def up(self) -> None:
        """Start everybody; return when the SuperLink is healthy and has the SuperNodes' keys."""
        self._must("certificates")
        self.start(self.links.server, "superlink")
        for _ in range(120):
            if self.do("healthy").returncode == 0:
                break
            time.sleep(0.5)
        self._must("enrol")
        for place, name in enumerate(self.links.nodes):
            self.start(name, "supernode", PARTITION=str(place))

    def _must(self, role: str) -> None:
        done = self.do(role)
        if done.returncode != 0:
            raise SystemExit(f"{role}: {(done.stdout + done.stderr)[-2000:]}")

    def run(self, settings: str, **more: str) -> Path:
        """Run a federation to its end; return its run directory."""
        done = self.do("run", RUN_CONFIG=settings, **more)
        if done.returncode != 0:
            raise SystemExit((done.stdout + done.stderr)[-3000:])
        return max((self.folder / "runs").iterdir(), key=lambda path: path.stat().st_mtime)

    def down(self) -> None:
        """End every process that was started here."""
        for process in reversed(self._started):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, 15)
        for process in self._started:
            try:
                process.wait(timeout=15)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, 9)


def _lines(path: Path) -> Iterator[dict[str, object]]:
    for line in path.read_text().splitlines():
        yield json.loads(line)


def seconds(run: Path) -> float:
    """Return the seconds of a run's round: the median of all, the starting model's left out."""
    times = sorted(
        float(str(one["seconds"])) for one in _lines(run / "rounds.jsonl") if one["round"]
    )
    return times[len(times) // 2]


def measure(rates: Sequence[float], delay: float, loss: float) -> str:
    """Return the tables, in Markdown."""
    names = ["fedguard-server", *(f"fedguard-node-{place}" for place in range(3))]
    with tempfile.TemporaryDirectory() as scratch, Links(names) as links:
        federation = Federation(Path(scratch), links)
        try:
            federation.up()
            rows = ["| model | MB | " + " | ".join(f"{rate:g} Mbit/s" for rate in rates) + " |"]
            rows.append("|---" * (2 + len(rates)) + "|")
            for model, settings in MODELS.items():
                found = []
                for rate in rates:
                    for name in names[1:]:
                        links.limit(name, rate, delay, loss)
                    run = federation.run(f"local_epochs=1 {settings}")
                    found.append(seconds(run))
                    print(f"{model} at {rate:g} Mbit/s: {found[-1]:.1f} s a round", flush=True)
                size = (run / "model.safetensors").stat().st_size / 1e6
                times = " | ".join(f"{one:.1f} s" for one in found)
                rows.append(f"| {model} | {size:.2f} | {times} |")
            late = _slowest(federation, links, rates[0])
        finally:
            federation.down()
    worse = f" Delay {delay:g} ms, loss {loss:g} % were asked for." if delay or loss else ""
    if links.no_netem:
        worse = f" This kernel has no netem: no delay, no loss ({links.no_netem})."
    return "\n".join([*rows, "", f"Three SuperNodes, median of {ROUNDS} rounds.{worse}", late, ""])


def _slowest(federation: Federation, links: Links, rate: float) -> str:
    """Let one link miss the deadline; return what the records say."""
    for name in links.nodes:
        links.limit(name, rate)
    links.limit(links.nodes[-1], 0.5)
    settings = "local_epochs=1 " + MODELS["mlp of 2 x 1,024"]
    run = federation.run(settings, ROUND_TIMEOUT="30", JOIN_TIMEOUT="60")
    mine = [one for one in _lines(run / "clients.jsonl") if one["client"] == 2]
    lost = [one for one in mine if one["num_examples"] is None]
    reason = lost[0]["reason"] if lost else "none was missed"
    return (
        f"One link at 0.5 Mbit/s, `ROUND_TIMEOUT=30`: its client is missing in {len(lost)} of "
        f"{ROUNDS} rounds ({reason}), a round took {seconds(run):.1f} s."
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rates", type=float, nargs="+", default=[100.0, 10.0, 2.0])
    parser.add_argument("--delay", type=float, default=0.0, help="milliseconds each way")
    parser.add_argument("--loss", type=float, default=0.0, help="percent of the packets")
    parser.add_argument("--out", type=Path)
    values = parser.parse_args()
    if os.geteuid() != 0:
        raise SystemExit("network.py makes network namespaces: it needs root")
    text = measure(values.rates, values.delay, values.loss)
    print(text)
    if values.out:
        values.out.write_text(text)


if __name__ == "__main__":
    main()
