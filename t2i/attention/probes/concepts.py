"""Concepts: words that a prompt does not contain, whose attention is read beside it.

N heads, Q query positions, K key positions, S tokens of concepts, D text width, E width of a head.
"""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import FluxTransformer2DModel, SD3Transformer2DModel, UNet2DConditionModel
from torch import Tensor, nn

from t2i.attention.compute.edit_plan import upcast_to_float32
from t2i.attention.compute.probabilities import (
    MAX_CHUNK_ELEMENTS,
    MIN_PROBABILITY_DIVISOR,
    AttentionProbabilities,
)
from t2i.attention.hooks.control_networks import find_site_module
from t2i.attention.hooks.encoded_prompts import pausing_token_recording
from t2i.attention.probes.concept_tokens import ConceptTokens
from t2i.attention.probes.joint_concepts import JointConcepts
from t2i.attention.prompts.prompt_tokenizers import find_denoiser, find_prompt_tokenizers
from t2i.attention.prompts.prompt_tokens import PromptTokenizer, PromptTokens
from t2i.errors import ArgumentError, AttentionError
from t2i.text.encoder_interface import TextEncoder
from t2i.text.word_pattern import build_word_pattern


@dataclass(frozen=True, slots=True)
class Concept:
    """Word to probe that the prompt need not contain: it is encoded beside the prompt, and the
    picture does not change by a bit.

    Its probability at an image position is what it would get there if its tokens stood in the
    prompt, too; each concept is read as if it were the only one.

    >>> maps = attn.probe("cat", Concept("whisker"), Concept("nose", text="a cat with a nose"))

    word : a word or phrase; its heat map has this name
    text : what is encoded, and contains the word; the word alone by default
    """

    word: str
    text: str | None = None

    def __post_init__(self) -> None:
        for name, value in (("word", self.word), ("text", self.text or self.word)):
            if not isinstance(value, str) or not value.strip():
                raise ArgumentError(
                    f"Got {name}={value!r:.80} for a Concept, expected text: "
                    'Concept("whisker", text="a cat with whiskers").'
                )

    def __str__(self) -> str:
        return self.word


@dataclass(frozen=True)
class EncodedConcepts(ConceptTokens):
    """Encoded concepts of a probe, and their attention at the sites of a UNet.

    root : the UNet
    tokens_SD : embeddings of the tokens of all concepts
    ends : where the tokens of each concept end along S
    """

    root: nn.Module
    tokens_SD: Tensor
    ends: tuple[int, ...]
    _keys: dict[str, Tensor] = field(default_factory=dict, repr=False, compare=False)
    """Name of a site -> keys (N, S, E) there, computed once a run."""

    def begin_run(self) -> None:
        """Drop the attention keys of the concepts that the last run cached; the weights may have
        changed since.
        """
        self._keys.clear()

    def compute_probabilities_and_ratios_to_max(
        self, probabilities: AttentionProbabilities, row: int
    ) -> tuple[Tensor, Tensor]:
        """Return the attention probabilities (N, S, Q) of the concepts' tokens in a batch row, and
        their ratios to the largest probability of any token at each image position.

        Biases of edits apply to the tokens of the prompt; other changes of its map do not.
        """
        site, inputs = probabilities.site, probabilities.inputs
        if site.name not in self._keys:
            module = find_site_module(self.root, site.name)
            self._keys[site.name] = compute_keys(module, self.tokens_SD, inputs.key)
        key_NSE = upcast_to_float32(self._keys[site.name])
        first, end = site.image
        queries = max(1, MAX_CHUNK_ELEMENTS // (site.heads * (site.keys + self.num_tokens)))
        parts = [
            self._compute_for_queries(probabilities, row, key_NSE, start, min(start + queries, end))
            for start in range(first, end, queries)
        ]
        words, ratios = zip(*parts, strict=True)
        return torch.cat(words, dim=-1), torch.cat(ratios, dim=-1)

    def _compute_for_queries(
        self, probabilities: AttentionProbabilities, row: int, key_NSE: Tensor, first: int, end: int
    ) -> tuple[Tensor, Tensor]:
        scores_NQK = probabilities.compute_scores(row, first, end)
        query_NQE = upcast_to_float32(probabilities.inputs.query[row, :, first:end])
        own_NQS = query_NQE @ key_NSE.transpose(-1, -2) * probabilities.scale
        most_NQ1 = torch.maximum(
            scores_NQK.amax(dim=-1, keepdim=True), own_NQS.amax(dim=-1, keepdim=True)
        )
        text_NQK, own_NQS = (scores_NQK - most_NQ1).exp(), (own_NQS - most_NQ1).exp()
        total_NQ1 = text_NQK.sum(dim=-1, keepdim=True)
        largest_NQ1 = text_NQK.amax(dim=-1, keepdim=True)
        words, ratios = [], []
        for span in self.spans:
            concept_NQS = own_NQS[..., span[0] : span[-1] + 1]
            among = torch.maximum(largest_NQ1, concept_NQS.amax(dim=-1, keepdim=True))
            words.append(concept_NQS / (total_NQ1 + concept_NQS.sum(dim=-1, keepdim=True)))
            ratios.append(concept_NQS / among.clamp(min=MIN_PROBABILITY_DIVISOR))
        return tuple(torch.cat(one, dim=-1).transpose(-1, -2) for one in (words, ratios))  # type: ignore[return-value]  # two of them


def compute_keys(module: Any, tokens_SD: Tensor, like_BNKE: Tensor) -> Tensor:
    """Return the keys (N, S, E) of text tokens at a cross-attention module of diffusers, on the
    device and in the dtype of the keys of its prompt.
    """
    text_1SD = tokens_SD[None].to(like_BNKE)
    norm = getattr(module, "norm_cross", None)
    if isinstance(norm, nn.LayerNorm):
        text_1SD = norm(text_1SD)
    width = getattr(module.to_k, "in_features", text_1SD.shape[-1])
    if width != text_1SD.shape[-1] or (norm is not None and not isinstance(norm, nn.LayerNorm)):
        raise AttentionError(
            f"The text of {type(module).__name__} is changed before its keys are computed, from "
            f"width {text_1SD.shape[-1]} to {width}: concepts cannot be read there. Choose other "
            "sites, sites=..."
        )
    key_1SX = module.to_k(text_1SD)
    key_NSE: Tensor = key_1SX[0].unflatten(-1, (like_BNKE.shape[1], -1)).transpose(0, 1)
    norm = getattr(module, "norm_k", None)
    if norm is not None:
        key_NSE = norm(key_NSE)
    return key_NSE


def encode_concepts(x: Any, concepts: Sequence[Concept]) -> EncodedConcepts | JointConcepts:
    """Encode the concepts of a probe, words that the prompt need not contain, with a pipeline's
    text encoders.

    Raises ArgumentError for a pipeline whose text reaches neither the cross-attention of a UNet nor
    the joint attention of SD3 or Flux, for a word that its text does not contain, and for one that
    the tokenizer cannot split into tokens that it knows.
    """
    found_root = find_denoiser(x)
    root: Any = getattr(found_root, "_orig_mod", found_root)
    encode = getattr(x, "encode_prompt", None)
    kind = getattr(getattr(root, "config", None), "encoder_hid_dim_type", None)
    readable = (None, "text_proj", "ip_image_proj")
    is_joint = isinstance(root, (SD3Transformer2DModel, FluxTransformer2DModel))
    is_unet = isinstance(root, UNet2DConditionModel) and kind in readable
    if encode is None or not (is_unet or is_joint):
        raise ArgumentError(
            f"Got a Concept for a {type(x).__name__}: a concept is read where a UNet attends to "
            "the text encoder's output, in pipelines of Stable Diffusion 1, 2 and XL and their "
            "relatives, or in the joint attention of Stable Diffusion 3 and Flux."
        )
    tokenizers = find_prompt_tokenizers(x, None)
    options: dict[str, Any] = {"device": x._execution_device, "num_images_per_prompt": 1}
    parameters = inspect.signature(encode).parameters
    options |= {name: None for name in ("prompt_2", "prompt_3") if name in parameters}
    if "do_classifier_free_guidance" in parameters:
        options["do_classifier_free_guidance"] = False
    found = []
    for concept in concepts:
        text = concept.text or concept.word
        for tokenizer in tokenizers:
            check_tokens_known(tokenizer, text, concept.word)
        positions = PromptTokens((text,), tokenizers).find_word_token_positions(0, concept.word)
        with torch.no_grad(), pausing_token_recording():
            text_1TD = encode(prompt=text, **options)[0]
            if kind == "text_proj":
                text_1TD = root.encoder_hid_proj(text_1TD)
        found.append(text_1TD[0, list(positions)])
    ends = tuple(torch.tensor([len(one) for one in found]).cumsum(0).tolist())
    tokens_SD = torch.cat(found)
    return JointConcepts(tokens_SD, ends) if is_joint else EncodedConcepts(root, tokens_SD, ends)


def check_tokens_known(tokenizer: PromptTokenizer, text: str, word: str) -> None:
    """Raise ArgumentError if a tokenizer reads a word as no token, or as the token of everything
    that it does not know, so that a heat map would be of nothing in particular.
    """
    own = tokenizer.tokenizer
    known: Any = own.token_window.tokenizer if isinstance(own, TextEncoder) else own
    changed = tokenizer.preprocess_prompt(text)
    ids = known(changed, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    wanted = word if tokenizer.preprocess is None else tokenizer.preprocess(word)
    spans = [match.span() for match in build_word_pattern(wanted).finditer(str(changed))]
    read = [
        id
        for id, (start, end) in zip(ids["input_ids"], ids["offset_mapping"], strict=True)
        if any(start < stop and first < end for first, stop in spans)
    ]
    if spans and (not read or known.unk_token_id in read):
        what = f"as {known.unk_token!r}, which stands for anything" if read else "as nothing"
        raise ArgumentError(
            f"Got Concept({word!r:.80}), which the {type(known).__name__} of this model cannot "
            f"split into tokens that it knows: it reads it {what}. Write the concept in words of "
            "the model's language."
        )
