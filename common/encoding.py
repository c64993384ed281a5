"""Arrays to named bytes and back: Zarr v3 groups for tables, safetensors for weights. Nothing is ever unpickled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import obstore
import safetensors.numpy
import zarr
import zarr.storage
from obstore.store import MemoryStore

Array: TypeAlias = npt.NDArray[Any]

ZARR_FOLDER = "data.zarr"
CHUNK_BYTES = 16 * 2**20


def pack_zarr(arrays: Mapping[str, Array]) -> dict[str, bytes]:
    """The objects `data.zarr/...` of a Zarr v3 group of these arrays: uncompressed, in chunks of 16 MB of rows."""
    memory = MemoryStore()
    group = zarr.create_group(zarr.storage.ObjectStore(memory), zarr_format=3)
    for name, array in arrays.items():
        # Empty chunks are written too, so that a reader can tell a lost chunk from one that is all zeros.
        group.create_array(
            name,
            data=array,
            chunks=_chunk_shape(array),
            compressors=None,
            filters=None,
            config={"write_empty_chunks": True},
        )
    keys = [entry["path"] for entry in obstore.list(memory).collect()]
    return {f"{ZARR_FOLDER}/{key}": bytes(obstore.get(memory, key).bytes()) for key in sorted(keys)}


def unpack_zarr(objects: Mapping[str, bytes]) -> dict[str, Array]:
    """The arrays that `pack_zarr` packed; ValueError if metadata or a chunk is not among the objects."""
    memory = MemoryStore()
    names = []
    num_objects: dict[str, int] = {}
    for key, data in objects.items():
        folder, _, path = key.partition("/")
        if folder != ZARR_FOLDER:
            continue
        obstore.put(memory, path, data)
        name, _, rest = path.partition("/")
        num_objects[name] = num_objects.get(name, 0) + 1
        if rest == "zarr.json":
            names.append(name)
    arrays = {}
    for name in names:
        # Only format 3 is opened: format 2 knows a codec that unpickles.
        array = zarr.open_array(zarr.storage.ObjectStore(memory), path=name, mode="r", zarr_format=3)
        if num_objects[name] != 1 + array.nchunks:
            raise ValueError(f"array {name} has {num_objects[name] - 1} chunks stored, expected {array.nchunks}")
        arrays[name] = np.asarray(array[...])
    return arrays


def pack_tensors(tensors: Mapping[str, Array]) -> bytes:
    """The safetensors file of these arrays."""
    # safetensors writes the memory behind an array: a transposed view would be stored scrambled. Not
    # np.ascontiguousarray, which turns a 0-d array into a 1-d one.
    return safetensors.numpy.save({name: np.asarray(tensor, order="C") for name, tensor in tensors.items()})


def unpack_tensors(data: bytes) -> dict[str, Array]:
    """The arrays of a safetensors file, by name."""
    return safetensors.numpy.load(data)


def _chunk_shape(array: Array) -> tuple[int, ...]:
    if array.ndim == 0:
        return ()
    row_bytes = max(1, array.itemsize * int(np.prod(array.shape[1:])))
    rows = max(1, min(len(array), CHUNK_BYTES // row_bytes))
    return (rows, *(max(1, size) for size in array.shape[1:]))
