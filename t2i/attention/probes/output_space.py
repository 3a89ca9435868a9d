"""Output space of joint attention: where the image writes what a word writes.

ConceptAttention (Helbling et al. 2025, arXiv 2502.04320) compares what attention gives to an image
position with what it gives to a word: their outputs o_x and o_c lie in one space, as both go
through the same weights of values. The paper projects, <o_x, o_c>, and takes the softmax over the
concepts; here it is the cosine, so that a word's map does not depend on which other words are
probed.

B batch rows, N heads, Q image positions, S tokens of words, E width of a head.
"""

from torch import Tensor
from torch.nn import functional

from t2i.attention.compute.edit_plan import upcast_to_float32
from t2i.attention.compute.probabilities import AttentionProbabilities
from t2i.errors import AttentionError


def compute_output_similarity(image_NQE: Tensor, words_NSE: Tensor) -> Tensor:
    """Return the cosine (1, S, Q) of the attention outputs of words and of image positions, each
    the outputs of all heads behind one another, in float32 or wider.
    """
    image_QX, words_SX = (
        functional.normalize(upcast_to_float32(one).transpose(0, 1).flatten(1), dim=-1)
        for one in (image_NQE, words_NSE)
    )
    return (words_SX @ image_QX.transpose(0, 1))[None]


def require_output(probabilities: AttentionProbabilities) -> Tensor:
    """Return the output (B, N, Q, E) of an attention call. Raises AttentionError where it is not
    known, as with processors that compute the probabilities themselves.
    """
    output_BNQE = probabilities.output
    if output_BNQE is None:
        raise AttentionError(
            f"{probabilities.site.name} does not show its attention outputs: an older processor "
            "computes them. Call set_attention_backend('native') of the denoiser, or choose "
            "another convention than 'concept_attention', and no Concept."
        )
    return output_BNQE
