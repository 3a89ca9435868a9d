"""Nodes of a parsed prompt, as `t2i.text.grammar.parse_sub_prompts` returns them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Text:
    """Node of plain text in a parsed prompt."""

    text: str


@dataclass(frozen=True, slots=True)
class Break:
    """Node of the keyword BREAK in a parsed prompt: what follows goes into a new chunk of tokens.
    Inside weighting brackets BREAK is a word.
    """


@dataclass(frozen=True, slots=True)
class Emphasis:
    """Node of a parsed prompt: text in weighting brackets, as `(x:1.3)` or `[x]`."""

    nodes: "Nodes"
    factor: float
    absolute: bool
    """The factor stands for itself, whatever is around it."""
    position: int

    def compute_weight(self, around: float) -> float:
        """Return the word weight of text inside these emphasis brackets of a prompt, given the
        weight around them.
        """
        return self.factor if self.absolute else around * self.factor


@dataclass(frozen=True, slots=True)
class Schedule:
    """Node of prompt editing in a parsed prompt, `[before:after:when]`: `before` up to and
    including step `when`, counted from 1, then `after`.
    """

    before: "Nodes"
    after: "Nodes"
    when: float
    fraction: bool
    """True if `when` is a fraction of all steps."""

    def select_nodes_at_step(self, step: int, steps: int) -> "Nodes":
        """Return the prompt nodes that prompt editing `[before:after:when]` has in effect at
        `step`, counted from 0: `before` or `after`.
        """
        return self.before if step + 1 <= self.compute_last_step_of_before(steps) else self.after

    def compute_last_step_of_before(self, steps: int) -> float:
        """Return the last step, counted from 1, at which prompt editing `[before:after:when]` has
        `before` in effect; not always an integer if `when` is a fraction of the run.
        """
        return self.when * steps if self.fraction else self.when


@dataclass(frozen=True, slots=True)
class Alternation:
    """Node of alternation in a parsed prompt, `[a|b]`: one choice per step, in turn."""

    choices: "tuple[Nodes, ...]"


Node: TypeAlias = Text | Break | Emphasis | Schedule | Alternation
Nodes: TypeAlias = tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class SubPrompt:
    """One of the sub-prompts that AND combines in a prompt: its parsed nodes and its weight."""

    nodes: Nodes
    weight: float


def join_to_string_if_all_plain_text(nodes: Sequence[Node]) -> str | None:
    """Join the text of parsed prompt nodes to one string; return None if a node is anything but
    plain text.
    """
    texts = [node.text for node in nodes if isinstance(node, Text)]
    return "".join(texts) if len(texts) == len(nodes) else None


def is_not_blank_text(node: Node) -> bool:
    """Return True unless a node of a parsed prompt is blank text."""
    return not isinstance(node, Text) or bool(node.text.strip())
