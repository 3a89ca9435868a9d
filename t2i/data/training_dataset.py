"""The interface of a data set to train on."""

from collections.abc import Sequence
from typing import Protocol

from t2i.data.training_example import TrainingExample


class TrainingDataset(Protocol):
    """Protocol of a data set whose training examples are read by index."""

    def __len__(self) -> int: ...

    def read_example(self, index: int, visit: int, /) -> TrainingExample:
        """Return training example `index` as it is read at visit number `visit` of the run, with
        that visit's crop and caption.

        Differences between visits, such as the crop, are a function of both numbers.
        """
        ...

    def group_indices_by_shape(self) -> Sequence[Sequence[int]]:
        """Return the indices of the examples grouped by picture shape; an index may repeat.

        A batch is filled from one group.
        """
        ...
