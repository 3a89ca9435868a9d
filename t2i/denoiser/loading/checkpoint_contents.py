"""What is in a single .safetensors file, told from the names and shapes in its header.

A checkpoint in the layout of the original Stable Diffusion code holds a whole model. Many other
files that people exchange look the same from outside: each is refused with what to do with it.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from t2i.denoiser.loading.model_parts import SDXL, STABLE_DIFFUSION
from t2i.denoiser.loading.unused_tensors import is_text_extra
from t2i.denoiser.loading.weight_checks import Shapes, read_shapes
from t2i.errors import ModelError
from t2i.safe_reading.tensors import open_tensors
from t2i.terminal import several

UNET = "model.diffusion_model."
VAE = "first_stage_model."
TEXTS = ("cond_stage_model.", "conditioner.")
MOST_TENSORS = 20_000
"""Of a file; the largest, SDXL with averaged weights beside the others, has half as many."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where a part lies in a checkpoint, and the class it becomes."""

    prefix: str
    class_name: str


@dataclass(frozen=True, slots=True)
class Family:
    """A kind of checkpoint; its configs are in the folder of this name among the assets."""

    name: str
    layout: str
    sources: Mapping[str, Source]
    pads: Mapping[str, str]
    """Tokenizer -> the token it fills a prompt up with."""


CLIP = Source("cond_stage_model.transformer.", "CLIPTextModel")
OPEN_CLIP = Source("cond_stage_model.model.", "CLIPTextModel")
FIRST_CLIP = Source("conditioner.embedders.0.transformer.", "CLIPTextModel")
SECOND_CLIP = Source("conditioner.embedders.1.model.", "CLIPTextModelWithProjection")
ONLY_SECOND_CLIP = Source("conditioner.embedders.0.model.", "CLIPTextModelWithProjection")
END, BANG = "<|endoftext|>", "!"


def family(name: str, layout: str, texts: Mapping[str, Source], pads: Mapping[str, str]) -> Family:
    always = {
        "unet": Source(UNET, "UNet2DConditionModel"),
        "vae": Source(VAE, "AutoencoderKL"),
    }
    return Family(name, layout, always | dict(texts), pads)


SD1 = family("sd1", STABLE_DIFFUSION, {"text_encoder": CLIP}, {"tokenizer": END})
SD2 = family("sd2", STABLE_DIFFUSION, {"text_encoder": OPEN_CLIP}, {"tokenizer": BANG})
XL = family(
    "sdxl",
    SDXL,
    {"text_encoder": FIRST_CLIP, "text_encoder_2": SECOND_CLIP},
    {"tokenizer": END, "tokenizer_2": BANG},
)
REFINER = family("sdxl-refiner", SDXL, {"text_encoder_2": ONLY_SECOND_CLIP}, {"tokenizer_2": BANG})

WIDTHS = {768: SD1, 1024: SD2, 2048: XL, 1280: REFINER}
"""Width of the text that a UNet reads -> its family, for files without text encoders."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A whole model in one file."""

    path: Path
    family: Family
    shapes: Shapes
    prediction_type: str
    zero_snr: bool
    """Trained on a schedule whose last step is pure noise."""

    @property
    def channels(self) -> int:
        """That the UNet reads: those of the latents, or more where it is made for inpainting."""
        return self.shapes[f"{UNET}input_blocks.0.0.weight"][1]

    def part(self, part: str) -> Shapes:
        """The part's tensors under the names they have in the file."""
        prefix = self.family.sources[part].prefix
        return {name: shape for name, shape in self.shapes.items() if name.startswith(prefix)}

    def extras(self, part: str) -> list[str]:
        """Of these, what a text encoder carries along and does not have."""
        prefix = self.family.sources[part].prefix
        if not part.startswith("text"):
            return []
        own = ("text_projection", "text_projection.weight") if part == "text_encoder_2" else ()
        bare = {name: name.removeprefix(prefix) for name in self.part(part)}
        return [name for name, end in bare.items() if is_text_extra(end) and end not in own]

    def beside(self, given: Collection[str] = ()) -> list[str]:
        """The tensors that are of no part; those of any text encoder where all of these are given
        with the model."""
        prefixes = tuple(source.prefix for source in self.family.sources.values())
        if all(part in given for part in self.family.sources if part.startswith("text")):
            prefixes += TEXTS
        return [name for name in self.shapes if not name.startswith(prefixes)]


def recognise(path: Path) -> Checkpoint:
    """Read the header of a checkpoint. Raises ModelError for what is no whole model known here."""
    shapes = read_shapes(path)
    if len(shapes) > MOST_TENSORS:
        raise ModelError(
            f"Refused {path}: it has {several(len(shapes), 'tensor')}, expected at most "
            f"{MOST_TENSORS}."
        )
    if len(shapes.get(f"{UNET}input_blocks.0.0.weight", ())) != 4:
        raise ModelError(f"{path} {other_kind(shapes)}")
    for name, kind in NEIGHBOURS.items():
        if name in shapes:
            raise ModelError(f"{path} is a checkpoint of {kind}, which cannot be loaded yet.")
    found = family_of(path, shapes)
    inpaints = shapes[f"{UNET}input_blocks.0.0.weight"][1] > 4
    prediction_type = told_prediction(path, shapes)
    if prediction_type is None:
        prediction_type = "v_prediction" if found is SD2 and not inpaints else "epsilon"
    return Checkpoint(path, found, shapes, prediction_type, zero_snr="ztsnr" in shapes)


def family_of(path: Path, shapes: Shapes) -> Family:
    for known in (XL, REFINER, SD2, SD1):
        prefixes = tuple(known.sources[part].prefix for part in known.sources if "text" in part)
        if all(any(name.startswith(prefix) for name in shapes) for prefix in prefixes):
            return known
    widths = {
        shape[-1]
        for name, shape in shapes.items()
        if name.startswith(UNET) and name.endswith(".attn2.to_k.weight") and shape
    }
    for width in widths & WIDTHS.keys():
        return WIDTHS[width]
    raise ModelError(
        f"{path} has the UNet of an unknown family: no text encoder that is known here, and text "
        f"of width {', '.join(map(str, sorted(widths))) or 'none'}, expected "
        f"{', '.join(map(str, sorted(WIDTHS)))}."
    )


def told_prediction(path: Path, shapes: Shapes) -> str | None:
    """What the file itself says of its prediction, in modelspec metadata or by a marker tensor."""
    with open_tensors(path) as file:
        metadata = file.metadata() or {}
    said = metadata.get("modelspec.prediction_type", "").lower()
    architecture = metadata.get("modelspec.architecture", "").lower()
    if said in ("v", "v_prediction") or "v_pred" in shapes:
        return "v_prediction"
    if said in ("eps", "epsilon"):
        return "epsilon"
    if architecture.startswith("stable-diffusion-v2"):
        return "v_prediction" if "768-v" in architecture else "epsilon"
    return None


def other_kind(shapes: Shapes) -> str:
    """What a file is that holds no UNet in the original layout, and what to do with it."""
    for marks, answer in OTHERS:
        if any(mark in name for name in shapes for mark in marks):
            return answer
    if 0 < len(shapes) <= 4 and all(len(shape) <= 2 for shape in shapes.values()):
        return EMBEDDING
    return (
        "holds no model known here: expected a checkpoint of Stable Diffusion 1, 2 or XL in the "
        f"original layout, with tensors such as {UNET}input_blocks.0.0.weight."
    )


NEIGHBOURS = {"edm_mean": "Playground 2.5"}
"""A tensor -> the model that has it beside an SDXL of other noise."""

EMBEDDING = (
    "is an embedding (textual inversion), not a model: load it with "
    "pipe.load_textual_inversion(...)."
)

OTHERS: tuple[tuple[tuple[str, ...], str], ...] = (
    (
        ("lora_", ".lora.", ".lokr_", ".hada_", ".oft_", ".dora_scale"),
        "is a LoRA, not a model: load a model, then it with pipe.load_lora_weights(...).",
    ),
    (
        ("ip_adapter.", "image_proj."),
        "is an IP-Adapter, not a model: load it with pipe.load_ip_adapter(...).",
    ),
    (("emb_params", "string_to_param"), EMBEDDING),
    (
        ("control_model.", "controlnet_cond_embedding.", "input_hint_block."),
        "is a ControlNet, not a model: give the path of the model that it controls.",
    ),
    (
        ("double_blocks.", "joint_blocks.", "single_transformer_blocks."),
        "is a checkpoint of a transformer such as Flux or Stable Diffusion 3, which cannot be "
        "loaded yet: expected Stable Diffusion 1, 2 or XL.",
    ),
    (
        ("down_blocks.", "up_blocks."),
        "is one part of a model in diffusers' layout: give the path of the whole model folder.",
    ),
    (
        ("encoder.down.", "decoder.up."),
        "is an autoencoder (VAE) alone, not a model: load it with "
        "diffusers.AutoencoderKL.from_single_file(...) and give it as vae=... beside a model.",
    ),
    (
        ("resblocks.", "text_model.encoder."),
        "is a text encoder alone, not a model: give the path of the whole model.",
    ),
)
"""Parts of names -> what a file with such tensors is. The first that fits counts."""
