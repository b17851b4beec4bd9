"""Brokers for the benchmark of the sinks: each a child of ours, on a port of the loopback
interface, with its data in a directory of ours.  The tests start them in the same way
(test/lib), on a smaller scale."""

import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

from measure import say
from server import ServerError, run

LIBRARY = Path(__file__).resolve().parent.parent / "test" / "lib"
sys.path.append(str(LIBRARY))

from local_broker import RabbitNode, accepts, free_port, kafka_answers, kafka_conf, kafka_format, kafka_program, spawn

TICKS = os.sysconf("SC_CLK_TCK")
DEADLINE = 120                  # seconds to start or to end in
STREAM = "bench"


class Missing(Exception):
    """A broker cannot be had here."""


def program(name):
    """Where a program is."""
    found = shutil.which(name, path=os.environ["PATH"] + ":/usr/sbin:/usr/local/bin")
    if found is None:
        raise Missing(f"there is no {name}")
    return found


def cpu_of_session(session):
    """Seconds of CPU of all processes of a session that are there."""
    ticks = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text(encoding="utf-8").rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[3]) == session:
            ticks += int(fields[11]) + int(fields[12])
    return ticks / TICKS


class Broker:
    """A process in a session of its own, which is killed with it."""

    name = ""

    def __init__(self, workdir):
        self.dir = Path(workdir) / self.name
        self.port = free_port()
        self.process = None

    def command(self):
        """The command, as a list; may prepare files in self.dir."""
        raise NotImplementedError

    def environment(self):
        """What its environment has besides."""
        return {}

    def is_ready(self):
        """Does it answer?"""
        return accepts(self.port)

    def version(self):
        """Its name and version."""
        raise NotImplementedError

    def fresh(self):
        """Before each run: forget what was published."""

    def start(self):
        """Start on an empty directory, and wait until it answers."""
        shutil.rmtree(self.dir, ignore_errors=True)
        self.dir.mkdir(parents=True)
        command = self.command()
        say(f"starting {self.name}")
        self.process = spawn(command, self.dir, self.dir / "log", self.environment())
        self.wait("answer", self.is_ready)

    def wait(self, what, condition):
        """Wait until something is so."""
        deadline = time.monotonic() + DEADLINE
        while not condition():
            if self.process.poll() is not None:
                raise ServerError(f"{self.name} ended; see {self.dir}/log")
            if time.monotonic() > deadline:
                raise ServerError(f"{self.name} does not {what}; see {self.dir}/log")
            time.sleep(0.1)

    def cpu(self):
        """Seconds of CPU that it has taken."""
        return cpu_of_session(self.process.pid)

    def stop(self):
        """End it, if it runs, and remove its data."""
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None
            shutil.rmtree(self.dir, ignore_errors=True)


class Kafka(Broker):
    """Apache Kafka, one broker which is its own controller; build/kafka has it."""

    name = "kafka"

    CONF = """auto.create.topics.enable=true
log.segment.bytes=67108864
log.retention.bytes=134217728
log.retention.check.interval.ms=2000
file.delete.delay.ms=1000
"""

    def __init__(self, workdir):
        super().__init__(workdir)
        self.home = Path(os.environ.get("OI_KAFKA", "/nowhere"))

    def command(self):
        if not (self.home / ".built-from").exists():
            raise Missing("Apache Kafka could not be fetched (scripts/setup-kafka)")
        program("java")
        conf = self.dir / "server.properties"
        conf.write_text(kafka_conf(self.dir, {"PLAINTEXT": (self.port, self.port)}, self.CONF), encoding="utf-8")
        run(kafka_format(self.home, conf))
        return kafka_program(self.home, 1024, "kafka.Kafka", conf)

    def is_ready(self):
        return kafka_answers(self.port, program("kcat"))

    def version(self):
        jar = next((self.home / "lib").glob("kafka-clients-*.jar"))
        return f"Apache Kafka {jar.stem.rpartition('-')[2]}"


class RabbitMQ(Broker):
    """RabbitMQ with a quorum queue."""

    name = "rabbitmq"
    node = None

    def environment(self):
        return self.node.environment()

    def command(self):
        if not Path(RabbitNode.PROGRAM).exists():
            raise Missing("there is no rabbitmq-server")
        self.node = RabbitNode(self.dir, self.port, program("epmd"))
        return [RabbitNode.PROGRAM]

    def is_ready(self):
        log = (self.dir / "log").read_text(encoding="utf-8", errors="replace")
        return "Server startup complete" in log and accepts(self.port)

    def version(self):
        return f"RabbitMQ {run(['dpkg-query', '-W', '-f', '${Version}', 'rabbitmq-server']).partition('-')[0]}"

    def fresh(self):
        run(["python3", LIBRARY / "amqp_client.py", json.dumps({"port": self.port}), "declare",
             json.dumps({"delete_queues": [STREAM], "queues": [[STREAM, {"x-queue-type": "quorum"}]]})])

    def stop(self):
        super().stop()
        if self.node is not None:
            self.node.stop()
            self.node = None


class Redis(Broker):
    """Redis with an append-only file, flushed every second."""

    name = "redis"

    def command(self):
        return [program("redis-server"), "--port", self.port, "--bind", "127.0.0.1", "--save", "", "--appendonly",
                "yes", "--appendfsync", "everysec", "--auto-aof-rewrite-percentage", "0"]

    def ask(self, *words):
        """What it answers."""
        return run(["redis-cli", "-p", self.port, *words])

    def is_ready(self):
        return accepts(self.port) and self.ask("PING").strip() == "PONG"

    def version(self):
        return f"Redis {self.ask('INFO', 'server').split('redis_version:')[1].split()[0]}"

    def fresh(self):
        self.ask("FLUSHALL")
        self.ask("BGREWRITEAOF")
        self.wait("rewrite its file", lambda: "aof_rewrite_in_progress:0" in self.ask("INFO", "persistence"))


class Nats(Broker):
    """A NATS server with JetStream, and a stream that is on disk."""

    name = "nats"

    def command(self):
        (self.dir / "nats.conf").write_text(
            f'listen: "127.0.0.1:{self.port}"\n'
            f'jetstream {{ store_dir: "{self.dir}/store", max_file_store: 8GB }}\n', encoding="utf-8")
        return [program("nats-server"), "-c", self.dir / "nats.conf"]

    def request(self, subject, body):
        """A request to the server."""
        return json.loads(run(["python3", LIBRARY / "nats_client.py", json.dumps({"port": self.port}), "request",
                               json.dumps({"subject": subject, "body": body})]))

    def is_ready(self):
        if not accepts(self.port):
            return False
        try:
            return "error" not in self.request("$JS.API.INFO", {})
        except ServerError:
            return False

    def version(self):
        return f"NATS {run([program('nats-server'), '--version']).split()[-1]}"

    def fresh(self):
        self.request(f"$JS.API.STREAM.DELETE.{STREAM}", {})
        made = self.request(f"$JS.API.STREAM.CREATE.{STREAM}", {"name": STREAM, "subjects": [STREAM]})
        if "error" in made:
            raise ServerError(f"no stream: {made['error']}")


class Receiver(Broker):
    """A receiver of HTTP requests."""

    name = "receiver"

    def command(self):
        return [self.dir.parent.parent / "http_receiver", self.port]

    def version(self):
        return "a receiver in C that does nothing"


class Files(Broker):
    """No broker: a directory."""

    name = "files"

    def start(self):
        shutil.rmtree(self.dir, ignore_errors=True)
        self.dir.mkdir(parents=True)

    def version(self):
        return "a directory"

    def cpu(self):
        return 0.0

    def fresh(self):
        for path in self.dir.iterdir():
            path.unlink()

    def stop(self):
        shutil.rmtree(self.dir, ignore_errors=True)
