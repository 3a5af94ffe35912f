"""Move the champion: promotion through the gate, rollback, and the history of both.

The history is append-only, one tag of the registered model for each move. It is therefore part of
any MLflow server, and visible in MLflow's UI. A server has no lock: there, of two moves within the
same moment, the later one wins.
"""

import datetime
import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from songcast.errors import RegistryError
from songcast.registry.comparison import BITS, Comparison, compare, number_in, summary
from songcast.registry.gate import Gate, gate
from songcast.registry.live import live_comparison
from songcast.registry.registration import tag_version
from songcast.registry.versions import (
    CHALLENGER,
    CHAMPION,
    NAME,
    NO_MODEL,
    Version,
    get_alias,
    get_version,
    list_versions,
    registered_model,
    set_alias,
)
from songcast.tracking.evaluation_log import measured
from songcast.tracking.lineage import user
from songcast.tracking.store import session

HISTORY, GATE = "songcast.history.", "songcast.gate"
# As JSON, an entry has to fit into 5000 characters, the width of the column in some databases.
LONGEST_REASON, LONGEST_OVERRULED, MOST_OVERRULED = 500, 200, 8


@dataclass(frozen=True, kw_only=True)
class Move:
    """One entry of the history.

    ``before``: the previous champion, None for the first. ``overruled``: the objections of the
    gate to a forced promotion. ``live``: the evidence of served songs, if the gate used it: their
    number, and the mean of the bits per sample of ``after`` minus those of ``before`` with its 95 %
    interval.
    """

    number: int
    when: str
    who: str
    action: Literal["promote", "rollback"]
    before: int | None
    after: int
    why: str
    overruled: tuple[str, ...] = ()
    live: dict[str, float] | None = None


def decide(evaluation: Mapping[str, Any], numbers: Mapping[str, int]) -> Gate:
    """Apply the gate to the best of ``numbers`` (kind to version), and set both aliases.

    The best has the fewest bits per sample on held-out passages. It becomes champion if it passes
    the gate, which includes being better than the present champion. It becomes challenger unless
    the present challenger is as good on their common songs and was not rolled back. Deciding again
    changes nothing.
    """

    def rank(kind: str) -> tuple[float, int]:
        bits = number_in(measured(evaluation, kind)["summary"], BITS)
        return bits if math.isfinite(bits) else math.inf, numbers[kind]

    best = numbers[min(numbers, key=rank)]
    with session(lock=True) as client:
        champion, past = _state(client)
        present = get_alias(CHALLENGER)
        set_alias(client, CHALLENGER, _better(best, present, rolled_back(past)))
        verdict = judge(get_version(best), champion, past)
        if verdict.passed and champion != best:
            _move(client, "promote", champion, best, "it passed the gate")
        for version in map(get_version, set(numbers.values())):
            own = verdict if version.number == best else judge(version, get_alias(CHAMPION), past)
            text = "passed" if own.passed else f"closed: {own.reasons[0]}"
            tag_version(client, version, {GATE: text})
    return verdict


def _better(best: int, present: int | None, rolled_back: Collection[int]) -> int:
    """Return the better of the new version ``best`` and the present challenger."""
    known = {version.number: version for version in list_versions()}
    if present not in known or present in rolled_back:
        return best
    return present if compare(known[best].evaluation, known[present].evaluation).mean >= 0 else best


def promote(number: int, why: str = "", force: bool = False, live: bool = False) -> Move:
    """Make version ``number`` the champion if it passes the gate.

    ``force`` promotes it in any case; it requires a reason ``why``, and the objections of the gate
    are recorded. ``live``: the gate compares it with the champion on served songs. Raises
    ``RegistryError`` if the gate is closed, the version is already champion or does not exist, or
    the reason is missing.
    """
    if force and not why.strip():
        raise RegistryError("a forced promotion needs a reason: add --reason TEXT")
    with session(lock=True) as client:
        candidate = get_version(number)
        champion, past = _state(client)
        if champion == number:
            raise RegistryError(f"version {number} is already the champion")
        comparison = None
        if live:
            if champion is None:
                raise RegistryError("there is no champion to compare with: promote without --live")
            comparison = live_comparison(candidate.uri, get_version(champion).uri)
        verdict = judge(candidate, champion, past, comparison)
        if not verdict.passed and not force:
            raise RegistryError(
                f"version {number} does not pass the gate: {'; '.join(verdict.reasons)}. "
                "Promote it anyway with --force --reason TEXT"
            )
        why = why.strip() or "it passed the gate"
        evidence = summary(comparison) if comparison and comparison.songs else None
        return _move(client, "promote", champion, number, why, verdict.reasons, evidence)


def rollback(why: str = "") -> Move:
    """Make the previous champion the champion again.

    A second rollback goes back one more champion. Raises ``RegistryError`` if the history has no
    earlier champion.
    """
    there = {version.number for version in list_versions()}
    if not there:
        raise RegistryError(NO_MODEL)
    with session(lock=True) as client:
        champion, past = _state(client)
        earlier = earlier_champion(past, champion, there)
        if earlier is None:
            raise RegistryError(
                "there is no earlier champion: `songcast history` lists every move, "
                "`songcast promote VERSION` chooses another version"
            )
        return _move(client, "rollback", champion, earlier, why.strip())


def history() -> list[Move]:
    """Return every move of the champion, oldest first."""
    with session() as client:
        return _state(client)[1]


def judge(
    candidate: Version, champion: int | None, past: Sequence[Move], live: Comparison | None = None
) -> Gate:
    """Apply the gate to the numbers that are stored with the versions; ``live`` as in ``gate``.

    A version that was rolled back does not pass, because the next `make run` would otherwise undo
    the rollback. It needs a forced promotion.
    """
    other = None
    if champion is not None and champion != candidate.number:
        other = get_version(champion).evaluation
    if not candidate.evaluation:
        return Gate(passed=False, reasons=("it was not evaluated: run `dvc repro register`",))
    verdict = gate(candidate.evaluation, candidate.ridge, other, live)
    if candidate.number not in rolled_back(past):
        return verdict
    return Gate(passed=False, reasons=(*verdict.reasons, "it was rolled back"))


def rolled_back(past: Sequence[Move]) -> set[int]:
    """Return the versions that were rolled back and have not been promoted since."""
    found: set[int] = set()
    for move in past:
        if move.action == "rollback" and move.before is not None:
            found.add(move.before)
        found.discard(move.after)
    return found


def earlier_champion(past: Sequence[Move], champion: int | None, there: set[int]) -> int | None:
    """Return the champion before the present one, among the versions that still exist.

    ``there``: the numbers of these versions. Moves made without songcast have no entry; the
    entries before and after them still count.
    """
    stack: list[int] = []
    for move in past:
        if move.action == "rollback" and move.after in stack:
            del stack[len(stack) - stack[::-1].index(move.after) :]
        else:
            stack += [n for n in (move.before, move.after) if n is not None]
    return next((n for n in reversed(stack) if n in there and n != champion), None)


def _state(client: Any) -> tuple[int | None, list[Move]]:
    """Return the champion and the history."""
    model = registered_model(client)
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
    live: dict[str, float] | None = None,
) -> Move:
    """Write the entry, then move the alias, so that every move has an entry."""
    past = _state(client)[1]
    move = Move(
        number=past[-1].number + 1 if past else 1,
        when=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        who=user(),
        action=action,
        before=before,
        after=after,
        why=why[:LONGEST_REASON],
        overruled=tuple(reason[:LONGEST_OVERRULED] for reason in overruled[:MOST_OVERRULED]),
        live=live,
    )
    entry = json.dumps(asdict(move), ensure_ascii=False)
    client.set_registered_model_tag(NAME, f"{HISTORY}{move.number:06d}", entry)
    client.set_registered_model_alias(NAME, CHAMPION, str(after))
    return move
