"""What of a run can be cached, and why the rest cannot."""

from collections.abc import Iterable

from t2i.scenes.sample import Samples
from train.cache.encoders import Encoders
from train.config.run_config import RunConfig
from train.data.pictures import Pictures, Variant
from train.targets.finetune import FineTuneConfig
from train.targets.parts.learned_words import WordsPart

KINDS = ("latents", "texts")
GB = 10**9
Reasons = dict[str, str | None]
"""Each of KINDS -> why it is not cached, "" where nobody asked for it; None where it is."""


def choose(config: RunConfig, samples: Samples) -> Reasons:
    """As far as it is known before the encoders are loaded."""
    reasons: Reasons = dict.fromkeys(KINDS, "")
    if not isinstance(config.target, FineTuneConfig):
        return reasons
    for kind, wanted in (("latents", config.cache.latents), ("texts", config.cache.texts)):
        if wanted and not isinstance(samples, Pictures):
            reasons[kind] = f"{config.data.kind} are made anew at each visit"
        elif wanted:
            reasons[kind] = None
    if reasons["texts"] is None:
        assert isinstance(samples, Pictures)
        reasons["texts"] = why_no_texts(config.target, samples)
    return reasons


def why_no_texts(target: FineTuneConfig, pictures: Pictures) -> str | None:
    for number, part in enumerate(target.parts):
        if isinstance(part, WordsPart):
            return f"target.parts[{number}] trains new words"
        if part.of != "unet":
            return f"target.parts[{number}] trains the {part.of}"
    if pictures.captions() is None:
        return "shuffled captions, or ones with tags left out, are too many to list"
    return None


def why_too_large(needed: int, most_gb: float) -> str | None:
    if needed <= most_gb * GB:
        return None
    return f"they would take {needed / GB:.3g} GB, more than cache.max_gb = {most_gb:g}"


def latent_bytes(
    pictures: Pictures, encoders: Encoders, variants: Iterable[Variant] | None = None
) -> int:
    """Of some ways to show pictures, or of all."""
    if variants is None:
        variants = (one for index in range(len(pictures)) for one in pictures.variants(index))
    return sum(encoders.bytes_of_latents(pictures.bucket(one.index)) for one in variants)


def text_bytes(pictures: Pictures, encoders: Encoders) -> int:
    """Of every caption, in one window each."""
    return len((pictures.captions() or set()) | {""}) * encoders.bytes_of_a_text
