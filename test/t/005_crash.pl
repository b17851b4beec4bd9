# Promises 2 and 5: a transaction that a crash cuts short leaves nothing, neither
# key nor order nor movement nor event, and its keys are free; what had committed
# before stays.  The backend is killed at each stage of its work.
#
# Bugs that this catches: writing an event or a movement outside of the
# transaction; a claim kept in shared memory or on disk beside its table.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use OrderIdempotency::Node;
use OrderIdempotency::Sessions;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_node('crash');
my $api = 'order_idempotency';

# How many rows there are in all tables that a call writes to.
my $counts = <<~"SQL";
	SELECT (SELECT count(*) FROM $api.claims), (SELECT count(*) FROM $api.orders),
		   (SELECT count(*) FROM $api.ledger), (SELECT count(*) FROM $api.outbox),
		   (SELECT count(*) FROM $api.payment_deadlines)
	SQL

my @steps = (
	"SELECT outcome FROM $api.claim_key('k');",
	"SELECT $api.complete_key('k', '1');",
	"SELECT outcome FROM $api.claim_key('l', lease => '1 hour');",
	"SELECT outcome FROM $api.create_order('o', 1, 'EUR', 'alice', pay_within => '1 day');",
	"SELECT outcome FROM $api.transition_order('o', 'paid');",
	"SELECT outcome FROM $api.transition_order('base', 'paid');",
	"SELECT outcome FROM $api.cancel_order('t', if_missing => 'tombstone');",
	"SELECT $api.emit_event('parcel.sent', 'p') IS NOT NULL;",
	"SAVEPOINT a; SELECT outcome FROM $api.claim_key('m'); RELEASE a;");
my $done = join "\n",
  qw(claimed completed claimed created applied applied tombstoned t claimed);

$node->safe_psql('postgres',
	"SELECT $api.create_order('base', 1, 'EUR', 'alice')");
my $before = $node->safe_psql('postgres', $counts);
my $pool = OrderIdempotency::Sessions->new($node, 2,
	setup => 'SET order_idempotency.in_flight_wait = -1;');

foreach my $stage (1, 4, 6, scalar @steps)
{
	my $work = join "\n", @steps[ 0 .. $stage - 1 ];
	my $expected = join "\n", (split /\n/, $done)[ 0 .. $stage - 1 ];

	is($pool->run(0, "BEGIN;\n$work"), $expected, "$stage steps of the work");

	# so that what the killed one did is on disk as far as it can be
	$node->safe_psql('postgres', 'CHECKPOINT');
	$pool->send(1, $steps[0]);
	$pool->wait_blocked(1);
	kill 'KILL', $pool->pid(0);
	$pool->collect(1);
	wait_until_up($node);
	$pool->reconnect;
	sql_is($node, $counts, $before,
		"nothing is left of a session killed after $stage steps");
	sql_is($node, "SELECT state, version FROM $api.get_order('base')",
		'created|1', 'and what it changed is as it was');
}

is($pool->run(0, join "\n", 'BEGIN;', @steps, 'COMMIT;'), $done,
	'all of it can be done afterwards');
kill_server($node);
$node->start;
$pool->reconnect;
is( $pool->run(0, <<~"SQL"),
	SELECT outcome, response FROM $api.claim_key('k');
	SELECT outcome FROM $api.claim_key('l');
	SELECT outcome FROM $api.claim_key('m');
	SELECT outcome FROM $api.create_order('o', 1, 'EUR', 'alice');
	SELECT outcome FROM $api.transition_order('base', 'paid');
	SELECT outcome FROM $api.create_order('t', 1, 'EUR', on_conflict => 'report');
	SQL
	join("\n", qw(replayed|1 in_progress replayed replayed replayed refused)),
	'and is there after the next crash, which came when it was done');
$pool->quit;
consistent($node, 'after crashes');
done_testing();
