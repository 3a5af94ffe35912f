"""The champion moves: promotion through the gate, rollback, and the history of both.

The history is append-only, one tag of the registered model for each move, so it is there on any
MLflow server, and whoever opens the model in MLflow's UI sees it.
"""

import contextlib
import datetime
import getpass
import json
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from songcast import registry
from songcast.errors import RegistryError
from songcast.registry import CHALLENGER, CHAMPION, NAME, Version
from songcast.registry.gate import Gate, gate
from songcast.tracking.evaluation_log import measured
from songcast.tracking.store import clear_errors, connect, database, locked, tracking_uri

HISTORY = "songcast.history."
# A move takes a second; a client that began one and is silent for so long has died.
STALE_SECONDS = 60.0
LONGEST_ENTRY, LONGEST_REASON, MOST_OVERRULED = 5000, 1000, 8


@dataclass(frozen=True, kw_only=True)
class Move:
    """One entry of the history.

    ``before``: the champion until then, None for none. ``overruled``: what the gate had against
    it, where a promotion was forced.
    """

    number: int
    when: str
    who: str
    action: Literal["promote", "rollback"]
    before: int | None
    after: int
    why: str
    overruled: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Decision:
    """``challenger``, ``champion``: version numbers after the gate; champion may be None."""

    challenger: int
    champion: int | None
    gate: Gate


def decide(evaluation: Mapping[str, Any], numbers: Mapping[str, int]) -> Decision:
    """Choose the challenger among ``numbers`` (kind to version) and let the gate judge it.

    The challenger has the lower mean bits per sample on unseen passages. It becomes champion
    when it passes the gate, which includes beating the present champion if that is another
    version. Sets both aliases; deciding again changes nothing.
    """
    bits = {kind: measured(evaluation, kind)["summary"].get("bits_per_sample") for kind in numbers}

    def rank(kind: str) -> tuple[float, int]:
        known = isinstance(bits[kind], int | float) and math.isfinite(bits[kind])
        return bits[kind] if known else math.inf, numbers[kind]

    challenger = numbers[min(numbers, key=rank)]
    uri = tracking_uri()
    with clear_errors(uri):
        client = connect(uri)
        with _turn(client):
            registry.set_alias(CHALLENGER, challenger)
            champion, past = _state(client)
            candidate = registry.version(challenger)
            verdict = judge(candidate, champion, past)
            if verdict.passed and champion != challenger:
                _move(client, "promote", champion, challenger, "it passed the gate")
                champion = challenger
    return Decision(challenger=challenger, champion=champion, gate=verdict)


def promote(number: int, why: str = "", force: bool = False) -> Move:
    """Make version ``number`` the champion, if its stored numbers pass the gate.

    ``force`` promotes it all the same; it wants a reason ``why``, and the gate's are recorded.
    Raises ``RegistryError``: the gate is closed, it is champion already, there is no such
    version, no reason is given, or another move came first.
    """
    if force and not why.strip():
        raise RegistryError("a forced promotion needs its reason: add --reason TEXT")
    uri = tracking_uri()
    with clear_errors(uri):
        client = connect(uri)
        candidate = registry.version(number)
        seen = champion, past = _state(client)
        if champion == number:
            raise RegistryError(f"version {number} is the champion already")
        verdict = judge(candidate, champion, past)
        if not verdict.passed and not force:
            raise RegistryError(
                f"version {number} may not be champion: {'; '.join(verdict.reasons)}. "
                "Promote it all the same with --force --reason TEXT"
            )
        with _turn(client, seen):
            why = why.strip() or "it passed the gate"
            return _move(client, "promote", champion, number, why, verdict.reasons)


def rollback(why: str = "") -> Move:
    """Make the champion before this one champion again.

    Rolled back twice, it goes back two. Raises ``RegistryError`` where the history knows no
    earlier champion, or another move came first.
    """
    uri = tracking_uri()
    with clear_errors(uri):
        client = connect(uri)
        seen = champion, past = _state(client)
        earlier = earlier_champion(past, champion, {v.number for v in registry.versions()})
        if earlier is None:
            raise RegistryError(
                "no earlier champion to go back to: `songcast history` shows every move, "
                "`songcast promote VERSION` chooses another"
            )
        with _turn(client, seen):
            return _move(client, "rollback", champion, earlier, why.strip())


def history() -> list[Move]:
    """Return every move of the champion, oldest first."""
    uri = tracking_uri()
    with clear_errors(uri):
        return _state(connect(uri))[1]


def judge(candidate: Version, champion: int | None, past: Sequence[Move]) -> Gate:
    """Run the gate on what is stored with the versions.

    A version that was rolled back stays out until someone forces it in again: otherwise the
    next `make run` would undo the rollback.
    """
    rival = None
    if champion is not None and champion != candidate.number:
        rival = registry.version(champion).evaluation
    if not candidate.evaluation:
        return Gate(passed=False, reasons=("it was never measured: run `dvc repro register`",))
    verdict = gate(candidate.evaluation, candidate.ridge, rival)
    if candidate.number not in rolled_back(past):
        return verdict
    return Gate(passed=False, reasons=(*verdict.reasons, "it was rolled back"))


def rolled_back(past: Sequence[Move]) -> set[int]:
    """Return the versions that were champion, were rolled back and not promoted since."""
    found: set[int] = set()
    for move in past:
        if move.action == "rollback" and move.before is not None:
            found.add(move.before)
        found.discard(move.after)
    return found


def earlier_champion(past: Sequence[Move], champion: int | None, there: set[int]) -> int | None:
    """Return the champion before the present one, among the versions still ``there``.

    Moves made without songcast leave no entry; what the entries say around them is kept.
    """
    stack: list[int] = []
    for move in past:
        if move.action == "rollback" and move.after in stack:
            del stack[len(stack) - stack[::-1].index(move.after) :]
        else:
            stack += [n for n in (move.before, move.after) if n is not None]
    return next((n for n in reversed(stack) if n in there and n != champion), None)


def _state(client: Any) -> tuple[int | None, list[Move]]:
    """Return the champion and all moves that led to it."""
    model = registry.registered_model(client)
    if model is None:
        return None, []
    entries = [json.loads(v) for k, v in sorted(model.tags.items()) if k.startswith(HISTORY)]
    past = [Move(**{**entry, "overruled": tuple(entry["overruled"])}) for entry in entries]
    champion = model.aliases.get(CHAMPION)
    return None if champion is None else int(champion), past


def _move(
    client: Any,
    action: Literal["promote", "rollback"],
    before: int | None,
    after: int,
    why: str,
    overruled: tuple[str, ...] = (),
) -> Move:
    """Write the entry, then move the alias: no move is without an entry. Call in ``_turn``."""
    move = Move(
        number=_next_number(client),
        when=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        who=_who(),
        action=action,
        before=before,
        after=after,
        why=why,
        overruled=overruled,
    )
    client.set_registered_model_tag(NAME, f"{HISTORY}{move.number:06d}", _entry(move))
    client.set_registered_model_alias(NAME, CHAMPION, str(after))
    return move


def _next_number(client: Any) -> int:
    past = _state(client)[1]
    return past[-1].number + 1 if past else 1


def _entry(move: Move) -> str:
    """Return ``move`` as a tag, no longer than the column that some databases have for it."""
    kept = LONGEST_REASON
    while True:
        shortened = {"why": move.why[:kept], "overruled": move.overruled[:MOST_OVERRULED]}
        entry = json.dumps({**asdict(move), **shortened})
        if len(entry) <= LONGEST_ENTRY or not kept:
            return entry
        kept //= 2  # a letter beyond ASCII takes up to twelve characters


@contextlib.contextmanager
def _turn(client: Any, seen: tuple[int | None, list[Move]] | None = None) -> Iterator[None]:
    """Let one client at a time move the champion; ``seen`` must still be the state then.

    The embedded store has a file lock. A server has none, and no compare-and-set either; but a
    registered model's name is unique there, so creating one named after the next entry of the
    history is a lock that one client gets. Raises ``RegistryError`` for the other.
    """
    uri = str(client.tracking_uri)
    with locked(uri), contextlib.ExitStack() as held:
        if database(uri) is None:
            held.enter_context(_lock_on_server(client))
        if seen is not None and _state(client) != seen:
            raise RegistryError(
                "the champion moved meanwhile: see `songcast history`, then decide again"
            )
        yield


@contextlib.contextmanager
def _lock_on_server(client: Any) -> Iterator[None]:
    from mlflow.exceptions import MlflowException

    number = _next_number(client)
    passed: list[str] = []
    while True:
        name = f"{NAME}.move-{number:06d}"
        try:
            client.create_registered_model(name, description="The champion is being moved.")
            break
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        held = client.search_registered_models(f"name = '{name}'")
        if not held or time.time() - held[0].creation_timestamp / 1000 < STALE_SECONDS:
            raise RegistryError(
                "another client is moving the champion right now: see `songcast history`, "
                "then decide again"
            )
        passed.append(name)  # left behind by a client that died; never taken over, passed by
        number += 1
    try:
        yield
    finally:
        for name in (*passed, f"{NAME}.move-{number:06d}"):
            with contextlib.suppress(MlflowException):
                client.delete_registered_model(name)


def _who() -> str:
    told = os.environ.get("MLFLOW_TRACKING_USERNAME")
    with contextlib.suppress(OSError, KeyError):  # a container may know no user
        return told or getpass.getuser()
    return "unknown"
