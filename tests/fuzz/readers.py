"""Each reader of what others wrote, with sound files to begin from."""

import io
import json
import struct
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import save

from t2i.adapters import read_learned_word, read_lora
from t2i.attention.probes.heat_maps import load_map_tensors
from t2i.cli.bulk.bulk_folder import read_bulk_state
from t2i.cli.bulk.index import merge_index_parts
from t2i.cli.bulk.prompts_file import read_prompts_file
from t2i.cli.metadata.reading import build_request_from_metadata, read_metadata
from t2i.cli.request.request import Request, read_model_defaults
from t2i.denoiser.build import NewModelConfig
from t2i.denoiser.loading.model_folder import read_and_check_folder
from t2i.denoiser.loading.single_file_checkpoint import identify_checkpoint
from t2i.denoiser.loading.weight_checks import read_json_object, read_tensor_shapes
from t2i.evaluate.report.earlier_result import read_earlier_result
from t2i.evaluate.result_folder import parse_record_lines
from t2i.evaluate.suite import SUITES_FOLDER, read_suite_config
from t2i.pictures import open_picture, save_picture
from tests.train.runs import write_run
from train.checkpoint import find_checkpoint_defect, read_newest_checkpoint_json
from train.config.load_config import load_run_config
from train.data.config_from_path import infer_data_config_from_path
from train.data.dataset_manifest import read_manifest
from train.data.decode import decode_to_rgb_or_rgba
from train.data.discovery import list_and_check_pictures
from train.data.sources.folder import list_picture_folder
from train.data.sources.kohya import load_kohya_subsets_and_unused_key_notes
from train.data.sources.metadata import read_captions_from_csv_or_jsonl

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
"""Of the repository."""


@dataclass(frozen=True, slots=True)
class Reader:
    """name : of the file, below a folder of its own; folders are made
    read : takes its path. What it raises must be a T2IError.
    """

    name: str
    read: Callable[[Path], object]
    samples: Callable[[Path], tuple[bytes, ...]]


def texts(*found: str) -> Callable[[Path], tuple[bytes, ...]]:
    return lambda _: tuple(text.encode() for text in found)


def files(*paths: Path) -> Callable[[Path], tuple[bytes, ...]]:
    return lambda _: tuple(path.read_bytes() for path in paths)


PARAMETERS = (
    "a cat\nNegative prompt: rain\nSteps: 20, Sampler: Euler, CFG scale: 7, Seed: 5, Size: 8x8"
)


def pictures(place: Path) -> tuple[bytes, ...]:
    """Of all kinds, with texts as several tools write them."""
    found = []
    for mode in ("RGB", "RGBA", "P", "L", "1", "I;16", "CMYK"):
        for form in ("PNG", "JPEG", "WEBP", "BMP"):
            stream = io.BytesIO()
            try:
                Image.new(mode, (16, 24)).save(stream, form)
            except OSError:
                continue
            found.append(stream.getvalue())
    for suffix in (".png", ".jpg", ".webp"):
        ours = {"parameters": PARAMETERS, "t2i": '{"version": 1}'}
        save_picture(Image.new("RGB", (16, 16)), place / f"x{suffix}", ours)
        found.append((place / f"x{suffix}").read_bytes())
    comfy = {"1": {"class_type": "KSampler", "inputs": {"seed": 5, "positive": ["2", 0]}}}
    for key, text in (
        ("prompt", json.dumps(comfy)),
        ("invokeai_metadata", '{"positive_prompt": "a cat", "seed": 5, "steps": 20}'),
        ("Dream", '"a cat" -s 20 -S 5 -W 8 -H 8 -C 7.5 -A k_euler'),
        ("sd-metadata", '{"image": {"prompt": [{"prompt": "a cat", "weight": 1}], "steps": 2}}'),
    ):
        save_picture(Image.new("RGB", (8, 8)), place / "y.png", {key: text})
        found.append((place / "y.png").read_bytes())
    return tuple(found)


def archives(place: Path) -> tuple[bytes, ...]:
    stream = io.BytesIO()
    picture = pictures(place)[0]
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, data in (
            ("a.png", picture), ("a.txt", b"a cat"), ("b.png", picture),
            ("b.json", b'{"text": ["a", "b"]}'), ("b.mask.png", picture), ("c/d.png", picture),
        ):  # fmt: skip
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return (stream.getvalue(),)


def weights(_: Path) -> tuple[bytes, ...]:
    unet = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
    kohya = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
    pair = torch.ones(2, 4), torch.ones(4, 2)
    told = {"lora_adapter_metadata": json.dumps({"unet.lora_alpha": 4, "unet.r": 2})}
    return (
        save({f"{unet}.lora_A.weight": pair[0], f"{unet}.lora_B.weight": pair[1]}, told),
        save(
            {
                f"{kohya}.lora_down.weight": pair[0],
                f"{kohya}.lora_up.weight": pair[1],
                f"{kohya}.alpha": torch.tensor(2.0),
            },
            {"ss_network_module": "networks.lora", "ss_network_dim": "2"},
        ),
        save({"emb_params": torch.ones(2, 8)}),
        save({"cat": torch.ones(4, 4)}, {"format": "pt"}),
        struct.pack("<Q", 2) + b"{}",
    )


def training(place: Path) -> tuple[bytes, ...]:
    found = (write_run(place), *sorted((CONFIGS / "train").glob("*.toml"))[:6])
    return tuple(path.read_bytes() for path in found)


def read_override(path: Path) -> None:
    """The file's text as an override of a sound config."""
    toml = path.with_name("tiny.toml")
    if not toml.exists():
        write_run(path.parent).rename(toml)
    load_run_config(toml, [path.read_bytes().decode("utf-8", "surrogateescape")])


def read_one_prompt(path: Path) -> None:
    """The file's text as somebody types it."""
    text = path.read_bytes().decode("utf-8", "surrogateescape")
    for grammar in ("a1111", "comfy", "plain"):
        Request(prompt=text, grammar=grammar)  # type: ignore[arg-type]


def read_decoded(path: Path) -> None:
    decode_to_rgb_or_rgba(path.read_bytes(), path.name)


def read_told(path: Path) -> None:
    """A picture's story, and what t2i would be asked for by it."""
    build_request_from_metadata(read_metadata(path))


def read_pictures(path: Path) -> None:
    """A folder or archive, every picture in it looked at."""
    list_and_check_pictures(infer_data_config_from_path(path))


def in_folder(read_folder: Callable[[Path], object]) -> Callable[[Path], object]:
    return lambda path: read_folder(path.parent)


def pickled() -> bytes:
    stream = io.BytesIO()
    torch.save({"string_to_param": {"*": torch.ones(2, 8)}, "name": "cat"}, stream)
    return stream.getvalue()


MODEL_INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "scheduler": ["diffusers", "DDIMScheduler"],
}
RECORD = {
    "number": 1,
    "pictures": [
        {
            "name": "a", "subset": 0, "digest": "0", "mask_digest": "", "captions": ["a"],
            "repeats": 1, "height": 8, "width": 8, "transparent": False,
        }
    ],
}  # fmt: skip
PROMPT_LINE = json.dumps(
    {"prompt": "a (cat:1.2)", "seed": 7, "size": "48x32", "sampler": "euler", "lora": ["a:1"]}
)
KOHYA = """[general]\nresolution = 64\n[[datasets]]\nbatch_size = 2\n[[datasets.subsets]]
image_dir = "a"\nclass_tokens = "a cat"\nnum_repeats = 3\ncolor_aug = false\n"""

READERS = {
    "prompts.txt": Reader("p.txt", read_prompts_file, texts("a cat\n# no\na dog\n")),
    "prompts.jsonl": Reader("p.jsonl", read_prompts_file, texts(f"{PROMPT_LINE}\n{PROMPT_LINE}\n")),
    "prompts.csv": Reader(
        "p.csv", read_prompts_file, texts('prompt,seed,size\n"a, b",7,64\nc,,\n')
    ),
    "prompt": Reader(
        "p", read_one_prompt, texts("a (red:1.2) [cat:dog:.5] AND b <lora:x:1> BREAK")
    ),
    "metadata.jsonl": Reader(
        "metadata.jsonl",
        lambda path: read_captions_from_csv_or_jsonl(path, None),
        texts('{"file_name": "a.png", "text": "a"}\n{"file_name": "b.png", "text": ["b", null]}\n'),
    ),
    "metadata.csv": Reader(
        "metadata.csv",
        lambda path: read_captions_from_csv_or_jsonl(path, None),
        texts('file_name,text\na.png,"a, b"\n'),
    ),
    "caption": Reader("a.txt", in_folder(list_picture_folder), texts("a cat, sitting\n")),
    "train.toml": Reader("run.toml", load_run_config, training),
    "--set": Reader("set", read_override, texts("train.steps=3", "target.parts.0.rank=4", "a=[1]")),
    "data.toml": Reader(
        "run.toml",
        infer_data_config_from_path,
        texts('[data]\nkind = "pictures"\nfolder = "."\nsize = 64\n'),
    ),
    "kohya.toml": Reader(
        "k.toml", lambda path: load_kohya_subsets_and_unused_key_notes(path, 64), texts(KOHYA)
    ),
    "suite.toml": Reader(
        "s.toml",
        lambda path: read_suite_config(str(path), quick=False),
        files(
            SUITES_FOLDER / "scenes.toml", SUITES_FOLDER / "quick.toml", SUITES_FOLDER / "real.toml"
        ),
    ),
    "model.toml": Reader(
        "m.toml",
        NewModelConfig.load_toml,
        lambda _: tuple(p.read_bytes() for p in (CONFIGS / "models").glob("*.toml")),
    ),
    "picture": Reader("x.png", open_picture, pictures),
    "training picture": Reader("x.png", read_decoded, pictures),
    "story": Reader("x.png", read_told, pictures),
    "folder of pictures": Reader("f/x.png", in_folder(read_pictures), pictures),
    "tar": Reader("x.tar", read_pictures, archives),
    "header": Reader("x.safetensors", read_tensor_shapes, weights),
    "lora": Reader("x.safetensors", read_lora, weights),
    "embedding": Reader("x.safetensors", read_learned_word, weights),
    "pickle": Reader(
        "x.pt", lambda path: read_learned_word(path, pickles=True), lambda _: (pickled(),)
    ),
    "maps": Reader("x.safetensors", load_map_tensors, weights),
    "single file": Reader("x.safetensors", identify_checkpoint, weights),
    "model config": Reader("config.json", read_json_object, texts(json.dumps(MODEL_INDEX))),
    "model index": Reader(
        "m/model_index.json", in_folder(read_and_check_folder), texts(json.dumps(MODEL_INDEX))
    ),
    "notes": Reader(
        "m/t2i.json",
        in_folder(read_model_defaults),
        texts('{"defaults": {"steps": 2, "sampler": "x"}}'),
    ),
    "bulk": Reader(
        "bulk.json", in_folder(read_bulk_state), texts('{"version": 1, "seed": 5, "num": 1}')
    ),
    "index": Reader(
        "index.0.jsonl",
        in_folder(merge_index_parts),
        texts('{"job": 1, "file": "a"}\n{"job": 2, "error": {}}\n'),
    ),
    "records": Reader(
        "r.jsonl",
        lambda path: [*parse_record_lines(path.read_bytes())],
        texts('{"part": "a", "unit": "b"}'),
    ),
    "earlier": Reader(
        "e.json",
        lambda path: read_earlier_result(path, {}, 1),
        texts('{"facts": {"version": 1}, "chapters": {}}'),
    ),
    "record": Reader("pictures.json", read_manifest, texts(json.dumps(RECORD))),
    "facts": Reader(
        "step-00000001/facts.json",
        lambda path: read_newest_checkpoint_json(path.parents[1]),
        texts('{"step": 1, "run": {"a": 1}}'),
    ),
    "manifest": Reader(
        "manifest.json", in_folder(find_checkpoint_defect), texts('{"facts.json": "00"}')
    ),
}
