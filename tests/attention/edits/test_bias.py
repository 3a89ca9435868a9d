"""What is added reaches the picture's queries and the text's keys, and nothing else.

B rows, N heads, Q queries, K keys, E width of a head, T text tokens, P places of the picture.
"""

import pytest
import torch

from t2i.attention import Site
from t2i.attention.call import AttentionCall
from t2i.attention.compute.edit_plan import EditPlan
from t2i.attention.compute.kernels import compute_edited_output_and_probabilities
from t2i.attention.compute.tap import AttentionInputs
from t2i.attention.denoiser_pass import DenoiserPass
from t2i.attention.edits.base.score_bias import expand_text_bias_to_site
from t2i.attention.prompts.prompt_tokens import PromptTokens

TEXT_FIRST = Site("joint", "joint", "", (2, 3), 3, 10, (0, 4), (4, 10))
TEXT_LAST = Site("joint", "joint", "", (2, 3), 3, 10, (6, 10), (0, 6))
TEXT_AS_KEYS_ONLY = Site("joint", "joint", "", (2, 3), 3, 10, (0, 4), (0, 6))
CROSS = Site("cross", "cross", "", (2, 3), 3, 4, (0, 4), (0, 6))


@pytest.mark.parametrize("site", [TEXT_FIRST, TEXT_LAST, TEXT_AS_KEYS_ONLY, CROSS])
@pytest.mark.parametrize("heads", [None, (0, 2)])
@pytest.mark.parametrize("places", [1, 6])
def test_a_bias_of_the_text_is_for_the_picture(site: Site, heads, places: int) -> None:
    queries = 10 if site in (TEXT_FIRST, TEXT_LAST) else 6
    query = torch.randn(2, 3, queries, 8)
    key, value = torch.randn(2, 2, 3, site.keys, 8).unbind()
    bias_PT = torch.randn(places, 4)
    call = AttentionCall(site, DenoiserPass(0, 1, ("cond",), 2, 2), PromptTokens(("a", "b"), ()))

    plan = EditPlan()
    plan.add_bias([1], expand_text_bias_to_site(call, bias_PT, heads))
    out_BNQE, _ = compute_edited_output_and_probabilities(
        AttentionInputs(query, key, value), site, plan
    )

    scores_NQK = query[1] @ key[1].transpose(-1, -2) / 8**0.5
    plain_NQE = scores_NQK.softmax(-1) @ value[1]
    for head in range(3) if heads is None else heads:
        scores_NQK[head, slice(*site.image), slice(*site.text)] += bias_PT
    torch.testing.assert_close(out_BNQE[1], scores_NQK.softmax(-1) @ value[1])
    asking = torch.zeros(queries, dtype=torch.bool)
    asking[slice(*site.image)] = True
    torch.testing.assert_close(out_BNQE[1][:, ~asking], plain_NQE[:, ~asking])
    assert (out_BNQE[1][0, asking] - plain_NQE[0, asking]).abs().max() > 1e-3
