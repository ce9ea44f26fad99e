"""What does a worker process do when the program that started it is killed?"""

import multiprocessing
import os
import threading
from multiprocessing.connection import wait


def end_with_parent() -> None:
    """Makes this worker process end as soon as its parent is gone: call it in a pool's initializer.

    Without it the workers of a program killed by `kill -9` finish the jobs handed out already, beside the next run that
    does the same ones, and then wait forever.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_wait_for, args=(parent.sentinel,), daemon=True, name="end-with-parent").start()


def _wait_for(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)
