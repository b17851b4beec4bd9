"""What the benchmark and the torture run share in starting real brokers: children in sessions
of their own, on ports of the loopback interface, with their files in a directory of ours.
The tests in Perl have OrderIdempotency::Broker."""

import os
import random
import socket
import subprocess
import time


# Below those that the kernel gives to connections, net.ipv4.ip_local_port_range: one of these
# could be taken while a broker is down that is to come back on it.
PORTS = range(16384, 32768)
given = set()


def free_port():
    """A port of the loopback interface that nobody listens on now, and that was not given before."""
    while True:
        port = random.choice(PORTS)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in given:
            given.add(port)
            return port


def accepts(port):
    """Does anybody listen there?"""
    with socket.socket() as client:
        client.settimeout(1)
        return client.connect_ex(("127.0.0.1", port)) == 0


def spawn(command, directory, log, environment=None):
    """A process that works in a directory and writes to the end of a log."""
    with open(log, "ab") as out:
        return subprocess.Popen(
            [str(word) for word in command], stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=directory,
            env={**os.environ, **(environment or {})}, start_new_session=True)


def kafka_program(home, heap, *words, options=()):
    """A program of Apache Kafka's, as a command; the heap in MB."""
    return ["java", f"-Xmx{heap}m", *options, "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
            "-cp", f"{home}/lib/*", *words]


def kafka_format(home, file):
    """The command that makes the data directory of a configuration."""
    return kafka_program(home, 128, "kafka.tools.StorageTool", "format", "-t", "b3JkZXJfaWRlbXBvdA", "-c", str(file))


def kafka_conf(directory, listeners, more):
    """The configuration of a broker that is its own controller (KRaft). Listeners are names with
    the port of each and the one that clients are told; more is more lines."""
    controller = free_port()
    names = ",".join(f"{name}:PLAINTEXT" for name in ("CONTROLLER", *listeners))
    inside = ",".join(f"{name}://127.0.0.1:{port}" for name, (port, _) in listeners.items())
    outside = ",".join(f"{name}://127.0.0.1:{port}" for name, (_, port) in listeners.items())
    return f"""
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners={inside},CONTROLLER://127.0.0.1:{controller}
advertised.listeners={outside}
listener.security.protocol.map={names}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
log.dirs={directory}/data
num.partitions=4
offsets.topic.num.partitions=1
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=2
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
{more}"""


def kafka_answers(port, kcat="kcat"):
    """Does a broker say that it is there?"""
    if not accepts(port):
        return False
    done = subprocess.run(["timeout", "5", kcat, "-b", f"127.0.0.1:{port}", "-L", "-m", "3"], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    return done.returncode == 0 and " 1 brokers:" in done.stdout


class RabbitNode:
    """The files and the environment of a RabbitMQ, and the port mapper of Erlang, which it would
    else leave running."""

    PROGRAM = "/usr/lib/rabbitmq/bin/rabbitmq-server"

    def __init__(self, directory, port, epmd="epmd", arguments=""):
        self.directory, self.port, self.arguments = str(directory), port, arguments
        self.epmd, self.distribution = free_port(), free_port()
        for name, text in (("plugins", "[].\n"),
                           ("rabbitmq.conf", "disk_free_limit.absolute = 1MB\ncollect_statistics_interval = 60000\n")):
            with open(f"{directory}/{name}", "w", encoding="ascii") as out:
                out.write(text)
        self.mapper = subprocess.Popen(
            [epmd, "-port", str(self.epmd), "-address", "127.0.0.1"], start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while not accepts(self.epmd) and self.mapper.poll() is None:
            time.sleep(0.02)

    def environment(self):
        """What the broker's environment has besides."""
        d = self.directory
        return {
            "HOME": d, "RABBITMQ_NODENAME": f"oi{os.getpid()}@localhost",
            "RABBITMQ_CONF_ENV_FILE": f"{d}/none", "RABBITMQ_CONFIG_FILE": f"{d}/rabbitmq.conf",
            "RABBITMQ_MNESIA_BASE": f"{d}/mnesia", "RABBITMQ_LOG_BASE": d, "RABBITMQ_LOGS": "-",
            "RABBITMQ_NODE_PORT": str(self.port), "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_DIST_PORT": str(self.distribution),
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{d}/plugins", "RABBITMQ_PID_FILE": f"{d}/pid",
            "ERL_EPMD_PORT": str(self.epmd), "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS":
                f"{self.arguments} -kernel inet_dist_use_interface {{127,0,0,1}}".strip()}

    def stop(self):
        """End the port mapper."""
        self.mapper.kill()
        self.mapper.wait()
