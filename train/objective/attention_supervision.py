"""Attention supervision: a loss that draws the attention map of a word towards its mask.

Wang et al. (2024), TokenCompose, arXiv 2312.03626, Equations 5 and 6. Here the masks are given and
not guessed, a word of several tokens has the sum of their maps, and a mask at a site is the area
that it covers of each of the site's places.

B batch rows, I supervised words of a batch, K masks of a row, N heads, Q places of a site,
T text tokens, E width of a head, H W size.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from pydantic import BaseModel, ConfigDict, Field, field_validator
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy, interpolate

from t2i.attention.compute.edit_plan import EditPlan
from t2i.attention.compute.probabilities import AttentionProbabilities
from t2i.attention.compute.tap import AttentionInputs, add_leading_mask_axes
from t2i.attention.hooks.shared_hooks import installing_session_hooks
from t2i.attention.site import Site, Sites
from t2i.errors import ArgumentError

MAX_SITE_POSITIONS = 32 * 32
"""Largest number of positions of a supervised site: larger maps cost much memory."""
MIN_PROBABILITY = 1e-6
"""Smallest probability, and smallest distance from 1, in a logarithm or a quotient."""


class AttentionSupervisionConfig(BaseModel):
    """Configuration of attention supervision (weights, sites, noise levels); its keys are part of a
    target's configuration, which inherits them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    attention_weight: float = Field(0.0, ge=0)
    """Weight of attention supervision, which needs masks; 0 turns it off."""
    attention_pixel_weight: float = Field(1.0, ge=0)
    """Weight of the pixelwise cross-entropy relative to that of the share inside the mask."""
    attention_sites: str = ""
    """Pattern for the names of the supervised cross-attention sites; default: all up to 32 x 32."""
    attention_noise: tuple[float, float] = (0.0, 1.0)
    """Range of noise levels of supervised rows, sigma^2 / (alpha^2 + sigma^2), from 0 to 1."""

    @field_validator("attention_sites")
    @classmethod
    def _is_a_pattern(cls, name: str) -> str:
        try:
            Sites(name=name or None)
        except ArgumentError as error:
            raise ValueError(str(error)) from error
        return name

    @field_validator("attention_noise")
    @classmethod
    def _is_a_range(cls, noise: tuple[float, float]) -> tuple[float, float]:
        if not 0 <= noise[0] < noise[1] <= 1:
            raise ValueError(f"got {list(noise)}, expected two shares, such as [0.0, 0.8]")
        return noise


@dataclass(frozen=True, slots=True)
class SupervisedWords:
    """Words of a batch whose attention maps are supervised, with their token positions and masks.

    row_I : the batch row of each
    tokens_IT : True at the word's tokens
    masks_IHW : float32, 1 where the word's object is
    """

    row_I: Tensor
    tokens_IT: Tensor
    masks_IHW: Tensor


class AttentionSupervision:
    """Attention listener that computes the loss between attention maps of words and their masks
    in a denoiser pass, with gradients.
    """

    def __init__(
        self, config: AttentionSupervisionConfig, words: SupervisedWords, rows: int
    ) -> None:
        self.config, self.words = config, words
        self.sites = Sites(
            name=config.attention_sites or None, kind="cross", max_positions=MAX_SITE_POSITIONS
        )
        self._rows, self._passing = rows, False
        self._losses: list[Tensor] = []
        self._found: list[str] = []

    @contextmanager
    def supervising_pass(self, denoiser: nn.Module) -> Iterator[None]:
        """Collect the losses of the attention maps in the one denoiser pass made within the block.

        Raises ArgumentError if the denoiser has no matching site.
        """
        with installing_session_hooks(denoiser, self) as shared_hooks:
            self._passing = True
            shared_hooks.begin_pass(self, ())
            yield
            shared_hooks.end_pass(self)
            self._found = [str(site) for site in shared_hooks.sites.values()]
        if not self._losses:
            raise ArgumentError(
                f"target.attention_sites = {self.config.attention_sites!r} fits no cross-attention "
                f"of at most {MAX_SITE_POSITIONS} places. There are: {'; '.join(self._found)}."
            )

    def compute_losses(self) -> Tensor:
        """Return the attention supervision loss of each batch row, (B,) float32: its mean over
        attention sites and words; 0 for a row without supervised words.
        """
        loss_I = torch.stack(self._losses).mean(0)
        count_B = torch.bincount(self.words.row_I, minlength=self._rows).clamp(min=1)
        return loss_I.new_zeros(self._rows).index_add(0, self.words.row_I, loss_I) / count_B

    # for the model (t2i.attention.hooks.attention_listener)

    @property
    def num_rows(self) -> int | None:
        """Return the number of batch rows of the running denoiser pass; None between passes."""
        return self._rows if self._passing else None

    def on_model_forward_end(self) -> None:
        """Note that the denoiser pass ended: the model returned or raised."""
        self._passing = False

    def acts_at_site(self, site: Site) -> bool:
        """Return True for an attention site whose maps the supervision loss reads, so that its
        module needs a hook.
        """
        return site.size is not None and self.sites.matches(site)

    def treating_rows_as_branches(self, branches: Sequence[str]) -> AbstractContextManager[None]:
        """Return a context that changes nothing, as attention supervision has no guidance branches:
        a training pass has one branch.
        """
        return nullcontext()

    def acts_in_control_network(self, number: int) -> bool:
        """Return False: attention supervision reads the attention of the denoiser alone, not of
        controls such as ControlNets.
        """
        return False

    def check_images_of_prompt_share_keys(self, site: Site, call: AttentionInputs) -> None:
        """Accept every attention call unchecked: supervision knows no prompts to compare its
        keys with.
        """

    def add_edits_to_plan(self, site: Site, plan: EditPlan) -> None:
        """Add nothing to the edit plan: attention supervision only reads attention."""

    def get_recorded_qkv(self, site: Site) -> None:
        """Return None: attention supervision reads no recorded source."""
        return

    def on_attention(self, probabilities: AttentionProbabilities) -> None:
        """Compute the losses of the supervised words at one attention site and keep them for the
        mean.
        """
        assert probabilities.site.size is not None
        maps_IQ = compute_word_maps(probabilities.inputs, self.words)
        masks_IQ = resize_masks_to_site(self.words.masks_IHW, probabilities.site.size)
        self._losses.append(
            compute_squared_outside_mask_loss(maps_IQ, masks_IQ)
            + self.config.attention_pixel_weight * compute_mask_cross_entropy(maps_IQ, masks_IQ)
        )


def compute_word_maps(call: AttentionInputs, words: SupervisedWords) -> Tensor:
    """Compute the attention map of each supervised word, (I, Q) float32, as a mean over heads."""
    with torch.autocast(call.query.device.type, enabled=False):
        q_INQE, k_INTE = (one[words.row_I].float() for one in (call.query, call.key))
        scale = q_INQE.shape[-1] ** -0.5 if call.scale is None else call.scale
        scores_INQT = q_INQE @ k_INTE.transpose(-1, -2) * scale
        if call.mask is not None:
            mask = add_leading_mask_axes(call.mask)
            mask = mask[words.row_I] if len(mask) > 1 else mask
            if mask.dtype == torch.bool:
                scores_INQT = scores_INQT.masked_fill(~mask, -torch.inf)
            else:
                scores_INQT = scores_INQT + mask.float()
        probs_IQT = scores_INQT.softmax(dim=-1).mean(dim=1)
        return (probs_IQT * words.tokens_IT[:, None]).sum(dim=-1)


def resize_masks_to_site(masks_IHW: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize masks to an attention site: the fraction of each position that the mask covers, (I,
    Q).
    """
    return interpolate(masks_IHW[:, None], size, mode="area").flatten(1)


def compute_squared_outside_mask_loss(maps_IQ: Tensor, masks_IQ: Tensor) -> Tensor:
    """Return the loss (1 - fraction of each attention map that is inside its mask)^2, (I,);
    Equation 5.
    """
    inside_I = (maps_IQ * masks_IQ).sum(-1) / maps_IQ.sum(-1).clamp(min=MIN_PROBABILITY)
    return (1 - inside_I).pow(2)


def compute_mask_cross_entropy(maps_IQ: Tensor, masks_IQ: Tensor) -> Tensor:
    """Return the mean binary cross-entropy of map and mask over positions, (I,); Equation 6."""
    probs_IQ = maps_IQ.clamp(MIN_PROBABILITY, 1 - MIN_PROBABILITY)
    return binary_cross_entropy(probs_IQ, masks_IQ, reduction="none").mean(-1)


def select_supervised_words(
    tokens: Sequence[Sequence[tuple[int, ...]]],
    masks_BKHW: Tensor,
    wanted_B: Tensor,
    length: int,
) -> SupervisedWords | None:
    """Select the words that have a token and a mask and are in a wanted row; None if there is none.

    tokens : for each row, the token positions of its words, one word per mask
    length : T
    """
    device = masks_BKHW.device
    seen_BK = masks_BKHW.flatten(2).any(-1) & wanted_B[:, None]
    found = [
        (row, number, places)
        for row, words in enumerate(tokens)
        for number, word in enumerate(words)
        if (places := [place for place in word if place < length]) and bool(seen_BK[row, number])
    ]
    if not found:
        return None
    tokens_IT = torch.zeros(len(found), length)
    for word, (_, _, places) in enumerate(found):
        tokens_IT[word, places] = 1
    row_I = torch.tensor([row for row, _, _ in found], device=device)
    number_I = torch.tensor([number for _, number, _ in found], device=device)
    return SupervisedWords(row_I, tokens_IT.to(device), masks_BKHW[row_I, number_I].float())
