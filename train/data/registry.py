"""The data sets there are, by the `kind` of their configuration."""

from t2i.scenes.recogniser_data import Compositions, CompositionsConfig
from t2i.scenes.sample import Samples
from t2i.scenes.scenes import Scenes, ScenesConfig
from train.data.pictures import Pictures
from train.data.pictures_config import PicturesConfig

DataConfig = ScenesConfig | CompositionsConfig | PicturesConfig


def samples_of(config: DataConfig) -> Samples:
    """The data set that a configuration asks for."""
    if isinstance(config, CompositionsConfig):
        return Compositions(config)
    if isinstance(config, PicturesConfig):
        return Pictures(config)
    return Scenes(config)
