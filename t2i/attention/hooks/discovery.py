"""Discovery of a model's sites by running it once, whatever its classes are called.

During one pass every module with children is kept on a stack while its forward runs; the innermost
one when attention is called is a site. Its arguments tell what the keys are, and the size of the
image there is that of the nearest module around it that takes an image.

B batch rows, T text tokens, N heads, K key positions, L any positions, D their width, C channels,
H W a size.
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
from t2i.attention.site import Site, SiteKind, find_place_in_unet
from t2i.errors import AttentionError

Size = tuple[int, int]

TEXT_ARGUMENT_NAMES = ("encoder_hidden_states", "key_value_states", "context")
"""Names of the argument that holds the text, or whatever else a module attends to."""
QUERY_LAYER_NAMES = ("to_q", "q_proj", "to_qkv", "qkv_proj", "c_attn", "query", "q")
"""Names of children; a module with one of these computes attention."""
IMAGE_PROMPT_ENCODERS = ("encoder_hid_proj", "image_proj")
"""Names of a denoiser's children that encode its image prompts (of SD3: `image_proj`), some of them
by attention of their own (IP-Adapter-Plus), which is over no text.
"""
TEXT_VALUE_LAYERS = {"add_v_proj": 1, "to_added_qkv": 3}
"""Layer that computes the text's attention values in joint attention -> number of equal chunks of
its output, of which the last holds the values."""


@dataclass(slots=True)
class RunningModule:
    """A module whose forward is running, with its arguments by name."""

    module: nn.Module
    arguments: Mapping[str, Any]
    called_attention: bool = False
    text_values_BTD: Tensor | None = None
    value_input_BKD: Tensor | None = None
    """Input of the child that computes its values."""

    @property
    def image_input(self) -> Tensor | None:
        """First tensor among the arguments of the running module, taken as its image input: (B, L,
        D) or (B, C, H, W); None if there is none.
        """
        return next((one for one in self.arguments.values() if isinstance(one, Tensor)), None)

    @property
    def text_input(self) -> Tensor | None:
        """Argument of the running module that holds the text embeddings (B, T, D); None if there is
        none.
        """
        for name in TEXT_ARGUMENT_NAMES:
            text = self.arguments.get(name)
            if isinstance(text, tuple | list) and text:  # with the tokens of image prompts
                text = text[0]
            if isinstance(text, Tensor):
                return text
        return None


@dataclass(slots=True)
class SiteDiscovery:
    """Discovery of a model's attention sites during one denoiser pass.

    names : names of the model's modules
    stack : modules whose forward is running, the innermost last
    bypassed : names of modules that computed attention without the tap
    text_first : True where the text comes first among the keys of joint attention, as in the sites
        seen so far
    thread : the only thread that is observed
    """

    names: Mapping[nn.Module, str]
    stack: list[RunningModule] = field(default_factory=list)
    bypassed: list[str] = field(default_factory=list)
    text_first: bool | None = None
    thread: int = field(default_factory=threading.get_ident)

    def find_site(self, call: AttentionInputs) -> Site | None:
        """Return the site of an attention call; None for attention over other things than the
        text's tokens and the image's positions, and while image prompts are encoded.

        Raises AttentionError where joint attention does not show where its text is.
        """
        if not self.stack or self._is_elsewhere:
            return None
        inner = self.stack[-1]
        inner.called_attention = True
        if isinstance(inner.module, nn.MultiheadAttention) and not inner.module.batch_first:
            return None  # its first axis is no axis of batch rows
        name = self.names[inner.module]
        if name.split(".")[0] in IMAGE_PROMPT_ENCODERS:
            return None
        queries, keys = call.query.shape[2], call.key.shape[2]
        kind, own, tokens = self._lengths(inner, queries, keys)
        if kind is None:
            return None
        text, image = (0, 0), (0, queries)
        if kind == "cross":
            text = (0, keys)
        elif kind == "joint":
            self._find_text_order(inner, call, tokens)
            text = (0, tokens) if self.text_first else (keys - tokens, keys)
            if queries == keys:
                image = (tokens, keys) if self.text_first else (0, own)
        size = self._size(image[1] - image[0])
        grid = self._grid()
        if kind == "joint" and size is None and grid is not None:
            end = image[0] + grid[0] * grid[1]
            size, image = (grid, (image[0], end)) if end < image[1] else (None, image)
        return Site(
            name, kind, find_place_in_unet(name), size, call.query.shape[1], keys, text, image
        )

    def _lengths(
        self, inner: RunningModule, queries: int, keys: int
    ) -> tuple[SiteKind | None, int, int]:
        """Return the kind, and the numbers of image positions and of text tokens."""
        own = _num_positions(inner.image_input)
        if inner.text_input is not None:
            tokens = _num_positions(inner.text_input)
            if keys == tokens:
                return "cross", queries, tokens
            return ("joint", own, tokens) if keys == own + tokens else (None, own, tokens)
        for outer in reversed(self.stack[:-1]):
            if outer.text_input is not None and outer.image_input is not None:
                tokens, image = _num_positions(outer.text_input), _num_positions(outer.image_input)
                if keys == own == tokens + image:
                    return "joint", image, tokens
                break
        return ("self", own, 0) if queries == keys else (None, own, 0)

    def _find_text_order(self, inner: RunningModule, call: AttentionInputs, tokens: int) -> None:
        """Note if the text comes first among the keys, by comparing them with it."""
        whole, text = call.value.transpose(1, 2).flatten(2), inner.text_values_BTD
        if text is None:  # both go through the same parts
            made_of, text = inner.value_input_BKD, inner.text_input
            if made_of is not None and made_of.shape[1] == call.key.shape[2]:
                whole = made_of
            else:
                text = None
        if text is not None:
            for first, side_BTD in ((True, whole[:, :tokens]), (False, whole[:, -tokens:])):
                if torch.equal(side_BTD, text.to(whole)):
                    self.text_first = first
                    return
        elif self.text_first is not None:  # put side by side before: as in the sites seen so far
            return
        raise AttentionError(
            f"{self.names[inner.module]!r} attends to text and picture together, and the text is "
            "neither at the beginning nor at the end of its keys: attend() cannot find its words "
            "there."
        )

    def _size(self, positions: int) -> Size | None:
        for running in reversed(self.stack):
            grid = grid_from_image_ids(running.arguments)
            if grid is not None and grid[0] * grid[1] == positions:
                return grid
            image = running.image_input
            if image is None or image.ndim != 4:
                continue
            height, width = image.shape[-2:]
            config = getattr(running.module, "config", {})
            patch = config.get("patch_size") if hasattr(config, "get") else None
            for side in (1, patch if isinstance(patch, int) else 1):
                if (height // side) * (width // side) == positions:
                    return height // side, width // side
        return None

    def _grid(self) -> Size | None:
        """Return H, W of the image that is made, where images to edit by follow it."""
        grids = (grid_from_image_ids(one.arguments) for one in reversed(self.stack))
        return next((grid for grid in grids if grid is not None), None)

    def build_bypass_message(self) -> str:
        """Return the error message that names the modules that computed attention without passing
        through the attention tap.
        """
        names = f"{len(self.bypassed)} attention modules never came to the tap, "
        names += f"{self.bypassed[0]!r} the first: "
        root, root_name = next(iter(self.names.items()))
        where = "the control's network" if root_name else "the pipeline's denoiser"
        if hasattr(root, "set_attn_implementation"):  # of transformers
            return names + (
                "their attention is computed another way than by torch's "
                "scaled_dot_product_attention. Call model.set_attn_implementation('sdpa'), or load "
                "the model with attn_implementation='sdpa', and try again."
            )
        return names + (
            "a backend or processor goes another way there (xformers, sliced, flex or sage "
            "attention). Take it off, with set_attention_backend('native') or "
            f"set_default_attn_processor() of {where}, and try again."
        )

    # hooks of the modules

    @property
    def _is_elsewhere(self) -> bool:
        return threading.get_ident() != self.thread

    def enter_module(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None
    ) -> None:
        """Forward pre-hook: put a module on the stack of running modules."""
        # NOTE a footgun: torch leaves out the kwargs where this thread took the hook away just when
        # another had begun to go through a module's
        if not self._is_elsewhere:
            self.stack.append(RunningModule(module, bind_arguments(module, args, kwargs or {})))

    def leave_module(self, module: nn.Module, *_: object) -> None:
        """Forward hook: take a module off the stack of running modules; note it if it computed
        attention without the tap.
        """
        if self._is_elsewhere or not self.stack or self.stack[-1].module is not module:
            return
        running = self.stack.pop()
        if not running.called_attention and not module._modules.keys().isdisjoint(
            QUERY_LAYER_NAMES
        ):
            self.bypassed.append(self.names[module])

    def store_value_input(self, owner: nn.Module, value_input: Tensor) -> None:
        """Store the input of the layer that computes the attention values of the module `owner`."""
        if self._is_elsewhere:
            return
        for running in reversed(self.stack):
            if running.module is owner:
                running.value_input_BKD = value_input
                return

    def store_text_values(self, owner: nn.Module, output: Tensor, parts: int) -> None:
        """Store the attention values of the text in the module `owner`: the last of `parts` equal
        chunks of the output of one of its layers.
        """
        if self._is_elsewhere:
            return
        for running in reversed(self.stack):
            if running.module is owner:
                running.text_values_BTD = output.chunk(parts, dim=-1)[-1]
                return


@contextmanager
def announcing_running_forward(module: nn.Module, arguments: Mapping[str, Any]) -> Iterator[None]:
    """Declare within the block that the forward of `module` is already running, so that a discovery
    of attention sites can start in the middle of it.
    """
    token = _open_forward.set(RunningModule(module, arguments))
    try:
        yield
    finally:
        _open_forward.reset(token)


_open_forward: ContextVar[RunningModule | None] = ContextVar("open_forward", default=None)


@contextmanager
def discovering_sites(root: nn.Module, names: Mapping[nn.Module, str]) -> Iterator[SiteDiscovery]:
    """Discover the attention sites of `root` while it runs inside the block.

    If its forward is already running, see `announcing_running_forward`, the rest of it is observed.
    """
    discovery = SiteDiscovery(names)
    under_way = _open_forward.get()
    if under_way is not None and under_way.module is root:
        discovery.stack.append(under_way)
    with ExitStack() as stack:

        def remove_later(handle: Any) -> None:
            stack.callback(handle.remove)

        for module in names:
            if not module._modules:
                continue
            remove_later(module.register_forward_pre_hook(discovery.enter_module, with_kwargs=True))
            remove_later(module.register_forward_hook(discovery.leave_module, always_call=True))
            values = module._modules.get("to_v")
            if values is not None:
                remove_later(values.register_forward_pre_hook(_input_hook(discovery, module)))
            for name, parts in TEXT_VALUE_LAYERS.items():
                values = module._modules.get(name)
                if values is not None:
                    note = _values_hook(discovery, module, parts)
                    remove_later(values.register_forward_hook(note))
        yield discovery


def _input_hook(discovery: SiteDiscovery, owner: nn.Module) -> Callable[..., None]:
    def note(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
        if args:
            discovery.store_value_input(owner, args[0])

    return note


def _values_hook(discovery: SiteDiscovery, owner: nn.Module, parts: int) -> Callable[..., None]:
    def note(_module: nn.Module, _args: object, output: Tensor) -> None:
        discovery.store_text_values(owner, output, parts)

    return note


def grid_from_image_ids(arguments: Mapping[str, Any]) -> Size | None:
    """Return the latents' grid (H, W) from a transformer's argument `img_ids`, the row and column
    of each image position; None without that argument.

    It is (L, 3) or (1, L, 3): 0 for the image itself, then the row and the column of a position.
    """
    ids = arguments.get("img_ids")
    if not isinstance(ids, Tensor):
        return None
    ids_L3 = ids[0] if ids.ndim == 3 else ids
    own_L3 = ids_L3[ids_L3[:, 0] == 0]
    if len(own_L3) == 0:
        return None
    return int(own_L3[:, -2].max()) + 1, int(own_L3[:, -1].max()) + 1


def _num_positions(tensor: Tensor | None) -> int:
    """Return the number of positions of a tensor (B, L, D) or (B, C, H, W)."""
    if tensor is None:
        return 0
    return int(tensor.shape[-2] * tensor.shape[-1] if tensor.ndim == 4 else tensor.shape[1])
