"""`python -m train.vocabulary FOLDER`: train the embedded model's BPE vocabulary."""

import argparse
from collections.abc import Iterator
from pathlib import Path

from t2i.scenes.scenes import SceneDataset, SceneDatasetConfig
from t2i.text.bpe import save_bpe, train_bpe

VOCABULARY_SIZE = 2048
NUM_SCENES = 40_000


def iterate_random_scene_captions() -> Iterator[str]:
    """Return an iterator over captions of randomly composed scenes, on which the BPE vocabulary is
    trained.
    """
    scenes = SceneDataset(SceneDatasetConfig(vocabulary="all", seed=0))
    return (scenes.compose_layout(index).caption.text for index in range(NUM_SCENES))


def main() -> None:
    """Train the BPE vocabulary of the embedded model on captions of random scenes and write it to
    the folder that the command line names.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    save_bpe(
        *train_bpe(iterate_random_scene_captions(), VOCABULARY_SIZE), parser.parse_args().folder
    )


if __name__ == "__main__":
    main()
