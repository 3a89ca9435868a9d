"""Edits beside an inverted picture, and the papers' own loops written with a diffusers scheduler.

In float64, through the whole pipeline: text, guidance, recording, and the target drawn beside it.
"""

import copy

import pytest
import torch

from pipelines.prompt_to_prompt.prompt_edit import PromptEditPipeline
from tests.tiny import picture, tiny_sd_components

pytestmark = pytest.mark.usefixtures("poor_replays_are_expected")

SOURCE, TARGET = "a red cat", "a red dog"
STEPS, SCALE = 4, 3.0
RUN = {"num_inference_steps": STEPS, "guidance_scale": SCALE, "seed": 1}


@pytest.fixture(scope="module")
def pipe():
    made = PromptEditPipeline(**tiny_sd_components()).to(torch.float64)
    made.set_progress_bar_config(disable=True)
    return made


def largest(tensor):
    return float(tensor.abs().max())


class PublishedLoop:
    """What the published notebooks have of a model: its noise prediction and DDIM's step.

    path : latents of the recorded source, the noisiest first
    """

    def __init__(self, pipe, source):
        self.unet = pipe.unet
        self.scheduler = copy.deepcopy(pipe.scheduler)
        self.scheduler.alphas_cumprod = self.scheduler.alphas_cumprod.double()
        self.scheduler.final_alpha_cumprod = self.scheduler.final_alpha_cumprod.double()
        self.scheduler.set_timesteps(STEPS)
        self.texts = {text: pipe.encode_prompt(text)[0] for text in (SOURCE, TARGET, "")}
        self.path = [source.noise, *(source.latents_after_step(step) for step in range(STEPS))]

    @torch.no_grad()
    def noise(self, latents, timestep, prompt):
        return self.unet(latents, timestep, self.texts[prompt]).sample

    def guided(self, latents, timestep, prompt, uncond=""):
        without = self.noise(latents, timestep, uncond)
        return without + SCALE * (self.noise(latents, timestep, prompt) - without)

    def mean(self, noise, timestep, latents, eta=0.0):
        """The sampler's step without the noise that it adds."""
        zeros = torch.zeros_like(latents)
        return self.scheduler.step(
            noise, timestep, latents, eta=eta, variance_noise=zeros
        ).prev_sample


def direct(loop):
    """Ju et al. 2023: the target is drawn as DDIM does, from the noise of the inversion."""
    latents = loop.path[0]
    for timestep in loop.scheduler.timesteps:
        latents = loop.mean(loop.guided(latents, timestep, TARGET), timestep, latents)
    return latents


def negative_prompt(loop, prox=None):
    """Miyake et al. 2023, equation 7; the proximal operator of Han et al. 2023, section 3.2."""
    latents = loop.path[0]
    for timestep in loop.scheduler.timesteps:
        without = loop.noise(latents, timestep, SOURCE)
        change = loop.noise(latents, timestep, TARGET) - without
        if prox is not None:
            threshold = change.abs().quantile(0.7)
            kept = change.abs() > threshold
            change = torch.where(kept, change, 0.0)
            if prox == "l1":
                change = torch.where(kept, change - threshold * change.sign(), 0.0)
        latents = loop.mean(without + SCALE * change, timestep, latents)
    return latents


def edit_friendly(loop):
    """Huberman-Spiegelglas et al. 2023, equations 4 and 5, without the division by sigma."""
    latents = loop.path[0]
    for step, timestep in enumerate(loop.scheduler.timesteps):
        own = loop.path[step]
        noise = loop.guided(own, timestep, SOURCE)
        z = loop.path[step + 1] - loop.mean(noise, timestep, own, eta=1.0)
        noise = loop.guided(latents, timestep, TARGET)
        latents = loop.mean(noise, timestep, latents, eta=1.0) + z
    return latents


def turbo(loop, largest_norm):
    """Deutch et al. 2024: pseudo-guidance of 1.5 between the prompts, the last noise clipped."""
    latents = loop.path[0]
    for step, timestep in enumerate(loop.scheduler.timesteps):
        own = loop.path[step]
        noise = loop.noise(own, timestep, SOURCE)
        z = loop.path[step + 1] - loop.mean(noise, timestep, own, eta=1.0)
        if step == STEPS - 1:
            z = z * min(1.0, largest_norm / float(z.norm()))
        source = loop.noise(latents, timestep, SOURCE)
        noise = source + 1.5 * (loop.noise(latents, timestep, TARGET) - source)
        latents = loop.mean(noise, timestep, latents, eta=1.0) + z
    return latents


@pytest.mark.parametrize(
    ("method", "published"),
    [
        ("direct", direct),
        ("ddim:iterations=1", direct),
        ("negative-prompt", negative_prompt),
        ("negative-prompt:prox=l0", lambda loop: negative_prompt(loop, "l0")),
        ("negative-prompt:prox=l1", lambda loop: negative_prompt(loop, "l1")),
        ("edit-friendly", edit_friendly),
        ("turbo", lambda loop: turbo(loop, 15.5)),
        ("turbo:max_last_residual=0.5", lambda loop: turbo(loop, 0.5)),
    ],
)
def test_a_target_is_that_of_the_paper(pipe, method, published):
    source = pipe.invert(picture(), SOURCE, method, **RUN)
    ours = pipe(source, TARGET, edits=[], output_type="latent").images[1:]
    theirs = published(PublishedLoop(pipe, source))
    assert largest(ours - theirs) < 1e-11 * largest(theirs)
    same = pipe(source, SOURCE, edits=[], output_type="latent").images[1:]
    assert largest(ours - same) > 1e-3
