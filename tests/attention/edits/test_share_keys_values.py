"""ShareKeysValues and InjectQueriesKeys do what the published controllers do, fused.

N heads, Q positions, E width of a head.
"""

import pytest
import torch

from pipelines.text_to_image import TextToImagePipeline
from t2i.attention import InjectQueriesKeys, ShareKeysValues, attend
from t2i.attention.edits.base.edit import Edit
from tests.attention.edits.drawn import SOURCE, TARGET, difference, drawn
from tests.tiny import tiny_sd_components


class Borrowing:
    """An eager processor: the odd rows of self-attention take these parts from the even ones."""

    def __init__(self, parts: str) -> None:
        self.parts = parts

    def __call__(self, attn, hidden, encoder_hidden_states=None, attention_mask=None, **_):
        text = hidden if encoder_hidden_states is None else encoder_hidden_states
        projected = {"q": attn.to_q(hidden), "k": attn.to_k(text), "v": attn.to_v(text)}
        if encoder_hidden_states is None:
            for part in self.parts:
                rows = projected[part].clone()
                rows[1::2] = projected[part][0::2]  # (source, target) of either branch
                projected[part] = rows
        query, key, value = (attn.head_to_batch_dim(projected[part]) for part in "qkv")
        probs = ((query @ key.transpose(-1, -2)) * attn.scale).softmax(-1)
        return attn.to_out[0](attn.batch_to_head_dim(probs @ value))


@pytest.mark.parametrize(
    ("edit", "parts"),
    [(ShareKeysValues(steps=None), "kv"), (InjectQueriesKeys(steps=None), "qk")],
)
def test_against_an_eager_controller(edit: Edit, parts: str) -> None:
    components = tiny_sd_components()
    pipe = TextToImagePipeline(**components)
    pipe.set_progress_bar_config(disable=True)
    ours = drawn(pipe, edit)
    plain = drawn(pipe)
    for name, module in pipe.unet.named_modules():
        if name.startswith("up_blocks") and name.endswith("attn1"):
            module.set_processor(Borrowing(parts))
    theirs = drawn(pipe)
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-5)
    assert (ours[1] - plain[1]).abs().max() > 1e-3
    assert torch.equal(ours[0], plain[0]), "the source stays what it is"


@pytest.mark.parametrize("edit", [ShareKeysValues(steps=None), InjectQueriesKeys(steps=None)])
def test_a_target_that_is_the_source_stays_what_it_is(pipe, edit: Edit) -> None:
    call = {
        "prompts": (SOURCE, SOURCE),
        "generator": [torch.Generator().manual_seed(3) for _ in range(2)],
    }
    plain = drawn(pipe, **call)
    call["generator"] = [torch.Generator().manual_seed(3) for _ in range(2)]
    edited = drawn(pipe, edit, **call)
    assert torch.equal(edited, plain), difference(edited, plain)


def test_the_steps_are_those_of_the_papers() -> None:
    shared, injected = ShareKeysValues(), InjectQueriesKeys()
    assert [step for step in range(50) if shared.acts_at_step(step, 50)] == list(range(4, 50))
    assert [step for step in range(50) if injected.acts_at_step(step, 50)] == list(range(25))


def test_they_keep_to_the_self_attention_of_the_way_up_and_to_the_fused_kernel(pipe) -> None:
    with attend(pipe) as attn:
        attn.edit(ShareKeysValues(steps=(0, 4)))
        attn.edit(InjectQueriesKeys(steps=(0, 1), sites="mid_block"))
        pipe([SOURCE, TARGET], num_inference_steps=2, output_type="latent")
        lines = attn.explain().splitlines()
        report = attn.report().splitlines()
    touched = {line.split(" ")[0]: line for line in lines if "nobody" not in line}
    assert all("attn1" in name for name in touched)
    assert {name.split(".")[0] for name in touched} == {"up_blocks", "mid_block"}
    assert all("fused" in line and "explicit" not in line for line in touched.values())
    assert "2 sites x 2 steps" in report[0]
    assert "1 site x 1 step" in report[1]
