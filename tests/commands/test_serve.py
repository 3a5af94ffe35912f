"""`songcast serve`: it serves until SIGTERM, and warns when everyone can use it."""

import os

from helpers.serving_models import songcast_serve
from songcast import cli
from songcast.commands import parsers, serve
from songcast.serving.jobs import Limits


def test_the_command_serves_until_sigterm(tmp_path):
    environment = {**os.environ, "SONGCAST_TOKEN": "secret"}
    with (
        (tmp_path / "log").open("wb") as log,
        songcast_serve("--model", "persistence", env=environment, stderr=log) as (_, client),
    ):
        assert client.get("/version").status_code == 401
        client.headers["authorization"] = "Bearer secret"
        assert client.get("/version").status_code == 200
    assert (tmp_path / "log").read_bytes() == b""


def test_a_server_for_other_machines_without_a_token_is_warned_about(monkeypatch, capfd):
    monkeypatch.setattr(serve, "check_free", lambda *_: None)
    for host, token, warning in (
        ("127.0.0.1", "", False),
        ("::1", "", False),
        ("localhost", "", False),
        ("0.0.0.0", "", True),
        ("0.0.0.0", "secret", False),
    ):
        served = []
        monkeypatch.setattr(serve, "serve", lambda app, *where, to=served: to.append(where))
        monkeypatch.setenv("SONGCAST_TOKEN", token)
        assert cli.main(["serve", "--model", "persistence", "--host", host]) == 0
        ((*where, seconds, opened),) = served
        assert (where, opened) == ([host, parsers.SERVER_PORT], False)
        assert seconds >= Limits().request_seconds  # longer for a slow machine
        assert ("set SONGCAST_TOKEN" in capfd.readouterr().err) == warning
