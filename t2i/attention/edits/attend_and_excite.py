"""Attend-and-Excite: latents move along a gradient until every word is attended to.

B batch rows (here: images), C channels, H W a size, N heads, Q positions of a site, T text
tokens, S tokens of the words.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from t2i.attention.call import AttentionCall
from t2i.attention.compute.probabilities import AttentionProbabilities
from t2i.attention.denoiser_pass import DenoiserPass
from t2i.attention.edits.base.edit import Edit, RunPass
from t2i.attention.prompts.prompt_tokens import PromptTokens, Words, as_word_tuple
from t2i.attention.site import Site, StepWindow, is_number
from t2i.errors import ArgumentError, AttentionError
from t2i.text.encoder_interface import TextEncoder
from t2i.text.token_windows import build_token_window

Size = tuple[int, int]

MAX_SITE_POSITIONS = 48 * 48
"""Largest site whose maps are kept to choose from."""
PREFERRED_POSITIONS = 16 * 16
MIN_SIDE = 8
"""Smallest side of a quarter of the latents' size: a coarser map does not separate two objects."""
SOFTMAX_FACTOR = 100.0
"""Factor of the probabilities in the softmax over tokens."""
MAX_ITERATIONS = 20


@dataclass(frozen=True, kw_only=True)
class AttendAndExcite(Edit):
    """Edit that, before a step, moves the target's latents along a gradient until each of some
    words is attended to at some position of the image.

    Chefer et al. 2023 (Section 3, arXiv 2301.13826) as published: the cross-attention of the sites
    of a quarter of the latents' size (where there is none, or it is smaller than 8 x 8: nearest to
    16 x 16 positions), the mean over sites and heads without the first and the last token, a
    softmax over the tokens, smoothed; the loss is the largest of 1 - max over the words' tokens. A
    step costs a pass with gradients, and up to 21 more at each of the thresholds.

    words : words of the target, one or several
    scale : step size of the first step; that of the last is sqrt(0.5) times as large
    thresholds : (fraction of the run, attention that each word has to reach by then)
    """

    edits_latents = True
    needs_extra_passes = True

    words: Words = field(kw_only=False)
    target: int = 0
    steps: StepWindow = (0.0, 0.5)
    scale: float = 20.0
    thresholds: tuple[tuple[float, float], ...] = ((0.0, 0.05), (0.2, 0.5), (0.4, 0.8))

    def __post_init__(self) -> None:
        super().__post_init__()
        words = as_word_tuple(self.words) if isinstance(self.words, str | tuple | list) else ()
        if not words or not all(isinstance(word, str) for word in words):
            raise ArgumentError(
                f'Got words={self.words!r}, expected words of the prompt: ("cat", "dog").'
            )
        if not is_number(self.scale) or not 0 < self.scale < math.inf:
            raise ArgumentError(f"Got scale={self.scale!r}, expected a number above 0.")
        for pair in self.thresholds:
            listed = isinstance(pair, tuple | list) and len(pair) == 2
            if not listed or not all(is_number(one) and 0 <= one <= 1 for one in pair):
                raise ArgumentError(
                    f"Got thresholds={self.thresholds!r}, expected pairs of a share of the run and "
                    "a value to reach, both from 0 to 1: ((0.0, 0.05), (0.2, 0.5))."
                )

    def acts_at_site(self, site: Site) -> bool:
        """Return True for a small attention site with a known grid, whose maps Attend-and-Excite's
        loss may read.
        """
        known = site.size is not None and min(site.size) > 1
        small = self.sites is not None or site.num_positions <= MAX_SITE_POSITIONS
        return known and small and super().acts_at_site(site)

    def check_prompts_and_words(self, prompt_tokens: PromptTokens) -> None:
        """Raise ArgumentError if the edit names prompts, or words to excite, that the run does not
        have.
        """
        super().check_prompts_and_words(prompt_tokens)
        for word in as_word_tuple(self.words):
            prompt_tokens.find_word_token_positions(self.target, word)

    def edit_latents_before_pass(
        self, latents_BCHW: Tensor, denoiser_pass: DenoiserPass, run_pass: RunPass
    ) -> Tensor:
        """Return the latents (B, C, H, W), moved along the gradient of Attend-and-Excite's loss
        until each of the edit's words is attended to.
        """
        progress = denoiser_pass.step / max(1, denoiser_pass.num_steps - 1)
        step_size = self.scale * math.sqrt(1 - 0.5 * progress)
        target_loss = 1 - self.compute_threshold(denoiser_pass.step, denoiser_pass.num_steps)

        loss_B, gradient_BCHW = self.compute_loss_and_gradient(
            latents_BCHW, denoiser_pass, run_pass
        )
        unmet_B = loss_B > target_loss
        for _ in range(MAX_ITERATIONS):
            if not unmet_B.any():
                break
            latents_BCHW = latents_BCHW - step_size * gradient_BCHW * unmet_B[:, None, None, None]
            # As published, the threshold is checked before a move and not after it.
            unmet_B = unmet_B & (loss_B > target_loss)
            loss_B, gradient_BCHW = self.compute_loss_and_gradient(
                latents_BCHW, denoiser_pass, run_pass
            )
        return latents_BCHW - step_size * gradient_BCHW

    def compute_threshold(self, step: int, num_steps: int) -> float:
        """Return Attend-and-Excite's threshold at a step: the attention that each word must reach,
        or 0 if the step has no threshold.
        """
        due = [least for progress, least in self.thresholds if int(progress * num_steps) == step]
        return max(due, default=0.0)

    def compute_loss_and_gradient(
        self, latents_BCHW: Tensor, denoiser_pass: DenoiserPass, run_pass: RunPass
    ) -> tuple[Tensor, Tensor]:
        """Return Attend-and-Excite's loss of each image (B,), 0 for images of other prompts, and
        its gradient with respect to the latents (B, C, H, W).
        """
        if torch.is_inference_mode_enabled():
            raise AttentionError(
                "AttendAndExcite needs gradients, and torch.inference_mode() allows none: draw "
                "under torch.no_grad() or without it; the pipelines switch gradients themselves."
            )
        rows = list(denoiser_pass.cond_rows_of_prompt(self.target))
        maps: dict[Site, list[Tensor]] = {}
        tokens: list[tuple[slice, list[int]]] = []

        def on_attention(probabilities: AttentionProbabilities, call: AttentionCall) -> None:
            if self.acts_at_site(call.site):
                heads = list(range(call.site.heads)) if self.heads is None else list(self.heads)
                maps[call.site] = [
                    probabilities.compute_map_of_image_queries(row)[heads] for row in rows
                ]
                tokens[:] = [self.find_softmax_slice_and_words(call)]

        with torch.enable_grad():
            latents_BCHW = latents_BCHW.detach().clone().requires_grad_()
            run_pass(latents_BCHW, on_attention)
            if not any(words for _, words in tokens):  # the prompt of this step has none of them
                return torch.zeros(len(latents_BCHW)), torch.zeros_like(latents_BCHW)
            size, chosen = select_loss_map_size_and_sites(maps, latents_BCHW.shape)
            losses = [
                compute_map_loss(torch.cat([maps[site][row] for site in chosen]), size, *tokens[0])
                for row in range(len(rows))
            ]
            (gradient_BCHW,) = torch.autograd.grad(torch.stack(losses).sum(), latents_BCHW)

        loss_B = torch.zeros(len(latents_BCHW), device=latents_BCHW.device)
        loss_B[rows] = torch.stack(losses).detach()
        own_BCHW = torch.zeros_like(gradient_BCHW)  # an edit may have led into other rows
        own_BCHW[rows] = gradient_BCHW[rows]
        return loss_B, own_BCHW

    def find_softmax_slice_and_words(self, call: AttentionCall) -> tuple[slice, list[int]]:
        """Return the text tokens over which Attend-and-Excite takes its softmax, as a slice without
        the first and last token, and the indices of the edit's words in that slice.
        """
        text = call.prompt_tokens.tokenizers[0].tokenizer
        layout = text.token_window if isinstance(text, TextEncoder) else build_token_window(text)
        first = min(1, len(layout.prefix))
        places = {
            p
            for word in as_word_tuple(self.words)
            for p in call.prompt_tokens.find_word_token_positions(self.target, word)
        }
        return slice(first, call.text_length - 1), [place - first for place in sorted(places)]


def select_loss_map_size_and_sites(
    maps: Mapping[Site, object], latents: torch.Size
) -> tuple[Size, list[Site]]:
    """Return the map size (H, W) that Attend-and-Excite's loss reads, and the attention sites of
    that size: a quarter of the latents' size where it is at least MIN_SIDE, else the size nearest
    to 16 x 16 positions.
    """
    quarter = (math.ceil(latents[-2] / 4), math.ceil(latents[-1] / 4))

    def distance(size: Size) -> tuple[bool, float]:
        preferred = size == quarter and min(quarter) >= MIN_SIDE
        return not preferred, abs(math.log(size[0] * size[1] / PREFERRED_POSITIONS))

    nearest_size = min((site.size for site in maps if site.size is not None), key=distance)
    return nearest_size, [site for site in maps if site.size == nearest_size]


def compute_map_loss(maps_NQT: Tensor, size: Size, competing: slice, words: list[int]) -> Tensor:
    """Return Attend-and-Excite's loss of one image: 1 minus the maximum of the smoothed attention
    map of the word token that is attended to least.

    maps_NQT : maps of all heads of all sites
    """
    mean_QT = maps_NQT.mean(dim=0)[:, competing]
    words_QS = (SOFTMAX_FACTOR * mean_QT).softmax(dim=-1)[:, words]
    words_S1HW = words_QS.T.unflatten(-1, size).unsqueeze(1)
    padded_S1HW = functional.pad(words_S1HW, (1, 1, 1, 1), mode="reflect")
    smooth_S1HW = functional.conv2d(padded_S1HW, build_map_smoothing_kernel().to(padded_S1HW))
    return (1 - smooth_S1HW.amax(dim=(1, 2, 3))).clamp(min=0).max()


def build_map_smoothing_kernel() -> Tensor:
    """Return the 3 x 3 kernel that smooths attention maps, as in Attend-and-Excite's published
    code: exp(-(x / (2 * 0.5))^2) along each side, normalized; a Gaussian of sigma 0.71, not 0.5.
    """
    side = torch.tensor([math.exp(-1), 1.0, math.exp(-1)])
    kernel = side[:, None] * side
    return (kernel / kernel.sum())[None, None]
