"""How functions become machine code: one way for all kernels.

No fast mathematics: every float64 operation is done as written, in the order written, and rounded, as numpy does it.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

from numba import njit
from numba.core.caching import FunctionCache, IndexDataCacheFile

F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F) -> F:
    """The function, compiled when it is first called and kept on disk for the next process.

    Integers wrap around, a division by zero gives infinity or NaN, and no index is checked.
    """
    dispatcher: Any = njit(nogil=True, error_model="numpy")(function)
    try:
        dispatcher._cache = _Kept(function)
    except RuntimeError as error:  # nowhere to write
        logging.getLogger(__name__).warning("%s; set NUMBA_CACHE_DIR, or every process compiles for itself", error)
    return cast(F, dispatcher)


class _Kept(FunctionCache):
    """Kept as long as no source of this package changes.

    Numba looks only at the file of the function itself, but the machine code holds that of all functions it calls.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)  # type: ignore[no-untyped-call]  # numba has no types here
        place = self._cache_path, self._impl.filename_base
        self._cache_file = IndexDataCacheFile(*place, _sources())  # type: ignore[no-untyped-call]  # nor here


@cache
def _sources() -> str:
    """A digest of this package's modules."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()
