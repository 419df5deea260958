"""Units and the few numeric verbs that work on one number and on a whole numpy array.

SI inside: seconds, bytes, FLOP, FLOP/s, bytes/s. `report` is the only room that writes ms, GB or TFLOP/s.
A `Quantity` (batch, prompt, context, and all that is computed from them) is a float or a float64 array; numpy is
imported only when an array arrives, so that a single estimate starts fast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array: TypeAlias = NDArray[np.float64]
    Quantity: TypeAlias = float | Array
else:
    Array: TypeAlias = Any
    Quantity: TypeAlias = Any


GB = 1e9
NUMBER = (int, float)


def maximum(a: Quantity, b: Quantity) -> Quantity:
    """The larger of two quantities, element by element."""
    if isinstance(a, NUMBER) and isinstance(b, NUMBER):
        return a if a >= b else b
    import numpy as np

    return np.maximum(a, b)


def minimum(a: Quantity, b: Quantity) -> Quantity:
    """The smaller of two quantities, element by element."""
    if isinstance(a, NUMBER) and isinstance(b, NUMBER):
        return a if a <= b else b
    import numpy as np

    return np.minimum(a, b)


def floor(a: Quantity) -> Quantity:
    """The largest whole number that is not above `a`, as a float."""
    if isinstance(a, NUMBER):
        return float(a // 1)
    import numpy as np

    return np.floor(a)
