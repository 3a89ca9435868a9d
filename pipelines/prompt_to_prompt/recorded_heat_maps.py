"""Heat maps of a recorded source's words, computed from its queries and keys without any pass."""

from collections.abc import Sequence
from typing import Any

import torch

from pipelines.prompt_to_prompt.automatic_edits import (
    get_cond_text_at_step,
    list_source_or_target_change_steps,
)
from pipelines.prompt_to_prompt.recorded_source import RecordedSource
from t2i.attention.call import AttentionCall
from t2i.attention.compute.edit_plan import EditPlan
from t2i.attention.compute.probabilities import AttentionProbabilities
from t2i.attention.compute.tap import AttentionInputs
from t2i.attention.denoiser_pass import DenoiserPass
from t2i.attention.probes.concepts import Concept, encode_concepts
from t2i.attention.probes.heat_maps import Convention, HeatMaps
from t2i.attention.probes.presence import RunModel
from t2i.attention.probes.probe import Probe
from t2i.attention.probes.step_heat_maps import StepHeatMaps
from t2i.attention.prompts.prompt_tokenizers import find_prompt_tokenizers
from t2i.attention.prompts.prompt_tokens import PromptTokens, RequestedWords, Word
from t2i.text.alignment import join_text_without_weights
from t2i.text.prompt import Prompt
from t2i.text.word_pattern import build_word_pattern


@torch.no_grad()
def read_recorded_heat_maps(
    pipe: Any,
    source: RecordedSource,
    *words: Word | Concept,
    convention: Convention = "default",
    steps: list[HeatMaps] | None = None,
) -> HeatMaps:
    """Return the heat maps of words of a recorded source, as a probe of its run reads them.

    >>> source = pipe.invert(photo, "a cat on a sofa")
    >>> read_recorded_heat_maps(pipe, source, "cat", "sofa").overlay("cat", source.image)

    pipe : finds the tokens of the words; its denoiser runs nothing
    words : words or phrases of the source's prompt; a Concept("whisker") is read beside it
    convention : see HeatMaps
    steps : list to which the heat maps of each step are added

    Raises ArgumentError for a word that the prompt does not have, DataError for a source recorded
    without its sites.
    """
    concepts = [word for word in words if isinstance(word, Concept)]
    reader = encode_concepts(pipe, concepts) if concepts else None
    probe = Probe(words, convention=convention, concepts=reader)
    probe.measurements.presence_model = RunModel(pipe)
    tokenizers = find_prompt_tokenizers(pipe, None)
    requested = RequestedWords()
    tokens = PromptTokens((source.prompt_at_step(0),), tokenizers, requested)
    probe.check_prompts_and_words(tokens)
    height, width = source.latents.shape[-2:]
    probe.begin_run(tokens, (height, width))
    by_step = None if steps is None else StepHeatMaps(probe.maps, steps)
    sites = source.text_sites
    for step in range(source.steps.count):
        text = source.prompt_at_step(step)
        if text != tokens.prompts[0]:
            tokens = PromptTokens((text,), tokenizers, requested)
            probe.check_prompts_and_words(tokens)
        one_pass = DenoiserPass(step, source.steps.count, ("cond",), num_prompts=1, num_images=1)
        for site in sites:
            recorded = source.get_recorded_qkv(site.name, step)
            assert recorded is not None
            query, key = recorded.query, recorded.key
            assert query is not None
            assert key is not None
            inputs = AttentionInputs(query, key, value=key, mask=recorded.mask)
            probabilities = AttentionProbabilities(inputs, site, EditPlan())
            probe.on_attention(probabilities, AttentionCall(site, one_pass, tokens))
        if by_step is not None:
            by_step.keep_new_measurements()
    requested.check_all_found()
    return probe.maps


def find_absent_words(prompt: str | Prompt, words: Sequence[str], num_steps: int) -> list[str]:
    """Return the words or phrases that a prompt has at no step of a run."""
    steps = list_source_or_target_change_steps(prompt, prompt, num_steps)
    texts = [
        join_text_without_weights(get_cond_text_at_step(prompt, step, num_steps)) for step in steps
    ]
    patterns = {word: build_word_pattern(word) for word in words}
    return [
        word
        for word, pattern in patterns.items()
        if not any(pattern.search(text) for text in texts)
    ]


def check_heat_map_words(
    pipe: Any, prompt: str | Prompt, words: Sequence[Word | Concept], num_steps: int
) -> None:
    """Raise ArgumentError for a word that a prompt lacks, and for a concept that cannot be encoded,
    before the source of the prompt is recorded.
    """
    concepts = [word for word in words if isinstance(word, Concept)]
    reader = encode_concepts(pipe, concepts) if concepts else None
    probe, tokenizers = Probe(tuple(words), concepts=reader), find_prompt_tokenizers(pipe, None)
    requested = RequestedWords()
    for step in list_source_or_target_change_steps(prompt, prompt, num_steps):
        text = get_cond_text_at_step(prompt, step, num_steps)
        probe.check_prompts_and_words(PromptTokens((text,), tokenizers, requested))
    requested.check_all_found()
