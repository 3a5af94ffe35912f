"""The job queue: its limits, deadlines, and clients that disconnect or stop reading."""

import re
import socket
import threading
import time

import httpx
import pytest

from helpers.serving_models import Echo, Slow, app_of, running
from helpers.waiting import wait_until
from songcast.audio.songs import write_song
from songcast.serving import jobs
from songcast.serving.jobs import CANCELLED, Job, Limits

RAW = {"samples": [[0, 1], [5, 6]], "sample_rate_hz": 22050}


@pytest.fixture
def content(chord, tmp_path):
    write_song(chord, tmp_path / "song.wav")
    return (tmp_path / "song.wav").read_bytes()


def invocation_status(client):
    return client.post("/invocations", json={"inputs": [RAW]}).status_code


def requests_in_progress(client):
    metrics = client.get("/metrics").text.splitlines()
    (line,) = (m for m in metrics if m.startswith("songcast_requests_in_progress "))
    return float(line.split()[1])


class Blocked(Echo):
    """Yields one block of a continuation; yields the next after ``released`` is set."""

    def __init__(self):
        super().__init__()
        self.released = threading.Event()

    def _blocks(self, *arguments):
        for number, block in enumerate(super()._blocks(*arguments)):
            if number > 0:
                self.released.wait(300)
            yield block


class Clock:
    """Replaces ``time`` in the job queue; a test can advance it."""

    offset = 0.0

    def monotonic(self):
        return time.monotonic() + self.offset


def test_too_many_requests_give_429_and_late_ones_503(content, monkeypatch):
    clock, model, limits = Clock(), Blocked(), Limits(max_requests=2, workers=1)
    monkeypatch.setattr(jobs, "time", clock)
    outcomes = []
    with running(app_of(model, limits)) as client:

        def request():
            try:
                response = client.post("/continue", content=content, params={"seconds": 100})
                outcomes.append(str(response.status_code))
            except httpx.RemoteProtocolError:  # the status was already sent
                outcomes.append("aborted")

        first, second = threading.Thread(target=request), threading.Thread(target=request)
        try:
            first.start()
            wait_until(lambda: model.blocks == 2)  # the first is streaming
            second.start()
            wait_until(lambda: requests_in_progress(client) == 2)
            third = client.post("/continue", content=content)
            ping = client.get("/ping")
            clock.offset += 2 * limits.request_seconds  # now both are late
        finally:
            model.released.set()
        first.join()
        second.join()
        after = client.post("/continue", content=content, params={"seconds": 0.01})
    assert ping.status_code == 200
    assert (third.status_code, third.headers["retry-after"]) == (429, "5")
    assert sorted(outcomes) == ["503", "aborted"]
    assert after.status_code == 200


def test_a_job_ends_when_its_client_disconnects(content):
    slow = Echo(delay_seconds=0.02)
    with running(app_of(slow, Limits(max_requests=1, workers=1))) as client:
        with client.stream(
            "POST", "/continue", content=content, params={"seconds": 300}
        ) as response:
            next(response.iter_bytes(2000))
        short = {"seconds": 0.01}
        wait_until(lambda: client.post("/continue", content=content, params=short).is_success)
    assert slow.blocks < 500  # of 13 230


def connect(client, length):
    """Open a connection and send the head of a request for a continuation of 300 s."""
    connection = socket.create_connection(("127.0.0.1", client.base_url.port))
    head = f"POST /continue?seconds=300 HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n"
    connection.sendall(head.encode())
    return connection


def test_a_client_that_disconnects_in_the_queue_leaves_it(content):
    slow, limits = Slow(3.0), Limits(max_requests=2, workers=1)
    with running(app_of(slow, limits)) as client:
        with client.stream("POST", "/forecast?job=first", content=content) as response:
            next(response.iter_bytes(2000))
            with pytest.raises(httpx.ReadTimeout):
                client.post("/forecast?job=second", content=content, timeout=0.3)
            wait_until(lambda: requests_in_progress(client) <= 1)
            assert slow.forecast_blocks < 3  # the first request is still computed
        for name in ("second", "first"):
            wait_until(lambda name=name: progress(client, name)["state"] == "failed")
            assert progress(client, name)["error"] == CANCELLED


def progress(client, name):
    return client.get(f"/jobs/{name}").json()


def test_a_request_that_failed_stays_failed():
    job = Job(60.0, threading.Event())
    job.enter("decoding")
    job.fail(CANCELLED)
    job.fail("late")
    job.enter("computing")  # its worker does not know yet
    assert (job.progress.state, job.progress.error) == ("failed", CANCELLED)


def test_a_client_that_sends_nothing_times_out():
    limits = Limits(max_requests=1, request_seconds=0.5)
    with running(app_of(Echo(), limits)) as client:
        with connect(client, length=9) as idle:
            assert b"503" in idle.recv(100)
        assert invocation_status(client) != 429


def test_a_client_that_stops_reading_times_out_and_frees_its_worker(content, caplog):
    limits = Limits(max_requests=1, workers=1, request_seconds=5.0)
    with running(app_of(Echo(), limits)) as client, connect(client, len(content)) as idle:
        idle.sendall(content)
        # The response has 53 MB, more than any socket buffers. On a busy machine the deadline
        # passes while the buffers are being filled: "not finished" instead of "not sent".
        wait_until(lambda: re.search("stream aborted: not .* within 5 s", caplog.text))
        wait_until(lambda: invocation_status(client) == 200)


def test_an_incomplete_upload_is_not_logged_as_an_error(capfd):
    with running(app_of(Echo(), Limits(max_requests=1))) as client:
        with connect(client, length=9) as broken:
            broken.sendall(b"RIFF")
            time.sleep(0.2)
        wait_until(lambda: invocation_status(client) != 429)
    assert capfd.readouterr().err == ""
