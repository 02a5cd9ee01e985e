"""What a batch has freed on the CPU is kept for the next one."""

import ctypes

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # of mallopt(3)
LARGEST_MMAP_THRESHOLD = 32 << 20  # that glibc takes on 64 bits


def keep_freed_memory(size: int = 1 << 29) -> None:
    """Tells glibc's allocator to keep up to ``size`` freed bytes; where there is no such allocator, nothing is done.

    As it is by default, it gives most of a batch's memory back to the system after each batch and fetches it again, page by
    page, for the next one: a tenth of the time of ``weights`` on short pairs.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return
    mallopt(MMAP_THRESHOLD, LARGEST_MMAP_THRESHOLD)
    mallopt(TRIM_THRESHOLD, size)
