"""Construction of a data set from its configuration, by `kind`."""

from t2i.data.training_dataset import TrainingDataset
from t2i.scenes.recogniser_data import Compositions, CompositionsConfig
from t2i.scenes.scenes import Scenes, ScenesConfig
from train.data.pictures import Pictures
from train.data.pictures_config import PicturesConfig

DataConfig = ScenesConfig | CompositionsConfig | PicturesConfig


def build_dataset(config: DataConfig) -> TrainingDataset:
    """Build the data set that a configuration describes: pictures, scenes or compositions."""
    if isinstance(config, CompositionsConfig):
        return Compositions(config)
    if isinstance(config, PicturesConfig):
        return Pictures(config)
    return Scenes(config)
