"""How functions become machine code: one way for all kernels.

No fast mathematics: every float64 operation is done as written, in the order written, and rounded, as numpy does it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

from numba import njit
from numba.core.caching import CompileResultCacheImpl, FunctionCache, IndexDataCacheFile, UserProvidedCacheLocator

from features.sources import digest

F = TypeVar("F", bound=Callable[..., Any])

_log = logging.getLogger(__name__)


def compiled(function: F) -> F:
    """The function, compiled when it is first called and kept on disk for the next process.

    Integers wrap around, a division by zero gives infinity or NaN, and no index is checked.
    """
    dispatcher: Any = njit(nogil=True, error_model="numpy")(function)
    try:
        dispatcher._cache = _Kept(function)
    except RuntimeError as error:  # nowhere to write
        _log.warning("%s; set NUMBA_CACHE_DIR, or every process compiles for itself", error)
    return cast(F, dispatcher)


class _Filled(UserProvidedCacheLocator):
    """NUMBA_CACHE_DIR, which may be one that an image brings: filled, and not to be written to."""

    def ensure_cache_path(self) -> None:
        """Raises ``OSError`` where there is no such folder, and none can be made."""
        Path(self.get_cache_path()).mkdir(parents=True, exist_ok=True)  # type: ignore[no-untyped-call]  # of numba


class _Places(CompileResultCacheImpl):
    _locator_classes = [_Filled, *CompileResultCacheImpl._locator_classes]  # noqa: RUF012  # as numba has it


class _Kept(FunctionCache):
    """Kept as long as no source of this package changes.

    Numba looks only at the file of the function itself, but the machine code holds that of all functions it calls.
    """

    _impl_class = _Places

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)  # type: ignore[no-untyped-call]  # of numba
        place = self._cache_path, self._impl.filename_base
        here = Path(__file__).parent
        self._cache_file = IndexDataCacheFile(*place, digest(here))  # type: ignore[no-untyped-call]  # of numba

    def save_overload(self, signature: object, result: object) -> None:
        """Keeps it where that is possible; else this process has it for itself."""
        try:
            super().save_overload(signature, result)  # type: ignore[no-untyped-call]  # of numba
        except OSError as error:
            _warn_that_nothing_is_kept(str(error.strerror))


@cache  # once, not for each function
def _warn_that_nothing_is_kept(why: str) -> None:
    _log.warning(
        "compiled code cannot be kept (%s), so every process compiles for itself: NUMBA_CACHE_DIR was filled for other "
        "sources or another processor (NUMBA_CPU_NAME), or by another user",
        why,
    )
