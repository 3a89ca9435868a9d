"""Prompts in a prompt grammar, and their weighted text at each step of a run."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple, TypeAlias, get_args

from t2i.errors import ArgumentError, suggest_choice
from t2i.text.dialects import Dialect
from t2i.text.grammar import parse_sub_prompts
from t2i.text.prompt_nodes import (
    Alternation,
    Break,
    Emphasis,
    Node,
    Nodes,
    Schedule,
    SubPrompt,
    Text,
)

WeightMode: TypeAlias = Literal["a1111", "comfy"]
"""How weights act on embeddings: `t2i/text/encoders/embedding_weights.py` has the formulas."""


class Segment(NamedTuple):
    """Stretch of prompt text with one weight."""

    text: str
    weight: float


Section: TypeAlias = tuple[Segment, ...]


@dataclass(frozen=True, slots=True)
class WeightedText:
    """Text of a prompt at one step: sections, which BREAK divides, of segments with a weight each.
    No chunk of tokens spans two sections.

    >>> Prompt("a (red:1.3) cat").texts_at_step(0, 20)[0][0].sections[0][1]
    Segment(text='red', weight=1.3)
    """

    sections: tuple[Section, ...]
    weight_mode: WeightMode = "a1111"

    @property
    def section_texts(self) -> tuple[str, ...]:
        """Plain text of each section of a prompt, divided by BREAK, without weights."""
        return tuple("".join(segment.text for segment in section) for section in self.sections)

    def copy_with_insertions(self, find: Callable[[str], Mapping[int, str]]) -> "WeightedText":
        """Return a copy with text inserted into each section, where the function `find` says: it
        maps a section's text to {character position: text to insert}.

        An insertion takes the weight of the text before it.
        """
        return replace(
            self,
            sections=tuple(insert_text_into_section(section, find) for section in self.sections),
        )


def insert_text_into_section(section: Section, find: Callable[[str], Mapping[int, str]]) -> Section:
    """Return a section with text inserted where `find` says: it maps the section's text to
    {character position: text to insert}. An insertion takes the weight of the text before it.
    """
    places = find("".join(segment.text for segment in section))
    begin, segments = 0, []
    for text, weight in section:
        inside = sorted(place for place in places if begin < place <= begin + len(text))
        bounds = [begin, *inside, begin + len(text)]
        pieces = [text[a - begin : b - begin] for a, b in itertools.pairwise(bounds)]
        more = [*(places[place] for place in inside), ""]
        joined = "".join(piece + put_in for piece, put_in in zip(pieces, more, strict=True))
        segments.append(Segment(joined, weight))
        begin += len(text)
    return tuple(segments)


ComposedPrompt: TypeAlias = tuple[tuple[WeightedText, float], ...]
"""One entry per part that AND divides, with its weight."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """Parsed prompt in the grammar of `dialect`, with its text at each step. Raises PromptError
    where it cannot be parsed.

    >>> prompt = Prompt("a [cat:dog:0.5] in (snow:1.2)")
    >>> prompt.list_change_steps(20)
    (0, 10)
    >>> prompt.texts_at_step(10, 20)[0][0].section_texts
    ('a dog in snow',)
    """

    text: str
    dialect: Dialect = "a1111"
    weights: WeightMode | None = None
    """How weights act; None: as in the dialect's own program."""
    _parts: tuple[SubPrompt, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.text, str):
            raise ArgumentError(
                f"A prompt is a string; got a {type(self.text).__name__}: {self.text!r:.80}."
            )
        if self.dialect not in get_args(Dialect):
            raise ArgumentError(
                f"Unknown dialect {self.dialect!r}. "
                f"{suggest_choice(str(self.dialect), get_args(Dialect))}"
            )
        if self.weights is not None and self.weights not in get_args(WeightMode):
            choices = get_args(WeightMode)
            raise ArgumentError(
                f"Unknown weight mode {self.weights!r}. "
                f"{suggest_choice(str(self.weights), choices)}"
            )
        object.__setattr__(self, "_parts", parse_sub_prompts(self.text, self.dialect))

    @property
    def weight_mode(self) -> WeightMode:
        """Formula by which word weights act on embeddings: "a1111" or "comfy"."""
        return self.weights or self.dialect

    @property
    def plain_text(self) -> str:
        """Text of the prompt without weights and syntax; of alternatives, the first that is not
        empty.
        """
        return " ".join(
            text for weighted, _ in self._weighted_texts(None) for text in weighted.section_texts
        )

    @property
    def plain_texts_of_all_steps(self) -> tuple[str, ...]:
        """Texts without syntax that the prompt has at any step of a run: each stretch of text that
        occurs together.
        """
        stretches: list[list[str]] = [[]]
        for part in self._parts:
            _stretches(part.nodes, stretches)
            stretches.append([])
        return tuple("".join(stretch) for stretch in stretches if stretch)

    def texts_at_step(self, step: int, steps: int) -> ComposedPrompt:
        """Return the weighted texts of the prompt to encode at `step`, counted from 0, of a run of
        `steps`: one, with its weight, for each part that AND divides.
        """
        check_num_steps(steps)
        if not 0 <= step < steps:
            raise ArgumentError(
                f"There is no step {step} in a run of {steps}: they count from 0 to {steps - 1}."
            )
        return self._weighted_texts((step, steps))

    def list_change_steps(self, steps: int) -> tuple[int, ...]:
        """Return the steps of a run at which the prompt's text changes, in order; the first is
        0.
        """
        check_num_steps(steps)
        changes, current = [0], self.texts_at_step(0, steps)
        for step in sorted(self._candidates(steps)):
            now = self.texts_at_step(step, steps)
            if now != current:
                changes.append(step)
                current = now
        return tuple(changes)

    def _weighted_texts(self, moment: tuple[int, int] | None) -> ComposedPrompt:
        """Return the weighted texts at (step, steps); for None, the first that are not empty."""
        divided = len(self._parts) > 1
        return tuple(
            (_weighted(part.nodes, moment, self.weight_mode, divided), part.weight)
            for part in self._parts
        )

    def _candidates(self, steps: int) -> set[int]:
        steps_found: set[int] = set()
        for node in _all(node for part in self._parts for node in part.nodes):
            if isinstance(node, Alternation):
                return set(range(1, steps))
            # The first step after `when`; counted from 0 it has the number of the last before.
            if isinstance(node, Schedule) and 1 <= node.compute_last_step_of_before(steps) < steps:
                steps_found.add(int(node.compute_last_step_of_before(steps)))
        return steps_found


def check_num_steps(steps: int) -> None:
    """Raise ArgumentError unless the number of sampling steps, at which a prompt's text is asked
    for, is at least one.
    """
    if steps < 1:
        raise ArgumentError(f"Got steps={steps}: a run has at least one step.")


def _all(nodes: Iterable[Node]) -> Iterator[Node]:
    for node in nodes:
        yield node
        if isinstance(node, Emphasis):
            yield from _all(node.nodes)
        elif isinstance(node, Schedule):
            yield from _all((*node.before, *node.after))
        elif isinstance(node, Alternation):
            yield from _all(node for choice in node.choices for node in choice)


def _stretches(nodes: Nodes, stretches: list[list[str]]) -> None:
    for node in nodes:
        match node:
            case Text(text):
                stretches[-1].append(text)
            case Break():
                stretches.append([])
            case Emphasis():
                _stretches(node.nodes, stretches)
            case Schedule(before=before, after=after):
                _apart((before, after), stretches)
            case Alternation(choices):
                _apart(choices, stretches)


def _apart(choices: Iterable[Nodes], stretches: list[list[str]]) -> None:
    """Collect the stretches of alternatives, which never occur together, separately."""
    for choice in choices:
        stretches.append([])
        _stretches(choice, stretches)
    stretches.append([])


def _weighted(
    nodes: Nodes, moment: tuple[int, int] | None, weight_mode: WeightMode, divided: bool
) -> WeightedText:
    sections: list[list[Segment]] = [[]]
    _append_segments(nodes, moment, 1.0, sections)
    last = len(sections) - 1
    # As in A1111, the space around BREAK and AND belongs to them.
    trimmed = [
        _trim(_merge(section), left=divided or number > 0, right=divided or number < last)
        for number, section in enumerate(sections)
    ]
    # And there a BREAK with nothing after it ends a chunk that would end anyway.
    if last and not trimmed[-1]:
        trimmed.pop()
    return WeightedText(tuple(trimmed), weight_mode)


def _append_segments(
    nodes: Sequence[Node],
    moment: tuple[int, int] | None,
    weight: float,
    sections: list[list[Segment]],
) -> None:
    for node in nodes:
        match node:
            case Text(text):
                sections[-1].append(Segment(text, weight))
            case Break() if weight == 1:
                sections.append([])
            case Break():
                # A1111 keeps a weight of -1 for it, and brackets multiply that: it is a word then.
                sections[-1].append(Segment("BREAK", -weight))
            case Emphasis():
                _append_segments(node.nodes, moment, node.compute_weight(weight), sections)
            case Schedule():
                nodes_now = (
                    node.select_nodes_at_step(*moment) if moment else node.before or node.after
                )
                _append_segments(nodes_now, moment, weight, sections)
            case Alternation(choices):
                if moment:
                    _append_segments(choices[moment[0] % len(choices)], moment, weight, sections)
                else:
                    _append_segments(next(filter(None, choices)), moment, weight, sections)


def _merge(section: Sequence[Segment]) -> Section:
    """Neighbours of one weight as one segment, and none that is empty."""
    merged: list[tuple[list[str], float]] = []
    for text, weight in section:
        if merged and merged[-1][1] == weight:
            merged[-1][0].append(text)
        else:
            merged.append(([text], weight))
    return tuple(Segment("".join(texts), weight) for texts, weight in merged)


def _trim(section: Section, *, left: bool, right: bool) -> Section:
    segments = list(section)
    while left and segments:
        text = segments[0].text.lstrip()
        if text:
            segments[0] = segments[0]._replace(text=text)
            break
        segments.pop(0)
    while right and segments:
        text = segments[-1].text.rstrip()
        if text:
            segments[-1] = segments[-1]._replace(text=text)
            break
        segments.pop()
    return tuple(segments)
