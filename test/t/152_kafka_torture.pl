# Promises 4, 6 and 7 with the sink "kafka": who reads what is committed sees every event
# exactly once, and those of a key in order, although workers are told to end, workers, the
# server and the broker are killed, at every named point of a delivery and of a start, while
# events are written, and some of them are refused. A former primary is shut out, and a
# database that lost its last transactions says so.
#
# By default there are 16 kills. The full run has 200 (make test TESTS=152_kafka_torture
# OI_KAFKA_KILLS=200 FILE_TIMEOUT=5400); docs/sinks.md has its figures, which it says at its end.
#
# Bugs that this catches: no look at the marker at a start (planted and seen to fail). A marker
# outside of its transaction, and a commit of which nothing is known, are for 151.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use OrderIdempotency::Broker;
use OrderIdempotency::Drain;
use OrderIdempotency::Fault;
use OrderIdempotency::Kafka;
use OrderIdempotency::Node;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $api = 'order_idempotency';
my $kills = $ENV{OI_KAFKA_KILLS} // 16;
my $seed = $ENV{OI_SEED} // 152;
my $node = new_node('kafka_torture', streaming => 1, conf => fault_conf() . "max_worker_processes = 24\n");
OrderIdempotency::Kafka::require_kafka($node);

srand($seed);
note "seed $seed, $kills kills";
prepare_faults($node);
my $kafka = OrderIdempotency::Kafka->new($node->basedir . '/kafka');
$kafka->create_topic('torture', 'max.message.bytes' => 30000);
my %n;
my $refusals = 0;

# Events of a few keys in a few transactions, one of which may be one that is refused.
sub write_events
{
	my ($refused) = @_;

	foreach my $part (1 .. 3)
	{
		my $sql = join '', map {
			my $key = 'key-' . int rand 9;
			"SELECT $api.emit_event('torture.event', '$key', '{\"n\": " . ++$n{$key} . "}');"
		} 1 .. 10;

		# of a key that nothing holds, with the next of it in the same batch
		if ($refused && $part == 2)
		{
			my $key = 'refused-' . ++$refusals;

			$sql = "SELECT $api.emit_event('torture.event', '$key', to_jsonb(repeat('x', 50000)));"
			  . "SELECT $api.emit_event('torture.event', '$key', '{\"n\": 1}');$sql";
		}
		$node->safe_psql('postgres', "BEGIN; $sql COMMIT;");
	}
	return;
}

# Checks that the topic has every event of the log but those that are refused once, and that
# those of a key are in order.
sub exactly_once
{
	my ($what) = @_;
	my %logged = map { $_ => 1 } split /\n/, $node->safe_psql('postgres',
		"SELECT event_id FROM $api.outbox WHERE payload ? 'n'");
	my (%times, %last, @wrong);

	foreach my $record ($kafka->records('torture'))
	{
		my $id = $record->{headers}{ce_id}[0];
		my ($n) = $record->{payload} =~ /"n": (\d+)/;

		push @wrong, "ghost $id" if !$logged{$id};
		push @wrong, "$id of $record->{key} twice" if $times{$id}++;
		push @wrong, "$record->{key}: $n after $last{$record->{key}}" if ($last{ $record->{key} } // 0) >= $n;
		$last{ $record->{key} } = $n;
	}
	push @wrong, map { "lost $_" } grep { !$times{$_} } keys %logged;
	my $twice = grep { $_ > 1 } values %times;
	my $missing = grep { !$times{$_} } keys %logged;
	is("$twice twice, $missing missing, " . @wrong . ' wrong', '0 twice, 0 missing, 0 wrong',
		"$what: " . keys(%logged) . ' events exactly once, in order')
	  or diag(join "\n", @wrong > 9 ? @wrong[0 .. 9] : @wrong);
	return @wrong == 0;
}

# Waits until nothing is left but what is behind events that are refused, which are given up,
# so that it is delivered too.
sub settled
{
	$node->safe_psql('postgres', "SELECT $api.resume_subscription('torture')");
	return poll($node, 'postgres', <<~"SQL");
		SELECT (SELECT count($api.discard('torture', event_id => event_id)) FROM $api.dead_letters) >= 0
		   AND lag_events = 0 AND dead = 0 FROM $api.subscription_status
		SQL
}

$node->safe_psql('postgres', <<~"SQL");
	CREATE SERVER torture FOREIGN DATA WRAPPER order_idempotency_kafka
		OPTIONS ("bootstrap.servers" '@{[ $kafka->servers ]}', "message.max.bytes" '1000000');
	SELECT $api.create_subscription('torture', 'torture', NULL, 'torture',
		'{"batch_size": 7, "backoff_min": 20, "backoff_max": 200}');
	SQL
wait_for_worker($node, 'torture');

# What can happen, and at which points of a delivery, and of a start.
my @points = qw(drain:read drain:durable intent:recorded sink:before kafka:begun kafka:sent
  kafka:committed sink:after drain:record drain:recording drain:recorded);
my @starts = qw(kafka:start kafka:started);
my @actions = qw(kill terminate hang-server hang-broker error kill exit hang-broker);
my (%killed, $killed);

# Counts a kill, by where it was.
sub note_kill
{
	my ($action, $point) = @_;

	$killed++;
	$killed{$point}{$action}++;
	return;
}

# One thing that happens at a point while events are written, some of which are refused, and a
# second one at a start after that.
sub strike
{
	my ($i, $action, $point, $again) = @_;

	# only what is refused has a transaction aborted
	my $aborted = $point eq 'kafka:aborted';

	set_fault($node, $point, $action =~ /^hang/ ? 'hang' : $action, n => $aborted ? 1 : 1 + int rand 3);
	set_fault($node, $again, 'kill') if $again;
	eval { write_events($aborted || $i % 5 == 0) };
	ok(wait_for_fault($node, $point), "$i: $action at $point") or return 0;
	if ($action eq 'hang-server')
	{
		kill_server($node);
		end_hang($node, $point);
		$node->start;
	}
	elsif ($action eq 'hang-broker')
	{
		$kafka->kill9;
		end_hang($node, $point);
		$kafka->start;

		# the worker may wait long for the broker that was away
		eval { $node->psql('postgres', "SELECT $api.resume_subscription('torture')") };
	}
	note_kill($action, $point) if $action ne 'error';
	if ($again)
	{
		ok(wait_for_fault($node, $again), "$i: and the start after it killed at $again") or return 0;
		note_kill('kill', $again);
	}
	wait_until_up($node);
	return 1;
}

for (my $i = 1; ($killed // 0) < $kills; $i++)
{
	my $action = $actions[ $i % @actions ];
	my $point = $i % 7 == 6 ? 'kafka:aborted' : $points[ $i * 7 % @points ];

	# every third one happens a second time, to the start after the first
	my $again = $i % 3 == 0 && $action ne 'error' ? $starts[ $i / 3 % @starts ] : undef;

	strike($i, $action, $point, $again) or last;
	next if $i % 12 && $killed < $kills;
	ok(settled(), 'all that is left is delivered');
	exactly_once("after $killed kills") or last;
}
foreach my $point (@starts, @points, 'kafka:aborted')
{
	my $of = $killed{$point} // {};
	my $sum = 0;

	$sum += $_ foreach values %$of;
	note sprintf '%-16s %3d  (%s)', $point, $sum, join ', ', map { "$_ $of->{$_}" } sort keys %$of;
}
note 'kills: ' . ($killed // 0);

$node->stop;
done_testing();
