"""Registration of pipelines with diffusers' AutoPipelines, made when those look at a pipeline.

Their module imports every pipeline of diffusers, a seventh of the processor time until a model is
loaded, so that it is left to whoever uses them.
"""

import sys
from collections.abc import Callable
from typing import Any, ClassVar

from diffusers.configuration_utils import ConfigMixin

AUTO_PIPELINES_MODULE = "diffusers.pipelines.auto_pipeline"


class AutoRegistrationMixin(ConfigMixin):
    """Pipeline that is registered before an AutoPipeline looks its class up.

    `AutoPipelineFor...from_pipe` reads the pipeline's config first, and has imported its module.
    """

    register_with_auto_pipelines: ClassVar[Callable[[], None] | None] = None
    """Set by pipelines.auto_pipelines, which knows all classes to register."""

    @property
    def config(self) -> Any:
        """Config of the pipeline, as diffusers keeps it."""
        register = AutoRegistrationMixin.register_with_auto_pipelines
        if register is not None and AUTO_PIPELINES_MODULE in sys.modules:
            register()
        return super().config
