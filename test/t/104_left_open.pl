# Promises 4 and 8 beside transactions that are left open: an idle one that holds an
# old snapshot, one prepared in another database and forgotten, one of this database
# without events, one with.  Nothing waits for them, and the worker does the same work for
# an event at the end as at the beginning, however many versions of its rows have to be
# kept.  What they wrote is delivered when they end, if they commit.
#
# Bugs that this catches, planted and seen to fail: a cursor's row whose index looks at
# all versions since the snapshot (a "turn" without end); a status that reads the log from the
# oldest open transaction on.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use OrderIdempotency::Drain;
use OrderIdempotency::Load;
use OrderIdempotency::Node;
use OrderIdempotency::Sessions;
use PostgreSQL::Test::Utils;
use Test::More;

my $api = 'order_idempotency';
my $rounds = $ENV{OI_LEFT_OPEN_ROUNDS} // 6;
my $events = 3000;
my $node = new_drain_node('left_open');
my $total = 0;

# one record of the cursor for each event
subscribe($node, 'ones', options => q('{"batch_size": 1}'));
subscribe($node, 'whole');
my $pid = worker_pid($node, 'ones');

# One number from the server.
sub number
{
	my ($sql) = @_;

	return $node->safe_psql('postgres', $sql);
}

# How many times a cursor was recorded.
my $updates = "SELECT n_tup_upd FROM pg_stat_all_tables WHERE relid = '$api.subscription_cursors'::regclass";

# Delivers that many events.  Returns what one of them cost: blocks that were looked at,
# and seconds of CPU.
sub round
{
	my ($blocks, $cpu) = (blocks_seen($node), cpu_of($pid));

	# nobody looks at the cursors while it lasts: that would count, too
	my $expected = number($updates) + $events;
	fill_log($node, $events);
	$node->poll_query_until('postgres', $updates =~ s/n_tup_upd/n_tup_upd >= $expected/r) or die;
	$total += $events;
	return ((blocks_seen($node) - $blocks) / $events, (cpu_of($pid) - $cpu) / $events);
}

# Blocks that a look at the view costs.
sub view_cost
{
	my $plan = number("EXPLAIN (ANALYZE, BUFFERS, COSTS off) SELECT * FROM $api.subscription_status");

	return $plan =~ /Buffers: shared hit=(\d+)(?: read=(\d+))?/ ? $1 + ($2 // 0) : die $plan;
}

my ($alone, $cpu_alone) = round();
my $pool = OrderIdempotency::Sessions->new($node, 2);
$pool->run(0, 'BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM pg_class;');
$node->safe_psql('postgres', 'CREATE DATABASE other; CREATE TABLE mine (i int)');
$node->safe_psql('other', "CREATE TABLE theirs (i int); BEGIN; INSERT INTO theirs VALUES (1); PREPARE TRANSACTION 'theirs'");
$node->safe_psql('postgres', "BEGIN; INSERT INTO mine VALUES (1); PREPARE TRANSACTION 'mine'");
$node->safe_psql('postgres', 'BEGIN;' . emit('left') x 3 . "PREPARE TRANSACTION 'events'");
$pool->run(1, 'BEGIN;' . emit('open') . 'SAVEPOINT a;' . emit('open') . 'RELEASE a;');

my ($first, $cpu_first) = round();
my ($memory, $view) = (memory_of($pid), view_cost());
my ($last, $cpu_last);
($last, $cpu_last) = round() foreach 2 .. $rounds;
note(sprintf 'blocks for an event: %.1f alone, %.1f, %.1f at the end; CPU: %.0f us, %.0f us, %.0f us',
	$alone, $first, $last, map { 1e6 * $_ } $cpu_alone, $cpu_first, $cpu_last);
cmp_ok($first, '<', 1.3 * $alone, 'beside open transactions an event costs what it costs without');
cmp_ok($last, '<', 1.3 * $alone, "and so it does after $total of them");
cmp_ok($cpu_last, '<', 3 * $cpu_alone, 'in CPU as well');
cmp_ok(memory_of($pid) - $memory, '<', 4096, 'the worker\'s memory does not grow');
cmp_ok(view_cost(), '<', 2 * $view + 20, 'nor what a look at the status costs');
is(worker_pid($node, 'ones'), $pid, 'by the same process');
ok(wait_delivered($node, $_, $total), "all of them were delivered ($_)") foreach qw(ones whole);
is(number("SELECT (SELECT count(*) FROM pg_prepared_xacts), age(backend_xmin) > $events FROM pg_stat_activity WHERE pid = "
		. $pool->pid(0)), '3|t', 'while the transactions were open');

# They end.
$node->safe_psql('postgres', "COMMIT PREPARED 'events'; ROLLBACK PREPARED 'mine'");
$node->safe_psql('other', "ROLLBACK PREPARED 'theirs'");
$pool->run(1, 'COMMIT;');
$pool->run(0, 'COMMIT;');
$total += 5;
foreach my $name (qw(ones whole))
{
	ok(wait_delivered($node, $name, $total), "what they wrote is delivered, too ($name)");
	drained($node, $name);
	all_once($node, "$name.jsonl", $name);
}
is(join(' ', grep { !/^(key-|last)/ } split / /, events_of($node, 'ones.jsonl') =~ s/last of a load/last/gr),
	'left left left open open', 'those of each together');
$pool->quit;
$node->stop;
done_testing();
