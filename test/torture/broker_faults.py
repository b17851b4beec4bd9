"""What goes wrong with a broker, or between it and its sink."""

import signal
import time


class Nobody(Exception):
    """There was nobody to be hit."""


class BrokerFaults:
    """A method for each kind, of the random numbers of the fault and the broker."""

    def broker_killed(self, rng, broker):
        """Killed with -9, and started again."""
        broker.kill()
        time.sleep(rng.choice((0, 0.5, 2.0)))
        broker.start()

    def broker_restarted(self, rng, broker):
        """Ended as it wants to be, and started again."""
        broker.end()
        time.sleep(rng.choice((0, 0.5)))
        broker.start()

    def broker_frozen(self, rng, broker):
        """It stands still, with its connections open."""
        seconds = rng.choice((0.5, 2.0, 4.0))
        broker.signal(signal.SIGSTOP)
        try:
            time.sleep(seconds)
        finally:
            broker.signal(signal.SIGCONT)
        return f"{seconds} s"

    def _proxied(self, rng, broker, mode):
        """The proxy does something bad for a while."""
        seconds = rng.choice((0.5, 2.0, 4.0))
        broker.proxy.tell(mode)
        try:
            time.sleep(seconds)
        finally:
            broker.proxy.tell("pass")
        return f"{mode} for {seconds} s"

    def broker_black_hole(self, rng, broker):
        """What is sent, either way, goes nowhere."""
        return self._proxied(rng, broker, "hole")

    def broker_deaf(self, rng, broker):
        """Requests arrive, answers do not."""
        return self._proxied(rng, broker, "deaf")

    def broker_stalled(self, rng, broker):
        """Nothing is read: back-pressure."""
        return self._proxied(rng, broker, "stall")

    def broker_slow(self, rng, broker):
        """A narrow line."""
        return self._proxied(rng, broker, f"slow {rng.choice((500, 5000, 50000))}")

    def broker_gone(self, rng, broker):
        """Connections are refused, and those that there were are reset."""
        broker.proxy.tell("drop")
        return self._proxied(rng, broker, "refuse")

    def broker_reset(self, _rng, broker):
        """All connections are reset."""
        broker.proxy.tell("drop")

    def broker_unbound(self, rng, broker):
        """No queue wants the messages any more, and the broker says so."""
        if broker.sink != "rabbitmq":
            raise Nobody(f"{broker.sink} has no bindings")
        seconds = rng.choice((0.5, 2.0))
        broker.bind(False)
        try:
            time.sleep(seconds)
        finally:
            broker.bind(True)
        return f"{seconds} s"

    def broker_cut(self, rng, broker):
        """The connection ends in the middle of an answer."""
        after = rng.randrange(0, 400)
        broker.proxy.tell(f"cut {after}")
        return f"after {after} bytes"
