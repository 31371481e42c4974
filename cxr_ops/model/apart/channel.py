"""What a stage and the process of a package say to one another: arrays as safetensors, words as JSON, no pickle.

    stage -> package   order: JSON, then the package's four files      asks for arrays: a word, then pictures
    package -> stage   READY, once its machine is known; READY, once it is built       ARRAY and the array, or
                       FAULT and an error as JSON, after which it ends

Each is one message of `multiprocessing.connection`, of which only the functions that carry bytes are used. What comes
from a package is believed by nobody: it has a limit of length, and its shape and values are checked.

The word is SCORES; MAPS with a method and the side of the input in pixels, 0 for the model's own; RANDOM with a seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import safetensors.numpy

SCORES: Final = b"scores"
MAPS: Final = b"maps"
RANDOM: Final = b"random"

READY: Final = b"ready"
ARRAY: Final = b"array"
FAULT: Final = b"fault"

WORD_BYTES: Final = 2**16  # of a word or an error, at most
ARRAY_BYTES: Final = 2**30  # of an array


def pack(arrays: Sequence[npt.NDArray[np.generic]]) -> bytes:
    """Arrays of any types and shapes as one message.

    >>> [array.tolist() for array in unpack(pack([np.eye(2, dtype=np.uint8), np.zeros(1, np.float32)]))]
    [[[1, 0], [0, 1]], [0.0]]
    """
    data: bytes = safetensors.numpy.save({str(i): np.ascontiguousarray(array) for i, array in enumerate(arrays)})
    return data


def unpack(data: bytes) -> list[npt.NDArray[np.generic]]:
    """The arrays of a message, in their order.

    Raises:
        ValueError: it is none.
    """
    try:
        found = safetensors.numpy.load(data)
        return [found[str(i)] for i in range(len(found))]
    except (safetensors.SafetensorError, KeyError, TypeError) as error:  # a TypeError: of a type that numpy has not
        raise ValueError("it holds no arrays") from error
