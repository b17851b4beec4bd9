# Promises 6 and 10: what is said of a subscription is in effect when the function
# returns, in a transaction block too, is rolled back with it, and does not wait
# for a receiver that hangs; the place in the log is never lost.
#
# Bugs that this catches, each planted and seen to fail: a pause that returns while
# a delivery is under way, or while the sink of a worker that ends is not stopped; a worker that goes on with what it had read before a
# seek or an alter; redrive out of order; a seek that skips what commits late.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use OrderIdempotency::Drain;
use OrderIdempotency::Faulty;
use OrderIdempotency::Node;
use OrderIdempotency::Sessions;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $api = 'order_idempotency';
my $node = new_faulty_node('control');
my $pool = OrderIdempotency::Sessions->new($node, 2);

sub status
{
	my ($name, $columns) = @_;

	return $node->safe_psql('postgres',
		"SELECT $columns FROM $api.subscription_status WHERE name = '$name'");
}

# How many attempts the sink of a subscription has seen.
sub seen
{
	my ($name) = @_;

	return scalar(attempts($node, $name));
}

# Waits until the sink of a subscription is at an event.
sub wait_for_attempt
{
	my ($name, $key) = @_;
	my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;

	until (grep { $_->[2] eq $key } attempts($node, $name))
	{
		die "no attempt at $key" if time > $deadline;
		select undef, undef, undef, 0.01;
	}
	return;
}

# Pause while events come in: nothing is delivered after it returned.
subscribe_faulty($node, 'steady', '{"batch_size": 3}');
foreach my $round (1 .. 10)
{
	$node->safe_psql('postgres', join '', map { order_events('steady', [ "s-$_", 'slow:3' ]) } 1 .. 30);
	$node->safe_psql('postgres', "SELECT $api.pause_subscription('steady')");
	my $before = seen('steady');
	$node->safe_psql('postgres', order_events('steady', [ 's-1' ]));
	my $wait = $round == 1 ? 0.5 : 0.05;
	select undef, undef, undef, $wait;    # a delivery under way would show by then
	is(seen('steady'), $before, "round $round: nothing after pause_subscription");
	is(status('steady', 'state'), 'paused', 'and it says so') if $round == 1;
	$node->safe_psql('postgres', "SELECT $api.resume_subscription('steady')");
}
drained($node, 'steady');
keys_in_order($node, 'steady', 'paused and resumed');
is(scalar(delivered_keys($node, 'steady')), 310, 'all of it came, once');

# Pause while the worker ends in the middle of a delivery: its sink has stopped when it returns.
subscribe_faulty($node, 'ending');
$node->safe_psql('postgres', "ALTER SERVER ending OPTIONS (ADD shutdown 'slow');" . order_events('ending', [ 'e-1', 'hang' ]));
wait_for_attempt('ending', 'e-1');
$node->safe_psql('postgres', "SELECT pg_terminate_backend(pid) FROM $api.subscription_status WHERE name = 'ending'");
$node->safe_psql('postgres', "SELECT $api.pause_subscription('ending')");
ok(-e faulty_log($node, 'ending') . '.stopped', 'the sink of a worker that was ended has stopped when pause_subscription returns');
$node->safe_psql('postgres', "SELECT $api.resume_subscription('ending')");
drained($node, 'ending');
is(join(' ', delivered_keys($node, 'ending')), 'e-1', 'and what it was at goes on');
$node->safe_psql('postgres', "SELECT $api.drop_subscription('ending')");

# In a transaction block: in effect at once, and rolled back with it.
$pool->run(0, "BEGIN; SELECT $api.pause_subscription('steady');");
my $before = seen('steady');
$node->safe_psql('postgres', order_events('steady', [ 'block' ]));
wait_for_sql($node, <<~"SQL", 'the worker waits for the transaction');
	SELECT count(*) = 1 FROM pg_locks WHERE locktype = 'object' AND NOT granted
	SQL
is(seen('steady'), $before, 'and delivers nothing');
$pool->run(0, 'ROLLBACK;');
drained($node, 'steady');
is((delivered_keys($node, 'steady'))[-1], 'block', 'rolled back, it goes on');
$pool->run(0, "BEGIN; SELECT $api.pause_subscription('steady'); PREPARE TRANSACTION 'pause';");
$node->safe_psql('postgres', order_events('steady', [ 'prepared' ]));
$node->safe_psql('postgres', "COMMIT PREPARED 'pause'");
wait_for_sql($node, "SELECT state = 'paused' AND pid IS NULL FROM $api.subscription_status WHERE name = 'steady'",
	'COMMIT PREPARED pauses it');
isnt((delivered_keys($node, 'steady'))[-1], 'prepared', 'with what came after PREPARE undelivered');
$node->safe_psql('postgres', "SELECT $api.resume_subscription('steady')");
drained($node, 'steady');

# A receiver that hangs.
subscribe_faulty($node, 'hung');
$node->safe_psql('postgres', order_events('hung', [ 'h', 'hang' ], [ 'h' ]));
wait_for_attempt('hung', 'h');
my $began = time;
$node->safe_psql('postgres', "SELECT $api.pause_subscription('hung')");
cmp_ok(time - $began, '<', 10, 'pause does not wait for a receiver that hangs');
is(status('hung', 'delivered, parked, lag_events'), '0|0|2', 'what became of the delivery is not known');
$node->safe_psql('postgres', "SELECT $api.resume_subscription('hung')");
drained($node, 'hung');
keys_in_order($node, 'hung', 'hung');

# Alter: filters, options, server; the place stays.
subscribe_faulty($node, 'altered');
$node->safe_psql('postgres', order_events('altered', [ 'a-1' ]));
drained($node, 'altered');
$node->safe_psql('postgres', "SELECT $api.pause_subscription('altered');" . order_events('altered', [ 'a-2' ])
	  . order_events('other', [ 'a-3' ]));
$node->safe_psql('postgres', <<~"SQL");
	SELECT $api.alter_subscription('altered', server => 'steady', event_types => '{}', options => '{"batch_size": 7}');
	SELECT $api.resume_subscription('altered');
	SQL
drained($node, 'altered');
is(join(' ', (delivered_keys($node, 'steady'))[ -2, -1 ]), 'a-2 a-3', 'another server, all types');
is(join(' ', delivered_keys($node, 'altered')), 'a-1', 'nothing more to the old one');
is($node->safe_psql('postgres', "SELECT options FROM $api.subscriptions WHERE name = 'altered'"), '{"batch_size": 7}', 'options');
my $pid = worker_pid($node, 'altered');
$node->safe_psql('postgres', "SELECT $api.alter_subscription('altered', server => 'altered', event_types => ARRAY['altered.event'])");
$node->safe_psql('postgres', order_events('other', [ 'a-4' ]) . order_events('altered', [ 'a-5' ]));
drained($node, 'altered');
is(join(' ', delivered_keys($node, 'altered')), 'a-1 a-5', 'altered while it runs');
is(worker_pid($node, 'altered'), $pid, 'by the same worker');

# Redrive and discard.
subscribe_faulty($node, 'dead');
$node->safe_psql('postgres', order_events('dead', [ 'd-1', 'reject' ], [ 'd-2', 'reject' ], [ 'd-3', 'reject' ],
	map { ([ 'd-1' ], [ 'd-2' ], [ 'd-3' ], [ 'fine' ]) } 1 .. 5));
wait_for_sql($node, "SELECT dead = 3 AND parked = 15 AND delivered = 5 FROM $api.subscription_status WHERE name = 'dead'",
	'three dead letters, and what waits behind them');
my $id = $node->safe_psql('postgres', "SELECT event_id FROM $api.dead_letters WHERE key = 'd-1'");
is($node->safe_psql('postgres', "SELECT $api.redrive('dead', event_id => '$id')"), '1', 'one is redriven');
wait_for_sql($node, "SELECT dead = 2 AND parked = 10 AND delivered = 11 FROM $api.subscription_status WHERE name = 'dead'",
	'and its key goes on');
is($node->safe_psql('postgres', "SELECT $api.discard('dead', key => 'd-2')"), '1', 'a key is discarded');
wait_for_sql($node, "SELECT dead = 1 AND parked = 5 AND delivered = 16 FROM $api.subscription_status WHERE name = 'dead'",
	'and what waited behind it goes out');
$node->safe_psql('postgres', "BEGIN; SELECT $api.discard('dead', everything => true); ROLLBACK");
is($node->safe_psql('postgres', "SELECT $api.redrive('dead', everything => true)"), '1', 'everything, of which one is left');
drained($node, 'dead');
is(status('dead', 'dead, parked, delivered'), '0|0|22', 'all but the discarded one was delivered');
keys_in_order($node, 'dead', 'redriven');

# Resume closes the breaker.
subscribe_faulty($node, 'down');
append_to_file(faulty_log($node, 'down') . '.down', '');
$node->safe_psql('postgres', join '', 'BEGIN;', (map { order_events('down', [ "x-$_" ]) } 1 .. 20), 'COMMIT');
wait_for_sql($node, "SELECT retried >= 4 FROM $api.subscription_status WHERE name = 'down'", 'a receiver that is down');
unlink faulty_log($node, 'down') . '.down' or die;
$node->safe_psql('postgres', "SELECT $api.resume_subscription('down'); SELECT $api.redrive('down', everything => true)");
drained($node, 'down');
is(scalar(delivered_keys($node, 'down')), 20, 'resumed');

# Seek: back, to a time, to the end; what commits late is not skipped.
subscribe_faulty($node, 'moved');
$node->safe_psql('postgres', order_events('moved', map { [ "m-$_" ] } 1 .. 5));
drained($node, 'moved');
my $third = $node->safe_psql('postgres', "SELECT position FROM $api.outbox WHERE key = 'm-3'");
$pool->run(1, 'BEGIN;' . order_events('moved', [ 'late' ]));
$node->safe_psql('postgres', order_events('moved', [ 'm-6' ]));
is($node->safe_psql('postgres', "SELECT $api.seek_to_position('moved', $third) = $third"), 't', 'a seek back');
drained($node, 'moved');
is(join(' ', delivered_keys($node, 'moved')), 'm-1 m-2 m-3 m-4 m-5 m-6 m-4 m-5 m-6', 'delivers again what is above')
  or diag(join ' ', delivered_keys($node, 'moved'));
$node->safe_psql('postgres', "SELECT $api.seek_to_position('moved', 9223372036854775807)");
$pool->run(1, 'COMMIT;');
drained($node, 'moved');
is((delivered_keys($node, 'moved'))[-1], 'late', 'what commits after a seek to the end is delivered');
$node->safe_psql('postgres', "SELECT $api.seek_to_time('moved', (SELECT created_at FROM $api.outbox WHERE key = 'm-5'))");
drained($node, 'moved');
my @again = delivered_keys($node, 'moved');
is(join(' ', @again[ 10 .. $#again ]), 'm-5 late m-6', 'a seek to a time');
$node->safe_psql('postgres', "SELECT $api.pause_subscription('moved'); SELECT $api.seek_to_position('moved', 0)");
is(status('moved', 'lag_events'), '7', 'the lag after a seek');
$node->safe_psql('postgres', "SELECT $api.seek_to_position('moved', 9223372036854775807)");
is(status('moved', 'lag_events'), '0', 'and at the end');

# Dropped with all that it failed to deliver.
$node->safe_psql('postgres', order_events('dead', [ 'd-9', 'reject' ]));
wait_for_sql($node, "SELECT dead = 1 FROM $api.subscription_status WHERE name = 'dead'", 'one more dead letter');
$node->safe_psql('postgres', "SELECT $api.drop_subscription('dead')");
is($node->safe_psql('postgres', "SELECT count(*) FROM $api.failed_events WHERE key LIKE 'd-%'"), '0', 'drop_subscription');

$pool->quit;
$node->stop;
unlike(slurp_file($node->logfile), qr/TRAP|PANIC|terminated by signal|you don't own a lock/, 'nothing went wrong in the log');
done_testing();
