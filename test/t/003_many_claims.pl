# Promise 1 in bulk: ten thousand claims in one transaction work with the
# server's default settings, hold a handful of locks, and do not stop others
# from claiming.  So do ten thousand savepoints with a claim in each.
#
# Bugs that this catches: a lock in shared memory for each key (out of shared
# memory); keeping the gate's lock to the end of the transaction; memory that
# grows with the calls of one statement.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use OrderIdempotency::Node;
use OrderIdempotency::Sessions;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_node('many_claims');
sql_is($node, 'SHOW max_locks_per_transaction', '64', 'default settings');

my $pool = OrderIdempotency::Sessions->new($node, 2,
	setup => 'SET order_idempotency.in_flight_wait = 0;');

# How many locks the first session holds, by kind, and whether the gate is
# among them in a mode that a rotation would wait for.
sub locks_are_few
{
	my ($what) = @_;
	my $pid = $pool->pid(0);

	sql_is($node, <<~"SQL", 't', "$what: few locks are held");
	SELECT count(*) < 40 FROM pg_locks WHERE pid = $pid
	SQL
	sql_is($node, <<~"SQL", '0', "$what: the gate is not held");
	SELECT count(*) FROM pg_locks
	WHERE pid = $pid AND relation = 'order_idempotency.generations'::regclass
	  AND mode <> 'AccessShareLock'
	SQL
	return;
}

# One statement.
is( $pool->run(0, <<~'SQL'),
	BEGIN;
	SELECT outcome, count(*)
	FROM generate_series(1, 10000) i, order_idempotency.claim_key('one-' || i, to_jsonb(i))
	GROUP BY outcome;
	SQL
	'claimed|10000', 'ten thousand claims in one statement');
locks_are_few('in one statement');
is( $pool->run(1, <<~'SQL'),
	SELECT outcome FROM order_idempotency.claim_key('one-5000');
	SELECT outcome FROM order_idempotency.claim_key('other');
	SQL
	"in_progress\nclaimed",
	'another session is stopped at these keys, and only there');
is( $pool->run(0, <<~'SQL'),
	SELECT outcome, count(*)
	FROM generate_series(1, 10000) i, order_idempotency.claim_key('one-' || i, to_jsonb(i))
	GROUP BY outcome;
	COMMIT;
	SQL
	'replayed|10000', 'all of them again, in the same transaction');
is( $pool->run(1, <<~'SQL'),
	SELECT outcome, count(*)
	FROM generate_series(1, 10000) i, order_idempotency.claim_key('one-' || i, to_jsonb(i))
	GROUP BY outcome;
	SQL
	'replayed|10000', 'and after the commit, from another session');

# A loop, with completions.
is( $pool->run(0, <<~'SQL'),
	BEGIN;
	DO $$
	BEGIN
		FOR i IN 1..10000 LOOP
			PERFORM order_idempotency.claim_key('loop-' || i, scope => 'loop');
			PERFORM order_idempotency.complete_key('loop-' || i, to_jsonb(i), 'loop');
		END LOOP;
	END $$;
	SQL
	'', 'ten thousand claims in a loop, completed');
locks_are_few('in a loop');
is( $pool->run(0, <<~'SQL'),
	COMMIT;
	SELECT count(*)
	FROM generate_series(1, 10000) i,
		order_idempotency.claim_key('loop-' || i, scope => 'loop') c
	WHERE c.outcome = 'replayed' AND c.response = to_jsonb(i);
	SQL
	'10000', 'each has its response');

# A savepoint for each: subtransactions overflow what the server caches of them.
is( $pool->run(0, <<~'SQL'),
	BEGIN;
	DO $$
	BEGIN
		FOR i IN 1..10000 LOOP
			BEGIN
				PERFORM order_idempotency.claim_key('sub-' || i);
				IF i % 2 = 0 THEN
					RAISE division_by_zero;
				END IF;
			EXCEPTION WHEN division_by_zero THEN NULL;
			END;
		END LOOP;
	END $$;
	SQL
	'', 'ten thousand savepoints, every second one rolled back');
locks_are_few('in savepoints');
is( $pool->run(1, <<~'SQL'),
	SELECT i % 2, outcome, count(*)
	FROM generate_series(1, 10000, 97) i, order_idempotency.claim_key('sub-' || i)
	GROUP BY 1, 2 ORDER BY 1, 2;
	SQL
	"0|claimed|52\n1|in_progress|52",
	'those rolled back are free for others at once');
$pool->send(1, <<~'SQL');
	SET order_idempotency.in_flight_wait = -1;
	SELECT outcome FROM order_idempotency.claim_key('sub-3');
	SET order_idempotency.in_flight_wait = 0;
	SQL
$pool->wait_blocked(1);
is($pool->run(0, 'ROLLBACK; SELECT 1'), '1', 'and the rest after a rollback');
is($pool->collect(1), "claimed\n", 'which a waiter sees');
is( $pool->run(1, <<~'SQL'),
	SELECT i % 2, outcome, count(*)
	FROM generate_series(1, 10000, 97) i, order_idempotency.claim_key('sub-' || i)
	GROUP BY 1, 2 ORDER BY 1, 2;
	SQL
	"0|replayed|52\n1|claimed|52", 'as their next claimer sees');

# Orders are held to the same.
is( $pool->run(0, <<~'SQL'),
	BEGIN;
	SELECT outcome, count(*)
	FROM generate_series(1, 10000) i,
		order_idempotency.create_order('order-' || i, i, 'EUR', 'alice')
	GROUP BY outcome;
	SELECT outcome, count(*)
	FROM generate_series(1, 10000) i,
		order_idempotency.transition_order('order-' || i, 'paid')
	GROUP BY outcome;
	SQL
	"created|10000\napplied|10000",
	'ten thousand orders created and paid in one transaction');
locks_are_few('orders');
$pool->run(0, 'COMMIT;');
consistent($node, 'ten thousand orders');
$pool->quit;
done_testing();
