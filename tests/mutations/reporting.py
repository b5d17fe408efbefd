"""Faults in the reporting room, its readers and the metrics, each of which its tests must notice.

A mutation is (file, exact text that occurs once, what it becomes, tests that must then fail).
"""

from __future__ import annotations

MUTATIONS: list[tuple[str, str, str, str]] = [
    (
        "fedguard/reporting/leaderboard.py",
        "attacked = [cell for cell in cells if not cell.clean] or list(cells)",
        "attacked = list(cells)",
        "tests/reporting/test_leaderboard.py",
    ),
    (
        "fedguard/reporting/leaderboard.py",
        "return accuracy if success is None else min(accuracy, 1.0 - success)",
        "return accuracy",
        "tests/reporting/test_leaderboard.py",
    ),
    (
        "fedguard/reporting/leaderboard.py",
        "(mine := [r for r in ranked if r.league == league])",
        "(mine := list(ranked))",
        "tests/reporting/test_leaderboard.py",
    ),
    (
        "fedguard/reporting/live.py",
        "(console.is_terminal and not (forced and not is_screen(console.file)))",
        "console.is_terminal",
        "tests/reporting/test_opening.py",
    ),
    (
        "fedguard/reporting/opening.py",
        "liars = round(config.malicious * config.clients)",
        "liars = round(config.assumed_malicious * config.clients)",
        "tests/reporting/test_opening.py",
    ),
    (  # the sign of a headline of which less is better is lost
        "fedguard/reporting/headline.py",
        "return value if self.higher_is_better else -value",
        "return value",
        "tests/reporting/test_headline.py tests/reporting/test_compare_headlines.py",
    ),
    (  # a destroyed model counts as a perfect one
        "fedguard/reporting/headline.py",
        "return 0.0 if self.higher_is_better else math.inf",
        "return 0.0",
        "tests/reporting/test_headline.py tests/reporting/test_compare_headlines.py",
    ),
    (  # a fall of a plain number is measured in points
        "fedguard/reporting/headline.py",
        "room = FELL if self.is_share else FELL * abs(best)",
        "room = FELL",
        "tests/reporting/test_headline.py",
    ),
    (  # runs of two headlines land in one table
        "fedguard/reporting/comparison.py",
        "worlds[world, entry.headline].append(entry)",
        "worlds[world, entries[0].headline].append(entry)",
        "tests/reporting/test_compare_headlines.py",
    ),
    (  # ranks are given to the highest figure whatever it is
        "fedguard/reporting/comparison.py",
        "rows = [[self.headline.gain(values[key]) for values in by_defence] for key in blocks]",
        "rows = [[values[key] for values in by_defence] for key in blocks]",
        "tests/reporting/test_compare_headlines.py",
    ),
    (  # two lost runs differ by something that is no number
        "fedguard/reporting/comparison.py",
        "return 0.0 if first == second else first - second",
        "return first - second",
        "tests/reporting/test_compare_headlines.py",
    ),
    (  # control characters of a client's reason reach the terminal
        "fedguard/reporting/wording.py",
        'seen = "".join(letter if letter.isprintable() else "�" for letter in line)',
        "seen = line",
        "tests/reporting/test_live.py tests/reporting/test_replies.py",
    ),
    (  # a text is one letter longer than its bound
        "fedguard/reporting/wording.py",
        'seen[: limit - 1] + "…"',
        'seen[:limit] + "…"',
        "tests/reporting/test_live.py",
    ),
    (  # a reason becomes an element of the client map's hover text
        "fedguard/reporting/figures.py",
        "return html.escape(bounded(text, limit), quote=False)",
        "return bounded(text, limit)",
        "tests/reporting/test_replies.py tests/reporting/test_report.py",
    ),
    (  # a table's cell is taken for HTML
        "fedguard/reporting/tables.py",
        "f'<td class=\"{kind}\">{escape(str(cell))}</td>'",
        "f'<td class=\"{kind}\">{cell}</td>'",
        "tests/reporting/test_tables.py",
    ),
    (  # replies set aside are not told as failures
        "fedguard/reporting/replies.py",
        "return self.failed + self.set_aside",
        "return self.failed",
        "tests/reporting/test_replies.py",
    ),
    (  # the rarest reason is called the commonest
        "fedguard/reporting/replies.py",
        'named = max(told, key=lambda reason: told[reason], default="")',
        'named = min(told, key=lambda reason: told[reason], default="")',
        "tests/reporting/test_replies.py",
    ),
    (  # failures are told anew every round
        "fedguard/reporting/progress.py",
        "            self._failures_told = True\n",
        "",
        "tests/reporting/test_replies.py",
    ),
    (  # rejections are counted among the usable replies only
        "fedguard/reporting/progress.py",
        "asked = accepted + rejected if replies is None else replies.asked",
        "asked = accepted + rejected",
        "tests/reporting/test_replies.py",
    ),
    (  # the defence is said to have rejected a client that failed
        "fedguard/reporting/client_map.py",
        "FAILED: 7, SET_ASIDE: 8}",
        "SET_ASIDE: 8}",
        "tests/reporting/test_replies.py",
    ),
    (  # an outcome that a record tells is not believed
        "fedguard/records/reader.py",
        "        if outcome in OUTCOMES:\n",
        "        if outcome == REJECTED:\n",
        "tests/records/test_run_directory.py",
    ),
    (  # of a repair written twice, the earlier line wins
        "fedguard/records/reader.py",
        "newest[server_round, name] = {**line",
        "newest[server_round, name] = newest.get((server_round, name)) or {**line",
        "tests/records/test_run_directory.py tests/reporting/test_events.py",
    ),
    (  # the largest client id overflows, or is kept as text
        "fedguard/reporting/notebook.py",
        "LARGEST_ID = 2**63 - 1",
        "LARGEST_ID = 2**63",
        "tests/reporting/test_notebook.py",
    ),
    (  # a quote in a report ends the frame's attribute
        "fedguard/reporting/notebook.py",
        "escape(page, quote=True)",
        "escape(page, quote=False)",
        "tests/reporting/test_notebook.py",
    ),
    (  # the report's scripts share the notebook's origin
        "fedguard/reporting/notebook.py",
        'sandbox="allow-scripts"',
        'sandbox="allow-scripts allow-same-origin"',
        "tests/reporting/test_notebook.py",
    ),
    (  # the worst perplexity is shaded as the best
        "fedguard/reporting/comparison_maps.py",
        "return np.where(np.isinf(grid.values), 0.0, shade)",
        "return np.where(np.isinf(grid.values), 1.0, shade)",
        "tests/reporting/test_compare_headlines.py",
    ),
    (  # Holm's factors start one too low
        "fedguard/metrics/significance.py",
        "factors = np.arange(len(p), 0, -1)",
        "factors = np.arange(len(p) - 1, -1, -1)",
        "tests/metrics/test_significance.py",
    ),
    (  # the lowest value is ranked first
        "fedguard/metrics/significance.py",
        "ranks = stats.rankdata(-values, axis=1)",
        "ranks = stats.rankdata(values, axis=1)",
        "tests/metrics/test_significance.py",
    ),
    (  # the other side of the false positive rate's bound
        "fedguard/metrics/membership.py",
        "true[false <= LOW_RATE].max()",
        "true[false >= LOW_RATE].min()",
        "tests/metrics/test_membership.py",
    ),
    (  # the loss is taken for membership instead of against it
        "fedguard/metrics/membership.py",
        "return base - losses(module, x, y)",
        "return losses(module, x, y) - base",
        "tests/metrics/test_membership.py",
    ),
]
