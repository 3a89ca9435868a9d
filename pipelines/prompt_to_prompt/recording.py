"""Recording of a run: the latents of every step, and the attention inputs at each site.

N heads, Q query positions, K key positions, E width of a head, B batch rows, C channels, H W latent
size.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from pipelines.prompt_to_prompt.recording_size import GIBIBYTE, check_recording_budget
from t2i.atomic_folders import atomic_folder
from t2i.attention.call import AttentionCall
from t2i.attention.compute.probabilities import AttentionProbabilities, select_mask_row
from t2i.attention.denoiser_pass import DenoiserPass
from t2i.attention.edits.base.edit import Edit
from t2i.attention.probes.probe import Probe
from t2i.attention.prompts.prompt_tokens import PromptTokens
from t2i.attention.site import Site
from t2i.errors import DataError, OutputError
from t2i.safe_reading.tensors import read_tensors

MANIFEST = "remembered.json"
START_FILE, END_FILE = "begun.safetensors", "ended.safetensors"
OWN_NAMES = re.compile(r"remembered\.json|(begun|ended|step-\d{5,})\.safetensors")
BUDGET = 4 * GIBIBYTE


@dataclass(slots=True)
class RecordedSteps:
    """Store of the tensors of each recorded step; in memory, or in a folder with one file per
    step.
    """

    folder: Path | None = None
    kept: list[dict[str, Tensor]] = field(default_factory=list)
    count: int = 0
    bytes: int = 0
    _open: tuple[int, dict[str, Tensor]] | None = None
    """The file that was read last."""

    def add(self, tensors: dict[str, Tensor]) -> None:
        """Append the tensors of a step."""
        if self.folder is None:
            self.kept.append(tensors)
        else:
            save_file(tensors, self.folder / step_file_name(self.count))
        self.count += 1
        self.bytes += sum(tensor.nbytes for tensor in tensors.values())

    def __getitem__(self, step: int) -> Mapping[str, Tensor]:
        if self.folder is None:
            return self.kept[step]
        if self._open is None or self._open[0] != step:
            self._open = (step, read_step_file(self.folder / step_file_name(step)))
        return self._open[1]


class RecordingProbe(Probe):
    """Probe that records the source's queries and keys.

    It reads every site that attends to text, and self-attention of at most `max_positions`
    positions.

    tensors : of the current step
    recorded_sites : name -> site
    """

    def __init__(self, max_positions: int) -> None:
        super().__init__(words=((0,),))
        self.max_positions = max_positions
        self.tensors: dict[str, Tensor] = {}
        self.recorded_sites: dict[str, Site] = {}

    def acts_at_site(self, site: Site) -> bool:
        """Return True for a site whose queries and keys are recorded."""
        return site.kind != "self" or site.num_positions <= self.max_positions

    def acts_at_step(self, step: int, num_steps: int) -> bool:
        """Return True: every step is recorded."""
        return True

    def begin_run(self, prompt_tokens: PromptTokens, latent_size: tuple[int, int] | None) -> None:
        """Do nothing: the recording of a run is never discarded."""
        return

    def estimate_bytes_at(self, site: Site, pictures: int, steps: int) -> int:
        """Return 0: RecordingEdit checks the budget, since it knows the width of the heads."""
        return 0

    def on_attention(self, probabilities: AttentionProbabilities, call: AttentionCall) -> None:
        """Copy the source's query, key and mask of this call."""
        (row,) = call.denoiser_pass.cond_rows(0)
        inputs, name = probabilities.inputs, call.site.name
        self.recorded_sites[name] = call.site
        found = {"query": inputs.query[row : row + 1], "key": inputs.key[row : row + 1]}
        mask = select_mask_row(inputs.mask, row)
        if mask is not None:
            found["mask"] = mask[None]
        self.tensors |= {
            f"{name}/{part}": tensor.detach().to("cpu", copy=True).contiguous()
            for part, tensor in found.items()
        }


def no_extra_tensors(step: int) -> Mapping[str, Tensor]:
    """Return no tensors: nothing is recorded beside latents, queries and keys."""
    return {}


@dataclass(frozen=True, kw_only=True)
class RecordingEdit(Edit):
    """Edit that changes nothing and records each step.

    budget : most bytes of all steps; a run that would exceed it stops after its first step
    extra : number of a step -> further tensors to record of it, by names without "/"
    """

    edits_latents = True

    storage: RecordedSteps
    probe: RecordingProbe
    budget: int
    extra: Callable[[int], Mapping[str, Tensor]] = no_extra_tensors

    def acts_at_site(self, site: Site) -> bool:
        """Return False: recording changes no attention."""
        return False

    def probes(self) -> Sequence[Probe]:
        """Return the probe that records queries and keys."""
        return [self.probe]

    def after_step(
        self, latents_BCHW: Tensor, denoiser_pass: DenoiserPass, probes: Sequence[Probe]
    ) -> Tensor:
        """Record the step; ArgumentError if all steps together would exceed the budget."""
        kept = {"latents": latents_BCHW, **self.extra(denoiser_pass.step)}
        tensors = self.probe.tensors | {
            name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in kept.items()
        }
        self.probe.tensors = {}
        needed = denoiser_pass.num_steps * sum(tensor.nbytes for tensor in tensors.values())
        check_recording_budget(needed, self.budget)
        self.storage.add(tensors)
        return latents_BCHW


def create_recorded_steps(folder: Path | None, stack: ExitStack) -> RecordedSteps:
    """Return an empty store of steps: in memory, or in a folder that appears when the stack
    closes.

    Raises OutputError for a folder that holds anything but a recorded source.
    """
    if folder is not None and folder.exists():
        names = {path.name for path in folder.iterdir()} if folder.is_dir() else {folder.name}
        foreign = sorted(name for name in names if not OWN_NAMES.fullmatch(name))
        if foreign or (names and MANIFEST not in names):
            what = f"holds {foreign[0]}" if foreign and folder.is_dir() else "is there"
            raise OutputError(
                f"{folder} {what}, and is not a recorded source: it is not replaced. Name another "
                "folder."
            )
    return RecordedSteps(None if folder is None else stack.enter_context(atomic_folder(folder)))


def step_file_name(step: int) -> str:
    """Return the name of a recorded step's file."""
    return f"step-{step:05d}.safetensors"


def read_step_file(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a recorded step's file; DataError if it cannot be read."""
    try:
        return read_tensors(path)
    except (OSError, SafetensorError) as error:
        raise DataError(f"Cannot read {path}: {error}. Remember the source anew.") from error
