"""Construction of a data set from its configuration, by `kind`."""

from t2i.data.training_dataset import TrainingDataset
from t2i.scenes.recogniser_data import RecogniserDataset, RecogniserDatasetConfig
from t2i.scenes.scenes import SceneDataset, SceneDatasetConfig
from train.data.pictures import Pictures
from train.data.pictures_config import PictureDatasetConfig

DataConfig = SceneDatasetConfig | RecogniserDatasetConfig | PictureDatasetConfig


def build_dataset(config: DataConfig) -> TrainingDataset:
    """Build the data set that a configuration describes: pictures, scenes or compositions."""
    if isinstance(config, RecogniserDatasetConfig):
        return RecogniserDataset(config)
    if isinstance(config, PictureDatasetConfig):
        return Pictures(config)
    return SceneDataset(config)
