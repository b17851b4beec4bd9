"""A storm of claims of the same keys, while generations of claims come and go.

In a database of its own, where keys are kept for milliseconds, so that there are some
fifty rotations a second.  All sessions claim the key of the moment, which is another one every
few milliseconds.  What was won is written down by the very transaction that won it.

One line for each storm in RUNDIR/storms.jsonl: how many claims, how many keys, and which of
these were won twice within the time for which a claim is kept.
"""

import json
import os
import threading
import time

import psycopg

DATABASE = "storm"
SESSIONS = 8
RETENTION_MS = 20
STEP_MS = 4                     # for which a key is the one of the moment

PREPARE = """
CREATE EXTENSION IF NOT EXISTS order_idempotency;
CREATE TABLE IF NOT EXISTS won (storm text, key text, began timestamptz, ended timestamptz)"""

CLAIM = """
DO $storm$
DECLARE
	began timestamptz;
	claims int := 0;
	told text;
	until timestamptz := clock_timestamp() + interval '{seconds} s';
BEGIN
	LOOP
		began := clock_timestamp();
		EXIT WHEN began > until;
		SELECT outcome INTO told FROM order_idempotency.claim_key(
			'{storm}/' || floor(extract(epoch FROM began) * 1000 / {step}), scope => 'storm');
		claims := claims + 1;
		IF told = 'claimed' THEN
			INSERT INTO won VALUES ('{storm}', floor(extract(epoch FROM began) * 1000 / {step}),
									began, clock_timestamp());
		END IF;
		COMMIT;
	END LOOP;
	INSERT INTO won (storm, key) VALUES ('{storm} claims', claims);
END
$storm$"""

# won again before the first claim can have been forgotten
DOUBLES = """
SELECT DISTINCT a.key FROM won a JOIN won b ON a.storm = b.storm AND a.key = b.key AND a.ctid < b.ctid
WHERE a.storm = %s AND greatest(a.ended, b.ended) - least(a.began, b.began) < %s * interval '1 ms'"""

COUNTS = """
SELECT (SELECT count(DISTINCT key) FROM won WHERE storm = %s),
       (SELECT COALESCE(sum(key::int), 0) FROM won WHERE storm = %s)"""


def prepare(node):
    """The database, made where it is not there."""
    with node.connect("postgres") as connection:
        if connection.execute("SELECT FROM pg_database WHERE datname = %s",
                              (DATABASE,)).fetchone() is None:
            connection.execute(f"CREATE DATABASE {DATABASE}")
    with node.connect(DATABASE) as connection:
        connection.execute(PREPARE)


def claim(node, storm, seconds):
    """One session, to its end or that of the server."""
    try:
        with node.connect(DATABASE) as connection:
            connection.execute(CLAIM.format(storm=storm, seconds=seconds, step=STEP_MS))
    except psycopg.Error:
        pass                    # what it won is written down


def rotate(node, over):
    """Have generations begin and go, as fast as they can; returns how many began."""
    began = 0
    with node.connect(DATABASE) as connection:
        while not over.is_set():
            row = connection.execute(
                f"CALL order_idempotency.rotate_keys('{RETENTION_MS} ms')").fetchone()
            began += bool(row[0])
    return began


def storm(node, rundir, seconds):
    """One storm; what it found, in words."""
    prepare(node)
    name = str(time.monotonic_ns())
    over = threading.Event()
    sessions = [threading.Thread(target=claim, args=(node, name, seconds))
                for _ in range(SESSIONS)]
    for session in sessions:
        session.start()
    threading.Timer(seconds, over.set).start()
    rotations = rotate(node, over)
    for session in sessions:
        session.join()
    with node.connect(DATABASE) as connection:
        doubles = [key for key, in connection.execute(DOUBLES, (name, RETENTION_MS))]
        keys, claims = connection.execute(COUNTS, (name, f"{name} claims")).fetchone()
    with open(os.path.join(rundir, "storms.jsonl"), "a", encoding="utf-8") as log:
        log.write(json.dumps({"t": time.monotonic(), "storm": name, "claims": int(claims),
                              "keys": keys, "rotations": rotations, "doubles": doubles}) + "\n")
    return f"{claims} claims of {keys} keys, {rotations} rotations"
