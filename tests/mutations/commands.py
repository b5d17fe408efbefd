"""Faults of the commands and of the Python door that their tests notice."""

from __future__ import annotations

MUTATIONS: list[tuple[str, str, str, str]] = [
    (
        "fedguard/commands/new.py",
        "    if find_spec(module) is not None:",
        "    if False:",
        "tests/commands/test_new.py",
    ),
    (
        "fedguard/commands/doctor.py",
        'for place in (pattern, f"*/{pattern}"):',
        "for place in (pattern,):",
        "tests/commands/test_doctor_and_completion.py",
    ),
    (
        "fedguard/commands/doctor.py",
        'raise typer.Exit(int(any(one.state == "missing" for one in found)))',
        "raise typer.Exit(0)",
        "tests/commands/test_doctor_and_completion.py",
    ),
    (
        "fedguard/commands/completion.py",
        'before, comma, last = typed.rpartition(",")',
        'before, comma, last = "", "", typed',
        "tests/commands/test_doctor_and_completion.py",
    ),
    (
        "fedguard/commands/leaderboard.py",
        "    if chance < LEVEL:",
        "    if False:",
        "tests/commands/test_leaderboard_command.py",
    ),
    (
        "fedguard/commands/options.py",
        '_BOUNDS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}',
        '_BOUNDS = {"gt": ">=", "ge": ">", "lt": "<", "le": "<="}',
        "tests/commands/test_options.py",
    ),
    (
        "fedguard/commands/options.py",
        "if sign in found and found[sign] < _LARGEST",
        "if sign in found",
        "tests/commands/test_options.py",
    ),
    (
        "fedguard/commands/options.py",
        "placed += [(name, RUN_PANEL) for name in fields if name not in named]",
        "placed += []",
        "tests/commands/test_options.py",
    ),
    (
        "fedguard/commands/simulate.py",
        '{**fields, "partition.alpha": alpha}',
        "{**fields}",
        "tests/commands/test_simulate.py",
    ),
    (
        "fedguard/commands/front.py",
        "        if not _out_of_memory(error):\n            raise\n",
        "",
        "tests/commands/test_front.py",
    ),
    (
        "fedguard/commands/front.py",
        "    except (RunError, OSError) as error:\n"
        '        return _complain(" ".join(str(error).split()) or type(error).__name__, 1)',
        "    except (RunError, OSError) as error:\n"
        '        return _complain(" ".join(str(error).split()) or type(error).__name__, 2)',
        "tests/commands/test_front.py",
    ),
    (
        "fedguard/commands/listing.py",
        '{*registry.names(kind), *registry.names(kind, "vertical")}',
        "{*registry.names(kind)}",
        "tests/commands/test_front.py",
    ),
    (
        "fedguard/commands/results.py",
        "return self._frames[1]",
        "return self._frames[0]",
        "tests/door/test_door.py",
    ),
    (
        "fedguard/door.py",
        "{**fields, **(settings or {})}",
        "{**(settings or {}), **fields}",
        "tests/door/test_door.py",
    ),
    (
        "fedguard/door.py",
        'if state == "done"]',
        'if state != "waiting"]',
        "tests/door/test_door.py",
    ),
]
