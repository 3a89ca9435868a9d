"""Text and embeddings of each guidance branch at each step of a call.

B batch rows (here: prompts), T text tokens, D text width.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch

from pipelines.run import argument_checks
from pipelines.run.call_arguments import CallArguments, Prompts
from pipelines.run.exclusive_access import has_loras, holding_locks
from pipelines.text.text_lora_scale import scaling_text_loras
from t2i.conditioning.composed_guidance import Composed
from t2i.conditioning.conditioning import Branch
from t2i.conditioning.guidance import ClassifierFree
from t2i.conditioning.run_state import Guidance
from t2i.errors import ArgumentError
from t2i.terminal import plural
from t2i.text.encoders.selection import EncodedText, TwoClip, select_text_encoder
from t2i.text.encoders.two_clip import PenultimateClip
from t2i.text.learned_words import find_continuation_insertions
from t2i.text.prompt import Prompt, WeightedText

TextBatch = tuple[str | WeightedText, ...]
"""One text per prompt of the call."""
EncodeTexts = Callable[[TextBatch, TextBatch, int | None, int | None], EncodedText]
"""(texts, texts of a second encoder, clip_skip, tokens per row or None) -> one row per text."""


class BranchPromptEncoder:
    """Encoder of a call's prompts for each guidance branch and step; equal texts are encoded once.

    zero_negative : without a negative prompt its embeddings are zeros, as SDXL was trained
    """

    def __init__(
        self,
        call: CallArguments,
        guidance: Guidance,
        steps: int,
        encode: EncodeTexts,
        zero_negative: bool,
    ) -> None:
        self.call, self.guidance, self.steps, self.zero_negative = (
            call,
            guidance,
            steps,
            zero_negative,
        )
        self.prompts = count_prompts(call)
        self.encode = cache(encode)

    def encode_schedule(self) -> dict[int, dict[Branch, EncodedText]]:
        """Return the embeddings of each branch for step 0 and each step at which a scheduled prompt
        changes.

        All have as many tokens as the longest.
        """
        turns = list_prompt_change_steps(self.call, self.steps)
        encoded = {step: self.embeddings_at(step) for step in turns}
        lengths = {
            one.text_BTD.shape[1] for branches in encoded.values() for one in branches.values()
        }
        if len(lengths) > 1 and self.call.prompt_embeds is None:
            encoded = {step: self.embeddings_at(step, max(lengths)) for step in turns}
        return encoded

    def embeddings_at(self, step: int, length: int | None = None) -> dict[Branch, EncodedText]:
        """Return the embeddings of each branch at `step`, one row per prompt."""
        encoded = {
            branch: self.cond_embeddings(branch, step, length)
            for branch in self.guidance.possible_branches
            if branch != "uncond"
        }
        if "uncond" in self.guidance.possible_branches:
            encoded["uncond"] = self.uncond_embeddings(encoded["cond"], step, length)
        return {branch: encoded[branch] for branch in self.guidance.possible_branches}

    def cond_embeddings(self, branch: Branch, step: int, length: int | None) -> EncodedText:
        """Return the text embeddings of a conditional guidance branch at `step`."""
        call = self.call
        if call.prompt_embeds is not None:
            return EncodedText(call.prompt_embeds, pooled_BD=call.pooled_prompt_embeds)
        composed = self.guidance if isinstance(self.guidance, Composed) else None
        part = 0 if composed is None else composed.cond_branches.index(branch)
        texts = self.sub_prompt_texts_at("prompt", call.prompt, step)[part]
        second = texts
        if call.prompt_2 is not None:
            second = self.sub_prompt_texts_at("prompt_2", call.prompt_2, step)[part]
        return self.encode(texts, second, call.clip_skip, length)

    def uncond_embeddings(self, cond: EncodedText, step: int, length: int | None) -> EncodedText:
        """Return the text embeddings of the guidance branch "uncond" at `step`."""
        call = self.call
        if call.negative_prompt_embeds is not None:
            argument_checks.check_same_embedding_shape(cond.text_BTD, call.negative_prompt_embeds)
            return EncodedText(
                call.negative_prompt_embeds, pooled_BD=call.negative_pooled_prompt_embeds
            )
        if self.zero_negative and call.negative_prompt is None:
            pooled_BD = None if cond.pooled_BD is None else torch.zeros_like(cond.pooled_BD)
            return EncodedText(torch.zeros_like(cond.text_BTD), cond.mask_BT, pooled_BD)
        parts = self.sub_prompt_texts_at("negative_prompt", call.negative_prompt or "", step)
        parts_2 = parts
        if call.negative_prompt_2:
            parts_2 = self.sub_prompt_texts_at("negative_prompt_2", call.negative_prompt_2, step)
        if len(parts) > 1 or len(parts_2) > 1:
            raise ArgumentError("A negative prompt cannot have parts with AND: write one text.")
        if call.prompt_embeds is not None:
            length = cond.text_BTD.shape[1]
        # As in StableDiffusionPipeline, clip_skip is for the prompt only.
        return self.encode(parts[0], parts_2[0], None, length)

    def cond_texts_at(self, step: int) -> TextBatch:
        """Return each prompt's text of the branch "cond" at `step`; empty if the call was given
        embeddings.
        """
        if self.call.prompt_embeds is not None:
            return ()
        return self.sub_prompt_texts_at("prompt", self.call.prompt, step)[0]

    def sub_prompt_texts_at(self, name: str, prompts: Prompts | None, step: int) -> list[TextBatch]:
        """Return the prompts' texts at `step`, one tuple per part that AND joins, with one text per
        prompt.
        """
        rows = [
            [text for text, _ in prompt.texts_at_step(step, self.steps)]
            if isinstance(prompt, Prompt)
            else [prompt]
            for prompt in argument_checks.repeat_prompt_to_count(name, prompts, self.prompts)
        ]
        return list(zip(*rows, strict=True))


def build_branch_prompt_encoder(
    pipe: Any, call: CallArguments, guidance: Guidance, steps: int, device: torch.device
) -> BranchPromptEncoder:
    """Build the `BranchPromptEncoder` of a call from the pipeline's text encoders."""
    first = pipe.text_encoder and select_text_encoder(pipe.tokenizer, pipe.text_encoder)
    second = pipe.text_encoder_2 and select_text_encoder(pipe.tokenizer_2, pipe.text_encoder_2)
    scale: Any = (call.cross_attention_kwargs or {}).get("scale")

    def encode(
        texts: TextBatch, lines_2: TextBatch, clip_skip: int | None, length: int | None
    ) -> EncodedText:
        texts = expand_learned_words(pipe, texts, pipe.tokenizer or pipe.tokenizer_2)
        encoders = [one for one in (pipe.text_encoder, pipe.text_encoder_2) if has_loras(one)]
        with holding_locks(*encoders), scaling_text_loras(encoders, scale):
            if second is None:
                return first.encode(texts, clip_skip=clip_skip, length=length, device=device)
            if first is None:  # SDXL's refiner has the second encoder only.
                alone = PenultimateClip(second.tokenizer, second.model, second.window_size)
                return alone.encode(texts, clip_skip=clip_skip, length=length, device=device)
            lines_2 = expand_learned_words(pipe, lines_2, pipe.tokenizer_2)
            return TwoClip(first, second).encode(
                texts, lines_2, clip_skip=clip_skip, length=length, device=device
            )

    zero_negative = second is not None and pipe.config["force_zeros_for_empty_prompt"]
    return BranchPromptEncoder(call, guidance, steps, encode, zero_negative)


def expand_learned_words(pipe: Any, texts: TextBatch, tokenizer: Any) -> TextBatch:
    """Return texts with each learned word of several vectors replaced by all its tokens."""
    if not tokenizer.get_added_vocab():
        return texts
    spell = partial(pipe.maybe_convert_prompt, tokenizer=tokenizer)
    find = partial(find_continuation_insertions, tokenizer=tokenizer)
    return tuple(
        spell(line) if isinstance(line, str) else line.copy_with_insertions(find) for line in texts
    )


def count_prompts(call: CallArguments) -> int:
    """Return the number of prompts of a call."""
    if call.prompt_embeds is not None:
        return int(call.prompt_embeds.shape[0])
    return len(argument_checks.repeat_prompt_to_count("prompt", call.prompt))


def list_prompt_change_steps(call: CallArguments, steps: int) -> list[int]:
    """Return step 0 and the steps at which a prompt of the call changes."""
    prompt_texts = (call.prompt, call.prompt_2, call.negative_prompt, call.negative_prompt_2)
    return sorted(
        {0}.union(
            *(
                p.list_change_steps(steps)
                for prompts in prompt_texts
                for p in select_grammar_prompts(prompts)
            )
        )
    )


def select_grammar_prompts(prompts: Prompts | None) -> list[Prompt]:
    """Return the prompts that are `Prompt` objects, which have a grammar, and not plain strings."""
    rows = [prompts] if isinstance(prompts, str | Prompt) else prompts or []
    return [row for row in rows if isinstance(row, Prompt)]


def compose_guidance_of_prompts(guidance: Guidance, call: CallArguments) -> Guidance:
    """Return a guidance composed of all parts that AND joins in the call's prompts; without such
    parts, the given guidance.

    Raises ArgumentError where the prompts of a batch have different parts, or the guidance cannot
    be composed.
    """
    if isinstance(guidance, Composed):
        check_one_subprompt_per_weight(guidance, call)
        return guidance
    if not (prompts := select_grammar_prompts(call.prompt)):
        return guidance
    weights = {tuple(weight for _, weight in prompt.texts_at_step(0, 1)) for prompt in prompts}
    if len(prompts) < count_prompts(call):
        weights.add((1.0,))
    if weights == {(1.0,)}:
        return guidance
    if len(weights) > 1:
        raise ArgumentError(
            "The prompts of one batch have AND parts of different weights: "
            f"{' and '.join(map(str, sorted(weights)))}. Generate them one by one."
        )
    if not isinstance(guidance, ClassifierFree):
        raise ArgumentError(
            "The parts of a prompt with AND are composed by classifier-free guidance: expected "
            f"guidance_scale above 1 and no guidance of your own, got {guidance}."
        )
    return Composed(weights.pop(), guidance.scale, guidance.rescale)


def check_one_subprompt_per_weight(guidance: Composed, call: CallArguments) -> None:
    """Raise ArgumentError unless every prompt has as many AND parts as the composed guidance has
    weights.
    """
    counts = {len(prompt.texts_at_step(0, 1)) for prompt in select_grammar_prompts(call.prompt)}
    if call.prompt is None or len(select_grammar_prompts(call.prompt)) < count_prompts(call):
        counts.add(1)
    expected = len(guidance.weights)
    if counts != {expected}:
        raise ArgumentError(
            f"Got a composed guidance of {plural(expected, 'weight')} for prompts of "
            f"{' and '.join(plural(count, 'part') for count in sorted(counts))}: write the "
            'parts with AND into a Prompt, "a cat AND a dog", and give as many weights.'
        )
