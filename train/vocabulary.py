"""`python -m train.vocabulary FOLDER`: train the embedded model's BPE vocabulary."""

import argparse
from collections.abc import Iterator
from pathlib import Path

from t2i.scenes.scenes import SceneDatasetConfig, Scenes
from t2i.text.bpe import save_bpe, train_bpe

VOCABULARY_SIZE = 2048
NUM_SCENES = 40_000


def iterate_random_scene_captions() -> Iterator[str]:
    """Iterate over the captions of random scenes, to train the vocabulary on."""
    scenes = Scenes(SceneDatasetConfig(vocabulary="all", seed=0))
    return (scenes.compose_layout(index).caption.text for index in range(NUM_SCENES))


def main() -> None:
    """Train the BPE vocabulary and write it to the folder on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    save_bpe(
        *train_bpe(iterate_random_scene_captions(), VOCABULARY_SIZE), parser.parse_args().folder
    )


if __name__ == "__main__":
    main()
