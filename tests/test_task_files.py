"""Local tasks: whatever would run code is refused in one line, data is found beside the file, the hash covers all of it."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ridgepoint.errors import BadInput, RidgeError
from ridgepoint.measurement.task_files import is_local, task_files

pytest.importorskip("yaml", reason="pip install 'ridgepoint[tasks]'")

PLAIN = {
    "task": "t", "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": "items.jsonl"}}, "test_split": "test",
    "output_type": "multiple_choice", "doc_to_text": "{{q}}", "doc_to_choice": "{{c}}", "doc_to_target": "a",
    "metric_list": [{"metric": "acc"}],
}  # fmt: skip


def write(folder: Path, text: str, name: str = "t.yaml") -> Path:
    (folder / "items.jsonl").write_text('{"q": "x", "c": ["a", "b"], "a": 0}\n')
    (folder / name).write_text(text)
    return folder / name


def test_a_plain_task_is_read_with_its_data_beside_it(tmp_path: Path) -> None:
    (found,) = task_files(str(write(tmp_path, json.dumps(PLAIN))), False)
    assert found.config["task"] == "t"
    assert found.config["dataset_kwargs"]["data_files"] == {"test": str((tmp_path / "items.jsonl").resolve())}


def test_the_hash_covers_the_file_what_it_includes_and_the_data(tmp_path: Path) -> None:
    path = write(tmp_path, json.dumps(PLAIN | {"include": "base.inc"}))
    (tmp_path / "base.inc").write_text("num_fewshot: 0\n")
    seen = {task_files(str(path), False)[0].sha256}
    (tmp_path / "items.jsonl").write_text("{}\n")
    seen.add(task_files(str(path), False)[0].sha256)
    (tmp_path / "base.inc").write_text("num_fewshot: 1\n")
    (found,) = task_files(str(path), False)
    seen.add(found.sha256)
    assert len(seen) == 3 and found.config["num_fewshot"] == 1
    assert "include" not in found.config


@pytest.mark.parametrize(
    "change,named",
    [
        ({"class": "m.Task"}, "class"),
        ({"custom_dataset": "m.f"}, "custom_dataset"),
        ({"unsafe_code": True}, "unsafe_code"),
        ({"dataset_kwargs": {"trust_remote_code": True, "data_files": "items.jsonl"}}, "trust_remote_code"),
        ({"metric_list": [{"metric": "./evil.py"}]}, "evil.py"),
        ({"metric_list": [{"metric": "acc", "hf_evaluate": True}]}, "metric"),
    ],
)
def test_what_runs_code_is_refused_unless_allowed(tmp_path: Path, change: dict, named: str) -> None:
    path = write(tmp_path, json.dumps(PLAIN | change))
    with pytest.raises(BadInput, match=named) as error:
        task_files(str(path), False)
    assert "--allow-task-code" in str(error.value) and "\n" not in str(error.value)
    assert task_files(str(path), True)


@pytest.mark.parametrize("where", ["t.yaml", "base.inc"])
def test_functions_are_refused_in_the_file_and_in_what_it_includes(tmp_path: Path, where: str) -> None:
    write(tmp_path, json.dumps(PLAIN | {"include": "base.inc"}))
    (tmp_path / "base.inc").write_text("num_fewshot: 0\n")
    ran = tmp_path / "ran"
    (tmp_path / "evil.py").write_text(f"open({str(ran)!r}, 'w')\ndef f(x): return x\n")
    text = "task: t\ninclude: base.inc\n" if where == "t.yaml" else ""
    (tmp_path / where).write_text(text + "process_docs: !function evil.f\n")
    with pytest.raises(BadInput, match="line [0-9]: !function runs code"):
        task_files(str(tmp_path / "t.yaml"), False)
    assert not ran.exists()


@pytest.mark.parametrize(
    "text,said",
    [
        ("task: [a", "no YAML"),
        ("!!python/object/apply:os.system [id]", "no YAML"),
        ("- a", "mapping"),
        ("group: g", "no line `task: NAME`"),
        ("task: t\ninclude: t.yaml", "includes itself"),
        ("task: t\ninclude: nowhere", "cannot be read"),
        ("task: t\ndataset_path: pandas", "dataset_path is 'pandas'"),
        ("task: t\ndataset_path: https://x.y/z", "dataset_path is"),
        ("task: t\ndataset_path: json", "no dataset_kwargs.data_files"),
        ("task: t\ndataset_path: json\ndataset_kwargs: {data_files: {test: gone.json}}", "'gone.json' is not there"),
        ("task: t\ndataset_path: json\ndataset_kwargs: {data_files: 'https://x.y/z.json'}", "is not there"),
    ],
)
def test_what_is_no_local_task_is_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        task_files(str(write(tmp_path, text)), False)


def test_folders(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no YAML file in it"):
        task_files(str(tmp_path), False)
    write(tmp_path, json.dumps(PLAIN), "b.yaml")
    write(tmp_path, json.dumps(PLAIN | {"task": "u"}), "a.yml")
    write(tmp_path, "num_fewshot: 1", "base.yaml")
    assert [t.config["task"] for t in task_files(str(tmp_path), False)] == ["u", "t"]
    with pytest.raises(BadInput, match="no such file"):
        task_files(str(tmp_path / "gone.yaml"), False)
    assert is_local(str(tmp_path)) and is_local("x.yaml") and not is_local("arc_easy")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.one_of(st.binary(max_size=80), st.text(alphabet="task: t\n!<>&*[]{}-'\"#|%@", max_size=60).map(str.encode))
)
def test_any_bytes_are_a_task_or_one_line(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "t.yaml").write_bytes(data)
    try:
        task_files(str(tmp_path / "t.yaml"), False)
    except RidgeError as error:
        assert "\n" not in str(error)
