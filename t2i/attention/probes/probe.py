"""Probe: reads the attention of words and accumulates their heat maps; it changes nothing.

N heads, Q positions of a site, T text tokens, S those of the probed words.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from t2i.attention.call import AttentionCall
from t2i.attention.compute.probabilities import AttentionProbabilities
from t2i.attention.compute.tap import AttentionInputs
from t2i.attention.denoiser_pass import check_prompt_index
from t2i.attention.probes.concepts import Concept, EncodedConcepts
from t2i.attention.probes.convention_sites import CONVENTION_SITES, convention_reads_site
from t2i.attention.probes.heat_maps import RESCALED, Convention, HeatMaps
from t2i.attention.probes.joint_concepts import JointConcepts, ReadConcepts
from t2i.attention.probes.measurements import ProbeMeasurements, SiteAccumulator
from t2i.attention.probes.output_space import compute_output_similarity, require_output
from t2i.attention.probes.probed_tokens import ProbedTokensAtStep
from t2i.attention.probes.refinement import FIRST_SHARE, is_refinement_site
from t2i.attention.prompts.prompt_tokens import PromptTokens, Word
from t2i.attention.site import (
    Site,
    Sites,
    StepWindow,
    as_sites,
    check_heads,
    check_step_window,
    list_steps_in_window,
)
from t2i.errors import ArgumentError
from t2i.terminal import plural


@dataclass(slots=True)
class Probe:
    """Probe that reads the attention of some words of one prompt in a session's runs; its heat maps
    `maps` fill while a run proceeds.

    The arguments are those of Session.probe.

    concepts : the encoded concepts among the words, if there are any
    """

    words: tuple[Word | Concept, ...]
    prompt: int = 0
    sites: Sites | str | None = None
    steps: StepWindow = None
    heads: tuple[int, ...] | None = None
    grid: tuple[int, int] | None = None
    convention: Convention = "default"
    grad: bool = False
    raw: bool = False
    concepts: EncodedConcepts | JointConcepts | None = None
    measurements: ProbeMeasurements = field(default_factory=ProbeMeasurements)
    maps: HeatMaps = field(init=False)
    _current_columns: ProbedTokensAtStep | None = None
    _chosen_sites: Sites | None = None
    _reference_site: Site | None = None
    """The largest site so far whose self-attention can refine the maps, or the first with joint
    attention."""

    def __post_init__(self) -> None:
        if not self.words:
            raise ArgumentError('A probe needs a word: attn.probe("cat").')
        check_step_window("steps", self.steps)
        check_heads(self.heads)
        self._chosen_sites = None if self.sites is None else as_sites(self.sites)
        self.sites = as_sites(self.sites or CONVENTION_SITES.get(self.convention))
        if isinstance(self.concepts, JointConcepts) and (self.grad or self.raw):
            raise ArgumentError(
                "Got a Concept with grad=True or raw=True for a model with joint attention, where "
                "it is read in a pass of its own: these keep what the prompt's words get."
            )
        names = tuple(map(str, self.words))
        if self.concepts is not None and len(set(names)) < len(names):
            raise ArgumentError(
                f"Got the words {', '.join(names)}: a concept and another word have one name, and "
                "so have their heat maps. Probe them one by one."
            )
        self.measurements.concepts = frozenset(
            str(word) for word in self.words if isinstance(word, Concept)
        )
        self.maps = HeatMaps(self.measurements, names, self.convention, self.grid)

    def __str__(self) -> str:
        return f"Probe({', '.join(map(repr, self.words))}, prompt={self.prompt})"

    # as a participant of a session: it reads, and changes neither attention nor latents

    @property
    def reads_only(self) -> bool:
        """True: a probe changes nothing."""
        return True

    @property
    def edits_latents(self) -> bool:
        """False: a probe never edits the latents."""
        return False

    @property
    def needs_extra_passes(self) -> bool:
        """False: a probe never calls the denoiser itself."""
        return False

    @property
    def does_nothing(self) -> bool:
        """False: a probe always has a word to read, so having no effect is an error."""
        return False

    def list_probes(self) -> "Sequence[Probe]":
        """Return the probe itself as the only probe that a session has to run for it."""
        return (self,)

    def edit_latents_before_pass(self, latents_BCHW: Tensor, *_: object) -> Tensor:
        """Return the latents (B, C, H, W) unchanged: a probe only reads attention."""
        return latents_BCHW

    def add_to_plan(self, *_: object) -> None:
        """Add nothing to the edit plan: a probe only reads attention."""

    def edit_latents_after_step(self, latents_BCHW: Tensor, *_: object) -> Tensor:
        """Return the latents (B, C, H, W) unchanged: a probe only reads attention."""
        return latents_BCHW

    def acts_at_site(self, site: Site) -> bool:
        """Return True for a site whose attention the probe reads: for heat maps, to refine them, or
        to lead its concepts through joint attention.
        """
        if site.kind == "self":
            return self.convention == "refined" and self._is_reference_site(site)
        is_joint = site.kind == "joint" and site.control_number is None
        return self.selects_site(site) or (is_joint and isinstance(self.concepts, JointConcepts))

    def selects_site(self, site: Site) -> bool:
        """Return True for a site from which the words' heat maps are aggregated."""
        kinds = {EncodedConcepts: "cross", JointConcepts: "joint"}
        return site.kind == kinds.get(type(self.concepts), site.kind) and convention_reads_site(
            self.convention, site, self._chosen_sites
        )

    def acts_at_step(self, step: int, num_steps: int) -> bool:
        """Return True for a step at which the probe reads attention."""
        return step in list_steps_in_window(self.steps, num_steps)

    def check_prompts_and_words(self, prompt_tokens: PromptTokens) -> None:
        """Raise ArgumentError for a prompt, or words to probe, that the run does not have."""
        check_prompt_index("prompt", self.prompt, prompt_tokens.num_prompts)
        for word in self.words:
            if not isinstance(word, Concept):
                prompt_tokens.find_word_token_positions(self.prompt, word)

    def begin_run(self, prompt_tokens: PromptTokens, latent_size: tuple[int, int] | None) -> None:
        """Discard the measurements of the previous run and prepare for a new one."""
        self.measurements.clear()
        self.measurements.latent_size = latent_size
        self._current_columns = self._reference_site = None
        if self.concepts is not None:  # their columns are the first
            self.concepts.begin_run()
            names = [str(word) for word in self.words if isinstance(word, Concept)]
            self.measurements.tokens |= dict(zip(names, self.concepts.spans, strict=True))
            self.measurements.columns = self.concepts.num_tokens
        self._columns_of(prompt_tokens)

    def estimate_bytes_at_site(self, site: Site, images: int, steps: int) -> int:
        """Return the memory in bytes that the probe's measurements of a site take in a run."""
        heads = len(self.heads) if self.heads is not None else site.heads
        if site.kind == "self":
            return images * site.num_positions**2 * 4
        affinity = 0
        if self.convention == "refined" and self._is_reference_site(site):
            affinity = images * site.num_positions**2 * 4
        if not self.selects_site(site):
            return affinity
        number = images * self.measurements.columns * site.num_positions * 4
        kept = {"daam": heads, "mean": 1}.get(self.convention, 2)
        return number * kept + (number * heads * steps if self.raw else 0) + affinity

    def on_attention(self, probabilities: AttentionProbabilities, call: AttentionCall) -> None:
        """Accumulate the probabilities of the words in this attention call, or for the convention
        "refined" the image's self-attention.
        """
        rows = call.denoiser_pass.cond_rows_of_prompt(self.prompt)
        if isinstance(self.concepts, JointConcepts):
            with torch.no_grad():
                self.concepts.record_own_pass(probabilities, rows, call.text_length)
        is_selected = self.selects_site(call.site)
        if self.convention == "refined" and (is_selected or call.site.kind == "self"):
            self._read_self_attention(probabilities, call)
        if not is_selected:
            return
        columns = self._columns_of(call.prompt_tokens)
        if columns.positions and max(columns.positions) >= call.text_length:
            raise ArgumentError(
                f"{self} reads token position {max(columns.positions)} of a text of "
                f"{plural(call.text_length, 'token')}: they count from 0 to "
                f"{call.text_length - 1}."
            )
        live = []
        for image_index, row in enumerate(rows):
            with torch.set_grad_enabled(self.grad and torch.is_grad_enabled()):
                words_NSQ, score_1SQ = self._read_row(probabilities, row, columns)
            live.append(words_NSQ)
            of_concepts: Sequence[int] = ()
            if isinstance(self.concepts, EncodedConcepts):
                of_concepts = range(self.concepts.num_tokens)
            read = (*of_concepts, *columns.columns)
            self._accumulate(call.site, image_index, words_NSQ.detach(), read, score_1SQ)
        if live and (self.grad or self.raw):
            all_BNSQ = torch.stack(live)
            if self.grad:
                self.measurements.live[call.site.name] = all_BNSQ
            if self.raw:
                self.measurements.raw.setdefault(call.site.name, []).append(all_BNSQ.detach().cpu())

    def _read_row(
        self, probabilities: AttentionProbabilities, row: int, columns: ProbedTokensAtStep
    ) -> tuple[Tensor, Tensor | None]:
        """Return the words' probabilities (N, S, Q) in a batch row, and their score (1, S, Q) by a
        convention that has one: 0 for concepts, which joint attention reads in a pass of their own.
        """
        heads, total = None if self.heads is None else list(self.heads), self.measurements.columns
        positions_S = columns.positions_on_device(probabilities.inputs.query.device)
        words_NSQ = probabilities.compute_token_probabilities(row, positions_S)
        words_NSQ = columns.insert_zeros_for_absent_tokens(
            words_NSQ if heads is None else words_NSQ[heads], total
        )
        score_1SQ = None
        if self.convention == "concept_attention":
            output_NQE, site = require_output(probabilities)[row], probabilities.site
            output_NQE = output_NQE if heads is None else output_NQE[heads]
            words_NSE = output_NQE[:, site.text[0] + positions_S]
            score_1SQ = compute_output_similarity(output_NQE[:, slice(*site.image)], words_NSE)
            score_1SQ = columns.insert_zeros_for_absent_tokens(score_1SQ, total)
        elif self.convention in RESCALED:
            score_1SQ = probabilities.compute_mean_ratio_to_max_token(row, positions_S, heads)
            score_1SQ = columns.insert_zeros_for_absent_tokens(score_1SQ, total)
        if not isinstance(self.concepts, EncodedConcepts):
            return words_NSQ, score_1SQ
        own_NSQ, own_ratio_NSQ = self.concepts.compute_probabilities_and_ratios_to_max(
            probabilities, row
        )
        if heads is not None:
            own_NSQ, own_ratio_NSQ = own_NSQ[heads], own_ratio_NSQ[heads]
        first = self.concepts.num_tokens
        words_NSQ = torch.cat([own_NSQ, words_NSQ[:, first:]], dim=1)
        if score_1SQ is not None:
            own_ratio_1SQ = own_ratio_NSQ.mean(dim=0, keepdim=True)
            score_1SQ = torch.cat([own_ratio_1SQ, score_1SQ[:, first:]], dim=1)
        return words_NSQ, score_1SQ

    def _is_reference_site(self, site: Site) -> bool:
        """Return True for the first of the largest sites so far that can refine the maps: sites of
        a model come one by one, small ones of the decoder first.
        """
        best = self._reference_site
        if site.control_number is not None:
            return False
        if is_refinement_site(site) and (best is None or site.num_positions > best.num_positions):
            self._reference_site = best = site
        return best is not None and best.name == site.name

    def _read_self_attention(
        self, probabilities: AttentionProbabilities, call: AttentionCall
    ) -> None:
        steps = list_steps_in_window(self.steps, call.denoiser_pass.num_steps)
        if not is_refinement_site(call.site) or call.denoiser_pass.step < steps.start + int(
            FIRST_SHARE * len(steps)
        ):
            return
        for image_index, row in enumerate(call.denoiser_pass.cond_rows_of_prompt(self.prompt)):
            with torch.no_grad():
                probs_QQ = probabilities.compute_map_over_image_keys(row).mean(dim=0)
            self.measurements.add_affinity(image_index, call.site, probs_QQ)

    def compute_concept_attention(self, call: AttentionInputs, site: Site) -> Tensor:
        """Compute a site with joint attention in a pass with the probe's concepts, and read them
        there; return its output (B, N, Q, E).
        """
        assert isinstance(self.concepts, JointConcepts)
        attend_to_all = self.convention == "concept_attention"
        return self.concepts.compute_output(
            call, site, self._read_joint_concepts, attend_to_all=attend_to_all
        )

    def _read_joint_concepts(self, site: Site, image_index: int, read: ReadConcepts) -> None:
        if not self.selects_site(site):
            return
        heads = slice(None) if self.heads is None else list(self.heads)
        score_1SQ = None
        if self.convention == "concept_attention":
            score_1SQ = compute_output_similarity(read.image_NQE[heads], read.output_NSE[heads])
        elif self.convention in RESCALED:
            score_1SQ = read.ratios_NSQ[heads].mean(dim=0, keepdim=True)
        count = read.probs_NSQ.shape[1]
        padding = (0, 0, 0, self.measurements.columns - count)  # of the prompt's own words
        words_NSQ = functional.pad(read.probs_NSQ[heads], padding)
        if score_1SQ is not None:
            score_1SQ = functional.pad(score_1SQ, padding)
        self._accumulate(site, image_index, words_NSQ, range(count), score_1SQ)

    def _accumulate(
        self,
        site: Site,
        image_index: int,
        words_NSQ: Tensor,
        columns: Sequence[int],
        score_1SQ: Tensor | None,
    ) -> None:
        if self.convention != "daam":
            words_NSQ = words_NSQ.mean(dim=0, keepdim=True)
        accumulator = self.measurements.accumulators.get((image_index, site.name))
        if accumulator is None:
            accumulator = SiteAccumulator(
                site, torch.zeros_like(words_NSQ), [0] * words_NSQ.shape[1]
            )
            self.measurements.accumulators[image_index, site.name] = accumulator
        accumulator.add(words_NSQ, columns, score_1SQ)

    def _columns_of(self, prompt_tokens: PromptTokens) -> ProbedTokensAtStep:
        """Return the columns of the words at this step; a token keeps its column for the run."""
        if (
            self._current_columns is not None
            and self._current_columns.prompt_tokens is prompt_tokens
        ):
            return self._current_columns
        column_at: dict[int, int] = {}
        positions: dict[int, int] = {}
        for word, name in zip(self.words, self.maps.words, strict=True):
            if isinstance(word, Concept):
                continue
            own = list(self.measurements.tokens.get(name, ()))
            for number, position in enumerate(
                prompt_tokens.find_word_token_positions(self.prompt, word)
            ):
                if number == len(own):
                    own.append(column_at.get(position, self.measurements.columns))
                    self.measurements.columns = max(self.measurements.columns, own[number] + 1)
                column_at[position] = own[number]
                positions[own[number]] = position
            if own:
                self.measurements.tokens[name] = tuple(own)
        self._current_columns = ProbedTokensAtStep(
            prompt_tokens, tuple(positions), tuple(positions.values())
        )
        return self._current_columns
