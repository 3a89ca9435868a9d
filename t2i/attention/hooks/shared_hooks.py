"""Hooks of open sessions in one model, and the discovery of its sites.

B batch rows, N heads, Q query positions, K key positions, E width of a head.
"""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from t2i.attention.compute.tap import (
    AttentionInputs,
    ProbabilitiesFunction,
    install_eager_tap,
    install_tap,
    use_attention_handler,
)
from t2i.attention.hooks.attention_listener import AttentionListener
from t2i.attention.hooks.compiled import is_compiled
from t2i.attention.hooks.discovery import SiteDiscovery, discovering_sites
from t2i.attention.hooks.edited_attention import EditedAttention
from t2i.attention.hooks.module_hooks import (
    build_eager_attention_inputs,
    hook_compiled_calls,
    wrap_forward_in_context,
)
from t2i.attention.site import Site
from t2i.errors import AttentionError


class SharedHooks:
    """Hooks in one model, shared by all sessions that are open on it.

    In the first pass the sites are discovered, and this object itself is the AttentionHandler of
    all calls; later only the sites that a session wants are hooked, each with a
    SiteAttentionHandler.

    attention : the open sessions, and what they do to an attention call
    sites : discovered sites by name
    """

    def __init__(self, root: nn.Module) -> None:
        self.called_module, self.root = root, getattr(root, "_orig_mod", root)
        self.thread = threading.get_ident()
        self.names = {module: name for name, module in self.root.named_modules()}
        self.attention = EditedAttention()
        self.sites: dict[str, Site] = {}
        self.is_dry_run = False
        """True in a trial step, which no probe reads and no edit changes."""
        self._num_discoveries = 0
        self._input_shapes: dict[AttentionListener, object] = {}
        self._discovered_shapes: dict[AttentionListener, tuple[object, int]] = {}
        """Session -> input shapes of its last pass, and the number of discoveries by then."""
        self._in_pass: set[AttentionListener] = set()
        self._discovery: SiteDiscovery | None = None
        self._has_raised = False
        """True if the model raised during the discovery."""
        self._discovery_stack: ExitStack | None = None
        self._site_hooks: dict[str, ExitStack] = {}
        self._tap = ExitStack()

    def open(self) -> None:
        """Install what the sessions of a model share: the attention tap, and a hook at the end of
        every denoiser pass.
        """
        self._tap.enter_context(install_tap())
        hook = self.called_module.register_forward_hook(self._returned, always_call=True)
        self._tap.callback(hook.remove)
        self._tap.enter_context(hook_compiled_calls(self.called_module, None, self._returned))
        for module in self.names:
            if hasattr(module, "get_attention_scores"):
                self._tap.enter_context(install_eager_tap(module))

    def close(self) -> None:
        """Remove every hook that sessions have put into the model; the sites that were discovered
        stay known.
        """
        self._stop_discovery()
        self._remove_site_hooks()
        self._tap.close()

    def remove_session(self, session: AttentionListener) -> None:
        """Remove a session from those that share the hooks of a model."""
        self.attention.sessions.remove(session)
        self._input_shapes.pop(session, None)
        self._discovered_shapes.pop(session, None)
        self._in_pass.discard(session)

    # a pass of the model

    def begin_pass(self, session: AttentionListener, input_shapes: object) -> None:
        """Begin a denoiser pass of a session; with new `input_shapes` its sites are discovered.

        Each session that shares the hooks begins and ends the same pass; the first to begin it
        starts the discovery.
        """
        self._input_shapes[session] = input_shapes
        if self._discovery is None:
            if self._discovered_shapes.get(session) != (input_shapes, self._num_discoveries):
                self._start_discovery()
        elif self._has_raised or session in self._in_pass:
            self._restart_discovery(self._discovery)
        self._in_pass.add(session)

    def end_pass(self, session: AttentionListener) -> bool:
        """End a denoiser pass of a session; return True if sites were discovered that the session
        has not seen.

        Raises AttentionError if a module computed attention without the tap.
        """
        if self._discovery is not None:
            self._finish_discovery(self._discovery)
        self._in_pass.discard(session)
        before, now = (
            self._discovered_shapes.get(session),
            (self._input_shapes[session], self._num_discoveries),
        )
        self._discovered_shapes[session] = now
        return before != now

    @contextmanager
    def disable_other_sessions(self, session: AttentionListener) -> Iterator[None]:
        """Disable all other sessions of the model within the block."""
        every, self.attention.sessions = self.attention.sessions, [session]
        try:
            yield
        finally:
            self.attention.sessions = every

    def hook_wanted_sites(self, session: AttentionListener) -> None:
        """Put hooks on the known sites at which a probe or an edit of this session acts."""
        for name, site in self.sites.items():
            if (
                name not in self._site_hooks
                and session.acts_at_site(site)
                and self._discovery is None
            ):
                self._hook_site(name)

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # torch lacks types for it
    def _returned(self, _module: nn.Module, _args: object, output: object) -> None:
        if threading.get_ident() == self.thread:
            # NOTE a footgun: no hook may be removed here, torch is going through them
            self._has_raised = self._has_raised or output is None
            for session in self.attention.sessions:
                session.note_model_forward_end()

    def _start_discovery(self) -> None:
        self._forget_sites()
        self._num_discoveries += 1
        self._discovery_stack = ExitStack()
        if is_compiled(self.called_module):
            # Sites are found by hooks, which a compiled model would be compiled with.
            self._discovery_stack.enter_context(torch.compiler.set_stance("force_eager"))
        self._discovery = self._discovery_stack.enter_context(
            discovering_sites(self.root, self.names)
        )
        self._discovery_stack.enter_context(use_attention_handler(self))

    def _restart_discovery(self, discovery: SiteDiscovery) -> None:
        """Discover again after a pass that raised; the hooks are still there."""
        discovery.stack.clear()
        discovery.bypassed.clear()
        self.sites.clear()
        self._in_pass.clear()
        self._has_raised = False

    def _finish_discovery(self, discovery: SiteDiscovery) -> None:
        """End the pass of a discovery, and hook the sites that sessions want."""
        self._stop_discovery()
        if discovery.bypassed:
            self._num_discoveries += 1
            raise AttentionError(discovery.build_bypass_message())
        for session in self.attention.sessions:
            self.hook_wanted_sites(session)

    def _forget_sites(self) -> None:
        self._stop_discovery()
        self._remove_site_hooks()
        self.sites.clear()

    def _hook_site(self, name: str) -> None:
        listener = SiteAttentionHandler(self, name)
        stack = ExitStack()
        stack.enter_context(
            wrap_forward_in_context(
                self.root.get_submodule(name), lambda *_: use_attention_handler(listener)
            )
        )
        self._site_hooks[name] = stack

    def _remove_site_hooks(self) -> None:
        for stack in self._site_hooks.values():
            stack.close()
        self._site_hooks.clear()

    def _stop_discovery(self) -> None:
        if self._discovery_stack is not None:
            self._discovery_stack.close()
        self._discovery_stack = self._discovery = None
        self._has_raised = False

    # attention calls during a discovery (t2i.attention.compute.tap.AttentionHandler)

    def handle_attention(self, call: AttentionInputs) -> Tensor:
        """Return the output (B, N, Q, E) of a call during a discovery; at a new site it is
        edited.
        """
        site = self._new_site(call)
        return call.run_kernel() if site is None else self.attention.run_attention(call, site)

    def handle_eager_attention(
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
        return self.attention.run_eager_attention(call, mask, site, scores)

    def _new_site(self, call: AttentionInputs) -> Site | None:
        if self._discovery is None or self._has_raised:
            return None
        site = self._discovery.find_site(call)
        if site is None or site.name in self.sites:
            return None
        self.sites[site.name] = site
        for session in self.attention.list_active_sessions():
            session.check_keys_match_prompts(site, call)
        return site


class SiteAttentionHandler:
    """Handler of the attention calls of one hooked module (site), which computes them with the
    sessions' edits.
    """

    def __init__(self, shared_hooks: SharedHooks, name: str) -> None:
        self.shared_hooks, self.name = shared_hooks, name

    @property
    def site(self) -> Site | None:
        """Site of the module; None in another thread than the sessions'."""
        if threading.get_ident() != self.shared_hooks.thread:
            return None
        return self.shared_hooks.sites.get(self.name)

    def handle_attention(self, call: AttentionInputs) -> Tensor:
        """Return the edited output (B, N, Q, E) of a call in the hooked module."""
        site = self.site
        if site is None or call.key.shape[2] != site.keys:  # of image prompts
            return call.run_kernel()
        return self.shared_hooks.attention.run_attention(call, site)

    def handle_eager_attention(
        self,
        query: Tensor,
        key: Tensor,
        mask: Tensor | None,
        scores: ProbabilitiesFunction,
        module: Any,
    ) -> Tensor:
        """Return the edited probabilities of an eager processor's call in the hooked module."""
        site = self.site
        if site is None or key.shape[1] != site.keys:
            return scores(query, key, mask)
        return self.shared_hooks.attention.run_eager_attention(
            build_eager_attention_inputs(query, key, module), mask, site, scores
        )


_installed: dict[nn.Module, SharedHooks] = {}
_lock = threading.Lock()


@contextmanager
def install_session(root: nn.Module, session: AttentionListener) -> Iterator[SharedHooks]:
    """Put the hooks of a session into a model within the block; sessions of one model share them.

    Raises AttentionError if another thread has a session on the model, or if one is open on a part
    of it or on a model around it.
    """
    key = getattr(root, "_orig_mod", root)
    with _lock:
        shared_hooks = _installed.get(key)
        if shared_hooks is None:
            shared_hooks = SharedHooks(root)
            for other in _installed.values():
                if key in other.names or other.root in shared_hooks.names:
                    raise AttentionError(
                        "A session is open on a model that this one is a part of, or that is a "
                        "part of it: give attend() the same one, and choose places by sites=."
                    )
            shared_hooks.open()
            _installed[key] = shared_hooks
        elif shared_hooks.thread != threading.get_ident():
            raise AttentionError(
                "Another thread has a session open on this model: leave its `with attend(...)` "
                "first, or give each thread a model of its own."
            )
        shared_hooks.attention.sessions.append(session)
    try:
        yield shared_hooks
    finally:
        with _lock:
            shared_hooks.remove_session(session)
            if not shared_hooks.attention.sessions:
                del _installed[key]
                shared_hooks.close()
