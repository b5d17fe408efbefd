"""docker/supervise.py: a role ends when its SuperExec does, and the health check looks for it."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

DOCKER = Path(__file__).resolve().parents[1] / "docker"

ROLE = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", "flower-superexec"])
open(sys.argv[1], "w").write(str(child.pid))
time.sleep(60)
"""

SUPERVISE = """
import sys
sys.path.insert(0, {folder!r})
import supervise
supervise.LOOK, supervise.START = 0.05, {start}
sys.exit(supervise.run(supervise.Path({pidfile!r}), [sys.executable, "-c", {role!r}, {child!r}]))
"""


@contextlib.contextmanager
def supervised(
    folder: Path, role: str = ROLE, start: float = 30.0
) -> Iterator[subprocess.Popen[str]]:
    given = {"pidfile": str(folder / "pid"), "child": str(folder / "child"), "role": role}
    script = SUPERVISE.format(folder=str(DOCKER), start=start, **given)
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def number_in(path: Path) -> int:
    for _ in range(600):
        with contextlib.suppress(OSError, ValueError):
            return int(path.read_text())
        time.sleep(0.05)
    raise AssertionError(f"{path} was not written")


def runs(process: int) -> bool:
    with contextlib.suppress(OSError):
        return (Path("/proc") / str(process) / "stat").read_text().rpartition(")")[2].split()[
            0
        ] != "Z"
    return False


def ended(process: int) -> bool:
    for _ in range(600):
        if not runs(process):
            return True
        time.sleep(0.05)
    return False


@pytest.fixture
def url() -> Iterator[str]:
    class Quiet(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Quiet)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


def look(folder: Path, url: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, DOCKER / "supervise.py", "--look", folder / "pid", url]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_role_ends_as_a_failure_when_its_superexec_has_died(tmp_path):
    with supervised(tmp_path) as process:
        child = number_in(tmp_path / "child")
        time.sleep(0.5)  # it has been seen
        assert process.poll() is None
        os.kill(child, signal.SIGKILL)
        assert process.wait(timeout=30) == 1
        assert "its SuperExec has ended" in process.stdout.read()
        assert ended(number_in(tmp_path / "pid"))


def test_a_role_whose_superexec_never_starts_ends_as_a_failure(tmp_path):
    with supervised(tmp_path, "import time; time.sleep(60)", start=0.3) as process:
        assert process.wait(timeout=30) == 1
        assert "did not start within 0.3 s" in process.stdout.read()


def test_the_roles_own_exit_status_and_signals_pass_through(tmp_path):
    with supervised(tmp_path, "import sys; sys.exit(7)") as process:
        assert process.wait(timeout=30) == 7
    with supervised(tmp_path) as process:
        number_in(tmp_path / "child")
        process.terminate()
        assert process.wait(timeout=30) == 128 + signal.SIGTERM
        assert ended(number_in(tmp_path / "pid"))


def test_nothing_is_left_of_a_role_whose_supervisor_is_killed(tmp_path):
    with supervised(tmp_path) as process:
        number_in(tmp_path / "child")
        process.kill()
        assert ended(number_in(tmp_path / "pid"))


def test_the_health_check_looks_for_the_superexec(tmp_path, url):
    assert look(tmp_path, url).returncode == 1  # nothing runs yet
    role = ROLE.replace("time.sleep(60)\n", "child.wait(); time.sleep(60)\n")
    assert role != ROLE
    with supervised(tmp_path, role):
        child = number_in(tmp_path / "child")
        assert look(tmp_path, url).returncode == 0
        assert look(tmp_path, "http://127.0.0.1:9/").returncode == 1
        # A supervisor stopped in its tracks: the check finds out by itself.
        os.kill(number_in(tmp_path / "pid"), signal.SIGSTOP)
        os.kill(child, signal.SIGKILL)
        assert ended(child)
        done = look(tmp_path, url)
        assert done.returncode == 1


def test_logs_become_a_json_object_a_line():
    said = (
        "\x1b[92mINFO \x1b[0m:      Starting Flower SuperNode\n"
        "\x1b[93mWARNING \x1b[0m:   node 7 is left out: it names no partition\n\n"
        "2026-11-28T10:12:56.681Z ERROR [uvicorn.error] no such file\n"
        'Traceback "most recent" {call}\n\xff'
    )
    command = [sys.executable, DOCKER / "json_logs.py", "supernode", "3"]
    done = subprocess.run(command, input=said.encode("latin-1"), capture_output=True, check=True)
    entries = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(entry["level"], entry["message"]) for entry in entries] == [
        ("INFO", "Starting Flower SuperNode"),
        ("WARNING", "node 7 is left out: it names no partition"),
        ("ERROR", "no such file"),
        ("INFO", 'Traceback "most recent" {call}'),
        ("INFO", "\N{REPLACEMENT CHARACTER}"),
    ]
    assert {(entry["role"], entry["partition"]) for entry in entries} == {("supernode", 3)}
    assert all(entry["time"].endswith("+00:00") for entry in entries)


def test_a_roles_last_words_are_logged_as_json_too():
    environment = {**os.environ, "LOG_FORMAT": "json", "ENROLMENT": "", "PARTITION": "none"}
    environment["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    command = [DOCKER / "federation.sh", "supernode"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    (line,) = done.stdout.splitlines()
    assert "names no client" in json.loads(line)["message"]


def test_apps_get_the_patience_that_is_asked_for_and_nodes_keep_flowers_own():
    script = """
import sys
sys.path.insert(0, sys.argv[1])
import patient
patient.be_patient(77)
from flwr.supercore.corestate import in_memory_corestate, sql_corestate
from flwr.supernode import fleet_http_connection
for module, state in (
    (in_memory_corestate, in_memory_corestate.InMemoryCoreState),
    (sql_corestate, sql_corestate.SqlCoreState),
):
    assert patient.NAME in state.claim_task.__code__.co_names
    assert patient.NAME in state.acknowledge_task_heartbeat.__code__.co_names
    print(module.HEARTBEAT_DEFAULT_INTERVAL)
print(fleet_http_connection.HEARTBEAT_DEFAULT_INTERVAL)
"""
    command = [sys.executable, "-c", script, DOCKER]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["77", "77", "30"]


@pytest.mark.parametrize("seconds", ["29", "-1", "soon"])
def test_a_patience_that_cannot_be_is_refused_in_one_line(seconds):
    command = [sys.executable, DOCKER / "patient.py", seconds, "flower-supernode"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == f"APP_PATIENCE={seconds} is not valid; allowed: 30 or more seconds\n"
