# SPDX-License-Identifier: Apache-2.0
"""Strict reading of SDF files: XML elements with their line numbers, and checks whose errors name file and line."""

from __future__ import annotations

import xml.parsers.expat
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

MOST = 1e9  # greatest magnitude of a number, beyond which the simulation overflows


def _short(text: str) -> str:
    text = text.strip()
    return repr(text if len(text) <= 80 else f"{text[:80]}…")


class SdfError(ValueError):
    """The SDF file is broken or has something that the loader does not support; says file, line and what to do."""


@dataclass
class Element:
    """One XML element with the line at which it starts. Its checks raise SdfError with that line."""

    tag: str
    attributes: dict[str, str]
    file: str
    line: int
    text: str = ""
    children: list[Element] = field(default_factory=list)

    def error(self, message: str) -> SdfError:
        return SdfError(f"{self.file}:{self.line}: {message}")

    def allow(self, tags: str = "", attributes: str = "") -> None:
        """Raises unless all children and attributes are among these space-separated names."""
        for child in self.children:
            if child.tag not in tags.split():
                known = f"it may hold {', '.join(sorted(tags.split()))}" if tags else "it may hold no elements"
                raise child.error(f"<{child.tag}> in <{self.tag}> is not supported; {known}")
        for name in self.attributes:
            if name not in attributes.split():
                raise self.error(f"attribute '{name}' of <{self.tag}> is not supported; remove it")
        if self.children and self.text.strip():
            raise self.error(f"<{self.tag}> holds stray text {_short(self.text)}")

    def all(self, tag: str) -> list[Element]:
        return [child for child in self.children if child.tag == tag]

    def get(self, tag: str) -> Element | None:
        found = self.all(tag)
        if len(found) > 1:
            raise found[1].error(f"<{tag}> appears again in <{self.tag}>; keep one")
        return found[0] if found else None

    def need(self, tag: str) -> Element:
        found = self.get(tag)
        if found is None:
            raise self.error(f"<{self.tag}> needs a <{tag}>")
        return found

    def attribute(self, name: str) -> str:
        if not self.attributes.get(name):
            raise self.error(f"<{self.tag}> needs an attribute '{name}'")
        return self.attributes[name]

    def string(self) -> str:
        self.allow(attributes="")
        if not self.text.strip():
            raise self.error(f"<{self.tag}> is empty")
        return self.text.strip()

    def floats(self, count: int, attributes: str = "") -> np.ndarray:
        self.allow(attributes=attributes)
        try:
            values = np.array([float(word) for word in self.text.split()])
        except ValueError:
            values = np.array([])
        if values.shape != (count,) or not np.isfinite(values).all():
            raise self.error(f"<{self.tag}> holds {_short(self.text)}; {count} finite number(s) expected")
        if (np.abs(values) > MOST).any():
            raise self.error(f"<{self.tag}> holds {_short(self.text)}; no number may be beyond {MOST:.0e}")
        return values

    def number(self, tag: str, default: float | None = None, positive: bool = False) -> float:
        """The number in child `tag`, or `default` if there is no such child; without either it is an error."""
        child = self.need(tag) if default is None else self.get(tag)
        if child is None:
            assert default is not None
            return default
        value = float(child.floats(1)[0])
        if positive and value <= 0.0:
            raise child.error(f"<{tag}> is {value}; it must be above 0")
        return value

    def flag(self, tag: str, default: bool) -> bool:
        child = self.get(tag)
        if child is None:
            return default
        text = child.string().lower()
        if text not in ("true", "false", "1", "0"):
            raise child.error(f"<{tag}> is {text!r}; write true or false")
        return text in ("true", "1")


def read_xml(path: Path) -> Element:
    """Parses an XML file; :raises SdfError: it is missing or not well-formed."""
    parser = xml.parsers.expat.ParserCreate()
    root: list[Element] = []
    stack: list[Element] = []

    def start(tag: str, attributes: dict[str, str]) -> None:
        element = Element(tag, attributes, str(path), parser.CurrentLineNumber)
        (stack[-1].children if stack else root).append(element)
        stack.append(element)

    def end(tag: str) -> None:
        stack.pop()

    def text(data: str) -> None:
        stack[-1].text += data

    def refuse(name: str, *_: object) -> None:  # since nested entities expand to gigabytes
        raise SdfError(f"{path}:{parser.CurrentLineNumber}: write out the XML entity '{name}', none may be declared")

    parser.EntityDeclHandler = refuse
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = text
    try:
        if path.exists() and not path.is_file():  # reading a device may never end
            raise SdfError(f"{path}: is not a file; give the path of an SDF world")
        parser.Parse(path.read_bytes(), True)
    except OSError as error:
        raise SdfError(f"{path}: cannot be read: {error.strerror}; give the path of an SDF world") from error
    except xml.parsers.expat.ExpatError as error:
        raise SdfError(f"{path}:{error.lineno}: not well-formed XML: {error}") from error
    except SdfError:
        raise
    except (LookupError, ValueError) as error:  # Python does not have the file's encoding
        raise SdfError(f"{path}: its encoding is not supported: {error}; write UTF-8") from error
    return root[0]
