"""Changes of a file's bytes, or of the values in it: a number where a list should be, a name too many or too few."""

from __future__ import annotations

import io
import json
import random
import struct
import tempfile
from pathlib import Path
from typing import Any

import yaml
from damage.small import flipped

WORDS = (
    *(b"\0", b"\n", b"\r", b",", b'"', b"NaN", b"-1", b"9" * 400, b"1e999", b"null", b"{", b"[", b": ", b"&a", b"*a"),
    *(b"\xff\xfe", b"\x1b[31m", b"../../x", b"!!python/name:os.system", "\u202e".encode(), b"\xed\xa0\x80"),
    *(b"a{1000000000}", b"(a+)+$", b"1e308", b"(?P<domain>", b"Infinity", b"2021-01-01", b"[" * 2000),
)
VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 1.5, 10**30, 2**31, 2**63, -(2**70), 1e308, float("nan"), "", "x", "\0", "\x1b[31m", "\ud800"),
    *([], {}, [[]], {"x": 1}, ["x"], [None], "../../x", "a{1000000000}", "(a+)+$", "x" * 300, "é", 10**400),
)


def changed(content: bytes, chance: random.Random) -> bytes:
    """The content with one to four changes."""
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        at = chance.randrange(len(content) + 1)
        match chance.randrange(8):
            case 0 | 1:
                content = flipped(content, chance)
            case 2:
                content = content[:at]
            case 3:
                end = min(at + chance.randrange(1, 64), len(content))
                content = content[:at] + content[at:end] * 2 + content[end:]
            case 4:
                content = content[:at] + chance.choice(WORDS) + content[at:]
            case 5:
                content = content[:at] + chance.randbytes(chance.randrange(1, 64)) + content[at:]
            case 6:
                size = struct.pack(
                    chance.choice("<>") + chance.choice("IQ"), chance.choice((2**31 - 1, 2**32 - 1, 1 << 28))
                )
                content = content[:at] + size + content[at + len(size) :]
            case 7:
                end = min(at + chance.randrange(1, 256), len(content))
                content = content[:at] + content[end:]
    return content


def other_value(value: Any, chance: random.Random) -> Any:
    """The same, but that one value somewhere in it is another, gone, or a name too many."""
    inner = _places(value)
    if not inner or chance.random() < 0.05:
        return chance.choice(VALUES)
    holder, key = chance.choice(inner)
    match chance.randrange(6):
        case 0 if isinstance(holder, dict):
            del holder[key]
        case 1 if isinstance(holder, dict):
            holder["x"] = chance.choice(VALUES)
        case 2 if isinstance(holder, list):
            holder.append(chance.choice(VALUES))
        case _:
            holder[key] = chance.choice(VALUES)
    return value


def _places(value: Any) -> list[tuple[Any, Any]]:
    """(holder, key) of every value within."""
    if not isinstance(value, (dict, list)):
        return []
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    return [(value, key) for key in keys] + [place for key in keys for place in _places(value[key])]


def other_json(content: bytes, chance: random.Random) -> bytes:
    """Another value in a JSON document."""
    return json.dumps(other_value(json.loads(content), chance)).encode()


def other_json_line(content: bytes, chance: random.Random) -> bytes:
    """Another value in one line of JSON."""
    lines = content.splitlines()
    at = chance.randrange(len(lines))
    lines[at] = other_json(lines[at], chance)
    return b"\n".join(lines) + b"\n"


def other_yaml(content: bytes, chance: random.Random) -> bytes:
    """Another value in a YAML document."""
    return yaml.safe_dump(other_value(yaml.safe_load(content), chance), allow_unicode=True).encode(
        errors="surrogatepass"
    )


def other_receipt(content: bytes, chance: random.Random) -> bytes:
    """Another value in a part's receipt, which says that it fits, in a file whose checksums are right."""
    import pyarrow.parquet as pq

    from mdfpipe.store.parquet import write_table
    from mdfpipe.store.run import fingerprint

    table = pq.read_table(io.BytesIO(content))
    metadata = dict(table.schema.metadata or {})
    found = other_value(json.loads(metadata.get(b"mdfpipe", b"{}")), chance)
    if isinstance(found, dict):
        decisive = [found.get(name) for name in ("stage", "version", "key", "settings", "upstream")]
        found["fingerprint"] = fingerprint(decisive)
    metadata[b"mdfpipe"] = json.dumps(found).encode()
    with tempfile.TemporaryDirectory(prefix="mdfpipe-faults-") as folder:
        write_table(path := Path(folder) / "sealed.parquet", table.replace_schema_metadata(metadata))
        return path.read_bytes()


def other_cell(content: bytes, chance: random.Random) -> bytes:
    """A column of a Parquet table that is gone, of another kind, empty, or not UTF-8."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(io.BytesIO(content))
    at = chance.randrange(table.num_columns)
    name = table.column_names[at]
    raw = pa.array([chance.choice((b"\xff\xfe", b"\0", b"x", b"\x1b[31m"))] * len(table), pa.binary())
    columns = (
        pa.nulls(len(table)),
        pa.array([chance.choice((10**18, -1, 0))] * len(table)),
        pa.array([chance.choice((1e308, float("nan"), -0.5))] * len(table)),
        pa.StringArray.from_buffers(len(raw), *raw.buffers()[1:]),
        pa.array([[]] * len(table), pa.list_(pa.float32())),
        pa.array([True] * len(table)),
    )
    match chance.randrange(4):
        case 0:
            table = table.drop_columns([name])
        case 1:
            table = table.append_column(name, table.column(at))
        case _:
            table = table.set_column(at, name, chance.choice(columns))
    out = pa.BufferOutputStream()
    pq.write_table(table, out)
    return bytes(out.getvalue())


def other_entry(content: bytes, chance: random.Random) -> bytes:
    """Another value in what torch saved."""
    import torch

    found = torch.load(io.BytesIO(content), weights_only=True)
    out = io.BytesIO()
    torch.save(other_value(found, chance), out)
    return out.getvalue()


def of(*kinds: Any) -> Any:
    """Changed by one of these kinds."""
    return lambda content, chance: chance.choice(kinds)(content, chance)
