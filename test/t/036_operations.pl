# Promise 10: databases come and go, servers stop and start, the extension is
# dropped: no worker stands in the way, none is left over, and none is missing.
#
# Bugs that this catches: a worker that holds up DROP DATABASE, a fast shutdown or
# DROP EXTENSION; one that crashes or fills the log when its subscription is
# gone; subscriptions of a second database, or those that were not made by
# our function, without a worker; work in spite of publish = off.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use OrderIdempotency::Drain;
use OrderIdempotency::Node;
use OrderIdempotency::Sessions;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_drain_node('operations');
my $api = 'order_idempotency';

# Waits until there are this many workers.
sub workers_are
{
	my ($count, $what) = @_;

	ok( $node->poll_query_until('postgres', <<~SQL), $what);
		SELECT count(*) = $count FROM pg_stat_activity
		WHERE backend_type = 'order_idempotency worker'
		SQL
	return;
}

# A database with a subscription that has sent an event.
sub new_database
{
	my ($db) = @_;

	$node->safe_psql('postgres', qq(CREATE DATABASE "$db"));
	create_extension($node, $db);
	create_sink($node, $db);
	subscribe($node, 'other', db => $db, topic => "'" . ($db =~ tr/a-z//cdr) . ".jsonl'");
	$node->safe_psql($db, emit('first'));
	drained($node, 'other', $db);
	return;
}

# A second database, and a third with an odd name.
subscribe($node, 'audit');
new_database('second');
new_database('odd/ name');
is(events_of($node, 'second.jsonl'), 'first', 'a second database has a worker of its own');
is((read_events($node, 'second.jsonl'))[0]{source}, '/order_idempotency/second', 'its source');
is((read_events($node, 'oddname.jsonl'))[0]{source}, '/order_idempotency/odd%2F%20name',
	'an odd name is escaped');
is(events_of($node, 'audit.jsonl'), '', 'nothing of it comes from the first');
workers_are(3, 'three workers');
sql_is($node, "SELECT count(*) FROM $api.subscription_workers()", '1',
	'each database sees its own');

# Dropped, with and without force; another one of the same name.
$node->safe_psql('postgres', 'DROP DATABASE second WITH (FORCE)');
workers_are(2, 'a database dropped with force');
$node->safe_psql('postgres', 'DROP DATABASE "odd/ name"');
workers_are(1, 'a database dropped without force');
unlink sink_dir($node) . '/second.jsonl';
new_database('second');
is(events_of($node, 'second.jsonl'), 'first', 'another database of the same name');
$node->safe_psql('postgres', 'ALTER DATABASE second ALLOW_CONNECTIONS false');
$node->safe_psql('postgres', 'DROP DATABASE second WITH (FORCE)');
workers_are(1, 'dropped again');

# Restarts: what was not sent before is sent after.
my $pool = OrderIdempotency::Sessions->new($node, 1);
foreach my $mode (qw(fast immediate smart))
{
	$pool->quit;
	$node->safe_psql('postgres', emit("before-$mode"));
	my $began = time;

	$node->stop($mode);
	cmp_ok(time - $began, '<', 10, "stopped, $mode");
	$node->start;
	drained($node, 'audit');
}
is(events_of($node, 'audit.jsonl'), 'before-fast before-immediate before-smart',
	'restarts lose nothing and repeat nothing');
$pool->revive;

# Nothing is sent while publish is off, not by a new worker either.
$node->append_conf('postgresql.conf', 'order_idempotency.publish = off');
$node->reload;
$node->poll_query_until('postgres',
	"SELECT state = 'off' FROM $api.subscription_status WHERE name = 'audit'") or die;
$node->safe_psql('postgres', emit('off-1'));
$node->restart;
$pool->reconnect;
$node->poll_query_until('postgres',
	"SELECT state = 'off' FROM $api.subscription_status WHERE name = 'audit'") or die;
$node->safe_psql('postgres', emit('off-2'));
sql_is($node, "SELECT lag_events FROM $api.subscription_status", '2', 'two are waiting');
unlike(events_of($node, 'audit.jsonl'), qr/off/, 'nothing is sent while publish is off');
$node->append_conf('postgresql.conf', 'order_idempotency.publish = on');
$node->reload;
drained($node, 'audit');
like(events_of($node, 'audit.jsonl'), qr/ off-1 off-2$/, 'it is when it is on');

# Terminated by hand, or its query canceled: another one comes.
foreach my $how (qw(pg_terminate_backend pg_cancel_backend))
{
	my $pid = wait_for_worker($node, 'audit');

	$node->safe_psql('postgres', "SELECT $how($pid)");
	$node->safe_psql('postgres', emit($how));
	drained($node, 'audit');
	like(events_of($node, 'audit.jsonl'), qr/ $how$/, "goes on after $how");
}

# Everything is locked for a while: the worker waits, and can be terminated.
$pool->run(0, "BEGIN; LOCK TABLE $api.subscriptions, $api.subscription_cursors, $api.outbox_0;");
$pool->run(0, emit('locked'));
my $pid = $node->safe_psql('postgres',
	"SELECT pid FROM pg_stat_activity WHERE backend_type = 'order_idempotency worker'");
$node->poll_query_until('postgres',
	"SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = $pid") or die;
sql_is($node, "SELECT pg_terminate_backend($pid, 5000)", 't', 'terminated while it waits for a lock');
$pool->run(0, 'COMMIT;');
drained($node, 'audit');
like(events_of($node, 'audit.jsonl'), qr/ locked$/, 'goes on after the lock');

# Dropped and created while events are coming.
my $file = $node->basedir . '/load.sql';
append_to_file($file, join '', (emit('load') . "\n") x 1500);
$pool->send(0, "\\o /dev/null\n\\i $file\n\\o\n");
foreach my $round (1 .. 8)
{
	$node->safe_psql('postgres', "SELECT $api.drop_subscription('audit')");
	subscribe($node, 'audit');
}
$pool->collect(0);
drained($node, 'audit');
my %count;
$count{ $_->{id} }++ foreach read_events($node, 'audit.jsonl');
is(scalar(grep { $_ > 1 } values %count), 0, 'dropped and created under load: none twice');
$node->safe_psql('postgres', emit('at-last'));
drained($node, 'audit');
like(events_of($node, 'audit.jsonl'), qr/ at-last$/, 'and it works');
workers_are(1, 'by one worker');

# What a dump restores is a row, without a call of our function.
my $log = -s $node->logfile;
$node->safe_psql('postgres', <<~SQL);
	CREATE TABLE dumped AS SELECT * FROM $api.subscriptions;
	CREATE TABLE dumped_cursors AS SELECT * FROM $api.subscription_cursors;
	SELECT $api.drop_subscription('audit');
	INSERT INTO $api.subscriptions SELECT * FROM dumped;
	INSERT INTO $api.subscription_cursors SELECT * FROM dumped_cursors;
	SQL
$node->restart;
$node->safe_psql('postgres', emit('restored'));
drained($node, 'audit');
like(events_of($node, 'audit.jsonl'), qr/ restored$/, 'a restored subscription has a worker');

# The extension is dropped: the worker goes quietly.
$pool->quit;
$log = -s $node->logfile;
$node->safe_psql('postgres', 'DROP EXTENSION order_idempotency CASCADE');
workers_are(0, 'the extension dropped');
unlike(slurp_file($node->logfile, $log), qr/WARNING|FATAL|ERROR|exited with/, 'without a word');
create_extension($node, 'postgres');
create_sink($node, 'postgres');
subscribe($node, 'audit', topic => q('anew.jsonl'));
$node->safe_psql('postgres', emit('anew'));
drained($node, 'audit');
is(events_of($node, 'anew.jsonl'), 'anew', 'and created anew');

# In one transaction, so that the worker never sees it gone: it must not take the
# new one's tables for the old one's, nor a subscription of the same number.
$node->safe_psql('postgres', <<~SQL);
	BEGIN;
	DROP EXTENSION order_idempotency CASCADE;
	CREATE EXTENSION order_idempotency;
	CREATE SERVER files FOREIGN DATA WRAPPER order_idempotency_file
	OPTIONS (path '@{[ sink_dir($node) ]}');
	SELECT $api.create_subscription('audit', 'files', topic => 'at-once.jsonl');
	@{[ emit('at-once') ]}
	COMMIT;
	SQL
drained($node, 'audit');
is(events_of($node, 'at-once.jsonl'), 'at-once', 'dropped and created at once');
is(events_of($node, 'anew.jsonl'), 'anew', 'nothing of it goes where the old one was');

unlike(slurp_file($node->logfile), qr/TRAP|PANIC|terminated by signal (?!9)/, 'nothing crashed');
done_testing();
