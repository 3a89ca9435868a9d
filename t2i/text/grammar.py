"""Parser of the prompt grammar; errors name the position in the prompt.

`docs/prompts.md` shows the grammar. Two dialects: "a1111" has all of it, "comfy" has `(x)` and
`(x:w)`, where an explicit weight replaces the weight around it instead of multiplying it.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

from t2i.errors import ArgumentError
from t2i.terminal import plural
from t2i.text.dialects import (
    MARK_PATTERNS,
    MISTYPED_WEIGHT_PATTERN,
    SPECIAL_TEXT_PATTERNS,
    STEP_PATTERN,
    Dialect,
    parse_weight_if_number,
)
from t2i.text.prompt_nodes import (
    Alternation,
    Break,
    Emphasis,
    Node,
    Nodes,
    Schedule,
    SubPrompt,
    Text,
    is_not_blank_text,
    join_to_string_if_all_plain_text,
)

MAX_PROMPT_CHARACTERS = 20_000
"""Characters; more than 32 windows of any text encoder hold."""
MAX_BRACKET_DEPTH = 32
"""Brackets in brackets."""
MAX_WEIGHT = 10.0
"""Largest weight, either way."""
BRACKET_WEIGHT = 1.1
"""What brackets without a number multiply by, or divide by."""

CLOSING_BRACKETS = {"(": ")", "[": "]"}
LITERAL_COLON_ADVICE: dict[Dialect, str] = {
    "a1111": 'the colon as "\\:"',
    "comfy": 'a weight after the colon that is meant literally, as in "(12:30:1.1)"',
}


class PromptError(ArgumentError):
    """ArgumentError for a syntax error in a prompt; `position` counts its characters from 0."""

    def __init__(self, complaint: str, prompt: str, position: int) -> None:
        self.position = position
        start = max(0, position - 40)
        excerpt = re.sub(r"\s", " ", prompt[start : position + 20])
        super().__init__(
            f"The prompt cannot be read at character {position + 1}: {complaint}\n"
            f"  {excerpt}\n  {' ' * (position - start)}^"
        )


def parse_sub_prompts(prompt: str, dialect: Dialect = "a1111") -> tuple[SubPrompt, ...]:
    """Parse a prompt into the sub-prompts that AND combines: one if it has no AND. Raises
    PromptError for a syntax error.

    >>> parse_sub_prompts("a (red:1.3) cat")[0].nodes[1].factor
    1.3
    """
    if len(prompt) > MAX_PROMPT_CHARACTERS:
        raise ArgumentError(
            f"The prompt has {plural(len(prompt), 'character')}; at most "
            f"{MAX_PROMPT_CHARACTERS:,} are read. Shorten it."
        )
    return _Parser(prompt, dialect).read()


def escape_prompt_text(text: str, dialect: Dialect = "a1111") -> str:
    """Escape the special characters of literal text, so that a prompt grammar reads the text
    unchanged, also inside brackets.

    >>> escape_prompt_text("a cat :) BREAK")
    'a cat \\\\:\\\\) \\\\BREAK'
    """
    return SPECIAL_TEXT_PATTERNS[dialect].sub(lambda match: "\\" + match[0], text)


@dataclass(slots=True)
class _Level:
    """Brackets that are still open, or the part that they are in."""

    mark: str
    position: int
    fields: list[list[Node]]
    """What the marks divide."""
    marks: list[tuple[str, int]]
    """Each ":" and "|" and its position."""


class _Parser:
    """One pass over the marks of a prompt, with the open brackets in a list."""

    def __init__(self, prompt: str, dialect: Dialect) -> None:
        self.prompt, self.dialect = prompt, dialect
        self.parts: list[SubPrompt] = []
        self.levels = [_Level("", 0, [[]], [])]

    def read(self) -> tuple[SubPrompt, ...]:
        """Parse the whole prompt."""
        end = 0
        for match in MARK_PATTERNS[self.dialect].finditer(self.prompt):
            self._text(self.prompt[end : match.start()])
            self._mark(match[0], match.start())
            end = match.end()
        self._text(self.prompt[end:])
        self._part(len(self.prompt))
        return tuple(self.parts)

    def _text(self, text: str) -> None:
        if text:
            self.levels[-1].fields[-1].append(Text(text))

    def _mark(self, mark: str, position: int) -> None:
        if mark[0] == "\\":
            self._text(mark[1:])
        elif mark in "([":
            if len(self.levels) > MAX_BRACKET_DEPTH:
                self._fail(f"brackets stand in more than {MAX_BRACKET_DEPTH} brackets.", position)
            self.levels.append(_Level(mark, position, [[]], []))
        elif mark in ")]":
            self._close(mark, position)
        elif mark == "BREAK":
            self.levels[-1].fields[-1].append(Break())
        elif mark == "AND":
            self._part(position)
        else:
            self._separate(mark, position)

    def _separate(self, mark: str, position: int) -> None:
        level = self.levels[-1]
        if mark == "|" and level.mark != "[":
            self._text(mark)
            return
        if level.marks and level.mark == "[" and level.marks[-1][0] != mark:
            self._fail(
                'one pair of brackets has both ":" and "|": put one into brackets of its own, or '
                f'write "\\{mark}" for a literal one.',
                position,
            )
        level.marks.append((mark, position))
        level.fields.append([])

    def _close(self, mark: str, position: int) -> None:
        level = self.levels[-1]
        if CLOSING_BRACKETS.get(level.mark) != mark:
            opened = (
                f'"{level.mark}" at character {level.position + 1}' if level.mark else "nothing"
            )
            self._fail(
                f'"{mark}" closes what was never opened (open is {opened}). '
                f'Write "\\{mark}" for a literal one.',
                position,
            )
        if not any(level.fields):
            self._fail(
                f'there is nothing in the brackets. Take them out, or write "\\{level.mark}" '
                f'and "\\{mark}" for literal ones.',
                level.position,
            )
        node: Node
        if level.mark == "(":
            nodes, factor = self._weighed(level)
            absolute = self.dialect == "comfy" and factor is not None
            factor = BRACKET_WEIGHT if factor is None else factor
            node = Emphasis(nodes, factor, absolute, level.position)
        elif not level.marks:
            node = Emphasis(tuple(level.fields[0]), 1 / BRACKET_WEIGHT, False, level.position)
        elif level.marks[0][0] == "|":
            node = Alternation(tuple(tuple(field) for field in level.fields))
        else:
            node = self._schedule(level)
        self.levels.pop()
        self.levels[-1].fields[-1].append(node)

    def _schedule(self, level: _Level) -> Schedule:
        position = level.marks[-1][1]
        if len(level.fields) > 3:
            self._fail(
                'brackets hold at most "from:to:when". Write "\\:" for a literal colon.',
                level.marks[2][1],
            )
        *sides, last = level.fields
        written = join_to_string_if_all_plain_text(last)
        if written is None or not STEP_PATTERN.fullmatch(written):
            self._fail(
                f"the last of [from:to:when] must be a step, as 12, or a share of the steps, as "
                f'0.5; got {describe_invalid_schedule_step(written)}. Write "\\:" for a '
                "literal colon.",
                position + 1,
            )
        when = float(written.strip())  # of more kinds of space than float takes
        if when < 0:
            self._fail(
                f"a prompt cannot change at step {written.strip()}: give 0 or more.", position
            )
        if not any(sides):
            self._fail("nothing is to change into nothing. Take it out.", level.position)
        before = tuple(sides[0]) if len(sides) == 2 else ()
        return Schedule(before, tuple(sides[-1]), when, "." in written)

    def _weighed(self, level: _Level) -> tuple[Nodes, float | None]:
        """The contents, and the weight where the last field is one; other colons are text."""
        factor = None
        count = len(level.fields)
        if count > 1:
            written, position = (
                join_to_string_if_all_plain_text(level.fields[-1]),
                level.marks[-1][1],
            )
            if level.mark and written is not None and not written.strip():
                self._fail(
                    f'a weight is missing after ":". Write {LITERAL_COLON_ADVICE[self.dialect]}.',
                    position,
                )
            factor = None if written is None else parse_weight_if_number(written, self.dialect)
            if (
                factor is None
                and written is not None
                and MISTYPED_WEIGHT_PATTERN.fullmatch(written)
            ):
                self._fail(
                    f'{written.strip()!r} is no number: write a weight as in "(cat:1.3)", or '
                    f"{LITERAL_COLON_ADVICE[self.dialect]}.",
                    position + 1,
                )
            if factor is not None:
                self._check_weight(factor, position + 1)
                count -= 1
                if count == 1 and not level.fields[0]:
                    self._fail('there is nothing before ":" to weigh.', position)
        nodes = list(level.fields[0])
        for field in level.fields[1:count]:
            nodes += [Text(":"), *field]
        return tuple(nodes), factor

    def _part(self, end: int) -> None:
        """End what stands before an AND, or before the end of the prompt."""
        level = self.levels[-1]
        at_and = end < len(self.prompt)
        if level.mark and at_and:
            self._fail(
                "AND stands in brackets, but divides whole prompts. Close them first, or write "
                '"\\AND" for the word.',
                end,
            )
        if level.mark:
            closing = CLOSING_BRACKETS[level.mark]
            self._fail(
                f'"{level.mark}" is never closed. Add "{closing}", or write "\\{level.mark}" for '
                "a literal one.",
                level.position,
            )
        nodes, weight = self._nodes_of_part(level, end, divided=at_and or bool(self.parts))
        self._check_weights(nodes, 1.0)
        self.parts.append(SubPrompt(nodes, weight))
        self.levels = [_Level("", end, [[]], [])]

    def _nodes_of_part(self, level: _Level, end: int, divided: bool) -> tuple[Nodes, float]:
        if not divided:  # without an AND, colons are text
            head, *rest = level.fields
            return (*head, *(node for field in rest for node in (Text(":"), *field))), 1.0
        nodes, weight = self._weighed(level)
        if not any(isinstance(node, Break) or is_not_blank_text(node) for node in nodes):
            self._fail('AND needs a prompt on either side. Write "\\AND" for the word.', end)
        return nodes, 1.0 if weight is None else weight

    def _check_weights(self, nodes: Sequence[Node], around: float) -> None:
        for node in nodes:
            if isinstance(node, Emphasis):
                weight = node.compute_weight(around)
                self._check_weight(weight, node.position)
                self._check_weights(node.nodes, weight)
            elif isinstance(node, Schedule):
                self._check_weights((*node.before, *node.after), around)
            elif isinstance(node, Alternation):
                self._check_weights([node for choice in node.choices for node in choice], around)

    def _check_weight(self, weight: float, position: int) -> None:
        if not abs(weight) <= MAX_WEIGHT:
            self._fail(
                f"a weight comes to {weight:.4g}; it must lie from {-MAX_WEIGHT:g} to "
                f"{MAX_WEIGHT:g}.",
                position,
            )

    def _fail(self, complaint: str, position: int) -> NoReturn:
        raise PromptError(complaint, self.prompt, position)


def describe_invalid_schedule_step(written: str | None) -> str:
    """Return a description, for an error message, of an invalid step in prompt editing
    `[from:to:when]`: the text in quotes, or "brackets" for None.
    """
    return "brackets" if written is None else repr(written.strip()[:30])
