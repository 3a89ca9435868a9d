"""Finding the sites of a model by running it once, whatever its classes are called.

While a pass is under way every module with children notes that it is running; whoever runs
innermost when attention is called is a site. What it was given says what the keys are, and the
size of the picture there is that of the nearest module around it that was given a picture.

B batch rows, T text tokens, N heads, K key positions, E width of a head.
"""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from t2i.attention.compute.tap import AttentionInputs
from t2i.attention.hooks.forward_arguments import bind_arguments
from t2i.attention.site import Kind, Place, Site
from t2i.errors import AttentionError

Size = tuple[int, int]

TEXT = ("encoder_hidden_states", "key_value_states", "context")
"""What modules call the text, or whatever else they attend to."""
PROJECTIONS = ("to_q", "q_proj", "to_qkv", "qkv_proj", "c_attn", "query", "q")
"""A module that has one of these computes attention."""
TEXT_VALUES = {"add_v_proj": 1, "to_added_qkv": 3}
"""Parts that make the text's values in joint attention: theirs is the last of so many outputs."""
PLACES: dict[str, Place] = {"down": "down", "mid": "mid", "up": "up"}


@dataclass(slots=True)
class Running:
    """A module whose forward is under way, and what it was given."""

    module: nn.Module
    given: Mapping[str, Any]
    heard: bool = False
    text_values_BTD: Tensor | None = None
    values_made_of_BKD: Tensor | None = None
    """What the part that makes its values was given."""

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
    """Modules that computed attention out of the tap's hearing."""
    text_first: bool | None = None
    """In joint attention, as the sites seen so far have it."""
    thread: int = field(default_factory=threading.get_ident)
    """Another that runs the same model meanwhile is not heard."""

    def site(self, call: AttentionInputs) -> Site | None:
        """The site that this call belongs to; None where it is not the text's, as the further
        calls that image prompts make."""
        if not self.stack or self._is_elsewhere:
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
        grid = self._grid()
        if kind == "joint" and size is None and grid is not None:
            end = image[0] + grid[0] * grid[1]
            size, image = (grid, (image[0], end)) if end < image[1] else (None, image)
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

    def _see_order(self, inner: Running, call: AttentionInputs, told: int) -> None:
        """Whether the text comes first among the keys, by looking for it there."""
        whole, text = call.value.transpose(1, 2).flatten(2), inner.text_values_BTD
        if text is None:  # both go through the same parts
            made_of, text = inner.values_made_of_BKD, inner.text
            if made_of is not None and made_of.shape[1] == call.key.shape[2]:
                whole = made_of
            else:
                text = None
        if text is not None:
            for first, side_BTD in ((True, whole[:, :told]), (False, whole[:, -told:])):
                if torch.equal(side_BTD, text.to(whole)):
                    self.text_first = first
                    return
        elif self.text_first is not None:  # put side by side before: as in the sites seen so far
            return
        raise AttentionError(
            f"{self.names[inner.module]!r} looks at text and picture together, and the text "
            "is seen neither at the beginning nor at the end of its keys: attend() cannot tell its "
            "words there."
        )

    def _size(self, positions: int) -> Size | None:
        for running in reversed(self.stack):
            grid = grid_of_ids(running.given)
            if grid is not None and grid[0] * grid[1] == positions:
                return grid
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

    def _grid(self) -> Size | None:
        """Return H, W of the image that is made, where images to edit by follow it."""
        grids = (grid_of_ids(one.given) for one in reversed(self.stack))
        return next((grid for grid in grids if grid is not None), None)

    def bypass(self) -> str:
        """The message for modules whose attention never came to the tap."""
        names = f"{len(self.bypassed)} attention modules never came to the tap, "
        names += f"{self.bypassed[0]!r} the first: "
        root = next(iter(self.names))
        if hasattr(root, "set_attn_implementation"):  # of transformers
            return names + (
                "their attention is computed another way than by torch's "
                "scaled_dot_product_attention. Call model.set_attn_implementation('sdpa'), or load "
                "the model with attn_implementation='sdpa', and try again."
            )
        return names + (
            "a backend or processor goes another way there (xformers, sliced, flex or sage "
            "attention). Take it off, with set_attention_backend('native') or "
            "set_default_attn_processor() of the pipeline's denoiser, and try again."
        )

    # what modules tell while they run

    @property
    def _is_elsewhere(self) -> bool:
        return threading.get_ident() != self.thread

    def enter(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None
    ) -> None:
        # NOTE a footgun: torch leaves out the kwargs where this thread took the hook away just when
        # another had begun to go through a module's
        if not self._is_elsewhere:
            self.stack.append(Running(module, bind_arguments(module, args, kwargs or {})))

    def leave(self, module: nn.Module, *_: object) -> None:
        if self._is_elsewhere or not self.stack or self.stack[-1].module is not module:
            return
        running = self.stack.pop()
        if not running.heard and not module._modules.keys().isdisjoint(PROJECTIONS):
            self.bypassed.append(self.names[module])

    def note_input(self, owner: nn.Module, given: Tensor) -> None:
        if self._is_elsewhere:
            return
        for running in reversed(self.stack):
            if running.module is owner:
                running.values_made_of_BKD = given
                return

    def note_values(self, owner: nn.Module, output: Tensor, parts: int) -> None:
        """What a part of `owner` made of the text, the values last among `parts`."""
        if self._is_elsewhere:
            return
        for running in reversed(self.stack):
            if running.module is owner:
                running.text_values_BTD = output.chunk(parts, dim=-1)[-1]
                return


@contextmanager
def open_forward(module: nn.Module, given: Mapping[str, Any]) -> Iterator[None]:
    """The forward of `module` is under way, though nobody listened when it began."""
    token = _open_forward.set(Running(module, given))
    try:
        yield
    finally:
        _open_forward.reset(token)


_open_forward: ContextVar[Running | None] = ContextVar("open_forward", default=None)


@contextmanager
def discovering(root: nn.Module, names: Mapping[nn.Module, str]) -> Iterator[Discovery]:
    """Sites are found while `root` runs inside, or the rest of its forward."""
    discovery = Discovery(names)
    under_way = _open_forward.get()
    if under_way is not None and under_way.module is root:
        discovery.stack.append(under_way)
    with ExitStack() as stack:

        def remove_later(handle: Any) -> None:
            stack.callback(handle.remove)

        for module in names:
            if not module._modules:
                continue
            remove_later(module.register_forward_pre_hook(discovery.enter, with_kwargs=True))
            remove_later(module.register_forward_hook(discovery.leave, always_call=True))
            values = module._modules.get("to_v")
            if values is not None:
                remove_later(values.register_forward_pre_hook(input_noted(discovery, module)))
            for name, parts in TEXT_VALUES.items():
                values = module._modules.get(name)
                if values is not None:
                    note = values_noted(discovery, module, parts)
                    remove_later(values.register_forward_hook(note))
        yield discovery


def input_noted(discovery: Discovery, owner: nn.Module) -> Callable[..., None]:
    def note(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
        if args:
            discovery.note_input(owner, args[0])

    return note


def values_noted(discovery: Discovery, owner: nn.Module, parts: int) -> Callable[..., None]:
    def note(_module: nn.Module, _args: object, output: Tensor) -> None:
        discovery.note_values(owner, output, parts)

    return note


def grid_of_ids(given: Mapping[str, Any]) -> Size | None:
    """H, W of the picture, where a model is told the places of its parts: (L, 3), of which the
    first is 0 for the picture itself, and the others are its row and column."""
    ids = given.get("img_ids")
    if not isinstance(ids, Tensor):
        return None
    ids_L3 = ids[0] if ids.ndim == 3 else ids
    own_L3 = ids_L3[ids_L3[:, 0] == 0]
    if len(own_L3) == 0:
        return None
    return int(own_L3[:, -2].max()) + 1, int(own_L3[:, -1].max()) + 1


def length_of(tensor: Tensor | None) -> int:
    """Positions of (B, L, D) or (B, C, H, W)."""
    if tensor is None:
        return 0
    return int(tensor.shape[-2] * tensor.shape[-1] if tensor.ndim == 4 else tensor.shape[1])


def place_of(name: str) -> Place:
    return next((place for part, place in PLACES.items() if name.startswith(f"{part}_block")), "")
