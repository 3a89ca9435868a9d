"""Identifying a single .safetensors file by the names and shapes in its header.

A checkpoint in the format of the original Stable Diffusion code holds a complete model. Other kinds
of files with the same extension are refused with advice.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from t2i.denoiser.loading.model_parts import SDXL, STABLE_DIFFUSION
from t2i.denoiser.loading.unused_tensors import is_unused_text_tensor
from t2i.denoiser.loading.weight_checks import Shapes, read_tensor_shapes
from t2i.errors import ModelError
from t2i.safe_reading.tensors import open_tensors
from t2i.terminal import plural

UNET_PREFIX = "model.diffusion_model."
VAE_PREFIX = "first_stage_model."
TEXT_ENCODER_PREFIXES = ("cond_stage_model.", "conditioner.")
MAX_TENSORS = 20_000
"""Largest number of tensors in a file; SDXL with EMA weights has half as many."""


@dataclass(frozen=True, slots=True)
class PartLocation:
    """Location of a model part in a checkpoint: the prefix of its tensors, and its class."""

    prefix: str
    class_name: str


@dataclass(frozen=True, slots=True)
class CheckpointFamily:
    """Description of the single-file checkpoints of one architecture, such as SD 1, SD 2 or SDXL:
    where in the file each part's tensors are.
    """

    name: str
    model_kind: str
    sources: Mapping[str, PartLocation]
    pads: Mapping[str, str]
    """Tokenizer -> the token it fills a prompt up with."""


CLIP = PartLocation("cond_stage_model.transformer.", "CLIPTextModel")
OPEN_CLIP = PartLocation("cond_stage_model.model.", "CLIPTextModel")
FIRST_CLIP = PartLocation("conditioner.embedders.0.transformer.", "CLIPTextModel")
SECOND_CLIP = PartLocation("conditioner.embedders.1.model.", "CLIPTextModelWithProjection")
ONLY_SECOND_CLIP = PartLocation("conditioner.embedders.0.model.", "CLIPTextModelWithProjection")
END_TOKEN, BANG_TOKEN = "<|endoftext|>", "!"


def build_checkpoint_family(
    name: str, model_kind: str, texts: Mapping[str, PartLocation], pads: Mapping[str, str]
) -> CheckpointFamily:
    """Build a checkpoint family from its text encoders; UNet and VAE locations are the same in
    all.
    """
    always = {
        "unet": PartLocation(UNET_PREFIX, "UNet2DConditionModel"),
        "vae": PartLocation(VAE_PREFIX, "AutoencoderKL"),
    }
    return CheckpointFamily(name, model_kind, always | dict(texts), pads)


SD1 = build_checkpoint_family(
    "sd1", STABLE_DIFFUSION, {"text_encoder": CLIP}, {"tokenizer": END_TOKEN}
)
SD2 = build_checkpoint_family(
    "sd2", STABLE_DIFFUSION, {"text_encoder": OPEN_CLIP}, {"tokenizer": BANG_TOKEN}
)
XL = build_checkpoint_family(
    "sdxl",
    SDXL,
    {"text_encoder": FIRST_CLIP, "text_encoder_2": SECOND_CLIP},
    {"tokenizer": END_TOKEN, "tokenizer_2": BANG_TOKEN},
)
REFINER = build_checkpoint_family(
    "sdxl-refiner", SDXL, {"text_encoder_2": ONLY_SECOND_CLIP}, {"tokenizer_2": BANG_TOKEN}
)

FAMILY_BY_TEXT_WIDTH = {768: SD1, 1024: SD2, 2048: XL, 1280: REFINER}
"""Width of the text that a UNet reads -> its family, for files without text encoders."""


@dataclass(frozen=True, slots=True)
class SingleFileCheckpoint:
    """One .safetensors file with a whole model in the original Stable Diffusion format, identified
    by its header: family, tensor shapes and prediction type.
    """

    path: Path
    family: CheckpointFamily
    shapes: Shapes
    prediction_type: str
    zero_snr: bool
    """Trained on a schedule whose last step is pure noise."""

    @property
    def unet_in_channels(self) -> int:
        """Number of input channels of the UNet: those of the latents, or more for inpainting."""
        return self.shapes[f"{UNET_PREFIX}input_blocks.0.0.weight"][1]

    def select_part_shapes(self, part: str) -> Shapes:
        """Return the shapes of a model part's tensors by their names in the file."""
        prefix = self.family.sources[part].prefix
        return {name: shape for name, shape in self.shapes.items() if name.startswith(prefix)}

    def list_unused_text_tensors(self, part: str) -> list[str]:
        """Return the names of a text encoder's tensors in the file that its class does not use."""
        prefix = self.family.sources[part].prefix
        if not part.startswith("text"):
            return []
        own = ("text_projection", "text_projection.weight") if part == "text_encoder_2" else ()
        bare = {name: name.removeprefix(prefix) for name in self.select_part_shapes(part)}
        return [name for name, end in bare.items() if is_unused_text_tensor(end) and end not in own]

    def list_tensors_outside_parts(self, given: Collection[str] = ()) -> list[str]:
        """Return the names of the tensors in the file that belong to no model part.

        given : parts that the caller supplies; with all text encoders, none of theirs count
        """
        prefixes = tuple(source.prefix for source in self.family.sources.values())
        if all(part in given for part in self.family.sources if part.startswith("text")):
            prefixes += TEXT_ENCODER_PREFIXES
        return [name for name in self.shapes if not name.startswith(prefixes)]


def identify_checkpoint(path: Path) -> SingleFileCheckpoint:
    """Identify a single-file checkpoint by its header alone: return its family, tensor shapes and
    prediction type. Raises ModelError for an unsupported model.
    """
    shapes = read_tensor_shapes(path)
    if len(shapes) > MAX_TENSORS:
        raise ModelError(
            f"Refused {path}: it has {plural(len(shapes), 'tensor')}, expected at most "
            f"{MAX_TENSORS}."
        )
    if len(shapes.get(f"{UNET_PREFIX}input_blocks.0.0.weight", ())) != 4:
        raise ModelError(f"{path} {describe_unsupported_file(shapes)}")
    for name, kind in UNSUPPORTED_MARKERS.items():
        if name in shapes:
            raise ModelError(f"{path} is a checkpoint of {kind}, which cannot be loaded yet.")
    found = infer_checkpoint_family(path, shapes)
    inpaints = shapes[f"{UNET_PREFIX}input_blocks.0.0.weight"][1] > 4
    prediction_type = read_declared_prediction_type(path, shapes)
    if prediction_type is None:
        prediction_type = "v_prediction" if found is SD2 and not inpaints else "epsilon"
    return SingleFileCheckpoint(path, found, shapes, prediction_type, zero_snr="ztsnr" in shapes)


def infer_checkpoint_family(path: Path, shapes: Shapes) -> CheckpointFamily:
    """Infer the architecture family of a single-file checkpoint from its text encoders, or from the
    UNet's text width.
    """
    for known in (XL, REFINER, SD2, SD1):
        prefixes = tuple(known.sources[part].prefix for part in known.sources if "text" in part)
        if all(any(name.startswith(prefix) for name in shapes) for prefix in prefixes):
            return known
    widths = {
        shape[-1]
        for name, shape in shapes.items()
        if name.startswith(UNET_PREFIX) and name.endswith(".attn2.to_k.weight") and shape
    }
    for width in widths & FAMILY_BY_TEXT_WIDTH.keys():
        return FAMILY_BY_TEXT_WIDTH[width]
    raise ModelError(
        f"{path} has the UNet of an unknown family: no text encoder that is known here, and text "
        f"of width {', '.join(map(str, sorted(widths))) or 'none'}, expected "
        f"{', '.join(map(str, sorted(FAMILY_BY_TEXT_WIDTH)))}."
    )


def read_declared_prediction_type(path: Path, shapes: Shapes) -> str | None:
    """Return the prediction type, "epsilon" or "v_prediction", that a checkpoint's metadata or a
    marker tensor declares, or None.
    """
    with open_tensors(path) as file:
        metadata = file.metadata() or {}
    declared = metadata.get("modelspec.prediction_type", "").lower()
    architecture = metadata.get("modelspec.architecture", "").lower()
    if declared in ("v", "v_prediction") or "v_pred" in shapes:
        return "v_prediction"
    if declared in ("eps", "epsilon"):
        return "epsilon"
    if architecture.startswith("stable-diffusion-v2"):
        return "v_prediction" if "768-v" in architecture else "epsilon"
    return None


def describe_unsupported_file(shapes: Shapes) -> str:
    """Return the error message for a safetensors file without a known UNet: what the file probably
    is, such as a LoRA, and how to use it.
    """
    for marks, answer in OTHER_FILE_MESSAGES:
        if any(mark in name for name in shapes for mark in marks):
            return answer
    if 0 < len(shapes) <= 4 and all(len(shape) <= 2 for shape in shapes.values()):
        return EMBEDDING_FILE_MESSAGE
    return (
        "holds no model known here: expected a checkpoint of Stable Diffusion 1, 2 or XL in the "
        f"original format, with tensors such as {UNET_PREFIX}input_blocks.0.0.weight."
    )


UNSUPPORTED_MARKERS = {"edm_mean": "Playground 2.5"}
"""A tensor -> the model that has it beside an SDXL of other noise."""

EMBEDDING_FILE_MESSAGE = (
    "is an embedding (textual inversion), not a model: load it with "
    "pipe.load_textual_inversion(...)."
)

OTHER_FILE_MESSAGES: tuple[tuple[tuple[str, ...], str], ...] = (
    (
        ("lora_", ".lora.", ".lokr_", ".hada_", ".oft_", ".dora_scale"),
        "is a LoRA, not a model: load a model, then it with pipe.load_lora_weights(...).",
    ),
    (
        ("ip_adapter.", "image_proj."),
        "is an IP-Adapter, not a model: load it with pipe.load_ip_adapter(...).",
    ),
    (("emb_params", "string_to_param"), EMBEDDING_FILE_MESSAGE),
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
        "is one part of a model in diffusers' format: give the path of the whole model folder.",
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
