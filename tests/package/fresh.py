"""Build wheel and sdist, check them, install the wheel into a fresh environment and run it there.

    python tests/package/fresh.py                # what `make package` does; files into dist/
    python tests/package/fresh.py --out DIR

Built from a copy of the files that git knows, so that what the sdist forgets is missed. The
environment is empty and another folder is the current one. Where its packages cannot be had (no
network and not in uv's cache), the packages of this environment are lent to it, all but fedguard,
and the last line says so.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HALVING = ROOT / "tests" / "plug_in" / "halving"
QUICK = ["--clients", "8", "--rounds", "2", "--local-epochs", "1"]
CAMPAIGN = "base: {rounds: 2, clients: 6}\ngrid: {strategy: [krum, fedavg]}\n"


def command(words: list[str], folder: Path, environment: dict[str, str] | None = None) -> str:
    """Run a command to its end; return its output, or end with what it said."""
    done = subprocess.run(
        words, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}: {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def build(work: Path, out: Path) -> Path:
    """Build both files from a copy of the repository's files, check them; return the wheel."""
    copy = work / "source"
    listed = command(["git", "ls-files", "-co", "--exclude-standard"], ROOT).splitlines()
    for name in listed:
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name)
    made = work / "dist"
    words = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(made), str(copy)]
    command(words, work)
    files = sorted(made.iterdir())
    told = command([sys.executable, "-m", "twine", "check", "--strict", *map(str, files)], work)
    print(told.strip())
    out.mkdir(parents=True, exist_ok=True)
    for file in files:
        shutil.copy2(file, out / file.name)
        print(f"{out / file.name}: {file.stat().st_size / 1e3:.0f} kB")
    return next(file for file in files if file.suffix == ".whl")


def install(wheel: Path, environment: Path) -> bool:
    """Make an empty environment with the wheel; return whether packages had to be lent to it."""
    uv = [sys.executable, "-m", "uv"]
    command([*uv, "venv", "--quiet", "--python", sys.executable, str(environment)], wheel.parent)
    into = [*uv, "pip", "install", "--quiet", "--python", str(environment / "bin" / "python")]
    pinned = ["-c", str(ROOT / "constraints.txt")]
    whole = subprocess.run(
        [*into, "--offline", *pinned, str(wheel)], capture_output=True, text=True, check=False
    )
    if whole.returncode == 0:
        return False
    command([*into, "--no-deps", str(wheel)], wheel.parent)
    lent = next((environment / "lib").glob("python*/site-packages")) / "lent.pth"
    # Lines of a .pth file are followed, the .pth files in what they name are not: fedguard itself,
    # which lies in this environment by one, is not lent.
    lent.write_text(f"{sysconfig.get_path('purelib')}\n", encoding="utf-8")
    return True


def use(environment: Path, folder: Path) -> None:
    """Do with the installed package what its users do, in a folder that knows no checkout."""
    path = f"{environment / 'bin'}{os.pathsep}{os.environ['PATH']}"
    settings = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    settings |= {"PATH": path, "FLWR_TELEMETRY_ENABLED": "0", "OMP_NUM_THREADS": "1"}
    python, fedguard = str(environment / "bin" / "python"), str(environment / "bin" / "fedguard")
    where = command([python, "-c", "import fedguard; print(fedguard.__file__)"], folder, settings)
    assert str(environment) in where, where

    def run(*words: str) -> str:
        found = command([fedguard, *words], folder, settings)
        print(f"fedguard {' '.join(words)}: done")
        return found

    told = run("--strategy", "geminiguard", *QUICK, "--out", "main", "--json")
    assert json.loads(told.splitlines()[-1])["strategy"] == "geminiguard"
    assert (folder / "main" / "report.html").stat().st_size > 100_000
    (folder / "c.yaml").write_text(CAMPAIGN, encoding="utf-8")
    run("sweep", "c.yaml", "--workers", "1")
    compared = json.loads(run("compare", "runs/c", "--json", "--out", "c.html").splitlines()[-1])
    assert {one["defence"] for one in compared["comparisons"][0]["runs"]} == {"krum", "fedavg"}
    plug_in = shutil.copytree(HALVING, folder / "plug-in")
    words = ["pip", "install", "--quiet", "--offline", "--no-deps", "--no-build-isolation"]
    uv = [sys.executable, "-m", "uv", *words, "--python", python, str(plug_in)]
    command(uv, folder, settings)
    assert "halving" in run("list", "strategies").split()
    told = run("--strategy", "halving", *QUICK, "--out", "halved", "--json")
    assert json.loads(told.splitlines()[-1])["strategy"] == "halving"
    run("new", "strategy", "from-the-wheel")
    assert (folder / "from-the-wheel" / "test_from_the_wheel.py").is_file()


def main() -> None:
    """Build, check, install and use."""
    parser = argparse.ArgumentParser(description="Build the package, and try it where it is new.")
    parser.add_argument("--out", type=Path, default=ROOT / "dist")
    out = parser.parse_args().out
    with tempfile.TemporaryDirectory(prefix="fedguard-package-") as folder:
        work = Path(folder)
        wheel = build(work, out)
        lent = install(wheel, work / "fresh")
        elsewhere = work / "elsewhere"
        elsewhere.mkdir()
        use(work / "fresh", elsewhere)
    how = "its dependencies lent by this environment" if lent else "all of it installed"
    print(f"the wheel works in a fresh environment, {how}")


if __name__ == "__main__":
    main()
