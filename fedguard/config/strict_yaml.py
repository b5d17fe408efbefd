"""YAML without its traps: yes is a word, 010 is not eight, and no key stands twice.

YAML 1.1, as PyYAML reads it, takes ``yes``, ``on`` and ``no`` for truth values, ``010`` for 8,
``1:30`` for 90, ``1_0`` for 10 and ``1e-3`` for a word. Here only what can be read in one way is
more than a word; whatever else stands there reaches the field's own check as it was written.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

Path = tuple[str | int, ...]
"""Where a value stands: keys and positions from the top."""

_MOST_MARKS = 20_000
_DEEPEST = 6
"""An alias that stands for itself, or for thousands of others, must not be walked to its end."""

_TAG = "tag:yaml.org,2002:"
_WHOLE = r"[-+]?(?:0|[1-9][0-9]*)"


@dataclass(frozen=True)
class Mark:
    """How a value was written.

    Attributes
    ----------
    text : str or None
        The characters of a single value; None of a mapping or a list.
    line : int
        Its line in the file, from 1.
    """

    text: str | None
    line: int


class KeyRefused(yaml.YAMLError):
    """A key that stands twice, or is no word; the message says which and in which line."""


class StrictLoader(yaml.SafeLoader):
    """Safe YAML in which only numbers, true, false and null are more than words."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}  # type: ignore[misc]

    def compose_mapping_node(self, anchor: Any) -> MappingNode:
        """Return the next mapping; refuse one with a key twice or a key that is no word."""
        node: MappingNode = super().compose_mapping_node(anchor)
        seen: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, ScalarNode) or key.tag not in (_TAG + "str", _TAG + "merge"):
                shown = key.value if isinstance(key, ScalarNode) else "a list or mapping"
                raise KeyRefused(f"a mapping of words to values; line {line} has key {shown}")
            if key.value in seen:
                first = seen[key.value]
                raise KeyRefused(
                    f"each key once: {key.value!r} stands in line {first} and in line {line}"
                )
            seen[key.value] = line
        return node


def _resolve(name: str, pattern: str, first: str) -> None:
    StrictLoader.add_implicit_resolver(
        _TAG + name, re.compile(rf"^(?:{pattern})$"), list(first) or [""]
    )


_resolve("bool", "true|True|TRUE|false|False|FALSE", "tTfF")
_resolve("null", "~|null|Null|NULL", "~nN")
_resolve("null", "", "")
_resolve("int", _WHOLE, "-+0123456789")
_resolve(
    "float",
    rf"{_WHOLE}(?:\.[0-9]*)?(?:[eE][-+]?[0-9]+)?|[-+]?\.[0-9]+(?:[eE][-+]?[0-9]+)?"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
    "-+0123456789.",
)
_resolve("merge", "<<", "<")


def read(text: str) -> tuple[Any, dict[Path, Mark]]:
    """Return the value of a YAML text, and how and where each part of it was written.

    Raises
    ------
    yaml.YAMLError
        If it is no YAML; `KeyRefused` if a mapping has a key twice or a key is no word.
    """
    loader = StrictLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None, {}
        value = loader.construct_document(node)
        return value, dict(islice(_marks(node, ()), _MOST_MARKS))
    finally:
        loader.dispose()


def _marks(node: Node, path: Path) -> Iterator[tuple[Path, Mark]]:
    line = node.start_mark.line + 1
    yield path, Mark(node.value if isinstance(node, ScalarNode) else None, line)
    if len(path) == _DEEPEST:
        return
    if isinstance(node, MappingNode):
        # Merged keys come first, so that a mapping's own keys win here too.
        for key, value in node.value:
            yield from _marks(value, (*path, key.value))
    elif isinstance(node, SequenceNode):
        for place, value in enumerate(node.value):
            yield from _marks(value, (*path, place))


def under(marks: Mapping[Path, Mark], *front: str | int) -> dict[Path, Mark]:
    """Return the marks below a path, with that path taken off."""
    size = len(front)
    return {path[size:]: mark for path, mark in marks.items() if path[:size] == front}
