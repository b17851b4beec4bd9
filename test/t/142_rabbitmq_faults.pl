# The sink "rabbitmq" and a RabbitMQ that is away, cut off, silent, standing still, full,
# killed: promises 4 (no event lost), 6 (order per key) and 7 (the same id on every
# attempt), and that a worker in trouble ends when it is told to.
#
# Between sink and broker is a proxy that breaks connections in each way there is.
#
# Bugs that this catches: a message taken for delivered when it is
# sent; an event of a key sent while the one before it is unknown; a library that
# waits in its own function and holds up the worker.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use JSON::PP;
use OrderIdempotency::Broker;
use OrderIdempotency::Drain;
use OrderIdempotency::Node;
use OrderIdempotency::Proxy;
use OrderIdempotency::RabbitMQ;
use OrderIdempotency::Receiver;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $api = 'order_idempotency';
my $node = new_node('rabbitmq_faults', conf => "max_worker_processes = 24\n");

require_broker([ 'sink rabbitmq (librabbitmq-dev)', OrderIdempotency::Receiver::sink_there($node, 'rabbitmq') ],
	OrderIdempotency::RabbitMQ->requirements);

my $broker = OrderIdempotency::RabbitMQ->new($node->basedir . '/broker');
my $proxy = OrderIdempotency::Proxy->new($broker->port);

# A subscription of a name to a queue of its own, through the proxy.
sub subscribe_queue
{
	my ($name, $port) = @_;

	create_broker_server($node, $name, 'rabbitmq', "host '127.0.0.1', port '$port', timeout '1500', heartbeat '3'");
	return subscribe_broker($node, $name, $name);
}

# The messages of a queue, as arrived_in_order() takes them.
sub take
{
	return map { +{ %$_, key => $_->{headers}{'cloudEvents:subject'}, n => decode_json($_->{body})->{n} } }
	  $broker->take_all(@_);
}

# Away at the start.
subscribe_queue('direct', $broker->port);
subscribe_queue('proxied', $proxy->port);
emit_sql($node, 'direct', 50, 5);
last_error_like($node, 'direct', qr/could not connect to broker: Connection refused/, 'a broker that is away is said to be');
ends_in_time($node, 'direct', 'away');
$broker->start;
$broker->declare(queues => [ map { [ $_, { 'x-queue-type' => 'quorum' } ] } qw(direct proxied) ]);
wait_for_worker($node, 'direct');
try_again($node, 'direct');
arrived_in_order($node, 'direct', 'away at the start', [ take('direct') ]);

# Cut off in the middle of answers, again and again.
my @arrived;
my $from = 1;
foreach my $bytes (1, 9, 30, 100, 333, 1000)
{
	$proxy->tell("cut $bytes");
	emit_sql($node, 'proxied', 200, 20, $from);
	$from += 200;
	drained($node, 'proxied');
}
push @arrived, take('proxied');
arrived_in_order($node, 'proxied', 'cut off six times', \@arrived);

# Cut off while nothing is under way: the next delivery does not fail.
my $retried = $node->safe_psql('postgres', "SELECT retried FROM $api.subscription_status WHERE name = 'proxied'");
$proxy->tell('drop');
wait_for('the worker to notice', sub { $broker->ctl('list_connections', 'client_properties') !~ /order_idempotency proxied/ });
emit_sql($node, 'proxied', 10, 10, $from);
$from += 10;
drained($node, 'proxied');
is($node->safe_psql('postgres', "SELECT retried FROM $api.subscription_status WHERE name = 'proxied'"), $retried,
	'a connection that was lost while it was not used is made anew');
push @arrived, take('proxied');

# A black hole: what is sent vanishes, and nobody answers.
$proxy->tell('hole');
emit_sql($node, 'proxied', 30, 10, $from);
$from += 30;
last_error_like($node, 'proxied', qr/no confirm|could not log in|heartbeat|time/i, 'a black hole is an error');
ends_in_time($node, 'proxied', 'black hole');
$proxy->tell('pass');
wait_for_worker($node, 'proxied');
try_again($node, 'proxied');

# Messages arrive, and the answers do not.
$proxy->tell('deaf');
emit_sql($node, 'proxied', 30, 10, $from);
$from += 30;
last_error_like($node, 'proxied', qr/no confirm|could not log in|heartbeat|time/i, 'lost answers are no confirms');
$proxy->tell('pass');
$proxy->tell('drop');
try_again($node, 'proxied');
push @arrived, take('proxied');
arrived_in_order($node, 'proxied', 'lost answers', \@arrived);

# Nobody reads: large messages fill the socket.
$proxy->tell('stall');
$node->safe_psql('postgres', <<"SQL");
SELECT count($api.emit_event('proxied.event', 'k' || n, jsonb_build_object('n', n, 'text', repeat('x', 200000))))
FROM generate_series($from, $from + 59) n;
SQL
$from += 60;
last_error_like($node, 'proxied', qr/./, 'a full socket is an error');
ends_in_time($node, 'proxied', 'full socket');
$proxy->tell('pass');
$proxy->tell('drop');
wait_for_worker($node, 'proxied');
try_again($node, 'proxied');
push @arrived, take('proxied');
arrived_in_order($node, 'proxied', 'full socket', \@arrived);

# Standing still.
$broker->freeze;
emit_sql($node, 'direct', 50, 5, 100);
last_error_like($node, 'direct', qr/no confirm|heartbeat|time/i, 'a broker that stands still is an error');
ends_in_time($node, 'direct', 'standing still');
$broker->thaw;
wait_for_worker($node, 'direct');
try_again($node, 'direct');
my @direct = take('direct');
arrived_in_order($node, 'direct', 'standing still', [ (map { +{ %$_ } } early($node)), @direct ]);

# The events of the subscription "direct" that were taken before: from the log.
sub early
{
	return map { my ($id, $key, $n) = split /\|/; { id => $id, key => $key, n => $n } } split /\n/,
	  $node->safe_psql('postgres', <<~"SQL");
		SELECT event_id, key, payload ->> 'n' FROM $api.outbox
		WHERE type = 'direct.event' AND (payload ->> 'n')::int <= 50 ORDER BY position
		SQL
}

# Short of memory, then of disk: it takes no more messages until it has some again.
my $later = 200;
foreach (
	[ 'memory', [ 'set_vm_memory_high_watermark', '0.000001' ], [ 'set_vm_memory_high_watermark', '0.4' ] ],
	[ 'disk', [ 'set_disk_free_limit', '1000000GB' ], [ 'set_disk_free_limit', '1MB' ] ])
{
	my ($what, $on, $off) = @$_;

	$broker->ctl(@$on);
	emit_sql($node, 'direct', 50, 5, $later);
	$later += 50;
	last_error_like($node, 'direct', qr/broker takes no messages for now \(low on $what\)/, "a $what alarm is said");
	ends_in_time($node, 'direct', "$what alarm");
	wait_for_worker($node, 'direct');
	$broker->ctl(@$off);
	try_again($node, 'direct');
	push @direct, take('direct');
	arrived_in_order($node, 'direct', "$what alarm", [ early($node), @direct ]);
}

# Killed under load, and started again.
emit_sql($node, 'direct', 3000, 30, 1000);
wait_for('some of them to be delivered', sub {
	$node->safe_psql('postgres', "SELECT delivered > 400 FROM $api.subscription_status WHERE name = 'direct'") eq 't' });
$broker->kill9;
emit_sql($node, 'direct', 100, 30, 9000);
last_error_like($node, 'direct', qr/./, 'killed under load');
$broker->start;
try_again($node, 'direct');
push @direct, take('direct');
arrived_in_order($node, 'direct', 'killed under load', [ early($node), @direct ]);

# A shutdown of the database server while the broker is a black hole.
$proxy->tell('hole');
emit_sql($node, 'proxied', 10, 10, $from);
my $begin = time;
$node->stop('fast');
cmp_ok(time - $begin, '<', 5, 'a fast shutdown with a broker that does not answer');
no_crash($node);

$broker->kill9;
done_testing();
