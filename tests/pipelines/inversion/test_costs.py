"""Denoiser rows that the inversion of a picture and an edit of it cost, on tiny models."""

import pytest
import torch

from pipelines.prompt_to_prompt.inverted_source import compute_psnr
from pipelines.prompt_to_prompt.prompt_edit import PromptEditPipeline
from t2i.attention import ShareKeysValues
from t2i.conditioning.guidance import ClassifierFree
from t2i.conditioning.guidance_interval import Interval
from t2i.evaluate.denoiser_row_counts import recording_denoiser_row_counts
from tests.sweeps import sweep
from tests.tiny import picture, tiny_sd_components

pytestmark = pytest.mark.usefixtures("poor_replays_are_expected")

SOURCE, TARGET = "a red cat", "a red dog"
RUN = {"num_inference_steps": 4, "guidance_scale": 3.0, "seed": 1}
N = RUN["num_inference_steps"]
ROWS = {
    "ddim": 4 * N + 2 * N,
    "direct": 4 * N + N + 2 * N,
    "direct:iterations=1": N + N + 2 * N,
    "negative-prompt": 4 * N + N + N,
    "null-text:inner_steps=1": 4 * N + 2 * N + 2 * N,
    "edit-friendly": 2 * N,
    "edit-friendly:skip=0.25": 2 * 3,
    "turbo": N,
    "difference": 2 * N,
    "bdia": 2 * 4 + 2 * (N - 1) + 2 * N,
}
"""Inversion, then recording, then the replay whose error is told, of those that a method makes."""


@pytest.fixture(scope="module")
def pipe():
    pipe = PromptEditPipeline(**tiny_sd_components()).to(torch.float64)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.parametrize(
    "method",
    sweep(
        ROWS,
        quick=["direct", "null-text:inner_steps=1", "edit-friendly:skip=0.25", "turbo", "bdia"],
    ),
)
def test_recording_costs_no_pass_that_the_method_has_made(pipe, method):
    with recording_denoiser_row_counts(pipe.unet) as rows:
        source = pipe.invert(picture(), SOURCE, method, **RUN)
    assert sum(rows) == ROWS[method]
    with recording_denoiser_row_counts(pipe.unet) as rows:
        pipe(source, TARGET, output_type="latent")
    assert sum(rows) == 2 * source.steps.count


def test_the_replay_of_turbo_is_that_of_its_own_prompt_drawn_again(pipe):
    """It is computed from what was cut off the last residual, without a pass."""
    source = pipe.invert(picture(), SOURCE, "turbo:max_last_residual=0.01", **RUN)
    drawn = pipe(source, SOURCE, edits=[], output_type="latent").images[1:]
    with torch.no_grad():
        replay = compute_psnr(pipe.decode_latents(drawn), source.photo_pixels)
    assert source.error.replay == pytest.approx(replay, abs=1e-6)
    assert abs(source.error.replay - source.error.autoencoder) > 1e-3


@pytest.mark.parametrize("method", ["turbo", "negative-prompt"])
def test_edits_of_every_branch_read_a_source_without_an_unconditional_row(pipe, method):
    """Its unconditional text is its own prompt, so that both rows are the same."""
    edit = ShareKeysValues(steps=None, sites=None)
    source = pipe.invert(picture(), SOURCE, method, for_edits=[edit], **RUN)
    same = pipe(source, SOURCE, edits=[edit], output_type="latent").images[1]
    plain = pipe(source, SOURCE, edits=[], output_type="latent").images[1]
    other = pipe(source, TARGET, edits=[edit], output_type="latent").images[1]
    assert float((other - plain).abs().max()) > 1e-3
    if method == "turbo":
        assert float((same - plain).abs().max()) < 1e-12


def test_null_text_leaves_steps_without_guidance_as_they_are(pipe):
    guidance = Interval(ClassifierFree(3.0), 0.0, 0.5)
    source = pipe.invert(picture(), SOURCE, "null-text:inner_steps=2", guidance=guidance, **RUN)
    embeddings = [source.uncond_embedding_at(step) for step in range(N)]
    assert not torch.equal(embeddings[0], embeddings[1])
    assert torch.equal(embeddings[2], embeddings[3])
