"""How well edited pictures fit the words: whole ones the prompt, the edited place its own words.

In the score of t2i.scenes.caption_matcher, which is no CLIP score.
"""

from collections.abc import Sequence

from PIL import Image

from t2i.evaluate.editing.pairs import Pair, mention_of
from t2i.scenes.caption_matcher import Agreement
from t2i.scenes.captions import Phrase
from t2i.scenes.recognised_objects import Seen

AROUND = 1.6
"""Sides of the place that is cut out, over the larger side of the object that was there.

With it 308 of 308 objects of real scenes of two fit their own words better than their neighbour's,
in pictures of seen and of held-out combinations; greyed surroundings did in 97.7 %.
"""
Box = tuple[float, float, float, float]
"""Left, top, right, bottom, in pixels."""


def fits_of(
    agreement: Agreement, pair: Pair, source: Seen, pictures: Sequence[Image.Image]
) -> tuple[list[float], list[float | None]]:
    """Of each picture of the target its score, and that of the edited place.

    The place is that of the source's object, thus the same for all methods; None where the
    background changes, and where the source lacks the object.
    """
    whole = agreement.score(pictures, [pair.texts[1]] * len(pictures)).tolist()
    place = None if not pictures else place_of(pair, source, pictures[0].size)
    if place is None:
        return whole, [None] * len(pictures)
    cut = [cut_out(picture, place, agreement.recogniser.size) for picture in pictures]
    return whole, agreement.score(cut, [words_of(pair)] * len(cut)).tolist()


def place_of(pair: Pair, source: Seen, size: tuple[int, int]) -> Box | None:
    """A square around the source's object, a little larger than it and within the picture.

    size : of the picture, width and height
    """
    if pair.spot is None or pair.kind == "addition" or pair.names[0] not in source.objects:
        return None
    rows, columns = source.objects[pair.names[0]].mask.nonzero()
    top, bottom = int(rows.min()), int(rows.max()) + 1
    left, right = int(columns.min()), int(columns.max()) + 1
    side = min(AROUND * max(bottom - top, right - left), *size)
    begins = [
        min(max((low + high - side) / 2, 0.0), length - side)
        for (low, high), length in zip(((left, right), (top, bottom)), size, strict=True)
    ]
    return begins[0], begins[1], begins[0] + side, begins[1] + side


def words_of(pair: Pair) -> str:
    """What the target calls the object; without its size, which a part of a picture has not."""
    assert pair.spot is not None
    mention = mention_of(pair.target, pair.spot)
    return str(Phrase(mention.word, mention.colour, None))


def cut_out(picture: Image.Image, box: Box, side: int) -> Image.Image:
    return picture.convert("RGB").resize((side, side), Image.Resampling.BICUBIC, box=box)
