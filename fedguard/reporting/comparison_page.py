"""Writes one page about many runs: worst cases, curves, tests, maps; opens without a network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path

from fedguard.records.reader import read_run
from fedguard.records.writer import write_atomically
from fedguard.reporting import comparison_figures as figures
from fedguard.reporting import comparison_maps as maps
from fedguard.reporting.client_map import client_map_figure
from fedguard.reporting.comparison import Comparison, Group, Missing, Spread
from fedguard.reporting.comparison_fairness import fairness_table
from fedguard.reporting.headline import Headline
from fedguard.reporting.page import (
    chooser,
    figure_card,
    guarded,
    map_key,
    render_page,
    sections,
    tile,
)
from fedguard.reporting.tables import table
from fedguard.reporting.wording import MISSING, bounded, duration, figure, percent

MAX_SIDE_BY_SIDE = 4
"""Most scenarios whose curves stand side by side; more are chosen from a menu."""
MAX_CLIENT_MAPS = 16
MAX_MAP_CELLS = 200_000
"""Most cells of all client maps together: clients times rounds."""
MAX_SCENARIOS_DRAWN = 60

SUCCESS = (("attack_success_rate", "attack success"),)
DETECTION = (
    ("true_positive_rate", "malicious rejected"),
    ("false_positive_rate", "honest rejected"),
)


def write_page(path: Path, comparisons: Sequence[Comparison], missing: Sequence[Missing]) -> None:
    """Write the page of one or more comparisons.

    Parameters
    ----------
    path : Path
        The HTML file.
    comparisons : sequence of Comparison
        One for each data set, number of rounds and headline.
    missing : sequence of Missing
        Runs that could not be compared; listed at the end.
    """
    parts: list[tuple[str, str, str]] = []
    for place, comparison in enumerate(comparisons, start=1):
        own = len(comparisons) > 1
        prefix = f"{comparison.title}: " if own else ""
        for name, template, build in SECTIONS:
            title = template.format(headline=comparison.headline.words)
            heading = prefix + title if own else title[:1].upper() + title[1:]
            parts.append((f"{name}-{place}", heading, guarded(build, comparison, place)))
    parts.append(("missing", "Runs that are not in it", _missing(missing)))
    runs = sum(len(comparison.entries) for comparison in comparisons)
    title = f"Comparison of {runs} runs"
    body = _header(comparisons, missing, title) + sections(parts)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, render_page(title, title, body).encode())


def _header(comparisons: Sequence[Comparison], missing: Sequence[Missing], title: str) -> str:
    first = comparisons[0]
    best = first.standings[0]
    rivals = sum(standing.complete for standing in first.standings)
    sentence = title
    if best.complete and rivals > 1:
        sentence = (
            f"{best.defence} has the best worst case of {rivals} defences: "
            f"{first.headline.text(best.worst)} under {best.worst_scenario}"
        )
    counts = [
        ("runs", str(sum(len(c.entries) for c in comparisons)), _not_in_it(missing)),
        ("defences", str(len(first.defences)), first.title),
        ("scenarios", str(len(first.scenarios)), "attacks, shares, splits"),
        ("seeds", str(len(first.seeds)), "of each"),
    ]
    tiles = "".join(tile(label, value, note) for label, value, note in counts)
    return (
        f'<header><p class="kicker">fedguard comparison</p><h1>{escape(sentence)}</h1>'
        f'<div class="tiles">{tiles}</div></header>'
    )


def _not_in_it(missing: Sequence[Missing]) -> str:
    return f"{len(missing)} more not finished" if missing else "all finished"


# --- sections --------------------------------------------------------------------------------


def _worst(comparison: Comparison, place: int) -> str:
    standings, lead = comparison.standings, comparison.headline
    rows = [
        [
            s.defence + ("" if s.complete else f" ({s.scenarios} of {len(comparison.scenarios)})"),
            lead.text(s.worst),
            s.worst_scenario,
            lead.text(s.worst_run),
            lead.text(s.mean),
            percent(s.worst_success),
            percent(s.caught),
            percent(s.wronged),
            MISSING if s.mean_rank is None else f"{s.mean_rank:.2f}",
            duration(s.seconds),
            {True: "yes", False: "no", None: MISSING}[s.front],
        ]
        for s in standings
    ]
    head = ["defence", "worst case", "under", "worst run", "mean", "attack success, worst"]
    head += ["malicious rejected", "honest rejected", "mean rank", "time a round", "front"]
    drawing = maps.heat_map(maps.defence_grid(comparison), rule=1)
    wide = figure_card(
        drawing,
        f"{lead.title} of each defence in each scenario{_in_percent(lead)}",
        f"Mean over seeds after the last round; in front of the line, the {_end(lead)} of the row.",
    )
    return (
        '<div class="stack">'
        + _fraction_maps(comparison, place)
        + wide
        + table(head, rows, words=(0, 2))
        + "</div>"
    )


def _fraction_maps(comparison: Comparison, place: int) -> str:
    """Return worst accuracy by attacker fraction and heterogeneity, where both vary."""
    if not maps.has_fraction_grid(comparison):
        return ""
    lead = comparison.headline
    unit = " in percent" if lead.is_share else ""
    shown = [standing.defence for standing in comparison.standings][: maps.MAX_MAPS]
    cards = "".join(
        figure_card(
            maps.heat_map(maps.fraction_grid(comparison, defence), compact=True),
            bounded(defence, 60),
            f"Worst {lead.words}{unit}: {_end(lead)} mean over seeds among the attacks.",
        )
        for defence in shown
    )
    left = len(comparison.defences) - len(shown)
    more = f'<p class="caption">{left} more defences are in the table.</p>' if left > 0 else ""
    return (
        '<p class="lead">Rows: share of malicious clients. Columns: how the data are divided.</p>'
        f'<div class="grid small">{cards}</div>{more}'
    )


def _curves(comparison: Comparison, place: int) -> str:
    lead = comparison.headline
    curves = ((lead.name, lead.words),)
    course = _by_scenario(comparison, curves, lead.title, f"curves-menu-{place}")
    success = _by_scenario(comparison, SUCCESS, "Attack success", f"success-menu-{place}")
    return f'<div class="stack"><div>{course}</div><div>{success}</div></div>'


def _detection(comparison: Comparison, place: int) -> str:
    return _by_scenario(comparison, DETECTION, "Updates rejected", f"detection-menu-{place}")


def _by_scenario(
    comparison: Comparison, panels: Sequence[tuple[str, str]], title: str, name: str
) -> str:
    several = len(comparison.seeds) > 1
    caption = "Mean over seeds; the band reaches from the lowest to the highest." if several else ""
    left = len(comparison.defences) - len(figures.drawn_defences(comparison))
    if left > 0:
        caption += (
            f" The best {figures.MAX_LINES} defences by worst case; {left} more in the table."
        )
    cards = []
    for scenario in comparison.scenarios[:MAX_SCENARIOS_DRAWN]:
        drawing = figures.curves_figure(comparison, scenario, panels)
        if drawing is not None:
            card = figure_card(drawing, f"{title} under {bounded(scenario, 60)}", caption.strip())
            cards.append((scenario, card))
    if not cards:
        return ""
    if len(cards) <= MAX_SIDE_BY_SIDE:
        return '<div class="grid">' + "".join(card for _, card in cards) + "</div>"
    return chooser(f"{title} under", cards, name)


def _tests(comparison: Comparison, place: int) -> str:
    tests, lead = comparison.tests, comparison.headline
    if not tests:
        return ""
    rows = [
        [
            first,
            test.verdict,
            second,
            test.n,
            MISSING if test.n == 0 else lead.difference(test.mean_difference),
            f"{test.p:.3g}",
            f"{test.corrected:.3g}",
        ]
        for first, second, test in tests
    ]
    unit = "points" if lead.is_share else "difference"
    head = ["defence", f"{lead.words} is", "than / as", "pairs", unit, "p", "p, corrected"]
    fewest = min(test.smallest for _, _, test in tests)
    words = (
        "Pairs share scenario and seed. Wilcoxon's signed-rank test, two-sided, Holm's correction "
        f"over {len(tests)} comparison{'' if len(tests) == 1 else 's'}, level 5 %. The smallest "
        f"corrected p that so many pairs can give is {fewest:.2g}. Pairs under the same attack "
        "resemble each other, so the test is optimistic about attacks that were not tried."
    )
    return f'<p class="lead">{words}</p>{table(head, rows, words=(0, 1, 2))}{_ranks(comparison)}'


def _ranks(comparison: Comparison) -> str:
    ranking = comparison.ranking
    if ranking.w is None:
        return '<p class="caption">Too few blocks or defences to say how stable the ranking is.</p>'
    p = "" if ranking.p is None else f"; Friedman's test that all are alike: p = {ranking.p:.2g}"
    best = "; ".join(
        f"{name} {rank:.2f}"
        for rank, name in sorted(zip(ranking.mean_ranks, comparison.complete, strict=True))
    )
    words = (
        f"Ranking over {ranking.blocks} blocks of one scenario and one seed: Kendall's W = "
        f"{ranking.w:.2f} (0: no agreement, 1: the same ranking everywhere){p}. Mean ranks: {best}."
    )
    return f'<p class="caption">{escape(words)}</p>'


def _front(comparison: Comparison, place: int) -> str:
    return figure_card(
        figures.pareto_figure(comparison),
        f"Worst-case {comparison.headline.words} and cost",
        f"Filled: no other defence is at least as good in worst {comparison.headline.words}, worst "
        "attack success and seconds per round, and better in one. Up and left is better. Times of "
        "runs that shared a machine are rough.",
    )


def _maps(comparison: Comparison, place: int) -> str:
    """Return client maps to choose from: the first seed of each defence and scenario."""
    options: list[tuple[str, str]] = []
    cells = 0
    lead = comparison.headline
    ordered = sorted(comparison.groups.values(), key=lambda g: lead.gain(_mean(g)))
    for group in ordered:
        entry = group.entries[0]
        run = read_run(entry.run.path)
        cells += len(run.clients)
        if len(options) == MAX_CLIENT_MAPS or (options and cells > MAX_MAP_CELLS):
            break
        drawing = client_map_figure(run)
        if drawing is not None:
            name = f"{group.defence} under {group.scenario}, seed {entry.seed}"
            card = figure_card(
                drawing,
                "Who was rejected, who lied",
                "One row per client; one column per round. Point at a cell for the reason.",
                key=map_key(run),
            )
            options.append((f"{lead.text(_mean(group))} · {name}", card))
    label = f"Run, {_end(lead)} {lead.words} first:"
    return chooser(label, options, f"map-{place}") if options else ""


def _mean(group: Group) -> float:
    found = group.mean(group.headline.name)
    return group.headline.worst_possible if found is None else found


def _end(lead: Headline) -> str:
    """Return which end of the headline is the bad one."""
    return "lowest" if lead.higher_is_better else "highest"


def _in_percent(lead: Headline) -> str:
    return ", in percent" if lead.is_share else ""


def _numbers(comparison: Comparison, place: int) -> str:
    lead = comparison.headline
    rows = [
        [
            group.defence,
            group.scenario,
            len(group.entries),
            spread_text(group.spread(lead.name), lead),
            spread_text(group.spread("attack_success_rate")),
            spread_text(group.spread("true_positive_rate")),
            spread_text(group.spread("false_positive_rate")),
            figure(group.mean("seconds_per_round")),
        ]
        for group in comparison.groups.values()
    ]
    head = ["defence", "scenario", "seeds", lead.words, "attack success", "malicious rejected"]
    head += ["honest rejected", "seconds a round"]
    unit = "in percent" if lead.is_share else "rates in percent"
    words = f'<p class="lead">Mean ± standard deviation over seeds, {unit}.</p>'
    return words + table(head, rows, words=(0, 1))


def spread_text(spread: Spread | None, headline: Headline | None = None) -> str:
    """Return ``mean ± standard deviation``; of shares, as all but a headline are, in percent."""
    if spread is None:
        return MISSING
    lead = Headline() if headline is None else headline
    mean = lead.cell(spread.mean)
    return mean if spread.std is None else f"{mean} ± {lead.cell(spread.std)}"


def _fairness(comparison: Comparison, place: int) -> str:
    found = fairness_table(comparison)
    if found is None:
        return ""
    head, rows = found
    words = (
        '<p class="lead">On clients\' own held-out rows, of honest clients; means over scenarios '
        "and seeds, and the scenario that is worst for the minority.</p>"
    )
    return words + table(head, rows, words=(0, len(head) - 1))


def _missing(missing: Sequence[Missing]) -> str:
    if not missing:
        return ""
    return table(["run", "why"], [[one.directory, one.why] for one in missing], words=(0, 1))


SECTIONS: tuple[tuple[str, str, Callable[[Comparison, int], str]], ...] = (
    ("worst", "worst cases", _worst),
    ("curves", "round by round", _curves),
    ("detection", "detection", _detection),
    ("fairness", "fair to whom", _fairness),
    ("tests", "what the differences are worth", _tests),
    ("front", "{headline} against cost", _front),
    ("clients", "client by client", _maps),
    ("numbers", "all numbers", _numbers),
)
