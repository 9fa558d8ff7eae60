# SPDX-License-Identifier: Apache-2.0
"""The files of rosbag2 recordings and the messages in them, without ROS: MCAP and SQLite, compressed or not.

rosbag2 compresses whole files (`.zstd` behind their name) or single messages; both can be read. What cannot be read of
a recording is reported.
"""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import struct
import tempfile
from collections.abc import Callable, Container, Iterator, Sequence
from functools import lru_cache, partial
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias
from urllib.parse import quote

import yaml
import zstandard
from mcap.data_stream import ReadDataStream
from mcap.exceptions import EndOfFile, InvalidMagic, RecordLengthLimitExceeded
from mcap.opcode import Opcode
from mcap.records import Channel, Chunk, Schema
from mcap.stream_reader import get_chunk_data_stream, read_magic
from rosbags.typesys import Stores, get_types_from_idl, get_types_from_msg, get_typestore

from lewm_model.data.errors import DataError

LOST = "lost"  # in place of a message's type: messages were recorded here that cannot be read any more
CDR = "cdr"  # how ROS 2 serialises messages
STORAGES, COMPRESSED_FILE = (".mcap", ".db3"), (".zstd", ".zst")
_ZSTD = b"\x28\xb5\x2f\xfd"  # begins what zstd compressed; CDR begins with a zero
_LARGEST = 2**30  # bytes of a record or message: a damaged length must not ask for all memory
_RECORD = struct.Struct("<BQ")  # of a chunk: its kind and length
_MESSAGE = struct.Struct("<HIQQ")  # before a message's bytes: channel, sequence, log and publish time
_SQLITE_TOPICS = "SELECT id, name, type FROM topics"
_SQLITE_DEFINITIONS = "SELECT topic_type, encoding, encoded_message_definition FROM message_definitions"
_SQLITE_MESSAGES = "SELECT topic_id, timestamp, data FROM messages ORDER BY id"

Wanted = Callable[[str, str], bool]  # (topic, type) -> whether such messages are wanted


class TopicMessage(NamedTuple):
    """One message of a recording: still serialised, with what is needed to read it."""

    topic: str
    type: str  # e.g. sensor_msgs/msg/Image
    log_ns: int  # when it was recorded
    data: bytes
    decode: Any  # bytes -> object with the message's fields; None where its definition is unknown
    encoding: str = CDR  # of the bytes; ROS 2 has CDR only


def _plain_name(file: Path) -> str:
    """The name without what compression adds to it."""
    return file.stem if file.suffix in COMPRESSED_FILE else file.name


def _is_storage(file: Path) -> bool:
    return _plain_name(file).endswith(STORAGES)


def bag_files(path: str | Path, problems: list[str] | None = None) -> list[Path]:
    """The files of a recording, in order: one file, or those of the folder that `ros2 bag record` made.

    `metadata.yaml` lists them in order; one that is missing stays in the list, so that reading it reports it.
    Files that are left out are named in `problems`.

    :raises DataError: there is none.
    """
    path, problems = Path(path), [] if problems is None else problems
    if path.is_file() and _is_storage(path):
        return [path]
    if not path.exists():
        raise DataError(f"there is no recording at {path}")
    if path.suffix == ".bag":
        raise DataError(
            f"{path} is a recording of ROS 1; `rosbags-convert --src {path} --dst FOLDER` makes one of ROS 2"
        )
    there: dict[str, Path] = {}
    for file in sorted(path.iterdir()) if path.is_dir() else []:
        if file.is_file() and _is_storage(file):
            name = _plain_name(file)
            if name in there:  # the uncompressed file is complete: rosbag2 deletes it after compressing it
                problems.append(f"{file} was not read: {there[name].name} beside it is the same, uncompressed")
            else:
                there[name] = file
        elif file.is_file() and Path(file.stem).suffix in STORAGES:
            problems.append(f"{file} was not read: of compressed files those of zstd are read; uncompress it")
    if not there:
        raise DataError(
            f"{path} is no recording; give an MCAP or SQLite (.db3) file, the folder of `ros2 bag record`, a LeRobot "
            "folder or an HDF5 file"
        )
    named = [_plain_name(Path(name)) for name in _named_files(path / "metadata.yaml", problems)]
    kinds = {Path(name).suffix for name in there}
    if len(kinds) > 1:
        kind = Path(named[0]).suffix if named and Path(named[0]).suffix in kinds else STORAGES[0]
        left_out = [str(file) for name, file in there.items() if not name.endswith(kind)]
        problems.append(f"{', '.join(left_out)} not read: the folder's other files are {kind}")
        there = {name: file for name, file in there.items() if name.endswith(kind)}
    # bag_2.mcap comes before bag_10.mcap
    numbered = {name: [int(w) if w.isdigit() else w for w in re.split(r"(\d+)", name)] for name in there}
    rest = sorted(there.keys() - set(named), key=lambda name: numbered[name])
    return [there.get(name, path / name) for name in named + rest]


def _named_files(metadata: Path, problems: list[str]) -> list[str]:
    """The names that `metadata.yaml` lists, in order; none where there is no such file."""
    if not metadata.is_file():
        return []
    try:
        names = yaml.safe_load(metadata.read_text())["rosbag2_bagfile_information"]["relative_file_paths"]
        found = [Path(name).name for name in names]  # only the names, as the folder may have been moved
    except (OSError, ValueError, TypeError, KeyError, RecursionError, yaml.YAMLError) as error:
        problems.append(f"{metadata} cannot be read ({error!r}); the files count as their names are ordered")
        return []
    return [name for name in found if _is_storage(Path(name))]


def read_messages(
    file: Path, problems: list[str] | None = None, wanted: Wanted | None = None
) -> Iterator[TopicMessage]:
    """The messages of an MCAP or SQLite file, in the order of the file.

    An MCAP file that was cut off, because the recorder was killed, is read up to its last whole chunk; a damaged chunk
    is left out, with a message of type `LOST` in its place. Both are reported in `problems`.

    :param wanted: which messages, by topic and type; those of others take little time. None is all.
    :raises DataError: the file is neither.
    """
    problems = [] if problems is None else problems
    if not file.is_file():
        raise DataError(f"{file}, which the recording names, is missing")
    if _plain_name(file).endswith(".db3"):
        found = _sqlite_messages(file, problems)
        yield from (one for one in found if wanted is None or wanted(one.topic, one.type))
        return
    schemas: dict[int, Schema] = {}
    channels: dict[int, _Known] = {}
    unwanted: set[int] = set()  # channels
    count, last_ns = 0, 0
    with _opened(file) as stream:
        records = _file_records(stream, unwanted)
        while True:
            try:
                record = next(records)
            except StopIteration:
                return
            except InvalidMagic as error:
                if count == 0 and stream.tell() <= 8:
                    raise DataError(f"{file} is no MCAP file: {error}") from error
                problems.append(f"{file} has no end marker, so it may have been cut off; {count} messages were read")
                return
            except (EndOfFile, struct.error):
                if file.stat().st_size < 8:
                    raise DataError(f"{file} is empty") from None
                problems.append(f"{file} was not closed, its recorder was killed; read up to the last whole chunk, "
                                f"{count} messages")  # fmt: skip
                return
            except Exception as error:  # damaged records raise errors of many types
                problems.append(f"{file} is damaged after message {count} and was not read from there on: {error}")
                return
            try:
                parts = _chunk_records(record, unwanted) if isinstance(record, Chunk) else [record]
            except Exception as error:  # decompressors raise errors of many types
                problems.append(f"{file}: a chunk after message {count} is damaged and was left out: {error}")
                if wanted is None or wanted("", LOST):
                    yield TopicMessage("", LOST, last_ns, b"", None)
                continue
            for part in parts:
                if isinstance(part, _Message):
                    if (known := channels.get(part.channel)) is None:
                        continue
                    count, last_ns = count + 1, part.log_ns
                    if part.channel not in unwanted:
                        data = _uncompressed(part.data) if part.data.startswith(_ZSTD) else part.data
                        yield TopicMessage(known.topic, known.type, last_ns, data, known.decode, known.encoding)
                elif isinstance(part, Schema):
                    schemas[part.id] = part
                elif isinstance(part, Channel):
                    channels[part.id] = known = _known(part, schemas.get(part.schema_id))
                    if wanted is not None and not wanted(known.topic, known.type):
                        unwanted.add(part.id)


class _Known(NamedTuple):
    """What a channel of an MCAP file says of its messages, as in TopicMessage."""

    topic: str
    type: str
    decode: Any
    encoding: str


def _known(channel: Channel, schema: Schema | None) -> _Known:
    cdr = schema is not None and channel.message_encoding == CDR
    decode = _decoder(schema.name, schema.encoding, schema.data) if schema and cdr else None
    return _Known(channel.topic, schema.name if schema else "", decode, channel.message_encoding)


class _Message(NamedTuple):
    """A message record; mcap's own class takes several times as long to make."""

    channel: int
    log_ns: int
    data: bytes


_Record: TypeAlias = Schema | Channel | _Message


def _file_records(stream: Any, unwanted: Container[int]) -> Iterator[_Record | Chunk]:
    """What `messages` needs of an MCAP file's records, as mcap's `StreamReader` gives them, but faster: that one reads
    every number by itself, also those of the indexes behind each chunk, which nobody asks for.

    :param unwanted: channels whose messages are left out.
    :raises InvalidMagic: the file does not begin, or end, as MCAP does.
    :raises EndOfFile: it ends within a record.
    :raises Exception: a record is damaged.
    """
    source = ReadDataStream(stream)
    read_magic(source)
    opcode = 0
    while opcode != Opcode.FOOTER:
        opcode, length = _RECORD.unpack(source.read(_RECORD.size))
        if length > _LARGEST:
            raise RecordLengthLimitExceeded(opcode, length, _LARGEST)
        content = source.read(length)
        if len(content) < length:
            raise EndOfFile
        if opcode == Opcode.CHUNK:
            yield Chunk.read(ReadDataStream(BytesIO(content)))
        elif record := _record(opcode, content, 0, length, unwanted):
            yield record
    read_magic(source)


def _chunk_records(chunk: Chunk, unwanted: Container[int]) -> list[_Record]:
    """The same of the records of a chunk.

    :raises Exception: the chunk is damaged; the type of the error is the decompressor's.
    """
    stream, length = get_chunk_data_stream(chunk, validate_crc=True)
    data, at = stream.read(length), 0
    records: list[_Record] = []
    while at < length:
        opcode, size = _RECORD.unpack_from(data, at)
        begin, at = at + _RECORD.size, at + _RECORD.size + size
        if at > length:
            raise EndOfFile
        if opcode == Opcode.MESSAGE:  # as _record does, without a call
            channel, _, log_ns, _ = _MESSAGE.unpack_from(data, begin)
            if channel not in unwanted:
                records.append(_Message(channel, log_ns, data[begin + _MESSAGE.size : at]))
        elif record := _record(opcode, data, begin, at, unwanted):
            records.append(record)
    return records


def _record(opcode: int, data: bytes, begin: int, end: int, unwanted: Container[int]) -> _Record | None:
    """The record whose content lies there; None for one that is not needed."""
    if opcode == Opcode.MESSAGE:
        channel, _, log_ns, _ = _MESSAGE.unpack_from(data, begin)
        return None if channel in unwanted else _Message(channel, log_ns, data[begin + _MESSAGE.size : end])
    if opcode in (Opcode.SCHEMA, Opcode.CHANNEL):
        kind = Schema if opcode == Opcode.SCHEMA else Channel
        return kind.read(ReadDataStream(BytesIO(data[begin:end])))
    return None


def _opened(file: Path) -> Any:
    """A stream of the file's bytes, uncompressed."""
    if file.suffix in COMPRESSED_FILE:
        decompressor = zstandard.ZstdDecompressor()
        return decompressor.stream_reader(open(file, "rb"), read_across_frames=True, closefd=True)
    return open(file, "rb")


def _uncompressed(data: bytes) -> bytes:
    """A message that rosbag2 compressed by itself; empty where it cannot be uncompressed."""
    try:
        return zstandard.ZstdDecompressor().decompress(data, max_output_size=_LARGEST)
    except (zstandard.ZstdError, MemoryError):
        return b""


@lru_cache(maxsize=256)
def _decoder(kind: str, language: str = "", definition: bytes = b"") -> Any:
    """A function from serialised messages of this type to objects; None where the definition cannot be parsed.

    :param language: of the definition, "ros2msg" or "ros2idl". Without a definition, that of Jazzy is used.
    """
    try:
        store = get_typestore(Stores.EMPTY if definition else Stores.ROS2_JAZZY)
        if definition:
            text = definition.decode(errors="replace")
            parts = re.split(r"=+\nIDL: .*\n", text) if language == "ros2idl" else []
            store.register(get_types_from_msg(text, kind) if language == "ros2msg" else {})
            for part in filter(str.strip, parts):
                store.register(get_types_from_idl(part))
        store.get_msgdef(kind)
    except Exception:  # which error it is depends on the text; only matters if the topic is needed
        return None
    return partial(store.deserialize_cdr, typename=kind)


def _sqlite_messages(file: Path, problems: list[str]) -> Iterator[TopicMessage]:
    """All messages of a recording of rosbag2's SQLite plugin, in the order they were recorded.

    Files of Humble hold no message definitions; those of Jazzy are used, which agree with Humble's for what is read
    here. A damaged file is read up to the damage.

    :raises DataError: the file is no such recording.
    """
    count = 0
    with tempfile.TemporaryDirectory(prefix="lewm_bag_") as scratch:
        connections: list[sqlite3.Connection] = []
        try:
            plain = _unpacked(file, Path(scratch), problems) if file.suffix in COMPRESSED_FILE else file
            for copy in _sqlite_copies(plain, Path(scratch), file, problems):
                mode = "rw" if copy.is_relative_to(scratch) else "ro"
                connections.append(sqlite3.connect(f"file:{quote(str(copy))}?mode={mode}", uri=True))
            topics = {number: (str(name), str(kind)) for number, name, kind in connections[0].execute(_SQLITE_TOPICS)}
            definitions = _sqlite_definitions(connections[0])
            for row, *others in zip(*(one.execute(_SQLITE_MESSAGES) for one in connections), strict=False):
                number, log_ns, data = row
                if any(other != row for other in others):
                    raise sqlite3.DatabaseError("the rest was cut off")
                topic, kind = topics.get(number, ("", ""))
                if isinstance(data, bytes) and isinstance(log_ns, int):
                    count += 1
                    decode = _decoder(kind, *definitions.get(kind, ()))
                    data = _uncompressed(data) if data.startswith(_ZSTD) else data
                    yield TopicMessage(topic, kind, log_ns, data, decode)
        except (sqlite3.Error, UnicodeDecodeError, OSError) as error:
            if count == 0:
                raise DataError(f"{file} is no SQLite recording, or its beginning is damaged: {error}") from error
            problems.append(f"{file} is damaged after message {count} and was not read from there on: {error}")
        finally:
            for connection in connections:
                connection.close()


def _sqlite_definitions(connection: sqlite3.Connection) -> dict[str, tuple[str, bytes]]:
    """Language and text of the definition of each message type, which rosbag2 stores since Iron."""
    try:
        return {str(kind): (str(language), str(text).encode()) for kind, language, text in
                connection.execute(_SQLITE_DEFINITIONS)}  # fmt: skip
    except sqlite3.Error:
        return {}


def _unpacked(file: Path, scratch: Path, problems: list[str]) -> Path:
    """The file, uncompressed as far as possible."""
    plain = scratch / _plain_name(file)
    with _opened(file) as stream, open(plain, "wb") as out:
        try:
            shutil.copyfileobj(stream, out, 2**20)
        except zstandard.ZstdError as error:
            problems.append(f"{file} is damaged behind {out.tell()} bytes and not read from there on: {error}")
    return plain


def _sqlite_copies(file: Path, scratch: Path, called: Path, problems: list[str]) -> list[Path]:
    """The file, which the user calls `called`, or copies of it that SQLite opens.

    SQLite repairs a file whose recorder was killed, with the journal beside it; it does that in a copy. It refuses a
    file that was cut off, so two copies get the original length, with different bytes in place of what is missing. A
    message that is the same in both is complete.
    """
    with open(file, "rb") as stream:
        head = stream.read(32)
    page = int.from_bytes(head[16:18], "big")
    there, needed = file.stat().st_size, (65536 if page == 1 else page) * int.from_bytes(head[28:32], "big")
    beside = [other for end in ("-journal", "-wal") if (other := file.with_name(file.name + end)).is_file()]
    cut = there < needed <= 2**44 and head.startswith(b"SQLite format 3")
    if not cut and not beside:
        return [file.resolve()]
    copies = []
    for name in ("zeros", "ones") if cut else ("whole",):
        (scratch / name).mkdir()
        for other in (file, *beside):
            shutil.copyfile(other, scratch / name / other.name)
        copies.append(scratch / name / file.name)
    if cut:
        problems.append(f"{called} was cut off: {there} of {needed} bytes are there")
        os.truncate(copies[0], needed)
        with open(copies[1], "ab") as stream:
            for begin in range(there, needed, 2**20):
                stream.write(b"\xff" * min(2**20, needed - begin))
    return copies


def messages(
    files: Sequence[Path], problems: list[str] | None = None, wanted: Wanted | None = None
) -> Iterator[TopicMessage]:
    """The messages of all files of a recording, one file after the other; by topic and type only those that are wanted.

    One of several that cannot be read at all is named, and a message of type `LOST` stands in its place.

    :raises DataError: there is only that one.
    """
    last_ns = 0
    for file in files:
        try:
            for message in read_messages(file, problems, wanted):
                last_ns = message.log_ns
                yield message
        except DataError as error:
            if len(files) == 1:
                raise
            if problems is not None:
                problems.append(f"left out: {error}")
            if wanted is None or wanted("", LOST):
                yield TopicMessage("", LOST, last_ns, b"", None)
