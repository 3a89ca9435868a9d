"""Peak signal-to-noise ratios that say how well an inversion reproduces its picture."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class InversionPSNR:
    """Peak signal-to-noise ratios of an inverted picture against the picture itself, in dB.

    replay : of the source drawn again from its noise with its own prompt and guidance; None for a
        method that reproduces its path by construction
    autoencoder : of the picture encoded and decoded, which no method can surpass
    """

    replay: float | None
    autoencoder: float
