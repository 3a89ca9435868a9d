"""Hooks of open sessions in one model, and the discovery of its sites."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext

import torch
from torch import nn

from t2i.attention.compute.tap import (
    tapping_attention,
    tapping_eager_attention,
    using_attention_handler,
)
from t2i.attention.hooks.attention_listener import AttentionListener
from t2i.attention.hooks.compiled import is_compiled
from t2i.attention.hooks.control_networks import (
    get_announced_control_networks,
    get_denoiser_of_announced_networks,
)
from t2i.attention.hooks.discovery import SiteDiscovery, discovering_sites
from t2i.attention.hooks.edited_attention import (
    DiscoveryHandler,
    EditedModelAttention,
    SiteAttentionHandler,
)
from t2i.attention.hooks.module_hooks import hooking_compiled_calls, running_forward_in_context
from t2i.attention.site import Site, split_control_name
from t2i.errors import AttentionError


class SharedHooks:
    """Hooks in one model, shared by all sessions that are open on it.

    In the first pass the sites are discovered, and one DiscoveryHandler gets all calls; later only
    the sites that a session wants are hooked, each with a SiteAttentionHandler: those of the
    denoiser until the session ends, those of a control's network while it runs.

    attention : the open sessions, and what they do to an attention call
    sites : discovered sites by name
    """

    def __init__(self, root: nn.Module) -> None:
        self.called_module, self.root = root, getattr(root, "_orig_mod", root)
        self.thread = threading.get_ident()
        self.names = map_modules_to_names(self.root)
        self.attention = EditedModelAttention()
        self.sites: dict[str, Site] = {}
        self.is_dry_run = False
        """True in a trial step, which no probe reads and no edit changes."""
        self._num_discoveries = 0
        self._discovered_controls: set[int] = set()
        """Controls of the run whose networks' sites are known."""
        self._input_shapes: dict[AttentionListener, object] = {}
        self._discovered_shapes: dict[AttentionListener, tuple[object, int]] = {}
        """Session -> input shapes of its last pass, and the number of discoveries by then."""
        self._in_pass: set[AttentionListener] = set()
        self._discovery: DiscoveryHandler | None = None
        self._discovery_stack: ExitStack | None = None
        self._site_hooks: dict[str, ExitStack] = {}
        self._tap = ExitStack()

    def install_tap_and_pass_end_hook(self) -> None:
        """Install what the sessions of a model share: the attention tap, and a hook at the end of
        every denoiser pass.
        """
        self._tap.enter_context(tapping_attention())
        hook = self.called_module.register_forward_hook(self._returned, always_call=True)
        self._tap.callback(hook.remove)
        self._tap.enter_context(hooking_compiled_calls(self.called_module, None, self._returned))
        for module in self.names:
            if hasattr(module, "get_attention_scores"):
                self._tap.enter_context(tapping_eager_attention(module))

    def remove_all_hooks(self) -> None:
        """Remove every hook that sessions have put into the model; the sites that were discovered
        stay known.
        """
        self._stop_discovery()
        self._remove_site_hooks()
        self._tap.close()

    def remove_session(self, session: AttentionListener) -> None:
        """Remove a session from those that share the hooks of a model; the hooks themselves
        stay.
        """
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
        networks = tuple(
            (number, id(one)) for number, one in get_announced_control_networks(self.root).items()
        )
        self._input_shapes[session] = shapes = (input_shapes, networks)
        if self._discovery is None:
            if self._discovered_shapes.get(session) != (shapes, self._num_discoveries):
                self._start_discovery()
        elif self._discovery.is_over or session in self._in_pass:
            self._restart_discovery(self._discovery)
        self._in_pass.add(session)

    def end_pass(self, session: AttentionListener) -> bool:
        """End a denoiser pass of a session; return True if sites were discovered that the session
        has not seen.

        Raises AttentionError if a module computed attention without the tap.
        """
        if self._discovery is not None:
            self._finish_discovery(self._discovery.discovery)
        self._in_pass.discard(session)
        before, now = (
            self._discovered_shapes.get(session),
            (self._input_shapes[session], self._num_discoveries),
        )
        self._discovered_shapes[session] = now
        return before != now

    @contextmanager
    def disabling_other_sessions(self, session: AttentionListener) -> Iterator[None]:
        """Disable all other sessions of the model within the block."""
        every, self.attention.sessions = self.attention.sessions, [session]
        try:
            yield
        finally:
            self.attention.sessions = every

    def hook_sites_of_session(self, session: AttentionListener) -> None:
        """Put hooks on the known sites at which a probe or an edit of this session acts."""
        for name, site in self.sites.items():
            if (
                name not in self._site_hooks
                and site.control_number is None
                and session.acts_at_site(site)
                and self._discovery is None
            ):
                self._hook_site(name)

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # torch lacks types for it
    def _returned(self, _module: nn.Module, _args: object, output: object) -> None:
        if threading.get_ident() == self.thread:
            # NOTE a footgun: no hook may be removed here, torch is going through them
            if self._discovery is not None and output is None:
                self._discovery.is_over = True
            for session in self.attention.sessions:
                session.on_model_forward_end()

    def _start_discovery(self) -> None:
        self._forget_sites()
        self._num_discoveries += 1
        self._discovery_stack = ExitStack()
        if is_compiled(self.called_module):
            # Sites are found by hooks, which a compiled model would be compiled with.
            self._discovery_stack.enter_context(torch.compiler.set_stance("force_eager"))
        discovery = self._discovery_stack.enter_context(discovering_sites(self.root, self.names))
        self._discovery = DiscoveryHandler(self.attention, self.sites, discovery)
        self._discovery_stack.enter_context(using_attention_handler(self._discovery))

    def _restart_discovery(self, running: DiscoveryHandler) -> None:
        """Discover again after a pass that raised; the hooks are still there."""
        running.discovery.stack.clear()
        running.discovery.bypassed.clear()
        self._drop_sites()
        self._in_pass.clear()
        running.is_over = False

    def _finish_discovery(self, discovery: SiteDiscovery) -> None:
        """End the pass of a discovery, and hook the sites that sessions want."""
        self._stop_discovery()
        if discovery.bypassed:
            self._num_discoveries += 1
            raise AttentionError(discovery.build_bypass_message())
        for session in self.attention.sessions:
            self.hook_sites_of_session(session)

    def _forget_sites(self) -> None:
        self._stop_discovery()
        self._remove_site_hooks()
        self._drop_sites()

    def _drop_sites(self) -> None:
        self.sites.clear()
        self._discovered_controls.clear()

    def _hook_site(self, name: str) -> None:
        stack = ExitStack()
        stack.enter_context(self._site_hook(self.root.get_submodule(name), self.sites[name]))
        self._site_hooks[name] = stack

    def _site_hook(self, module: nn.Module, site: Site) -> AbstractContextManager[None]:
        def make_context(*_: object) -> AbstractContextManager[None]:
            if threading.get_ident() != self.thread:
                return nullcontext()
            return using_attention_handler(SiteAttentionHandler(self.attention, site))

        return running_forward_in_context(module, make_context)

    def _remove_site_hooks(self) -> None:
        for stack in self._site_hooks.values():
            stack.close()
        self._site_hooks.clear()

    def _stop_discovery(self) -> None:
        if self._discovery_stack is not None:
            self._discovery_stack.close()
        self._discovery_stack = self._discovery = None

    # networks of controls, which run within the pass before the denoiser

    @contextmanager
    def hooking_control_network(
        self, number: int, network: nn.Module, branches: Sequence[str]
    ) -> Iterator[None]:
        """Let the active sessions read and edit the attention of a control's network, which is
        called within the block on the rows of these branches; its first call in a run discovers
        its sites.

        Raises AttentionError if a session wants sites of a module that computed attention without
        the tap.
        """
        active = self.attention.list_sessions_with_running_pass()
        with ExitStack() as stack:
            for session in active:
                stack.enter_context(session.treating_rows_as_branches(branches))
            if active and number not in self._discovered_controls:
                stack.enter_context(self._discovering_control(number, network))
            elif active:
                self._hook_control(number, network, stack)
            yield

    @contextmanager
    def _discovering_control(self, number: int, network: nn.Module) -> Iterator[None]:
        names = {
            one: f"control.{number}/{name}" for one, name in map_modules_to_names(network).items()
        }
        found: dict[str, Site] = {}
        with ExitStack() as stack:
            if is_compiled(network):
                stack.enter_context(torch.compiler.set_stance("force_eager"))
            for module in names:
                if hasattr(module, "get_attention_scores"):
                    stack.enter_context(tapping_eager_attention(module))
            discovery = stack.enter_context(discovering_sites(network, names))
            handler = DiscoveryHandler(self.attention, found, discovery)
            stack.enter_context(using_attention_handler(handler))
            yield
        if discovery.bypassed and any(
            session.acts_in_control_network(number) for session in self.attention.sessions
        ):
            raise AttentionError(discovery.build_bypass_message())
        self.sites.update(found)
        self._discovered_controls.add(number)
        self._num_discoveries += 1

    def _hook_control(self, number: int, network: nn.Module, stack: ExitStack) -> None:
        active = self.attention.list_sessions_with_running_pass()
        for name, site in self.sites.items():
            if site.control_number != number or not any(one.acts_at_site(site) for one in active):
                continue
            module = network.get_submodule(split_control_name(name)[1])
            if hasattr(module, "get_attention_scores"):
                stack.enter_context(tapping_eager_attention(module))
            stack.enter_context(self._site_hook(module, site))

    def list_sites(self) -> list[Site]:
        """Return the attention sites discovered so far: the denoiser's, then those of each control
        network in turn.
        """
        return sorted(
            self.sites.values(),
            key=lambda site: -1 if site.control_number is None else site.control_number,
        )

    def list_undiscovered_control_numbers(self) -> list[int]:
        """Return the numbers of the current run's controls whose networks have not been called yet,
        so that their attention sites are unknown.
        """
        return [
            one
            for one in get_announced_control_networks(self.root)
            if one not in self._discovered_controls
        ]


_installed: dict[nn.Module, SharedHooks] = {}
_lock = threading.Lock()


@contextmanager
def installing_session_hooks(root: nn.Module, session: AttentionListener) -> Iterator[SharedHooks]:
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
            shared_hooks.install_tap_and_pass_end_hook()
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
                shared_hooks.remove_all_hooks()


@contextmanager
def running_control_network(number: int, branches: Sequence[str]) -> Iterator[None]:
    """Declare within the block that a control network (ControlNet) of the current run is called on
    the rows of these guidance branches, so that open sessions read and edit its attention.
    """
    denoiser = get_denoiser_of_announced_networks()
    shared_hooks = None if denoiser is None else _installed.get(denoiser)
    if shared_hooks is None or shared_hooks.thread != threading.get_ident():
        yield
        return
    network = get_announced_control_networks(shared_hooks.root)[number]
    with shared_hooks.hooking_control_network(number, network, branches):
        yield


def map_modules_to_names(model: nn.Module) -> dict[nn.Module, str]:
    """Return a dict of each module of a model to its name; the model itself has the name ""."""
    return {module: name for name, module in model.named_modules()}
