"""A run is taken down: of every step the latents, and what attention was given at each site.

N heads, Q query positions, K key positions, E width of a head, B batch rows, C channels, H W latent
size.
"""

import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from t2i.atomic_folders import atomic_folder
from t2i.attention.call import AttentionCall
from t2i.attention.compute.probabilities import AttentionProbabilities, select_mask_row
from t2i.attention.denoiser_pass import DenoiserPass
from t2i.attention.edits.base.edit import Edit
from t2i.attention.probes.probe import Probe
from t2i.attention.prompts.prompt_tokens import PromptTokens
from t2i.attention.site import Site
from t2i.errors import ArgumentError, DataError, OutputError
from t2i.safe_reading.tensors import read_tensors

MANIFEST = "remembered.json"
BEGUN, ENDED = "begun.safetensors", "ended.safetensors"
OWN_NAMES = re.compile(r"remembered\.json|(begun|ended|step-\d{5,})\.safetensors")
GIBIBYTE = 1 << 30
BUDGET = 4 * GIBIBYTE


@dataclass(slots=True)
class Steps:
    """What is kept of each step; in memory, or a file for each in a folder."""

    folder: Path | None = None
    kept: list[dict[str, Tensor]] = field(default_factory=list)
    count: int = 0
    bytes: int = 0
    _open: tuple[int, dict[str, Tensor]] | None = None
    """The file that was read last."""

    def add(self, tensors: dict[str, Tensor]) -> None:
        if self.folder is None:
            self.kept.append(tensors)
        else:
            save_file(tensors, self.folder / name_of(self.count))
        self.count += 1
        self.bytes += sum(tensor.nbytes for tensor in tensors.values())

    def __getitem__(self, step: int) -> Mapping[str, Tensor]:
        if self.folder is None:
            return self.kept[step]
        if self._open is None or self._open[0] != step:
            self._open = (step, read_file(self.folder / name_of(step)))
        return self._open[1]


class Recording(Probe):
    """Takes down the source's queries and keys at every site that looks at the text, and at those
    of at most `max_positions` places that look at the picture."""

    def __init__(self, max_positions: int) -> None:
        super().__init__(words=((0,),))
        self.max_positions = max_positions
        self.heard: dict[str, Tensor] = {}

    def fits(self, site: Site) -> bool:
        return site.kind != "self" or site.positions <= self.max_positions

    def covers(self, step: int, num_steps: int) -> bool:
        return True

    def begin(self, prompt_tokens: PromptTokens, latent_size: tuple[int, int] | None) -> None:
        return None

    def bytes_at(self, site: Site, pictures: int, steps: int) -> int:
        return 0  # told by Remember, which knows how large a head is

    def on_attention(self, probabilities: AttentionProbabilities, call: AttentionCall) -> None:
        (row,) = call.denoiser_pass.cond_rows(0)
        inputs, name = probabilities.inputs, call.site.name
        found = {"query": inputs.query[row : row + 1], "key": inputs.key[row : row + 1]}
        mask = select_mask_row(inputs.mask, row)
        if mask is not None:
            found["mask"] = mask[None]
        self.heard |= {
            f"{name}/{part}": tensor.detach().to("cpu", copy=True).contiguous()
            for part, tensor in found.items()
        }


@dataclass(frozen=True, kw_only=True)
class Remember(Edit):
    """Changes nothing, and keeps what edits of this run will need.

    budget : bytes of all steps; one that cannot be kept stops the run after its first
    """

    edits_latents = True

    kept: Steps
    recording: Recording
    budget: int

    def fits(self, site: Site) -> bool:
        return False

    def probes(self) -> Sequence[Probe]:
        return [self.recording]

    def after_step(
        self, latents_BCHW: Tensor, denoiser_pass: DenoiserPass, probes: Sequence[Probe]
    ) -> Tensor:
        tensors = self.recording.heard | {"latents": latents_BCHW.detach().to("cpu", copy=True)}
        self.recording.heard = {}
        needed = denoiser_pass.num_steps * sum(tensor.nbytes for tensor in tensors.values())
        if needed > self.budget:
            raise ArgumentError(
                f"To remember this source takes {needed / GIBIBYTE:.3g} GiB, and the budget is "
                f"{self.budget / GIBIBYTE:.3g} GiB: raise budget=, or take fewer steps or a "
                "smaller picture."
            )
        self.kept.add(tensors)
        return latents_BCHW


def written(folder: Path | None, stack: ExitStack) -> Steps:
    """Where steps are kept: in memory, or in a folder that appears when the stack is closed.

    Raises OutputError for a folder that holds anything but a remembered source.
    """
    if folder is not None and folder.exists():
        names = {path.name for path in folder.iterdir()} if folder.is_dir() else {folder.name}
        foreign = sorted(name for name in names if not OWN_NAMES.fullmatch(name))
        if foreign or (names and MANIFEST not in names):
            what = f"holds {foreign[0]}" if foreign and folder.is_dir() else "is there"
            raise OutputError(
                f"{folder} {what}, and is no remembered source: it is not replaced. Name another "
                "folder."
            )
    return Steps(None if folder is None else stack.enter_context(atomic_folder(folder)))


def name_of(step: int) -> str:
    return f"step-{step:05d}.safetensors"


def read_file(path: Path) -> dict[str, Tensor]:
    try:
        return read_tensors(path)
    except (OSError, SafetensorError) as error:
        raise DataError(f"Cannot read {path}: {error}. Remember the source anew.") from error
