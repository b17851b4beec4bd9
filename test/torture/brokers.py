"""The receivers of the torture run: real brokers on ports of the loopback interface.

Each is a child in a process group of its own, can be killed, stopped and started again on
the same port and data, and is got to by the server through a proxy, by consumers
directly.  What is not installed is left out, by name.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

from proxy import Proxy

HERE = os.path.dirname(os.path.abspath(__file__))
LIBRARY = os.path.join(HERE, "..", "lib")
sys.path.append(LIBRARY)

from local_broker import RabbitNode, accepts, free_port, kafka_answers, kafka_conf, kafka_format, kafka_program, spawn

START_DEADLINE = 120.0
TOPIC = "torture"
WINDOW = 12 * 3600             # seconds for which NATS remembers ids: longer than a run


class BrokerError(Exception):
    """A broker did not do what it was asked to."""


class Broker:
    """A broker: its process, its proxy, the SQL of its server, what consumers need."""

    sink = None                 # the wrapper is order_idempotency_SINK
    exactly_once = True

    def __init__(self, directory):
        self.directory = os.path.join(directory, self.sink)
        os.makedirs(self.directory, exist_ok=True)
        self.port = free_port()
        self.proxy = Proxy(self.port)
        self.process = None

    @classmethod
    def missing(cls):
        """What is not installed, or None."""
        return None

    def command(self):
        """The command that runs it."""
        raise NotImplementedError

    def environment(self):
        """What its environment has besides."""
        return {}

    def ready(self):
        """Does it answer?"""
        return accepts(self.port)

    def prepare(self):
        """What there has to be before its first event, once, when it is up."""

    def options(self):
        """Options of the foreign server."""
        raise NotImplementedError

    def mapping(self):
        """Options of the user mapping, or None."""
        return None

    def consumer(self):
        """What its consumer is to know; see consumers.py."""
        return {"port": self.port}

    def launch(self):
        """Start the process."""
        self.process = spawn(self.command(), self.directory, os.path.join(self.directory, f"{self.sink}.log"),
                             self.environment())

    def start(self):
        """Start it, and wait until it answers."""
        self.launch()
        self.wait()

    def wait(self):
        """Until it answers."""
        deadline = time.monotonic() + START_DEADLINE
        while not self.ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise BrokerError(f"{self.sink} did not come up; see {self.directory}")
            time.sleep(0.1)

    def signal(self, number):
        """A signal to it and its children."""
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, number)

    def kill(self):
        """Kill it with -9."""
        self.signal(signal.SIGKILL)
        if self.process is not None:
            self.process.wait()

    def end(self):
        """Have it end by itself."""
        self.signal(signal.SIGTERM)
        try:
            self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            pass
        self.kill_rest()

    def kill_rest(self):
        """What a broker's end may have left of its group."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()

    def stop(self):
        """The end of it all."""
        self.kill()
        self.proxy.stop()


class Kafka(Broker):
    """Apache Kafka, its own controller (KRaft)."""

    sink = "kafka"
    home = os.environ.get("OI_KAFKA", "")
    CONF = """auto.create.topics.enable=false
num.network.threads=2
num.io.threads=4
log.cleaner.dedupe.buffer.size=4194304
"""

    def __init__(self, directory):
        super().__init__(directory)
        self.proxied = free_port()
        self.proxy.stop()
        self.proxy = Proxy(self.proxied)
        with open(self._file(), "w", encoding="ascii") as conf:
            conf.write(kafka_conf(self.directory, {"PLAINTEXT": (self.port, self.port),
                                                   "PROXIED": (self.proxied, self.proxy.port)}, self.CONF))
        self._run(kafka_format(self.home, self._file()))

    @classmethod
    def missing(cls):
        if not os.path.exists(os.path.join(cls.home, ".built-from")):
            return "Apache Kafka"
        return None if shutil.which("kcat") else "kcat"

    def _file(self):
        return os.path.join(self.directory, "server.properties")

    def _program(self, heap, *words):
        return kafka_program(self.home, heap, *words,
                             options=("-Xms32m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"))

    def _run(self, command):
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, check=False)
        if done.returncode:
            raise BrokerError(f"{' '.join(command)}: {done.stdout}")

    def command(self):
        return self._program(320, "kafka.Kafka", self._file())

    def ready(self):
        return kafka_answers(self.port)

    def prepare(self):
        self._run(self._program(128, "org.apache.kafka.tools.TopicCommand", "--bootstrap-server",
                                f"127.0.0.1:{self.port}", "--create", "--topic", TOPIC, "--partitions", "4"))

    def consumer(self):
        return {"bootstrap": f"127.0.0.1:{self.port}", "topic": TOPIC}

    def options(self):
        return {"bootstrap.servers": f"127.0.0.1:{self.proxy.port}", "socket.timeout.ms": "3000",
                "transaction.timeout.ms": "10000"}


class RabbitMQ(Broker):
    """RabbitMQ; its consumer makes exchange and queue."""

    sink = "rabbitmq"
    exactly_once = False

    def __init__(self, directory):
        super().__init__(directory)
        self.node = RabbitNode(self.directory, self.port, arguments="+S 1:1 +A 4")

    @classmethod
    def missing(cls):
        if not os.access(RabbitNode.PROGRAM, os.X_OK):
            return "rabbitmq-server"
        done = subprocess.run([sys.executable, "-c", "import pika"], stderr=subprocess.DEVNULL,
                              check=False)
        return "python3-pika" if done.returncode else None

    def command(self):
        return [RabbitNode.PROGRAM]

    def environment(self):
        return self.node.environment()

    def ready(self):
        return accepts(self.port) and self._client("declare", {}) == ""

    def _client(self, command, argument):
        """What the tests' client says; None where it fails."""
        done = subprocess.run(
            [sys.executable, "-B", os.path.join(LIBRARY, "amqp_client.py"),
             json.dumps({"port": self.port}), command, json.dumps(argument)],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            text=True, check=False)
        return None if done.returncode else done.stdout

    def bind(self, bound):
        """Have the queue get the messages, or not."""
        what = "bindings" if bound else "unbindings"
        if self._client("declare", {what: [[f"{TOPIC}-all", TOPIC, "#"]]}) is None:
            raise BrokerError("rabbitmq did not change its bindings")

    def consumer(self):
        return {"port": self.port, "exchange": TOPIC, "queue": f"{TOPIC}-all"}

    def options(self):
        return {"host": "127.0.0.1", "port": str(self.proxy.port), "exchange": TOPIC,
                "heartbeat": "2", "timeout": "3000"}

    def stop(self):
        super().stop()
        self.node.stop()


class Redis(Broker):
    """Redis, which has on disk what it acknowledged."""

    sink = "redis"

    @classmethod
    def missing(cls):
        return None if shutil.which("redis-server") else "redis-server"

    def command(self):
        return ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", "",
                "--appendonly", "yes", "--appendfsync", "always", "--dir", self.directory]

    def ready(self):
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as probe:
                probe.sendall(b"PING\r\n")
                return probe.recv(64).startswith(b"+PONG")
        except OSError:
            return False

    def consumer(self):
        return {"port": self.port, "streams": [TOPIC]}

    def options(self):
        return {"host": "127.0.0.1", "port": str(self.proxy.port), "timeout": "2000"}


class Nats(Broker):
    """NATS with JetStream; its consumer makes the stream."""

    sink = "nats"
    stream = "TORTURE"

    @classmethod
    def missing(cls):
        return None if cls.program() else "nats-server"

    @staticmethod
    def program():
        """The server's program, None without one."""
        return shutil.which("nats-server", path=os.environ.get("PATH", "") + ":/usr/sbin")

    def command(self):
        file = os.path.join(self.directory, "nats.conf")
        with open(file, "w", encoding="ascii") as conf:
            conf.write(f'listen: "127.0.0.1:{self.port}"\n'
                       f'jetstream {{ store_dir: "{self.directory}/store", '
                       "max_file_store: 4GB, max_memory_store: 256MB }\n")
        return [self.program(), "-c", file]

    def _request(self, subject, body):
        """The answer to a request, None without one."""
        done = subprocess.run(
            [sys.executable, "-B", os.path.join(LIBRARY, "nats_client.py"),
             json.dumps({"port": self.port}), "request",
             json.dumps({"subject": subject, "body": body})], stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False)
        return None if done.returncode else json.loads(done.stdout)

    def ready(self):
        return accepts(self.port) and self._request("$JS.API.INFO", {}) is not None

    def consumer(self):
        return {"port": self.port, "stream": self.stream, "subjects": [TOPIC],
                "window": WINDOW}

    def options(self):
        return {"url": f"nats://127.0.0.1:{self.proxy.port}", "stream": self.stream,
                "timeout": "2000"}


class Http(Broker):
    """A web server: the consumer itself, which listens on the port."""

    sink = "http"
    exactly_once = False
    receiver = None             # the consumer, once it is started

    def launch(self):
        pass

    def start(self):
        self.receiver.start()

    def signal(self, number):
        os.killpg(self.receiver.pid, number)

    def kill(self):
        if self.receiver is not None:
            self.receiver.kill()

    end = kill

    def stop(self):
        self.proxy.stop()

    def consumer(self):
        return {"port": self.port, "refuse": 0.02}

    def options(self):
        return {"url": f"http://127.0.0.1:{self.proxy.port}", "allow_addresses": "127.0.0.0/8",
                "timeout": "2000"}


KINDS = {broker.sink: broker for broker in (Http, Kafka, RabbitMQ, Redis, Nats)}


def make(names, directory):
    """The brokers of those names, up; and the names of those left out, with the reason."""
    made, left_out = [], {}
    for name in names:
        missing = KINDS[name].missing()
        if missing:
            left_out[name] = f"{missing} is not installed"
            continue
        made.append(KINDS[name](directory))
    try:
        for broker in made:
            broker.launch()
        for broker in made:
            if broker.process is not None:
                broker.wait()
            broker.prepare()
    except BaseException:
        for broker in made:
            broker.stop()
        raise
    return made, left_out
