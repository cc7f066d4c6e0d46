"""Published archives are fetched whole, from a server that breaks off, lies, or is not there.

A small server on this machine stands for the makers'. It can send less than it was asked for, and
may or may not know how to go on in the middle of a file.
"""

import errno
import hashlib
import io
import re
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest

from kclib import __main__ as command_line
from kclib.book import fetching, sources
from kclib.errors import InputError
from kclib.images import archives
from kclib.images.archives import Archive

HALF = 150_000


class Server(ThreadingHTTPServer):
    """Serves ``files``, by name; ``breaks`` says after how many bytes the next answers end."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.breaks: list[int] = []
        self.goes_on = True
        self.asked: list[str | None] = []  # the Range of each request

    def publish(self, name: str) -> Archive:
        """Serve a tar file of that name with one file in it; return it as a published archive."""
        # No two bytes in a row are alike, so that a piece which is missing or twice shows.
        content = b"".join(hashlib.sha256(f"{name}{k}".encode()).digest() for k in range(10_000))
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w") as tar:
            member = tarfile.TarInfo("content.bin")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        self.files[name] = file.getvalue()
        url = f"http://127.0.0.1:{self.server_port}/{name}"
        return Archive(url, hashlib.sha256(file.getvalue()).hexdigest(), len(file.getvalue()))


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append(self.headers.get("Range"))
        content = self.server.files.get(self.path.removeprefix("/"))
        if content is None:
            return self.send_error(404)
        start = 0
        if self.server.goes_on and "Range" in self.headers:
            start = int(re.fullmatch(r"bytes=(\d+)-", self.headers["Range"])[1])
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        sent = self.server.breaks.pop(0) if self.server.breaks else len(content)
        self.wfile.write(content[start : start + sent])

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with Server() as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield made
        made.shutdown()
        thread.join()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The folder that receives archives."""
    monkeypatch.setenv("KC_DATA", str(tmp_path / "photographs"))
    monkeypatch.setenv("KC_PROGRESS", str(tmp_path / "bars"))
    return tmp_path / "photographs"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("[!.]*"))


def fetched(archive: Archive, folder: Path) -> bytes:
    return (archives.fetch(archive, folder, download=True) / "content.bin").read_bytes()


def test_a_connection_that_breaks_is_taken_up_where_it_broke(server, folder):
    archive = server.publish("birds.tar")
    server.breaks = [HALF, 100]
    assert fetched(archive, folder) in server.files["birds.tar"]
    assert server.asked == [None, f"bytes={HALF}-", f"bytes={HALF + 100}-"]
    assert names(folder) == [archive.extracted(folder).name, "birds.tar"]


def test_a_server_that_cannot_go_on_is_asked_for_all_of_it(server, folder):
    archive = server.publish("birds.tar")
    server.breaks, server.goes_on = [HALF], False
    assert fetched(archive, folder) in server.files["birds.tar"]
    assert server.asked == [None, f"bytes={HALF}-"]


def test_a_connection_that_brings_nothing_more_ends_the_call_and_the_next_goes_on(server, folder):
    archive = server.publish("birds.tar")
    server.breaks = [HALF, 0]
    said = rf"{archive.url} \(the connection ended after {HALF:,} of {archive.size:,} bytes\)"
    with pytest.raises(InputError, match=f"{said}.*put the file at {folder / 'birds.tar'}"):
        fetched(archive, folder)
    assert names(folder) == ["birds.tar.part"]
    assert fetched(archive, folder) in server.files["birds.tar"]
    assert server.asked[2:] == [f"bytes={HALF}-"]


def test_another_file_than_the_published_one_is_refused_and_not_kept(server, folder):
    archive = server.publish("birds.tar")
    changed = bytearray(server.files["birds.tar"])
    changed[HALF] ^= 1
    server.files["birds.tar"] = bytes(changed)
    with pytest.raises(InputError, match=f"damaged or another file.*expected {archive.sha256}"):
        fetched(archive, folder)
    assert names(folder) == []


def test_a_full_disk_is_said_and_what_was_written_is_gone_on_from(server, folder, monkeypatch):
    archive = server.publish("birds.tar")

    class Full(io.FileIO):
        def write(self, piece):
            super().write(piece[: HALF - self.tell()])
            raise OSError(errno.ENOSPC, "No space left on device")

    def opened(path, mode):
        return Full(path, mode) if path.suffix == ".part" and "a" in mode else open(path, mode)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", opened)
        with pytest.raises(InputError, match=r"No space left on device\); try again, with space"):
            fetched(archive, folder)
    assert names(folder) == ["birds.tar.part"] and len(server.asked) == 1
    assert fetched(archive, folder) in server.files["birds.tar"]
    assert server.asked[1:] == [f"bytes={(HALF)}-"]


# make data


@pytest.fixture
def published(server, monkeypatch):
    """CUB and Stanford Dogs as small archives of the server, by name."""
    found = {"cub200": ("birds.tar",), "dogs120": ("dogs.tar", "lists.tar"), "vocanimal": ()}
    for name, files in found.items():
        made = tuple(server.publish(file) for file in files)
        monkeypatch.setitem(
            sources._PUBLISHED, name, sources._PUBLISHED[name]._replace(archives=made)
        )
    return [archive for one in sources._PUBLISHED.values() for archive in one.archives]


def test_the_command_says_how_much_fetches_it_and_ends_with_the_next_line(
    published, server, folder, capsys
):
    server.breaks = [HALF]
    assert command_line.main(["data", "--profile", "plain64"]) == 0
    first, *lines, _, last = capsys.readouterr().out.splitlines()
    size = sum(archive.size for archive in published)
    assert first == f"{size / 1e9:.2g} GB to fetch, {2 * size / 1e9:.2g} GB when unpacked:"
    assert [line.split(",")[0].strip() for line in lines] == ["birds.tar", "dogs.tar", "lists.tar"]
    assert last == f"  KC_DATA={folder} make book PROFILE=plain64"
    assert all(archive.extracted(folder).is_dir() for archive in published)
    asked = len(server.asked)
    assert command_line.main(["data", "--profile", "plain64"]) == 0
    assert len(server.asked) == asked and "to fetch, " not in capsys.readouterr().out


def test_what_cannot_be_fetched_is_named_with_its_place_and_the_rest_comes(
    published, server, folder, capsys
):
    birds, dogs, lists = published
    del server.files["birds.tar"], server.files["lists.tar"]
    assert command_line.main(["data", "--profile", "plain64"]) == 2
    said = capsys.readouterr().err
    for archive in (birds, lists):
        assert f"{archive.name}: cannot download {archive.url} (HTTP Error 404" in said
        assert f"put the file at {folder / archive.name}" in said
    assert dogs.extracted(folder).is_dir() and "dogs.tar" not in said


def test_a_disk_without_room_is_refused_before_anything_is_fetched(
    published, server, folder, capsys, monkeypatch
):
    monkeypatch.setattr(fetching.shutil, "disk_usage", lambda _: SimpleNamespace(free=1_000_000))
    assert command_line.main(["data", "--profile", "plain64"]) == 2
    assert (
        f"need 0.002 GB in {folder}, which has 0.001 GB left; make space" in capsys.readouterr().err
    )
    assert server.asked == []


def test_a_part_that_is_there_is_not_counted_again(published, server, folder, capsys):
    birds, *_ = published
    folder.mkdir()
    (folder / "birds.tar.part").write_bytes(server.files["birds.tar"][:HALF])
    assert "birds.tar, 0.00033 GB (0.00015 GB of it are there)" in fetching.announced(
        published, folder
    )
    assert command_line.main(["data", "--profile", "plain64"]) == 0
    assert server.asked[0] == f"bytes={HALF}-"


def test_packs_take_the_place_of_archives(published, server, folder, monkeypatch):
    folder.mkdir()
    for split in ("train", "test"):
        (folder / f"cub200_{split}_112.npz").touch()
    assert command_line.main(["data", "--profile", "plain64"]) == 0
    assert names(folder)[:2] == ["cub200_test_112.npz", "cub200_train_112.npz"]
    assert not published[0].extracted(folder).is_dir() and published[1].extracted(folder).is_dir()


def test_drawn_images_need_no_folder(monkeypatch, capsys):
    monkeypatch.delenv("KC_DATA", raising=False)
    assert command_line.main(["data", "--profile", "quick"]) == 0
    assert capsys.readouterr().out.endswith("Next:\n  make book PROFILE=quick\n")
    assert command_line.main(["data", "--profile", "plain64"]) == 2
    assert "KC_DATA is not set" in capsys.readouterr().err
