"""A record: one self-describing JSON document with a sortable id and a digest that anybody can recompute."""

import hashlib
import json
import math
import re
import secrets
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec

from ridgepoint.errors import BadInput, UnknownName

__all__ = ["ID_LENGTH", "KINDS", "SCHEMA", "Provenance", "Record", "canonical", "digest", "new_record", "seal"]

KINDS = (
    "bet", "point", "answer", "batch-bet", "batch-point", "batch-answer", "calibration-run", "probe", "calibration",
    "measurement", "accuracy", "curve", "mix", "promise", "failure",
)  # fmt: skip
SCHEMA = 1
"""Version of the record body; a later version can read earlier ones."""

ID_LENGTH = 26
_TIME_LETTERS = 11  # 55 bits of microseconds since 1970, enough until the year 3111; the other 15 letters are random
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32, which sorts as the numbers do
_ID = re.compile(rf"[{_ALPHABET}]{{{ID_LENGTH}}}")
_CREATED = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")  # fixed width, so that text order is time order
_MAX_DEPTH = 64
_INTEGERS = range(-(2**63), 2**64)


class _Head(msgspec.Struct):
    """What every body must carry so that it can be read without the program that wrote it."""

    schema: int
    machine: dict[str, Any]
    versions: dict[str, str]
    definitions: dict[str, str]
    flags: list[str]


_HEAD = frozenset(_Head.__struct_fields__)


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a record's numbers come from: machine fingerprint, versions of what ran, definition ids of its metrics."""

    machine: Mapping[str, Any]
    versions: Mapping[str, str]
    definitions: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Record:
    """One document of the store; `new_record` makes one, the store never changes it.

    `id` sorts by time of creation. `study` is the id of the bet or calibration run that the record belongs to, "" for none.
    `created` is ISO 8601 in UTC with microseconds and Z. `body` is JSON and carries schema, machine, versions,
    definitions and flags beside its own fields. BadInput where any of this does not hold.
    """

    id: str
    kind: str
    study: str
    created: str
    body: dict[str, Any]

    def __post_init__(self) -> None:
        if not _ID.fullmatch(self.id):
            raise BadInput(f"{self.id[:80]!r} is not a record id: {ID_LENGTH} of the letters {_ALPHABET}")
        if self.kind not in KINDS:
            raise UnknownName("record kind", self.kind, KINDS)
        if self.study and not _ID.fullmatch(self.study):
            raise BadInput(f"record {self.id}: study {self.study[:80]!r} is not the id of a bet")
        if not _is_time(self.created):
            raise BadInput(f"record {self.id}: created {self.created[:80]!r} is not like 2026-01-31T12:00:00.000000Z")
        _check_head(self.id, self.body)

    @property
    def digest(self) -> str:
        """sha256 over all fields, `digest({"id": …, "kind": …, …, "body": …})`: the hash by which a bet is known."""
        return seal(self.id, self.kind, self.study, self.created, canonical(self.body))


def new_record(
    kind: str, content: Mapping[str, Any], provenance: Provenance, study: str = "", flags: Iterable[str] = ()
) -> Record:
    """A record of now, with its own copy of `content` as plain JSON (tuples become lists) and its provenance.

    BadInput, with the path to the value, for what JSON cannot hold: NaN, infinities, NumPy scalars, keys that are
    not text.
    """
    if clash := sorted(_HEAD & content.keys()):
        raise BadInput(f"a record's content cannot use the names {', '.join(clash)}; they are its provenance")
    head = {
        "schema": SCHEMA,
        "machine": provenance.machine,
        "versions": provenance.versions,
        "definitions": provenance.definitions,
        "flags": list(flags),
    }
    now_us = time.time_ns() // 1000
    created = datetime.fromtimestamp(now_us // 10**6, UTC).replace(microsecond=now_us % 10**6)
    stamp = created.isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"
    return Record(_new_id(now_us), kind, study, stamp, _plain({**head, **content}, "body", 0))


def canonical(body: Mapping[str, Any]) -> str:
    """JSON with sorted keys, no spaces and shortest round-trip numbers; BadInput for what JSON cannot hold."""
    return json.dumps(
        _plain(body, "body", 0), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def digest(body: Mapping[str, Any]) -> str:
    """sha256 (hex) of the canonical JSON in UTF-8: the same for any order of keys."""
    return hashlib.sha256(canonical(body).encode()).hexdigest()


def seal(id: str, kind: str, study: str, created: str, text: str) -> str:
    """`Record.digest` of a record whose body is already canonical JSON: what makes reading thousands of them quick."""
    # the other fields hold nothing that JSON escapes, and these are the sorted keys
    whole = f'{{"body":{text},"created":"{created}","id":"{id}","kind":"{kind}","study":"{study}"}}'
    return hashlib.sha256(whole.encode()).hexdigest()


def _new_id(now_us: int) -> str:
    letters = ID_LENGTH - _TIME_LETTERS
    number = now_us << 5 * letters | secrets.randbits(5 * letters)
    return "".join(_ALPHABET[number >> 5 * i & 31] for i in reversed(range(ID_LENGTH)))


def _is_time(text: str) -> bool:
    if not _CREATED.fullmatch(text):
        return False
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def _check_head(name: str, body: dict[str, Any]) -> None:
    try:
        head = msgspec.convert(body, _Head)
    except msgspec.ValidationError as error:
        raise BadInput(f"record {name} does not describe itself: {error}") from None
    if not 1 <= head.schema <= SCHEMA:
        raise BadInput(f"record {name} has schema {head.schema}, this ridgepoint reads up to {SCHEMA}; upgrade it")


def _plain(value: Any, where: str, depth: int) -> Any:
    """A copy of `value` made of dict, list, str, int, float, bool and None only."""
    if depth > _MAX_DEPTH:
        raise BadInput(f"a record nests at most {_MAX_DEPTH} levels; {where[:80]}… is deeper")
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _text(value, where)
    if isinstance(value, int):
        if int(value) not in _INTEGERS:
            raise BadInput(f"{where} is an integer of more than 64 bits; write it as text")
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise BadInput(f"{where} is {float(value)}; a record holds finite numbers only (null for an absent one)")
        return float(value)
    if isinstance(value, Mapping):
        return {_key(key, where): _plain(item, f"{where}.{key}", depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{where}[{i}]", depth + 1) for i, item in enumerate(value)]
    raise BadInput(f"{where} is a {type(value).__module__}.{type(value).__qualname__}, which JSON cannot hold")


def _key(key: Any, where: str) -> str:
    if not isinstance(key, str):
        raise BadInput(f"{where} has the key {key!r}; keys of a record are text")
    return _text(key, where)


def _text(text: str, where: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise BadInput(f"{where} holds text that is not Unicode (half of a surrogate pair)") from None
    return str.__str__(text)  # the characters of a str subclass, whatever it prints as
