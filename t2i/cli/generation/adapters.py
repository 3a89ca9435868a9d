"""LoRAs, learned words and IP-Adapters attached to a pipeline for one request.

LoRAs and words are read by t2i.adapters, IP-Adapters by diffusers' own loader. What a request does
not name is detached, so that its image does not depend on the images drawn before it.
"""

import copy
import itertools
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from t2i.adapters import MODEL_PARTS, add_lora, read_all_learned_words, read_lora, remove_lora
from t2i.adapters.face_id import is_face_id_adapter, read_face_id_lora
from t2i.adapters.ip_adapter import check_ip_adapter_fits_unet
from t2i.attention.probes.presence import compute_attention_fingerprint
from t2i.cli.request.file_checks import (
    IMAGE_ENCODER_FOLDER,
    iter_request_files,
    locate_and_verify_file,
)
from t2i.cli.request.image_prompt_files import MAX_IMAGE_PROMPTS
from t2i.cli.request.input_files import EmbeddingFile, InputFile, InputFileWithScale
from t2i.cli.request.presets import find_preset_warnings
from t2i.cli.request.request import Request
from t2i.denoiser.loading.model_folder import check_part_and_build_meta_model
from t2i.errors import ArgumentError, ModelError, T2IError
from t2i.library_messages import muting_diffusers_warnings
from t2i.terminal import plural
from t2i.text.learned_words import is_known_to_tokenizer, is_tokenized_as_learned_word

if TYPE_CHECKING:
    from pipelines.base.pipeline import Pipeline

IMAGE_FIELDS = (
    "image_prompt",
    "image_prompt_mask",
    "image",
    "mask",
    "control_picture",
    "control_mask",
)


FACE_ID_LORA_PREFIX = "faceid_"
"""Prefix of diffusers' name of the LoRA layers of a FaceID adapter; its number follows."""


class AttachedAdapters:
    """LoRAs, learned words and IP-Adapters that are attached to a pipeline, and their manager."""

    def __init__(self, pipe: "Pipeline") -> None:
        self.pipe: Any = pipe
        self.loras: tuple[InputFileWithScale, ...] = ()
        self._num_attached = 0
        self.embeddings: tuple[EmbeddingFile, ...] = ()
        self.ip_adapters: tuple[InputFile, ...] = ()
        self._replaced_vocabularies: dict[str, Any] = {}
        self._words_by_file: dict[str, list[str]] = {}
        self._replaced_parts: dict[str, Any] = {}
        self._own_weights: str | None = None  # fingerprint, computed where a preset needs it

    def switch_to_request(self, request: Request) -> None:
        """Attach the adapters that a request names, LoRAs, learned words and IP-Adapters, to the
        pipeline, and detach all others.

        Raises ModelError for a file that does not fit the model, DataError for an image that is not
        the one that the request recorded.
        """
        for name, file in iter_request_files(request):
            if name in IMAGE_FIELDS:
                locate_and_verify_file(name, file)
        self._warn_of_preset(request)
        if request.embeddings != self.embeddings:
            self.remove_learned_words()
            self.add_learned_words(request.embeddings)
        self._warn_of_unused_words(request)
        if request.loras != self.loras:
            self.detach_loras()
            self.attach_loras(request.loras)
        adapters = [one.adapter for one in request.image_prompts]
        scales: list[float | str] = [one.scale for one in request.image_prompts]
        if request.ip_adapter is not None:
            adapters.insert(0, request.ip_adapter)
            scales.insert(0, 1.0 if request.image_prompt is None else request.image_prompt.scale)
        if (*adapters,) != self.ip_adapters:
            self.detach_ip_adapters()
            if adapters:
                self.attach_ip_adapters(adapters)
        if scales:
            self.pipe.set_ip_adapter_scale(scales)

    def _warn_of_preset(self, request: Request) -> None:
        """Warn of what speaks against the preset of a request, such as other weights."""
        if request.preset is None:
            return
        if self._own_weights is None and request.preset.weights is not None:
            self.detach_loras()
            self.remove_learned_words()
            self.detach_ip_adapters()
            self._own_weights = compute_attention_fingerprint(self.pipe)
        for warning in find_preset_warnings(request, self._own_weights or ""):
            warnings.warn(warning, stacklevel=2)

    def attach_loras(self, loras: tuple[InputFileWithScale, ...]) -> None:
        """Attach LoRAs to the pipeline, or none of them if one fails. Raises ModelError."""
        models = {part: getattr(self.pipe, part, None) for part in MODEL_PARTS}
        layers = self.pipe.unet.config.layers_per_block
        try:
            for number, lora in enumerate(loras):
                path = locate_and_verify_file("loras", lora)
                found = read_lora(path, layers_per_block=layers if isinstance(layers, int) else 2)
                with _name_file_in_errors("LoRA", lora):
                    self._num_attached = number + 1
                    add_lora(models, found, f"lora{number}", lora.scale)
        except BaseException:
            self.detach_loras()
            raise
        self.loras = loras

    def detach_loras(self) -> None:
        """Detach the LoRAs that this object attached; one that came with the model stays."""
        for number in range(self._num_attached):
            remove_lora((getattr(self.pipe, part, None) for part in MODEL_PARTS), f"lora{number}")
        self.loras = ()
        self._num_attached = 0

    def add_learned_words(self, embeddings: tuple[EmbeddingFile, ...]) -> None:
        """Add learned words to copies of the pipeline's tokenizers and embedding tables.

        Raises ModelError for a file that does not fit, ArgumentError for a word that the model has.
        """
        if not embeddings:
            return
        for end in ("", "_2"):
            if (encoder := getattr(self.pipe, f"text_encoder{end}")) is not None:
                tokenizer = getattr(self.pipe, f"tokenizer{end}")
                table = encoder.get_input_embeddings()
                self._replaced_vocabularies[end] = (tokenizer, table, encoder.config.vocab_size)
                setattr(self.pipe, f"tokenizer{end}", copy.deepcopy(tokenizer))
        try:
            for embedding in embeddings:
                path = locate_and_verify_file("embeddings", embedding)
                with _name_file_in_errors("embedding", embedding):
                    self._add_learned_word(path, embedding.token)
        except BaseException:
            self.remove_learned_words()
            raise
        self.embeddings = embeddings

    def _add_learned_word(self, path: Path, token: str | None) -> None:
        found = read_all_learned_words(path)
        if token is not None and len(found) > 1:
            raise ModelError(
                f"{path} holds {plural(len(found), 'word')}, which cannot all be called {token}: "
                "leave out the word behind its path."
            )
        for embedding in found:
            word = token or embedding.token or path.stem
            self._words_by_file.setdefault(str(path), []).append(word)
            for part, vectors in embedding.vectors.items():
                if (encoder := getattr(self.pipe, part)) is None:
                    raise ModelError(
                        f"{path} has a word for a {part}, which this model does not have. Choose "
                        "one that was learned with a model of its kind."
                    )
                tokenizer = getattr(self.pipe, part.replace("text_encoder", "tokenizer"))
                if is_known_to_tokenizer(word, tokenizer):
                    raise ArgumentError(
                        f"{path}: the model has the word {word!r:.80} already, and a second "
                        "meaning would change every image of a prompt with this word. Give it "
                        f"another name: --embedding '{path}:<{word.strip('<>'):.80}-2>'."
                    )
                self.pipe.load_textual_inversion(
                    {word: vectors}, token=word, text_encoder=encoder, tokenizer=tokenizer
                )

    def _warn_of_unused_words(self, request: Request) -> None:
        """Warn of learned words that occur in no prompt of the request: they change nothing."""
        together = () if request.edited is None else request.edited.prompts
        prompts = map(
            request.parse_prompt_in_grammar, (request.prompt, request.negative_prompt, *together)
        )
        texts = [
            t for p in prompts for t in ([p] if isinstance(p, str) else p.plain_texts_of_all_steps)
        ]
        tokenizers = [getattr(self.pipe, f"tokenizer{end}") for end in self._replaced_vocabularies]
        for path, words in self._words_by_file.items():
            tried = itertools.product(words, texts, tokenizers)
            if not any(is_tokenized_as_learned_word(*one) for one in tried):
                named = " or ".join(words[:3])
                warnings.warn(
                    f"No prompt contains {named}, the learned word of {path}: it has no effect. "
                    "Write it into the prompt, with a space on either side.",
                    stacklevel=2,
                )

    def remove_learned_words(self) -> None:
        """Remove the learned words: restore the model's own tokenizers and embedding tables."""
        for end, (tokenizer, table, size) in self._replaced_vocabularies.items():
            encoder = getattr(self.pipe, f"text_encoder{end}")
            encoder.set_input_embeddings(table)
            encoder.config.vocab_size = size
            setattr(self.pipe, f"tokenizer{end}", tokenizer)
        self._replaced_vocabularies, self._words_by_file = {}, {}
        self.embeddings = ()

    def attach_ip_adapters(self, adapters: Sequence[InputFile]) -> None:
        """Attach IP-Adapters and the image encoder beside the first, which all of them read with.

        Raises ModelError if they do not fit.
        """
        paths = [locate_and_verify_file("ip_adapter", adapter) for adapter in adapters]
        path = paths[0]
        are_face_id = [is_face_id_adapter(one) for one in paths]  # each is read: FaceID Plus raises
        sees_pictures = not all(are_face_id)
        if self.pipe.image_encoder is None and sees_pictures:
            if not (path.parent / IMAGE_ENCODER_FOLDER).is_dir():
                raise ModelError(
                    f"{adapters[0].path} has no image encoder beside it, and the model has none: "
                    f"expected the folder {path.parent / IMAGE_ENCODER_FOLDER}, as published with "
                    "it."
                )
            entry = ["transformers", "CLIPVisionModelWithProjection"]
            check_part_and_build_meta_model(path.parent, IMAGE_ENCODER_FOLDER, entry, None)
        for one in paths:
            check_ip_adapter_fits_unet(one, self.pipe.unet)
        eyes = ("image_encoder", "feature_extractor")
        self._replaced_parts = {name: getattr(self.pipe, name) for name in eyes}
        self._replaced_parts["processors"] = dict(self.pipe.unet.attn_processors)
        try:
            with _name_file_in_errors("IP-Adapter", adapters[0]):
                for number, one in enumerate(paths):
                    # diffusers would add these layers, and switch off all other LoRAs for them.
                    if (lora := read_face_id_lora(one, self.pipe.unet)) is not None:
                        add_lora({"unet": self.pipe.unet}, lora, f"{FACE_ID_LORA_PREFIX}{number}")
                self.pipe.load_ip_adapter(
                    [str(one.parent) for one in paths],
                    subfolder="",
                    weight_name=[one.name for one in paths],
                    local_files_only=True,
                    **({} if sees_pictures else {"image_encoder_folder": None}),
                )
        except BaseException:
            self.detach_ip_adapters()
            raise
        self.ip_adapters = (*adapters,)

    def detach_ip_adapters(self) -> None:
        """Remove all IP-Adapters and restore the attention processors and the image encoder."""
        if not self._replaced_parts:
            return
        for number in range(MAX_IMAGE_PROMPTS + 1):
            remove_lora([self.pipe.unet], f"{FACE_ID_LORA_PREFIX}{number}")
        self.pipe.unload_ip_adapter()
        self.pipe.unet.set_attn_processor(self._replaced_parts.pop("processors"))
        self.pipe.register_modules(**self._replaced_parts)
        self._replaced_parts = {}
        self.ip_adapters = ()


@contextmanager
def _name_file_in_errors(word: str, file: InputFile) -> Iterator[None]:
    """Name the file in the errors that a loader of the libraries raises."""
    try:
        with muting_diffusers_warnings():
            yield
    except T2IError as error:
        message = str(error)
        raise error if file.path in message else type(error)(f"{file.path}: {message}") from error
    except Exception as error:
        raise ModelError(
            f"The {word} {file.path} does not fit this model. Choose one that was made for models "
            f"of its kind{_lora_info_hint(word, file)}."
        ) from error


def _lora_info_hint(word: str, file: InputFile) -> str:
    if word != "LoRA":
        return ""
    return f"; `t2i lora info {quote(file.path)}` prints what it was made for"
