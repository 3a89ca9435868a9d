"""Caption matcher: a contrastive score of how well a caption fits a picture of scenes.

B pictures and as many captions, P positions, F features, D width of an embedding.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from t2i.errors import ModelError
from t2i.safe_reading import MODEL_CONFIG_KIND, parse_json, read_bounded
from t2i.safe_reading.tensors import read_tensors
from t2i.scenes.recogniser import DEFAULT_FOLDER, LOAD_ERRORS, Recogniser, RecogniserOutput
from t2i.text.bpe import Merges, Vocabulary, build_clip_tokenizer, load_vocabulary_and_merges

TOKENIZER_FOLDER = Path(__file__).parent.parent / "assets" / "tokenizer"
CONFIG_FILE, WEIGHTS_FILE = "agreement.json", "agreement.safetensors"
POOLED_SIDE = 8
"""Side of the grid of positions to which the recogniser's maps are pooled."""
MAX_TOKENS = 32
"""Largest number of tokens of a caption; the rest is cut off."""


class CaptionMatcher(nn.Module):
    """Model that scores how well captions match pictures of scenes, by embedding both as CLIP does.

    It is trained as CLIP is (Radford et al. 2021, arXiv 2103.00020), from scenes alone, on the
    output of a frozen recogniser. Its scores cannot be compared with CLIP scores. `eyes` is the
    picture head and `ears` the text encoder: the names are keys of the weights file.
    """

    def __init__(self, recogniser: Recogniser, width: int, layers: int) -> None:
        super().__init__()
        self.recogniser = recogniser.requires_grad_(False)
        self.width, self.layers = width, layers
        vocabulary, merges = load_vocabulary_and_merges(TOKENIZER_FOLDER)
        self.vocabulary = digest_bpe_vocabulary(vocabulary, merges)
        self.tokenizer = build_clip_tokenizer(vocabulary, merges, MAX_TOKENS)
        labels = recogniser.labels
        inputs = labels.class_count + len(labels.colours) + recogniser.channels[-1]
        self.eyes = nn.Sequential(
            nn.Conv2d(inputs, 64, 1),
            nn.GELU(),
            nn.Flatten(),
            nn.Linear(64 * POOLED_SIDE**2, 2 * width),
            nn.GELU(),
            nn.Linear(2 * width, width),
        )
        self.ears = CLIPTextModelWithProjection(
            CLIPTextConfig(
                vocab_size=len(self.tokenizer),
                hidden_size=width,
                intermediate_size=4 * width,
                num_hidden_layers=layers,
                num_attention_heads=4,
                max_position_embeddings=MAX_TOKENS,
                projection_dim=width,
                bos_token_id=self.tokenizer.bos_token_id,
                eos_token_id=self.tokenizer.eos_token_id,
                pad_token_id=self.tokenizer.pad_token_id,
            )
        )
        # As in `t2i.denoiser.build`: CLIP's own 0.02 lets all words become one.
        nn.init.normal_(self.ears.get_input_embeddings().get_parameter("weight"))
        self.log_scale = nn.Parameter(torch.tensor(2.0))

    def embed_pictures(self, pixels_BCHW: Tensor) -> Tensor:
        """Return unit-length embeddings (B, D) of pictures, for comparison with those of captions;
        pixels are at the recogniser's size, in [-1, 1].
        """
        with torch.no_grad():
            pooled_BFP = pool_recogniser_output_to_grid(self.recogniser(pixels_BCHW))
        return functional.normalize(self.eyes(pooled_BFP).float(), dim=-1)

    def embed_captions(self, captions: Sequence[str]) -> Tensor:
        """Return unit-length embeddings (B, D) of captions, for comparison with those of
        pictures.
        """
        tokens = self.tokenizer(
            list(captions),
            padding=True,
            truncation=True,
            max_length=MAX_TOKENS,
            return_tensors="pt",
        ).to(self.log_scale.device)
        output = self.ears(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask)
        return functional.normalize(output.text_embeds.float(), dim=-1)

    @torch.no_grad()
    def compute_paired_similarities(
        self, pictures: Sequence[Image.Image], captions: Sequence[str]
    ) -> Tensor:
        """Return the cosine similarity of each picture's embedding and its caption's embedding.

        Shape (B,), float32, from -1 to 1.
        """
        pixels = torch.stack([self.recogniser.preprocess_picture(picture) for picture in pictures])
        scores_B = (
            self.embed_pictures(pixels.to(self.log_scale.device)) * self.embed_captions(captions)
        ).sum(-1)
        return scores_B.cpu()

    def save(self, folder: Path, notes: dict[str, Any], dtype: torch.dtype = torch.float16) -> None:
        """Write the matcher's weights, without the recogniser's, and config into `folder`.

        The folder must exist.

        notes : JSON data to store beside the config
        """
        weights = {
            name: weight.to(dtype).contiguous()
            for name, weight in self.state_dict().items()
            if not name.startswith("recogniser.") and weight.is_floating_point()
        }
        save_file(weights, folder / WEIGHTS_FILE)
        config = {"width": self.width, "layers": self.layers, "vocabulary": self.vocabulary}
        (folder / CONFIG_FILE).write_text(json.dumps(config | notes, indent=1) + "\n", "utf-8")

    @staticmethod
    def is_stored_in(folder: Path) -> bool:
        """Return True if the folder of a recogniser also holds a caption matcher."""
        return (folder / CONFIG_FILE).is_file()

    @classmethod
    def load(cls, folder: Path = DEFAULT_FOLDER) -> "CaptionMatcher":
        """Load a caption matcher from a folder that also holds its recogniser; by default t2i's.

        Raises ModelError for a folder without one, or for one trained with another vocabulary.
        """
        recogniser = Recogniser.load(folder)
        try:
            config = parse_json(read_bounded(folder / CONFIG_FILE, MODEL_CONFIG_KIND.max_bytes))
            found = cls(recogniser, config["width"], config["layers"])
            if found.vocabulary != config["vocabulary"]:
                raise ValueError(f"it read another vocabulary than {TOKENIZER_FOLDER.name}")
            missing, unknown = found.load_state_dict(
                read_tensors(folder / WEIGHTS_FILE), strict=False
            )
            lost = [
                name
                for name in missing
                if not name.startswith(("recogniser.", "ears.text_model.embeddings.position_ids"))
            ]
            if lost or unknown:
                raise ValueError(f"its weights do not fit: {', '.join([*lost, *unknown][:4])}")
        except LOAD_ERRORS as error:
            raise ModelError(
                f"Nothing that scores captions can be loaded from {folder}: {error}. Train it with "
                "`t2i train configs/train/agreement.toml`, or name the folder of a finished run."
            ) from error
        return found.float().eval().requires_grad_(False)


def pool_recogniser_output_to_grid(maps: RecogniserOutput) -> Tensor:
    """Return the recogniser's probabilities and features pooled to POOLED_SIDE, (B, F, 8, 8)."""
    inputs = (
        maps.class_logits_BKhw.float().softmax(1),
        maps.colour_logits_BKhw.float().softmax(1),
        maps.features_BFhw.float(),
    )
    return torch.cat([functional.adaptive_avg_pool2d(one, POOLED_SIDE) for one in inputs], dim=1)


def digest_bpe_vocabulary(vocabulary: Vocabulary, merges: Merges) -> str:
    """Return the SHA-256 of a BPE vocabulary and its merges, in hexadecimal."""
    return hashlib.sha256(json.dumps([vocabulary, merges], sort_keys=True).encode()).hexdigest()
