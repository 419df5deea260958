"""Units, and numeric functions that accept one number or a whole numpy array.

Quantities are in SI units: seconds, bytes, FLOP, FLOP/s, bytes/s. Only `report` writes ms, GB or TFLOP/s.
A `Quantity` (batch, prompt, context, and values computed from them) is a float or a float64 array. numpy is imported
only when an array arrives, because importing it takes longer than a single estimate.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array: TypeAlias = NDArray[np.float64]
    Quantity: TypeAlias = float | Array
    Mask: TypeAlias = bool | NDArray[np.bool_]
else:
    Array: TypeAlias = Any
    Quantity: TypeAlias = Any
    Mask: TypeAlias = Any


GB = 1e9
NUMBER = (int, float)


def maximum(a: Quantity, b: Quantity) -> Quantity:
    """Return the larger of two quantities, element by element."""
    if isinstance(a, NUMBER) and isinstance(b, NUMBER):
        return a if a >= b else b
    import numpy as np

    return np.maximum(a, b)


def minimum(a: Quantity, b: Quantity) -> Quantity:
    """Return the smaller of two quantities, element by element."""
    if isinstance(a, NUMBER) and isinstance(b, NUMBER):
        return a if a <= b else b
    import numpy as np

    return np.minimum(a, b)


def floor(a: Quantity) -> Quantity:
    """Return the largest whole number not above `a`, as a float."""
    if isinstance(a, NUMBER):
        return float(a // 1)
    import numpy as np

    return np.floor(a)


def power(a: Quantity, b: Quantity) -> Quantity:
    """Return a^b, with the same digits for a float and for an array.

    numpy's `power` rounds differently from Python's `**` on some processors; `float_power` does not.
    """
    if isinstance(a, NUMBER) and isinstance(b, NUMBER):
        result: float = a**b
        return result
    import numpy as np

    return np.float_power(a, b)


def where(condition: Mask, a: Quantity, b: Quantity) -> Quantity:
    """Return `a` where the condition holds and `b` elsewhere."""
    if isinstance(condition, bool):
        return a if condition else b
    import numpy as np

    return np.where(condition, a, b)


def some(condition: Mask) -> bool:
    """Return whether the condition holds for a number, or for any element of an array."""
    return condition if isinstance(condition, bool) else bool(condition.any())


def real(a: Quantity) -> Quantity:
    """Return a whole number as a float; an array as it is."""
    return float(a) if isinstance(a, NUMBER) else a


def first_largest(values: list[Quantity]) -> list[Quantity]:
    """Return 1.0 for the first of the largest values and 0.0 for the others, element by element."""
    if all(isinstance(value, NUMBER) for value in values):
        chosen = values.index(max(values))
        return [float(i == chosen) for i in range(len(values))]
    import numpy as np

    largest = np.argmax(np.stack(np.broadcast_arrays(*values)), axis=0)
    return [np.asarray(largest == i, dtype=np.float64) for i in range(len(values))]


def whole(a: Quantity) -> Quantity:
    """Return a quantity rounded down: an int for a number, for reports that print counts."""
    return int(a) if isinstance(a, NUMBER) else floor(a)
