"""Fetching a file from a server that breaks off, knows no Range, or has another file."""

import hashlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers import Server, serve

from metalearn_cli.datasets import sources as module
from metalearn_cli.datasets.sources import fetch
from metalearn_cli.errors import UserError

DATA = os.urandom(300_000)
MD5 = hashlib.md5(DATA, usedforsecurity=False).hexdigest()


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PAUSE", 0.0)


@pytest.fixture
def server() -> Iterator[Server]:
    with serve({"/file": DATA}) as server:
        yield server


def refusal(server: Server, path: Path) -> str:
    with pytest.raises(UserError) as caught:
        list(fetch(f"{server.address}/file", path, MD5))
    assert not path.exists(), "it stands there as if it were whole"
    assert f"put the file at {path} by other means" in str(caught.value)
    return str(caught.value)


def test_a_file_is_fetched_whole(server: Server, tmp_path: Path) -> None:
    steps = []
    for step in fetch(f"{server.address}/file", tmp_path / "file", MD5):
        assert not (tmp_path / "file").exists()
        steps.append(step)
    assert (tmp_path / "file").read_bytes() == DATA
    assert steps[-1] == (300_000, 300_000)
    assert len(steps) > 3
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_what_a_broken_line_has_left_is_continued(server: Server, tmp_path: Path) -> None:
    server.breaks_after = [150_000, 1]
    list(fetch(f"{server.address}/file", tmp_path / "file", MD5))
    assert (tmp_path / "file").read_bytes() == DATA
    assert sum(request.sent for request in server.requests) == 300_000
    assert [request.range for request in server.requests][-2:] == ["bytes=150000-", "bytes=150001-"]


def test_a_line_that_stays_broken_leaves_what_came_for_the_next_call(server: Server, tmp_path: Path) -> None:
    server.breaks_after = [100_000, 0, 0]
    sentence = refusal(server, tmp_path / "file")
    assert "cannot be fetched (the line broke after 100000 of 300000 bytes)" in sentence
    assert "give the same command again, which continues after the 100000 bytes that are there" in sentence
    assert len(server.requests) == 3
    list(fetch(f"{server.address}/file", tmp_path / "file", MD5))
    assert (tmp_path / "file").read_bytes() == DATA
    assert server.requests[-1] == ("/file", "bytes=100000-", 200_000)


@pytest.mark.parametrize("says_length", [True, False])
def test_a_server_that_knows_no_range_sends_all_again(server: Server, tmp_path: Path, says_length: bool) -> None:
    server.knows_range, server.says_length = False, says_length
    (tmp_path / "file.part").write_bytes(DATA[:1000])
    steps = list(fetch(f"{server.address}/file", tmp_path / "file", MD5))
    assert (tmp_path / "file").read_bytes() == DATA
    assert steps[-1] == (300_000, 300_000 if says_length else None)


def test_a_part_that_is_whole_already_is_taken(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.part").write_bytes(DATA)
    list(fetch(f"{server.address}/file", tmp_path / "file", MD5))
    assert (tmp_path / "file").read_bytes() == DATA
    assert [request.sent for request in server.requests] == [0]


@pytest.mark.row("C7")
def test_a_part_of_another_file_is_found_out_by_its_hash(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.part").write_bytes(b"other")
    sentence = refusal(server, tmp_path / "file")
    assert f"and not {MD5}, and was removed" in sentence
    assert not list(tmp_path.iterdir())


def test_a_machine_that_cannot_be_reached_is_a_sentence(server: Server, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        server.address = f"http://127.0.0.1:{free.getsockname()[1]}"
    assert "Connection refused" in refusal(server, tmp_path / "file")
    server.address = "http://no-such-machine.invalid"
    assert "http://no-such-machine.invalid/file cannot be fetched (" in refusal(server, tmp_path / "file")


def test_a_line_without_a_byte_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_TIMEOUT", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(UserError, match="timed out"):
        list(fetch(f"http://127.0.0.1:{silent.getsockname()[1]}/file", tmp_path / "file", MD5))


def test_a_full_part_of_another_file_and_a_missing_file_are_sentences(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.part").write_bytes(DATA + b"more")
    assert "and was removed" in refusal(server, tmp_path / "file")
    server.answers["/file"] = 404
    assert "cannot be fetched (HTTP Error 404: Not Found)" in refusal(server, tmp_path / "file")
