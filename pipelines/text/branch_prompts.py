"""What a call says to each branch of guidance at each step, and its embeddings.

B batch rows (here: prompts), T text tokens, D text width.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch

from pipelines.run import arguments
from pipelines.run.call import Call, Prompts
from pipelines.run.exclusive_access import alone_with, has_loras
from pipelines.text.text_lora_scale import lora_scaled
from t2i.conditioning.composed_guidance import Composed
from t2i.conditioning.conditioning import Branch
from t2i.conditioning.guidance import ClassifierFree
from t2i.conditioning.run_state import Guidance
from t2i.errors import ArgumentError
from t2i.terminal import several
from t2i.text.encoders.selection import EncodedText, TwoClip, text_encoder
from t2i.text.encoders.two_clip import Penultimate
from t2i.text.learned_words import continuation_insertions
from t2i.text.prompt import Prompt, WeightedText

Lines = tuple[str | WeightedText, ...]
"""One text per prompt of the call."""
Encode = Callable[[Lines, Lines, int | None, int | None], EncodedText]
"""(texts, those for a second encoder, clip_skip, tokens per row if told) -> one row per text."""


class Texts:
    """The texts of a call; the same text is encoded once.

    silence : where no negative prompt is given the model is told zeros, as SDXL was trained
    """

    def __init__(
        self, call: Call, guidance: Guidance, steps: int, encode: Encode, silence: bool
    ) -> None:
        self.call, self.guidance, self.steps, self.silence = call, guidance, steps, silence
        self.prompts = count_of(call)
        self.encode = cache(encode)

    def by_turn(self) -> dict[int, dict[Branch, EncodedText]]:
        """For each step at which something else is said, the first being 0: every branch's rows.

        All have as many tokens as the longest.
        """
        turns = turns_of(self.call, self.steps)
        told = {step: self.at(step) for step in turns}
        lengths = {one.text_BTD.shape[1] for branches in told.values() for one in branches.values()}
        if len(lengths) > 1 and self.call.prompt_embeds is None:
            told = {step: self.at(step, max(lengths)) for step in turns}
        return told

    def at(self, step: int, length: int | None = None) -> dict[Branch, EncodedText]:
        """What each branch that guidance needs is told at `step`, one row per prompt."""
        told = {
            branch: self.cond(branch, step, length)
            for branch in self.guidance.needs
            if branch != "uncond"
        }
        if "uncond" in self.guidance.needs:
            told["uncond"] = self.uncond(told["cond"], step, length)
        return {branch: told[branch] for branch in self.guidance.needs}

    def cond(self, branch: Branch, step: int, length: int | None) -> EncodedText:
        call = self.call
        if call.prompt_embeds is not None:
            return EncodedText(call.prompt_embeds, pooled_BD=call.pooled_prompt_embeds)
        composed = self.guidance if isinstance(self.guidance, Composed) else None
        part = 0 if composed is None else composed.parts.index(branch)
        lines = self.lines("prompt", call.prompt, step)[part]
        second = lines
        if call.prompt_2 is not None:
            second = self.lines("prompt_2", call.prompt_2, step)[part]
        return self.encode(lines, second, call.clip_skip, length)

    def uncond(self, cond: EncodedText, step: int, length: int | None) -> EncodedText:
        call = self.call
        if call.negative_prompt_embeds is not None:
            arguments.check_same_shape(cond.text_BTD, call.negative_prompt_embeds)
            return EncodedText(
                call.negative_prompt_embeds, pooled_BD=call.negative_pooled_prompt_embeds
            )
        if self.silence and call.negative_prompt is None:
            pooled_BD = None if cond.pooled_BD is None else torch.zeros_like(cond.pooled_BD)
            return EncodedText(torch.zeros_like(cond.text_BTD), cond.mask_BT, pooled_BD)
        parts = self.lines("negative_prompt", call.negative_prompt or "", step)
        parts_2 = parts
        if call.negative_prompt_2:
            parts_2 = self.lines("negative_prompt_2", call.negative_prompt_2, step)
        if len(parts) > 1 or len(parts_2) > 1:
            raise ArgumentError("A negative prompt cannot have parts with AND: write one text.")
        if call.prompt_embeds is not None:
            length = cond.text_BTD.shape[1]
        # As in StableDiffusionPipeline, clip_skip is for the prompt only.
        return self.encode(parts[0], parts_2[0], None, length)

    def said(self, step: int) -> Lines:
        """What the branch "cond" is told at `step`, in words; empty where only embeddings are."""
        if self.call.prompt_embeds is not None:
            return ()
        return self.lines("prompt", self.call.prompt, step)[0]

    def lines(self, name: str, prompts: Prompts | None, step: int) -> list[Lines]:
        """What is said at `step`: for each part of an AND one text per prompt."""
        rows = [
            [text for text, _ in prompt.at(step, self.steps)]
            if isinstance(prompt, Prompt)
            else [prompt]
            for prompt in arguments.list_of_prompts(name, prompts, self.prompts)
        ]
        return list(zip(*rows, strict=True))


def texts_of(pipe: Any, call: Call, guidance: Guidance, steps: int, device: torch.device) -> Texts:
    """The call's texts, read by the pipeline's own encoders."""
    first = pipe.text_encoder and text_encoder(pipe.tokenizer, pipe.text_encoder)
    second = pipe.text_encoder_2 and text_encoder(pipe.tokenizer_2, pipe.text_encoder_2)
    scale: Any = (call.cross_attention_kwargs or {}).get("scale")

    def encode(
        lines: Lines, lines_2: Lines, clip_skip: int | None, length: int | None
    ) -> EncodedText:
        lines = spelled(pipe, lines, pipe.tokenizer or pipe.tokenizer_2)
        encoders = [one for one in (pipe.text_encoder, pipe.text_encoder_2) if has_loras(one)]
        with alone_with(*encoders), lora_scaled(encoders, scale):
            if second is None:
                return first.encode(lines, clip_skip=clip_skip, length=length, device=device)
            if first is None:  # The refiner of SDXL reads the prompt by the second one alone.
                alone = Penultimate(second.tokenizer, second.model, second.window)
                return alone.encode(lines, clip_skip=clip_skip, length=length, device=device)
            lines_2 = spelled(pipe, lines_2, pipe.tokenizer_2)
            return TwoClip(first, second).encode(
                lines, lines_2, clip_skip=clip_skip, length=length, device=device
            )

    silence = second is not None and pipe.config["force_zeros_for_empty_prompt"]
    return Texts(call, guidance, steps, encode, silence)


def spelled(pipe: Any, lines: Lines, tokenizer: Any) -> Lines:
    """The texts with each learned word of several vectors spelled out, as diffusers does."""
    if not tokenizer.get_added_vocab():
        return lines
    spell = partial(pipe.maybe_convert_prompt, tokenizer=tokenizer)
    find = partial(continuation_insertions, tokenizer=tokenizer)
    return tuple(
        spell(line) if isinstance(line, str) else line.with_additions(find) for line in lines
    )


def count_of(call: Call) -> int:
    """How many prompts the call has."""
    if call.prompt_embeds is not None:
        return int(call.prompt_embeds.shape[0])
    return len(arguments.list_of_prompts("prompt", call.prompt))


def turns_of(call: Call, steps: int) -> list[int]:
    said = (call.prompt, call.prompt_2, call.negative_prompt, call.negative_prompt_2)
    return sorted({0}.union(*(p.changes(steps) for prompts in said for p in written(prompts))))


def written(prompts: Prompts | None) -> list[Prompt]:
    """Those of the prompts that are written in a grammar."""
    rows = [prompts] if isinstance(prompts, str | Prompt) else prompts or []
    return [row for row in rows if isinstance(row, Prompt)]


def weigh_parts(guidance: Guidance, call: Call) -> Guidance:
    """The guidance that weighs the parts of prompts with AND, if there are any.

    Raises ArgumentError where the prompts of a batch have other parts, or no guidance weighs them.
    """
    if isinstance(guidance, Composed):
        check_parts(guidance, call)
        return guidance
    if not (prompts := written(call.prompt)):
        return guidance
    weights = {tuple(weight for _, weight in prompt.at(0, 1)) for prompt in prompts}
    if len(prompts) < count_of(call):
        weights.add((1.0,))
    if weights == {(1.0,)}:
        return guidance
    if len(weights) > 1:
        raise ArgumentError(
            "The prompts of one batch have AND parts of other weights: "
            f"{' and '.join(map(str, sorted(weights)))}. Draw them one by one."
        )
    if not isinstance(guidance, ClassifierFree):
        raise ArgumentError(
            "The parts of a prompt with AND are composed by classifier-free guidance: expected "
            f"guidance_scale above 1 and no guidance of your own, got {guidance}."
        )
    return Composed(weights.pop(), guidance.scale, guidance.rescale)


def check_parts(guidance: Composed, call: Call) -> None:
    """Raise ArgumentError unless every prompt has a part for each of the weights."""
    counts = {len(prompt.at(0, 1)) for prompt in written(call.prompt)}
    if call.prompt is None or len(written(call.prompt)) < count_of(call):
        counts.add(1)
    expected = len(guidance.weights)
    if counts != {expected}:
        raise ArgumentError(
            f"Got a composed guidance of {several(expected, 'weight')} for prompts of "
            f"{' and '.join(several(count, 'part') for count in sorted(counts))}: write the "
            'parts with AND into a Prompt, "a cat AND a dog", and give as many weights.'
        )
