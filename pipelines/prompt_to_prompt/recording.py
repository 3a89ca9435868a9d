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
from t2i.attention.compute.tap import AttentionInputs
from t2i.attention.denoiser_pass import DenoiserPass
from t2i.attention.edits.base.edit import Edit
from t2i.attention.edits.base.source_rows_edit import SourceRowsEdit
from t2i.attention.probes.probe import Probe
from t2i.attention.prompts.prompt_tokens import PromptTokens
from t2i.attention.site import Site
from t2i.conditioning.conditioning import Branch
from t2i.errors import DataError, OutputError
from t2i.safe_reading.tensors import read_tensors

RECORDING_MANIFEST_NAME = "remembered.json"
START_FILE, END_FILE = "begun.safetensors", "ended.safetensors"
RECORDING_FILE_PATTERN = re.compile(r"remembered\.json|(begun|ended|step-\d{5,})\.safetensors")
DEFAULT_BUDGET_BYTES = 4 * GIBIBYTE
TENSOR_NAME_BY_LETTER = {"q": "query", "k": "key", "v": "value"}
"""Letter of a copied tensor -> its name in a recorded step."""


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
        """Append the recorded tensors of one step to the store."""
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
    """Probe that records the source's queries and keys in the branch "cond".

    It reads every site that attends to text, and self-attention of at most `max_positions`
    positions, neither for 0; in all branches it records what `source_rows_edits` read, at their
    sites and steps.

    tensors : recorded since `pop_step_tensors`, by "site/query" for the branch "cond", and
        "site/uncond/query" for others
    estimated_bytes : of the whole run, known after its first step
    recorded_sites : name -> site
    """

    def __init__(
        self, max_positions: int, source_rows_edits: Sequence[SourceRowsEdit] = ()
    ) -> None:
        super().__init__(words=((0,),))
        self.max_positions = max_positions
        self.source_rows_edits = source_rows_edits
        self.tensors: dict[str, Tensor] = {}
        self.recorded_sites: dict[str, Site] = {}
        self.estimated_bytes = 0

    def pop_step_tensors(self) -> dict[str, Tensor]:
        """Return the tensors that were recorded in a step, and drop them from the probe."""
        taken, self.tensors = self.tensors, {}
        return taken

    def acts_at_site(self, site: Site) -> bool:
        """Return True for an attention site of which queries, keys or values are recorded."""
        return self.records_cond_row(site) or any(
            edit.acts_at_site(site) for edit in self.source_rows_edits
        )

    def records_cond_row(self, site: Site) -> bool:
        """Return True for a site whose queries and keys are recorded in the branch "cond": none of
        a control's network.
        """
        small = site.kind != "self" or site.num_positions <= self.max_positions
        return small and self.max_positions > 0 and site.control_number is None

    def list_recorded_branches_and_tensors(
        self, site: Site, step: int, num_steps: int, branches: Sequence[Branch]
    ) -> list[tuple[Branch, str]]:
        """Return what is recorded at a site and step: branches and names of tensors."""
        parts = [("cond", name) for name in ("query", "key") if self.records_cond_row(site)]
        for edit in self.source_rows_edits:
            if edit.acts_at_site_and_step(site, step, num_steps):
                parts += [
                    (one, TENSOR_NAME_BY_LETTER[tensor])
                    for one in branches
                    for tensor in edit.tensors
                ]
        parts += [(branch, "mask") for branch, name in parts if name == "key"]
        return list(dict.fromkeys(parts))

    def acts_at_step(self, step: int, num_steps: int) -> bool:
        """Return True for every step: each is recorded."""
        return True

    def begin_run(self, prompt_tokens: PromptTokens, latent_size: tuple[int, int] | None) -> None:
        """Do nothing: the recording of a run is never discarded."""
        return

    def estimate_bytes_at_site(self, site: Site, pictures: int, steps: int) -> int:
        """Return 0: RecordingEdit checks the budget, since it knows the width of the heads."""
        return 0

    def on_attention(self, probabilities: AttentionProbabilities, call: AttentionCall) -> None:
        """Copy what is recorded of this call; in the first step, add up the bytes of the run."""
        denoiser_pass, site = call.denoiser_pass, call.site
        self.recorded_sites[site.name] = site
        step, num_steps, branches = (
            denoiser_pass.step,
            denoiser_pass.num_steps,
            denoiser_pass.branches,
        )
        rows = dict(zip(branches, denoiser_pass.rows_of_prompt_in_all_branches(0), strict=True))
        found = {
            branch: select_attention_row(probabilities.inputs, row) for branch, row in rows.items()
        }
        for branch, part in self.list_recorded_branches_and_tensors(
            site, step, num_steps, branches
        ):
            tensor = found[branch][part]
            if tensor is not None:
                name = site.name if branch == "cond" else f"{site.name}/{branch}"
                self.tensors[f"{name}/{part}"] = copy_to_cpu(tensor)
        if step == 0:
            for later in range(num_steps):
                tensors = (
                    found[branch][part]
                    for branch, part in self.list_recorded_branches_and_tensors(
                        site, later, num_steps, branches
                    )
                )
                self.estimated_bytes += sum(one.nbytes for one in tensors if one is not None)


def return_no_extra_tensors(step: int) -> Mapping[str, Tensor]:
    """Return no tensors: nothing is recorded beside latents, queries and keys."""
    return {}


@dataclass(frozen=True, kw_only=True)
class RecordingEdit(Edit):
    """Edit that changes nothing, and through which each step of a source's run is
    recorded.

    budget : most bytes of all steps; a run that would exceed it stops after its first step
    extra : number of a step -> further tensors to record of it, by names without "/"
    """

    edits_latents = True

    storage: RecordedSteps
    probe: RecordingProbe
    budget: int
    extra: Callable[[int], Mapping[str, Tensor]] = return_no_extra_tensors

    def acts_at_site(self, site: Site) -> bool:
        """Return False for every attention site: recording changes no attention."""
        return False

    def list_probes(self) -> Sequence[Probe]:
        """Return the probe that records the source's queries and keys."""
        return [self.probe]

    def edit_latents_after_step(
        self, latents_BCHW: Tensor, denoiser_pass: DenoiserPass, probes: Sequence[Probe]
    ) -> Tensor:
        """Record the step; ArgumentError if all steps together would exceed the budget."""
        kept = {"latents": latents_BCHW, **self.extra(denoiser_pass.step)}
        kept_bytes = denoiser_pass.num_steps * sum(tensor.nbytes for tensor in kept.values())
        tensors = self.probe.pop_step_tensors() | {
            name: copy_to_cpu(tensor) for name, tensor in kept.items()
        }
        so_far = self.storage.bytes + sum(tensor.nbytes for tensor in tensors.values())
        needed = max(self.probe.estimated_bytes + kept_bytes, so_far)
        check_recording_budget(needed, self.budget)
        self.storage.add(tensors)
        return latents_BCHW


def select_attention_row(inputs: AttentionInputs, row: int) -> dict[str, Tensor | None]:
    """Return the tensors of one row of an attention call by name; the mask is None without one."""
    mask = select_mask_row(inputs.mask, row)
    return {
        "query": inputs.query[row : row + 1],
        "key": inputs.key[row : row + 1],
        "value": inputs.value[row : row + 1],
        "mask": None if mask is None else mask[None],
    }


def copy_to_cpu(tensor: Tensor) -> Tensor:
    """Return a copy of a tensor on the CPU that shares no memory with it."""
    return tensor.detach().to("cpu", copy=True).contiguous()


def create_empty_recorded_steps(folder: Path | None, stack: ExitStack) -> RecordedSteps:
    """Return an empty store of steps: in memory, or in a folder that appears when the stack
    closes.

    Raises OutputError for a folder that holds anything but a recorded source.
    """
    if folder is not None and folder.exists():
        names = {path.name for path in folder.iterdir()} if folder.is_dir() else {folder.name}
        foreign = sorted(name for name in names if not RECORDING_FILE_PATTERN.fullmatch(name))
        if foreign or (names and RECORDING_MANIFEST_NAME not in names):
            what = f"holds {foreign[0]}" if foreign and folder.is_dir() else "is there"
            raise OutputError(
                f"{folder} {what}, and is not a recorded source: it is not replaced. Name another "
                "folder."
            )
    return RecordedSteps(None if folder is None else stack.enter_context(atomic_folder(folder)))


def step_file_name(step: int) -> str:
    """Return the name of a recorded step's file."""
    return f"step-{step:05d}.safetensors"


def list_recorded_file_names(steps: int) -> list[str]:
    """Return the names of a recorded source's files beside the manifest."""
    return [START_FILE, *map(step_file_name, range(steps)), END_FILE]


def read_step_file(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a recorded step's file; DataError if it cannot be read."""
    try:
        return read_tensors(path)
    except (OSError, SafetensorError) as error:
        raise DataError(f"Cannot read {path}: {error}. Remember the source anew.") from error
