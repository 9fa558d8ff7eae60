# SPDX-License-Identifier: Apache-2.0
"""Reduction of meshes to few faces, since a camera picture of a hundred pixels does not show the threads of a screw.

Descriptions of arms have meshes made for manufacturing (SO-101: 322,000 faces, 44 ms a picture on one core). First all
vertices in a small cell are merged, which also joins the many separate shells of a CAD export, as edge collapse cannot;
the rest is reduced by quadric edge collapse. The result is cached under a hash of the file.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

import mujoco
import numpy as np

from lewm_model.config import cache_folder

CELL_M = 0.002  # side of a cell, less than a pixel at half a metre and 96 pixels; ...
CELLS = 50  # ... in a mesh that is longer than so many cells it is this share of the length
MOST_FACES = 600  # of a reduced mesh; meshes with fewer are not changed


class MeshError(ValueError):
    """A mesh that cannot be reduced; the message names the file."""


def reduce_meshes(spec: mujoco.MjSpec, folder: Path, most_faces: int = MOST_FACES) -> None:
    """Replaces the mesh files of a description, read from `folder`, by meshes of about `most_faces` faces.

    :raises MeshError: a file is missing, or is not a mesh.
    """
    cache = cache_folder("meshes")
    for mesh in spec.meshes:
        if not mesh.file:
            continue
        path = folder / mesh.file
        if not path.is_file():
            raise MeshError(f"the robot's description names the mesh {path}, which is not there")
        reduced = _reduced(path, cache, most_faces)
        if reduced is None:
            mesh.file = str(path)
            continue
        mesh.name = mesh.name or Path(mesh.file).stem
        mesh.file = ""
        mesh.uservert, mesh.userface = reduced[0].ravel(), reduced[1].ravel()


def _reduced(path: Path, cache: Path, most_faces: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Vertices (V, 3) float64 and faces (F, 3) int32 of a reduced mesh file, from the cache if it is there; None for a
    mesh with few faces.
    """
    key = hashlib.sha256(path.read_bytes() + f"{CELL_M} {CELLS} {most_faces}".encode()).hexdigest()[:32]
    kept = cache / f"{key}.npz"
    try:
        with np.load(kept, allow_pickle=False) as arrays:
            return (arrays["corners"], arrays["faces"]) if len(arrays["faces"]) else None
    except (OSError, ValueError, KeyError):  # missing or damaged, so it is made again
        pass
    found = _reduce(path, most_faces)
    corners, faces = (np.zeros((0, 3)), np.zeros((0, 3), np.int32)) if found is None else found
    with tempfile.NamedTemporaryFile(dir=cache, suffix=".part", delete=False) as file:
        np.savez(file, corners=corners, faces=faces)
    os.replace(file.name, kept)
    return found


def _reduce(path: Path, most_faces: int) -> tuple[np.ndarray, np.ndarray] | None:
    import fast_simplification
    import trimesh

    loaded = trimesh.load(path, force="mesh")
    if not isinstance(loaded, trimesh.Trimesh) or not len(loaded.faces):
        raise MeshError(f"{path} holds no triangles")
    if len(loaded.faces) <= most_faces:
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
    if len(faces) > most_faces:  # in millimetres, since the library's tolerances are absolute
        millimetres = (1e3 * corners).astype(np.float32)
        corners, faces = fast_simplification.simplify(millimetres, faces, target_count=most_faces)
        corners = corners / 1e3
    return np.asarray(corners, float), np.asarray(faces, np.int32)
