# Promise 9, and the launcher's care for its processes: whatever the owner's role
# and the database have for settings, and whatever stands in the path, a worker
# does its work and runs nothing of theirs; where the server has no process or no
# place for a worker, it is said, and made good as soon as there is one.
#
# Bugs that this catches: a query that resolves names by search_path; a session
# that is read-only, or in an isolation level that hides what others commit; a
# start that is not tried again, or all the time; a worker as a superuser.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use OrderIdempotency::Drain;
use OrderIdempotency::Node;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_drain_node('workers', conf => <<~'CONF');
	order_idempotency.max_subscriptions = 4
	CONF
my $api = 'order_idempotency';

# An owner with hostile surroundings.
$node->safe_psql('postgres', <<~SQL);
	CREATE ROLE operator LOGIN;
	SELECT $api.grant_operator('operator');
	GRANT USAGE ON FOREIGN SERVER files TO operator;
	GRANT CREATE ON DATABASE postgres TO operator;
	SET ROLE operator;
	CREATE SCHEMA trap;
	CREATE TABLE trap.caught (what text);
	CREATE FUNCTION trap.caught_int8(bigint, bigint) RETURNS boolean LANGUAGE plpgsql
		AS 'BEGIN INSERT INTO trap.caught VALUES (current_user); RETURN true; END';
	CREATE FUNCTION trap.caught_xid8(xid8, xid8) RETURNS boolean LANGUAGE plpgsql
		AS 'BEGIN INSERT INTO trap.caught VALUES (current_user); RETURN true; END';
	CREATE FUNCTION trap.caught_int4(int, int) RETURNS boolean LANGUAGE plpgsql
		AS 'BEGIN INSERT INTO trap.caught VALUES (current_user); RETURN true; END';
	CREATE FUNCTION trap.unnest(xid8[]) RETURNS SETOF xid8 LANGUAGE plpgsql
		AS 'BEGIN INSERT INTO trap.caught VALUES (current_user); RETURN; END';
	CREATE FUNCTION trap.clock_timestamp() RETURNS timestamptz LANGUAGE plpgsql
		AS 'BEGIN INSERT INTO trap.caught VALUES (current_user); RETURN NULL; END';
	CREATE OPERATOR trap.> (leftarg = bigint, rightarg = bigint, function = trap.caught_int8);
	CREATE OPERATOR trap.= (leftarg = xid8, rightarg = xid8, function = trap.caught_xid8);
	CREATE OPERATOR trap.= (leftarg = int, rightarg = int, function = trap.caught_int4);
	RESET ROLE;
	ALTER ROLE operator SET search_path = trap, pg_catalog;
	ALTER ROLE operator SET default_transaction_read_only = on;
	ALTER ROLE operator SET default_transaction_isolation = 'serializable';
	ALTER ROLE operator SET synchronous_commit = off;
	ALTER ROLE operator SET enable_indexscan = off;
	ALTER ROLE operator SET client_min_messages = debug5;
	ALTER ROLE operator SET row_security = off;
	ALTER ROLE operator SET lock_timeout = 1;
	ALTER ROLE operator SET statement_timeout = 1;
	ALTER ROLE operator SET idle_in_transaction_session_timeout = 1;
	ALTER ROLE operator SET bytea_output = escape;
	ALTER ROLE operator SET TimeZone = 'Asia/Kathmandu';
	ALTER ROLE operator SET DateStyle = 'SQL, DMY';
	SQL
$node->safe_psql('postgres', "SET SESSION AUTHORIZATION operator; SELECT $api.create_subscription('theirs', 'files', event_types => ARRAY['test.event'], options => '{\"batch_size\": 2}')");
wait_for_worker($node, 'theirs');
my $pool = $node->background_psql('postgres');
$pool->query_safe('BEGIN;' . emit('open'));
$node->safe_psql('postgres', emit('one') . emit('two') . emit('three') . emit('no', 'other.type'));
drained($node, 'theirs');
$pool->query_safe('COMMIT;');
$pool->quit;
drained($node, 'theirs');
is(events_of($node, 'theirs.jsonl'), 'one two three open', 'a hostile role\'s worker does its work');
is((grep { $_->{time} !~ /Z$/ } read_events($node, 'theirs.jsonl')) + 0, 0, 'times are in UTC');
sql_is($node, 'SELECT count(*) FROM trap.caught', '0', 'and runs nothing of theirs');
sql_is($node,
	"SELECT usename, backend_type FROM pg_stat_activity WHERE application_name = 'order_idempotency theirs'",
	'operator|order_idempotency worker', 'as its owner');

# The owner may no longer log in, then may again; no loop in between.
my $pid = worker_pid($node, 'theirs');
$node->safe_psql('postgres', "ALTER ROLE operator NOLOGIN; SELECT pg_terminate_backend($pid, 10000)");
my $log = -s $node->logfile;
$node->safe_psql('postgres', emit('nologin'));
$node->wait_for_log(qr/role "operator" is not permitted to log in/, $log);
ok( $node->poll_query_until('postgres',
		"SELECT state IN ('stopped', 'starting') AND last_error ~ 'server log' FROM $api.subscription_status WHERE name = 'theirs'"
	),
	'a worker that cannot start says where to look');
$node->safe_psql('postgres', 'ALTER ROLE operator LOGIN');
drained($node, 'theirs');
like(events_of($node, 'theirs.jsonl'), qr/ nologin$/, 'tried again until it can');
my @starts = slurp_file($node->logfile, $log) =~ /is not permitted to log in/g;
cmp_ok(scalar @starts, '<', 8, 'but not all the time');

# No place in shared memory for a fifth.
subscribe($node, "s$_") foreach 1 .. 3;
$log = -s $node->logfile;
$node->safe_psql('postgres', "SELECT $api.create_subscription('s4', 'files')");
$node->wait_for_log(qr/WARNING:.*have no worker\n.*HINT:.*max_subscriptions/, $log);
$node->safe_psql('postgres', emit('crowd'));
sql_is($node, "SELECT state FROM $api.subscription_status WHERE name = 's4'", 'stopped', 'one too many');
drained($node, "s$_") foreach 1 .. 3;
$node->safe_psql('postgres', "SELECT $api.drop_subscription('s1')");
$node->poll_query_until('postgres',
	q(SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = 'order_idempotency s1'))
  or die;
$node->safe_psql('postgres', "SELECT $api.create_subscription('s5', 'files'); SELECT $api.drop_subscription('s5')");
drained($node, 's4');
is(events_of($node, 's4.jsonl'), 'crowd', 'takes the place of another one');

# No process for one: two for the launchers, one for a scout or a worker.
$node->safe_psql('postgres', "SELECT $api.drop_subscription(name) FROM $api.subscriptions WHERE name <> 's2'");
$node->append_conf('postgresql.conf', 'max_worker_processes = 3');
$node->restart;
wait_for_worker($node, 's2');
$log = -s $node->logfile;
$node->safe_psql('postgres', "SELECT $api.create_subscription('s6', 'files')");
$node->wait_for_log(qr/WARNING:.*out of background worker slots\n.*HINT:.*max_worker_processes/, $log);
ok( $node->poll_query_until('postgres', <<~SQL), 'the status says so');
	SELECT state = 'no process' AND detail ~ 'max_worker_processes' AND pid IS NULL
	FROM $api.subscription_status WHERE name = 's6'
	SQL
$node->safe_psql('postgres', emit('patience'));
drained($node, 's2');
like(events_of($node, 's2.jsonl'), qr/ patience$/, 'those that have a process go on');
$node->safe_psql('postgres', "SELECT $api.drop_subscription('s2')");
drained($node, 's6');
is(events_of($node, 's6.jsonl'), 'patience', 'the others take their turn');
sql_is($node, "SELECT detail FROM $api.subscription_status WHERE name = 's6'", '', 'nothing is wrong then');
unlike(slurp_file($node->logfile), qr/TRAP|PANIC|terminated by signal/, 'nothing crashed');
done_testing();
