"""Write the fine-tuning configs of configs/train: `python -m tests.train.regenerate_configs`."""

from pathlib import Path

from train.starter_config.options import TRAINING_METHODS, StarterConfigOptions
from train.starter_config.picture_folder import PictureFolderStats
from train.starter_config.starter_config import build_starter_config_text
from train.starter_config.template_values import CONTROL_METHODS

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "train"
FOLDER = "my-pictures"
HEAD = """\
# {time} on two cores with the embedded model. Brackets above a value give the values for
# other base models. This command writes the file with the values for your base model and pictures:
# t2i train --init {method} FOLDER --base MODEL
"""
A_FEW = PictureFolderStats(pictures=8, broken=0, side=128, sizes=("128x128",), captioned=0)
MANY = PictureFolderStats(
    pictures=200,
    broken=0,
    side=128,
    sizes=("128x128",),
    captioned=200,
    captions=("a red cup on a blue background", "a green cup", "a cup next to a book"),
)


def shipped(method: str) -> str:
    """The text of a method's config: things of a class, or captioned pictures in number."""
    time = "An hour or two" if method in CONTROL_METHODS else "A few minutes"
    head = HEAD.format(method=method, time=time)
    of_many = method in ("full", "cross-attention", *CONTROL_METHODS)
    wish = StarterConfigOptions(method, CONFIGS / FOLDER, kind=None if of_many else "cup")
    seen = MANY if of_many else A_FEW
    return build_starter_config_text(wish, seen, CONFIGS, head, hints=True)


if __name__ == "__main__":
    for method in TRAINING_METHODS:
        (CONFIGS / f"{method}.toml").write_text(shipped(method), "utf-8")
