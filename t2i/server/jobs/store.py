"""The jobs and uploads of a server in an SQLite database, which survives the server's end."""

import json
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from t2i.errors import DataError
from t2i.server.jobs.job import (
    FINAL_STATES,
    Job,
    JobFailure,
    JobNotFoundError,
    JobResult,
    JobState,
    StorageFullError,
)

MIGRATIONS = (
    """
    CREATE TABLE jobs (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        kind TEXT NOT NULL,
        state TEXT NOT NULL,
        owner TEXT NOT NULL,
        request TEXT NOT NULL,
        seeds TEXT NOT NULL,
        created REAL NOT NULL,
        started REAL,
        finished REAL,
        result TEXT,
        error TEXT,
        bytes INTEGER NOT NULL DEFAULT 0
    );
    CREATE INDEX jobs_by_state ON jobs (state, number);
    CREATE INDEX jobs_by_owner ON jobs (owner, number);
    """,
    """
    CREATE TABLE uploads (
        id TEXT PRIMARY KEY,
        owner TEXT NOT NULL,
        name TEXT NOT NULL,
        suffix TEXT NOT NULL,
        width INTEGER NOT NULL,
        height INTEGER NOT NULL,
        created REAL NOT NULL
    );
    """,
    """
    ALTER TABLE uploads ADD COLUMN bytes INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE jobs ADD COLUMN interruptions INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE jobs ADD COLUMN place REAL;
    """,
)
"""Statements that bring a database from version number i to i + 1 (PRAGMA user_version)."""
COLUMNS = "id, kind, state, owner, request, seeds, created, started, finished, result, error"


class JobStore:
    """Jobs and uploads in an SQLite file; one process writes it, from any of its threads.

    Reading has a connection of its own, so that the event loop does not wait for a writer's disk.
    """

    def __init__(self, path: Path) -> None:
        """Open the database, which is made or brought to the newest version.

        Raises DataError for a file that is no such database or that a newer t2i has written.
        """
        self._lock, self._reading = threading.RLock(), threading.Lock()
        self._database = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._reader = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        try:
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = NORMAL")
            self._migrate(path)
        except sqlite3.DatabaseError as error:
            self.close()
            raise DataError(
                f"{path} is no database of jobs: {error}. Move it elsewhere, or choose another "
                "folder with --folder."
            ) from error

    def close(self) -> None:
        """Close the SQLite database of jobs and uploads."""
        with self._lock, self._reading:
            self._reader.close()
            self._database.close()

    def add_unless_full(self, job: Job, max_queued: int) -> bool:
        """Insert a job, unless `max_queued` are waiting already; return True if it was inserted."""
        with self._transaction() as database:
            (waiting,) = database.execute(
                "SELECT count(*) FROM jobs WHERE state = 'queued'"
            ).fetchone()
            if waiting >= max_queued:
                return False
            database.execute(
                "INSERT INTO jobs (id, kind, state, owner, request, seeds, created) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    job.id,
                    job.kind,
                    job.state,
                    job.owner,
                    json.dumps(job.request),
                    json.dumps(job.seeds),
                    job.created,
                ),
            )
        return True

    def get(self, job_id: str) -> Job:
        """Return a job by its identifier. Raises JobNotFoundError."""
        rows = self._read(f"SELECT {COLUMNS} FROM jobs WHERE id = ?", (job_id,))
        if not rows:
            raise build_not_found_error(job_id)
        return _job_from_row(rows[0])

    def get_own(self, job_id: str, owner: str) -> Job:
        """Return an owner's job. Raises JobNotFoundError, also for those of others."""
        job = self.get(job_id)
        if job.owner != owner:
            raise build_not_found_error(job_id)
        return job

    def list_newest(self, owner: str, limit: int, before: str | None) -> list[Job]:
        """Return an owner's jobs, the newest first; those older than the job `before`, if given."""
        older = " AND number < (SELECT number FROM jobs WHERE id = ?)" if before else ""
        rows = self._read(
            f"SELECT {COLUMNS} FROM jobs WHERE owner = ?{older} ORDER BY number DESC LIMIT ?",
            (owner, *([before] if before else []), limit),
        )
        return [_job_from_row(row) for row in rows]

    def take_next(self, started: float) -> Job | None:
        """Mark the oldest waiting job as running and return it; None where none waits."""
        with self._transaction() as database:
            row = database.execute(
                f"UPDATE jobs SET state = 'running', started = ? WHERE number = (SELECT number "
                "FROM jobs WHERE state = 'queued' ORDER BY coalesce(place, number) LIMIT 1) "
                f"RETURNING {COLUMNS}",
                (started,),
            ).fetchone()
        return None if row is None else _job_from_row(row)

    def mark_running(self, job_id: str, started: float) -> Job | None:
        """Mark a waiting job as running and return it; None if it does not wait any more."""
        with self._transaction() as database:
            row = database.execute(
                "UPDATE jobs SET state = 'running', started = ? "
                f"WHERE id = ? AND state = 'queued' RETURNING {COLUMNS}",
                (started, job_id),
            ).fetchone()
        return None if row is None else _job_from_row(row)

    def list_queued(self, limit: int) -> list[Job]:
        """Return the jobs that wait, in the order in which they are taken."""
        rows = self._read(
            f"SELECT {COLUMNS} FROM jobs WHERE state = 'queued' "
            "ORDER BY coalesce(place, number) LIMIT ?",
            (limit,),
        )
        return [_job_from_row(row) for row in rows]

    def finish(
        self,
        job_id: str,
        state: JobState,
        finished: float,
        *,
        result: JobResult | None = None,
        error: JobFailure | None = None,
        num_bytes: int = 0,
    ) -> bool:
        """Store the final state of a job with its result or error; return False if it has one
        already.
        """
        with self._transaction() as database:
            changed = database.execute(
                "UPDATE jobs SET state = ?, finished = ?, result = ?, error = ?, bytes = ? "
                "WHERE id = ? AND state IN ('queued', 'running')",
                (
                    state,
                    finished,
                    None if result is None else json.dumps(result.to_dict()),
                    None if error is None else json.dumps([error.type, error.message]),
                    num_bytes,
                    job_id,
                ),
            ).rowcount
        return bool(changed)

    def cancel_if_queued(self, job_id: str, finished: float) -> bool:
        """Cancel a job that has not begun; return True if it was cancelled."""
        with self._transaction() as database:
            changed = database.execute(
                "UPDATE jobs SET state = 'cancelled', finished = ? "
                "WHERE id = ? AND state = 'queued'",
                (finished, job_id),
            ).rowcount
        return bool(changed)

    def queue_again(self, job_id: str | None = None) -> list[str]:
        """Queue a running job again, or all of them for None; return their identifiers."""
        chosen = "" if job_id is None else " AND id = ?"
        with self._transaction() as database:
            rows = database.execute(
                "UPDATE jobs SET state = 'queued', started = NULL "
                f"WHERE state = 'running'{chosen} RETURNING id",
                () if job_id is None else (job_id,),
            ).fetchall()
        return [row[0] for row in rows]

    def increment_interruption_count(self, job_id: str) -> int:
        """Count that a job ran when its worker or the server ended; return how often it did."""
        with self._transaction() as database:
            (count,) = database.execute(
                "UPDATE jobs SET interruptions = interruptions + 1 WHERE id = ? "
                "RETURNING interruptions",
                (job_id,),
            ).fetchone()
        return int(count)

    def move_to_end(self, job_id: str) -> None:
        """Move a waiting job of the store behind all others that wait now."""
        with self._transaction() as database:
            database.execute(
                "UPDATE jobs SET place = (SELECT max(number) FROM jobs) + 0.5 WHERE id = ?",
                (job_id,),
            )

    def count(self, state: JobState) -> int:
        """Return the number of jobs in a state."""
        return int(self._read("SELECT count(*) FROM jobs WHERE state = ?", (state,))[0][0])

    def list_recent_durations(self, number: int) -> list[float]:
        """Return the seconds that each of the last finished jobs ran."""
        rows = self._read(
            "SELECT finished - started FROM jobs WHERE state = 'done' AND started IS NOT NULL "
            "ORDER BY finished DESC LIMIT ?",
            (number,),
        )
        return [float(row[0]) for row in rows]

    def list_finished_times_and_bytes(self) -> list[tuple[str, float, int]]:
        """Return (id, time of its end, bytes of its files) of every job that has ended, the oldest
        first.
        """
        marks = ", ".join("?" * len(FINAL_STATES))
        return self._read(
            f"SELECT id, finished, bytes FROM jobs WHERE state IN ({marks}) ORDER BY finished",
            FINAL_STATES,
        )

    def list_active(self) -> list[Job]:
        """Return the jobs that wait or run, the oldest first."""
        rows = self._read(
            f"SELECT {COLUMNS} FROM jobs WHERE state IN ('queued', 'running') ORDER BY number", ()
        )
        return [_job_from_row(row) for row in rows]

    def list_identifiers(self) -> set[str]:
        """Return the identifiers of all jobs."""
        return {row[0] for row in self._read("SELECT id FROM jobs", ())}

    def remove(self, job_id: str) -> None:
        """Delete a job from the store."""
        with self._transaction() as database:
            database.execute("DELETE FROM jobs WHERE id = ?", (job_id,))

    # uploads

    def insert_upload_row(self, values: Sequence[object]) -> None:
        """Insert an upload: id, owner, name, suffix, width, height, created."""
        with self._transaction() as database:
            database.execute("INSERT INTO uploads VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values)

    def get_upload(self, upload_id: str) -> tuple[Any, ...] | None:
        """Return the stored values of an uploaded picture, or None for an unknown one."""
        return next(iter(self._read("SELECT * FROM uploads WHERE id = ?", (upload_id,))), None)

    def list_upload_times_and_bytes(self) -> list[tuple[str, str, float, int]]:
        """Return (id, suffix, time when it came, bytes) of every upload, the oldest first."""
        return self._read("SELECT id, suffix, created, bytes FROM uploads ORDER BY created", ())

    def remove_upload(self, upload_id: str) -> None:
        """Delete an upload from the store."""
        with self._transaction() as database:
            database.execute("DELETE FROM uploads WHERE id = ?", (upload_id,))

    def _migrate(self, path: Path) -> None:
        (version,) = self._database.execute("PRAGMA user_version").fetchone()
        if version > len(MIGRATIONS):
            raise DataError(
                f"{path} has version {version}, this t2i reads up to {len(MIGRATIONS)}: use the "
                "newer t2i, or choose another folder with --folder."
            )
        for number, statements in enumerate(MIGRATIONS[version:], start=version + 1):
            self._database.executescript(
                f"BEGIN IMMEDIATE; {statements} PRAGMA user_version = {number}; COMMIT;"
            )

    def _read(self, statement: str, values: Sequence[object]) -> list[Any]:
        with self._reading:
            rows: list[Any] = self._reader.execute(statement, values).fetchall()
        return rows

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """Run the statements of the block together. Raises StorageFullError for a full disk."""
        with self._lock:
            try:
                self._database.execute("BEGIN IMMEDIATE")
                yield self._database
                self._database.execute("COMMIT")
            except BaseException as error:
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                if isinstance(error, sqlite3.OperationalError) and "full" in str(error):
                    raise StorageFullError(
                        "The disk is full: free some space, or remove old jobs."
                    ) from error
                raise


def build_not_found_error(job_id: str) -> JobNotFoundError:
    """Return the error for a job that is not there, or belongs to another token."""
    return JobNotFoundError(f"No job {job_id!r:.80}: it was removed, or never was.")


def _job_from_row(row: Sequence[Any]) -> Job:
    error = row[10] and JobFailure(*json.loads(row[10]))
    return Job(
        id=row[0],
        kind=row[1],
        state=row[2],
        owner=row[3],
        request=json.loads(row[4]),
        seeds=tuple(json.loads(row[5])),
        created=row[6],
        started=row[7],
        finished=row[8],
        result=row[9] and JobResult.from_dict(json.loads(row[9])),
        error=error,
    )
