# Promises 4, 5 and 6 under load: sessions that commit late, roll back, and use
# savepoints, over subscriptions with batches of one, of three, and large ones,
# one of them for a single type of event.  Every committed event comes out once,
# nothing else does, and each key's in order.
#
# Bugs that this catches: a batch that takes in what was committed after its
# snapshot; reading the sequence after the snapshot, or the next xid before it;
# sorting late rows behind the rest; a lost wake-up (there is no poll to speak of).

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use OrderIdempotency::Drain;
use OrderIdempotency::Node;
use OrderIdempotency::Sessions;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_drain_node('random_load', conf => <<~'CONF');
	order_idempotency.poll_interval = '1h'
	# its alarm would wake the worker, too
	deadlock_timeout = '1h'
	CONF
my $script = $node->basedir . '/load.sql';

$node->safe_psql('postgres', <<~'SQL');
	CREATE TABLE counters (key text PRIMARY KEY, n int NOT NULL);
	INSERT INTO counters SELECT 'key-' || i, 0 FROM generate_series(0, 39) i;

	-- events of some keys, one of them after a while, maybe in a subtransaction
	CREATE FUNCTION work(keys int[], pause float) RETURNS void
	LANGUAGE plpgsql AS $$
	DECLARE
		i int;
		count int;
	BEGIN
		FOREACH i IN ARRAY (SELECT array_agg(DISTINCT k ORDER BY k) FROM unnest(keys) k) LOOP
			BEGIN
				UPDATE counters SET n = n + 1 WHERE key = 'key-' || i RETURNING n INTO count;
				PERFORM order_idempotency.emit_event(
					CASE WHEN count % 3 = 0 THEN 'load.third' ELSE 'load.other' END,
					'key-' || i, jsonb_build_object('n', count));
				PERFORM pg_sleep(pause);
				IF random() < 0.2 THEN
					RAISE EXCEPTION 'never sent' USING ERRCODE = 'OI999';
				END IF;
			EXCEPTION WHEN SQLSTATE 'OI999' THEN
				NULL;
			END;
		END LOOP;
	END
	$$;
	SQL
append_to_file($script, <<~'SQL');
	\set a random(0, 39)
	\set b random(0, 39)
	\set c random(0, 39)
	\set ms random_exponential(0, 30, 8)
	\set end random(1, 10)
	BEGIN;
	SELECT work(ARRAY[:a, :b, :c], :ms / 1000.0);
	\if :end = 1
	ROLLBACK;
	\else
	COMMIT;
	\endif
	SQL

# The end of an older batch is no reason to sleep.  The worker is held up when it
# has sent all late rows of a batch but does not know that yet, as their number
# is the limit; what is committed then wakes nobody, and no poll will find it.
subscribe($node, 'pairs', options => q('{"batch_size": 2}'));
my $pool = OrderIdempotency::Sessions->new($node, 2);
foreach my $round (1 .. 3)
{
	$pool->run(1, 'BEGIN;' . emit("late-$round", 'pair') x 2);
	$node->safe_psql('postgres', emit("first-$round", 'pair'));
	drained($node, 'pairs');
	$pool->run(0, <<~'SQL');
		BEGIN;
		SELECT FROM order_idempotency.subscription_cursors FOR UPDATE;
		SQL
	$pool->run(1, 'COMMIT;');
	$node->poll_query_until('postgres', <<~'SQL') or die;
		SELECT wait_event_type = 'Lock' FROM pg_stat_activity
		WHERE backend_type = 'order_idempotency worker'
		SQL
	$pool->run(1, emit("odd-$round", 'pair'));
	$pool->run(0, 'COMMIT;');
	drained($node, 'pairs');
}
is(events_of($node, 'pairs.jsonl'),
	join(' ', map { "first-$_ late-$_ late-$_ odd-$_" } 1 .. 3),
	'commits at the end of a batch');
$pool->quit;
$node->safe_psql('postgres', q(SELECT order_idempotency.drop_subscription('pairs')));

my $from = q("from": "start");
subscribe($node, 'ones', options => qq('{"batch_size": 1, $from}'));
subscribe($node, 'threes', options => qq('{"batch_size": 3, $from}'));
subscribe($node, 'all', options => qq('{$from}'));
subscribe($node, 'third', event_types => q(ARRAY['load.third', 'load.none']));

$node->command_ok(
	[
		'pgbench', '--no-vacuum', '--client=12', '--time=8',
		"--file=$script", 'postgres'
	],
	'load');

foreach my $name (qw(ones threes all))
{
	drained($node, $name);
	all_once($node, "$name.jsonl", $name);
	in_key_order($node, "$name.jsonl", $name);
}

drained($node, 'third');
my @third = read_events($node, 'third.jsonl');
my $count = $node->safe_psql('postgres',
	q(SELECT count(*) FROM order_idempotency.outbox WHERE type = 'load.third'));
my %ids = map { $_->{id} => 1 } @third;
is(scalar @third, $count, 'each event of the type that a subscription wants');
is(scalar keys %ids, $count, 'once');
is(scalar(grep { $_->{type} ne 'load.third' } @third), 0, 'and no other');
in_key_order($node, 'third.jsonl', 'third');
cmp_ok($count, '>', 100, 'it was a load');

sql_is($node, <<~'SQL', '4', 'what is counted as delivered is what was sent');
	SELECT count(*) FROM order_idempotency.subscription_status s
	WHERE s.delivered = (SELECT count(*) FROM order_idempotency.outbox o
						 WHERE s.event_types IS NULL OR o.type = ANY (s.event_types))
	SQL
done_testing();
