# Promise 4: an event is not sent before its commit is durable, here and on a
# synchronous standby, although an asynchronous commit is visible before it is.
#
# Rows written by the tables' owner, as an import, commit as the session asks;
# our own functions would raise synchronous_commit.  The WAL writer sleeps, so what
# the worker does not flush is lost when the server is killed.
#
# Bugs that this catches: sending at the end of the wait for a standby although the settings that
# ended it forbid it (planted); making a delivery again whose record may not be durable (planted); sending without a flush of what was read; flushing up
# to a place short of it; not waiting for the standby, or being held up for ever
# when the standbys are no longer asked for.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use OrderIdempotency::Drain;
use OrderIdempotency::Node;
use OrderIdempotency::Sessions;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_drain_node('durable', streaming => 1, conf => <<~'CONF');
	wal_writer_delay = '10s'
	wal_writer_flush_after = 0
	wal_buffers = '64MB'
	checkpoint_timeout = '1h'
	bgwriter_lru_maxpages = 0
	order_idempotency.poll_interval = '10ms'
	CONF

# Imports events, with an asynchronous commit.  A transaction needs its xid before it draws a
# position: a worker that looks between the two would pass over the row for ever.
sub import_events
{
	my ($from, $to, $commit) = @_;

	$node->safe_psql('postgres', <<~SQL);
		SET synchronous_commit = @{[ $commit // 'off' ]};
		INSERT INTO order_idempotency.outbox_0 (position, xid, event_id, key, type, created_at)
		SELECT nextval('order_idempotency.outbox_position'), x.xid,
			   gen_random_uuid(), 'k' || i, 'import', now()
		FROM (SELECT pg_current_xact_id() AS xid OFFSET 0) x, generate_series($from, $to) i
		SQL
	return;
}

# Killed when events are in the file and the worker cannot record that, since its
# row is locked: nothing but the worker itself has flushed their commit.
subscribe($node, 'audit');
my $pool = OrderIdempotency::Sessions->new($node, 1);
foreach my $round (1 .. 5)
{
	my $last = 1000 * $round + 50 * $round;

	$pool->run(0, <<~'SQL');
		BEGIN;
		SELECT FROM order_idempotency.subscription_cursors FOR UPDATE;
		SQL
	import_events(1000 * $round, $last);
	$node->poll_query_until('postgres', <<~'SQL') or die 'the worker does not record';
		SELECT wait_event_type = 'Lock' FROM pg_stat_activity
		WHERE backend_type = 'order_idempotency worker'
		SQL
	like(events_of($node, 'audit.jsonl'), qr/k$last$/, "round $round: sent");

	kill_server($node);
	$node->start;
	$pool->reconnect;
	drained($node, 'audit');
	all_once($node, 'audit.jsonl', "round $round: killed when they were sent");
}
$pool->quit;

# Where a record ends with a page, the next one begins behind the next page's
# header, and no WAL is there yet.  A message fills the page up to the length
# of a commit record, which the same statements have shown before.
$node->safe_psql('postgres', <<~'SQL');
	CREATE PROCEDURE fill_page(commit_length int)
	LANGUAGE plpgsql AS $$
	DECLARE
		page constant int := current_setting('wal_block_size');
		before int;
		overhead int;
	BEGIN
		-- to the first half of a page
		WHILE (pg_current_wal_insert_lsn() - '0/0') % page > page / 2 LOOP
			PERFORM pg_logical_emit_message(false, 'pad', repeat('x', 104));
		END LOOP;
		before := (pg_current_wal_insert_lsn() - '0/0') % page;
		PERFORM pg_logical_emit_message(false, 'pad', repeat('x', 1000));
		overhead := (pg_current_wal_insert_lsn() - '0/0') % page - before - 1000;
		before := (pg_current_wal_insert_lsn() - '0/0') % page;
		PERFORM pg_logical_emit_message(false, 'pad',
			repeat('x', page - before - commit_length - overhead));
	END
	$$;
	SQL
my $log = -s $node->logfile;
my $session = OrderIdempotency::Sessions->new($node, 1, setup => 'SET synchronous_commit = off;');
my $at_boundary = 0;
foreach my $try (1 .. 40)
{
	my ($where, $length) = split /\|/, $session->run(0, <<~"SQL");
		BEGIN;
		SELECT pg_current_xact_id() \\g /dev/null
		SELECT pg_current_wal_insert_lsn() AS before \\gset
		COMMIT;
		SELECT pg_current_wal_insert_lsn() - :'before' AS length \\gset
		BEGIN;
		INSERT INTO order_idempotency.outbox_0 (position, xid, event_id, key, type, created_at)
		SELECT nextval('order_idempotency.outbox_position'), x.xid,
			   gen_random_uuid(), 'page-$try', 'import', now()
		FROM (SELECT pg_current_xact_id() AS xid OFFSET 0) x;
		CALL fill_page(:length);
		COMMIT;
		SELECT (pg_current_wal_insert_lsn() - '0/0') % current_setting('wal_block_size')::int, :length;
		SQL

	$at_boundary++ if $where == 24 || $where == 40;
	drained($node, 'audit');
}
$session->quit;
cmp_ok($at_boundary, '>', 0, 'commits that ended with a page');
unlike(slurp_file($node->logfile, $log), qr/flush request|flush past end|is not satisfied/,
	'no request to flush WAL that is not there');
all_once($node, 'audit.jsonl', 'at the ends of pages');

# A synchronous standby that is away.
$node->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$node->append_conf('postgresql.conf', "synchronous_standby_names = '*'");
$node->reload;
import_events(9000, 9003, 'local');
$node->poll_query_until('postgres', <<~'SQL') or die 'the worker does not wait';
	SELECT count(*) = 1 FROM pg_stat_activity
	WHERE backend_type = 'order_idempotency worker' AND wait_event = 'SyncRep'
	SQL
unlike(events_of($node, 'audit.jsonl'), qr/k9000/, 'nothing is sent without the standby');
$standby->start;
drained($node, 'audit');
like(events_of($node, 'audit.jsonl'), qr/k9000 k9001 k9002 k9003$/, 'but once it has it');
is($standby->safe_psql('postgres',
		q(SELECT count(*) FROM order_idempotency.outbox WHERE key = 'k9000')),
	'1', 'and it has it');
$standby->poll_query_until('postgres',
	q(SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type ~ 'order_idempotency'))
  or die;
pass('no process of ours is on the standby');

# Waiting is no obstacle to a shutdown, nor to a change of mind.
$standby->stop;
import_events(9500, 9501, 'local');
$node->poll_query_until('postgres', <<~'SQL') or die 'the worker does not wait';
	SELECT count(*) = 1 FROM pg_stat_activity
	WHERE backend_type = 'order_idempotency worker' AND wait_event = 'SyncRep'
	SQL
unlike(events_of($node, 'audit.jsonl'), qr/k9500/, 'nothing is sent while it is away');
my $pid = worker_pid($node, 'audit');
my $start = time;
$node->safe_psql('postgres', "SELECT pg_terminate_backend($pid, 5000)");
cmp_ok(time - $start, '<', 5, 'the waiting worker can be terminated');
unlike(events_of($node, 'audit.jsonl'), qr/k9500/, 'and sends nothing when it is');
wait_for_worker($node, 'audit');
$node->append_conf('postgresql.conf', "synchronous_standby_names = ''");
$node->reload;
drained($node, 'audit');
like(events_of($node, 'audit.jsonl'), qr/k9500 k9501$/, 'sent when no standby is asked for');

# A change of mind that says as well that nothing is to be published from here.
my $first = 9600;
foreach my $case ([ "order_idempotency.environment = 'copy'", "order_idempotency.environment = ''" ],
	[ 'order_idempotency.publish = off', 'order_idempotency.publish = on' ])
{
	my ($off, $on) = @$case;

	$node->append_conf('postgresql.conf', "synchronous_standby_names = '*'");
	$node->reload;
	import_events($first, $first, 'local');
	$node->poll_query_until('postgres', <<~'SQL') or die 'the worker does not wait';
		SELECT count(*) = 1 FROM pg_stat_activity
		WHERE backend_type = 'order_idempotency worker' AND wait_event = 'SyncRep'
		SQL
	$node->append_conf('postgresql.conf', "synchronous_standby_names = ''\n$off");
	$node->reload;
	$node->poll_query_until('postgres', <<~'SQL') or die 'the worker goes on waiting';
		SELECT pid IS NULL OR state = 'off' OR lag_events = 0 FROM order_idempotency.subscription_status
		SQL
	unlike(events_of($node, 'audit.jsonl'), qr/k$first/, "$off: nothing is sent any more");
	$node->append_conf('postgresql.conf', $on);
	$node->reload;
	drained($node, 'audit');
	like(events_of($node, 'audit.jsonl'), qr/k$first$/, "$on: sent");
	$first++;
}

# A numbered delivery of an event that failed before, of which nothing is known, so that it is made again: by another
# worker, which was not the one to record it, not before the standby has that record.
SKIP:
{
	skip 'the sink of test/modules is not installed', 1
	  if !-e $node->config_data('--pkglibdir') . '/order_idempotency_numbered.so';

	my $numbered = $node->basedir . '/numbered.log';
	my $waits = <<~'SQL';
		SELECT count(*) = 1 FROM order_idempotency.subscription_status s JOIN pg_stat_activity a USING (pid)
		WHERE s.name = 'numbered' AND a.wait_event = 'SyncRep'
		SQL
	my $attempts = sub { scalar split /\n/, slurp_file("$numbered.tries") };

	$node->safe_psql('postgres', <<~"SQL");
		CREATE FOREIGN DATA WRAPPER order_idempotency_numbered;
		CREATE SERVER numbered FOREIGN DATA WRAPPER order_idempotency_numbered OPTIONS (log '$numbered', mode 'refuse');
		SELECT order_idempotency.create_subscription('numbered', 'numbered', ARRAY['again'], options => '{"backoff_min": 1}');
		SELECT order_idempotency.emit_event('again', 'k', '{"do": "retry forget forget forget forget forget forget forget"}');
		SQL
	$node->poll_query_until('postgres', 'SELECT bool_or(open_failed IS NOT NULL) FROM order_idempotency.subscription_cursors')
	  or die 'no delivery of what failed';
	$node->append_conf('postgresql.conf', "synchronous_standby_names = '*'");
	$node->reload;
	$node->poll_query_until('postgres', $waits) or die 'the worker does not wait';
	my $before = $attempts->();
	$node->safe_psql('postgres', "SELECT pg_terminate_backend(@{[ worker_pid($node, 'numbered') ]}, 180000)");
	$node->poll_query_until('postgres', $waits) or die 'the next worker does not wait';
	is($attempts->(), $before, 'the next worker does not make the delivery again before its record is durable');
	$node->append_conf('postgresql.conf', "synchronous_standby_names = ''");
	$node->reload;
	drained($node, 'numbered');
	$node->safe_psql('postgres', "SELECT order_idempotency.drop_subscription('numbered')");
}

# A standby's launcher begins when it is promoted.
$node->stop('immediate');
$standby->start;
$standby->promote;
$standby->safe_psql('postgres', emit('promoted'));
drained($standby, 'audit');
like(events_of($node, 'audit.jsonl'), qr/ promoted$/, 'the promoted standby goes on');
done_testing();
