"""What sessions put into a model while they are open, and how each call of attention is answered.

B batch rows, N heads, Q query positions, K key positions, E width of a head.
"""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from t2i.attention.compute import kernels
from t2i.attention.compute.device_tensors import DeviceTensors
from t2i.attention.compute.edit_plan import EditPlan
from t2i.attention.compute.tap import (
    AttentionInputs,
    ScoresFunction,
    install_scores_tap,
    install_tap,
    listen,
)
from t2i.attention.hooks.attention_listener import AttentionListener
from t2i.attention.hooks.compiled import is_compiled
from t2i.attention.hooks.discovery import Discovery, discovering
from t2i.attention.hooks.module_hooks import forward_in_context, split_heads, wrapped_call
from t2i.attention.site import Site
from t2i.errors import AttentionError
from t2i.terminal import several


class Installation:
    """One model with its open sessions; found sites, and the listening forwards there."""

    def __init__(self, root: nn.Module) -> None:
        self.called, self.root = root, getattr(root, "_orig_mod", root)
        self.thread = threading.get_ident()
        self.names = {module: name for name, module in self.root.named_modules()}
        self.sessions: list[AttentionListener] = []
        self.sites: dict[str, Site] = {}
        self.kernels: dict[str, set[str]] = {}
        self._device_tensors = DeviceTensors()
        self.is_dry_run = False
        """Whether the run is a trial in which nobody reads or edits."""
        self._looked = 0
        self._shapes: dict[AttentionListener, object] = {}
        self._known: dict[AttentionListener, tuple[object, int]] = {}
        """The shape that a session last had, and when the sites were looked for then."""
        self._passing: set[AttentionListener] = set()
        self._discovery: Discovery | None = None
        self._broken = False
        """Whether the model raised while the sites were looked for."""
        self._looking: ExitStack | None = None
        self._listening: dict[str, ExitStack] = {}
        self._tap = ExitStack()

    def open(self) -> None:
        """Put the tap into torch, and listen for the end of every pass."""
        self._tap.enter_context(install_tap())
        hook = self.called.register_forward_hook(self._returned, always_call=True)
        self._tap.callback(hook.remove)
        self._tap.enter_context(wrapped_call(self.called, None, self._returned))
        for module in self.names:
            if hasattr(module, "get_attention_scores"):
                self._tap.enter_context(install_scores_tap(module))

    def close(self) -> None:
        """Take out everything; what was found stays known."""
        self._stop_looking()
        self._stop_listening()
        self._tap.close()

    def leave(self, session: AttentionListener) -> None:
        """One of several sessions ends."""
        self.sessions.remove(session)
        self._shapes.pop(session, None)
        self._known.pop(session, None)
        self._passing.discard(session)

    # a pass of the model

    def begin_pass(self, session: AttentionListener, shape: object) -> None:
        """`shape` is what the sites depend on; when it changes they are looked for again.

        Several sessions begin the same pass one after the other, and end it so.
        """
        self._shapes[session] = shape
        if self._discovery is None:
            if self._known.get(session) != (shape, self._looked):
                self._look()
        elif self._broken or session in self._passing:
            self._look_again(self._discovery)
        self._passing.add(session)

    def end_pass(self, session: AttentionListener) -> bool:
        """Whether the sites are news to this session."""
        if self._discovery is not None:
            self._settle(self._discovery)
        self._passing.discard(session)
        before, now = self._known.get(session), (self._shapes[session], self._looked)
        self._known[session] = now
        return before != now

    @contextmanager
    def alone(self, session: AttentionListener) -> Iterator[None]:
        """A pass that only this session takes part in."""
        every, self.sessions = self.sessions, [session]
        try:
            yield
        finally:
            self.sessions = every

    def listen_to(self, session: AttentionListener) -> None:
        """Sites that are known already and that this session wants."""
        for name, site in self.sites.items():
            if name not in self._listening and session.wants(site) and self._discovery is None:
                self._listen(name)

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # torch lacks types for it
    def _returned(self, _module: nn.Module, _args: object, output: object) -> None:
        if threading.get_ident() == self.thread:
            # NOTE a footgun: no hook may be removed here, torch is going through them
            self._broken = self._broken or output is None
            for session in self.sessions:
                session.leave_pass()

    def _look(self) -> None:
        self._forget()
        self._looked += 1
        self._looking = ExitStack()
        if is_compiled(self.called):
            # Sites are found by hooks, which a compiled model would be compiled with.
            self._looking.enter_context(torch.compiler.set_stance("force_eager"))
        self._discovery = self._looking.enter_context(discovering(self.root, self.names))
        self._looking.enter_context(listen(self))

    def _look_again(self, discovery: Discovery) -> None:
        """The pass before has raised; its hooks are still there."""
        discovery.stack.clear()
        discovery.bypassed.clear()
        self.sites.clear()
        self._passing.clear()
        self._broken = False

    def _settle(self, discovery: Discovery) -> None:
        """The pass is over in which the sites were looked for."""
        self._stop_looking()
        if discovery.bypassed:
            self._looked += 1
            raise AttentionError(discovery.bypass())
        for session in self.sessions:
            self.listen_to(session)

    def _forget(self) -> None:
        self._stop_looking()
        self._stop_listening()
        self.sites.clear()

    def _listen(self, name: str) -> None:
        listener = SiteListener(self, name)
        stack = ExitStack()
        stack.enter_context(
            forward_in_context(self.root.get_submodule(name), lambda *_: listen(listener))
        )
        self._listening[name] = stack

    def _stop_listening(self) -> None:
        for stack in self._listening.values():
            stack.close()
        self._listening.clear()

    def _stop_looking(self) -> None:
        if self._looking is not None:
            self._looking.close()
        self._looking = self._discovery = None
        self._broken = False

    # a call of attention, while the sites are looked for

    def handle_attention(self, call: AttentionInputs) -> Tensor:
        site = self._found(call)
        return call.run_kernel() if site is None else self.answer(call, site)

    def handle_scores(
        self, query: Tensor, key: Tensor, mask: Tensor | None, scores: ScoresFunction, module: Any
    ) -> Tensor:
        call = split_heads(query, key, module)
        site = self._found(call)
        if site is None:
            return scores(query, key, mask)
        return self.answer_eager(call, mask, site, scores)

    def _found(self, call: AttentionInputs) -> Site | None:
        if self._discovery is None or self._broken:
            return None
        site = self._discovery.site(call)
        if site is None or site.name in self.sites:
            return None
        self.sites[site.name] = site
        for session in self._at_work():
            session.check_call(site, call)
        return site

    # and afterwards

    def answer(self, call: AttentionInputs, site: Site) -> Tensor:
        """The output of one call, edited and read."""
        plan, hearing = self._plan_edits(site, len(call.query))
        every = (session.recorded_row(site) for session in hearing)
        recorded_row = next((one for one in every if one is not None), None)
        out, probabilities = kernels.run_edited_attention(call, site, plan, recorded_row)
        for session in hearing:
            session.on_attention(probabilities)
        return out

    def answer_eager(
        self, call: AttentionInputs, mask: Tensor | None, site: Site, scores: ScoresFunction
    ) -> Tensor:
        """The probabilities, rows and heads in one axis, edited and read."""
        rows, heads = call.query.shape[:2]
        plan, hearing = self._plan_edits(site, rows)
        if any(session.recorded_row(site) is not None for session in hearing):
            raise AttentionError(
                f"{site.name} is computed by an older processor, which has no place for a source "
                "that is remembered: pipe.unet.set_default_attn_processor() puts the fused one in "
                "its place."
            )
        if mask is not None:
            mask = mask.unflatten(0, (rows, -1)) if len(mask) == rows * heads else mask[:, None]
        probabilities = kernels.prepare_eager_probabilities(call, mask, site, plan)
        call = probabilities.inputs
        scored = scores(
            call.query.flatten(0, 1),
            call.key.flatten(0, 1),
            kernels.build_eager_mask(probabilities),
        )
        probs_BNQK = scored.unflatten(0, (rows, heads))
        for row in plan.mixes.keys() | plan.functions.keys():
            probs_BNQK = probs_BNQK.clone()
            probs_BNQK[row] = torch.cat(list(probabilities.map_chunks(row)), dim=1).to(probs_BNQK)
        for session in hearing:
            session.on_attention(probabilities)
        edited: Tensor = probs_BNQK.flatten(0, 1)
        return edited

    def _plan_edits(self, site: Site, rows: int) -> tuple[EditPlan, list[AttentionListener]]:
        plan = EditPlan(device_tensors=self._device_tensors)
        hearing = [session for session in self._at_work() if session.wants(site)]
        for session in hearing:
            if session.num_rows() != rows:
                raise AttentionError(
                    f"{site.name} was called with {several(rows, 'row')} in a pass of "
                    f"{session.num_rows()}: attend() cannot assign them. Give it the prompts of "
                    "the call, and switch off what divides the batch."
                )
            session.plan_edits(site, plan)
        if hearing:
            self.kernels.setdefault(site.name, set()).add(plan.kernel_description)
        return plan, hearing

    def _at_work(self) -> list[AttentionListener]:
        return [session for session in self.sessions if session.num_rows() is not None]


class SiteListener:
    """Answers the calls of a module that is known to be a site."""

    def __init__(self, installation: Installation, name: str) -> None:
        self.installation, self.name = installation, name

    @property
    def site(self) -> Site | None:
        """None in a thread that is not the sessions'."""
        if threading.get_ident() != self.installation.thread:
            return None
        return self.installation.sites.get(self.name)

    def handle_attention(self, call: AttentionInputs) -> Tensor:
        site = self.site
        if site is None or call.key.shape[2] != site.keys:  # of image prompts
            return call.run_kernel()
        return self.installation.answer(call, site)

    def handle_scores(
        self, query: Tensor, key: Tensor, mask: Tensor | None, scores: ScoresFunction, module: Any
    ) -> Tensor:
        site = self.site
        if site is None or key.shape[1] != site.keys:
            return scores(query, key, mask)
        return self.installation.answer_eager(split_heads(query, key, module), mask, site, scores)


_installed: dict[nn.Module, Installation] = {}
_lock = threading.Lock()


@contextmanager
def installed(root: nn.Module, session: AttentionListener) -> Iterator[Installation]:
    """The model's installation, shared by all sessions that are open on it."""
    key = getattr(root, "_orig_mod", root)
    with _lock:
        installation = _installed.get(key)
        if installation is None:
            installation = Installation(root)
            for other in _installed.values():
                if key in other.names or other.root in installation.names:
                    raise AttentionError(
                        "A session is open on a model that this one is a part of, or that is a "
                        "part of it: give attend() the same one, and choose places by sites=."
                    )
            installation.open()
            _installed[key] = installation
        elif installation.thread != threading.get_ident():
            raise AttentionError(
                "Another thread has a session open on this model: leave its `with attend(...)` "
                "first, or give each thread a model of its own."
            )
        installation.sessions.append(session)
    try:
        yield installation
    finally:
        with _lock:
            installation.leave(session)
            if not installation.sessions:
                del _installed[key]
                installation.close()
