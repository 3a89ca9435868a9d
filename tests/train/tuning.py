"""Fine-tunes of a second or two: every method, over a folder of tiny pictures made on the spot."""

from pathlib import Path
from typing import TYPE_CHECKING

from tests.tiny import WORDS
from tests.train.data.making import noise
from train.config.load_config import load_run_config
from train.config.run_config import RunConfig

if TYPE_CHECKING:
    from PIL import Image

SHAPES = ((40, 40), (44, 41), (60, 32), (64, 33), (40, 40), (32, 62), (41, 40), (60, 33), (48, 48))
"""Width and height of the pictures: three buckets, one of them smaller than a batch."""

LORA = '{method = "lora", rank = 2, modules = ["attn2.to_k", "attn2.to_v"]}'
OF_TEXT = '{method = "lora", of = "text_encoder", rank = 2, learning_rate = 5e-4}'
NEW_WORDS = (
    '{method = "words", learning_rate = 5e-3, words = '
    '[{word = "<mug>", vectors = 2, initial = "apple"}, {word = "<cup>"}]}'
)
METHODS = {
    "full": '{method = "full"}',
    "cross-attention": '{method = "full", modules = ["attn2.to_k", "attn2.to_v"]}',
    "lora": '{method = "lora", rank = 2, alpha = 1}',
    "dora": '{method = "lora", rank = 2, dora = true}',
    "loha": '{method = "loha", rank = 2}',
    "lokr": '{method = "lokr", rank = 2}',
    "words": NEW_WORDS,
    "pivotal": f"{LORA}, {OF_TEXT}, {NEW_WORDS}",
    "dreambooth": LORA,
}
OF_TWO_ENCODERS = (
    f'{LORA}, {OF_TEXT}, {{method = "lora", of = "text_encoder_2", rank = 2}}, {NEW_WORDS}'
)

RUN = """
seed = 3
[target]
kind = "finetune"
base = "{base}"
parts = [{parts}]
[data]
kind = "pictures"
size = 40
crop = "random"
flip = true
shuffle_captions = true
bucket_step = 8
seed = 5
{subsets}
[train]
steps = 9
batch_size = 4
device = "cpu"
log_every = 1
checkpoint_every = 2
[optimizer]
learning_rate = 2e-3
# Above the rounding of the gradients, which Adam would blow up to whole steps.
eps = 1e-5
[rate]
warmup = 2
decay = "cosine"
[ema]
decay = 0.9
[export]
precision = "fp32"
"""
PRIOR = """
[[data.subsets]]
folder = "{things}"
trigger = "<mug>"
[[data.subsets]]
folder = "{kind}"
prior = true
prior_weight = 0.5
caption = "apple"
"""
ALONE = """
[[data.subsets]]
folder = "{things}"
trigger = "<mug>"
"""


def pictures(folder: Path, number: int = len(SHAPES), first: int = 0) -> Path:
    """So many tiny pictures of noise, with captions of several tags beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(number):
        picture: Image.Image = noise(first + index, *SHAPES[index % len(SHAPES)])
        path = folder / f"{first + index:02}.png"
        picture.save(path)
        tags = (WORDS[index % len(WORDS)], WORDS[(index + 3) % len(WORDS)], "red apple")
        path.with_suffix(".txt").write_text(", ".join(tags))
    return folder


def write_tuning(folder: Path, base: Path, method: str, parts: str | None = None) -> Path:
    """The TOML of a run of `method`, its pictures beside it."""
    things = pictures(folder / "things")
    kind = pictures(folder / "kind", 5, first=20) if method == "dreambooth" else None
    subsets = (ALONE if kind is None else PRIOR).format(things=things, kind=kind)
    path = folder / f"{method}.toml"
    parts = METHODS[method] if parts is None else parts
    path.write_text(RUN.format(base=base, parts=parts, subsets=subsets))
    return path


def tuning(folder: Path, base: Path, method: str, *overrides: str) -> RunConfig:
    return load_run_config(write_tuning(folder, base, method), overrides)
