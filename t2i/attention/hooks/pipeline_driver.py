"""Driver of a session on one of this library's pipelines: a step callback of the sampling loop.

B batch rows (here: images), C channels, H W latent size, T text tokens.
"""

from contextlib import ExitStack
from dataclasses import replace

from torch import Tensor

from t2i.attention.denoiser_pass import build_denoiser_pass
from t2i.attention.hooks.driven_session import DrivenSession
from t2i.conditioning.run_state import PipelineWithStepCallbacks, RunState


class PipelineSessionDriver:
    """Driver of an attention session for this library's pipelines: a step callback that tells the
    session of each pass, and lets it replace the latents.
    """

    def __init__(self, session: DrivenSession, pipeline: PipelineWithStepCallbacks) -> None:
        self.session, self.pipeline = session, pipeline

    def attach_within_exit_stack(self, stack: ExitStack) -> None:
        """Register the driver as a step callback of the pipeline until the stack is closed."""
        self.pipeline.step_callbacks.append(self)
        stack.callback(self.pipeline.step_callbacks.remove, self)

    def before_pass(self, run: RunState) -> None:
        """Announce this step's pass to the session, and replace the latents by those that it
        returns.
        """
        prompts = run.conditioning.prompts
        branches = run.guidance.branches(run)
        images = len(run.latents_BCHW)
        num_prompts, step, num_steps = max(1, len(prompts)), run.step, run.num_steps
        every = build_denoiser_pass(images * len(branches), branches, num_prompts, step, num_steps)
        every = replace(every, skipped_calls=run.skipped_calls)
        height, width = run.latents_BCHW.shape[-2:]
        input_shapes = ((height, width), run.conditioning.text_BTD.shape[1])
        self.session.begin_pass(every, prompts, input_shapes, (height, width))

        def run_cond_pass(latents_BCHW: Tensor) -> object:
            assert run.denoise is not None
            return run.denoise(latents_BCHW, run.conditioning.select_branches(("cond",)))

        cond = build_denoiser_pass(images, ("cond",), num_prompts, step, num_steps)
        run.latents_BCHW = self.session.edit_latents_before_pass(
            run.latents_BCHW, cond, run_cond_pass
        )

    def after_step(self, run: RunState) -> None:
        """Announce the end of the pass, and replace the latents by those that the session
        returns.
        """
        self.session.end_pass()
        run.latents_BCHW = self.session.edit_latents_after_step(run.latents_BCHW)
