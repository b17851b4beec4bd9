# Promise 10 for payment deadlines: a standby does nothing and catches up at its
# promotion; a database that is dropped, renamed to nothing, or closed is not held
# up and not asked for; what a restore brings in is left alone until the database
# is in use; nothing happens without the extension, nor in a server that keeps its
# processes for others.
#
# Bugs that this catches: a maintenance process in a standby, or none after its
# promotion; DROP DATABASE that waits for one; a crash, or a log full of errors,
# where the extension or the database is gone; orders cancelled in a copy that
# nobody uses.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use OrderIdempotency::Node;
use OrderIdempotency::Sessions;
use OrderIdempotency::Upkeep;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $api = 'order_idempotency';
my $node = new_node('operations', streaming => 1);

# One order with a deadline.
sub create
{
	my ($key, $within, $db, $server) = @_;

	($server // $node)->safe_psql($db // 'postgres',
		"SELECT $api.create_order('$key', 100, 'EUR', 'alice', pay_within => '$within')");
	return;
}

# Waits until an order is cancelled.
sub cancelled
{
	my ($key, $what, $db, $server) = @_;

	ok( ($server // $node)->poll_query_until($db // 'postgres',
			"SELECT state = 'cancelled' FROM $api.orders WHERE key = '$key'"),
		$what);
	return;
}

# A database whose maintenance is busy with an order for 2 s, again and again.
sub busy_database
{
	my ($db) = @_;

	$node->safe_psql('postgres', "CREATE DATABASE $db");
	create_extension($node, $db);
	$node->safe_psql($db, <<~"SQL");
		CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(1000); RETURN NULL; END';
		CREATE TRIGGER slow AFTER UPDATE ON $api.orders FOR EACH ROW EXECUTE FUNCTION slow();
		SELECT $api.create_order('o' || i, 100, 'EUR', 'alice', pay_within => '1 ms') FROM generate_series(1, 50) i;
		SQL
	$node->poll_query_until('postgres', <<~"SQL") or die "nobody is busy in $db";
		SELECT count(*) = 1 FROM pg_stat_activity
		WHERE backend_type = 'order_idempotency maintenance' AND datname = '$db' AND wait_event = 'PgSleep'
		SQL
	return;
}

# Dropped while a visit is in the middle of its work.
foreach my $with ('', ' WITH (FORCE)')
{
	busy_database('doomed');
	my $began = time;
	$node->safe_psql('postgres', "DROP DATABASE doomed$with");
	no_more_than(time - $began, 4, "seconds that DROP DATABASE$with takes beside a visit");
}
create('after-drop', '1 ms');
cancelled('after-drop', 'others go on');

# A drop that fails: the visit was ended, and comes again.
busy_database('stays');
my $guest = $node->background_psql('stays');
$guest->query_safe('SELECT 1');
my ($status, undef, $stderr) = $node->psql('postgres', 'DROP DATABASE stays');
like($stderr, qr/being accessed by other users/, 'a database that cannot be dropped');
$guest->query_safe("DROP TRIGGER slow ON $api.orders");
$guest->quit;
cancelled('o50', 'has its deadlines acted upon', 'stays');

# Closed to connections, and opened again.
create('closed', '3 s', 'stays');
$node->safe_psql('postgres', 'ALTER DATABASE stays ALLOW_CONNECTIONS false');
my $log = -s $node->logfile;
create('beside', '4 s');
cancelled('beside', 'a database beside one that takes no connections');
unlike(slurp_file($node->logfile, $log), qr/FATAL/, 'which nobody tries to visit');
$node->safe_psql('postgres', 'ALTER DATABASE stays ALLOW_CONNECTIONS true');
create('opened', '1 ms', 'stays');
cancelled('closed', 'opened again, it is caught up with', 'stays');
$node->safe_psql('postgres', 'DROP DATABASE stays');

# A fast shutdown in the middle.
busy_database('stopped');
my $began = time;
$node->stop('fast');
no_more_than(time - $began, 10, 'seconds that a fast shutdown takes beside a visit');
$node->start;
$node->safe_psql('postgres', 'DROP DATABASE stopped');

# No process to be had for a while.
$node->append_conf('postgresql.conf', 'max_worker_processes = 2');
$node->restart;
create('no-process', '1 ms');
$node->wait_for_log(qr/WARNING:.*out of background worker slots/);
sql_is($node, "SELECT state FROM $api.orders WHERE key = 'no-process'", 'created', 'no process for maintenance');
$node->append_conf('postgresql.conf', 'max_worker_processes = 8');
$node->restart;
cancelled('no-process', 'with one, what was left is done');

# The extension is dropped and made anew, with a deadline left in the old one.
create('old', '2 s');
$log = -s $node->logfile;
$node->safe_psql('postgres', <<~"SQL");
	DROP EXTENSION order_idempotency;
	SELECT pg_sleep(0) /* without it nothing is due */;
	CREATE EXTENSION order_idempotency;
	SQL
create('new', '3 s');
cancelled('new', 'in a new extension');
unlike(slurp_file($node->logfile, $log), qr/WARNING|FATAL|PANIC/, 'nothing of the old one is missed');
$node->safe_psql('postgres', 'CREATE DATABASE bare');

# A restored database: its orders are left alone until it is in use.
create('kept', '1 day');
create('overdue', '1 day');
$node->safe_psql('postgres', "UPDATE $api.payment_deadlines SET due_at = now() + interval '1 hour'");
my $dump = $node->basedir . '/dump.sql';
$node->command_ok([ 'pg_dump', '-f', $dump, '-d', $node->connstr('postgres') ], 'pg_dump');
append_to_file($dump, "UPDATE $api.payment_deadlines SET due_at = now() - interval '1 hour' WHERE order_key = 'overdue';\n");
$node->safe_psql('postgres', 'CREATE DATABASE restored');
$node->command_ok([ 'psql', '-XqAt', '-v', 'ON_ERROR_STOP=1', '-f', $dump, '-d', $node->connstr('restored') ], 'restored');
$node->restart;
wait_for_scan('restored');
sql_is($node, "SELECT state FROM $api.orders WHERE key = 'overdue'", 'created', 'what was restored is left alone', 'restored');
create('first-write', '1 ms', 'restored');
cancelled('first-write', 'the first write puts it in use', 'restored');
cancelled('overdue', 'then what is overdue is cancelled', 'restored');
sql_is($node, "SELECT state FROM $api.orders WHERE key = 'kept'", 'created', 'and nothing else', 'restored');

# Waits until a database has been visited in the launcher's first round: what comes
# last in the queue is a deadline of the main database.
sub wait_for_scan
{
	my ($db) = @_;

	$node->poll_query_until($db,
		"SELECT count(*) > 0 FROM pg_stat_database WHERE datname = '$db' AND xact_commit > 0") or die;
	create("scan-$db", '1 ms');
	cancelled("scan-$db", 'a visit elsewhere');
	return;
}

# A standby: idle, then promoted.
$node->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$standby->start;
create('crossing', '2 s');
create('paid', '2 s');
$node->safe_psql('postgres', "SELECT $api.transition_order('paid', 'paid')");
$node->wait_for_catchup($standby);
is($standby->safe_psql('postgres', "SELECT count(*) FROM pg_stat_activity WHERE backend_type ~ '^order_idempotency'"),
	'0', 'no process of ours in a standby');
$node->stop('immediate');
$standby->promote;
cancelled('crossing', 'after its promotion it acts on what is due', 'postgres', $standby);
is($standby->safe_psql('postgres', "SELECT state FROM $api.orders WHERE key = 'paid'"), 'paid', 'and leaves what was paid');
consistent($standby, 'after the promotion');

unlike(slurp_file($_->logfile), qr/TRAP|PANIC|terminated by signal/, 'nothing crashed') foreach $node, $standby;
done_testing();
