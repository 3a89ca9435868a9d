"""`python -m train.vocabulary FOLDER`: learn the embedded model's vocabulary from the scenes."""

import argparse
from collections.abc import Iterator
from pathlib import Path

from t2i.scenes.scenes import Scenes, ScenesConfig
from t2i.text.bpe import save_bpe, train_bpe

SIZE = 2048
SCENES = 40_000


def captions() -> Iterator[str]:
    scenes = Scenes(ScenesConfig(vocabulary="all", seed=0))
    return (scenes.layout(index).caption.text for index in range(SCENES))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    save_bpe(*train_bpe(captions(), SIZE), parser.parse_args().folder)


if __name__ == "__main__":
    main()
