# Statistics of deliveries: every event once, when the receiver has it, for its
# own subscription; failed attempts beside; how long it took; kept over a clean
# restart, and over that of a worker.
#
# Bugs that this catches: what was tried counted as delivered; a batch for an
# event; another subscription's or database's numbers, one that is gone among
# them; a reset that the worker undoes; a histogram that does not add up.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use OrderIdempotency::Drain;
use OrderIdempotency::Node;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_drain_node('deliveries');
my $api = 'order_idempotency';
my $dir = sink_dir($node);

# A query of the statistics, with the answer awaited: a worker counts after the
# receiver has the event.
sub becomes
{
	my ($columns, $expected, $what) = @_;
	my $query = "SELECT string_agg(concat_ws(' ', $columns), ', ' ORDER BY name) FROM $api.subscription_stats";

	ok($node->poll_query_until('postgres', $query, $expected), $what)
	  or diag $node->safe_psql('postgres', $query);
	return;
}

sql_is($node, "SELECT count(*) FROM $api.subscription_stats", '0', 'nothing at first');
subscribe($node, 'all', options => q('{"batch_size": 7}'));
subscribe($node, 'some', event_types => q(ARRAY['test.wanted']));
$node->safe_psql('postgres', emit('start', 'test.wanted'));
becomes('name, delivered', 'all 1, some 1', 'one event for both');
$node->safe_psql('postgres', join '', (map { emit("a$_") } 1 .. 40), emit('w', 'test.wanted'));
becomes('name, delivered, retried, rejected, failed_60m', 'all 42 0 0 0, some 2 0 0 0', 'each its own');
becomes('name, round((rate_1m * 60)::numeric), round((rate_5m * 300)::numeric), round((rate_60m * 3600)::numeric)',
	'all 42 42 42, some 2 2 2', 'and as rates');
sql_is($node, <<~"SQL", 't', 'which pass');
	SELECT bool_and(delivered_1m = 0 AND delivered_5m > 1 AND delivered_60m = delivered_5m)
	FROM $api.delivery_counts(now() + '3 min')
	SQL
sql_is($node, <<~"SQL", 't', 'the histogram is of all events, each bound with all below it');
	SELECT bool_and(s.delivered = s.latency_counts[15] AND a.sorted AND cardinality(s.latency_counts) = 15
					AND cardinality(s.latency_bounds) = 15)
	FROM $api.subscription_stats s
		CROSS JOIN LATERAL (SELECT bool_and(s.latency_counts[i] <= s.latency_counts[i + 1]
											AND s.latency_bounds[i] < s.latency_bounds[i + 1]) AS sorted
							FROM generate_series(1, 14) i) a
	SQL
sql_is($node, <<~"SQL", 't', 'half, 95 and 99 of a hundred are within theirs');
	SELECT bool_and(latency_p50 <= latency_p95 AND latency_p95 <= latency_p99 AND latency_sum > 0
					AND latency_counts[array_position(latency_bounds, latency_p50)] * 2 >= delivered)
	FROM $api.subscription_stats
	SQL

# An event that waited shows how long.
$node->safe_psql('postgres', "SELECT $api.reset_stats()");
becomes('name, delivered, coalesce(latency_p50::text, \'none\')', 'all 0 none, some 0 none', 'a reset');
rename $dir, "$dir-away" or die;
$node->safe_psql('postgres', emit('late'));
ok($node->poll_query_until('postgres', "SELECT retried >= 3 AND failed_60m <= retried FROM $api.subscription_stats WHERE name = 'all'"),
	'attempts that fail are counted');
sql_is($node, "SELECT delivered FROM $api.subscription_stats WHERE name = 'all'", '0', 'as what they are');
rename "$dir-away", $dir or die;
becomes('name, delivered', 'all 1, some 0', 'the one that succeeds, as that');
sql_is($node, "SELECT latency_sum > 0.5 AND latency_p99 >= 0.5 FROM $api.subscription_stats WHERE name = 'all'", 't',
	'and the time that it waited');

# Restarts: of a worker, of the server.
my $retried = $node->safe_psql('postgres', "SELECT retried FROM $api.subscription_stats WHERE name = 'all'");
my $pid = worker_pid($node, 'all');
$node->safe_psql('postgres', "SELECT pg_terminate_backend($pid, 180000)");
$node->poll_query_until('postgres', "SELECT pid <> $pid FROM $api.subscription_status WHERE name = 'all'") or die;
$node->safe_psql('postgres', emit('again'));
becomes('name, delivered, retried', "all 2 $retried, some 0 0", 'the next worker goes on');
$node->restart;
becomes('name, delivered, retried', "all 2 $retried, some 0 0", 'a clean restart keeps all');
$node->safe_psql('postgres', emit('after'));
becomes('name, delivered', 'all 3, some 0', 'and it goes on');
$node->append_conf('postgresql.conf', "$api.max_subscriptions = 1");
$node->restart;
sql_is($node, "SELECT count(*) FROM $api.subscription_stats", '1', 'where there is no more room for all, some are kept');

# One that is gone.
$node->safe_psql('postgres', "SELECT $api.drop_subscription(name) FROM $api.subscriptions");
sql_is($node, "SELECT count(*) FROM $api.subscription_stats", '0', 'a dropped one is not shown');

$node->stop;
done_testing();
