# Promise 1, those who wait: a waiter can be cancelled, terminated, forced out of
# its database or left by its client at any time, leaves nothing behind, and
# stands in nobody's way; and whatever ends the holder frees the waiters, also a
# timeout of its own.
#
# Bugs that this catches: a wait that does not check for interrupts; the gate or
# a speculative tuple left behind by an error in the wait; a timer that goes on
# after it.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use OrderIdempotency::Node;
use OrderIdempotency::Sessions;
use PostgreSQL::Test::Utils;
use Test::More;

my $api = 'order_idempotency';
my $node = new_node('waiters');
my %call = (
	claim => "SELECT outcome FROM $api.claim_key('k');",
	create => "SELECT outcome FROM $api.create_order('k', 1, 'EUR');",
	transition => "SELECT outcome FROM $api.transition_order('o', 'paid');",
	complete => "SELECT $api.complete_key('l', '1', attempt => 1);");
my %answer = (
	claim => 'claimed',
	create => 'created',
	transition => 'applied',
	complete => 'completed');
my %again = (
	claim => 'replayed',
	create => 'replayed',
	transition => 'replayed',
	complete => 'replayed');

# What a waiter is set to: for ever, and with a timer running.
my @waits = (-1, 600000);

$node->safe_psql('postgres', <<~"SQL");
	SELECT $api.create_order('o', 1, 'EUR', 'alice');
	SELECT $api.claim_key('l', lease => '1 hour');
	SQL

# A holder and a waiter for each way to wait, the waiter waiting.
sub waiting
{
	my ($kind, $wait, $db) = @_;
	my $pool = OrderIdempotency::Sessions->new($node, 2,
		db => $db // 'postgres',
		setup => "SET order_idempotency.in_flight_wait = $wait;");

	is($pool->run(0, "BEGIN;\n$call{$kind}"),
		$answer{$kind}, "$kind: the holder has it");
	$pool->send(1, $call{$kind});
	$pool->wait_blocked(1);
	return $pool;
}

foreach my $kind (sort keys %call)
{
	foreach my $wait (@waits)
	{
		my $what = "$kind, in_flight_wait $wait";

		# cancelled: an error, and the session can go on
		my $pool = waiting($kind, $wait);
		$node->safe_psql('postgres',
			'SELECT pg_cancel_backend(' . $pool->pid(1) . ')');
		like($pool->collect(1), qr/ERROR:  57014/, "$what: cancelled");
		is($pool->run(1, 'SHOW lock_timeout'), '0', "$what: no timer stays");
		$pool->send(1, $call{$kind});
		$pool->wait_blocked(1);

		# terminated, while the holder is still there
		$node->safe_psql('postgres',
			'SELECT pg_terminate_backend(' . $pool->pid(1) . ')');
		like($pool->collect(1), qr/FATAL:  57P01/, "$what: terminated");
		$pool->revive;
		$pool->send(1, $call{$kind});
		$pool->wait_blocked(1);

		# the holder has nothing to wait for
		is($pool->run(0, "$call{$kind}\nROLLBACK;"),
			$again{$kind}, "$what: the holder goes on");
		is($pool->collect(1), "$answer{$kind}\n", "$what: then the waiter");
		is($pool->run(1, 'SHOW lock_timeout'),
			'0', "$what: without a timer that stays");
		$pool->quit;

		# as it was
		$node->safe_psql('postgres', <<~"SQL");
			SET session_replication_role = replica;
			DELETE FROM $api.claims_0; DELETE FROM $api.orders;
			DELETE FROM $api.ledger; DELETE FROM $api.outbox_0;
			RESET session_replication_role;
			SELECT $api.create_order('o', 1, 'EUR', 'alice');
			SELECT $api.claim_key('l', lease => '1 hour');
			SQL
	}
}

# A holder that its own timeout ends.
my $pool = OrderIdempotency::Sessions->new($node, 2,
	setup => 'SET order_idempotency.in_flight_wait = -1;');
$pool->run(0,
	"BEGIN; SET LOCAL idle_in_transaction_session_timeout = '200ms'; $call{claim}");
is($pool->run(1, $call{claim}), 'claimed',
	'a holder that idles past its timeout frees the key');
$pool->quit;

# A waiter whose client goes away: the server notices, and ends the wait.
$pool = OrderIdempotency::Sessions->new($node, 2,
	setup => "SET order_idempotency.in_flight_wait = -1;"
	  . " SET client_connection_check_interval = '20ms';");
$pool->run(0, "BEGIN; $call{create}");
$pool->send(1, $call{create});
$pool->wait_blocked(1);
my $gone = $pool->pid(1);
$pool->abandon(1);
ok( $node->poll_query_until('postgres',
		"SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = $gone"),
	'a waiter whose client is gone ends');
is($pool->run(0, 'COMMIT; SELECT 1'), '1', 'and the holder commits');
$pool->quit;

# A database that is dropped by force takes its waiters along.
$node->safe_psql('postgres', 'CREATE DATABASE doomed');
create_extension($node, 'doomed');
$pool = OrderIdempotency::Sessions->new($node, 2,
	db => 'doomed',
	setup => 'SET order_idempotency.in_flight_wait = -1;');
$pool->run(0, "BEGIN; $call{claim}");
$pool->send(1, $call{claim});
$pool->wait_blocked(1);
$node->safe_psql('postgres', 'DROP DATABASE doomed WITH (FORCE)');
sql_is($node, q{SELECT count(*) FROM pg_database WHERE datname = 'doomed'},
	'0', 'a waiter does not keep its database from being dropped');
$pool->quit;

# So does a shutdown.
$pool = OrderIdempotency::Sessions->new($node, 2,
	setup => 'SET order_idempotency.in_flight_wait = -1;');
$pool->run(0, "BEGIN; SELECT $api.claim_key('shutdown') \\gset");
$pool->send(1, "SELECT outcome FROM $api.claim_key('shutdown');");
$pool->wait_blocked(1);
$node->stop('fast');
like($pool->collect(1), qr/FATAL:  57P01/, 'a fast shutdown ends a wait');
$pool->quit;
$node->start;
is( $node->safe_psql('postgres',
		"SELECT outcome FROM $api.claim_key('shutdown')"),
	'claimed', 'and the key is free afterwards');
done_testing();
