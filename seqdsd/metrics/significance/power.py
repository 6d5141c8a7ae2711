"""What a comparison can find: the power of the t-tests, the smallest improvement they show, the runs that one needs.

All of it is known as well as the scatter is that one puts in, and that of a few runs is known roughly: see
``sd_interval``.

Reference: the power of Student's t-test by the noncentral t distribution, as statsmodels' ``TTestPower`` has it, with
    which it was compared. Departure: a difference counts as found only if the test shows it with its own sign.
"""

import math

from scipy.special import chdtri, nctdtr, nctdtrinc, ndtri, stdtrit

POWER = 0.8
"""How often a difference is to be found that is there: the usual demand."""
ALPHA = 0.05


def t_test_power(
    improvement: float | int,
    *,
    standard_error: float | int,
    degrees_of_freedom: float | int,
    alpha: float = ALPHA,
) -> float:
    """How often a t-test finds a true improvement: significant, and of the right sign.

    Args:
        improvement: The true one, whatever its sign.
        standard_error: Of the difference that is tested, above 0: paired, the SD of the differences over the root of
            their number.
        degrees_of_freedom: Of the test.
        alpha: What its two-sided p-value is to fall below, in (0, 1).

    Raises:
        ValueError: If an argument is out of range.
    """
    _check(alpha=alpha)
    _check_above_0(standard_error=standard_error, degrees_of_freedom=degrees_of_freedom)
    size = abs(improvement) / standard_error
    return float(1 - nctdtr(degrees_of_freedom, size, stdtrit(degrees_of_freedom, 1 - alpha / 2)))


def detectable(
    *,
    standard_error: float | int,
    degrees_of_freedom: float | int,
    alpha: float = ALPHA,
    power: float = POWER,
) -> float:
    """The smallest true improvement that a t-test finds with a probability of ``power``.

    Args:
        standard_error: Of the difference that is tested, in the units of what comes out.
        degrees_of_freedom: Of the test.
        alpha: What its two-sided p-value is to fall below, in (0, 1).
        power: In [0.5, 1).

    Raises:
        ValueError: If an argument is out of range.
    """
    _check(alpha=alpha, power=power)
    _check_above_0(standard_error=standard_error, degrees_of_freedom=degrees_of_freedom)
    threshold = stdtrit(degrees_of_freedom, 1 - alpha / 2)
    return float(standard_error * nctdtrinc(degrees_of_freedom, 1 - power, threshold))


def runs_needed(
    improvement: float | int, *, sd: float | int, alpha: float = ALPHA, power: float = POWER
) -> int:
    """How many pairs of runs a paired t-test needs to find an improvement, or the test across parents how many parents.

    Args:
        improvement: The true one, not 0.
        sd: Standard deviation of the differences of pairs, above 0; of parents see ``sd_of_parents``.
        alpha: What the two-sided p-value is to fall below, in (0, 1).
        power: With which probability, in [0.5, 1).

    Raises:
        ValueError: If an argument is out of range.
    """
    _check(alpha=alpha, power=power)
    _check_above_0(sd=sd, improvement=abs(improvement))
    # Known scatter would need so many; that it is estimated from the runs takes a few more.
    count = max(2, math.ceil((_normal_size(alpha, power) * sd / abs(improvement)) ** 2))
    while (
        t_test_power(
            improvement, standard_error=sd / math.sqrt(count), degrees_of_freedom=count - 1, alpha=alpha
        )
        < power
    ):
        count += 1
    return count


def sd_of_parents(
    *,
    sd_between_parents: float | int,
    sd_between_repeats: float | int,
    num_repeats: int,
    correlation: float | int = 0.0,
) -> float:
    """Standard deviation of the parents' mean differences, each arm retrained ``num_repeats`` times.

    More repeats take away what they scatter, never what parents differ by.

    Args:
        sd_between_parents: Of the effect, from parent to parent.
        sd_between_repeats: Of the retrainings of one parent in one arm.
        num_repeats: In each arm.
        correlation: Of the two arms' retrainings of one parent by one seed, as ``across_parents`` finds it.

    Raises:
        ValueError: If ``num_repeats`` is below 1, or ``correlation`` not in [-1, 1].
    """
    if num_repeats < 1:
        raise ValueError(f"num_repeats must be at least 1, got {num_repeats}")
    if not -1 <= correlation <= 1:
        raise ValueError(f"correlation must be in [-1, 1], got {correlation}")
    return math.hypot(sd_between_parents, sd_between_repeats * math.sqrt(2 * (1 - correlation) / num_repeats))


def items_needed(
    improvement: float | int,
    *,
    standard_error: float | int,
    count: int,
    alpha: float = ALPHA,
    power: float = POWER,
) -> int:
    """How many test items, or speakers, it takes to tell two networks apart that differ by ``improvement``.

    Args:
        improvement: The true one, not 0.
        standard_error: Of the two networks' difference on ``count`` items, as a bootstrap of these has it; above 0.
        count: Items, or speakers where these are drawn.
        alpha: What the two-sided p-value is to fall below, in (0, 1).
        power: With which probability, in [0.5, 1).

    Raises:
        ValueError: If an argument is out of range.
    """
    _check(alpha=alpha, power=power)
    _check_above_0(standard_error=standard_error, improvement=abs(improvement), count=count)
    return max(2, math.ceil(count * (_normal_size(alpha, power) * standard_error / improvement) ** 2))


def sd_interval(
    sd: float | int, *, degrees_of_freedom: float | int, confidence: float = 0.95
) -> tuple[float, float]:
    """Between what a standard deviation lies that was estimated: of five runs from 0.6 to 2.9 times the estimate.

    Args:
        sd: The estimate.
        degrees_of_freedom: It was divided by.
        confidence: Of the interval, in (0, 1).

    Raises:
        ValueError: If an argument is out of range.
    """
    _check(confidence=confidence)
    _check_above_0(degrees_of_freedom=degrees_of_freedom)
    tails = ((1 - confidence) / 2, (1 + confidence) / 2)
    low, high = (sd * math.sqrt(degrees_of_freedom / chdtri(degrees_of_freedom, tail)) for tail in tails)
    return float(low), float(high)


def _normal_size(alpha: float, power: float) -> float:
    """How many standard errors a difference has that is found with that probability, where the error is known."""
    return float(ndtri(1 - alpha / 2) + ndtri(power))


def _check(*, power: float = POWER, **shares: float) -> None:
    for name, value in shares.items():
        if not 0 < value < 1:
            raise ValueError(f"{name} must lie between 0 and 1, such as 0.05, got {value}")
    if not 0.5 <= power < 1:
        raise ValueError(f"power must lie from 0.5 to below 1, such as 0.8, got {power}")


def _check_above_0(**values: float | int) -> None:
    for name, value in values.items():
        if not 0 < value < math.inf:
            raise ValueError(f"{name} must be a number above 0, got {value}")
