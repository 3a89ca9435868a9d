"""Tokens of the encoded concepts of a probe, which lie one after the other."""


class ConceptTokens:
    """Base of the encoded concepts of a probe: the tokens of all, one after the other along S.

    ends : where the tokens of each concept end along S
    """

    __slots__ = ()

    ends: tuple[int, ...]

    @property
    def num_tokens(self) -> int:
        """Number of tokens of all concepts of a probe together."""
        return self.ends[-1]

    @property
    def spans(self) -> list[tuple[int, ...]]:
        """Positions of each concept's tokens along S, the axis of the tokens of all concepts."""
        starts = (0, *self.ends[:-1])
        return [tuple(range(*span)) for span in zip(starts, self.ends, strict=True)]
