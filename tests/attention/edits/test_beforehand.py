"""What edits need is told before a run, and holds for other models too."""

import pytest
import torch
from diffusers import EulerDiscreteScheduler

from pipelines.text_to_image import TextToImagePipeline
from t2i.attention import (
    AttendAndExcite,
    Function,
    InjectQueriesKeys,
    Region,
    Regions,
    ShareKeysValues,
    WeightWords,
    attend,
)
from t2i.attention.edits.base.edit import Edit
from t2i.text.prompt import Prompt
from tests.attention.edits.drawn import SOURCE, TARGET, drawn
from tests.tiny import tiny_sdxl_components

EDITS = [
    (ShareKeysValues(), "fused;"),
    (InjectQueriesKeys(), "fused;"),
    (Function(torch.zeros_like), "explicit in 1 row;"),
    (WeightWords(weights={"cat": 2.0}), "fused, with a mask;"),
    (Regions([Region(words="cat", box=(0, 0, 0.5, 1))]), "fused, with a mask;"),
    (AttendAndExcite("cat"), "fused;"),
]


@pytest.fixture(scope="module")
def sdxl():
    parts = tiny_sdxl_components()
    parts["scheduler"] = EulerDiscreteScheduler.from_config(parts["scheduler"].config)
    pipe = TextToImagePipeline(**parts)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.parametrize(("edit", "kernel"), EDITS, ids=lambda one: type(one).__name__)
def test_explain_says_before_a_run_what_it_says_after(pipe, edit: Edit, kernel: str) -> None:
    with attend(pipe, prompts=[SOURCE, TARGET]) as attn:
        attn.edit(edit)
        before = attn.explain(4)
        pipe([SOURCE, TARGET], num_inference_steps=4, output_type="latent")
        after = attn.explain()
    name = type(edit).__name__
    lines = [line for line in before.splitlines() if name in line]
    assert lines
    assert all(kernel in line for line in lines)
    touched = [line.split(" ")[0] for line in lines]
    assert touched == [line.split(" ")[0] for line in after.splitlines() if name in line]


@pytest.mark.parametrize("edit", [edit for edit, _ in EDITS], ids=lambda one: type(one).__name__)
def test_sdxl_with_a_sampler_that_scales_its_latents(sdxl, edit: Edit) -> None:
    plain, edited = drawn(sdxl), drawn(sdxl, edit)
    assert torch.isfinite(edited).all()
    changed = [picture for picture in range(2) if not torch.equal(edited[picture], plain[picture])]
    assert changed == [edit.target]


def test_a_small_move_lowers_the_loss_on_sdxl(sdxl) -> None:
    losses = []

    class Noting(AttendAndExcite):
        def compute_loss_and_gradient(self, latents_BCHW, denoiser_pass, look):
            losses.append(super().compute_loss_and_gradient(latents_BCHW, denoiser_pass, look))
            return losses[-1]

        def edit_latents_before_pass(self, latents_BCHW, denoiser_pass, look):
            _, gradient_BCHW = self.compute_loss_and_gradient(latents_BCHW, denoiser_pass, look)
            step = 0.1 / gradient_BCHW.norm()
            self.compute_loss_and_gradient(latents_BCHW - step * gradient_BCHW, denoiser_pass, look)
            return latents_BCHW

    drawn(sdxl, Noting(("apple", "cat"), steps=(0, 1)), prompts=[SOURCE])
    (before, gradient), (after, _) = losses
    expected = 0.1 * gradient.norm()
    assert 0.5 * expected < before - after < 1.5 * expected


@pytest.mark.parametrize(
    "edit",
    [
        WeightWords(weights={"dog": 3.0}),
        Regions([Region(words="dog", box=(0, 0, 0.5, 1))]),
        AttendAndExcite("dog", steps=None),
    ],
    ids=lambda one: type(one).__name__,
)
def test_a_word_that_is_said_from_some_step_on_is_edited_from_then_on(pipe, edit: Edit) -> None:
    moments: list[torch.Tensor] = []

    def keep(_pipe, _step, _timestep, tensors):
        moments.append(tensors["latents"].clone())
        return tensors

    call = {"prompts": [Prompt("a red [cat:dog:0.5]")], "callback_on_step_end": keep}
    drawn(pipe, **call)
    drawn(pipe, edit, **call)
    plain, edited = moments[:4], moments[4:]
    same = [torch.equal(*pair) for pair in zip(plain, edited, strict=True)]
    assert same == [True, True, False, False]
