"""Faults in what a run keeps, where it starts and ends, and whom it serves; and who notices."""

from __future__ import annotations

_BEST = "tests/runs/test_best_and_early_end.py"
_LONGER = "tests/runs/test_longer_runs.py"
_WARM = "tests/runs/test_warm_start.py"
_FAIR = "tests/metrics/test_fairness.py"
_CLIENTS = "tests/runs/test_client_evaluation.py"
_NAMES = "tests/attacks/test_classes_by_name.py"
_BYTES = "tests/data/test_byte_images.py"
_SHOWN = "tests/reporting/test_fair_and_best.py"
_FILES = "tests/field/test_table_files.py"

MUTATIONS: list[tuple[str, str, str, str]] = [
    # The best model and the early end.
    (
        "fedguard/runs/course.py",
        "        return value > than if self.judge.higher_is_better else value < than",
        "        return value >= than if self.judge.higher_is_better else value <= than",
        _BEST,
    ),
    (
        "fedguard/runs/course.py",
        "        waited = self.last - (self.round or 0)",
        "        waited = self.last - (self.round or 1)",
        _BEST,
    ),
    (
        "fedguard/runs/course.py",
        "        if self.judge is None or current < 1 or value is None:",
        "        if self.judge is None or current < 0 or value is None:",
        _BEST,
    ),
    (
        "fedguard/runs/course.py",
        "        elif self.kept() != self.round:",
        "        elif self.kept() is not None:",
        _BEST,
    ),
    (
        "fedguard/runs/execution.py",
        "        if self.course.stalled and current < self.config.rounds:",
        "        if self.course.stalled and current > self.config.rounds:",
        _BEST,
    ),
    (
        "fedguard/runs/execution.py",
        "            if self.rounds_done < self.config.rounds and not self.course.stalled:",
        "            if self.rounds_done < self.config.rounds:",
        _BEST,
    ),
    (
        "fedguard/runs/judging.py",
        "        found = self._on_server_rows(module) if self.rows else on_test",
        "        found = on_test",
        _BEST,
    ),
    (
        "fedguard/runs/judging.py",
        "            higher_is_better=False if by_attack else task.higher_is_better,",
        "            higher_is_better=task.higher_is_better,",
        _BEST,
    ),
    (
        "fedguard/runs/length.py",
        "        if config.patience is not None and type(audit).due is Audit.due:",
        "        if config.patience is None and type(audit).due is Audit.due:",
        _BEST,
    ),
    # More rounds.
    (
        "fedguard/runs/length.py",
        "            rule.settings_for(settings, {}, number, planned)",
        "            rule.settings_for(settings, {}, number, rounds)",
        _LONGER,
    ),
    (
        "fedguard/runs/length.py",
        "        if rule.spans or changed:",
        "        if changed:",
        _LONGER,
    ),
    (
        "fedguard/runs/length.py",
        "        if any(times.due(n, planned) != times.due(n, config.rounds) for n in numbers):",
        "        if any(times.due(n, planned) and config.rounds == n for n in numbers):",
        _LONGER,
    ),
    (
        "fedguard/records/directory.py",
        "        if field not in PLACE | LENGTH and not measured",
        "        if field not in PLACE and not measured",
        _LONGER,
    ),
    (
        "fedguard/runs/course.py",
        "    if config.rounds < done:",
        "    if config.rounds < done - 1:",
        _LONGER,
    ),
    # Warm start.
    (
        "fedguard/models/start.py",
        "    if extra is not None:",
        "    if extra is None and tensors == {}:",
        _WARM,
    ),
    (
        "fedguard/models/start.py",
        "torch.isfinite(found.to(own.dtype)).all()",
        "torch.isfinite(found).all()",
        _WARM,
    ),
    (
        "fedguard/models/start.py",
        "        if str(one) != other:",
        "        if str(one) not in class_names:",
        _WARM,
    ),
    (
        "fedguard/runs/horizontal.py",
        '"seed": self.config.seed + 1 + number, "start_from": None}',
        '"seed": self.config.seed + 1 + number}',
        _WARM,
    ),
    # Clients and groups.
    (
        "fedguard/metrics/fairness.py",
        "    tenth = ordered[: math.ceil(len(ordered) / 10)]",
        "    tenth = ordered[: max(len(ordered) // 10, 1)]",
        _FAIR,
    ),
    (
        "fedguard/metrics/fairness.py",
        "    ordered = sorted(known.values(), reverse=not higher_is_better)",
        "    ordered = sorted(known.values())",
        _FAIR,
    ),
    (
        "fedguard/metrics/fairness.py",
        "    worst = 0.0 if higher_is_better else math.inf",
        "    worst = 0.0",
        _FAIR,
    ),
    (
        "fedguard/clients/federation.py",
        "        order = order[torch.argsort(strata[rows[order]], stable=True)]",
        "        order = order[torch.argsort(strata[rows], stable=True)]",
        _CLIENTS,
    ),
    (
        "fedguard/clients/federation.py",
        "        training.append(rows[~chosen])",
        "        training.append(rows)",
        _CLIENTS,
    ),
    (
        "fedguard/clients/federation.py",
        '        stream = generator(seed, 0, client, "client evaluation")',
        '        stream = generator(seed, 0, SERVER, "client evaluation")',
        _CLIENTS,
    ),
    (
        "fedguard/runs/client_evaluation.py",
        '            honest = line["malicious"] is False',
        "            honest = True",
        _CLIENTS,
    ),
    (
        "fedguard/runs/client_evaluation.py",
        "            {client: values[client] for client in self.honest if client in values},",
        "            dict(values),",
        _CLIENTS,
    ),
    (
        "fedguard/tasks/classification.py",
        "        if own or self.headline != Classification.headline:",
        "        if own and self.headline == Classification.headline:",
        _CLIENTS,
    ),
    # Classes by name, images in bytes.
    (
        "fedguard/data/class_names.py",
        "    if str(value) in names and names.index(str(value)) != value:",
        "    if str(value) in names and value >= len(names):",
        _NAMES,
    ),
    (
        "fedguard/config/settling.py",
        "        return value if whole else _text(path, value, marks, optional=False)",
        "        return value",
        _NAMES,
    ),
    (
        "fedguard/data/byte_images.py",
        '        if levels[name] == "bytes" or dark:',
        '        if levels[name] == "bytes":',
        _BYTES,
    ),
    (
        "fedguard/data/byte_images.py",
        "    if max((*map(abs, mean), *std)) > 1.0:",
        "    if max(std) > 1000.0:",
        _BYTES,
    ),
    (
        "fedguard/data/table_files.py",
        '_READERS = {".xlsx": "openpyxl", ".xls": "xlrd"}',
        '_READERS = {".xlsx": "openpyxl"}',
        _FILES,
    ),
    # What is shown.
    (
        "fedguard/reporting/chosen_model.py",
        'if best.get("held_out") is True else FLATTERING',
        'if best.get("held_out") is not None else FLATTERING',
        _SHOWN,
    ),
    (
        "fedguard/reporting/comparison_fairness.py",
        "    return min(told, key=lambda item: comparison.headline.gain(item[0]))",
        "    return max(told, key=lambda item: comparison.headline.gain(item[0]))",
        _SHOWN,
    ),
    (
        "fedguard/records/reader.py",
        "        if server_round > last:",
        "        if server_round > last + 1000:",
        _SHOWN,
    ),
    # No oracle.
    (
        "fedguard/grids/veil.py",
        'handle = stream_seed(self.seed, 0, client, "node handle")',
        "handle = client",
        "tests/runs/test_no_oracle.py",
    ),
    (
        "fedguard/grids/veil.py",
        "return replace(of, reasons=self.keys(of.reasons))",
        "return of",
        "tests/runs/test_no_oracle.py",
    ),
    (
        "fedguard/assembly/strategy.py",
        '"seed": seed_for(config.seed, "strategy"),',
        '"seed": config.seed,',
        "tests/runs/test_no_oracle.py",
    ),
    (
        "fedguard/vertical/parts.py",
        '"seed": seed_for(config.seed, "strategy")',
        '"seed": config.seed',
        "tests/runs/test_no_oracle.py",
    ),
]
