"""The data sets there are, by the `kind` of their configuration."""

from train.data.compositions import Compositions, CompositionsConfig
from train.data.sample import Samples
from train.data.scenes import Scenes, ScenesConfig

DataConfig = ScenesConfig | CompositionsConfig


def samples_of(config: DataConfig) -> Samples:
    """The data set that a configuration asks for."""
    if isinstance(config, CompositionsConfig):
        return Compositions(config)
    return Scenes(config)
