"""Records as JSON lines: how a store is shared, merged and kept under version control."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TextIO

import msgspec

from ridgepoint.errors import BadInput, RidgeError
from ridgepoint.store.database import Store
from ridgepoint.store.record import Record

__all__ = ["Imported", "export_lines", "import_lines"]


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import did: records added, and records that were here already."""

    added: int
    skipped: int


class _Line(msgspec.Struct, forbid_unknown_fields=True):
    id: str
    kind: str
    study: str
    created: str
    digest: str
    body: dict[str, Any]


def export_lines(store: Store, stream: TextIO) -> int:
    """Writes every record as one line of ASCII JSON, oldest first; returns how many."""
    ids = store.ids()
    for id in ids:
        record = store.get(id)
        line = {
            "id": record.id,
            "kind": record.kind,
            "study": record.study,
            "created": record.created,
            "digest": record.digest,
            "body": record.body,
        }
        stream.write(json.dumps(line, separators=(",", ":"), allow_nan=False) + "\n")
    return len(ids)


def import_lines(store: Store, stream: Iterable[str | bytes]) -> Imported:
    """Appends the records of `stream`, each in its own transaction; those that are here already are skipped.

    BadInput, with the number of the line, for a line that is malformed, does not match its digest, or has the id of
    another record that is here; the lines before it stay imported, and the message says how many.
    """
    added = skipped = number = 0
    try:
        for line in stream:
            number += 1
            if not line.strip():
                continue
            record = _parse(line)
            here = store.digest_of(record.id)
            if here is None:
                store.append(record)
                added += 1
            elif here == record.digest:
                skipped += 1
            else:
                raise BadInput(
                    f"record {record.id} is here already with other content"
                    f" (digest {here[:12]}… here, {record.digest[:12]}… there)"
                )
    except UnicodeDecodeError:  # a text stream decodes by blocks, so this number may be a few lines early
        raise BadInput(_stopped(number + 1, "is not UTF-8 text", added, skipped)) from None
    except RidgeError as error:
        raise BadInput(_stopped(number, str(error), added, skipped)) from error
    return Imported(added, skipped)


def _parse(line: str | bytes) -> Record:
    try:
        read = msgspec.json.decode(line, type=_Line)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise BadInput(f"not a record: {error}") from None
    record = Record(read.id, read.kind, read.study, read.created, read.body)
    if record.digest != read.digest:
        raise BadInput(f"record {record.id} does not match its digest; the line was changed or damaged")
    return record


def _stopped(number: int, why: str, added: int, skipped: int) -> str:
    return f"line {number}: {why} (lines before it: {added} imported, {skipped} here already)"
