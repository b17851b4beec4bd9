"""What consumers got, made comparable: each sink has its own way to say the same.

An event is its CloudEvents attributes and its data.  The bytes of the data are left as
they are; the attributes come as headers, fields, or members of a line, percent-encoded
where the protocol has ASCII only.
"""

import base64
import json
from dataclasses import dataclass, field
from urllib.parse import unquote

REQUIRED = ("id", "source", "specversion", "type", "subject", "time", "partitionkey",
            "sequence")
DATA = b',"data":'              # quotes within a value are escaped: the first one is it


@dataclass(frozen=True, slots=True)
class Message:
    """One message: what it says, where and when."""

    t: float
    event_id: str
    attributes: tuple           # sorted pairs, without the type of the data
    data: bytes
    where: str

    def get(self, name):
        """An attribute, None where it is not there."""
        return next((value for key, value in self.attributes if key == name), None)


@dataclass
class Received:
    """All that a sink's consumer wrote down."""

    sink: str
    messages: list = field(default_factory=list)    # in the order of the broker
    broken: list = field(default_factory=list)      # (where, what is wrong, t)
    read_again: int = 0


def prefixed(headers, prefix, decode=lambda value: value):
    """Attributes that are headers with a prefix."""
    return {name[len(prefix):]: decode(value) for name, value in headers.items()
            if name.lower().startswith(prefix.lower())}


def file_event(_headers, body):
    """A line of the sink file."""
    attributes = json.loads(body)
    attributes.pop("data", None)
    before, mark, data = body.rstrip(b"\n").partition(DATA)
    if mark and (not before.startswith(b"{") or not data.endswith(b"}")):
        raise ValueError("the data is not the last member")
    return attributes, data[:-1] if mark else b"", None


def http_event(headers, body):
    """A request of the sink http."""
    return prefixed(headers, "ce-", unquote), body, headers.get("idempotency-key")


def kafka_event(headers, body):
    """A record of the sink kafka."""
    return prefixed(headers, "ce_"), body, None


def rabbitmq_event(headers, body):
    """A message of the sink rabbitmq."""
    return prefixed(headers, "cloudEvents:"), body, headers.get("(message_id)")


def redis_event(headers, body):
    """An entry of the sink redis."""
    return dict(headers), body, None


def nats_event(headers, body):
    """A message of the sink nats."""
    return prefixed(headers, "ce-", unquote), body, headers.get("Nats-Msg-Id")


FORMS = {"file": file_event, "http": http_event, "kafka": kafka_event,
         "rabbitmq": rabbitmq_event, "redis": redis_event, "nats": nats_event}


def message_of(sink, line, where):
    """A message from a line of the log; ValueError: it is no whole event."""
    attributes, data, again = FORMS[sink](line["headers"], base64.b64decode(line["body_base64"]))
    missing = [name for name in REQUIRED if not attributes.get(name)]
    if missing:
        raise ValueError(f"no {', '.join(missing)}")
    attributes.pop("datacontenttype", None)
    if again is not None and again != attributes["id"]:
        raise ValueError(f"is {attributes['id']}, and for the protocol {again}")
    if attributes["partitionkey"] != attributes["subject"]:
        raise ValueError("the partition key is not the key")
    if sink == "kafka" and line["key"] != attributes["subject"]:
        raise ValueError("the record's key is not the event's")
    return Message(line["t"], attributes["id"], tuple(sorted(attributes.items())), data, where)


def cut(found, at):
    """A file was cut back: what was behind that place is not there."""
    for position in [p for p in found if p[0] == at["inode"] and p[1] >= at["offset"]]:
        del found[position]


def position_of(pos):
    """A position that can be told from others."""
    if "inode" in pos:
        return pos["inode"], pos["offset"]
    return json.dumps(pos, sort_keys=True)


def read_sink(sink, path):
    """What is in a consumer's log: each position once, in the order in which it was first read."""
    received = Received(sink)
    found = {}                  # position -> message, or what is wrong
    with open(path, encoding="utf-8") as file:
        for number, text in enumerate(file, 1):
            if not text.endswith("\n"):
                break           # the consumer was killed
            line = json.loads(text)
            if "cut" in line:
                cut(found, line["cut"])
                continue
            where = f"consumers/{sink}.jsonl:{number}"
            position = position_of(line["pos"])
            if position in found and sink != "file":
                received.read_again += 1
                continue
            try:
                found[position] = message_of(sink, line, where)
            except (ValueError, KeyError, TypeError) as error:
                found[position] = (where, f"no whole event: {error}", line.get("t"))
    for message in found.values():
        kind = received.messages if isinstance(message, Message) else received.broken
        kind.append(message)
    return received
