"""The store keeps every record that was appended, exactly, whatever happens around it."""

import io
import json
import os
import random
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ridgepoint.errors import BadInput, UnknownName
from ridgepoint.store import (
    KINDS,
    Provenance,
    Record,
    Store,
    canonical,
    database,
    default_path,
    digest,
    export_lines,
    import_lines,
    new_record,
)

ROOT = Path(__file__).parents[1]
HERE = Provenance({"cpu": "test", "cores": 2}, {"ridgepoint": "0.1", "torch": "2.13.0"}, {"latency_s": "step.v1"})

finite = st.floats(allow_nan=False, allow_infinity=False)
scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | finite | st.text()
documents = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20)
contents = st.dictionaries(st.text().map(lambda key: "x" + key), documents, max_size=5)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "ridge.db") as opened:
        yield opened


def a_record(kind: str = "point", study: str = "", **content: Any) -> Record:
    return new_record(kind, content, HERE, study)


def exported(store: Store) -> str:
    stream = io.StringIO()
    export_lines(store, stream)
    return stream.getvalue()


def writer(path: Path, name: str, total: int) -> subprocess.Popen[str]:
    command = [sys.executable, str(Path(__file__).with_name("store_kill.py")), str(path), name, str(total)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env)


# --- records and digests


@settings(max_examples=40, deadline=None)
@given(contents=st.lists(contents, max_size=4), kind=st.sampled_from(KINDS))
def test_round_trip_by_store_and_by_lines(contents: list[dict[str, Any]], kind: str) -> None:
    written = [new_record(kind, content, HERE, flags=["random weights"]) for content in contents]
    with Store(Path(":memory:")) as store, Store(Path(":memory:")) as other:
        for record in written:
            store.append(record)
        assert store.records() == sorted(written, key=lambda record: record.id)
        for record in written:
            assert canonical(store.get(record.id).body) == canonical(record.body)  # == would take 1 for 1.0 and True
        assert import_lines(other, io.StringIO(exported(store))).added == len(written)
        assert exported(other) == exported(store)


@settings(max_examples=50, deadline=None)
@given(content=contents, seed=st.randoms(use_true_random=False))
def test_digest_does_not_depend_on_the_order_of_keys(content: dict[str, Any], seed: random.Random) -> None:
    def shuffled(value: Any) -> Any:
        if isinstance(value, dict):
            items = [(key, shuffled(item)) for key, item in value.items()]
            seed.shuffle(items)
            return dict(items)
        return [shuffled(item) for item in value] if isinstance(value, list) else value

    assert digest(shuffled(content)) == digest(content)


def test_digest_is_what_anybody_computes() -> None:
    # printf '{"a":[1,2.5,null],"b":"é"}' | sha256sum
    assert digest({"b": "é", "a": (1, 2.5, None)}) == "41a039b5a690a0e490a416507920c9993f5d12a59eb496d685026408ea22b407"
    assert digest({"a": 1}) != digest({"a": 1.0}) != digest({"a": "1"})


def test_digest_of_a_record_covers_every_field() -> None:
    record = a_record(x=1)
    changed = [
        replace(record, id=a_record().id),
        replace(record, kind="bet"),
        replace(record, study=record.id),
        replace(record, created="2026-01-31T12:00:00.000000Z"),
        replace(record, body={**record.body, "x": 2}),
    ]
    assert len({record.digest, *(other.digest for other in changed)}) == 6
    for one in (record, *changed):
        assert one.digest == digest(asdict(one))


def test_record_describes_itself_and_owns_its_content() -> None:
    content = {"rows": [1], "pair": (1, 2)}
    record = new_record("bet", content, HERE, flags=("busy",))
    content["rows"] = [2]
    assert record.body == {
        "schema": 1,
        "machine": {"cpu": "test", "cores": 2},
        "versions": {"ridgepoint": "0.1", "torch": "2.13.0"},
        "definitions": {"latency_s": "step.v1"},
        "flags": ["busy"],
        "rows": [1],
        "pair": [1, 2],
    }


def test_ids_sort_by_time_and_do_not_repeat() -> None:
    records = [a_record() for _ in range(500)]
    assert len({record.id for record in records}) == 500
    assert sorted(records, key=lambda r: (r.id[:11], r.created)) == sorted(
        records, key=lambda r: (r.created, r.id[:11])
    )
    assert {len(record.id) for record in records} == {26}


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (float("nan"), r"body\.x\.y\[1\] is nan; a record holds finite numbers only"),
        (float("-inf"), r"body\.x\.y\[1\] is -inf"),
        (2**64, "more than 64 bits"),
        (-(2**63) - 1, "more than 64 bits"),
        ("\ud800", "not Unicode"),
        ({"\ud800": 1}, "not Unicode"),
        ({1: 2}, "key 1; keys of a record are text"),
        (b"bytes", "builtins.bytes, which JSON cannot hold"),
        ({1, 2}, "set"),
    ],
)
def test_what_json_cannot_hold_is_refused_with_its_place(value: Any, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        a_record(x={"y": [0, value]})
    with pytest.raises(BadInput, match=said):
        digest({"x": {"y": [0, value]}})


def test_nesting_without_end_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(BadInput, match="at most 64 levels"):
        a_record(x=loop)


def test_invalid_record_is_refused() -> None:
    good = a_record(x=1)
    with pytest.raises(BadInput, match="not a record id"):
        replace(good, id="1")
    with pytest.raises(UnknownName, match="no record kind named 'bets'; did you mean bet"):
        replace(good, kind="bets")
    with pytest.raises(BadInput, match="study 'x' is not the id of a bet"):
        replace(good, study="x")
    for created in ("yesterday", "2026-02-30T12:00:00.000000Z", "2026-01-31T12:00:00.000000+01:00"):
        with pytest.raises(BadInput, match="created"):
            replace(good, created=created)
    with pytest.raises(BadInput, match=r"does not describe itself: .*`machine`"):
        replace(good, body={"schema": 1})
    with pytest.raises(BadInput, match="schema 2, this ridgepoint reads up to 1"):
        replace(good, body={**good.body, "schema": 2})
    with pytest.raises(BadInput, match="cannot use the names flags, machine"):
        new_record("point", {"machine": {}, "flags": []}, HERE)


# --- the store


def test_finds_by_kind_study_and_limit(store: Store) -> None:
    bet, other = a_record("bet"), a_record("bet")
    points = [a_record("point", bet.id, i=i) for i in range(5)]
    failure = a_record("failure", bet.id)
    for record in (bet, other, *points, failure):
        store.append(record)
    by_time = [record.id for record in sorted((*points, failure), key=lambda record: record.id)]
    assert [record.id for record in store.records(study=bet.id)] == by_time
    assert store.records(kind="point", study=bet.id, limit=2) == points[-2:]
    assert store.records(kind="point", study=other.id) == []
    assert store.digest_of(bet.id) == bet.digest
    with pytest.raises(UnknownName, match="record kind"):
        store.records(kind="points")
    with pytest.raises(BadInput, match="whole record id"):
        store.records(study=bet.id[:8])
    with pytest.raises(BadInput, match="limit of 0"):
        store.records(limit=0)


def test_every_lookup_uses_an_index(store: Store) -> None:
    database_file = sqlite3.connect(store.path)
    for where in ("kind = ?", "study = ?", "id >= ?", "created >= ?"):
        plan = database_file.execute(f"EXPLAIN QUERY PLAN SELECT * FROM records WHERE {where}", ("x",)).fetchall()
        assert "USING INDEX" in plan[0][3], where
    database_file.close()


def test_whether_one_record_of_a_kind_starts_so(store: Store) -> None:
    first, second = a_record("bet"), a_record("batch-bet")
    store.append(first)
    store.append(second)
    assert store.holds(second.id, "batch-bet") and store.holds(second.id[:25].upper(), "batch-bet")
    assert not store.holds(first.id, "batch-bet") and not store.holds("", "batch-bet") and not store.holds("%", "bet")
    store.append(a_record("batch-bet"))
    assert not store.holds(second.id[:1], "batch-bet")


def test_get_takes_a_unique_prefix(store: Store) -> None:
    stem = a_record().id[:20]
    first, second = (replace(a_record("point"), id=stem + tail) for tail in ("aaaaaa", "zzzzzz"))
    bet = replace(a_record("bet"), id=stem + "azzzzz")
    with pytest.raises(UnknownName, match=r"no record named .*known: none yet"):
        store.get("00")
    for record in (first, second, bet):
        store.append(record)
    assert store.get(first.id) == store.get(stem + "AA") == first
    assert store.get(stem + "a", kind="bet") == bet
    with pytest.raises(BadInput, match=f"several records.*{first.id} .point., {bet.id} .bet.; give more letters"):
        store.get(stem + "a")
    with pytest.raises(UnknownName, match=f"no bet named .*{bet.id}"):
        store.get(second.id[:-1] + "0", kind="bet")
    for wrong in ("", " ", "%", "é", "a' OR 1=1 --", first.id + "0"):
        with pytest.raises(UnknownName):
            store.get(wrong)


def test_records_never_change(store: Store) -> None:
    record = a_record(x=1)
    store.append(record)
    with pytest.raises(BadInput, match="exists already, and records are never changed"):
        store.append(replace(record, body={**record.body, "x": 2}))
    assert store.records() == [record]
    raw = sqlite3.connect(store.path)
    for change in ("UPDATE records SET kind = 'bet'", "DELETE FROM records"):
        with pytest.raises(sqlite3.IntegrityError, match="never"):
            raw.execute(change)
    for body in (canonical({**record.body, "x": 2}), "[", ""):
        raw.execute("DROP TRIGGER IF EXISTS records_never_change")
        raw.execute("UPDATE records SET body = ?", (body,))
        raw.commit()
        with pytest.raises(BadInput, match="does not match its digest"):
            store.get(record.id)
    raw.close()


def test_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RIDGEPOINT_HOME", str(tmp_path / "a" / "b"))
    assert default_path() == tmp_path / "a" / "b" / "ridge.db"
    with Store(default_path()):
        assert default_path().is_file()
    monkeypatch.setenv("RIDGEPOINT_HOME", "")
    assert default_path().name == "ridge.db" and "ridgepoint" in str(default_path().parent)


# --- several processes, and death


def test_two_writers_at_once(tmp_path: Path) -> None:
    path = tmp_path / "new" / "ridge.db"
    children = [writer(path, name, 200) for name in ("a", "b")]
    printed = [child.communicate(timeout=60)[0].split() for child in children]
    assert [child.returncode for child in children] == [0, 0]
    with Store(path) as store:
        assert set(store.ids()) == {*printed[0], *printed[1]}
        assert len(store.ids()) == 400


def test_first_openers_do_not_collide(tmp_path: Path) -> None:
    # each child opens the same 40 new files in turn, and starts on the next one only when all have come to it
    meet = "import sys, time; from pathlib import Path; from ridgepoint.store import Store; root = Path(sys.argv[1])\n"
    meet += "for i in range(40):\n (root / f'{i}.{sys.argv[2]}').touch()\n"
    meet += " while any(not (root / f'{i}.{n}').exists() for n in range(4)): pass\n Store(root / f'{i}.db').close()"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    children = [subprocess.Popen([sys.executable, "-c", meet, str(tmp_path), str(n)], env=env) for n in range(4)]
    codes = []
    for child in children:
        try:
            codes.append(child.wait(timeout=30))
        except subprocess.TimeoutExpired:  # it waits for one that failed
            child.kill()
            codes.append(child.wait())
    assert codes == [0] * 4


def test_nothing_is_lost_by_sigkill(tmp_path: Path) -> None:
    path, printed = tmp_path / "ridge.db", set[str]()
    for round in range(8):
        with writer(path, str(round), 0) as child:
            assert child.stdout is not None
            seen = child.stdout.readline() if round % 2 else ""  # even rounds may die while the file is being opened
            time.sleep(random.uniform(0, 0.1 if round % 2 else 0.4))
            child.kill()
            printed |= {line for line in (seen + child.stdout.read()).splitlines() if len(line) == 26}
        with Store(path) as store:
            kept = store.records()
        ids = {record.id for record in kept}
        assert printed <= ids
        assert len(ids - printed) <= round + 1  # a record committed but not yet printed when its writer died
        for name in {record.body["writer"] for record in kept}:
            numbers = [record.body["i"] for record in kept if record.body["writer"] == name]
            assert sorted(numbers) == list(range(1, len(numbers) + 1))
    assert printed
    raw = sqlite3.connect(path)
    assert raw.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    raw.close()


def test_waits_for_a_writer_and_says_so_in_the_end(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = sqlite3.connect(store.path, isolation_level=None)
    raw.execute("BEGIN IMMEDIATE")
    monkeypatch.setattr(database, "_BUSY_S", 0.1)
    with Store(store.path) as impatient, pytest.raises(BadInput, match="another process has been writing"):
        impatient.append(a_record())
    assert store.records() == []  # readers do not wait
    raw.close()


# --- bad files


def test_file_that_is_no_database(tmp_path: Path) -> None:
    path = tmp_path / "ridge.db"
    path.write_bytes(b"not a database at all, but long enough to look like one" * 50)
    before = path.read_bytes()
    with pytest.raises(BadInput, match="is not a SQLite database, so no store; give another path"):
        Store(path)
    assert path.read_bytes() == before


def test_database_of_another_program_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "places.sqlite"
    raw = sqlite3.connect(path)
    raw.executescript("CREATE TABLE bookmarks (url TEXT); PRAGMA user_version = 74")
    raw.close()
    before = path.read_bytes()
    with pytest.raises(BadInput, match="another program's SQLite database"):
        Store(path)
    assert path.read_bytes() == before


def test_damaged_database(tmp_path: Path) -> None:
    path = tmp_path / "ridge.db"
    with Store(path) as store:
        for i in range(50):
            store.append(a_record(text=str(i) * 2000))
    whole = path.read_bytes()
    path.write_bytes(whole[:8192] + b"\xa5" * (len(whole) - 8192))
    with pytest.raises(BadInput, match=r"is damaged|does not match"), Store(path) as store:
        store.records()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadInput, match=r"is damaged|does not match"), Store(path) as store:
        store.records()


def test_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "ridge.db", tmp_path):
        with pytest.raises(BadInput, match="cannot open it for writing"):
            Store(path)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="folders have no such permission here")
def test_read_only_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Store(tmp_path / "ridge.db") as store:
        store.append(a_record())
    (tmp_path / "ridge.db").chmod(0o444)
    tmp_path.chmod(0o555)
    monkeypatch.chdir(tmp_path)  # relative paths, since the user below may not pass the folders above
    root = os.geteuid() == 0
    try:
        if root:
            os.seteuid(65534)  # root may write anywhere
        for path in ("ridge.db", "other.db", "folder/ridge.db"):
            with pytest.raises(BadInput, match="cannot open it for writing"):
                Store(Path(path))
    finally:
        if root:
            os.seteuid(0)
        tmp_path.chmod(0o755)


def test_migration_keeps_records_and_is_all_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, record = tmp_path / "ridge.db", a_record(x=1)
    with Store(path) as store:
        store.append(record)
    first = database._MIGRATIONS
    monkeypatch.setattr(database, "_MIGRATIONS", (*first, ("CREATE TABLE later (a)", "CREATE TABLE later (a)")))
    with pytest.raises(BadInput, match="later already exists"):
        Store(path)
    monkeypatch.setattr(database, "_MIGRATIONS", (*first, ("CREATE TABLE later (a)",)))
    with Store(path) as store:
        assert store.records() == [record]
    with Store(path) as store:
        assert store.get(record.id) == record
    monkeypatch.setattr(database, "_MIGRATIONS", first)
    with pytest.raises(BadInput, match="schema 2, this ridgepoint knows up to 1; upgrade"):
        Store(path)


# --- JSON lines


def test_import_skips_what_is_here(store: Store, tmp_path: Path) -> None:
    for i in range(3):
        store.append(a_record(i=i, text="line\n\x85\u2028separators"))
    text = exported(store)
    assert text.isascii() and len(text.splitlines()) == 3
    with Store(tmp_path / "other.db") as other:
        other.append(store.records()[1])
        first = import_lines(other, io.StringIO(text + "\n  \n"))
        again = import_lines(other, io.BytesIO(text.encode()))
        assert (first.added, first.skipped, again.added, again.skipped) == (2, 1, 0, 3)
        assert other.records() == store.records()


def edited(line: str, **fields: Any) -> str:
    return json.dumps({**json.loads(line), **fields})


BAD_LINES = {
    "cut": (lambda line: line[:-20], "not a record"),
    "no JSON": (lambda line: "hello", "not a record"),
    "no object": (lambda line: "[1, 2]", "not a record: Expected `object`"),
    "deep": (lambda line: '{"body":' + "[" * 100_000, "not a record"),
    "NaN": (lambda line: line.replace('"i":1', '"i":NaN'), "not a record"),
    "too large a number": (lambda line: line.replace('"i":1', '"i":1e999'), "not a record"),
    "missing field": (lambda line: '{"id": "x"}', "missing required field `kind`"),
    "unknown field": (lambda line: edited(line, extra=1), "unknown field `extra`"),
    "changed body": (lambda line: line.replace('"i":1', '"i":7'), "does not match its digest"),
    "changed kind": (lambda line: edited(line, kind="bet"), "does not match its digest"),
    "unknown kind": (lambda line: edited(line, kind="wish"), "no record kind named 'wish'"),
    "bad id": (lambda line: edited(line, id="../etc"), "not a record id"),
}


@pytest.mark.parametrize("case", BAD_LINES)
def test_bad_line_is_named_and_the_lines_before_it_are_kept(store: Store, case: str) -> None:
    spoil, said = BAD_LINES[case]
    with Store(Path(":memory:")) as source:
        for i in range(3):
            source.append(replace(a_record(i=i), id=f"{'0' * 25}{i}"))
        lines = exported(source).splitlines(keepends=True)
    spoiled = spoil(lines[1].rstrip("\n"))
    assert spoiled + "\n" != lines[1]
    with pytest.raises(BadInput, match=rf"^line 2: .*{said}.*\(lines before it: 1 imported, 0 here already\)$"):
        import_lines(store, [lines[0], spoiled, lines[2]])
    assert len(store.ids()) == 1


def test_same_id_with_other_content_is_refused(store: Store) -> None:
    here = a_record(x=1)
    store.append(here)
    with Store(Path(":memory:")) as source:
        source.append(replace(here, body={**here.body, "x": 2}))
        text = exported(source)
    with pytest.raises(BadInput, match=f"line 3: record {here.id} is here already with other content"):
        import_lines(store, io.StringIO(exported(store) + "\n" + text))
    assert store.records() == [here]


@pytest.mark.parametrize("stream", [io.BytesIO(b"\n\xff\xfe\n"), io.TextIOWrapper(io.BytesIO(b"\xff\xfe\n"), "utf-8")])
def test_bytes_that_are_no_text(store: Store, stream: Any) -> None:
    with pytest.raises(BadInput, match=r"line [12]: "):
        import_lines(store, stream)
