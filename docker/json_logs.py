"""Turns what a role prints into a JSON object a line, for those who collect logs.

``json_logs.py ROLE [PARTITION]`` reads standard input until it ends. Nothing is left out: a line
that is no message of Flower's, or of the web server's in it, is one with the level INFO.
"""

from __future__ import annotations

import datetime
import json
import re
import signal
import sys

COLOUR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
LEVEL = re.compile(r"^(?:\S+Z )?(DEBUG|INFO|WARNING|WARN|ERROR|CRITICAL)\s*:?\s+(?:\[[\w.]+\] )?")


def entry(line: str, role: str, partition: str = "") -> dict[str, object] | None:
    """Return a printed line as a log entry, or None for an empty one."""
    text = COLOUR.sub("", line).rstrip()
    found = LEVEL.match(text)
    message = text[found.end() :] if found else text
    if not message.strip():
        return None
    level = found.group(1) if found else "INFO"
    made: dict[str, object] = {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds"),
        "level": "WARNING" if level == "WARN" else level,
        "role": role,
    }
    if partition.isdecimal():
        made["partition"] = int(partition)
    return {**made, "message": message.strip()}


def main(role: str, partition: str = "") -> None:
    """Translate standard input line by line."""
    # The role ends first; what it said last is still to be passed on.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for raw in sys.stdin.buffer:
        made = entry(raw.decode("utf-8", "replace"), role, partition)
        if made is not None:
            print(json.dumps(made, ensure_ascii=False), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:3])
