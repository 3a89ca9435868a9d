"""Growing delays between tries of what has failed."""


class Backoff:
    """Exponential backoff: delays in seconds between tries, each twice the one before it, up to the
    longest.
    """

    def __init__(self, first: float, longest: float) -> None:
        self.first, self.longest = first, longest
        self._following = first

    def next_delay(self) -> float:
        """Return the seconds to wait before the next try of an exponential backoff, and double the
        following ones up to the longest.
        """
        delay = self._following
        self._following = min(2 * delay, self.longest)
        return delay

    def reset(self) -> None:
        """Begin an exponential backoff with its first delay again, as a try has succeeded."""
        self._following = self.first
