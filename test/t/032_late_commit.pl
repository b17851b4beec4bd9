# Promises 4 and 5: an event whose position was drawn early and whose
# transaction commits late is not skipped, nor sent twice; what others
# commit in the meantime does not wait for it; what is rolled back is never sent.
#
# Bugs that this catches: a cursor that is a position, or the highest xid seen;
# an xid in place of the position inside a batch; forgetting transactions
# that were open at the last batch when the worker starts anew; taking the xid
# of a subtransaction for that of its transaction; holding everything back
# behind the oldest open transaction; reading the sequence of positions without its
# page's lock (planted with a pause of 50 us between the row's place and its value).

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use OrderIdempotency::Drain;
use OrderIdempotency::Node;
use OrderIdempotency::Sessions;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_drain_node('late_commit');
my $pool = OrderIdempotency::Sessions->new($node, 4);

# a batch of two cuts every transaction of more than two events
subscribe($node, 'one', options => q('{"batch_size": 2}'));
subscribe($node, 'all');

# Checks the keys that both subscriptions have sent since the last call.
my %seen = (one => 0, all => 0);

sub sent
{
	my ($expected, $what) = @_;

	foreach my $name (sort keys %seen)
	{
		my $count = $seen{$name} + scalar split / /, $expected;

		drained($node, $name);
		$node->poll_query_until('postgres', <<~"SQL") or die;
			SELECT delivered >= $count FROM order_idempotency.subscription_status
			WHERE name = '$name'
			SQL
		my @keys = split / /, events_of($node, "$name.jsonl");

		is(join(' ', @keys[ $seen{$name} .. $#keys ]), $expected, "$what ($name)");
		$seen{$name} = @keys;
	}
	return;
}

# Early position, late commit.
$pool->run(0, 'BEGIN;' . emit('early-1') . emit('early-2') . emit('early-3'));
$pool->run(1, emit('later-1'));
sent('later-1', 'the later event does not wait for the earlier one');
$pool->run(1, emit('later-2'));
$pool->run(2, 'BEGIN;' . emit('never'));
sent('later-2', 'nor does the next');
$pool->run(0, 'COMMIT;');
sent('early-1 early-2 early-3', 'the earlier one is not skipped');
$pool->run(2, 'ROLLBACK;');
$pool->run(1, emit('after'));
sent('after', 'what is rolled back is not sent, nor anything again');

# A transaction that writes between others' events, and is open over many batches.
$pool->run(0, 'BEGIN;');
my @expected;
foreach my $i (1 .. 6)
{
	$pool->run(0, emit("open-$i"));
	$pool->run(1, emit("quick-$i"));
	sent("quick-$i", "batch $i beside an open transaction");
}
$pool->run(0, 'COMMIT;');
sent(join(' ', map { "open-$_" } 1 .. 6),
	'all of a transaction that was open over six batches');

# Several that end in another order than they began in, between batches.
$pool->run($_, 'BEGIN;' . emit("t$_-a")) foreach 0 .. 3;
$pool->run($_, emit("t$_-b")) foreach reverse 0 .. 3;
$pool->run(2, 'COMMIT;');
sent('t2-a t2-b', 'the third of four ends first');
$pool->run(0, 'ROLLBACK;');
$pool->run(3, 'COMMIT;');
sent('t3-a t3-b', 'the fourth after it');
$pool->run(1, 'COMMIT;');
sent('t1-a t1-b', 'the second last');

# An xid that is assigned before everything, and events long after.
$pool->run(0, 'BEGIN; SELECT pg_current_xact_id();');
$pool->run(1, emit("busy-$_")) foreach 1 .. 3;
sent('busy-1 busy-2 busy-3', 'beside a transaction that has not written yet');
$pool->run(0, emit('low-xid'));
$pool->run(1, emit('busy-4'));
sent('busy-4', 'and once it has');
$pool->run(0, 'COMMIT;');
sent('low-xid', 'a low xid with a high position');

# Subtransactions have xids of their own.
$pool->run(0, 'BEGIN; SAVEPOINT a;' . emit('sub-1'));
$pool->run(1, emit('between'));
sent('between', 'beside an open subtransaction');
$pool->run(0, join '', 'RELEASE a; SAVEPOINT b;', emit('sub-never'),
	'ROLLBACK TO b; SAVEPOINT c; SAVEPOINT d;', emit('sub-2'),
	'RELEASE c; SAVEPOINT e;');
$pool->run(0, join '', (map { "SAVEPOINT s$_; RELEASE s$_;" . emit("sub-$_") } 3 .. 5),
	'COMMIT;');
sent('sub-1 sub-2 sub-3 sub-4 sub-5', 'what was released, not what was rolled back');

# Prepared transactions are open until they are committed; nobody wakes the
# worker then, it looks by itself.
$pool->run(0, 'BEGIN;' . emit('prepared-1') . "PREPARE TRANSACTION 'one';");
$pool->run(0, 'BEGIN;' . emit('prepared-never') . "PREPARE TRANSACTION 'two';");
$pool->run(1, emit('beside'));
sent('beside', 'beside prepared transactions');
$node->restart;
$pool->reconnect;
$pool->run(1, emit('restarted'));
sent('restarted', 'and after a restart');
$pool->run(0, "COMMIT PREPARED 'one'; ROLLBACK PREPARED 'two';");
sent('prepared-1', 'a transaction prepared before a restart');

# Open when a subscription is made, with no later transaction ended: then its xid
# is not in a snapshot's list, but at or above its xmax.
$pool->run(0, 'BEGIN;' . emit('highest-1') . emit('highest-2'));
$node->safe_psql('postgres',
	q(SELECT order_idempotency.create_subscription('young', 'files')));
$pool->run(0, 'COMMIT;');
sent('highest-1 highest-2', 'the newest transaction of all');
drained($node, 'young');
is(events_of($node, 'young.jsonl'), 'highest-1 highest-2',
	'and it was open when a subscription was made');

# Open when the worker is started anew: what the batches before it left behind
# is in the cursor only.
$pool->run(0, 'BEGIN;' . emit('survivor-1') . emit('survivor-2') . emit('survivor-3'));
$pool->run(1, emit('recorded'));
sent('recorded', 'before the worker is terminated');
my $old = worker_pid($node, 'one');
sql_is($node, "SELECT pg_terminate_backend($old)", 't', 'terminated');
$node->poll_query_until('postgres', <<~"SQL") or die;
	SELECT pid <> $old FROM order_idempotency.subscription_status WHERE name = 'one'
	SQL
$pool->run(1, emit('fresh'));
sent('fresh', 'after the worker was started anew');
$pool->run(0, 'COMMIT;');
sent('survivor-1 survivor-2 survivor-3', 'open across the worker\'s end');

# While nextval writes WAL, the sequence's page has a position that is drawn much later; by
# one that is not under the lock of the page such an event would count as one of before.
$node->safe_psql('postgres', q(SELECT order_idempotency.pause_subscription('young')));
$pool->send($_, q(SELECT count(nextval('order_idempotency.outbox_position')) FROM generate_series(1, 5000000)))
  foreach 0, 1;
$pool->run(3, <<~'SQL');
	CREATE FUNCTION pg_temp.too_high() RETURNS int LANGUAGE plpgsql AS $$
	DECLARE
		n int := 0;
	BEGIN
		FOR i IN 1 .. 200 LOOP
			n := n + (order_idempotency.seek_to_time('young', 'infinity') >= nextval('order_idempotency.outbox_position'))::int;
		END LOOP;
		RETURN n;
	END$$;
	SQL
like($pool->run(3, 'SELECT pg_temp.too_high();' x 20), qr/\A[0\n]+\z/, 'no position is known before it is drawn');
$pool->collect($_) foreach 0, 1;

$pool->quit;
all_once($node, "$_.jsonl", $_) foreach sort keys %seen;
done_testing();
