# Promise 8 with a backlog: it is drained in bounded memory and at the same rate from the
# first event to the last; and so is one behind a key that was held, while other keys go
# on.  A hundred thousand held keys fit into memory and are let go in bounded time.
# OI_BACKLOG=10000000 is the full size.
#
# Bugs that this catches: a read that begins at the start of the log; events kept until the
# batch is through; a look at all rows of a held key for each delivery, as there was once.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use OrderIdempotency::Drain;
use OrderIdempotency::Faulty;
use OrderIdempotency::Load;
use OrderIdempotency::Node;
use OrderIdempotency::Sessions;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

my $api = 'order_idempotency';
my $backlog = $ENV{OI_BACKLOG} // 500000;
my $held = $ENV{OI_HELD} // ($ENV{OI_BACKLOG} ? 100000 : 20000);
my $part = 500000;
my $node = new_faulty_node('backlog', conf => "max_wal_size = '8GB'\n");

plan skip_all => 'the sinks of test/modules are not installed'
  if !-e $node->config_data('--pkglibdir') . '/order_idempotency_null.so';
$node->safe_psql('postgres', <<~"SQL");
	CREATE FOREIGN DATA WRAPPER order_idempotency_null;
	CREATE SERVER nowhere FOREIGN DATA WRAPPER order_idempotency_null;
	SELECT $api.create_subscription('late', 'nowhere', ARRAY['load']);
	SQL
wait_for_worker($node, 'late');
my $pool = OrderIdempotency::Sessions->new($node, 1);

# How many events a subscription has delivered, asked for in a session that is there.
sub delivered
{
	my ($name) = @_;

	return $pool->run(0, <<~"SQL");
		SELECT c.delivered FROM $api.subscription_cursors c JOIN $api.subscriptions s ON s.id = c.subscription
		WHERE s.name = '$name' ORDER BY c.turn LIMIT 1;
		SQL
}

# Waits until it has delivered so many.  Returns what it had meanwhile, and its CPU time
# then, and notes in $most the most memory that it had.
sub watch
{
	my ($name, $count, $pid, $most) = @_;
	my $deadline = time + 20 * $PostgreSQL::Test::Utils::timeout_default;
	my @seen;

	while (1)
	{
		my $got = delivered($name);
		my $memory = memory_of($pid);

		$$most = $memory if $memory > $$most;
		push @seen, [ $got, cpu_of($pid) ];
		return @seen if $got >= $count;
		die "only $got of $count delivered" if time > $deadline;
		usleep(10000);
	}
}

# The CPU time that a worker had had when it had delivered so many.
sub cpu_at
{
	my ($count, @seen) = @_;
	my $i = 1;

	$i++ while $seen[$i][0] < $count;
	my ($before, $after) = @seen[ $i - 1, $i ];
	return $before->[1] + ($after->[1] - $before->[1]) * ($count - $before->[0]) / ($after->[0] - $before->[0]);
}

# The worker waits for a lock when it has delivered a part of it, so that it can be watched
# from then on.
my $blocker = OrderIdempotency::Sessions->new($node, 1);
my $pid = worker_pid($node, 'late');
$blocker->run(0, "BEGIN; SELECT FROM $api.subscription_cursors FOR UPDATE;");
for (my $left = $backlog; $left > 0; $left -= $part)
{
	fill_log($node, $left < $part ? $left : $part);
}
wait_for_sql($node, "SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = $pid", 'the worker is held up');
$blocker->run(0, 'COMMIT;');
$blocker->quit;
my ($most, $began) = (0, time);
my @seen = ([ 0, 0 ], watch('late', $backlog, $pid, \$most));
my @cost = map { (cpu_at($backlog * ($_ + 1) / 10, @seen) - cpu_at($backlog * $_ / 10, @seen)) / ($backlog / 10) } 0 .. 9;
note(sprintf '%d events, us CPU each by tenths: %s', $backlog, join ' ', map { sprintf '%.1f', 1e6 * $_ } @cost);
note(sprintf '%.1f s; RssAnon at most %d kB, VmHWM %d kB', time - $began, $most, memory_of($pid, 'HWM'));
cmp_ok($cost[9], '<', 1.4 * $cost[1], 'the last tenth of a backlog costs what the first did');
cmp_ok($most, '<', 50000, 'in bounded memory');
cmp_ok(memory_of($pid, 'HWM'), '<', 200 * 1024, 'that of the server included');
is(delivered('late'), $backlog, 'each event once');

# Behind one held key.
subscribe_faulty($node, 'one', '{"backoff_min": 3600000}');
$node->safe_psql('postgres', order_events('one', [ 'held', 'retry' ]));
wait_for_sql($node, "SELECT parked = 1 FROM $api.subscription_status WHERE name = 'one'", 'a key is held');
fill_log($node, $held, key => "'held'", type => 'one.event');
fill_log($node, 1000, key => "'other-' || i", type => 'one.event');
$pid = worker_pid($node, 'one');
$most = 0;
watch('one', 1001, $pid, \$most);
is($node->safe_psql('postgres', "SELECT count(*) FROM $api.failed_events WHERE key = 'held'"), $held, "$held events wait behind it");
$began = time;
my $cpu = cpu_of($pid);
$node->safe_psql('postgres', "SELECT $api.redrive('one', key => 'held')");
fill_log($node, 1000, key => "'next-' || i", type => 'one.event');
ok($node->poll_query_until('postgres', "SELECT NOT EXISTS (SELECT FROM $api.failed_events)"), 'they go out after redrive');
note(sprintf '%d events of one key: %.1f s, %.0f us CPU each', $held, time - $began, 1e6 * (cpu_of($pid) - $cpu) / $held);
watch('one', $held + 2001, $pid, \$most);
my @order = map { $_->[2] } grep { $_->[0] eq 'delivered' } attempts($node, 'one');
my ($last_held) = grep { $order[$_] eq 'held' } reverse 0 .. $#order;
my ($first_next) = grep { $order[$_] =~ /^next/ } 0 .. $#order;
cmp_ok($first_next, '<', $last_held, 'others do not wait for the end of them');
keys_in_order($node, 'one', 'one held key');
cmp_ok($most, '<', 50000, 'in bounded memory');

# As many keys, each held.
subscribe_faulty($node, 'many', '{"backoff_min": 3600000, "max_parked_keys": 100000}');
$node->safe_psql('postgres', <<~"SQL");
	INSERT INTO $api.outbox_0 (position, xid, event_id, key, type, payload, created_at)
	SELECT nextval('$api.outbox_position'), x.xid, gen_random_uuid(), 'key-' || i, 'many.event',
		   CASE WHEN i % 5 > 0 THEN '{"do": "retry"}'::jsonb END, now()
	FROM (SELECT pg_current_xact_id() AS xid OFFSET 0) x, generate_series(1, $held * 5 / 4) i;
	SELECT $api.emit_event('many.event', 'key-1');
	SQL
$pid = worker_pid($node, 'many');
$most = 0;
watch('many', $held / 4, $pid, \$most);
is($node->safe_psql('postgres', "SELECT count(DISTINCT key) FROM $api.failed_events"), $held, "$held keys are held");
$node->safe_psql('postgres', order_events('many', [ 'fine' ]));
watch('many', $held / 4 + 1, $pid, \$most);
($began, $cpu) = (time, cpu_of($pid));
$node->safe_psql('postgres', "SELECT $api.redrive('many', everything => true)");
watch('many', $held * 5 / 4 + 2, $pid, \$most);
my $each = (cpu_of($pid) - $cpu) / $held;
note(sprintf '%d held keys: %.1f s, %.0f us CPU each, RssAnon at most %d kB', $held, time - $began, 1e6 * $each, $most);
cmp_ok($each, '<', 0.002, 'they are let go at a cost that does not grow with their number');
cmp_ok($most, '<', 120000, 'in bounded memory');
keys_in_order($node, 'many', 'many held keys');
$pool->quit;
$node->stop;
done_testing();
