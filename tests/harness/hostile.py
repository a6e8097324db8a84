"""Hostile uploads and prompt formats, made from a seed: what would cost a careless service its time or memory.

Each generator takes its own random numbers, so that no two of a kind are alike and all can be made again.
"""

import io
import json
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import pyarrow as pa

from tests.harness.parquet_files import parquet_of, repeated


@dataclass(frozen=True)
class File:
    """A file to upload. ``is_harmless`` says that damage may not show, so that it may be taken."""

    name: str
    content: bytes
    is_harmless: bool = False


@dataclass(frozen=True)
class Form:
    """A whole body of a form, with its Content-Type."""

    content_type: str
    body: bytes


def deep_lists(random: Random) -> File:
    depth = random.randint(65, 300_000)
    return File("x.jsonl", b'{"a": ' + b"[" * depth + b"]" * depth * random.randint(0, 1) + b"}")


def deep_objects(random: Random) -> File:
    depth = random.randint(65, 150_000)
    closed = random.randint(0, 1)
    return File("x.jsonl", b'{"a":' * depth + b"1" + b"}" * depth * closed)


def deep_role(random: Random) -> File:
    depth = random.randint(65, 1000)
    return File("x.jsonl", b'{"messages": [{"role": ' + b"[" * depth + b"]" * depth + b"}]}")


def huge_number(random: Random) -> File:
    digits = random.choice([20, 300, 400, 5000, 900_000])
    sign, rest = random.choice([b"", b"-"]), random.choice([b"", b".5", b"e999999999"])
    if digits == 20 and rest == b".5":
        rest = b""
    return File("x.jsonl", b'{"a": ' + sign + b"9" * digits + (rest if digits > 20 else b"") + b"}")


def long_line(random: Random) -> File:
    filler = random.choice([b"x", b" ", b'\\"', b"[", b'{"a":', "日".encode()])
    return File("x.jsonl", b'{"prompt": "a", "completion": "' + filler * (10 * 2**20 // len(filler)) + b'"}')


def many_keys(random: Random) -> File:
    count = random.randint(60_000, 100_000)
    return File("x.jsonl", b"{" + b",".join(b'"%x":1' % n for n in range(count)) + b"}")


def many_keys_near_prompt(random: Random) -> File:
    line = b'{"prompt": "", ' + b",".join(b'"completio%d":1' % n for n in range(random.randint(30_000, 45_000))) + b"}"
    return File("x.jsonl", (line + b"\n") * 5)


def repeated_keys(random: Random) -> File:
    count = random.randint(1000, 90_000)
    keys = [b'"%x":1' % n for n in range(count)]
    keys.append(random.choice([b'"0":2', rb'"\u0030":2', b'"%x":2' % (count - 1)]))
    return File("x.jsonl", b"{" + b",".join(keys) + b"}")


def key_like_texts(random: Random) -> File:
    line = b'{"a": "' + b'\\":' * random.randint(100_000, 300_000) + b'", "a": 1}\n'
    return File("x.jsonl", line * 5)


def bad_escapes(random: Random) -> File:
    escape = random.choice([rb"\ud800", rb"\udfff\ud800", rb"\u0000", rb"\u12", rb"\x41", rb"\U0001F600", b"\x01"])
    return File("x.jsonl", b'{"prompt": "' + b"x" * random.randint(0, 1000) + escape + b'", "completion": "b"}')


def no_numbers(random: Random) -> File:
    value = random.choice([b"NaN", b"-Infinity", b"[1, Infinity]", b"1e400", b"0x10", b"01", b"+1", b".5"])
    return File("x.jsonl", b'{"a": ' + value + b"}")


def other_encoding(random: Random) -> File:
    encoding = random.choice(["utf-16", "utf-16-le", "utf-32", "latin-1"])
    name, text = random.choice([("x.jsonl", '{"prompt": "ä", "completion": "ö"}\n'), ("x.csv", "prompt,ä\nö,ü\n")])
    return File(name, (text * random.randint(1, 1000)).encode(encoding))


def noise(random: Random) -> File:
    name = random.choice(["x.jsonl", "x.csv", "x.parquet", "x", "x.json"])
    return File(name, b"\xff" + random.randbytes(random.randint(0, 200_000)))


def archive(random: Random) -> File:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("x.jsonl", b"0" * random.randint(1, 10 * 2**20))
    magic = random.choice([b"", b"\x1f\x8b", b"\x28\xb5\x2f\xfd"])
    return File(random.choice(["x.jsonl", "x.csv", "x.parquet", "x.zip"]), magic + written.getvalue())


def many_problems(random: Random) -> File:
    return File("x.jsonl", random.choice([b"[]\n", b"{\n", b'{"prompt":1}\n']) * random.randint(10_000, 60_000))


def many_messages(random: Random) -> File:
    turn = random.choice([{"role": "user", "content": "a"}, {"role": "x"}, [], {"role": "assistant", "content": "b"}])
    return File("x.jsonl", json.dumps({"messages": [turn] * random.randint(1025, 20_000)}).encode())


def many_spans(random: Random) -> File:
    spans = random.choice([[[0, 1]] * 100_000, [[2, 1]], [[0, 10**9]], [0, 1], {"0": 1}])
    return File("x.jsonl", json.dumps({"prompt": "", "completion": "abc", "mask_spans": spans}).encode())


def csv_quotes(random: Random) -> File:
    count = random.randint(100_000, 2_000_000)
    body = random.choice(
        [
            b'"' * (2 * count + 1),
            b'"' + b"\n" * count,
            b'"' + b'""' * count,
            b'"' + b"a,b\n" * count,
            b'"a"b' * 100_000,
            b'""a\n' * 100_000,
        ]
    )
    return File("x.csv", b"q,a\n" + body)


def csv_columns(random: Random) -> File:
    count = random.randint(1025, 100_000)
    names = b",".join(b"%x" % n for n in range(count))
    return File("x.csv", random.choice([names, b"," * count, b"q,a\n" + b"," * count]) + b"\n1,2\n")


def csv_fields(random: Random) -> File:
    row = random.choice([b"1\n", b"1,2,3\n", b"1\r2,3\n", b"\0,\0\n", b"\xff,1\n", b'1,"2"3\n'])
    return File("x.csv", b"q,a\n" + row * random.randint(1, 50_000))


def csv_header(random: Random) -> File:
    header = random.choice([b"a,a", b"a,", b" a,b", b"a\0,b", b'"a', b"x" * 2_000_000, b'"' + b"x\n" * 1_000_000])
    return File("x.csv", header + b"\n1,2\n")


def csv_one_line(random: Random) -> File:
    return File("x.csv", b"q,a\n" + random.choice([b"x", b"\r", b",", b"x,"]) * (5 * 2**20))


def _table(random: Random) -> bytes:
    rows = random.randint(10, 2000)
    columns = {
        "question": [f"{random.random()}" for _ in range(rows)],
        "references": [[{"title": "t", "text": "x" * random.randint(0, 99)}] for _ in range(rows)],
    }
    compression = random.choice(["snappy", "none", "zstd", "gzip"])
    return parquet_of(columns, compression=compression, write_page_checksum=True)


def cut_parquet(random: Random) -> File:
    content = _table(random)
    return File("x.parquet", content[: random.randint(4, len(content) - 1)])


def spliced_parquet(random: Random) -> File:
    content = _table(random)
    begin = random.randint(4, len(content) // 2)
    return File("x.parquet", content[:begin] + content[begin + random.randint(8, 100) :])


def flipped_parquet(random: Random) -> File:
    content = bytearray(_table(random))
    for _ in range(random.randint(1, 8)):
        content[random.randrange(4, len(content))] = random.randrange(256)
    return File("x.parquet", bytes(content), is_harmless=True)


def flipped_footer(random: Random) -> File:
    content = bytearray(_table(random))
    footer_bytes = int.from_bytes(content[-8:-4], "little")
    for _ in range(random.randint(1, 4)):
        content[-9 - random.randrange(footer_bytes)] = random.randrange(256)
    return File("x.parquet", bytes(content), is_harmless=True)


def lying_parquet(random: Random) -> File:
    content = _table(random)
    length = random.choice([0, 1, 2**31 - 1, 2**32 - 1, len(content) * 2])
    return File("x.parquet", content[:-8] + length.to_bytes(4, "little") + b"PAR1")


def parquet_bomb(random: Random) -> File:
    bombs: list[Callable[[], dict[str, Any]]] = [
        lambda: {"a": ["x" * random.randint(20_000_000, 100_000_000)]},
        lambda: {"a": repeated("x" * 20_000_000, random.randint(1000, 25_000))},
        lambda: {"a": repeated("x" * 1_000_000, random.randint(10_000, 100_000))},
        lambda: {"a": pa.nulls(random.randint(9_000_000, 50_000_000))},
        lambda: {"a": pa.array([[None] * random.randint(1_000_000, 3_000_000)])},
        lambda: {"a": pa.array([[True] * random.randint(1_000_000, 3_000_000)])},
        lambda: {f"c{n}": ["x"] for n in range(random.randint(1025, 3000))},
    ]
    return File("x.parquet", parquet_of(random.choice(bombs)(), compression="zstd"))


def parquet_types(random: Random) -> File:
    kind = random.choice([pa.binary(), pa.timestamp("ns"), pa.decimal128(38, 2), pa.duration("s"), pa.date64()])
    nested: Any = kind
    for _ in range(random.randint(0, 40)):
        nested = random.choice([pa.list_(nested), pa.struct([("f", nested)])])
    return File("x.parquet", parquet_of({"a": pa.nulls(3, nested)}))


def parquet_deep(random: Random) -> File:
    nested: Any = pa.string()
    for _ in range(random.randint(70, 150)):
        nested = pa.struct([("f", nested)])
    return File("x.parquet", parquet_of({"a": pa.nulls(1, nested)}))


def parquet_numbers(random: Random) -> File:
    values = [random.choice([float("nan"), float("inf")]) for _ in range(random.randint(1, 50_000))]
    return File("x.parquet", parquet_of({"a": values}))


def misnamed(random: Random) -> File:
    name, content = random.choice(
        [("x.jsonl", _table(random)), ("x.csv", b'{"a": 1}\n'), ("x.parquet", b'{"a": 1}\n'), ("x.parquet", b"PAR")]
    )
    return File(name, content)


_PART = b'--b\r\nContent-Disposition: form-data; name="%b"%b\r\n\r\n%b\r\n'
_FILE = _PART % (b"file", b'; filename="x.jsonl"', b'{"prompt": "a", "completion": "b"}')
_PURPOSE = _PART % (b"purpose", b"", b"fine-tune")


def odd_form(random: Random) -> Form:
    body = random.choice(
        [
            _FILE + _PURPOSE,  # no end
            _FILE + _FILE + _PURPOSE + b"--b--\r\n",
            _PURPOSE + b"--b--\r\n",
            _FILE + b"--b--\r\n",
            _FILE + _PURPOSE * 2 + _PART % (b"purpose", b"", b"other") + b"--b--\r\n",
            _FILE + b"".join(_PART % (b"f%d" % n, b"", b"x") for n in range(50_000)) + b"--b--\r\n",
            _FILE + _PART % (b"purpose", b"", b"x" * 2_000_000) + b"--b--\r\n",
            b"--b\r\n" + b"X: y\r\n" * 100_000 + b"\r\n\r\n--b--\r\n",
            b"--b\r\nContent-Disposition: form-data; name=" + b"x" * 3_000_000 + b"\r\n\r\n\r\n--b--\r\n",
            b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n--b--\r\n",
            b"--b\r\n\r\nx\r\n--b--\r\n",
            b"--b\r\nno colon\r\n\r\nx\r\n--b--\r\n",
            b"\r\n" * 500_000,
            b"--b" * 300_000,
            random.randbytes(100_000),
        ]
    )
    kind = random.choice(["multipart/form-data; boundary=b"] * 8 + ["multipart/mixed; boundary=b", "", "text/csv"])
    return Form(kind, body)


# A kind with many variants stands here several times.
UPLOADS: Sequence[Callable[[Random], File | Form]] = (
    deep_lists,
    deep_objects,
    deep_role,
    huge_number,
    long_line,
    many_keys,
    many_keys_near_prompt,
    repeated_keys,
    key_like_texts,
    bad_escapes,
    no_numbers,
    other_encoding,
    noise,
    archive,
    many_problems,
    many_messages,
    many_spans,
    csv_quotes,
    csv_quotes,
    csv_columns,
    csv_fields,
    csv_header,
    csv_one_line,
    cut_parquet,
    spliced_parquet,
    flipped_parquet,
    flipped_footer,
    lying_parquet,
    parquet_bomb,
    parquet_bomb,
    parquet_bomb,
    parquet_types,
    parquet_deep,
    parquet_numbers,
    misnamed,
    odd_form,
    odd_form,
    odd_form,
    odd_form,
)

COLUMNS = ("question", "references", "answer")


def malformed_template(random: Random) -> Any:
    """Give what is no template over `COLUMNS`, or no template at all."""
    count = random.randint(65, 1500)
    name = random.choice(COLUMNS)
    return random.choice(
        [
            "{{" + " " * count * 12,
            "{{question}}{{" + " " * min(count, 499),
            "{{question" + " " * count,
            "{{#question}}" * 600,
            "{{#a}}" * count + "{{/a}}" * count,
            "{{^question}}" * 100 + "x" + "{{/question}}" * 100,
            "{{#question}}{{/answer}}",
            "{{/question}}",
            "{{#question}}{{#references}}{{/question}}{{/references}}",
            "{{> " + name + "}}",
            "{{>/etc/passwd}}{{question}}",
            "{{=<% %>=}}<% question %>",
            "{{=[ ]=}}" + "[question]" * count,
            "{{question}}" * 5000,
            "x" * random.randint(20_001, 1_000_000),
            "{{missing}}",
            "{{__class__}}{{question}}",
            "{{_" + "_" * 199 + "}}",
            "{{question.upper",
            "{{{question}}",
            "{{{{question}}}}",
            "{{!}}",
            "{{&}}",
            "{{#}}{{/}}",
            "no column at all",
            "{{! only " + "a comment" * 10 + "}}",
            " " * 600 + "{{question}}",
            "\t" * 19_000,
            "",
            "{{\n" * count,
            "}}" * count,
            None,
            ["{{question}}"],
            {"{{": "}}"},
            2**70,
        ]
    )


# Well-formed templates, and references that they cannot be rendered with.
BOMBS: Sequence[tuple[str, Any]] = (
    ("{{#references}}" + "y" * 19_000 + "{{/references}}", [1] * 100_000),
    ("{{#references}}" * 30 + "x" + "{{/references}}" * 30, [1] * 10),
    ("{{#references}}{{#.}}{{#.}}x{{/.}}{{/.}}{{/references}}", [[[1] * 60] * 60] * 60),
    ("{{#references}}{{#a}}{{#a}}{{b}}{{/a}}{{/a}}{{/references}}", [{"a": [1] * 300, "b": "y" * 1000}] * 100),
    ("{{#references}}{{question.upper}}{{/references}}", [1]),
    ("{{#references}}{{pop}}{{/references}}", [[1]]),
    ("{{#references}}{{.}}{{/references}}", [{"a": 1}]),
    ("{{references}}", [1]),
    ("{{references.a.b.c}}", {"a": {"b": 1}}),
    ("{{#references.__class__}}x{{/references.__class__}}", {"a": 1}),
    ("{{#references}}" + "{{question}}" * 1500 + "{{/references}}", [1] * 100_000),
    (
        "{{#question}}" * 62 + "{{#references}}" + "{{answer}}" * 1700 + "{{/references}}" + "{{/question}}" * 62,
        [1] * 900,
    ),
)
