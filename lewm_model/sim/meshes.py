# SPDX-License-Identifier: Apache-2.0
"""Meshes with fewer faces: a camera picture of a hundred pixels does not show the threads of a screw.

Descriptions of arms come with meshes made for manufacture (SO-101: 322,000 faces, 44 ms a picture on one core). Corners
that lie in the same small cell become one, which no edge-collapsing reducer can do across the many shells of a CAD
export; what is left is reduced by quadric edge collapse. The result is kept in a cache, under a hash of the file.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

import mujoco
import numpy as np

from lewm_model.config import cache_folder

CELL_M = 0.002  # corners nearer than about this become one: less than a pixel at half a metre and 96 pixels, ...
CELLS = 50  # ... and in a mesh longer than so many cells, cells are larger
MOST_FACES = 600  # of a mesh; one with fewer is left as it is


class MeshError(ValueError):
    """A mesh that cannot be reduced; says which file is broken."""


def reduce_meshes(spec: mujoco.MjSpec, folder: Path) -> None:
    """Replaces the mesh files of a description, read from `folder`, by meshes with fewer faces.

    :raises MeshError: a file is missing or no mesh.
    """
    cache = cache_folder("meshes")
    for mesh in spec.meshes:
        if not mesh.file:
            continue
        path = folder / mesh.file
        if not path.is_file():
            raise MeshError(f"the robot's description names the mesh {path}, which is not there")
        reduced = _reduced(path, cache)
        if reduced is None:
            mesh.file = str(path)
            continue
        mesh.name = mesh.name or Path(mesh.file).stem
        mesh.file = ""
        mesh.uservert, mesh.userface = reduced[0].ravel(), reduced[1].ravel()


def _reduced(path: Path, cache: Path) -> tuple[np.ndarray, np.ndarray] | None:
    """Corners (V, 3) float64 and faces (F, 3) int32 of a mesh file; None for a mesh that is small already."""
    key = hashlib.sha256(path.read_bytes() + f"{CELL_M} {CELLS} {MOST_FACES}".encode()).hexdigest()[:32]
    kept = cache / f"{key}.npz"
    try:
        with np.load(kept, allow_pickle=False) as arrays:
            return (arrays["corners"], arrays["faces"]) if len(arrays["faces"]) else None
    except (OSError, ValueError, KeyError):  # not there, or damaged: made again
        pass
    found = _reduce(path)
    corners, faces = (np.zeros((0, 3)), np.zeros((0, 3), np.int32)) if found is None else found
    with tempfile.NamedTemporaryFile(dir=cache, suffix=".part", delete=False) as file:
        np.savez(file, corners=corners, faces=faces)
    os.replace(file.name, kept)
    return found


def _reduce(path: Path) -> tuple[np.ndarray, np.ndarray] | None:
    import fast_simplification
    import trimesh

    loaded = trimesh.load(path, force="mesh")
    if not isinstance(loaded, trimesh.Trimesh) or not len(loaded.faces):
        raise MeshError(f"{path} holds no triangles")
    if len(loaded.faces) <= MOST_FACES:
        return None
    corners, faces = np.asarray(loaded.vertices, float), np.asarray(loaded.faces)
    cell = max(CELL_M, float(np.ptp(corners, axis=0).max()) / CELLS)
    _, cells = np.unique(np.round(corners / cell).astype(np.int64), axis=0, return_inverse=True)
    cells = cells.reshape(-1)
    means = np.zeros((cells.max() + 1, 3))
    np.add.at(means, cells, corners)
    means /= np.bincount(cells)[:, None]
    coarse = trimesh.Trimesh(means, cells[faces], process=False)
    coarse.update_faces(coarse.nondegenerate_faces() & coarse.unique_faces())
    coarse.remove_unreferenced_vertices()
    corners, faces = np.asarray(coarse.vertices, float), np.asarray(coarse.faces)
    if len(faces) > MOST_FACES:  # the library's tolerances are absolute: millimetres suit it
        millimetres = (1e3 * corners).astype(np.float32)
        corners, faces = fast_simplification.simplify(millimetres, faces, target_count=MOST_FACES)
        corners = corners / 1e3
    return np.asarray(corners, float), np.asarray(faces, np.int32)
