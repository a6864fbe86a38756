"""The store: records in one SQLite file, each written in its own transaction, none ever changed."""

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec
import platformdirs

from ridgepoint.errors import BadInput, UnknownName
from ridgepoint.store.record import ID_LENGTH, KINDS, Record, canonical, seal

__all__ = ["Store", "default_path"]

_BUSY_S = 30.0
_APPLICATION = 0x52494447  # "RIDG" in the file's header: tells our file from another program's
_CANDIDATES = 5
_FIELDS = "id, kind, study, created, digest, body"

_INSPECT = ("PRAGMA application_id", "PRAGMA user_version", "SELECT count(*) FROM sqlite_master")
_ELSEWHERE = "give another path, or set RIDGEPOINT_HOME to a folder for ridgepoint alone"

_MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        "CREATE TABLE records (id TEXT PRIMARY KEY NOT NULL, kind TEXT NOT NULL, study TEXT NOT NULL,"
        " created TEXT NOT NULL, digest TEXT NOT NULL, body TEXT NOT NULL)",
        "CREATE INDEX records_by_kind ON records (kind, id)",
        "CREATE INDEX records_by_study ON records (study, id)",
        "CREATE INDEX records_by_created ON records (created)",
        "CREATE TRIGGER records_never_change BEFORE UPDATE ON records"
        " BEGIN SELECT RAISE(ABORT, 'records are never changed'); END",
        "CREATE TRIGGER records_never_go BEFORE DELETE ON records"
        " BEGIN SELECT RAISE(ABORT, 'records are never deleted'); END",
    ),
)
"""Statements that lead from schema version i to i + 1; a change of the schema appends a tuple, and never edits one."""


def default_path() -> Path:
    """`ridge.db` in the folder RIDGEPOINT_HOME, else in the user's data folder of this system."""
    home = os.environ.get("RIDGEPOINT_HOME") or platformdirs.user_data_dir("ridgepoint", appauthor=False)
    return Path(home).expanduser() / "ridge.db"


class Store:
    """An append-only set of records in the SQLite file `path`, which is made if absent; close it, or use `with`.

    BadInput where the file is no store, is damaged, is of a later version or cannot be written. Several processes may
    use one file: readers never wait, a writer waits up to 30 s for another.
    """

    def __init__(self, path: Path):
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BadInput(_cannot_write(path, error.strerror or str(error))) from None
        with _spoken(path):
            self._db = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None)
            try:
                _prepare(self._db, path)
            except BaseException:
                self._db.close()
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file; twice is fine."""
        self._db.close()

    def append(self, record: Record) -> None:
        """Writes the record and commits it; BadInput if its id is taken.

        When this returns, the record survives the death of this process at any moment (SIGKILL included).
        """
        fields, text = (record.id, record.kind, record.study, record.created), canonical(record.body)
        row = (*fields, seal(*fields, text), text)
        with _spoken(self.path):
            try:
                # no open transaction: this statement is one, and is committed when it returns
                self._db.execute(f"INSERT INTO records ({_FIELDS}) VALUES (?, ?, ?, ?, ?, ?)", row)
            except sqlite3.IntegrityError as error:
                if self.digest_of(record.id) is None:
                    raise
                raise BadInput(f"record {record.id} exists already, and records are never changed") from error

    def get(self, id: str, kind: str = "") -> Record:
        """The record whose id starts with `id` (of that kind, if given); BadInput if there are several."""
        where, values = _filter(kind, "")
        prefix = id.strip().lower()
        if not (prefix.isascii() and prefix.isalnum()):  # "" would match every record
            raise UnknownName(kind or "record", id, self._recent(kind))
        # ~ sorts after every letter of an id, so this range is the prefix, and the primary key finds it
        query = f"SELECT {_FIELDS} FROM records WHERE id >= ? AND id < ?{where} ORDER BY id LIMIT ?"
        rows = self._rows(query, (prefix, prefix + "~", *values, _CANDIDATES + 1))
        if not rows:
            raise UnknownName(kind or "record", id, self._recent(kind))
        if len(rows) > 1:
            names = ", ".join(f"{row[0]} ({row[1]})" for row in rows[:_CANDIDATES])
            more = ", …" if len(rows) > _CANDIDATES else ""
            raise BadInput(f"several records start with {prefix!r}: {names}{more}; give more letters of the id")
        return self._record(rows[0])

    def holds(self, id: str, kind: str) -> bool:
        """Whether there is one record of that kind whose id starts with `id`, and no more."""
        prefix = id.strip().lower()
        query = "SELECT count(*) FROM records WHERE id >= ? AND id < ? AND kind = ?"
        letters = prefix.isascii() and prefix.isalnum()
        return letters and self._rows(query, (prefix, prefix + "~", kind))[0][0] == 1

    def records(self, kind: str = "", study: str = "", limit: int | None = None) -> list[Record]:
        """Records of that kind and study (exact id of the bet, which is not itself among them), oldest first.

        `limit` keeps the newest that many.
        """
        if limit is not None and limit < 1:
            raise BadInput(f"a limit of {limit} records; at least 1")
        where, values = _filter(kind, study)
        query = f"SELECT {_FIELDS} FROM records WHERE 1{where} ORDER BY id DESC LIMIT ?"
        rows = self._rows(query, (*values, -1 if limit is None else limit))
        return [self._record(row) for row in reversed(rows)]

    def ids(self) -> list[str]:
        """All ids, oldest first."""
        return [row[0] for row in self._rows("SELECT id FROM records ORDER BY id", ())]

    def digest_of(self, id: str) -> str | None:
        """The digest of the record of that full id; None if it is not here."""
        rows = self._rows("SELECT digest FROM records WHERE id = ?", (id,))
        return rows[0][0] if rows else None

    def _rows(self, query: str, values: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        with _spoken(self.path):
            return self._db.execute(query, values).fetchall()

    def _record(self, row: tuple[Any, ...]) -> Record:
        id, kind, study, created, digest, text = row
        if seal(id, kind, study, created, text) != digest:
            raise BadInput(f"{self.path}: record {id} does not match its digest; another program changed it")
        return Record(id, kind, study, created, msgspec.json.decode(text))

    def _recent(self, kind: str) -> list[str]:
        where, values = _filter(kind, "")
        query = f"SELECT id FROM records WHERE 1{where} ORDER BY id DESC LIMIT ?"
        return [row[0] for row in self._rows(query, (*values, _CANDIDATES))]


def _filter(kind: str, study: str) -> tuple[str, tuple[str, ...]]:
    if kind and kind not in KINDS:
        raise UnknownName("record kind", kind, KINDS)
    if study and len(study) != ID_LENGTH:
        raise BadInput(f"study {study[:80]!r} is not a whole record id; get() finds one by its first letters")
    parts = [(name, value) for name, value in (("kind", kind), ("study", study)) if value]
    return "".join(f" AND {name} = ?" for name, _ in parts), tuple(value for _, value in parts)


def _prepare(db: sqlite3.Connection, path: Path) -> None:
    """Checks that the file is ours before writing a byte to it, then brings it to WAL and to this schema."""
    db.execute("BEGIN")  # one snapshot: another process may be making the schema right now
    application, version, objects = (_number(db, query) for query in _INSPECT)
    db.execute("COMMIT")
    if application != _APPLICATION and (application or version or objects):
        raise BadInput(f"{path} is another program's SQLite database; {_ELSEWHERE}")
    if version > len(_MIGRATIONS):
        raise BadInput(f"{path} has schema {version}, this ridgepoint knows up to {len(_MIGRATIONS)}; upgrade it")
    _use_wal(db)
    # A commit in WAL mode is a write() to the log. The kernel has those bytes when it returns, so the death of this
    # process cannot lose them. NORMAL saves the fsync() of each commit: only a crash of the machine itself can lose
    # the last few records, and even then the file stays sound.
    db.execute("PRAGMA synchronous = NORMAL")
    if version < len(_MIGRATIONS):
        _migrate(db)


def _number(db: sqlite3.Connection, query: str) -> int:
    return int(db.execute(query).fetchone()[0])


def _use_wal(db: sqlite3.Connection) -> None:
    # SQLite does not wait for others during this switch, whatever its timeout: two first openers would collide
    deadline_s = time.monotonic() + _BUSY_S
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if _code(error) != sqlite3.SQLITE_BUSY or time.monotonic() > deadline_s:
                raise
        time.sleep(0.005)


def _migrate(db: sqlite3.Connection) -> None:
    """All missing steps in one transaction, so that a kill leaves the old schema or the new one."""
    db.execute("BEGIN IMMEDIATE")
    try:
        for step in _MIGRATIONS[_number(db, "PRAGMA user_version") :]:  # read again: another process may have done it
            for statement in step:
                db.execute(statement)
        db.execute(f"PRAGMA application_id = {_APPLICATION}")
        db.execute(f"PRAGMA user_version = {len(_MIGRATIONS)}")
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


@contextmanager
def _spoken(path: Path) -> Iterator[None]:
    """Turns what SQLite says about the file into one line for a person; misuse of the API stays a traceback."""
    try:
        yield
    except sqlite3.ProgrammingError:
        raise
    except sqlite3.Error as error:
        raise BadInput(_reason(path, error)) from error


def _reason(path: Path, error: sqlite3.Error) -> str:
    match _code(error):
        case sqlite3.SQLITE_NOTADB:
            return f"{path} is not a SQLite database, so no store; {_ELSEWHERE}"
        case sqlite3.SQLITE_CORRUPT:
            return f"{path} is damaged ({error}); `sqlite3 {path} .recover` may save its records, then {_ELSEWHERE}"
        case sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM:
            return _cannot_write(path, str(error))
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return f"{path}: another process has been writing for {_BUSY_S:.0f} s; try again when it is done"
        case sqlite3.SQLITE_FULL:
            return f"{path}: no space left for the record; free some and run the same command again"
        case _:
            return f"{path}: {error}"


def _cannot_write(path: Path, why: str) -> str:
    return f"{path}: cannot open it for writing ({why}); {_ELSEWHERE}"


def _code(error: sqlite3.Error) -> int:
    """SQLite's primary result code; 0 for errors that Python raised itself."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF
