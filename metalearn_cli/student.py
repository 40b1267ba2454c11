"""Student's t distribution."""

import mpmath


def t_p_value(t: float, df: float) -> float:
    """P(|T| >= |t|) of Student's t: the regularised incomplete beta function."""
    return float(mpmath.betainc(df / 2, 0.5, 0, df / (df + t * t), regularized=True))


def t_quantile(df: float, p: float = 0.05) -> float:
    """The t beyond which, to either side together, lies p: the half width of an interval in standard errors."""
    low, high = 0.0, 2.0
    while t_p_value(high, df) > p:
        low, high = high, 2 * high
    while high - low > 1e-9 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if t_p_value(middle, df) > p else (low, middle)
    return high
