# Many events at once, and what a worker's work on them costs.

package OrderIdempotency::Load;

use strict;
use warnings;

use Exporter 'import';
use POSIX ();
use PostgreSQL::Test::Utils;
use Test::More;

our @EXPORT = qw(fill_log wait_delivered cpu_of memory_of blocks_seen);

my $api = 'order_idempotency';

# Writes rows of the log as the tables' owner, each transaction as it would by
# emit_event(): first its xid, then positions in their order.  rows: how many; key:
# an expression of i.  One event of the extension's own ends it, which wakes the workers.
sub fill_log
{
	my ($node, $rows, %opt) = @_;
	my $key = $opt{key} // q('key-' || i % 1000);
	my $type = $opt{type} // 'load';

	$node->safe_psql('postgres', <<~"SQL");
		INSERT INTO $api.outbox_0 (position, xid, event_id, key, type, payload, created_at)
		SELECT nextval('$api.outbox_position'), x.xid, gen_random_uuid(), $key, '$type',
			   jsonb_build_object('n', i), now()
		FROM (SELECT pg_current_xact_id() AS xid OFFSET 0) x, generate_series(1, $rows - 1) i;
		SELECT $api.emit_event('$type', 'last of a load');
		SQL
	return;
}

# Waits until a subscription has delivered so many events in all.
sub wait_delivered
{
	my ($node, $name, $count) = @_;

	return $node->poll_query_until('postgres', <<~"SQL");
		SELECT c.delivered >= $count FROM $api.subscriptions s CROSS JOIN LATERAL
			(SELECT n.delivered FROM $api.subscription_cursors n WHERE n.subscription = s.id ORDER BY n.turn LIMIT 1) c
		WHERE s.name = '$name'
		SQL
}

# Seconds of CPU that a process has had.
sub cpu_of
{
	my ($pid) = @_;
	my $stat = slurp_file("/proc/$pid/stat");

	# behind the command, which may hold anything: state is the first
	my @fields = split / /, $stat =~ s/\A.*\) //sr;
	return ($fields[11] + $fields[12]) / POSIX::sysconf(POSIX::_SC_CLK_TCK());
}

# Kilobytes of memory that are a process's own: what it has now, or, with "HWM",
# the most it ever had, memory of the server that it has seen included.
sub memory_of
{
	my ($pid, $what) = @_;
	my $field = ($what // '') eq 'HWM' ? 'VmHWM' : 'RssAnon';

	return slurp_file("/proc/$pid/status") =~ /^$field:\s+(\d+) kB/m ? $1 : die "no $field of $pid";
}

# How many blocks of the extension's tables and indexes were looked at so far, by
# all processes that have told of it.
sub blocks_seen
{
	my ($node) = @_;

	return $node->safe_psql('postgres', <<~"SQL");
		SELECT sum(heap_blks_read + heap_blks_hit + COALESCE(idx_blks_read + idx_blks_hit, 0))
		FROM pg_statio_all_tables WHERE schemaname = '$api'
		SQL
}

1;
