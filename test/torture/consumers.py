#!/usr/bin/python3 -B
"""Independent consumers of every sink, which write down what they got, byte for byte.

    consumers.py SINK CONFIG RUNDIR     (both in JSON but for the directory; see start())

Each is a process of its own, uses a client that shares no code with the sink, and
appends to RUNDIR/consumers/SINK.jsonl, in the order of its broker:

    t               monotonic seconds of this machine
    sink, subscription
    pos             where at the broker it is.  What is read again has the position that
                    it had; what was sent again has another one
    key             as the broker tells it; null: it does not
    headers         all that is beside the body, as the broker has it
    body_base64

and for a file that was cut back: {"t", "sink", "cut": POSITION}, from where on what
was read before is not there.

A consumer outlives its broker: it connects again, and reads on where it was.  Where it
is started anew, it reads everything anew.
"""

import base64
import json
import os
import re
import select
import subprocess
import sys
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
POLL = 0.2                      # seconds between looks at a broker that has nothing new
BLOCK = 1000                    # messages that are asked for at a time


class ConsumerError(Exception):
    """A consumer did not do what it was asked to."""


class Log:
    """The file that a consumer appends to."""

    def __init__(self, sink, config, rundir):
        directory = os.path.join(rundir, "consumers")
        os.makedirs(directory, exist_ok=True)
        self.sink = sink
        self.subscription = config["subscription"]
        # one write() a line: what is written is there, however this process ends
        self.fd = os.open(os.path.join(directory, f"{sink}.jsonl"),
                          os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self.lock = threading.Lock()

    def write(self, **line):
        """One line."""
        data = json.dumps({"t": time.monotonic(), "sink": self.sink, **line}) + "\n"
        with self.lock:
            os.write(self.fd, data.encode())

    def message(self, pos, key, headers, body):
        """One message."""
        self.write(subscription=self.subscription, pos=pos, key=key, headers=headers,
                   body_base64=base64.b64encode(body).decode())


class Reader:
    """What the consumers have in common; a subclass is one sink's."""

    errors = (OSError,)         # what a broker that is away raises

    def __init__(self, config, log):
        self.config = config
        self.log = log

    def prepare(self):
        """Once, before anything is read; returns what the parent is to know, or None."""

    def read(self):
        """Read what there is; False: that was all of it."""
        raise NotImplementedError

    def finish(self):
        """Read to the end that there is now.  May raise one of the errors."""
        while self.read():
            pass

    def disconnect(self):
        """After an error."""


class FileReader(Reader):
    """The sink file: a file, and the rotated ones of it, by inode."""

    def __init__(self, config, log):
        super().__init__(config, log)
        self.directory, self.name = os.path.split(config["path"])
        self.at = {}            # inode -> offset
        self.ours = re.compile(re.escape(self.name) + r"(\.[0-9T.]+\+[0-9]+)?")

    def names(self):
        """The rotated files in their order, then the one that is written to."""
        found = [n for n in os.listdir(self.directory) if self.ours.fullmatch(n)]
        return sorted(found, key=lambda name: (name == self.name, name))

    def read(self):
        for name in self.names():
            try:
                with open(os.path.join(self.directory, name), "rb") as file:
                    self.read_file(file)
            except FileNotFoundError:
                return True     # it has just been rotated
        return False

    def read_file(self, file):
        """The lines of a file that are new and have an end."""
        status = os.fstat(file.fileno())
        at = self.at.get(status.st_ino, 0)
        if status.st_size < at:
            self.log.write(cut={"inode": status.st_ino, "offset": status.st_size})
            at = status.st_size
        file.seek(at)
        for line in file:
            if not line.endswith(b"\n"):
                break
            self.log.message({"inode": status.st_ino, "offset": at}, None, {}, line)
            at += len(line)
        self.at[status.st_ino] = at

    def finish(self):
        """Everything anew: what was cut back and written anew may be as long as before."""
        for inode in self.at:
            self.log.write(cut={"inode": inode, "offset": 0})
        self.at = {}
        super().finish()


class KafkaReader(Reader):
    """The sink kafka: all that is committed in a topic, by kcat."""

    def __init__(self, config, log):
        super().__init__(config, log)
        self.child = None
        self.buffer = b""
        self.newest = {}        # partition -> offset

    def command(self, *more):
        """kcat, reading from the beginning."""
        return ["kcat", "-C", "-q", "-J", "-u", "-b", self.config["bootstrap"],
                "-t", self.config["topic"], "-o", "beginning",
                "-X", "isolation.level=read_committed", "-X", "reconnect.backoff.max.ms=1000",
                "-X", "topic.metadata.refresh.interval.ms=2000", *more]

    def read(self):
        if self.child is None:
            self.child = subprocess.Popen(self.command(), stdin=subprocess.DEVNULL,
                                          stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
            self.buffer = b""
        if not select.select([self.child.stdout], [], [], 0)[0]:
            return False
        data = os.read(self.child.stdout.fileno(), 1 << 20)
        if not data:
            self.disconnect()
            raise OSError("kcat ended")
        *lines, self.buffer = (self.buffer + data).split(b"\n")
        for line in lines:
            self.record(line)
        return True

    def record(self, line):
        """A record as kcat writes it."""
        record = json.loads(line)
        partition, offset = record["partition"], record["offset"]
        if offset <= self.newest.get(partition, -1):
            return              # read before
        self.newest[partition] = offset
        names = record.get("headers") or []
        headers = dict(zip(names[::2], names[1::2]))
        if len(headers) * 2 != len(names):
            headers["(repeated)"] = "yes"
        self.log.message({"topic": record["topic"], "partition": partition, "offset": offset},
                         record["key"], headers, (record["payload"] or "").encode())

    def finish(self):
        """One more kcat, which reads everything and ends there."""
        done = subprocess.run(self.command("-e"), stdin=subprocess.DEVNULL, timeout=120,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False)
        if done.returncode or b"down" in done.stderr:
            raise OSError(f"kcat: {done.stderr.decode()}")
        self.disconnect()       # the other one goes on from what this one found
        for line in done.stdout.splitlines():
            self.record(line)

    def disconnect(self):
        if self.child is not None:
            self.child.kill()
            self.child.wait()
            self.child = None


class RabbitReader(Reader):
    """The sink rabbitmq: a queue that is a stream, so that messages have positions."""

    def __init__(self, config, log):
        import pika             # pylint: disable=import-outside-toplevel
        super().__init__(config, log)
        self.pika = pika
        self.errors = (OSError, pika.exceptions.AMQPError)
        self.channel = None
        self.newest = -1
        self.mark = None        # the message that finish() waits for
        self.count = 0

    def connect(self):
        """Connect, declare what there must be, read on."""
        host, port = "127.0.0.1", self.config["port"]
        self.channel = self.pika.BlockingConnection(self.pika.ConnectionParameters(
            host, port, heartbeat=10, blocked_connection_timeout=10, socket_timeout=5)).channel()
        rabbitmq_declare(self.channel, self.config)
        self.channel.confirm_delivery()
        self.channel.basic_qos(prefetch_count=BLOCK)
        self.channel.basic_consume(
            self.config["queue"], self.take,
            arguments={"x-stream-offset": self.newest + 1 if self.newest >= 0 else "first"})

    def take(self, channel, method, properties, body):
        """The library has a message for us."""
        headers = dict(properties.headers or {})
        offset = headers.pop("x-stream-offset")
        channel.basic_ack(method.delivery_tag)
        if offset <= self.newest:
            return
        self.newest = offset
        self.count += 1
        if method.routing_key == self.config["queue"]:
            self.mark = body    # finish()'s, of this start or of one before
            return
        for name in ("message_id", "content_type", "type", "app_id", "delivery_mode"):
            headers[f"({name})"] = getattr(properties, name)
        self.log.message({"queue": self.config["queue"], "offset": offset}, method.routing_key,
                         headers, body)

    def read(self):
        if self.channel is None:
            self.connect()
        before = self.count
        self.channel.connection.process_data_events(time_limit=0)
        return self.count > before

    def finish(self):
        """Until a message comes that is sent now."""
        if self.channel is None:
            self.connect()
        mark = os.urandom(16)
        self.channel.basic_publish("", self.config["queue"], mark)
        while self.mark != mark:
            self.channel.connection.process_data_events(time_limit=POLL)

    def disconnect(self):
        channel, self.channel = self.channel, None
        try:
            channel.connection.close()
        except Exception:       # pylint: disable=broad-except
            pass                # there was none, or it is broken


def rabbitmq_declare(channel, config):
    """The exchange and the queue of a run; bound where "key" says."""
    channel.exchange_declare(config["exchange"], "topic", durable=True)
    channel.queue_declare(config["queue"], durable=True,
                          arguments={"x-queue-type": "stream", "x-max-age": "1D"})
    channel.queue_bind(config["queue"], config["exchange"], config.get("key", "#"))


class RedisReader(Reader):
    """The sink redis: streams, by XRANGE."""

    def __init__(self, config, log):
        import redis            # pylint: disable=import-outside-toplevel
        super().__init__(config, log)
        self.errors = (OSError, redis.RedisError)
        self.client = redis.Redis("127.0.0.1", config["port"], socket_timeout=10)
        self.newest = {stream: "0-0" for stream in config["streams"]}

    def read(self):
        more = False
        for stream, newest in self.newest.items():
            entries = self.client.xrange(stream, f"({newest}", count=BLOCK)
            for entry, fields in entries:
                self.entry(stream, entry.decode(), {n.decode(): v for n, v in fields.items()})
            more |= len(entries) == BLOCK
        return more

    def entry(self, stream, entry, fields):
        """One entry."""
        body = fields.pop("data", b"")
        headers = {name: value.decode() for name, value in fields.items()}
        self.log.message({"stream": stream, "id": entry}, headers.get("subject"), headers, body)
        self.newest[stream] = entry

    def finish(self):
        self.client.ping()
        super().finish()


class NatsReader(Reader):
    """The sink nats: a stream, message by message."""

    def __init__(self, config, log):
        sys.path.insert(0, os.path.join(HERE, "..", "lib"))
        import nats_client      # pylint: disable=import-outside-toplevel
        super().__init__(config, log)
        self.nats = nats_client
        self.errors = (OSError, RuntimeError)
        self.connection = None
        self.newest = 0

    def connect(self):
        """Connect; the stream is made where it is not there."""
        self.connection = self.nats.Connection(self.config["port"])
        answer = self.ask(f"$JS.API.STREAM.CREATE.{self.config['stream']}", {
            "name": self.config["stream"], "subjects": self.config["subjects"],
            "storage": "file", "retention": "limits", "discard": "new", "num_replicas": 1,
            "duplicate_window": int(self.config.get("window", 3600) * 1e9)})
        if "error" in answer:
            raise RuntimeError(answer["error"]["description"])

    def ask(self, subject, body):
        """A request and its answer."""
        self.connection.ask(subject, body)
        return self.connection.answer()

    def read(self):
        if self.connection is None:
            self.connect()
        stream = self.config["stream"]
        state = self.ask(f"$JS.API.STREAM.INFO.{stream}", {})["state"]
        wanted = range(max(self.newest + 1, state["first_seq"]),
                       min(state["last_seq"], self.newest + BLOCK) + 1)
        for number in wanted:
            self.connection.ask(f"$JS.API.STREAM.MSG.GET.{stream}", {"seq": number})
        answers = [self.connection.answer() for _ in wanted]
        for answer in answers:
            self.message(self.nats.decode(answer["message"]))
        return state["last_seq"] > self.newest

    def message(self, message):
        """One message."""
        self.newest = message["seq"]
        self.log.message({"stream": self.config["stream"], "seq": message["seq"]},
                         message["subject"], message["headers"], message["body"].encode())

    def disconnect(self):
        if self.connection is not None:
            self.connection.socket.close()
        self.connection = None


class HttpReader(Reader):
    """The sink http: there is no broker, this is the receiver."""

    def prepare(self):
        import http_sink        # pylint: disable=import-outside-toplevel
        return http_sink.serve(self.config, self.log)

    def read(self):
        return False


READERS = {"file": FileReader, "http": HttpReader, "kafka": KafkaReader,
           "rabbitmq": RabbitReader, "redis": RedisReader, "nats": NatsReader}


def try_to(reader, step):
    """Do something with a broker; its answer, None where the broker is away."""
    try:
        return step()
    except reader.errors as error:
        print(f"away: {error}", file=sys.stderr, flush=True)
        reader.disconnect()
        return None


def finish(reader):
    """Read to the end, whatever is in the way; whoever asked for it has a time limit."""
    while try_to(reader, lambda: reader.finish() or True) is None:
        time.sleep(POLL)


def consume(reader):
    """Read, until standard input ends."""
    while True:
        more = try_to(reader, reader.read)
        if not select.select([sys.stdin], [], [], 0 if more else POLL)[0]:
            continue
        command = sys.stdin.readline().strip()
        if command != "drain":
            return
        finish(reader)
        print("drained", flush=True)


class Consumer:
    """A consumer as whoever started it has it."""

    def __init__(self, sink, config, rundir):
        self.sink = sink
        self.arguments = [sys.executable, "-B", os.path.join(HERE, "consumers.py"), sink,
                          json.dumps(config), rundir]
        self.errors = os.path.join(rundir, f"consumer-{sink}.log")
        self.process = None
        self.start()

    def start(self):
        """Start it, and wait until it is ready."""
        with open(self.errors, "ab") as errors:
            self.process = subprocess.Popen(
                self.arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
                text=True, start_new_session=True)
        self.ready = self._answer(60)

    @property
    def pid(self):
        """Its process."""
        return self.process.pid

    @property
    def port(self):
        """Of http: where it listens."""
        return int(self.ready.split()[1])

    def _answer(self, timeout):
        """The next line that it says; a whole one comes at once."""
        if not select.select([self.process.stdout], [], [], timeout)[0]:
            raise ConsumerError(f"the consumer of {self.sink} said nothing for {timeout} s; "
                                f"see {self.errors}")
        line = self.process.stdout.readline().strip()
        if not line:
            raise ConsumerError(f"the consumer of {self.sink} ended; see {self.errors}")
        return line

    def drain(self, timeout=120.0):
        """Have it read all that its broker has now."""
        self.process.stdin.write("drain\n")
        self.process.stdin.flush()
        if self._answer(timeout) != "drained":
            raise ConsumerError(f"the consumer of {self.sink} did not drain")

    def kill(self):
        """Kill it with -9, as a fault; start() begins another one."""
        self.process.kill()
        self._reap()

    def stop(self):
        """End it; what it wrote stays."""
        self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
        self._reap()

    def _reap(self):
        self.process.wait()
        self.process.stdout.close()
        try:
            self.process.stdin.close()
        except OSError:
            pass


def start(sink, config, rundir):
    """Start the consumer of a sink.  The configuration of all: subscription.  Besides

    file        path: of the file
    http        port (0: any; see Consumer.port); refuse: the share of events whose first
                attempt is answered by 503, and not written down
    kafka       bootstrap, topic
    rabbitmq    port, exchange, queue; key: what the queue is bound for (#)
    redis       port, streams: a list
    nats        port, stream, subjects: a list; window: for which it knows ids again, in s
    """
    return Consumer(sink, config, rundir)


def main():
    """The process of a consumer."""
    sink, config, rundir = sys.argv[1:]
    config = json.loads(config)
    reader = READERS[sink](config, Log(sink, config, rundir))
    told = reader.prepare()
    print("ready" if told is None else f"ready {told}", flush=True)
    consume(reader)
    reader.disconnect()


if __name__ == "__main__":
    main()
