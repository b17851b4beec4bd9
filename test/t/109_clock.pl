# Promises 6, 9 and 10 where the clock of the server is set ahead, by a year, and back again,
# or another server whose clock is right takes over: nothing waits for that year.  An
# event that was parked, the probe of a receiver that was down, the start of a worker
# that had ended, deadlines that appear below what was looked at, generations.
#
# Bugs that this catches, each planted and seen to fail: a parked event that is due when
# next_at says, whatever failed_at says; a worker that does not notice that the clock went back;
# redrive that writes down what time it is; failed_at by another clock than next_at; a start of a
# worker that waits for a time that was set while the clock was ahead; a generation that
# waits to begin, or to expire, until its own beginning or end.

use strict;
use warnings;

use Fcntl;
use FindBin;
use lib "$FindBin::RealBin/../lib";

use OrderIdempotency::Drain;
use OrderIdempotency::Faulty;
use OrderIdempotency::Node;
use PostgreSQL::Test::Utils;
use Test::More;

my $year = 365 * 86400;
my $api = 'order_idempotency';
my $wall = "$PostgreSQL::Test::Utils::tmp_check/wall_clock";

# Sets the server's clock that many seconds ahead of the true one.
sub set_wall
{
	my ($ahead) = @_;

	# not truncated: the servers have it mapped
	sysopen my $file, $wall, O_WRONLY | O_CREAT or die "could not open $wall: $!";
	syswrite $file, pack('q', $ahead);
	close $file;
	return;
}

set_wall(0);
local $ENV{WALL_CLOCK} = $wall;
my $node = new_faulty_node('clock');
$node->stop;
local $ENV{LD_PRELOAD} = $node->config_data('--pkglibdir') . '/wall_clock.so';
$node->start;

sub status
{
	my ($name, $columns) = @_;

	return $node->safe_psql('postgres',
		"SELECT $columns FROM $api.subscription_status WHERE name = '$name'");
}

# Waits until the status of a subscription is so.
sub wait_for_status
{
	my ($name, $condition, $what) = @_;

	wait_for_sql($node, "SELECT $condition FROM $api.subscription_status WHERE name = '$name'", $what);
	return;
}

# Writes an event of that key, and waits until it is parked for an hour or more, a year ahead.
sub park
{
	my ($name, $key) = @_;

	$node->safe_psql('postgres', order_events($name, [ $key, 'retry' ]));
	wait_for_sql($node, <<~"SQL", "$key is parked");
		SELECT count(*) = 1 FROM $api.parked_events
		WHERE subscription = '$name' AND key = '$key' AND next_at > now() + '20 minutes'
		SQL
	return;
}

subscribe_faulty($node, $_, '{"backoff_min": 3600000}') foreach qw(parked down started);

# In the memory of a worker that goes on.
set_wall($year);
cmp_ok($node->safe_psql('postgres', 'SELECT extract(epoch FROM clock_timestamp())'), '>', time + $year / 2,
	'the clock of the server is ahead');
park('parked', 'in memory');
set_wall(0);
drained($node, 'parked');

# In the table, when a server whose clock is right takes over.
set_wall($year);
park('parked', 'in the table');
$node->stop;
set_wall(0);
$node->start;
drained($node, 'parked');
is(join(',', delivered_keys($node, 'parked')), 'in memory,in the table', 'what was parked while the clock was ahead');

# What fails with the clock right keeps its backoff, when that is set ahead a little and back.
park('parked', 'later');
set_wall(60);
$node->safe_psql('postgres', order_events('parked', ['between']));
wait_for_status('parked', 'delivered = 3', 'a minute ahead');
set_wall(0);
$node->safe_psql('postgres', order_events('parked', ['after']));
wait_for_status('parked', 'delivered = 4 AND parked = 1', 'and back');
is(scalar(grep { $_->[2] eq 'later' } attempts($node, 'parked')), 1, 'what was to wait for an hour does');

# The same with the clock of the workers alone, as other tests set it.
set_ahead($node, $year);
park('parked', 'ahead');
set_ahead($node, 0);
drained($node, 'parked');

# Redriven while the clock is ahead, and not tried there.
$node->safe_psql('postgres', order_events('parked', [ 'dead', 'reject' ]));
wait_for_status('parked', 'dead = 1', 'a dead letter');
set_wall($year);
$node->safe_psql('postgres', <<~"SQL");
	SELECT $api.pause_subscription('parked');
	SELECT $api.redrive('parked', everything => true);
	SQL
set_wall(0);
$node->safe_psql('postgres', "SELECT $api.resume_subscription('parked')");
drained($node, 'parked');
keys_in_order($node, 'parked', 'with a clock that goes back');

# A receiver that is down: the next probe.
set_wall($year);
append_to_file(faulty_log($node, 'down') . '.down', '');
$node->safe_psql('postgres', order_events('down', map { ["d-$_"] } 1 .. 10));
wait_for_status('down', "state = 'retrying' AND last_error IS NOT NULL", 'the receiver is down');
wait_for_sql($node, "SELECT parked > 2 FROM $api.subscription_status WHERE name = 'down'", 'and probed');
set_wall(0);
unlink faulty_log($node, 'down') . '.down';
drained($node, 'down');

# A worker that ends, some times in a row: the next start.
set_wall($year);
foreach my $time (1 .. 4)
{
	wait_for_sql($node, <<~"SQL", "worker number $time");
		SELECT count(*) = 1 FROM pg_stat_activity WHERE application_name = 'order_idempotency started'
		SQL
	$node->safe_psql('postgres', <<~"SQL");
		SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE application_name = 'order_idempotency started'
		SQL
}
set_wall(0);
wait_for_worker($node, 'started');

# Deadlines.  One that a prepared transaction brings appears below what was looked at.  The
# launcher notices within a minute that the clock is ahead; a visit that is asked for, at once.
set_wall($year);
$node->safe_psql('postgres', "SELECT $api.drop_subscription('$_')") foreach qw(parked down started);
$node->safe_psql('postgres', "SELECT $api.create_order('first', 1, 'EUR', pay_within => '1 s')");
wait_for_sql($node, "SELECT state = 'cancelled' FROM $api.orders WHERE key = 'first'", 'a deadline is over');
set_wall(0);
$node->safe_psql('postgres', <<~"SQL");
	BEGIN;
	SELECT $api.create_order('prepared', 1, 'EUR', pay_within => '1 s');
	PREPARE TRANSACTION 'p';
	SQL
$node->safe_psql('postgres', "COMMIT PREPARED 'p'");
$node->safe_psql('postgres', "SELECT $api.create_order('third', 1, 'EUR', pay_within => '3 s')");
wait_for_sql($node, "SELECT count(*) = 2 FROM $api.orders WHERE key IN ('prepared', 'third') AND state = 'cancelled'",
	'deadlines of the year that comes again');

# Generations that began, and ended, while the clock was ahead.
foreach my $store (qw(keys outbox))
{
	my ($table, $write) = $store eq 'keys'
	  ? ('claims', "SELECT $api.claim_key('k-%d')")
	  : ('outbox', "SELECT $api.emit_event('none', 'k-%d')");
	my $newest = "SELECT max(generation) FROM $api.generations WHERE store = '$table'";
	my $ended = "SELECT count(*) FROM $api.generations WHERE store = '$table' AND ended_at";

	$node->safe_psql('postgres', sprintf $write, 1);
	set_wall($year);
	$node->safe_psql('postgres', "CALL $api.rotate_$store('0')");
	$node->safe_psql('postgres', sprintf $write, 2);
	$node->safe_psql('postgres', "CALL $api.rotate_$store('0')");
	my $before = $node->safe_psql('postgres', $newest);
	cmp_ok($node->safe_psql('postgres', "$ended > clock_timestamp() - interval '1 hour'"), '>', 0,
		"$store: one ends while the clock is ahead");
	set_wall(0);
	$node->safe_psql('postgres', sprintf $write, 3);
	$node->safe_psql('postgres', "CALL $api.rotate_$store('1 hour')");
	cmp_ok($node->safe_psql('postgres', $newest), '>', $before, "$store: another one begins");
	is($node->safe_psql('postgres', "$ended > clock_timestamp()"), 0, "$store: none has ended in the future");
	cmp_ok($node->safe_psql('postgres', "$ended > clock_timestamp() - interval '1 hour'"), '>', 0, "$store: nor is it gone");
	$before = $node->safe_psql('postgres', $newest);
	$node->safe_psql('postgres', sprintf $write, 4);
	$node->safe_psql('postgres', "CALL $api.rotate_$store('1 hour')");
	is($node->safe_psql('postgres', $newest), $before, "$store: the next one not before its time");
}
is($node->safe_psql('postgres', "SELECT outcome FROM $api.claim_key('k-2')"),
	'replayed', 'a key that was claimed while the clock was ahead is kept');

$node->stop;
done_testing();
