"""Finding the sites of a model by running it once, whatever its classes are called.

While a pass is under way every module with children notes that it is running; whoever runs
innermost when attention is called is a site. What it was given says what the keys are, and the
size of the picture there is that of the nearest module around it that was given a picture.

B batch rows, T text tokens, N heads, K key positions, E width of a head.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from t2i.attention.site import Kind, Place, Site
from t2i.attention.tap import Call

TEXT = ("encoder_hidden_states", "key_value_states", "context")
"""What modules call the text, or whatever else they attend to."""
PROJECTIONS = ("to_q", "q_proj")
"""A module that has one of these computes attention."""
PLACES: dict[str, Place] = {"down": "down", "mid": "mid", "up": "up"}


@dataclass(slots=True)
class Running:
    """A module whose forward is under way, and what it was given."""

    module: nn.Module
    given: Mapping[str, Any]
    heard: bool = False
    text_values_BTD: Tensor | None = None

    @property
    def picture(self) -> Tensor | None:
        """The first tensor it was given, (B, L, D) or (B, C, H, W)."""
        return next((one for one in self.given.values() if isinstance(one, Tensor)), None)

    @property
    def text(self) -> Tensor | None:
        for name in TEXT:
            given = self.given.get(name)
            if isinstance(given, tuple | list) and given:  # with the tokens of image prompts
                given = given[0]
            if isinstance(given, Tensor):
                return given
        return None


@dataclass(slots=True)
class Discovery:
    """One pass in which sites are found."""

    names: Mapping[nn.Module, str]
    stack: list[Running] = field(default_factory=list)
    bypassed: list[str] = field(default_factory=list)
    text_first: bool = True
    """In joint attention, as the sites seen so far have it."""

    def site(self, call: Call) -> Site | None:
        """The site that this call belongs to; None where it is not the text's, as the further
        calls that image prompts make."""
        if not self.stack:
            return None
        inner = self.stack[-1]
        inner.heard = True
        name = self.names[inner.module]
        queries, keys = call.query.shape[2], call.key.shape[2]
        kind, own, told = self._lengths(inner, queries, keys)
        if kind is None:
            return None
        text, image = (0, 0), (0, queries)
        if kind == "cross":
            text = (0, keys)
        elif kind == "joint":
            self._see_order(inner, call, told)
            text = (0, told) if self.text_first else (keys - told, keys)
            if queries == keys:
                image = (told, keys) if self.text_first else (0, own)
        size = self._size(image[1] - image[0])
        return Site(name, kind, place_of(name), size, call.query.shape[1], keys, text, image)

    def _lengths(self, inner: Running, queries: int, keys: int) -> tuple[Kind | None, int, int]:
        """The kind, and how many places of the picture and of the text there are."""
        own = length_of(inner.picture)
        if inner.text is not None:
            told = length_of(inner.text)
            if keys == told:
                return "cross", queries, told
            return ("joint", own, told) if keys == own + told else (None, own, told)
        for around in reversed(self.stack[:-1]):
            if around.text is not None and around.picture is not None:
                told, picture = length_of(around.text), length_of(around.picture)
                if keys == own == told + picture:
                    return "joint", picture, told
                break
        return ("self", own, 0) if queries == keys else (None, own, 0)

    def _see_order(self, inner: Running, call: Call, told: int) -> None:
        """Whether the text comes first among the keys, by looking for its values."""
        values = inner.text_values_BTD
        if values is None:
            return
        value_BKD = call.value.transpose(1, 2).flatten(2)
        if values.shape[-1] == value_BKD.shape[-1]:
            self.text_first = torch.equal(value_BKD[:, :told], values.to(value_BKD.dtype))

    def _size(self, positions: int) -> tuple[int, int] | None:
        for running in reversed(self.stack):
            ids = running.given.get("img_ids")
            if isinstance(ids, Tensor):
                height, width = (int(ids[..., axis].max()) + 1 for axis in (-2, -1))
                if height * width == positions:
                    return height, width
            picture = running.picture
            if picture is None or picture.ndim != 4:
                continue
            height, width = picture.shape[-2:]
            config = getattr(running.module, "config", {})
            patch = config.get("patch_size") if hasattr(config, "get") else None
            for side in (1, patch if isinstance(patch, int) else 1):
                if (height // side) * (width // side) == positions:
                    return height // side, width // side
        return None

    # what modules tell while they run

    def enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.stack.append(Running(module, named(module, args, kwargs)))

    def leave(self, module: nn.Module, *_: object) -> None:
        running = self.stack.pop()
        if not running.heard and any(hasattr(module, name) for name in PROJECTIONS):
            self.bypassed.append(self.names[module])

    def note_values(self, _module: nn.Module, _args: object, output: Tensor) -> None:
        if self.stack:
            self.stack[-1].text_values_BTD = output


@contextmanager
def discovering(root: nn.Module, names: Mapping[nn.Module, str]) -> Iterator[Discovery]:
    """Sites are found while `root` runs inside."""
    discovery = Discovery(names)
    with ExitStack() as stack:

        def remove_later(handle: Any) -> None:
            stack.callback(handle.remove)

        for module in root.modules():
            if next(module.children(), None) is None:
                continue
            remove_later(module.register_forward_pre_hook(discovery.enter, with_kwargs=True))
            remove_later(module.register_forward_hook(discovery.leave, always_call=True))
            values = getattr(module, "add_v_proj", None)
            if isinstance(values, nn.Module):
                remove_later(values.register_forward_hook(discovery.note_values))
        yield discovery


def named(module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
    """The arguments of a call by the names that the module's forward gives them."""
    forward: Callable[..., object] = module.forward
    try:
        return inspect.signature(forward).bind_partial(*args, **kwargs).arguments
    except (TypeError, ValueError):
        return {**{f"_{number}": one for number, one in enumerate(args)}, **kwargs}


def length_of(tensor: Tensor | None) -> int:
    """Positions of (B, L, D) or (B, C, H, W)."""
    if tensor is None:
        return 0
    return int(tensor.shape[-2] * tensor.shape[-1] if tensor.ndim == 4 else tensor.shape[1])


def place_of(name: str) -> Place:
    return next((place for part, place in PLACES.items() if name.startswith(f"{part}_block")), "")
