"""Word swap of prompt-to-prompt: words are replaced one for one, the layout stays."""

from dataclasses import dataclass

from t2i.attention.edits.base.word_edit import SourceMapEdit
from t2i.attention.prompts.prompt_tokens import PromptTokens
from t2i.attention.prompts.word_alignment import TokenAlignment
from t2i.text.alignment import find_differing_word_indices


@dataclass(frozen=True, kw_only=True)
class Replace(SourceMapEdit):
    """Edit that gives the target prompt's words the attention maps of the source prompt's words at
    the same positions.

    Prompt-to-prompt's word swap (Hertz et al. 2022, Section 3.2, arXiv 2208.01626). Both prompts
    need the same number of words.
    """

    def check_prompts_and_words(self, prompt_tokens: PromptTokens) -> None:
        """Raise ArgumentError if the edit names prompts that the run does not have, or two with
        different numbers of words.
        """
        super().check_prompts_and_words(prompt_tokens)
        find_differing_word_indices(
            *prompt_tokens.get_source_and_target_texts(self.source, self.target)
        )

    def compute_automatic_token_alignment(
        self, prompt_tokens: PromptTokens, length: int
    ) -> TokenAlignment:
        """Return the token alignment of prompt-to-prompt's word swap: each word of the target
        prompt comes from the source prompt's word at the same position.
        """
        columns_TT = prompt_tokens.build_replacement_matrix(self.source, self.target, length)
        return TokenAlignment(columns_TT, columns_TT.new_ones(length))
