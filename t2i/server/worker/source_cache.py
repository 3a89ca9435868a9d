"""Recorded sources in the memory of a worker, so that a slider's edits do not load them again."""

from dataclasses import dataclass, field
from pathlib import Path

from pipelines.prompt_to_prompt.recorded_source import RecordedSource, load_recorded_source

MAX_CACHED_SOURCES = 2


@dataclass(slots=True)
class RecordedSourceCache:
    """Cache of the recorded sources that a worker's last edits have read, by the identifier of the
    job that recorded each.
    """

    sources: dict[str, RecordedSource] = field(default_factory=dict)

    def get_or_load(self, job_id: str, folder: Path) -> RecordedSource:
        """Return the recorded source of a job, loaded from its folder if it is not in the cache."""
        source = self.sources.pop(job_id, None) or load_recorded_source(folder)
        while len(self.sources) >= MAX_CACHED_SOURCES:
            self.sources.pop(next(iter(self.sources)))
        self.sources[job_id] = source
        return source
