"""The store: an entry is there whole or not at all, made once, and never pickled."""

import errno
import fcntl
import hashlib
import json
import multiprocessing
import os
import pickle
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest
import torch

from kclib.atomic import replace_file, whole_file
from kclib.book.store import Damaged, Store, content_key
from kclib.errors import StoreError

TENSORS = {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor([True, False])}
RECORD = {"accuracy": 0.25, "history": [{"epoch": 1}], "name": "α"}


def build(_unfinished):
    return TENSORS, RECORD


def refuse(_unfinished):
    raise AssertionError("built again")


def check(entry):
    """Check that an entry that was loaded or made holds what `build` gives."""
    tensors, record = entry
    assert record == RECORD and tensors.keys() == TENSORS.keys()
    assert all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)


def place(root, **spec):
    return Store(root).path("things", content_key(spec))


def files(root):
    """Return the files of a store but for its locks, which stay."""
    return sorted(
        str(path.relative_to(root))
        for path in Path(root).rglob("*")
        if path.is_file() and path.suffix != ".lock"
    )


@pytest.fixture
def made(tmp_path):
    """The path of an entry."""
    path = place(tmp_path)
    check(Store(tmp_path).make(path, build))
    return path


# --- made once --------------------------------------------------------------------------------


def test_an_entry_is_built_once_and_then_read(tmp_path, made):
    check(Store(tmp_path).make(made, refuse))
    check(Store(tmp_path).load(made))
    assert files(tmp_path) == [f"things/{made.name}/{name}" for name in store_files()]


def store_files():
    return ["entry.json", "tensors.safetensors"]


def test_an_entry_may_be_read_by_whom_the_umask_allows(tmp_path):
    before = os.umask(0o027)
    try:
        path = place(tmp_path)
        Store(tmp_path).make(path, build)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o750
    assert {file.stat().st_mode & 0o777 for file in path.iterdir()} == {0o640}


def test_views_and_empty_tensors_are_stored(tmp_path):
    given = {"view": torch.arange(12.0).view(3, 4).T[1:], "none": torch.zeros(0, 5)}
    tensors, record = Store(tmp_path).make(place(tmp_path), lambda _: (given, {}))
    assert record == {} and all(torch.equal(tensors[name], given[name]) for name in given)


def test_a_folder_without_its_entry_file_is_made_again(tmp_path, made):
    (made / "entry.json").unlink()  # as Snakemake does with the output of a rule that failed
    check(Store(tmp_path).make(made, build))
    assert files(tmp_path) == [f"things/{made.name}/{name}" for name in store_files()]


def test_an_empty_folder_at_its_place_does_not_matter(tmp_path):
    path = place(tmp_path)
    path.mkdir(parents=True)  # as Snakemake makes it before it runs a rule
    check(Store(tmp_path).make(path, build))


def test_checkpoints_last_until_the_entry_is_finished(tmp_path):
    path, folders = place(tmp_path), []

    def interrupted(unfinished):
        folders.append(unfinished)
        (unfinished / "checkpoint").write_text("half way")
        raise KeyboardInterrupt

    def resumed(unfinished):
        assert unfinished == folders[0]
        assert (unfinished / "checkpoint").read_text() == "half way"
        return build(unfinished)

    with pytest.raises(KeyboardInterrupt):
        Store(tmp_path).make(path, interrupted)
    assert not path.exists()
    check(Store(tmp_path).make(path, resumed))
    assert not folders[0].exists()


def test_an_error_of_the_builder_is_not_blamed_on_the_store(tmp_path):
    def fail(_unfinished):
        raise PermissionError(errno.EACCES, "not for you", "/elsewhere")

    with pytest.raises(PermissionError, match="/elsewhere"):
        Store(tmp_path).make(place(tmp_path), fail)
    check(Store(tmp_path).make(place(tmp_path), build))  # the lock is free again


# --- several processes ------------------------------------------------------------------------
#
# Each child starts from a clean process that has imported what it needs; functions that a child
# runs stand at the top of this file's namespace, where it finds them.

processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["kclib.book.store", "pytest"])


def start(function, *given):
    process = processes.Process(target=function, args=given)
    process.start()
    return process


def make_slowly(root, log, barrier):
    def build_slowly(_unfinished):
        with open(log, "a") as file:
            file.write("built\n")
        time.sleep(0.5)
        return TENSORS, RECORD

    barrier.wait(60)
    check(Store(root).make(place(root), build_slowly))


def test_processes_that_want_the_same_entry_make_it_once(tmp_path):
    log, barrier = tmp_path / "log", processes.Barrier(3)
    started = [start(make_slowly, tmp_path / "store", log, barrier) for _ in range(3)]
    for process in started:
        process.join(60)
        assert process.exitcode == 0
    assert log.read_text() == "built\n"


def make_until_killed(root, moment):
    """Make an entry; SIGKILL this process at its k-th use of a file or folder of the store."""
    left = moment

    def count(event, given):
        nonlocal left
        if event.split(".")[0] in ("open", "os", "shutil") and str(root) in str(given[:2]):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    Store(root).make(place(root), build)


def test_a_kill_at_any_step_leaves_all_or_nothing(tmp_path):
    outcomes = []
    for moment in range(1, 100):
        root = tmp_path / str(moment)
        path = place(root)
        process = start(make_until_killed, root, moment)
        process.join(60)
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
        finished = (path / "entry.json").exists()
        outcomes.append(finished)
        check(Store(root).make(path, refuse if finished else build))
        if not finished:  # then the next run has cleared away what was left
            assert files(root) == [f"things/{path.name}/{name}" for name in store_files()]
    assert outcomes.index(True) >= 8 and outcomes == sorted(outcomes)
    assert process.exitcode == 0 and len(outcomes) < 99


def make_without_locks(root, log, barrier):
    def flock(_file, _operation):
        raise OSError(errno.ENOLCK, "No locks available")

    def build_beside_others(_unfinished):
        barrier.wait(60)
        with open(log, "a") as file:
            file.write("built\n")
        return TENSORS, RECORD

    fcntl.flock = flock
    for number in range(20):
        check(Store(root).make(place(root, number=number), build_beside_others))


def test_without_locks_an_entry_is_made_more_than_once_and_ends_sound(tmp_path):
    """As on a network file system that has none: see `kclib.book.locks`."""
    root, log, barrier = tmp_path / "store", tmp_path / "log", processes.Barrier(4)
    started = [start(make_without_locks, root, log, barrier) for _ in range(4)]
    for process in started:
        process.join(60)
        assert process.exitcode == 0
    assert log.read_text() == 80 * "built\n"
    paths = [place(root, number=number) for number in range(20)]
    for path in paths:
        check(Store(root).make(path, refuse))
    assert files(root) == sorted(f"things/{p.name}/{name}" for p in paths for name in store_files())


def big(number):
    return torch.full((200_000,), float(number))


def make_many(root, ready):
    for number in range(1000):
        Store(root).make(place(root, number=number), lambda _, n=number: ({"x": big(n)}, {"n": n}))
        ready.set()


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_kill_at_a_random_moment_leaves_only_whole_entries(tmp_path, seed):
    ready = processes.Event()
    process = start(make_many, tmp_path, ready)
    assert ready.wait(60)
    time.sleep(random.Random(seed).uniform(0, 0.15))
    process.kill()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    entries = [path for path in (tmp_path / "things").iterdir() if path.is_dir()]
    for path in entries:
        tensors, record = Store(tmp_path).load(path)
        assert torch.equal(tensors["x"], big(record["n"]))
    number = len(entries)  # the one at which it was killed
    path = place(tmp_path, number=number)
    assert path not in entries
    Store(tmp_path).make(path, lambda _: ({"x": big(number)}, {"n": number}))
    assert len(files(tmp_path)) == 2 * (number + 1)


# --- damage -----------------------------------------------------------------------------------


@pytest.fixture
def told(monkeypatch, tmp_path):
    """A file that gets the lines meant for whoever waits."""
    file = tmp_path / "told" / "lines"
    file.parent.mkdir()
    file.touch()
    monkeypatch.setenv("KC_PROGRESS", str(file))
    return file


def damage(path, told):
    """Check that a damaged entry is refused, then set aside and made again; return what is said."""
    store = Store(path.parent.parent)
    before = {file.name: file.read_bytes() for file in path.iterdir()}
    with pytest.raises(Damaged) as caught:
        store.load(path)
    told.write_text("")
    check(store.make(path, build))
    check(store.make(path, refuse))
    [kept] = (store.root / "damaged").iterdir()
    assert {file.name: file.read_bytes() for file in kept.iterdir()} == before
    shutil.rmtree(kept)
    assert str(path) in str(caught.value)
    [line] = told.read_text().splitlines()
    assert line == f"{caught.value}; it is moved to {store.root / 'damaged'} and made again."
    return line


@pytest.mark.parametrize("name", ["entry.json", "tensors.safetensors"])
def test_a_truncated_file_is_noticed_at_any_length(made, told, name):
    content = (made / name).read_bytes()
    for length in {*range(0, len(content), 17), len(content) - 1}:
        (made / name).write_bytes(content[:length])
        damage(made, told)


def test_the_message_of_a_truncated_file_has_its_size_and_the_right_one(made, told):
    content = (made / "tensors.safetensors").read_bytes()
    (made / "tensors.safetensors").write_bytes(content[:-5])
    assert f"{len(content) - 5:,} bytes, not the {len(content):,} written" in damage(made, told)


@pytest.mark.parametrize("name", ["entry.json", "tensors.safetensors"])
@pytest.mark.parametrize("bit", [0, 5])
def test_no_changed_bit_is_misread(made, told, name, bit):
    """Each is noticed, or, as in white space and the size, changes nothing that is read."""
    content = (made / name).read_bytes()
    noticed = 0
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 1 << bit
        (made / name).write_bytes(changed)
        try:
            check(Store(made.parent.parent).load(made))
        except Damaged:
            noticed += 1
    assert noticed >= (len(content) if name == "tensors.safetensors" else 0.8 * len(content))
    damage(made, told)


def test_an_entry_of_an_earlier_version_is_read(made):
    entry = json.loads((made / "entry.json").read_text())
    del entry["digest"]
    (made / "entry.json").write_text(json.dumps(entry))
    check(Store(made.parent.parent).make(made, refuse))


def test_missing_tensors_are_noticed(made, told):
    (made / "tensors.safetensors").unlink()
    assert "No such file" in damage(made, told)


@pytest.mark.parametrize("text", ["null", "[]", "{}", '{"sha256": 3}', "3"])
def test_another_json_is_no_entry(made, told, text):
    (made / "entry.json").write_text(text)
    damage(made, told)


def test_damage_twice_is_kept_twice(made, told):
    for number in (1, 2):
        (made / "tensors.safetensors").write_bytes(b"")
        check(Store(made.parent.parent).make(made, build))
        assert len(list((made.parents[1] / "damaged").iterdir())) == number


def test_what_the_disk_does_not_give_is_not_called_damaged(made, monkeypatch):
    """It may be sound, and give itself again: nothing is moved or made."""

    def read_bytes(path):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    with pytest.raises(StoreError, match="cannot be read .Input/output error.; .* disk") as caught:
        Store(made.parent.parent).make(made, refuse)
    assert not isinstance(caught.value, Damaged) and str(made) in str(caught.value)
    assert not (made.parents[1] / "damaged").exists()


def test_processes_that_want_one_damaged_entry_make_it_once(tmp_path, told):
    root, log, barrier = tmp_path / "store", tmp_path / "log", processes.Barrier(3)
    check(Store(root).make(place(root), build))
    (place(root) / "tensors.safetensors").write_bytes(b"")
    started = [start(make_slowly, root, log, barrier) for _ in range(3)]
    for process in started:
        process.join(60)
        assert process.exitcode == 0
    assert log.read_text() == "built\n"
    assert len(list((root / "damaged").iterdir())) == 1


# --- no pickle --------------------------------------------------------------------------------


def test_nothing_is_pickled(tmp_path, monkeypatch):
    def pickled(*_, **__):
        raise AssertionError("pickle was used")

    for name in ("dump", "dumps", "load", "loads", "Pickler", "Unpickler"):
        monkeypatch.setattr(pickle, name, pickled)
    monkeypatch.setattr(torch, "save", pickled)
    monkeypatch.setattr(torch, "load", pickled)
    path = place(tmp_path)
    check(Store(tmp_path).make(path, build))
    check(Store(tmp_path).load(path))


class Payload:
    """Unpickling it makes a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_a_pickle_in_the_place_of_tensors_is_not_read(made, told, tmp_path):
    trap = tmp_path / "trap"
    content = pickle.dumps(Payload(str(trap)))
    (made / "tensors.safetensors").write_bytes(content)
    entry = json.loads((made / "entry.json").read_text())
    entry |= {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    del entry["digest"]
    (made / "entry.json").write_text(json.dumps(entry))
    damage(made, told)
    assert not trap.exists()


# --- full disk, no permission -----------------------------------------------------------------


@pytest.fixture
def full_disk(monkeypatch):
    """A disk that has no room for what is written."""

    def fsync(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)
    return monkeypatch


def test_a_full_disk_leaves_nothing_half_made(tmp_path, full_disk):
    path = place(tmp_path)
    with pytest.raises(StoreError) as caught:
        Store(tmp_path).make(path, build)
    message = str(caught.value)
    assert str(tmp_path) in message and "the disk is full; free some space" in message
    assert "KC_STORE" in message
    assert files(tmp_path) == [] and not path.exists()
    full_disk.undo()
    check(Store(tmp_path).make(path, build))


def test_a_full_disk_keeps_checkpoints(tmp_path, full_disk):
    def with_checkpoint(unfinished):
        (unfinished / "checkpoint").write_text("all but the entry")
        return TENSORS, RECORD

    path = place(tmp_path)
    with pytest.raises(StoreError):
        Store(tmp_path).make(path, with_checkpoint)
    assert files(tmp_path) == [f"unfinished/things-{path.name}/checkpoint"]


@pytest.mark.parametrize("blocked", [".", "things", "unfinished"])
def test_a_place_where_nothing_can_be_written_is_named(tmp_path, blocked):
    root = tmp_path / "file" / "store" if blocked == "." else tmp_path / "store"
    obstacle = tmp_path / "file" if blocked == "." else root / blocked
    obstacle.parent.mkdir(exist_ok=True)
    obstacle.write_text("not a folder")  # refuses everyone, also the administrator
    with pytest.raises(StoreError) as caught:
        Store(root).make(place(root), refuse)
    message = str(caught.value)
    assert str(root) in message and "writing is not allowed there" in message
    assert "change the permission" in message and "KC_STORE" in message
    assert files(tmp_path) == [str(obstacle.relative_to(tmp_path))]


def test_other_errors_are_not_called_a_full_disk(tmp_path, monkeypatch):
    def fsync(_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="Input/output error"):
        Store(tmp_path).make(place(tmp_path), build)
    assert files(tmp_path) == []


def test_a_file_is_replaced_whole(tmp_path):
    path = tmp_path / "folder" / "result.json"
    for content in (b"old", b"the new one"):
        replace_file(path, content)
        assert path.read_bytes() == content
    assert files(tmp_path) == ["folder/result.json"]


def test_a_full_disk_keeps_the_old_file(tmp_path, full_disk):
    path = tmp_path / "result.json"
    path.write_bytes(b"old")
    with pytest.raises(StoreError, match="the disk is full.*finished before is kept") as caught:
        replace_file(path, b"the new one")
    assert "KC_" not in str(caught.value)  # the library knows of no variables
    assert path.read_bytes() == b"old" and files(tmp_path) == ["result.json"]


def test_an_error_while_a_file_is_written_keeps_the_old_one(tmp_path):
    path = tmp_path / "result.json"
    path.write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), whole_file(path) as file:
        file.write(b"the n")
        file.write(bytes(1 // 0))
    assert path.read_bytes() == b"old" and files(tmp_path) == ["result.json"]


# --- keys -------------------------------------------------------------------------------------


def test_a_key_depends_on_all_of_the_content():
    one = content_key({"seed": 0, "size": 32})
    assert content_key({"size": 32, "seed": 0}) == one
    assert content_key(json.loads(json.dumps({"seed": 0, "size": 32}))) == one
    others = [content_key(c) for c in ({"seed": 1, "size": 32}, {"seed": 0}, {})]
    assert len({one, *others}) == 4


def test_a_kind_is_a_folder_and_a_key_a_name_in_it(tmp_path):
    assert Store(tmp_path).path("things", "abc") == tmp_path / "things" / "abc"
