# Promises 4 to 7 at every step of a worker: killed, ended, or with an error, or
# together with the whole server, between reading, making durable, sending, the
# sink's answer and the record of it, it loses nothing, sends nothing twice to a
# file, and keeps each key's order, also of what had failed before.
#
# Bugs that this catches, planted and seen to fail: a cursor that is recorded
# before the delivery; what failed recorded in another transaction than the cursor.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use OrderIdempotency::Drain;
use OrderIdempotency::Fault;
use OrderIdempotency::Faulty;
use OrderIdempotency::Node;
use PostgreSQL::Test::Utils;
use Test::More;

my $api = 'order_idempotency';
my @points = qw(drain:read drain:durable sink:before sink:after drain:record drain:recording drain:recorded);
my $node = new_drain_node('faults', conf => fault_conf() . <<~'CONF');
	order_idempotency.max_subscriptions = 40
	max_worker_processes = 48
	CONF
my %n;

prepare_faults($node);

# Writes events of five keys, in three transactions.
sub write_events
{
	foreach my $part (1 .. 3)
	{
		$node->safe_psql('postgres', join '', 'BEGIN;',
			(map { "SELECT $api.emit_event('test', 'key-$_', '{\"n\": " . ++$n{$_} . "}');" } 1 .. 5), 'COMMIT;');
	}
	return;
}

# A point's name as a part of a subscription's.
sub word
{
	my ($point) = @_;

	return $point =~ tr/:/_/r;
}

# A worker that ends in a way that leaves the server up.  All at the same time: one
# that ends again and again is started less and less often.
my %ends = map { my $point = $_; map { ($_ . '_' . word($point) => [ $point, $_ ]) } qw(terminate error) } @points;
foreach my $name (sort keys %ends)
{
	subscribe($node, $name, options => q('{"batch_size": 4}'));
	set_fault($node, @{ $ends{$name} }, n => 2, of => $name);
}
write_events();
foreach my $name (sort keys %ends)
{
	my ($point, $action) = @{ $ends{$name} };

	ok(wait_for_fault($node, $point, of => $name), "$action at $point");
	drained($node, $name);
	all_once($node, "$name.jsonl", "$action at $point");
	in_key_order($node, "$name.jsonl", "$action at $point");
}
is(has_faults($node), 0, 'each had its turn');
$node->safe_psql('postgres', "SELECT $api.drop_subscription('$_')") foreach sort keys %ends;

# One that ends in a way that takes the server's memory along, or with the server.
subscribe($node, 'file', options => q('{"batch_size": 4, "from": "start"}'));
drained($node, 'file');
foreach my $point (@points)
{
	foreach my $action (qw(kill exit hang))
	{
		my $what = ($action eq 'hang' ? 'the server killed' : $action) . " at $point";

		# at another place of the batch each time
		set_fault($node, $point, $action, n => 1 + length($what) % 3);
		eval { write_events() };
		ok(wait_for_fault($node, $point), $what);
		if ($action eq 'hang')
		{
			kill_server($node);
			end_hang($node, $point);
			$node->start;
		}
		wait_until_up($node);
		drained($node, 'file');
		all_once($node, 'file.jsonl', $what);
		in_key_order($node, 'file.jsonl', $what);
	}
}
$node->safe_psql('postgres', "SELECT $api.drop_subscription('file')");

# With events that fail: what is parked, what waits behind it and the cursor
# are recorded together or not at all.
$node->safe_psql('postgres', 'CREATE FOREIGN DATA WRAPPER order_idempotency_faulty');
subscribe_faulty($node, 'parks', '{"batch_size": 6, "backoff_min": 1, "backoff_max": 20}');
my $round = 0;
foreach my $point (@points)
{
	foreach my $nth (1 .. 3)
	{
		$round++;
		set_fault($node, $point, 'kill', n => $nth);
		eval
		{
			$node->safe_psql('postgres', join '', 'BEGIN;',
				(map { order_events('parks', [ "r$round-" . $_ % 5, $_ % 7 == 3 ? 'retry' : '' ]) } 1 .. 15), 'COMMIT;');
		};
		ok(wait_for_fault($node, $point), "killed at $point, time $nth");
		wait_until_up($node);
		drained($node, 'parks');
	}
}
my (%times, %last, @wrong);
foreach my $one (grep { $_->[0] eq 'delivered' } attempts($node, 'parks'))
{
	my (undef, $position, $key) = @$one;

	push @wrong, "$key: $position after $last{$key}"
	  if $position < ($last{$key} // 0) && !$times{$position};
	$last{$key} = $position;
	$times{$position}++;
}
is("@wrong", '', 'with failures: no event overtakes another of its key');
is(scalar(keys %times), 15 * $round, 'with failures: none is lost');
is($node->safe_psql('postgres', "SELECT parked, dead FROM $api.subscription_status WHERE name = 'parks'"),
	'0|0', 'with failures: none is left');
is($node->safe_psql('postgres', "SELECT count(*) FROM $api.failed_events"), '0', 'nor a row of one');

$node->stop;
done_testing();
