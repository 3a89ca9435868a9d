"""Probe of the negative prompt's words: it reads the rows of the unconditional branch."""

from dataclasses import dataclass, field, replace

from t2i.attention.call import AttentionCall
from t2i.attention.compute.probabilities import AttentionProbabilities
from t2i.attention.denoiser_pass import DenoiserPass, check_prompt_index
from t2i.attention.probes.probe import Probe
from t2i.attention.prompts.prompt_tokens import PromptTokens

UNCOND_AS_COND = {"cond": "prompt", "uncond": "cond"}


@dataclass
class NegativePromptWordsProbe(Probe):
    """Probe of words of the negative prompt; of steps without that branch it reads nothing.

    negative_tokens : of the negative prompts up to that of `prompt`, which do not change during
        the run
    """

    negative_tokens: PromptTokens = field(default_factory=lambda: PromptTokens((), ()))

    def check_prompts_and_words(self, prompt_tokens: PromptTokens) -> None:
        """Raise ArgumentError for a prompt that the run does not have, and for words that the
        negative prompt does not have.
        """
        check_prompt_index("prompt", self.prompt, prompt_tokens.num_prompts)
        super().check_prompts_and_words(self.negative_tokens)
        self.negative_tokens.requested_words.check_all_found()

    def begin_run(self, prompt_tokens: PromptTokens, latent_size: tuple[int, int] | None) -> None:
        """Discard the measurements of the previous run and prepare for a new one."""
        super().begin_run(self.negative_tokens, latent_size)

    def on_attention(self, probabilities: AttentionProbabilities, call: AttentionCall) -> None:
        """Accumulate the probabilities of the words in the unconditional rows of this call."""
        own = replace(
            call,
            denoiser_pass=relabel_uncond_rows_as_cond(call.denoiser_pass),
            prompt_tokens=self.negative_tokens,
        )
        super().on_attention(probabilities, own)


def relabel_uncond_rows_as_cond(denoiser_pass: DenoiserPass) -> DenoiserPass:
    """Return a copy of a pass's description in which batch rows of the guidance branch "uncond"
    (the negative prompt) are labelled "cond", so that a probe reads them.
    """
    branches = tuple(UNCOND_AS_COND.get(name, name) for name in denoiser_pass.branches)
    return replace(denoiser_pass, branches=branches)
