# Promises 4, 8 and 9: the first write in a restored database begins a new
# incarnation of the log, whichever call it is and whoever makes it; one, however
# many come first at once; nobody waits for another's transaction for it; and a
# crash leaves nothing that the next write does not put right.
#
# Bugs that this catches, each of which was planted: an entry that draws a position
# without looking; two that advance one after the other; a lock that is kept until
# the transaction ends; an advance that takes a right to the sequence; a mark that
# is set before the advance; a copy of a template that trusts its sequences' WAL.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use OrderIdempotency::Copy;
use OrderIdempotency::Drain;
use OrderIdempotency::Node;
use OrderIdempotency::Sessions;
use PostgreSQL::Test::Utils;
use Test::More;

my $api = 'order_idempotency';
my $node = new_drain_node('adoption', conf => "order_idempotency.environment = 'test'\n");

# A database with a log of three events, an order, and a role for applications, as
# a template is restored from it: dumped, since a template would be in use.
$node->safe_psql('postgres', 'CREATE ROLE app LOGIN; CREATE ROLE publisher LOGIN; CREATE DATABASE original');
create_extension($node, 'original');
create_sink($node, 'original');
$node->safe_psql('original', emit('e') x 2 . <<~SQL);
	SELECT $api.grant_application('app');
	SELECT $api.grant_operator('publisher');
	GRANT USAGE ON FOREIGN SERVER files TO publisher;
	SELECT FROM $api.create_order('o', 1, 'EUR');
	SET ROLE publisher;
	SELECT $api.create_subscription('s', 'files');
	SQL

my $dump = $node->basedir . '/dump';
my $copies = 0;

$node->command_ok([ 'pg_dump', "--file=$dump", 'original' ], 'dumped');

# A new copy of it; the first is restored, the others are made from that one as
# long as it is not in use.
sub new_copy
{
	my $copy = 'copy' . ++$copies;

	if ($copies == 1)
	{
		$node->safe_psql('postgres', 'CREATE DATABASE pristine');
		$node->command_ok(
			[ 'psql', '-Xq', '--set=ON_ERROR_STOP=1', '--dbname=pristine', "--file=$dump" ],
			'restored');
		$node->safe_psql('postgres', <<~SQL);
			SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = 'pristine';
			ALTER DATABASE pristine ALLOW_CONNECTIONS false;
			SQL
	}
	$node->safe_psql('postgres', "CREATE DATABASE $copy TEMPLATE pristine");
	return $copy;
}

# Whether a copy is in use, the incarnation of its log, and those of its rows.
sub state_is
{
	my ($db, $expected, $what) = @_;

	sql_is($node, <<~SQL, $expected, $what, $db);
		SELECT u.is_called, p.last_value >> 44,
			(SELECT string_agg(DISTINCT (position >> 44)::text, ',') FROM $api.outbox)
		FROM $api.in_use u, $api.outbox_position p
		SQL
	return;
}

# Whichever call is the first.  Who only reads, or is refused, is none.
my %calls = (
	'app' => {
		'a claim' => [ "SELECT FROM claim_key('k')", 't|1|0' ],
		'a lease' => [ "SELECT FROM claim_key('k', lease => '1 hour')", 't|1|0' ],
		'an event' => [ "SELECT emit_event('t', 'k')", 't|1|0,1' ],
		'a new order' => [ "SELECT FROM create_order('new', 1, 'EUR')", 't|1|0,1' ],
		'an order again' => [ "SELECT FROM create_order('o', 1, 'EUR')", 't|1|0' ],
		'a change' => [ "SELECT FROM transition_order('o', 'paid')", 't|1|0,1' ],
		'a cancellation' => [ "SELECT FROM cancel_order('o')", 't|1|0,1' ],
		'a look' => [ "SELECT FROM get_order('o')", 'f|0|0' ],
		'a history' => [ "SELECT FROM order_history('o')", 'f|0|0' ] },
	'publisher' => {
		'a subscription' =>
		  [ "SELECT create_subscription('new', 'files', options => '{\"from\": \"start\"}')", 't|1|0' ],
		'a resume' => [ "SELECT resume_subscription('s')", 't|1|0' ],
		'a status' => [ 'SELECT FROM subscription_status', 'f|0|0' ] },
	$node->safe_psql('postgres', 'SELECT current_user') => {
		'a direct update' =>
		  [ "UPDATE orders SET state = 'paid' WHERE key = 'o'", 't|1|0,1' ],
		'an import' =>
		  [ "INSERT INTO orders (key, state, amount, currency) VALUES ('i', 'paid', 1, 'EUR')", 'f|0|0' ],
		'a read-only transaction' =>
		  [ "BEGIN READ ONLY; DO \$\$ BEGIN PERFORM claim_key('k'); EXCEPTION WHEN read_only_sql_transaction THEN END \$\$", 'f|0|0' ] });

foreach my $role (sort keys %calls)
{
	foreach my $call (sort keys %{ $calls{$role} })
	{
		my ($sql, $expected) = @{ $calls{$role}{$call} };
		my $db = new_copy();

		$node->safe_psql($db, "SET search_path = $api; SET ROLE $role; $sql");
		state_is($db, $expected, "first of all $call");
		$node->safe_psql($db, emit('next'));
		state_is($db, 't|1|0,1', "and after $call an event");
		$node->safe_psql('postgres', "DROP DATABASE $db");
	}
}

# Eight at once, all of which have seen that nobody was first: one of them is held
# up where it advances, the others behind it.  All of them stay open afterwards.
my $db = new_copy();
my $pool = OrderIdempotency::Sessions->new($node, 9, db => $db);

$pool->run(0, "BEGIN; ALTER SEQUENCE $api.outbox_position CACHE 1;");
$pool->send($_, 'BEGIN;' . emit('at-once')) foreach 1 .. 8;
$pool->wait_blocked(8);
$pool->run(0, 'ROLLBACK;');
$pool->collect_all;
sql_is($node, 'SELECT count(*) FROM pg_stat_activity'
	  . " WHERE datname = '$db' AND state = 'idle in transaction'", '8', 'nobody waits for another');
$node->safe_psql($db, emit('beside'));
$pool->run($_, 'COMMIT;') foreach 1 .. 8;
state_is($db, 't|1|0,1', 'eight at once');
$pool->quit;

# The one who is first does not come to the end of it.
$db = new_copy();
$pool = OrderIdempotency::Sessions->new($node, 2, db => $db);
$pool->run(0, "BEGIN; ALTER SEQUENCE $api.outbox_position CACHE 1;");
$pool->send(1, emit('cancelled'));
$pool->wait_blocked(1);
$node->safe_psql('postgres', "SELECT pg_cancel_backend(@{[ $pool->pid(1) ]})");
like($pool->collect(1), qr/57014/, 'the first one is cancelled');
$pool->run(0, 'ROLLBACK;');
state_is($db, 'f|0|0', 'which leaves nothing');
$node->safe_psql($db, emit('next'));
state_is($db, 't|1|0,1', 'the next one is the first');

# The first one rolls back: what it began goes on.
$db = new_copy();
$node->safe_psql($db, 'BEGIN;' . emit('never') . 'ROLLBACK;');
state_is($db, 't|1|0', 'the first one rolls back');
$node->safe_psql($db, emit('next'));
state_is($db, 't|1|0,1', 'the next one does not advance again');

# A crash in the transaction of the first one: an incarnation may be skipped.
$db = new_copy();
$pool->quit;
$pool = OrderIdempotency::Sessions->new($node, 1, db => $db);
$pool->run(0, 'BEGIN;' . emit('never'));
kill_server($node);
$node->start;
$node->safe_psql($db, emit('next'));
sql_is($node, <<~SQL, 't|2', 'after a crash', $db);
	SELECT u.is_called, (SELECT count(DISTINCT position >> 44) FROM $api.outbox) FROM $api.in_use u
	SQL

# A database that is in use, as a template: the copy's sequences have nothing in WAL of
# what they have logged ahead.  What was drawn there before a crash is not drawn again.
$node->safe_psql('postgres', 'CREATE DATABASE used');
create_extension($node, 'used');
create_sink($node, 'used');
$node->safe_psql('used', "CHECKPOINT; SELECT $api.create_subscription('s', 'files', options => '{\"from\": \"start\"}');" . emit('e') x 2);
$node->safe_psql('used', "SELECT $api.drop_subscription('s')");
$node->safe_psql('postgres', 'CREATE DATABASE of_used TEMPLATE used STRATEGY wal_log');
$node->safe_psql('of_used', emit('before') x 2 . "SELECT $api.create_subscription('before', 'files')");
kill_server($node);
$node->start;
$node->safe_psql('of_used', emit('after') x 2);
sql_is($node, "SELECT string_agg(key, ',' ORDER BY position, key), count(DISTINCT position) FROM $api.outbox",
	'e,e,before,before,after,after|6', 'a copy of a template draws no position twice', 'of_used');
$node->safe_psql('of_used', "SELECT $api.create_subscription('after', 'files')");
sql_is($node, "SELECT string_agg(name, ',' ORDER BY id) FROM $api.subscriptions", 'before,after', 'nor a number of a subscription', 'of_used');
sql_is($node, "SELECT last_value::text = (SELECT oid::text FROM pg_database WHERE datname = current_database()) FROM $api.in_use",
	't', 'and is marked as in use itself', 'of_used');

# An extension that is dropped and created anew in the session of the first one.
$db = new_copy();
$node->safe_psql($db, emit('first') . <<~SQL . emit('again'));
	DROP EXTENSION order_idempotency CASCADE;
	CREATE EXTENSION order_idempotency;
	SQL
state_is($db, 't|0|0', 'dropped and created anew: a fresh log');
unlike(slurp_file($node->logfile), qr/TRAP|PANIC|terminated by signal (?!9)/, 'nothing crashed');
done_testing();
