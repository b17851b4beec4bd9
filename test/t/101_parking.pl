# Promise 6 (order per key: one key that fails holds back only itself) and what
# becomes of failures: events are parked by key, with backoff that no clock has to be
# waited for; attempts are bounded; what is given up is a dead letter; all of it
# across crashes.
#
# Bugs that this catches, each planted and seen to fail: an event of a parked key
# that overtakes it; parking and cursor recorded in two transactions (a crash
# between them loses or repeats an event); a poison event that keeps others
# waiting; events behind one that is open sent again by the next worker, or one that is not
# wanted any more; a Retry-After that is not honoured; attempts without end; a breaker
# that parks the world.

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
use Time::HiRes qw(time usleep);

my $api = 'order_idempotency';
my $node = new_faulty_node('parking');

# The numbers of view subscription_status.
sub status
{
	my ($name, $columns) = @_;

	return $node->safe_psql('postgres',
		"SELECT $columns FROM $api.subscription_status WHERE name = '$name'");
}

# Waits until a sink was handed an event.
sub poll_log
{
	my ($name) = @_;
	my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;

	while (time < $deadline)
	{
		return 1 if attempts($node, $name);
		usleep(10_000);
	}
	return 0;
}

# One event among a thousand orders fails.
subscribe_faulty($node, 'one', '{"backoff_min": 3600000}');
$node->safe_psql('postgres', join '', 'BEGIN;',
	(map { order_events('one', [ "o-$_", $_ == 500 ? 'retry' : '' ], [ "o-$_" ]) } 1 .. 1000), 'COMMIT');
my $began = time;
wait_for_sql($node, "SELECT delivered = 1998 FROM $api.subscription_status WHERE name = 'one'",
	'the other 999 orders are delivered');
cmp_ok(time - $began, '<', 60, 'and do not wait for the backoff of an hour');
is(status('one', 'lag_events, parked, dead, retried, state'), '2|2|0|1|idle', 'the failed one and the one behind it are left');
is($node->safe_psql('postgres', <<~"SQL"), "parked|1|t|the event wants: retry\nwaiting|0||", 'and can be seen');
	SELECT state, attempts, next_at BETWEEN now() + '20 minutes' AND now() + '61 minutes', reason
	FROM $api.parked_events WHERE key = 'o-500' ORDER BY position
	SQL
$node->safe_psql('postgres', order_events('one', [ 'o-500' ], [ 'o-501' ]));
wait_for_sql($node, "SELECT parked = 3 AND delivered = 1999 FROM $api.subscription_status WHERE name = 'one'",
	'later events of the key wait, too, those of others do not');
set_ahead($node, 3700);
drained($node, 'one');
is(join(' ', map { $_->[0] } grep { $_->[2] eq 'o-500' } attempts($node, 'one')),
	'retry deliver delivered deliver delivered deliver delivered', 'an hour later they go, in order');
keys_in_order($node, 'one', 'one poison event');
is(status('one', 'delivered, parked'), '2002|0', 'and nothing is left');
set_ahead($node, 0);

# A receiver that says when; attempts that are used up; what is rejected.
subscribe_faulty($node, 'bounds', '{"max_attempts": 3, "backoff_min": 1, "backoff_max": 10}');
$node->safe_psql('postgres', order_events('bounds',
	[ 'later', 'retry:1800000' ], [ 'stubborn', join ' ', ('retry') x 9 ], [ 'stubborn' ], [ 'never', 'reject' ],
	[ 'never' ], [ 'fine' ]));
wait_for_sql($node, "SELECT dead = 2 AND parked = 3 AND delivered = 1 FROM $api.subscription_status WHERE name = 'bounds'",
	'two are given up');
is($node->safe_psql('postgres', "SELECT key, attempts, reason FROM $api.dead_letters ORDER BY key"),
	"never|1|the event wants: reject\nstubborn|3|the event wants: retry", 'with the reason');
is($node->safe_psql('postgres', <<~"SQL"), 't', 'Retry-After is honoured');
	SELECT next_at BETWEEN now() + '29 minutes' AND now() + '31 minutes' FROM $api.parked_events WHERE key = 'later'
	SQL
set_ahead($node, 1700);
$node->safe_psql('postgres', order_events('bounds', [ 'fine' ]));
wait_for_sql($node, "SELECT delivered = 2 FROM $api.subscription_status WHERE name = 'bounds'", 'before that time');
is(scalar(grep { $_->[2] eq 'later' } attempts($node, 'bounds')), 1, 'it is not tried again');
set_ahead($node, 1900);
wait_for_sql($node, "SELECT delivered = 3 FROM $api.subscription_status WHERE name = 'bounds'", 'after it, it is');
set_ahead($node, 0);
is(status('bounds', 'parked, dead, lag_events'), '2|2|2', 'dead events hold their keys');

# on_dead = skip.
subscribe_faulty($node, 'skips', '{"on_dead": "skip"}');
$node->safe_psql('postgres', order_events('skips', [ 'never', 'reject' ], [ 'never' ], [ 'fine' ], [ 'never' ]));
wait_for_sql($node, "SELECT dead = 1 AND delivered = 3 AND parked = 0 FROM $api.subscription_status WHERE name = 'skips'",
	'where they are skipped, the key goes on');
keys_in_order($node, 'skips', 'skipping');

# An event for which the sink fails as a whole.
subscribe_faulty($node, 'error', '{"backoff_min": 3600000}');
$node->safe_psql('postgres', join '', 'BEGIN;',
	(map { order_events('error', [ "e-$_", $_ == 77 ? 'error' x 1 . ' error' x 30 : '' ]) } 1 .. 300), 'COMMIT');
wait_for_sql($node, "SELECT delivered = 299 AND parked = 1 FROM $api.subscription_status WHERE name = 'error'",
	'an event that makes the sink fail is found, and the others go out');
is($node->safe_psql('postgres', "SELECT key FROM $api.parked_events WHERE subscription = 'error'"), 'e-77', 'it is that one');

# A receiver that is down has nothing parked, but for one event now and then.
subscribe_faulty($node, 'down');
append_to_file(faulty_log($node, 'down') . '.down', '');
$node->safe_psql('postgres', join '', 'BEGIN;', (map { order_events('down', [ "d-$_" ], [ "d-$_" ]) } 1 .. 400), 'COMMIT');
wait_for_sql($node, "SELECT state = 'retrying' AND last_error ~ 'down' FROM $api.subscription_status WHERE name = 'down'",
	'a receiver that is down');
wait_for_sql($node, "SELECT retried >= 3 FROM $api.subscription_status WHERE name = 'down'", 'is asked again');
cmp_ok(status('down', 'parked'), '<', 20, 'with one event at a time');
is(status('down', 'lag_events, dead'), '800|0', 'and loses nothing');
unlink faulty_log($node, 'down') . '.down' or die;
drained($node, 'down');
is(scalar(delivered_keys($node, 'down')), 800, 'all of it goes out when it is back');
keys_in_order($node, 'down', 'breaker');

# So it is where each event fails by itself.
subscribe_faulty($node, 'refuses');
$node->safe_psql('postgres', join '', 'BEGIN;', (map { order_events('refuses', [ "r-$_", 'retry retry' ]) } 1 .. 50), 'COMMIT');
wait_for_sql($node, "SELECT retried >= 1 FROM $api.subscription_status WHERE name = 'refuses'", 'a receiver that refuses all');
cmp_ok(status('refuses', 'parked'), '<', 25, 'has few parked');
drained($node, 'refuses');
is(scalar(delivered_keys($node, 'refuses')), 50, 'all of it goes out when it takes them');

# No room for more keys: the subscription waits as a whole, and nothing is lost.
subscribe_faulty($node, 'room', '{"max_parked_keys": 1, "backoff_min": 3600000}');
$node->safe_psql('postgres', join '', 'BEGIN;', (map { order_events('room', [ "f-$_", $_ % 2 ? 'retry retry' : '' ]) } 1 .. 8),
	'COMMIT');
wait_for_sql($node, "SELECT delivered >= 4 FROM $api.subscription_status WHERE name = 'room'", 'others go out');
wait_for_sql($node, <<~"SQL", 'and no more keys are parked than there may be');
	SELECT parked = 1 AND delivered = 7 FROM $api.subscription_status WHERE name = 'room'
	SQL

# What is known of events behind one that stays in its batch is not forgotten with the batch:
# neither that one was delivered, nor that one waits in the table, and goes out from there.
subscribe_faulty($node, 'midst', '{"max_parked_keys": 1, "backoff_min": 3600000}');
$node->safe_psql('postgres', 'BEGIN;'
	. order_events('midst', [ 'a', 'retry retry' ], [ 'b', join ' ', ('retry') x 300 ], [ 'a' ], [ 'c' ]) . 'COMMIT');
wait_for_sql($node, "SELECT parked = 2 AND delivered = 1 FROM $api.subscription_status WHERE name = 'midst'",
	'an event stays in the batch, those around it do not');
$node->safe_psql('postgres', "SELECT $api.pause_subscription('midst')");
wait_for_sql($node, "SELECT state = 'paused' FROM $api.subscription_status WHERE name = 'midst'", 'the worker has ended');
set_ahead($node, 3700);
$node->safe_psql('postgres', "SELECT $api.resume_subscription('midst')");
wait_for_sql($node, "SELECT delivered >= 3 FROM $api.subscription_status WHERE name = 'midst'", 'the next one goes on');
$node->safe_psql('postgres', order_events('midst', ['d']));
wait_for_sql($node, "SELECT key = 'b' FROM $api.parked_events WHERE subscription = 'midst'", 'there is room for the one');
wait_for_sql($node, "SELECT lag_events = 1 FROM $api.subscription_status WHERE name = 'midst'", 'all others are delivered');
is(join(' ', delivered_keys($node, 'midst')), 'c a a d', 'once each');
set_ahead($node, 0);

# What is open is left out when it is not wanted any more, and goes to the server that there is
# then; what was delivered is not.
subscribe_faulty($node, 'narrow', '{"max_parked_keys": 0}');
$node->safe_psql('postgres', 'BEGIN;' . order_events('narrow', [ 'a', join ' ', ('retry') x 300 ], [ 'b' ]) . 'COMMIT');
wait_for_sql($node, "SELECT delivered = 1 FROM $api.subscription_status WHERE name = 'narrow'", 'an event stays in the batch');
my $other_log = faulty_log($node, 'other');
$node->safe_psql('postgres', <<~"SQL");
	CREATE SERVER other FOREIGN DATA WRAPPER order_idempotency_faulty OPTIONS (log '$other_log');
	SELECT $api.alter_subscription('narrow', server => 'other');
	SQL
ok(poll_log('other'), 'it goes to another server');
$node->safe_psql('postgres', "SELECT $api.alter_subscription('narrow', event_types => ARRAY['narrow.other'])");
$node->safe_psql('postgres', "SELECT $api.emit_event('narrow.other', 'c')");
drained($node, 'narrow');
is(join(' ', delivered_keys($node, 'narrow'), delivered_keys($node, 'other')), 'b c', 'until it is not wanted any more');
is(status('narrow', 'parked, dead'), '0|0', 'and nothing is left');

# What became of an event and the cursor are one transaction: where the one cannot be
# written the other is not, and a crash then takes both.
subscribe_faulty($node, 'atomic', '{"backoff_min": 3600000}');
my $pool = OrderIdempotency::Sessions->new($node, 1);
$pool->run(0, "BEGIN; LOCK TABLE $api.failed_events IN SHARE MODE;");
$node->safe_psql('postgres', 'BEGIN;' . order_events('atomic', [ 'bad', 'retry retry' ], [ 'good' ]) . 'COMMIT');
wait_for_sql($node, <<~"SQL", 'the worker cannot write down what failed');
	SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND application_name = 'order_idempotency atomic'
	SQL
is(status('atomic', 'delivered, lag_events, parked'), '0|2|0', 'so it has not moved');
kill_worker($node, 'atomic');
wait_until_up($node);
wait_for_sql($node, "SELECT delivered = 1 AND parked = 1 AND lag_events = 1 FROM $api.subscription_status WHERE name = 'atomic'",
	'after a crash there it does all of it again');

# Crashes, of the worker and with it the server, anywhere.
subscribe_faulty($node, 'crash', '{"backoff_min": 1, "backoff_max": 50, "batch_size": 7}');
foreach my $round (1 .. 6)
{
	my @do = ('retry', 'gone', 'crash', 'retry crash', 'gone retry', 'retry retry');

	$node->safe_psql('postgres', join '', 'BEGIN;',
		(map { order_events('crash', [ "c-$_", $_ == 5 ? $do[ $round - 1 ] : $_ % 3 ? '' : 'retry' ]) } 1 .. 20), 'COMMIT');
	$node->poll_query_until('postgres',
		"SELECT lag_events = 0 FROM $api.subscription_status WHERE name = 'crash'") or die;
}
my (%times, %last, @wrong);
foreach my $one (grep { $_->[0] eq 'delivered' } attempts($node, 'crash'))
{
	my (undef, $position, $key) = @$one;

	# what is repeated after a crash is repeated in order
	push @wrong, "$key: $position after $last{$key}"
	  if defined $last{$key} && $position < $last{$key} && $times{$position} < 1;
	$last{$key} = $position;
	$times{$position}++;
}
is("@wrong", '', 'crashes: no event overtakes another of its key');
is(scalar(keys %times), 120, 'crashes: none is lost');
is(status('crash', 'parked, dead'), '0|0', 'crashes: none is left');

# A copy keeps what is parked, and does not send it.
$node->safe_psql('postgres', order_events('one', [ 'copied', 'retry:900000' ], [ 'copied' ]));
wait_for_sql($node, "SELECT parked = 2 FROM $api.subscription_status WHERE name = 'one'", 'parked');
$node->run_log([ 'pg_dump', '-d', $node->connstr('postgres'), '-f', $node->basedir . '/dump.sql' ]);
$node->safe_psql('postgres', 'CREATE DATABASE copy');
$node->run_log([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('copy'), '-f', $node->basedir . '/dump.sql' ]);
is($node->safe_psql('copy', "SELECT state, parked FROM $api.subscription_status WHERE name = 'one'"), 'disarmed|2',
	'a copy of the database has it, and is disarmed');

$node->stop;
done_testing();
