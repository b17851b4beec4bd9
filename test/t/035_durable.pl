# Promise 4: an event is not sent before its commit is durable, here and on a
# synchronous standby, although an asynchronous commit is visible before it is.
#
# Rows written by the tables' owner, as an import, commit as the session asks;
# our own functions would raise synchronous_commit.  The WAL writer sleeps, so what
# the worker does not flush is lost when the server is killed.
#
# Bugs that this catches: sending without a flush of what was read; flushing up
# to a place short of it; not waiting for the standby, or being held up for ever
# when the standbys are no longer asked for.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use OrderIdempotency::Drain;
use OrderIdempotency::Node;
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

# Imports events, with an asynchronous commit.
sub import_events
{
	my ($from, $to, $commit) = @_;

	$node->safe_psql('postgres', <<~SQL);
		SET synchronous_commit = @{[ $commit // 'off' ]};
		INSERT INTO order_idempotency.outbox_0 (position, xid, event_id, key, type, created_at)
		SELECT nextval('order_idempotency.outbox_position'), pg_current_xact_id(),
			   gen_random_uuid(), 'k' || i, 'import', now()
		FROM generate_series($from, $to) i
		SQL
	return;
}

subscribe($node, 'audit');
foreach my $round (1 .. 5)
{
	import_events($round * 100, $round * 100 + 50 * $round);
	drained($node, 'audit');
	my @sent = read_events($node, 'audit.jsonl');

	kill_server($node);
	$node->start;
	wait_for_worker($node, 'audit');
	is(scalar @sent, scalar read_events($node, 'audit.jsonl'), "round $round: sent");
	all_once($node, 'audit.jsonl', "round $round: killed when they were sent");
}

# A place just behind a page's header is no end of a record: flush at many
# places in a page.
my $log = -s $node->logfile;
import_events($_, $_ + $_ % 60) foreach 1 .. 150;
drained($node, 'audit');
unlike(slurp_file($node->logfile, $log), qr/flush request|flush past end|is not satisfied/,
	'no request to flush WAL that is not there');
all_once($node, 'audit.jsonl', 'after many small flushes');

# A synchronous standby that is away.
$node->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$node->append_conf('postgresql.conf', "synchronous_standby_names = '*'");
$node->reload;
import_events(1000, 1003, 'local');
$node->poll_query_until('postgres', <<~'SQL') or die 'the worker does not wait';
	SELECT count(*) = 1 FROM pg_stat_activity
	WHERE backend_type = 'order_idempotency worker' AND wait_event = 'SyncRep'
	SQL
unlike(events_of($node, 'audit.jsonl'), qr/k1000/, 'nothing is sent without the standby');
$standby->start;
drained($node, 'audit');
like(events_of($node, 'audit.jsonl'), qr/k1000 k1001 k1002 k1003$/, 'but once it has it');
is($standby->safe_psql('postgres',
		q(SELECT count(*) FROM order_idempotency.outbox WHERE key = 'k1000')),
	'1', 'and it has it');
$standby->poll_query_until('postgres',
	q(SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type ~ 'order_idempotency'))
  or die;
pass('no process of ours is on the standby');

# Waiting is no obstacle to a shutdown, nor to a change of mind.
$standby->stop;
import_events(2000, 2001, 'local');
$node->poll_query_until('postgres', <<~'SQL') or die 'the worker does not wait';
	SELECT count(*) = 1 FROM pg_stat_activity
	WHERE backend_type = 'order_idempotency worker' AND wait_event = 'SyncRep'
	SQL
unlike(events_of($node, 'audit.jsonl'), qr/k2000/, 'nothing is sent while it is away');
my $pid = worker_pid($node, 'audit');
my $start = time;
$node->safe_psql('postgres', "SELECT pg_terminate_backend($pid, 5000)");
cmp_ok(time - $start, '<', 5, 'the waiting worker can be terminated');
unlike(events_of($node, 'audit.jsonl'), qr/k2000/, 'and sends nothing when it is');
wait_for_worker($node, 'audit');
$node->append_conf('postgresql.conf', "synchronous_standby_names = ''");
$node->reload;
drained($node, 'audit');
like(events_of($node, 'audit.jsonl'), qr/k2000 k2001$/, 'sent when no standby is asked for');

# A standby's launcher begins when it is promoted.
$node->stop('immediate');
$standby->start;
$standby->promote;
$standby->safe_psql('postgres', emit('promoted'));
drained($standby, 'audit');
like(events_of($node, 'audit.jsonl'), qr/ promoted$/, 'the promoted standby goes on');
done_testing();
