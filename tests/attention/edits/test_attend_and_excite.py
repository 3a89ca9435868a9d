"""AttendAndExcite: the loss, its gradient and whole runs as published.

B pictures, C channels, N heads, Q positions, T text tokens, H W a size.
"""

import pytest
import torch
from diffusers import StableDiffusionAttendAndExcitePipeline
from torch.nn import functional

from t2i.attention import AttendAndExcite, LocalBlend, Replace, Site, WeightWords, attend
from t2i.attention.edits.attend_and_excite import select_loss_map_size_and_sites
from t2i.errors import ArgumentError, AttentionError
from t2i.text.word_spans import find_word_token_positions
from tests.attention.edits.drawn import SOURCE, TARGET, difference, drawn
from tests.sweeps import sweep
from tests.tiny import diffusers_pipeline, tiny_sd_components

WORDS = ("apple", "cat")


def places(pipe, prompt: str = SOURCE) -> list[int]:
    found = find_word_token_positions(pipe.tokenizer, prompt, WORDS)
    return sorted(place for span in found.values() for place in span)


class Keeping:
    """An eager processor that keeps its map."""

    def __init__(self, kept: list[torch.Tensor]) -> None:
        self.kept = kept

    def __call__(self, attn, hidden, encoder_hidden_states=None, attention_mask=None, **_):
        text = hidden if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = (
            attn.head_to_batch_dim(part)
            for part in (attn.to_q(hidden), attn.to_k(text), attn.to_v(text))
        )
        probs = ((query @ key.transpose(-1, -2)) * attn.scale).softmax(-1)
        if encoder_hidden_states is not None and probs.shape[1] == 64:
            self.kept.append(probs)
        return attn.to_out[0](attn.batch_to_head_dim(probs @ value))


def by_hand(pipe, latents_BCHW: torch.Tensor, timestep: int) -> tuple[float, torch.Tensor]:
    """The published loss of the tiny model and its gradient, eagerly."""
    unet = tiny_sd_components()["unet"]
    kept: list[torch.Tensor] = []
    for name, module in unet.named_modules():
        if name.endswith(("attn1", "attn2")):
            module.set_processor(Keeping(kept))
    text_BTD = pipe.encode_prompt(SOURCE, do_classifier_free_guidance=False)[0]
    latents_BCHW = latents_BCHW.clone().requires_grad_()
    unet(latents_BCHW, timestep, encoder_hidden_states=text_BTD)
    mean_QT = torch.cat(kept).mean(0)
    seen_HWT = (mean_QT[:, 1:-1] * 100).softmax(-1).view(8, 8, -1)
    grid = torch.tensor([-1.0, 0.0, 1.0])
    kernel = torch.exp(-((grid[:, None] / (2 * 0.5)) ** 2 + (grid / (2 * 0.5)) ** 2))
    losses = []
    for place in places(pipe):
        padded = functional.pad(seen_HWT[None, None, ..., place - 1], (1,) * 4, mode="reflect")
        smooth = functional.conv2d(padded, (kernel / kernel.sum())[None, None])
        losses.append(torch.clamp(1 - smooth.max(), min=0))
    loss = torch.stack(losses).max()
    return loss.item(), torch.autograd.grad(loss, latents_BCHW)[0]


def test_loss_and_gradient_against_an_eager_implementation(pipe) -> None:
    measured = []

    class Noting(AttendAndExcite):
        def compute_loss_and_gradient(self, latents_BCHW, denoiser_pass, look):
            measured.append(
                (
                    latents_BCHW,
                    *super().compute_loss_and_gradient(latents_BCHW, denoiser_pass, look),
                )
            )
            return measured[-1][1:]

    edit = Noting(WORDS, steps=(0, 1), thresholds=())
    noise = torch.randn(1, 4, 8, 8)
    with attend(pipe) as attn:
        attn.edit(edit)
        pipe(SOURCE, num_inference_steps=4, latents=noise, output_type="latent")
    ((latents_BCHW, loss_B, gradient_BCHW),) = measured
    loss, theirs_BCHW = by_hand(pipe, latents_BCHW, int(pipe.scheduler.timesteps[0]))
    assert abs(loss_B.item() - loss) < 1e-5
    scale = theirs_BCHW.abs().max()
    assert scale > 0
    error = (gradient_BCHW - theirs_BCHW).abs().max() / scale
    assert error < 1e-4, error


@pytest.mark.parametrize("pictures", sweep([1, 2], quick=[2]))
def test_whole_runs_against_diffusers(pipe, pictures: int) -> None:
    theirs_of = StableDiffusionAttendAndExcitePipeline(
        **tiny_sd_components(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    theirs_of.set_progress_bar_config(disable=True)
    call = {
        "num_inference_steps": 8,
        "guidance_scale": 5.0,
        "num_images_per_prompt": pictures,
        "output_type": "latent",
    }
    noise = torch.randn(pictures, 4, 8, 8)
    theirs = theirs_of(
        SOURCE,
        token_indices=places(pipe),
        latents=noise.clone(),
        max_iter_to_alter=4,
        thresholds={0: 0.05, 1: 0.5, 3: 0.8},
        attn_res=(8, 8),
        **call,
    ).images
    ours = drawn(pipe, AttendAndExcite(WORDS), prompts=[SOURCE], latents=noise.clone(), **call)
    plain = drawn(pipe, prompts=[SOURCE], latents=noise.clone(), **call)
    assert (ours - theirs).abs().max() < 1e-4 * theirs.abs().max(), difference(ours, theirs)
    assert (ours - plain).abs().max() > 1e-2


def test_the_steps_of_fifty_are_the_published_ones() -> None:
    edit = AttendAndExcite("cat")
    assert [step for step in range(50) if edit.acts_at_step(step, 50)] == list(range(25))
    asked = {
        step: edit.compute_threshold(step, 50)
        for step in range(50)
        if edit.compute_threshold(step, 50)
    }
    assert asked == {0: 0.05, 10: 0.5, 20: 0.8}


def test_other_pictures_stay_what_they_are(pipe) -> None:
    plain = drawn(pipe)
    edited = drawn(pipe, AttendAndExcite(WORDS[1:], target=1))
    assert torch.equal(edited[0], plain[0])
    assert (edited[1] - plain[1]).abs().max() > 1e-3


def test_probes_hear_the_steps_own_passes_only(pipe) -> None:
    with attend(pipe) as attn:
        maps = attn.probe("cat", raw=True)
        attn.edit(AttendAndExcite(WORDS))
        pipe(SOURCE, num_inference_steps=4, output_type="latent")
        assert "2 steps" in attn.report().splitlines()[1]
    assert all(len(steps) == 4 for steps in maps.measurements.raw.values())


def test_it_goes_with_other_edits_and_sessions(pipe) -> None:
    blend = LocalBlend(words=("cat", "cat"))
    edits = (
        Replace(steps=(2, 4)),
        WeightWords(1, weights={"dog": 2.0}),
        blend,
        AttendAndExcite("dog", target=1),
    )
    together = drawn(pipe, *edits)
    assert torch.isfinite(together).all()
    assert (together - drawn(pipe, *edits[:3])).abs().max() > 1e-3
    with attend(pipe) as outer:
        maps = outer.probe("dog", prompt=1, raw=True)
        outer.edit(Replace(steps=(0.0, 0.0)))
        inner = drawn(pipe, *edits)
    assert torch.equal(inner, together), difference(inner, together)
    assert all(len(steps) == 4 for steps in maps.measurements.raw.values())


def test_nothing_is_left_behind(pipe) -> None:
    plain = drawn(pipe)
    drawn(pipe, AttendAndExcite(WORDS, target=0))
    assert torch.equal(drawn(pipe), plain)
    assert not any(parameter.grad is not None for parameter in pipe.unet.parameters())


def test_diffusers_pipelines_are_refused(components) -> None:
    with attend(diffusers_pipeline(components), prompts=[TARGET]) as attn:
        with pytest.raises(AttentionError, match="needs passes of the denoiser before each step"):
            attn.edit(AttendAndExcite("dog"))


def test_inference_mode_is_refused(pipe) -> None:
    with torch.inference_mode(), pytest.raises(AttentionError, match="needs gradients"):
        drawn(pipe, AttendAndExcite("dog", target=1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"words": ()}, r"Got words=\(\), expected words of the prompt"),
        ({"words": "cat", "scale": 0}, "Got scale=0, expected a number above 0"),
        ({"words": "cat", "thresholds": ((0.0, 2.0),)}, "expected pairs of a share of the run"),
    ],
)
def test_what_cannot_be_is_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        AttendAndExcite(**arguments)


def test_unknown_words_are_told(pipe) -> None:
    with pytest.raises(ArgumentError, match=r"'cart' is not in the prompt. Nearest: cat"):
        drawn(pipe, AttendAndExcite("cart"))


@pytest.mark.parametrize(
    ("latents", "sides", "read"),
    [
        (64, (64, 32, 16, 8), 16),
        (32, (32, 16, 8, 4), 8),  # a quarter, though 16 x 16 is there
        (16, (16, 8, 4), 16),  # as the embedded model: 4 x 4 does not separate two objects
        (16, (8, 4), 8),
    ],
)
def test_maps_of_a_quarter_are_read_unless_they_are_too_coarse(
    latents: int, sides: tuple[int, ...], read: int
) -> None:
    sites = [
        Site(f"{name}.{n}", "cross", "up", (n, n), 4, 32, (0, 32), (0, n * n))
        for n in sides
        for name in ("first", "second")
    ]
    size, chosen = select_loss_map_size_and_sites(
        dict.fromkeys(sites), torch.Size((1, 4, latents, latents))
    )
    assert size == (read, read)
    assert [site.size for site in chosen] == [(read, read)] * 2
