"""What sessions put into a model while they are open, and how each call of attention is answered.

B batch rows, N heads, Q query positions, K key positions, E width of a head.
"""

import functools
import math
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from t2i.attention import kernel
from t2i.attention.attended import Attended
from t2i.attention.discovery import Discovery, discovering
from t2i.attention.effects import Effects
from t2i.attention.site import Site
from t2i.attention.tap import Call, Scores, heard, scores_tapped, tapped
from t2i.errors import AttentionError


class Hearing(Protocol):
    """A session, as the model sees it."""

    def rows(self) -> int | None:
        """Of the pass that is under way; None when there is none."""

    def wants(self, site: Site) -> bool:
        """Whether any of its probes and edits is made for the site."""

    def edit_call(self, site: Site, effects: Effects) -> None:
        """Say what its edits want of this call."""

    def hear(self, attended: Attended) -> None:
        """Let its probes read."""


class Installation:
    """One model with its open sessions; found sites, and the listening forwards there."""

    def __init__(self, root: nn.Module) -> None:
        self.root = getattr(root, "_orig_mod", root)
        self.names = {module: name for name, module in self.root.named_modules()}
        self.sessions: list[Hearing] = []
        self.sites: dict[str, Site] = {}
        self.kernels: dict[str, set[str]] = {}
        self._shape: object = None
        self._discovery: Discovery | None = None
        self._looking: ExitStack | None = None
        self._listening: dict[str, ExitStack] = {}
        self._tap = ExitStack()
        self._eager = compiled(root)

    def open(self) -> None:
        self._tap.enter_context(tapped())
        for module in self.names:
            if hasattr(module, "get_attention_scores"):
                self._tap.enter_context(scores_tapped(module))

    def close(self) -> None:
        self._stop_looking()
        for stack in self._listening.values():
            stack.close()
        self._listening.clear()
        self._tap.close()

    # a pass of the model

    def begin_pass(self, shape: object) -> None:
        """`shape` is what the sites depend on; when it changes they are looked for again."""
        if shape == self._shape:
            return
        self._stop_looking()
        for stack in self._listening.values():
            stack.close()
        self._listening.clear()
        self.sites.clear()
        self._shape = shape
        self._looking = ExitStack()
        if self._eager:
            # Sites are found by hooks, which a compiled model would be compiled with.
            self._looking.enter_context(torch.compiler.set_stance("force_eager"))
        self._discovery = self._looking.enter_context(discovering(self.root, self.names))
        self._looking.enter_context(heard(self))

    def end_pass(self) -> bool:
        """Whether this was the pass in which the sites were found."""
        if self._discovery is None:
            return False
        bypassed = self._discovery.bypassed
        self._stop_looking()
        if bypassed:
            self._shape = None
            raise AttentionError(
                f"{len(bypassed)} attention modules never came to the tap, {bypassed[0]!r} the "
                "first: a backend or processor goes another way there (xformers, sliced or sage "
                "attention). Take it off, with pipe.unet.set_default_attn_processor() or "
                "pipe.unet.set_attention_backend('native'), and try again."
            )
        for name, site in self.sites.items():
            if any(session.wants(site) for session in self.sessions):
                self._listen(name)
        return True

    def listen_to(self, session: Hearing) -> None:
        """Sites that are known already and that this session wants."""
        for name, site in self.sites.items():
            if name not in self._listening and session.wants(site) and self._discovery is None:
                self._listen(name)

    def _listen(self, name: str) -> None:
        stack = ExitStack()
        stack.enter_context(listening(self.root.get_submodule(name), AtSite(self, name)))
        self._listening[name] = stack

    def _stop_looking(self) -> None:
        if self._looking is not None:
            self._looking.close()
        self._looking = self._discovery = None

    # a call of attention, while the sites are looked for

    def fused(self, call: Call) -> Tensor:
        site = self._found(call)
        return call.run() if site is None else self.answer(call, site)

    def eager(
        self, query: Tensor, key: Tensor, mask: Tensor | None, scores: Scores, module: Any
    ) -> Tensor:
        call = of_heads(query, key, module)
        site = self._found(call)
        if site is None:
            return scores(query, key, mask)
        return self.answer_eager(call, mask, site, scores)

    def _found(self, call: Call) -> Site | None:
        assert self._discovery is not None
        site = self._discovery.site(call)
        if site is None or site.name in self.sites:
            return None
        self.sites[site.name] = site
        return site

    # and afterwards

    def answer(self, call: Call, site: Site) -> Tensor:
        """The output of one call, edited and read."""
        effects, hearing = self._effects(site, len(call.query))
        out, attended = kernel.fused(call, site, effects)
        for session in hearing:
            session.hear(attended)
        return out

    def answer_eager(self, call: Call, mask: Tensor | None, site: Site, scores: Scores) -> Tensor:
        """The probabilities, rows and heads in one axis, edited and read."""
        rows, heads = call.query.shape[:2]
        effects, hearing = self._effects(site, rows)
        if mask is not None:
            mask = mask.unflatten(0, (rows, -1)) if len(mask) == rows * heads else mask[:, None]
        attended = kernel.eager(call, mask, site, effects)
        call = attended.call
        scored = scores(
            call.query.flatten(0, 1),
            call.key.flatten(0, 1),
            kernel.eager_mask(attended),
        )
        probs_BNQK = scored.unflatten(0, (rows, heads))
        for row in effects.mixes.keys() | effects.functions.keys():
            probs_BNQK = probs_BNQK.clone()
            probs_BNQK[row] = torch.cat(list(attended.parts(row)), dim=1).to(probs_BNQK)
        for session in hearing:
            session.hear(attended)
        return probs_BNQK.flatten(0, 1)

    def _effects(self, site: Site, rows: int) -> tuple[Effects, list[Hearing]]:
        effects = Effects()
        hearing = [session for session in self.sessions if session.rows() is not None]
        for session in hearing:
            if session.rows() != rows:
                raise AttentionError(
                    f"{site.name} was called with {rows} rows in a pass of {session.rows()}: "
                    "attend() cannot tell whose they are. Give it the prompts of the call, and "
                    "switch off what divides the batch."
                )
            session.edit_call(site, effects)
        if hearing:
            self.kernels.setdefault(site.name, set()).add(effects.kernel)
        return effects, hearing


class AtSite:
    """Answers the calls of a module that is known to be a site."""

    def __init__(self, installation: Installation, name: str) -> None:
        self.installation, self.name = installation, name

    def fused(self, call: Call) -> Tensor:
        site = self.installation.sites[self.name]
        if call.key.shape[2] != site.keys:  # of image prompts
            return call.run()
        return self.installation.answer(call, site)

    def eager(
        self, query: Tensor, key: Tensor, mask: Tensor | None, scores: Scores, module: Any
    ) -> Tensor:
        site = self.installation.sites[self.name]
        if key.shape[1] != site.keys:
            return scores(query, key, mask)
        return self.installation.answer_eager(of_heads(query, key, module), mask, site, scores)


@contextmanager
def listening(module: nn.Module, listener: AtSite) -> Iterator[None]:
    """The attention inside the module's forward is answered by `listener`.

    It runs uncompiled, and everything around it as before.
    """
    inner, before = module.forward, module.__dict__.get("forward")

    @torch.compiler.disable
    @functools.wraps(inner)
    def forward(*args: Any, **kwargs: Any) -> Any:
        with heard(listener):
            return inner(*args, **kwargs)

    module.forward = forward
    try:
        yield
    finally:
        if before is None:
            del module.forward
        else:
            module.forward = before


def of_heads(query: Tensor, key: Tensor, module: Any) -> Call:
    """What a processor asks scores of, (rows * heads, Q, E), by rows and heads."""
    heads = int(module.heads)
    if len(query) % heads:
        raise AttentionError(
            f"A processor asks for the scores of {len(query)} rows at a time in a module of "
            f"{heads} heads, a slice of the batch, and a map of its own row cannot be told. "
            "Switch it off with pipe.disable_attention_slicing()."
        )
    query, key = (one.unflatten(0, (-1, heads)) for one in (query, key))
    return Call(query, key, key, scale=getattr(module, "scale", 1 / math.sqrt(query.shape[-1])))


def compiled(root: nn.Module) -> bool:
    return hasattr(root, "_orig_mod") or getattr(root, "_compiled_call_impl", None) is not None


_installed: dict[nn.Module, Installation] = {}
_lock = threading.Lock()


@contextmanager
def installed(root: nn.Module, session: Hearing) -> Iterator[Installation]:
    """The model's installation, shared by all sessions that are open on it."""
    key = getattr(root, "_orig_mod", root)
    with _lock:
        installation = _installed.get(key)
        if installation is None:
            installation = _installed[key] = Installation(root)
            installation.open()
        installation.sessions.append(session)
    try:
        yield installation
    finally:
        with _lock:
            installation.sessions.remove(session)
            if not installation.sessions:
                del _installed[key]
                installation.close()
