"""Presets of the lines of a prompts file: each line's own, or that of the command."""

from dataclasses import dataclass, field, replace

from t2i.cli.bulk.prompt_line import PromptLine
from t2i.cli.request.presets import fill_from_model_presets, find_presets
from t2i.cli.request.request import DEFAULT_MODEL, RequestOverrides
from t2i.denoiser.presets import ModelPresets


@dataclass(slots=True)
class PromptLinePresets:
    """Presets of the model of a prompts file's command, each read once.

    command : the options of the command, which win over presets as those of a line do
    preset : of lines that name none; None for none
    """

    command: RequestOverrides
    preset: str | None
    _found: dict[str, tuple[ModelPresets, str]] = field(default_factory=dict)

    def fill(self, line: PromptLine) -> PromptLine:
        """Return a line whose overrides are filled from its preset; one with a recorded photo has
        settings already, and is returned as it is.

        Raises ModelError or ArgumentError for a preset that cannot be used.
        """
        preset = self.preset if line.preset is None else line.preset
        if preset is None or line.recording is not None:
            return line
        if preset not in self._found:
            self._found[preset] = find_presets(preset, self.command.model or DEFAULT_MODEL)
        overrides = fill_from_model_presets(line.overrides, *self._found[preset], self.command)
        return replace(line, overrides=overrides)
