"""Concepts in joint attention: words beside the prompt that pass through a transformer's blocks.

In joint attention (SD3, Flux) a text token changes from block to block, by what it reads in the
image. So that a concept does the same and the image does not change, the denoiser is called once
more after its own pass, with the concepts' tokens in the place of the prompt's. There the image's
attention outputs are those of the own pass, and the concepts attend to the image and to themselves:
the one-directional attention of ConceptAttention (Helbling et al. 2025, arXiv 2502.04320,
section 4).

B batch rows, N heads, Q image positions, R query positions that are no text, K keys that a concept
attends to, S tokens of concepts, T text tokens, D text width, E width of a head.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from t2i.attention.compute.edit_plan import EditPlan, upcast_to_float32
from t2i.attention.compute.probabilities import (
    MAX_CHUNK_ELEMENTS,
    MIN_PROBABILITY_DIVISOR,
    AttentionProbabilities,
)
from t2i.attention.compute.tap import AttentionInputs
from t2i.attention.probes.concept_tokens import ConceptTokens
from t2i.attention.probes.output_space import require_output
from t2i.attention.site import Site
from t2i.errors import ArgumentError, AttentionError
from t2i.terminal import plural


@dataclass(frozen=True, slots=True)
class ReadConcepts:
    """Readings of a probe's concepts at one site and in one batch row.

    probs_NSQ : their probabilities at the image positions
    ratios_NSQ : the same as ratios to the largest probability of any text token there
    output_NSE, image_NQE : attention outputs of the concepts' tokens and of the image positions
    """

    probs_NSQ: Tensor
    ratios_NSQ: Tensor
    output_NSE: Tensor
    image_NQE: Tensor


ConceptReader = Callable[[Site, int, ReadConcepts], None]
"""(site, number of the prompt's image, what was read there) of a pass with concepts."""


@dataclass(frozen=True, slots=True)
class OwnPassAttention:
    """Attention of one batch row at a joint site in the denoiser's own pass.

    output_NRE : attention outputs of all query positions but the text's
    log_sum_NQ : logarithm of the sum over keys of the exponentiated scores
    largest_NQ : largest score of a text token
    """

    output_NRE: Tensor
    log_sum_NQ: Tensor
    largest_NQ: Tensor


@dataclass(slots=True)
class JointConcepts(ConceptTokens):
    """Encoded concepts of a probe, and how they are read in the joint attention of a transformer.

    tokens_SD : embeddings of the tokens of all concepts
    ends : where the tokens of each concept end along S
    """

    tokens_SD: Tensor
    ends: tuple[int, ...]
    _own: dict[tuple[str, int], OwnPassAttention] = field(default_factory=dict, repr=False)
    """(name of a site, row) -> its attention in the own pass that was last."""
    _rows: tuple[int, ...] = ()

    @property
    def stored_bytes(self) -> int:
        """Bytes of what is kept from a pass to that with the concepts; 0 before the first."""
        return sum(
            one.output_NRE.nbytes + one.log_sum_NQ.nbytes + one.largest_NQ.nbytes
            for one in self._own.values()
        )

    @property
    def has_own_pass(self) -> bool:
        """True if a pass of the denoiser was recorded, and the concepts were not read in it yet."""
        return bool(self._own)

    def begin_run(self) -> None:
        """Forget the attention of an earlier run."""
        self.forget_own_pass()

    def forget_own_pass(self) -> None:
        """Forget the attention outputs of the denoiser's own pass."""
        self._own.clear()

    def record_own_pass(
        self, probabilities: AttentionProbabilities, rows: Sequence[int], text_length: int
    ) -> None:
        """Keep what the pass with the concepts needs of a site in the denoiser's own pass.

        rows : batch rows of the probed prompt
        Raises ArgumentError for more tokens of concepts than the model's text has.
        """
        site = probabilities.site
        if self.num_tokens > text_length:
            raise ArgumentError(
                f"Got concepts of {plural(self.num_tokens, 'token')} in one probe, and the text "
                f"of this run has {text_length}: probe fewer at a time."
            )
        output_BNQE = require_output(probabilities)
        self._rows = tuple(rows)
        for row in rows:
            sums, largest = [], []
            first, end = site.image
            queries = max(1, MAX_CHUNK_ELEMENTS // (site.heads * site.keys))
            for start in range(first, end, queries):
                scores_NQK = probabilities.compute_scores(row, start, min(start + queries, end))
                sums.append(scores_NQK.logsumexp(dim=-1))
                largest.append(scores_NQK[..., slice(*site.text)].amax(dim=-1))
            self._own[site.name, row] = OwnPassAttention(
                output_BNQE[row, :, find_other_positions(site)].clone(),
                torch.cat(sums, dim=-1),
                torch.cat(largest, dim=-1),
            )

    def build_text(self, text_BTD: Tensor) -> Tensor:
        """Return the denoiser's text input (B, T, D) with the concepts' tokens at its beginning,
        and zeros behind them, which nothing attends to.
        """
        concepts_BTD = torch.zeros_like(text_BTD)
        concepts_BTD[:, : self.num_tokens] = self.tokens_SD.to(text_BTD)
        return concepts_BTD

    def compute_output(
        self, call: AttentionInputs, site: Site, read: ConceptReader, *, attend_to_all: bool
    ) -> Tensor:
        """Compute a joint site's attention in a pass with the concepts: return its output
        (B, N, Q, E), and hand on what is read there of them.

        attend_to_all : whether the concepts of a probe attend to one another, as in
            ConceptAttention; else each is read as if it were the only one
        """
        if any((site.name, row) not in self._own for row in self._rows):
            raise AttentionError(
                f"{site.name} was not reached in the denoiser's own pass of this step, and cannot "
                "be read for concepts: switch off what skips blocks of the transformer."
            )
        own_tokens = slice(site.text[0], site.text[0] + self.num_tokens)
        others = find_other_positions(site)
        out_BNQE = call.query.new_zeros(*call.query.shape[:3], call.value.shape[-1])
        scale = AttentionProbabilities(call, site, EditPlan()).scale
        for image_index, row in enumerate(self._rows):
            own = self._own[site.name, row]
            query_NQE, key_NKE, value_NKE = (
                upcast_to_float32(one[row]) for one in (call.query, call.key, call.value)
            )
            shared = len(query_NQE) // len(key_NKE)  # heads of queries that share one of keys
            key_NKE, value_NKE = (
                torch.cat([one[:, others], one[:, own_tokens]], dim=1).repeat_interleave(shared, 0)
                for one in (key_NKE, value_NKE)
            )
            concept_NSE = query_NQE[:, own_tokens]
            scores_NSK = concept_NSE @ key_NKE.transpose(-1, -2) * scale
            if not attend_to_all:
                scores_NSK = scores_NSK + self._bias_between_concepts(scores_NSK)
            weights_NSK = scores_NSK.softmax(dim=-1)
            output_NSE = weights_NSK @ value_NKE
            out_BNQE[row, :, own_tokens] = output_NSE.to(out_BNQE)
            out_BNQE[row, :, others] = own.output_NRE.to(out_BNQE)

            image_NQE = query_NQE[:, slice(*site.image)]
            key_NSE = key_NKE[:, -self.num_tokens :]
            score_NSQ = key_NSE @ image_NQE.transpose(-1, -2) * scale
            read(
                site, image_index, self._compute_concept_readings(score_NSQ, own, output_NSE, site)
            )
        return out_BNQE

    def _bias_between_concepts(self, scores_NSK: Tensor) -> Tensor:
        """Return (S, K): minus infinity where a token would attend to another concept's."""
        bias_SK = scores_NSK.new_zeros(scores_NSK.shape[1:])
        among_SS = bias_SK[:, -self.num_tokens :]
        among_SS.fill_(-torch.inf)
        for span in self.spans:
            own = slice(span[0], span[-1] + 1)
            among_SS[own, own] = 0
        return bias_SK

    def _compute_concept_readings(
        self, score_NSQ: Tensor, own: OwnPassAttention, output_NSE: Tensor, site: Site
    ) -> ReadConcepts:
        probs, ratios = [], []
        log_sum_N1Q, largest_N1Q = own.log_sum_NQ[:, None], own.largest_NQ[:, None]
        for span in self.spans:
            part_NSQ = score_NSQ[:, span[0] : span[-1] + 1]
            with_own_N1Q = torch.logaddexp(log_sum_N1Q, part_NSQ.logsumexp(dim=1, keepdim=True))
            most_N1Q = torch.maximum(largest_N1Q, part_NSQ.amax(dim=1, keepdim=True))
            probs.append((part_NSQ - with_own_N1Q).exp())
            most_prob_N1Q = (most_N1Q - with_own_N1Q).exp().clamp(min=MIN_PROBABILITY_DIVISOR)
            ratios.append(probs[-1] / most_prob_N1Q)
        first = site.image[0] - (find_other_positions(site).start or 0)
        image_NQE = own.output_NRE[:, first : first + site.num_positions]
        return ReadConcepts(
            torch.cat(probs, dim=1), torch.cat(ratios, dim=1), output_NSE, image_NQE
        )


def find_other_positions(site: Site) -> slice:
    """Return the positions of a joint site's queries and keys that are not the text's, which is at
    the beginning or the end.
    """
    first, end = site.text
    return slice(end, None) if first == 0 else slice(0, first)
