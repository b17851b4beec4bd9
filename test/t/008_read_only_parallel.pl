# Promises 1 and 2 hold to the server's own rules: READ ONLY transactions, parallel
# workers and long snapshots get what the server gives them elsewhere: 25006 in a
# READ ONLY transaction, 25000 in a parallel worker, and a snapshot that shows one
# state of things from beginning to end, while others go on.
#
# Bugs that this catches: writing without PreventCommandIfReadOnly or past
# parallel mode; get_order reading with the latest snapshot, or the lifecycle with
# one that is not to be had in a parallel query.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use OrderIdempotency::Node;
use OrderIdempotency::Sessions;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_node('read_only');
my $api = 'order_idempotency';

# The SQLSTATE that a script ends with.
sub sqlstate
{
	my ($script) = @_;
	my ($status, $out, $err) =
	  $node->psql('postgres', "\\set VERBOSITY sqlstate\n$script");

	return $err =~ /ERROR:\s+(\w{5})/ ? $1 : '00000';
}

$node->safe_psql('postgres', <<~"SQL");
	SELECT $api.claim_key('k'), $api.claim_key('l', lease => '1 hour'),
		   $api.create_order('o', 100, 'EUR', 'alice'),
		   $api.create_order('p', 100, 'EUR', 'alice');
	SELECT $api.transition_order('p', 'paid');
	SQL

my @writing = (
	"claim_key('new')",
	"complete_key('l', attempt => 1)",
	"extend_key('l', '1 hour', 'default', 1)",
	"release_key('l', attempt => 1)",
	"create_order('new', 1, 'EUR')",
	"transition_order('o', 'paid')",
	"cancel_order('o')",
	"emit_event('parcel.sent', 'p')");
my $counts = <<~"SQL";
	SELECT (SELECT count(*) FROM $api.claims), (SELECT count(*) FROM $api.orders),
		   (SELECT count(*) FROM $api.ledger), (SELECT count(*) FROM $api.outbox)
	SQL
my $before = $node->safe_psql('postgres', $counts);

# READ ONLY.
foreach my $call (@writing)
{
	is(sqlstate("BEGIN READ ONLY; SELECT $api.$call; COMMIT;"),
		'25006', "READ ONLY: $call");
}
is( $node->safe_psql('postgres',
		"BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY DEFERRABLE;\n"
		  . "SELECT state FROM $api.get_order('p');\n"
		  . "SELECT count(*) FROM $api.order_history('p'); COMMIT;"),
	"paid\n2", 'READ ONLY: what reads works');
is( sqlstate("BEGIN; SET TRANSACTION READ ONLY; SAVEPOINT a;"
		  . " SELECT $api.claim_key('new'); COMMIT;"),
	'25006', 'READ ONLY: in a savepoint');

# Parallel query.  The functions are unsafe, so a plan that has one is serial.
my $mode = $node->safe_psql('postgres',
	"SELECT name FROM pg_settings WHERE name IN ('force_parallel_mode', 'debug_parallel_query')");
my $parallel = <<~"SQL";
	SET $mode = regress;
	SET parallel_setup_cost = 0;
	SET parallel_tuple_cost = 0;
	SET min_parallel_table_scan_size = 0;
	SET max_parallel_workers_per_gather = 2;
	SQL
$node->safe_psql('postgres',
	'CREATE TABLE input AS SELECT i FROM generate_series(1, 2000) i');
is( $node->safe_psql('postgres', <<~"SQL"),
	$parallel
	SELECT outcome, count(*) FROM input, $api.claim_key('many-' || i) GROUP BY outcome;
	SELECT outcome, count(*)
	FROM input, $api.create_order('many-' || i, i, 'EUR') WHERE i <= 200 GROUP BY outcome;
	SELECT count(state) FROM input, $api.get_order('many-' || i) WHERE i <= 200;
	SELECT count(*) FROM $api.current_lifecycle;
	SQL
	"claimed|2000\ncreated|200\n200\n4", 'parallel plans stay away from them');
$before = $node->safe_psql('postgres', $counts);

# What reads runs in the leader of a parallel query, also where nothing is cached yet:
# each of these is a session of its own.
foreach my $read ("SELECT state FROM $api.get_order('many-1')",
	"SELECT state FROM $api.order_history('many-1')")
{
	my $query = "SELECT count(*), ($read) FROM input";
	like($node->safe_psql('postgres', "$parallel RESET $mode; EXPLAIN $query;"),
		qr/Gather/, "a parallel query: $read");
	is($node->safe_psql('postgres', "$parallel RESET $mode; $query;"),
		'2000|created', 'in its leader, the first of a session');
}

# A function that says of itself, wrongly, that it is safe.
foreach my $call (@writing)
{
	$node->safe_psql('postgres', <<~"SQL");
	CREATE OR REPLACE FUNCTION wrongly_safe() RETURNS text
	LANGUAGE plpgsql PARALLEL SAFE
	AS \$\$ BEGIN RETURN (SELECT $api.$call); END \$\$
	SQL
	like(
		sqlstate("$parallel SELECT wrongly_safe() FROM input WHERE i < 3;"),
		qr/^(25000|25006|0A000)$/,
		"in a parallel worker: $call");
}
sql_is($node, $counts, $before, 'all of these wrote nothing');

# A long snapshot, as pg_dump has it.
my $pool = OrderIdempotency::Sessions->new($node, 2);
my $look = "SELECT state, version FROM $api.get_order('o');\n"
  . "SELECT count(*) FROM $api.order_history('o');\n"
  . "SELECT count(*) FROM $api.get_order('fresh');";
is( $pool->run(0, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;\n$look"),
	"created|1\n1\n0", 'a long snapshot begins');
is( $pool->run(1, <<~"SQL"),
	SELECT outcome FROM $api.claim_key('while');
	SELECT outcome FROM $api.transition_order('o', 'paid');
	SELECT outcome FROM $api.transition_order('o', 'completed');
	SELECT outcome FROM $api.create_order('fresh', 1, 'EUR');
	SELECT outcome FROM $api.claim_key('while');
	SELECT outcome FROM $api.transition_order('o', 'paid');
	SQL
	"claimed\napplied\napplied\ncreated\nreplayed\nreplayed",
	'others go on meanwhile');
is($pool->run(0, $look), "created|1\n1\n0", 'it shows what it showed before');
is($pool->run(0, "COMMIT;\n$look"), "completed|3\n3\n1", 'until its end');
is( $pool->run(1, <<~"SQL"),
	BEGIN;
	SELECT outcome FROM $api.create_order('own', 1, 'EUR');
	SELECT outcome FROM $api.transition_order('own', 'paid');
	SELECT state, version FROM $api.get_order('own');
	SELECT version, state FROM $api.order_history('own');
	ROLLBACK;
	SELECT count(*) FROM $api.get_order('own');
	SQL
	"created\napplied\npaid|2\n1|created\n2|paid\n0",
	'a transaction sees its own work');
$pool->quit;
consistent($node, 'read only and parallel');
done_testing();
