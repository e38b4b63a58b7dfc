"""Draw a token: next-token distributions, and random numbers that a seed alone decides."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import count

import numpy as np
import numpy.typing as npt

from eexp.errors import EexpError
from eexp.records.record import seed_of

Logits = npt.NDArray[np.float32]  # float32 [vocabulary], the next-token logits of a model

BLOCK = 256  # entries of a distribution that are summed together; a draw reads all sums and one block
_NUCLEUS = 1024  # tokens that are sorted to find a nucleus; all of them where these are too few
_LEAST = 1e-30  # the weight of an allowed token, beside 1 for the most probable
_MASK = (1 << 64) - 1


class Uniforms:
    """Random numbers that a seed alone decides, on every platform and version (SplitMix64, Steele et al. 2014)."""

    def __init__(self, seed: int):
        self._state = seed & _MASK

    def bits(self) -> int:
        """Return 64 random bits."""
        self._state = (self._state + 0x9E3779B97F4A7C15) & _MASK
        z = self._state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
        return z ^ (z >> 31)

    def uniform(self) -> float:
        """Return a random number in [0, 1)."""
        return (self.bits() >> 11) * 2.0**-53

    def log_exponential(self) -> float:
        """Return the logarithm of a standard exponential variate."""
        return math.log(-math.log1p(-(self.bits() >> 11) * 2.0**-53 - 2.0**-54))


class TokenDistribution:
    """A next-token distribution to draw from.

    Args:
        logits: The model's logits, which are not read after the distribution is made.
        temperature: Sampling temperature.
        only: The tokens that may be drawn; None for all.
        top_p: Keep only the most probable tokens, as few as have this share of the probability at the temperature.

    Raises:
        EexpError: The largest logit is not a finite number.
    """

    def __init__(
        self, logits: Logits, temperature: float = 1.0, only: Sequence[int] | None = None, top_p: float | None = None
    ):
        top = float(logits.max())
        if not math.isfinite(top):
            raise EexpError(
                "the model computes no probabilities: its weights, or those of its adapter, are not numbers"
            )
        self._shifted = np.full(-(-len(logits) // BLOCK) * BLOCK, -np.inf, np.float32)
        np.subtract(logits, top, out=self._shifted[: len(logits)])
        self._set(np.exp(self._shifted))
        self._norm = math.log(self.mass)
        if only is not None:  # none of them so improbable that it is lost to rounding: each can be drawn
            subset = self._shifted[list(only)]
            weights = np.zeros_like(self._weights)
            weights[list(only)] = np.exp((subset - subset.max()) / np.float32(temperature)).clip(_LEAST)
            self._set(weights)
        elif temperature != 1:
            self._set(np.exp(self._shifted / np.float32(temperature)))
        if top_p is not None:
            self._keep_nucleus(top_p)

    def _keep_nucleus(self, share: float) -> None:
        size = len(self._weights)
        for n in (min(_NUCLEUS, size), size):
            likely = self._likely(n)
            sums = self._weights[likely].cumsum(dtype=np.float64)
            if sums[-1] >= share * self.mass:
                break
        nucleus = likely[: int(sums.searchsorted(share * self.mass)) + 1]
        weights = np.zeros_like(self._weights)
        weights[nucleus] = self._weights[nucleus]
        self._set(weights)

    def _likely(self, n: int) -> npt.NDArray[np.int64]:
        """Return the `n` most probable tokens in order; of equally probable ones the smaller id first."""
        tokens = np.arange(len(self._weights))
        if n < len(tokens):
            tokens = np.sort(np.argpartition(-self._weights, n - 1)[:n])
        return tokens[np.argsort(-self._weights[tokens], kind="stable")]

    def likely(self, n: int) -> list[tuple[float, int]]:
        """Return (log-probability at temperature 1, token) of the `n` most probable tokens left, or of all of them."""
        tokens = self._likely(min(n, len(self._weights)))
        return [(self.logprob(token), token) for token in tokens[self._weights[tokens] > 0].tolist()]

    def highest(self) -> float:
        """Return the largest log-probability at temperature 1 among the tokens left."""
        return self.logprob(self.greedy())

    def reaching(self, location: float, floor: float) -> int:
        """Return the number of tokens left whose log-probability at temperature 1, plus `location`, reaches `floor`."""
        logprobs = location + (self._shifted.astype("float64") - self._norm)
        return int(((self._weights > 0) & (logprobs >= floor)).sum())

    def _set(self, weights: npt.NDArray[np.float32]) -> None:
        self._weights = weights
        self._sums = weights.reshape(-1, BLOCK).sum(1).astype(np.float64)
        self.mass = float(self._sums.sum())  # of the tokens left after `take`

    def logprob(self, token: int) -> float:
        """Return the natural log-probability of a token at temperature 1, among all tokens."""
        return float(self._shifted[token]) - self._norm

    def greedy(self) -> int:
        """Return the most probable token."""
        return int(self._weights.argmax())

    def pick(self, u: float) -> int:
        """Return the token at `u` (in [0, 1)) of the distribution function over the tokens left."""
        sums = self._sums.cumsum()
        at = u * sums[-1]
        block = min(int(sums.searchsorted(at, side="right")), len(sums) - 1)
        while self._sums[block] <= 0:  # rounding at the very end
            block -= 1
        within = self._weights[block * BLOCK : (block + 1) * BLOCK].cumsum(dtype=np.float64)
        at = min(max(0.0, at - (sums[block] - self._sums[block])), np.nextafter(within[-1], 0))
        return block * BLOCK + int(within.searchsorted(at, side="right"))

    def take(self, token: int) -> None:
        """Leave a token out of further draws."""
        block = token // BLOCK
        self._weights[token] = 0
        self._sums[block] = self._weights[block * BLOCK : (block + 1) * BLOCK].sum()
        self.mass = float(self._sums.sum())

    def descending(
        self, key: float, location: float, seed: int, drawn: Sequence[int] = ()
    ) -> Iterator[tuple[float, float, int]]:
        """Yield (perturbed log-probability, log-probability, token) from the largest perturbed value downwards.

        Args:
            key: The largest perturbed value of the tokens that are not in `drawn`.
            location: Log-probability of the node.
            drawn: The tokens that were drawn before; the sequence continues after them as if it had never stopped.
        """
        whole = self.mass
        for token in drawn:
            self.take(token)
        return self._descending(key, location, seed, len(drawn), whole)

    def _descending(
        self, key: float, location: float, seed: int, drawn: int, whole: float
    ) -> Iterator[tuple[float, float, int]]:
        for i in count(drawn):
            if self.mass <= 0:
                return
            random = Uniforms(seed_of(seed, i))
            token = self.pick(random.uniform())
            yield key, location + math.log(float(self._weights[token]) / whole), token
            self.take(token)
            if self.mass > 0:  # a Gumbel variate at the location of the tokens left, truncated at the value before
                rest = location + math.log(self.mass / whole)
                key = rest - _log_add(rest - key, random.log_exponential())


def _log_add(a: float, b: float) -> float:
    high, low = max(a, b), min(a, b)
    return high + math.log1p(math.exp(low - high))
