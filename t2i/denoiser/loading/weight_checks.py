"""Checks that the tensors in a component's safetensors files fit its config.

Only headers are read, and the model is built on the meta device.
"""

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import nn

from t2i.denoiser.loading.config_checks import check_config_safety
from t2i.denoiser.loading.meta_models import build_meta_model, list_duplicate_tied_names
from t2i.denoiser.loading.model_location import PICKLE_SUFFIXES
from t2i.denoiser.loading.model_parts import TEXT_ENCODERS
from t2i.denoiser.loading.unused_tensors import is_unused_text_tensor
from t2i.errors import ModelError
from t2i.safe_reading import MODEL_CONFIG_KIND, parse_json, read_bounded
from t2i.safe_reading.tensors import open_tensors

Shapes = dict[str, tuple[int, ...]]
"""Name of a tensor -> its shape."""

FLOAT_DTYPES = ("F16", "BF16", "F32", "F64")
"""Types of weights, by the names they have in safetensors headers."""
MAX_NAMED_TENSORS = 3
"""Tensors of each kind of misfit that an error spells out."""

MAX_CONFIG_BYTES = MODEL_CONFIG_KIND.max_bytes
MAX_INDEX_BYTES = 16_000_000
"""Bytes: of a JSON config, of an index of shards. Some ten times what is published."""


def check_weights_and_build_meta_model(
    folder: Path, class_name: str, variant: str | None
) -> nn.Module:
    """Check that the weights in a folder fit its config.json and class, by their headers alone;
    return the model on the meta device. Raises ModelError if they do not fit.
    """
    config_path = folder / "config.json"
    config = read_json_object(config_path)
    check_config_safety(config_path, config)
    named = config.get("_class_name", class_name)
    if named != class_name:
        raise ModelError(f"{config_path} describes a {named}, expected a {class_name}.")
    try:
        model = build_meta_model(class_name, config)
    except ModelError as error:
        raise ModelError(f"{config_path} {error}") from error

    expected: Shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    floats = {
        canonical_tensor_name(n) for n, t in model.state_dict().items() if t.is_floating_point()
    }
    found: Shapes = {}
    for path in list_weight_files(folder, variant):
        shapes = read_tensor_shapes(path)
        check_tensors_floating_point(
            path, [name for name in shapes if canonical_tensor_name(name) in floats]
        )
        found |= shapes
    extras = set(filter(is_unused_text_tensor, found)) if class_name in TEXT_ENCODERS else ()
    if misfits := describe_tensor_mismatches(
        expected, found, list_duplicate_tied_names(model), extras
    ):
        raise ModelError(
            f"The weights in {folder} do not fit its config.json: {misfits}. "
            "Copy config.json and weights from the same model."
        )
    return model


def describe_tensor_mismatches(
    expected: Shapes, found: Shapes, second: Collection[str] = (), extras: Collection[str] = ()
) -> str:
    """Compare expected and found tensor shapes; describe missing, unexpected and misshapen tensors
    for an error message, or return "" if there are none.

    second : names of tied tensors, which files may leave out
    extras : names that may be present without being expected
    """
    expected = {canonical_tensor_name(name): shape for name, shape in expected.items()}
    found = {canonical_tensor_name(name): shape for name, shape in found.items()}
    missing = (
        expected.keys() - found.keys() - set(map(canonical_tensor_name, second)) - UNUSED_TENSORS
    )
    unexpected = found.keys() - expected.keys() - set(map(canonical_tensor_name, extras))
    misshapen = [
        f"{name} is {list(found[name])} instead of {list(expected[name])}"
        for name in sorted(expected.keys() & found.keys())
        if found[name] != expected[name]
    ]
    kinds = {"missing": missing, "unexpected": unexpected, "misshapen": misshapen}
    misfits = [
        f"{len(names)} {kind} ({summarize_tensor_names(names)})"
        for kind, names in kinds.items()
        if names
    ]
    return f"tensors {'; '.join(misfits)}" if misfits else ""


def list_weight_files(folder: Path, variant: str | None) -> list[Path]:
    """Return the safetensors files that the loader will read from a model part's folder: one file,
    or the shards of an index.
    """
    for infix in [f".{variant}", ""] if variant else [""]:
        for stem in ("diffusion_pytorch_model", "model"):
            single = folder / f"{stem}{infix}.safetensors"
            index = folder / f"{stem}.safetensors.index{infix}.json"
            if single.is_file():
                return [single]
            if index.is_file():
                return list_shard_paths(index)

    names = sorted(path.name for path in folder.iterdir())
    if pickles := [name for name in names if name.endswith(PICKLE_SUFFIXES)]:
        raise ModelError(
            f"Refused the pickled weights {folder / pickles[0]}: loading them can run any code. "
            "Convert them to safetensors where you trust them, or get the safetensors version."
        )
    if variants := [name for name in names if name.endswith(".safetensors")]:
        raise ModelError(
            f"No weights in {folder} under the usual name, only {', '.join(variants)}: "
            'choose with variant="...", such as "fp16".'
        )
    raise ModelError(f"No weights (*.safetensors) in {folder}: copy or download the model again.")


def list_shard_paths(index: Path) -> list[Path]:
    """Return the paths of the weight files (shards) that a safetensors index names. Raises
    ModelError for missing ones.
    """
    weight_map = read_json_object(index, MAX_INDEX_BYTES).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelError(f"{index} has no weight_map: copy or download the model again.")
    paths = []
    for name in sorted(set(map(str, weight_map.values()))):
        path = index.parent / name
        if path.parent != index.parent or path.suffix != ".safetensors":
            raise ModelError(f"{index} names {name!r}, expected a safetensors file beside it.")
        if not path.is_file():
            raise ModelError(f"{index} names the missing file {name}: copy or download it again.")
        paths.append(path)
    return paths


def read_tensor_shapes(path: Path) -> Shapes:
    """Return the tensor shapes in a safetensors header. Raises ModelError for a broken file."""
    try:
        with open_tensors(path) as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"{path} is not a whole safetensors file ({error}): copy or download it again."
        ) from error


def check_tensors_floating_point(path: Path, names: Iterable[str]) -> None:
    """Raise ModelError unless the named tensors of a safetensors file are floating-point."""
    with open_tensors(path) as file:
        for name in names:
            kind = file.get_slice(name).get_dtype()
            if kind not in FLOAT_DTYPES:
                raise ModelError(
                    f"{path} has the tensor {name} as {kind}, expected floating point "
                    f"({', '.join(FLOAT_DTYPES)}). If it was quantized, to 8 or 4 bits, get it "
                    "in half "
                    "or full precision."
                )


def read_json_object(path: Path, largest: int = MAX_CONFIG_BYTES) -> dict[str, Any]:
    """Read a JSON object from a file. Raises ModelError if it is missing, larger than `largest`
    bytes, or not a JSON object.
    """
    try:
        content = parse_json(read_bounded(path, largest), lenient=True)
    except FileNotFoundError:
        raise ModelError(f"{path} is missing: copy or download the model again.") from None
    except OSError as error:
        raise ModelError(f"Refused {path}: {error.strerror or error}.") from error
    except ValueError as error:
        raise ModelError(f"{path} is not readable JSON ({error}).") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} holds a JSON {type(content).__name__}, expected an object.")
    return content


def canonical_tensor_name(name: str) -> str:
    """Return a tensor's name in the spelling that is the same for all versions of transformers and
    diffusers.
    """
    name = name.removeprefix("text_model.").removeprefix("vision_model.")
    if ".attentions." in name:
        for old, new in OLD_ATTENTION_NAMES.items():
            name = name.replace(old, new)
    return name


def summarize_tensor_names(names: Collection[str]) -> str:
    """Return the first few tensor names and the number of further ones, for a message: "a, b, c and
    5 more".
    """
    more = len(names) - MAX_NAMED_TENSORS
    first = ", ".join(sorted(names)[:MAX_NAMED_TENSORS])
    return first + (f" and {more} more" if more > 0 else "")


OLD_ATTENTION_NAMES = {
    ".query.": ".to_q.",
    ".key.": ".to_k.",
    ".value.": ".to_v.",
    ".proj_attn.": ".to_out.0.",
}
"""Old names in the VAEs of Stable Diffusion 1 and 2; diffusers renames them while loading."""

UNUSED_TENSORS = {"pooler.dense.weight", "pooler.dense.bias"}
"""Tensors of a BERT that no denoiser uses, so that files may leave them out."""
