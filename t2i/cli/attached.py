"""What is attached to a pipeline beside its own parts: LoRAs, learned words, an IP-Adapter.

All through diffusers' own loaders. What a request does not ask for is taken off again, so that its
picture is the same whatever was drawn before it.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from t2i.cli.found import IMAGE_ENCODER, check_unchanged, files_of
from t2i.cli.quiet import quietly
from t2i.cli.request import Request
from t2i.cli.sources import Embedding, File, Scaled
from t2i.denoiser.folder import check_part
from t2i.denoiser.weights import read_shapes
from t2i.errors import ModelError, T2IError

if TYPE_CHECKING:
    from pipelines.pipeline import Pipeline

OF_TWO = {"clip_l": "", "clip_g": "_2"}
"""Keys of an embedding for SDXL: the ending of the text encoder and tokenizer that each is for."""
NAMELESS = "emb_params"
"""The key of an embedding that has no name of its own but that of its file."""
PICTURES = ("image_prompt", "image", "mask")


class Attached:
    """A pipeline, and what is attached to it now."""

    def __init__(self, pipe: "Pipeline") -> None:
        self.pipe: Any = pipe
        self.loras: tuple[Scaled, ...] = ()
        self.embeddings: tuple[Embedding, ...] = ()
        self.ip_adapter: File | None = None
        self._words: dict[str, Any] = {}
        self._sight: dict[str, Any] = {}

    def fit(self, request: Request) -> None:
        """Attach what the request asks for and nothing else.

        Raises ModelError for a file that does not fit the model, DataError for a picture that is
        not the one that was asked for.
        """
        for name, file in files_of(request):
            if name in PICTURES:
                check_unchanged(name, file)
        if request.embeddings != self.embeddings:
            self.forget_words()
            self.learn(request.embeddings)
        if request.loras != self.loras:
            self.take_off_loras()
            self.put_on(request.loras)
        if request.ip_adapter != self.ip_adapter:
            self.close_eyes()
            if request.ip_adapter is not None:
                self.open_eyes(request.ip_adapter)
        if request.image_prompt is not None:
            self.pipe.set_ip_adapter_scale(request.image_prompt.scale)

    def put_on(self, loras: tuple[Scaled, ...]) -> None:
        names = [f"lora{number}" for number in range(len(loras))]
        try:
            for name, lora in zip(names, loras, strict=True):
                path = check_unchanged("loras", lora)
                with fitting("LoRA", lora):
                    self.pipe.load_lora_weights(
                        str(path.parent),
                        weight_name=path.name,
                        adapter_name=name,
                        use_safetensors=True,
                        local_files_only=True,
                    )
                    if not any(name in on for on in self.pipe.get_list_adapters().values()):
                        raise ValueError("no layer of the model has the name of one of its own")
            if loras:
                self.pipe.set_adapters(names, adapter_weights=[lora.scale for lora in loras])
        except BaseException:
            self.take_off_loras()
            raise
        self.loras = loras

    def take_off_loras(self) -> None:
        if self.pipe.get_list_adapters():
            self.pipe.unload_lora_weights()
        self.loras = ()

    def learn(self, embeddings: tuple[Embedding, ...]) -> None:
        """Add words to copies of the tokenizers; the encoders' own tables are kept aside."""
        if not embeddings:
            return
        for end in ("", "_2"):
            if (encoder := getattr(self.pipe, f"text_encoder{end}")) is not None:
                tokenizer = getattr(self.pipe, f"tokenizer{end}")
                table = encoder.get_input_embeddings()
                self._words[end] = (tokenizer, table, encoder.config.vocab_size)
                setattr(self.pipe, f"tokenizer{end}", copy.deepcopy(tokenizer))
        try:
            for embedding in embeddings:
                path = check_unchanged("embeddings", embedding)
                with fitting("embedding", embedding):
                    self.learn_one(path, embedding.token)
        except BaseException:
            self.forget_words()
            raise
        self.embeddings = embeddings

    def learn_one(self, path: Path, token: str | None) -> None:
        from safetensors.torch import load_file

        keys = set(read_shapes(path))
        if not keys:
            raise ValueError("it is empty")
        if not keys <= OF_TWO.keys():
            token = token or (path.stem if keys == {NAMELESS} else None)
            self.pipe.load_textual_inversion(
                str(path.parent),
                weight_name=path.name,
                token=token,
                use_safetensors=True,
                local_files_only=True,
            )
            return
        for key, vectors in load_file(path).items():
            if getattr(self.pipe, f"text_encoder{OF_TWO[key]}") is None:
                raise ValueError(f"{key} is for SDXL, which has two text encoders")
            self.pipe.load_textual_inversion(
                {key: vectors},
                token=token or path.stem,
                text_encoder=getattr(self.pipe, f"text_encoder{OF_TWO[key]}"),
                tokenizer=getattr(self.pipe, f"tokenizer{OF_TWO[key]}"),
            )

    def forget_words(self) -> None:
        for end, (tokenizer, table, size) in self._words.items():
            encoder = getattr(self.pipe, f"text_encoder{end}")
            encoder.set_input_embeddings(table)
            encoder.config.vocab_size = size
            setattr(self.pipe, f"tokenizer{end}", tokenizer)
        self._words = {}
        self.embeddings = ()

    def open_eyes(self, adapter: File) -> None:
        path = check_unchanged("ip_adapter", adapter)
        if self.pipe.image_encoder is None:
            if not (path.parent / IMAGE_ENCODER).is_dir():
                raise ModelError(
                    f"{adapter.path} has no image encoder beside it, and the model has none: "
                    f"expected the folder {path.parent / IMAGE_ENCODER}, as published with it."
                )
            entry = ["transformers", "CLIPVisionModelWithProjection"]
            check_part(path.parent, IMAGE_ENCODER, entry, None)
        eyes = ("image_encoder", "feature_extractor")
        self._sight = {name: getattr(self.pipe, name) for name in eyes}
        self._sight["processors"] = dict(self.pipe.unet.attn_processors)
        try:
            with fitting("IP-Adapter", adapter):
                self.pipe.load_ip_adapter(
                    str(path.parent), subfolder="", weight_name=path.name, local_files_only=True
                )
        except BaseException:
            self.close_eyes()
            raise
        self.ip_adapter = adapter

    def close_eyes(self) -> None:
        if not self._sight:
            return
        self.pipe.unload_ip_adapter()
        self.pipe.unet.set_attn_processor(self._sight.pop("processors"))
        self.pipe.register_modules(**self._sight)
        self._sight = {}
        self.ip_adapter = None


@contextmanager
def fitting(word: str, file: File) -> Iterator[None]:
    """Say which file it is where a loader of the libraries fails, in whatever way."""
    try:
        with quietly():
            yield
    except T2IError:
        raise
    except Exception as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
        raise ModelError(
            f"The {word} {file.path} does not fit this model: {first}. Choose one that was made "
            "for models of its kind."
        ) from error
