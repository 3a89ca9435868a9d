"""The data sets there are, by the `kind` of their configuration."""

from train.data.compositions import Compositions, CompositionsConfig
from train.data.pictures import Pictures, PicturesConfig
from train.data.sample import Samples
from train.data.scenes import Scenes, ScenesConfig

DataConfig = ScenesConfig | CompositionsConfig | PicturesConfig


def samples_of(config: DataConfig) -> Samples:
    """The data set that a configuration asks for."""
    if isinstance(config, CompositionsConfig):
        return Compositions(config)
    if isinstance(config, PicturesConfig):
        return Pictures(config)
    return Scenes(config)
