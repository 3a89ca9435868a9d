"""What is attached to a pipeline beside its own parts: LoRAs, learned words, an IP-Adapter.

LoRAs and words as t2i.adapters reads them, IP-Adapters by diffusers' own loader. What a request
does not ask for is taken off again, so that its picture is the same whatever was drawn before it.
"""

import copy
import itertools
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from t2i.adapters import PARTS, put_on, read, read_embeddings, take_off
from t2i.adapters.ip_adapter import check_ip_adapter
from t2i.cli.request.file_checks import IMAGE_ENCODER, iter_files, locate_unchanged_file
from t2i.cli.request.input_files import EmbeddingFile, InputFile, ScaledFile
from t2i.cli.request.request import Request
from t2i.denoiser.loading.model_folder import check_part
from t2i.errors import ArgumentError, ModelError, T2IError
from t2i.library_messages import diffusers_errors_only
from t2i.terminal import several
from t2i.text.learned_words import is_single_token, tokenizer_finds

if TYPE_CHECKING:
    from pipelines.base.pipeline import Pipeline

IMAGE_FIELDS = ("image_prompt", "image", "mask")


class AttachedAdapters:
    """A pipeline, and what is attached to it now."""

    def __init__(self, pipe: "Pipeline") -> None:
        self.pipe: Any = pipe
        self.loras: tuple[ScaledFile, ...] = ()
        self._put_on = 0
        self.embeddings: tuple[EmbeddingFile, ...] = ()
        self.ip_adapter: InputFile | None = None
        self._words: dict[str, Any] = {}
        self._learned: dict[str, list[str]] = {}
        self._sight: dict[str, Any] = {}

    def fit(self, request: Request) -> None:
        """Attach what the request asks for and nothing else.

        Raises ModelError for a file that does not fit the model, DataError for a picture that is
        not the one that was asked for.
        """
        for name, file in iter_files(request):
            if name in IMAGE_FIELDS:
                locate_unchanged_file(name, file)
        if request.embeddings != self.embeddings:
            self.forget_words()
            self.learn(request.embeddings)
        self.warn_of_unnamed(request)
        if request.loras != self.loras:
            self.take_off_loras()
            self.put_on(request.loras)
        if request.ip_adapter != self.ip_adapter:
            self.close_eyes()
            if request.ip_adapter is not None:
                self.open_eyes(request.ip_adapter)
        if request.image_prompt is not None:
            self.pipe.set_ip_adapter_scale(request.image_prompt.scale)

    def put_on(self, loras: tuple[ScaledFile, ...]) -> None:
        models = {part: getattr(self.pipe, part, None) for part in PARTS}
        layers = self.pipe.unet.config.layers_per_block
        try:
            for number, lora in enumerate(loras):
                path = locate_unchanged_file("loras", lora)
                found = read(path, layers_per_block=layers if isinstance(layers, int) else 2)
                with _name_file_in_errors("LoRA", lora):
                    self._put_on = number + 1
                    put_on(models, found, f"lora{number}", lora.scale)
        except BaseException:
            self.take_off_loras()
            raise
        self.loras = loras

    def take_off_loras(self) -> None:
        """One that came with the model stays."""
        for number in range(self._put_on):
            take_off((getattr(self.pipe, part, None) for part in PARTS), f"lora{number}")
        self.loras = ()
        self._put_on = 0

    def learn(self, embeddings: tuple[EmbeddingFile, ...]) -> None:
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
                path = locate_unchanged_file("embeddings", embedding)
                with _name_file_in_errors("embedding", embedding):
                    self.learn_one(path, embedding.token)
        except BaseException:
            self.forget_words()
            raise
        self.embeddings = embeddings

    def learn_one(self, path: Path, token: str | None) -> None:
        found = read_embeddings(path)
        if token is not None and len(found) > 1:
            raise ModelError(
                f"{path} holds {several(len(found), 'word')}, which cannot all be called {token}: "
                "leave out the word behind its path."
            )
        for embedding in found:
            word = token or embedding.token or path.stem
            self._learned.setdefault(str(path), []).append(word)
            for part, vectors in embedding.vectors.items():
                if (encoder := getattr(self.pipe, part)) is None:
                    raise ModelError(
                        f"{path} has a word for a {part}, which this model does not have. Choose "
                        "one that was learned with a model of its kind."
                    )
                tokenizer = getattr(self.pipe, part.replace("text_encoder", "tokenizer"))
                if is_single_token(word, tokenizer):
                    raise ArgumentError(
                        f"{path}: the model knows the word {word!r:.80} already, and with another "
                        "meaning of it every prompt that says it would draw something else. Give "
                        f"it another: --embedding '{path}:<{word.strip('<>'):.80}-2>'."
                    )
                self.pipe.load_textual_inversion(
                    {word: vectors}, token=word, text_encoder=encoder, tokenizer=tokenizer
                )

    def warn_of_unnamed(self, request: Request) -> None:
        """Say which learned words no prompt of the request speaks of: they change nothing."""
        together = () if request.edited is None else request.edited.prompts
        prompts = map(request.spoken, (request.prompt, request.negative_prompt, *together))
        texts = [t for said in prompts for t in ([said] if isinstance(said, str) else said.ever)]
        tokenizers = [getattr(self.pipe, f"tokenizer{end}") for end in self._words]
        for path, words in self._learned.items():
            tried = itertools.product(words, texts, tokenizers)
            if not any(tokenizer_finds(*one) for one in tried):
                named = " or ".join(words[:3])
                warnings.warn(
                    f"No prompt names {named}, the learned word of {path}: it changes nothing. "
                    "Write it where its thing is meant, with a space on either side.",
                    stacklevel=2,
                )

    def forget_words(self) -> None:
        for end, (tokenizer, table, size) in self._words.items():
            encoder = getattr(self.pipe, f"text_encoder{end}")
            encoder.set_input_embeddings(table)
            encoder.config.vocab_size = size
            setattr(self.pipe, f"tokenizer{end}", tokenizer)
        self._words, self._learned = {}, {}
        self.embeddings = ()

    def open_eyes(self, adapter: InputFile) -> None:
        path = locate_unchanged_file("ip_adapter", adapter)
        if self.pipe.image_encoder is None:
            if not (path.parent / IMAGE_ENCODER).is_dir():
                raise ModelError(
                    f"{adapter.path} has no image encoder beside it, and the model has none: "
                    f"expected the folder {path.parent / IMAGE_ENCODER}, as published with it."
                )
            entry = ["transformers", "CLIPVisionModelWithProjection"]
            check_part(path.parent, IMAGE_ENCODER, entry, None)
        check_ip_adapter(path, self.pipe.unet)
        eyes = ("image_encoder", "feature_extractor")
        self._sight = {name: getattr(self.pipe, name) for name in eyes}
        self._sight["processors"] = dict(self.pipe.unet.attn_processors)
        try:
            with _name_file_in_errors("IP-Adapter", adapter):
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
def _name_file_in_errors(word: str, file: InputFile) -> Iterator[None]:
    """Say which file it is where a loader of the libraries fails, in whatever way."""
    try:
        with diffusers_errors_only():
            yield
    except T2IError as error:
        told = str(error)
        raise error if file.path in told else type(error)(f"{file.path}: {told}") from error
    except Exception as error:
        raise ModelError(
            f"The {word} {file.path} does not fit this model. Choose one that was made for models "
            f"of its kind{_lora_info_hint(word, file)}."
        ) from error


def _lora_info_hint(word: str, file: InputFile) -> str:
    if word != "LoRA":
        return ""
    return f"; what this one is for says `t2i lora info {quote(file.path)}`"
