"""Libraries that speak when asked only."""

from collections.abc import Iterator
from contextlib import contextmanager


def quiet_libraries() -> None:
    """No bars while weights are read, and no advice on libraries that this project does without."""
    import diffusers
    import transformers

    transformers.utils.logging.set_verbosity_error()
    for library in (diffusers, transformers):
        library.utils.logging.disable_progress_bar()


@contextmanager
def quietly() -> Iterator[None]:
    """diffusers gives no advice inside; what fails is still raised."""
    from diffusers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
