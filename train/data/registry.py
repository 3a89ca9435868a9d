"""Construction of a data set from its configuration, by `kind`."""

from t2i.scenes.recogniser_data import Compositions, CompositionsConfig
from t2i.scenes.scenes import Scenes, ScenesConfig
from t2i.scenes.training_example import ExampleDataset
from train.data.pictures import Pictures
from train.data.pictures_config import PicturesConfig

DataConfig = ScenesConfig | CompositionsConfig | PicturesConfig


def open_data_set(config: DataConfig) -> ExampleDataset:
    """Return the data set of a configuration."""
    if isinstance(config, CompositionsConfig):
        return Compositions(config)
    if isinstance(config, PicturesConfig):
        return Pictures(config)
    return Scenes(config)
