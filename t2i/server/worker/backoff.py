"""Growing delays between tries of what has failed."""


class Backoff:
    """Delays in seconds: each is twice the one before it, up to the longest."""

    def __init__(self, first: float, longest: float) -> None:
        self.first, self.longest = first, longest
        self._following = first

    def next_delay(self) -> float:
        """Return the delay before the next try."""
        delay = self._following
        self._following = min(2 * delay, self.longest)
        return delay

    def reset(self) -> None:
        """Begin with the first delay again, for a try has succeeded."""
        self._following = self.first
