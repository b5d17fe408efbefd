"""What a language model answers: exact probabilities of given answers, and answers drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

_ROWS = 256

Tokens = Sequence[int]


def _padded(rows: Sequence[Tokens], pad: int, device: torch.device) -> Tensor:
    longest = max((len(row) for row in rows), default=0)
    found = torch.full((len(rows), longest), pad, dtype=torch.int64)
    for place, row in enumerate(rows):
        found[place, : len(row)] = torch.tensor(list(row), dtype=torch.int64)
    return found.to(device)


@torch.no_grad()
def answer_log_probabilities(
    module: nn.Module, prompts: Sequence[Tokens], answers: Sequence[Tokens], pad: int
) -> Tensor:
    """Return the (P, A) float64 log-probabilities of every answer after every prompt, in nats.

    Parameters
    ----------
    module : nn.Module
        Maps (B, L) int64 numbers of words to (B, L, V) logits of the next ones, each from those
        before it alone.
    prompts, answers : sequence of sequence of int
        P prompts and A answers, none of them empty.
    pad : int
        Number that fills rows up; what stands behind a word does not change it.
    """
    module.eval()
    device = next(module.parameters()).device
    pairs = [(prompt, answer) for prompt in prompts for answer in answers]
    found = []
    for start in range(0, len(pairs), _ROWS):
        part = pairs[start : start + _ROWS]
        rows = _padded([[*prompt, *answer] for prompt, answer in part], pad, device)
        logits = module(rows[:, :-1]).double().log_softmax(dim=-1)
        words = logits.gather(2, rows[:, 1:, None])[:, :, 0]
        places = torch.arange(words.shape[1], device=device)
        first = torch.tensor([len(p) - 1 for p, _ in part], device=device)[:, None]
        last = torch.tensor([len(p) + len(a) - 1 for p, a in part], device=device)[:, None]
        inside = (places >= first) & (places < last)
        found.append(torch.where(inside, words, 0.0).sum(dim=1).cpu())
    return torch.cat(found).view(len(prompts), len(answers))


def stance_probabilities(
    module: nn.Module,
    prompts: Sequence[Tokens],
    options: Mapping[str, Sequence[Tokens]],
    pad: int,
) -> Tensor:
    """Return the (P, S) probabilities of each stance after each prompt, among those given.

    ``P(s) = sum of P(a) over the answers a of s, divided by the sum over all answers``. What a
    model would say beside the answers that are given does not count. Equal shares where a model
    gives no number.
    """
    answers = [answer for part in options.values() for answer in part]
    logs = answer_log_probabilities(module, prompts, answers, pad)
    groups = torch.split(logs, [len(part) for part in options.values()], dim=1)
    mass = torch.stack([part.logsumexp(dim=1) for part in groups], dim=1)
    found = mass.softmax(dim=1)
    return torch.where(torch.isfinite(found), found, 1.0 / len(options))


@torch.no_grad()
def draw_answers(
    module: nn.Module,
    prompts: Sequence[Tokens],
    samples: int,
    rng: torch.Generator,
    *,
    temperature: float,
    longest: int,
    pad: int,
    end: int,
) -> list[list[list[int]]]:
    """Return `samples` answers to every prompt, drawn word by word.

    Parameters
    ----------
    module : nn.Module
        As in `answer_log_probabilities`.
    prompts : sequence of sequence of int
        P prompts, none of them empty.
    samples : int
        Answers to each prompt.
    rng : torch.Generator
        A stream on the CPU.
    temperature : float
        Logits are divided by it, above 0.
    longest : int
        Most words of an answer.
    pad, end : int
        Number that fills rows up, and the one that ends an answer.

    Returns
    -------
    list of list of list of int
        By prompt and sample, the answer's words without its end.
    """
    module.eval()
    device = next(module.parameters()).device
    rows = [list(prompt) for prompt in prompts for _ in range(samples)]
    open_, answers = list(range(len(rows))), [[] for _ in rows]  # type: list[int], list[list[int]]
    for _ in range(longest):
        if not open_:
            break
        chosen = _next_words(module, [rows[r] for r in open_], temperature, pad, rng, device)
        for row, word in zip(open_, chosen, strict=True):
            rows[row].append(word)
            if word != end:
                answers[row].append(word)
        open_ = [row for row, word in zip(open_, chosen, strict=True) if word != end]
    return [answers[start : start + samples] for start in range(0, len(answers), samples)]


def _next_words(
    module: nn.Module,
    rows: Sequence[Tokens],
    temperature: float,
    pad: int,
    rng: torch.Generator,
    device: torch.device,
) -> list[int]:
    found: list[int] = []
    for start in range(0, len(rows), _ROWS):
        part = rows[start : start + _ROWS]
        logits = module(_padded(part, pad, device))
        last = torch.tensor([len(row) - 1 for row in part], device=device)
        ahead = logits[torch.arange(len(part), device=device), last].double().cpu() / temperature
        shares = torch.nan_to_num(ahead, nan=0.0, posinf=700.0, neginf=-700.0).softmax(dim=1)
        found += torch.multinomial(shares, 1, generator=rng).flatten().tolist()
    return found
