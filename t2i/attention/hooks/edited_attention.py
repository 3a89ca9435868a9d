"""Attention calls of a model as its open sessions read and edit them.

B batch rows, N heads, Q query positions, K key positions, E width of a head.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from t2i.attention.compute import kernels
from t2i.attention.compute.device_tensors import DeviceTensorCache
from t2i.attention.compute.edit_plan import EditPlan
from t2i.attention.compute.tap import AttentionInputs, ProbabilitiesFunction
from t2i.attention.hooks.attention_listener import AttentionListener
from t2i.attention.hooks.discovery import SiteDiscovery
from t2i.attention.hooks.module_hooks import build_eager_attention_inputs
from t2i.attention.site import Site
from t2i.errors import AttentionError
from t2i.terminal import plural

AttentionReplacement = Callable[[AttentionInputs, Site], Tensor]
"""(inputs of a call, its site) -> its output (B, N, Q, E)."""


class EditedModelAttention:
    """Attention of one model with the edits and probes of the sessions that are open on it.

    sessions : open sessions, in the order in which their edits act
    kernel_descriptions : name of a site -> descriptions of the kernels that computed it
    replacement : what computes joint attention instead, in a pass with concepts; None in others
    """

    def __init__(self) -> None:
        self.sessions: list[AttentionListener] = []
        self.replacement: AttentionReplacement | None = None
        self.kernel_descriptions: dict[str, set[str]] = {}
        self._device_tensors = DeviceTensorCache()

    @contextmanager
    def replacing_joint_attention(self, replacement: AttentionReplacement) -> Iterator[None]:
        """Compute the joint attention of hooked sites by `replacement` within the block, and leave
        other attention as it is; no session reads or edits it.
        """
        self.replacement = replacement
        try:
            yield
        finally:
            self.replacement = None

    def run_attention(self, call: AttentionInputs, site: Site) -> Tensor:
        """Return the edited output (B, N, Q, E) of a call, after the probes have read it."""
        if self.replacement is not None:
            return self.replacement(call, site) if site.kind == "joint" else call.run_kernel()
        plan, listeners = self._plan_edits(site, len(call.query))
        every = (session.get_recorded_qkv(site) for session in listeners)
        recorded_rows = next((one for one in every if one is not None), None)
        out, probabilities = kernels.compute_edited_output_and_probabilities(
            call, site, plan, recorded_rows
        )
        if listeners:
            probabilities = replace(probabilities, output=out)
        for session in listeners:
            session.on_attention(probabilities)
        return out

    def compute_eager_probabilities(
        self, call: AttentionInputs, mask: Tensor | None, site: Site, scores: ProbabilitiesFunction
    ) -> Tensor:
        """Return the edited probabilities (B * N, Q, K) of a call, after the probes have read it.

        Raises AttentionError with a recorded source, which needs the fused kernel.
        """
        rows, heads = call.query.shape[:2]
        plan, listeners = self._plan_edits(site, rows)
        if any(session.get_recorded_qkv(site) is not None for session in listeners):
            raise AttentionError(
                f"{site.name} is computed by an older processor, which cannot read a recorded "
                "source: pipe.unet.set_attn_processor(AttnProcessor2_0()) of diffusers puts the "
                "fused one in its place."
            )
        if mask is not None:
            mask = mask.unflatten(0, (rows, -1)) if len(mask) == rows * heads else mask[:, None]
        probabilities = kernels.build_edited_eager_probabilities(call, mask, site, plan)
        call = probabilities.inputs
        scored = scores(
            call.query.flatten(0, 1),
            call.key.flatten(0, 1),
            kernels.build_eager_mask(probabilities),
        )
        probs_BNQK = scored.unflatten(0, (rows, heads))
        for row in plan.mixes.keys() | plan.functions.keys():
            probs_BNQK = probs_BNQK.clone()
            probs_BNQK[row] = torch.cat(list(probabilities.iterate_map_chunks(row)), dim=1).to(
                probs_BNQK
            )
        for session in listeners:
            session.on_attention(probabilities)
        edited: Tensor = probs_BNQK.flatten(0, 1)
        return edited

    def _plan_edits(self, site: Site, rows: int) -> tuple[EditPlan, list[AttentionListener]]:
        plan = EditPlan(device_tensors=self._device_tensors)
        listeners = [
            session
            for session in self.list_sessions_with_running_pass()
            if session.acts_at_site(site)
        ]
        for session in listeners:
            if session.num_rows != rows:
                raise AttentionError(
                    f"{site.name} was called with {plural(rows, 'row')} in a pass of "
                    f"{session.num_rows}: attend() cannot assign them. Give it the prompts of "
                    "the call, and switch off what divides the batch."
                )
            session.add_edits_to_plan(site, plan)
        if listeners:
            self.kernel_descriptions.setdefault(site.name, set()).add(plan.kernel_description)
        return plan, listeners

    def list_sessions_with_running_pass(self) -> list[AttentionListener]:
        """Return the model's open sessions of which a denoiser pass is running."""
        return [session for session in self.sessions if session.num_rows is not None]


class DiscoveryHandler:
    """Handler of all attention calls during a discovery: it collects the sites, and computes their
    first call with the sessions' edits.

    sites : name -> site, which the discovery adds to
    is_over : True once the model has raised, after which calls find no more sites
    """

    def __init__(
        self, attention: EditedModelAttention, sites: dict[str, Site], discovery: SiteDiscovery
    ) -> None:
        self.attention, self.sites, self.discovery = attention, sites, discovery
        self.is_over = False

    def handle_attention(self, call: AttentionInputs) -> Tensor:
        """Return the output (B, N, Q, E) of a call during a discovery; at a new site it is
        edited.
        """
        site = self._new_site(call)
        return call.run_kernel() if site is None else self.attention.run_attention(call, site)

    def compute_eager_probabilities(
        self,
        query: Tensor,
        key: Tensor,
        mask: Tensor | None,
        scores: ProbabilitiesFunction,
        module: Any,
    ) -> Tensor:
        """Return the probabilities of an eager processor's call while sites are being
        discovered.
        """
        call = build_eager_attention_inputs(query, key, module)
        site = self._new_site(call)
        if site is None:
            return scores(query, key, mask)
        return self.attention.compute_eager_probabilities(call, mask, site, scores)

    def _new_site(self, call: AttentionInputs) -> Site | None:
        if self.is_over:
            return None
        site = self.discovery.find_site(call)
        if site is None or site.name in self.sites:
            return None
        self.sites[site.name] = site
        for session in self.attention.list_sessions_with_running_pass():
            session.check_images_of_prompt_share_keys(site, call)
        return site


class SiteAttentionHandler:
    """Handler of the attention calls of one forward of a hooked module (site), which computes the
    module's own call with the sessions' edits.

    The own call is the first with the site's keys, as in a discovery. Processors of IP-Adapters
    attend to the text first, then to each image prompt; an image prompt may have as many keys as
    the text.
    """

    def __init__(self, attention: EditedModelAttention, site: Site) -> None:
        self.attention, self.site = attention, site
        self._own_call_has_come = False

    def handle_attention(self, call: AttentionInputs) -> Tensor:
        """Return the output (B, N, Q, E) of a call in the hooked module; its own is edited."""
        if not self._is_own_call(call.key.shape[2]):
            return call.run_kernel()
        return self.attention.run_attention(call, self.site)

    def compute_eager_probabilities(
        self,
        query: Tensor,
        key: Tensor,
        mask: Tensor | None,
        scores: ProbabilitiesFunction,
        module: Any,
    ) -> Tensor:
        """Return the probabilities of an eager processor's call in the hooked module; those of its
        own call are edited.
        """
        if not self._is_own_call(key.shape[1]):
            return scores(query, key, mask)
        inputs = build_eager_attention_inputs(query, key, module)
        return self.attention.compute_eager_probabilities(inputs, mask, self.site, scores)

    def _is_own_call(self, keys: int) -> bool:
        if self._own_call_has_come or keys != self.site.keys:
            return False
        self._own_call_has_come = True
        return True
