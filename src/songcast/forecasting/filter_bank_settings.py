"""Settings of the filter bank: the adaptive filters, their chains, and which sums are experts."""

from dataclasses import asdict, dataclass
from typing import Any

from songcast.errors import ParamsError
from songcast.forecasting.filter_bank_kernels import BLOCK
from songcast.forecasting.linear_kernels import RANK


@dataclass(frozen=True, kw_only=True)
class LeastSquares:
    """Exponentially weighted least squares over two channels.

    ``own_taps``, ``other_taps``: past frames of the channel itself and of the other channel (for
    the second channel, the newest of them is the first channel's current sample).
    ``forgetting``: ratio of the weights of successive frames, below 1. ``solve_every``: frames
    between solutions, a multiple of 8. ``ridge``: penalty on the squared weights. ``sweeps``: 0
    solves exactly (Cholesky); n makes n Gauss-Seidel sweeps from the last solution, which is
    cheaper and accurate enough behind a whitening stage. ``weighted``: each frame is also weighted
    by the inverse of the error's running variance, which keeps loud passages from dominating; such
    a stage is solved exactly. ``expert``: whether the sum of predictions up to this stage is an
    expert. Raises ``ParamsError`` for values out of range.
    """

    own_taps: int
    other_taps: int
    forgetting: float
    solve_every: int = 16
    ridge: float = 1.0
    sweeps: int = 0
    weighted: bool = False
    expert: bool = True

    def __post_init__(self) -> None:
        for taps in (self.own_taps, self.other_taps):
            _require(1 <= taps <= 1024, "taps must be 1 … 1024", taps)
        _require(0.5 <= self.forgetting < 1.0, "forgetting must be in [0.5, 1)", self.forgetting)
        multiple = self.solve_every >= RANK and self.solve_every % RANK == 0
        _require(multiple, f"solve_every must be a multiple of {RANK}", self.solve_every)
        _require(self.ridge > 0.0, "ridge must be above 0", self.ridge)
        _require(0 <= self.sweeps <= 100, "sweeps must be 0 … 100", self.sweeps)
        _require(not (self.weighted and self.sweeps), "weighted needs sweeps 0", self.sweeps)

    def __str__(self) -> str:
        kind = "wls" if self.weighted else "ls"
        return f"{kind}{self.own_taps}.{self.other_taps}@{self.forgetting:g}"


@dataclass(frozen=True, kw_only=True)
class Lms:
    """A normalised LMS filter over ``taps`` past frames of the same channel, a multiple of 8.

    ``step``: step size, in (0, 1). ``expert``: as in ``LeastSquares``. Raises ``ParamsError``.
    """

    taps: int
    step: float
    expert: bool = True

    def __post_init__(self) -> None:
        valid = BLOCK <= self.taps <= 8192 and self.taps % BLOCK == 0
        _require(valid, f"an LMS filter has 8 … 8192 taps, a multiple of {BLOCK}", self.taps)
        _require(0.0 < self.step < 1.0, "step must be in (0, 1)", self.step)

    def __str__(self) -> str:
        return f"lms{self.taps}@{self.step:g}"


def _require(valid: bool, rule: str, value: float) -> None:
    if not valid:
        raise ParamsError(f"filter bank: {rule}, got {value}")


Stage = LeastSquares | Lms
Chain = tuple[Stage, ...]
STAGES: dict[str, type[Stage]] = {"LeastSquares": LeastSquares, "Lms": Lms}

# A short, slowly forgetting stage first: long filters adapt fastest to a white signal. Then long
# filters with large steps; the partial sums are experts too, and stacking shrinks them.
WHITEN = LeastSquares(own_taps=8, other_taps=4, forgetting=0.9998, solve_every=64, expert=False)
LONG: Chain = (
    WHITEN,
    Lms(taps=2048, step=0.2),
    Lms(taps=1024, step=0.2),
    Lms(taps=512, step=0.2),
    Lms(taps=256, step=0.2),
)
# Smaller steps, then quickly forgetting least squares on the residual.
MIDDLE: Chain = (
    WHITEN,
    Lms(taps=1024, step=0.1),
    Lms(taps=512, step=0.1),
    Lms(taps=256, step=0.1),
    LeastSquares(own_taps=16, other_taps=8, forgetting=0.997, solve_every=8, sweeps=1),
    Lms(taps=16, step=0.02),
)
# Quickly forgetting least squares first: follows changes within milliseconds, such as the frames
# of a lossy codec.
FAST: Chain = (
    LeastSquares(own_taps=32, other_taps=16, forgetting=0.998, solve_every=32),
    Lms(taps=256, step=0.05),
    Lms(taps=32, step=0.03, expert=False),
    Lms(taps=16, step=0.02),
    LeastSquares(own_taps=32, other_taps=16, forgetting=0.995, solve_every=8, sweeps=2),
)
# The chains below are in the network's wide bank only. Weighted least squares, then small steps.
STEADY: Chain = (
    LeastSquares(own_taps=32, other_taps=16, forgetting=0.999, solve_every=32, weighted=True),
    Lms(taps=256, step=0.01),
    Lms(taps=32, step=0.01),
    Lms(taps=16, step=0.01),
)
SLOW: Chain = (WHITEN, Lms(taps=1024, step=0.02), Lms(taps=256, step=0.02))
# Many taps, solved approximately: separates the close partials of strings and reeds soonest.
HIGH: Chain = (
    WHITEN,
    LeastSquares(own_taps=128, other_taps=32, forgetting=0.999, solve_every=16, sweeps=1),
    Lms(taps=1024, step=0.05),
    Lms(taps=256, step=0.05),
    Lms(taps=16, step=0.01),
)


@dataclass(frozen=True, kw_only=True)
class FilterBankSettings:
    """The whole bank; the defaults were measured to be the best for their cost (docs)."""

    chains: tuple[Chain, ...] = (LONG, MIDDLE, FAST)

    def __post_init__(self) -> None:
        _require(bool(self.names), "at least one stage must be an expert", 0)

    @classmethod
    def wide(cls) -> "FilterBankSettings":
        """Return the bank of the network's front end: more diverse, nearly twice the cost."""
        return cls(chains=(LONG, MIDDLE, FAST, STEADY, SLOW, HIGH))

    @property
    def names(self) -> tuple[str, ...]:
        """One name per expert, in the order of the bank's last axis."""
        return tuple(
            f"{number}:{stage}"
            for number, chain in enumerate(self.chains)
            for stage in chain
            if stage.expert
        )

    def starts_with(self, other: "FilterBankSettings") -> bool:
        """Return whether the first experts of this bank are those of ``other``."""
        return self.chains[: len(other.chains)] == other.chains

    def to_json(self) -> list[list[dict[str, Any]]]:
        """Return every chain as a list of stages, for a bundle."""
        return [[{"kind": type(s).__name__, **asdict(s)} for s in chain] for chain in self.chains]

    @classmethod
    def from_json(cls, chains: list[list[dict[str, Any]]]) -> "FilterBankSettings":
        """Read the result of ``to_json``. Raises ``ParamsError``."""
        return cls(chains=tuple(tuple(_stage(**stage) for stage in chain) for chain in chains))


def _stage(kind: str, **settings: Any) -> Stage:
    if kind not in STAGES:
        raise ParamsError(f"filter bank: stage must be one of {', '.join(STAGES)}, got {kind!r}")
    return STAGES[kind](**settings)
