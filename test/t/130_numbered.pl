# Promises 4, 6 and 7: a sink whose receiver refuses repeats by number gets each event
# exactly once and in the order of its key, through errors, unknown answers, numbers
# that are refused, parking, dead letters, redrive and seek, and although its worker
# and the server are killed at any point.
#
# Two receivers (test/modules/numbered_sink): one refuses an event whose number is not
# above all that it has, the other takes a delivery as a whole, with its number.
#
# Bugs that this catches (each was planted): a delivery that is made before its
# record, a new number for what may be there, an old one for what is surely not there,
# an unknown answer taken for a failure, a batch that is read again after a crash
# instead of what is open of it, a cursor that is moved past events that are open, a bound on
# the size of what is read again.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use OrderIdempotency::Drain;
use OrderIdempotency::Faulty;
use OrderIdempotency::Node;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

my $node = new_node('numbered', conf => "max_worker_processes = 24\n");
my $api = 'order_idempotency';
my $seed = $ENV{OI_SEED} // 130;

plan skip_all => 'the sink of test/modules is not installed'
  if !-e $node->config_data('--pkglibdir') . '/order_idempotency_numbered.so';

note "seed $seed";
srand($seed);
$node->safe_psql('postgres', 'CREATE FOREIGN DATA WRAPPER order_idempotency_numbered');

# A server and a subscription to events of type NAME.event.
sub subscribe_numbered
{
	my ($name, $mode, $options) = @_;
	my $log = faulty_log($node, $name);

	$node->safe_psql('postgres', <<~"SQL");
		CREATE SERVER $name FOREIGN DATA WRAPPER order_idempotency_numbered OPTIONS (log '$log', mode '$mode');
		SELECT $api.create_subscription('$name', '$name', ARRAY['$name.event'], options => '$options');
		SQL
	wait_for_worker($node, $name);
	return;
}

# The events that a receiver has: [ number, index, id, version, key ].
sub taken
{
	my ($name) = @_;
	my $log = faulty_log($node, $name);

	return () if !-e $log;
	return map { [ (split /\t/)[ 1 .. 5 ] ] } grep { /^E/ } split /\n/, slurp_file($log);
}

# Ids of a subscription's events in the order of the log, by key; but for rejected ones.
sub expected
{
	my ($name) = @_;

	return map { [ split /\|/ ] } split /\n/, $node->safe_psql('postgres', <<~"SQL");
		SELECT event_id, key FROM $api.outbox WHERE type = '$name.event' AND payload IS DISTINCT FROM '{"do": "reject"}'
		ORDER BY position
		SQL
}

# Checks that a receiver has each event once, and those of each key in order.
sub check
{
	my ($name, $what) = @_;
	my (%want, %have, %times);

	push @{ $want{ $_->[1] } }, $_->[0] foreach expected($name);
	foreach my $one (taken($name))
	{
		push @{ $have{ $one->[4] } }, $one->[2];
		$times{ $one->[2] }++;
	}
	my @twice = grep { $times{$_} > 1 } keys %times;
	my @wrong = grep { "@{ $want{$_} }" ne "@{ $have{$_} // [] }" } sort keys %want;

	is(scalar @twice, 0, "$what: nothing is there twice");
	is("@wrong[0 .. ($#wrong > 4 ? 4 : $#wrong)]", '', "$what: all is there, each key's events in order");
	return;
}

# Waits until nothing is left to be delivered.
sub wait_for_end
{
	my ($name) = @_;

	ok($node->poll_query_until('postgres', <<~"SQL"), "$name: nothing is left") || diag($node->safe_psql('postgres', "SELECT * FROM $api.subscription_status"));
		SELECT lag_events = 0 AND parked = 0 AND (c.open_log IS NULL) AND (c.open_failed IS NULL)
		FROM $api.subscription_status s JOIN $api.subscriptions n USING (name)
			JOIN $api.subscription_cursors c ON c.subscription = n.id
		WHERE name = '$name'
		SQL
	return;
}

# Writes events of that many keys, with words from a list that is drawn from.  Where one of
# them, as it should, has the server crash before all are written, the rest is not.
sub write_events
{
	my ($name, $n, $keys, $words) = @_;
	my $sql = '';

	foreach my $i (1 .. $n)
	{
		my $key = 'k' . int(rand($keys));
		my $do = $words->[ rand @$words ];
		my $payload = $do ? qq(, '{"do": "$do"}') : '';

		$sql .= "SELECT $api.emit_event('$name.event', '$key'$payload);\n";
	}
	while (1)
	{
		wait_until_up($node);
		last if eval { $node->safe_psql('postgres', $sql); 1 } || $@ =~ /connection to server was lost/;
		# an earlier one had it crash before this was begun
		die $@ if $@ !~ /connection to server on socket .* failed/;
	}
	return;
}

my $options = '{"batch_size": 40, "backoff_min": 1, "backoff_max": 20, "on_dead": "skip", "max_attempts": 1000}';

# Each kind of answer by itself.
subscribe_numbered('refuse', 'refuse', $options);
subscribe_numbered('commit', 'commit', $options);
foreach my $name ('refuse', 'commit')
{
	foreach my $do ('', 'retry', 'reject', 'forget', 'lost', 'error', 'after', 'retry lost after', 'forget forget', 'after error lost')
	{
		write_events($name, $do =~ /error|after/ ? 2 : 4, 3, [$do]);
	}
	wait_for_end($name);
	check($name, "$name, one answer after the other");
	is($node->safe_psql('postgres', "SELECT count(*) FROM $api.dead_letters WHERE subscription = '$name'"), 4,
		"$name: what was rejected is a dead letter");
}

# A batch that is as large as one may be, of which nothing is delivered yet, and then a topic that makes it
# larger: it is read again as a whole.
subscribe_numbered('large', 'refuse', '{"batch_size": 1000}');
$node->safe_psql('postgres', <<~"SQL");
	SELECT count($api.emit_event('large.event', repeat('k', 200) || i % 3, jsonb_build_object('x', repeat('x', 21000)) ||
		CASE WHEN i = 1 THEN '{"do": "error error error error error error"}' ELSE '{}' END::jsonb))
	FROM generate_series(1, 450) i
	SQL
my $open = "open_log IS NOT NULL FROM $api.subscription_cursors c JOIN $api.subscriptions s ON s.id = c.subscription WHERE name = 'large'";
$node->poll_query_until('postgres', "SELECT $open") or die 'no batch';
is($node->safe_psql('postgres', "BEGIN; SELECT $api.alter_subscription('large', topic => 'shop.{type}.{key}') \\g /dev/null\nSELECT $open; COMMIT;"),
	't', 'large: altered while nothing of the batch is delivered');
wait_for_end('large');
cmp_ok((grep { $_->[0] == (taken('large'))[0][0] } taken('large')), '<', 450, 'large: more than one batch');
check('large', 'large: read again with another topic');

# All at once, and the worker and the server killed.
my @words = (('') x 100, ('retry', 'forget', 'lost', 'forget retry', 'retry lost') x 5, 'error', 'after', 'forget after');
my $rounds = $ENV{OI_ROUNDS} // 4;
foreach my $name ('refuse', 'commit')
{
	foreach my $round (1 .. $rounds)
	{
		write_events($name, 150, 25, [ @words, 'gone', 'crash', 'retry gone' ]) if $round % 3 == 0;
		write_events($name, 250, 25, \@words);
		foreach (1 .. 3)
		{
			usleep(rand(150_000));
			$node->psql('postgres', "SELECT pg_terminate_backend(pid) FROM $api.subscription_status WHERE name = '$name'");
		}
		if ($round % 3 == 1)
		{
			$node->stop('immediate');
			$node->start;
		}
	}
	$node->poll_query_until('postgres', 'SELECT true');
	wait_for_end($name);
	check($name, "$name, $rounds rounds of kills");
}

# Seek: what is sought is sent again, under new numbers; nothing is lost.
foreach my $name ('refuse', 'commit')
{
	my $before = scalar taken($name);
	my $position = $node->safe_psql('postgres', "SELECT position FROM $api.outbox WHERE type = '$name.event' ORDER BY position DESC OFFSET 19 LIMIT 1");

	$node->safe_psql('postgres', "SELECT $api.seek_to_position('$name', $position - 1)");
	wait_for_end($name);
	my $again = $node->safe_psql('postgres', qq(SELECT count(*) FROM $api.outbox WHERE type = '$name.event' AND position >= $position AND payload IS DISTINCT FROM '{"do": "reject"}'));
	is(scalar(taken($name)) - $before, $again, "$name: what was sought is there once more");
	is($node->safe_psql('postgres', "SELECT settled = token FROM $api.subscription_cursors c JOIN $api.subscriptions s ON s.id = c.subscription WHERE s.name = '$name'"),
		't', "$name: the last delivery is settled");
}

# A receiver that knows of a later delivery than the database.
$node->safe_psql('postgres', "SELECT $api.pause_subscription('commit')");
my $number = $node->safe_psql('postgres', "SELECT max(token) + 1000000 FROM $api.subscription_cursors");
append_to_file(faulty_log($node, 'commit'), "C\t$number\t1\n");
$node->safe_psql('postgres', "SELECT $api.resume_subscription('commit')");
write_events('commit', 5, 2, ['']);
wait_for_end('commit');
like(slurp_file($node->logfile), qr/receiver of subscription "commit" is ahead of the database/, 'a receiver that is ahead is told of');
cmp_ok((taken('commit'))[-1][0], '>', $number, 'and numbers go on behind what it has');

# A sink that is not numbered goes without a record before each delivery, also when its
# worker has loaded everything anew.
mkdir sink_dir($node) or die;
create_sink($node, 'postgres');
$node->safe_psql('postgres', "SELECT $api.create_subscription('plain', 'files', ARRAY['plain.event'])");
wait_for_worker($node, 'plain');
write_events('plain', 3, 1, ['']);
wait_for_end('plain');
$node->safe_psql('postgres', qq(SELECT $api.alter_subscription('plain', options => '{"batch_size": 2}')));
write_events('plain', 3, 1, ['']);
wait_for_end('plain');
is($node->safe_psql('postgres', "SELECT token FROM $api.subscription_cursors c JOIN $api.subscriptions s ON s.id = c.subscription WHERE s.name = 'plain'"),
	0, 'a plain sink has no numbers');

$node->stop;
done_testing();
