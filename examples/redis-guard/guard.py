"""Redis in front of claims: Redis saves questions, PostgreSQL gives the answers.

Nothing here is decided by Redis.  An entry that is missing, an error, or an answer
that does not come in time means: ask the database.  An entry that says "done" was
written after the commit, so it only repeats what the database would say.
"""

import contextlib
import hashlib
import json

import redis
from psycopg.types.json import Jsonb

WORKING = b"working"
WORKING_FOR = 1000              # ms; a holder who crashed holds up nobody for longer
DONE_FOR = 24 * 3600 * 1000     # ms; no longer than the database keeps the claim


class Busy(Exception):
    """Somebody is at it: answer 409, and have the client come again."""


class Mismatch(Exception):
    """The key was used for another request: answer 422."""


def fingerprint(request):
    """What tells one request from another."""
    return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()


def look(cache, key, request):
    """The response, if Redis knows it; Busy, if somebody is at work on it.

    None: Redis does not know, or is not there.
    """
    try:
        if cache.set(f"guard:{key}", WORKING, nx=True, px=WORKING_FOR):
            return None
        value = cache.get(f"guard:{key}")
    except redis.RedisError:
        return None
    if value == WORKING:
        raise Busy(key)
    done = json.loads(value) if value else {}
    return done.get("response") if done.get("request") == fingerprint(request) else None


def remember(cache, key, request, response):
    """Write down what is committed."""
    done = json.dumps({"request": fingerprint(request), "response": response})
    with contextlib.suppress(redis.RedisError):
        cache.set(f"guard:{key}", done, px=DONE_FOR)


def handle(cache, connection, key, request, work):
    """Do the work of a request once, whoever calls how often; returns its response.

    cache is None where there is no Redis.
    """
    known = look(cache, key, request) if cache else None
    if known is not None:
        return known
    with connection.transaction():
        outcome, response = connection.execute(
            "SELECT outcome, response FROM order_idempotency.claim_key(%s, %s)",
            (key, Jsonb(request))).fetchone()
        if outcome == "claimed":
            response = work(connection, request)
            connection.execute("SELECT order_idempotency.complete_key(%s, %s)",
                               (key, Jsonb(response)))
    if outcome == "in_progress":
        raise Busy(key)
    if outcome == "mismatch":
        raise Mismatch(key)
    if cache:
        remember(cache, key, request, response)
    return response


def handle_as_usual(cache, connection, key, request, work):
    """What is often found instead: whoever sets the key does the work.

    Here only to be seen failing.
    """
    if not cache.set(f"guard:{key}", WORKING, nx=True, px=DONE_FOR):
        value = cache.get(f"guard:{key}")
        if not value or value == WORKING:
            raise Busy(key)
        return json.loads(value)
    with connection.transaction():
        response = work(connection, request)
    cache.set(f"guard:{key}", json.dumps(response), px=DONE_FOR)
    return response
