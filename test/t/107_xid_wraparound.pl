# Promises 4 to 6 and 10 where transaction numbers of 32 bits begin anew, and where their
# epoch is a high one: cursors, late rows, the status and purge_orders() go by numbers of
# 64 bits, or make them of those of 32 that rows have.
#
# Bugs that this catches: a late row whose xid is compared by its low 32 bits.  Planted and
# seen to fail: an order whose row was written before the numbers began anew, and is taken
# for one of the present epoch.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use OrderIdempotency::Drain;
use OrderIdempotency::Node;
use OrderIdempotency::Sessions;
use PostgreSQL::Test::Utils;
use Test::More;

my $api = 'order_idempotency';
my $node = new_drain_node('wraparound');
my @names = qw(small whole);
my $end = 4294967296;
my $n = 0;

subscribe($node, 'small', options => q('{"batch_size": 2}'));
subscribe($node, 'whole');
$node->safe_psql('postgres', 'ALTER DATABASE template0 ALLOW_CONNECTIONS true');

# Has the next transaction have that number, no more than 2^31 from now.
sub jump
{
	my ($xid) = @_;
	my $segment = $node->data_dir . sprintf '/pg_xact/%04X', $xid >> 20;

	$node->command_ok([ 'vacuumdb', '--all', '--freeze', '--quiet' ], 'all rows are frozen');
	$node->stop;
	append_to_file($segment, "\0" x (32 * 8192)) if !-e $segment;
	$node->command_ok([ 'pg_resetwal', '-x', $xid, '-D', $node->data_dir ], "the next transaction is $xid");
	$node->start;
	return;
}

# An event with a number that grows, as a statement.
sub numbered
{
	return "SELECT $api.emit_event('test', 'key', '{\"n\": " . ++$n . '}\');';
}

# Checks that each subscription has everything.
sub all_there
{
	my ($what) = @_;

	foreach my $name (@names)
	{
		drained($node, $name);
		all_once($node, "$name.jsonl", "$what, $name");
		in_key_order($node, "$name.jsonl", "$what, $name");
	}
	return;
}

# An order that is final.
sub final_order
{
	my ($key) = @_;

	$node->safe_psql('postgres', "SELECT FROM $api.create_order('$key', 100, 'EUR'); SELECT FROM $api.cancel_order('$key')");
	return;
}

# Waits until purge_orders() has removed what may go, and checks what is left.  The
# cursors move when events come.
sub purged
{
	my ($left, $what) = @_;

	# it says so where something stays
	local $ENV{PGOPTIONS} = '-c client_min_messages=warning';
	drained($node, $_) foreach @names;
	ok($node->poll_query_until('postgres', <<~"SQL"), $what);
		SELECT ($api.emit_event('test', 'x') IS NULL OR $api.purge_orders('infinity', 1000) >= 0)
		   AND (SELECT COALESCE(string_agg(key, ' ' ORDER BY key), '') FROM $api.orders) = '$left'
		SQL
	return;
}

$node->safe_psql('postgres', numbered()) foreach 1 .. 5;
all_there('at first');
jump(1400000000);
jump(2800000000);
jump($end - 400);
final_order('before');
my $pool = OrderIdempotency::Sessions->new($node, 2);
$pool->run(0, 'BEGIN;' . emit('open') . 'SAVEPOINT a;' . emit('open') . 'RELEASE a;');
$node->safe_psql('postgres', 'BEGIN;' . emit('prepared') x 3 . "PREPARE TRANSACTION 'p'");
final_order('after');
sql_is($node, "SELECT pg_current_xact_id()::text::bigint BETWEEN $end - 400 AND $end - 100", 't', 'some transactions before the end');
$pool->run(1, join '', map { numbered() } 1 .. 600);
sql_is($node, "SELECT pg_current_xact_id()::text::bigint - $end BETWEEN 1 AND 10000", 't', 'numbers begin anew');
sql_is($node, "SELECT txid_current() % $end < 10000", 't', 'those of 32 bits');
all_there('past the end');
purged('after', 'an order of before the end is purged, but none that is younger than an open transaction');
my $xmin = $node->safe_psql('postgres', "SELECT min(pg_snapshot_xmin(behind)::text::bigint) FROM $api.subscription_cursors");
cmp_ok($xmin, '<', $end, 'a cursor knows of transactions from before');
$node->stop('immediate');
$node->start;
$node->safe_psql('postgres', numbered());
all_there('after a crash');
$pool->reconnect;
$node->safe_psql('postgres', "COMMIT PREPARED 'p'; " . numbered());
all_there('a late row from before the end');
is(scalar(grep { $_->{subject} eq 'prepared' } read_events($node, 'small.jsonl')), 3, 'it was there');
is(scalar(grep { $_->{subject} eq 'open' } read_events($node, 'small.jsonl')), 0, 'not that of the session that crashed');
purged('', 'then all are purged');

# A high epoch.
$node->stop;
$node->command_ok([ 'pg_resetwal', '-e', 2000000000, '-D', $node->data_dir ], 'a high epoch');
$node->start;
$pool->reconnect;
$pool->run(0, 'BEGIN;' . emit('high'));
final_order('high');
$node->safe_psql('postgres', numbered()) foreach 1 .. 5;
sql_is($node, "SELECT pg_current_xact_id()::text::bigint > 2000000000 * $end", 't', 'it is in use');
sql_is($node, "SELECT bool_and(lag_events < 20) FROM $api.subscription_status", 't', 'the status does not see what is behind');
all_there('in a high epoch');
purged('high', 'what an open transaction may come before is not purged');
$pool->run(0, 'COMMIT;');
all_there('a late row in a high epoch');
purged('', 'then it is');
$pool->quit;
unlike(slurp_file($node->logfile), qr/TRAP|PANIC|terminated by signal/, 'nothing crashed');
$node->stop;
done_testing();
