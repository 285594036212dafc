"""Tell the C library's allocator to keep freed memory, or to give it back."""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h of the GNU C library


def keep_freed_memory() -> bool:
    """Keep freed memory for the next tensor instead of giving it back to the system.

    By default the GNU C library returns blocks above 32 MiB at once (mallopt(3), M_MMAP_THRESHOLD),
    and the system clears each page again when the next step touches it: for large activations that
    costs as much as the arithmetic. The process grows somewhat larger then, and never shrinks.

    Returns:
        True if it was done; False where the C library is another one.
    """
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # musl
        return False
    return bool(mallopt(_M_MMAP_MAX, 0) == 1 and mallopt(_M_TRIM_THRESHOLD, -1) == 1)


def give_back_freed_memory() -> None:
    """Give freed memory back to the system, after much of it was used for a moment.

    What threads freed is else kept for their next use (malloc_trim(3)).
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
        if trim:
            trim(0)
