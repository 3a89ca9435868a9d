"""Supported kinds of model: their parts, and the classes allowed for each part."""

from collections.abc import Collection
from dataclasses import dataclass
from types import MappingProxyType

import diffusers

STABLE_DIFFUSION = "Stable Diffusion"
SDXL = "Stable Diffusion XL"
KANDINSKY = "Kandinsky 2.2 decoder"
KANDINSKY_PRIOR = "Kandinsky 2.2 prior"


@dataclass(frozen=True, slots=True)
class ModelKind:
    """Supported kind of model, such as SDXL: the parts that its folder must have, those that it has
    together or not at all, and the optional ones.
    """

    name: str
    required: tuple[str, ...]
    together: tuple[str, ...] = ()
    """All of these, or none: the refiner of SDXL has only the second text encoder, and a decoder
    of Kandinsky need not have a prior."""
    optional: tuple[str, ...] = ()

    @property
    def part_names(self) -> tuple[str, ...]:
        """Names of all parts that such a model folder may have: required, together and optional."""
        return self.required + self.together + self.optional


PRIOR_PARTS = ("prior", "text_encoder", "tokenizer", "scheduler", "image_encoder")
"""Parts of a prior; in one folder with its decoder they are prefixed with "prior_"."""

MODEL_KINDS = {
    model_kind.name: model_kind
    for model_kind in (
        ModelKind(
            STABLE_DIFFUSION,
            required=("unet", "vae", "text_encoder", "tokenizer", "scheduler"),
            optional=("feature_extractor", "image_encoder"),
        ),
        ModelKind(
            SDXL,
            required=("unet", "vae", "text_encoder_2", "tokenizer_2", "scheduler"),
            together=("text_encoder", "tokenizer"),
            optional=("feature_extractor", "image_encoder"),
        ),
        ModelKind(
            KANDINSKY,
            required=("unet", "movq", "scheduler"),
            together=tuple(f"prior_{part}" for part in PRIOR_PARTS),
            optional=("prior_image_processor",),
        ),
        ModelKind(KANDINSKY_PRIOR, required=PRIOR_PARTS, optional=("image_processor",)),
    )
}

MODEL_KIND_BY_PIPELINE = {
    "KandinskyV22CombinedPipeline": KANDINSKY,
    "KandinskyV22Img2ImgCombinedPipeline": KANDINSKY,
    "KandinskyV22Img2ImgPipeline": KANDINSKY,
    "KandinskyV22InpaintPipeline": KANDINSKY,
    "KandinskyV22Pipeline": KANDINSKY,
    "KandinskyV22PriorEmb2EmbPipeline": KANDINSKY_PRIOR,
    "KandinskyV22PriorPipeline": KANDINSKY_PRIOR,
    "LatentConsistencyModelImg2ImgPipeline": STABLE_DIFFUSION,
    "LatentConsistencyModelPipeline": STABLE_DIFFUSION,
    "StableDiffusionImg2ImgPipeline": STABLE_DIFFUSION,
    "StableDiffusionInpaintPipeline": STABLE_DIFFUSION,
    "StableDiffusionPAGPipeline": STABLE_DIFFUSION,
    "StableDiffusionPipeline": STABLE_DIFFUSION,
    "StableDiffusionXLImg2ImgPipeline": SDXL,
    "StableDiffusionXLInpaintPipeline": SDXL,
    "StableDiffusionXLPAGPipeline": SDXL,
    "StableDiffusionXLPipeline": SDXL,
    "TextToImagePipeline": STABLE_DIFFUSION,  # ours, with a text encoder diffusers does not read
}
"""The _class_name in a model_index.json -> name of the kind of model."""

TEXT_ENCODERS = {
    "BertModel",
    "CLIPTextModel",
    "CLIPTextModelWithProjection",
    "GPT2Model",
    "T5EncoderModel",
}
TOKENIZERS = {
    "BertTokenizer",
    "BertTokenizerFast",
    "CLIPTokenizer",
    "CLIPTokenizerFast",
    "GPT2Tokenizer",
    "GPT2TokenizerFast",
    "PreTrainedTokenizerFast",
    "T5Tokenizer",
    "T5TokenizerFast",
    "TokenizersBackend",  # what transformers 5 calls PreTrainedTokenizerFast
}
IMAGE_PROCESSORS = {"CLIPFeatureExtractor", "CLIPImageProcessor", "CLIPImageProcessorPil"}
SCHEDULERS = {name for name in dir(diffusers) if name.endswith("Scheduler")}

CLASSES_BY_PART: dict[str, tuple[str, Collection[str]]] = {
    "unet": ("diffusers", {"UNet2DConditionModel"}),
    "vae": ("diffusers", {"AutoencoderKL", "AutoencoderTiny"}),
    "movq": ("diffusers", {"VQModel"}),
    "text_encoder": ("transformers", TEXT_ENCODERS),
    "text_encoder_2": ("transformers", {"CLIPTextModelWithProjection"}),
    "tokenizer": ("transformers", TOKENIZERS),
    "tokenizer_2": ("transformers", {"CLIPTokenizer", "CLIPTokenizerFast"}),
    "scheduler": ("diffusers", SCHEDULERS),
    "prior": ("diffusers", {"PriorTransformer"}),
    "feature_extractor": ("transformers", IMAGE_PROCESSORS),
    "image_processor": ("transformers", IMAGE_PROCESSORS),
    "image_encoder": ("transformers", {"CLIPVisionModelWithProjection"}),
}
ALLOWED_CLASSES_BY_PRIOR_PART: dict[str, tuple[str, Collection[str]]] = {
    f"prior_{part}": CLASSES_BY_PART[part] for part in (*PRIOR_PARTS, "image_processor")
} | {
    "prior_scheduler": ("diffusers", {"UnCLIPScheduler"}),
    "prior_text_encoder": ("transformers", {"CLIPTextModelWithProjection"}),
}

ALLOWED_CLASSES_BY_PART: MappingProxyType[str, tuple[str, Collection[str]]] = MappingProxyType(
    CLASSES_BY_PART | ALLOWED_CLASSES_BY_PRIOR_PART
)
"""Part -> the library and the classes it may come from; nothing else is ever imported."""

ALLOWED_LIBRARIES = {None, "diffusers", "stable_diffusion", "transformers"}
"""Libraries that entries of other, ignored parts may name."""
