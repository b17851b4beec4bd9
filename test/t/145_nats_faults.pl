# The sink "nats" and a NATS server that is away, cut off, silent, standing still, full,
# killed: promises 4 (no event lost), 6 (order per key) and 7 (exactly once: the stream
# refuses a repeat by its id), and that a worker in trouble ends when it is told to.
#
# Between sink and server is a proxy that breaks connections in each way there is.
#
# Bugs that this catches: a message taken for stored when it is
# sent; an event of a key sent while the one before it is unknown; a repeat under
# another id; an acknowledgement of an earlier delivery taken for one of this; a library
# that waits in its own function and holds up the worker.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use JSON::PP;
use OrderIdempotency::Broker;
use OrderIdempotency::Drain;
use OrderIdempotency::Nats;
use OrderIdempotency::Node;
use OrderIdempotency::Proxy;
use OrderIdempotency::Receiver;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $api = 'order_idempotency';
my $node = new_node('nats_faults', conf => "max_worker_processes = 24\n");

require_broker([ 'sink nats (libnats-dev)', OrderIdempotency::Receiver::sink_there($node, 'nats') ],
	OrderIdempotency::Nats->requirements);

my $broker = OrderIdempotency::Nats->new($node->basedir . '/broker');
my $proxy = OrderIdempotency::Proxy->new($broker->port);
my %window = (duplicate_window => 3600 * 10**9);

# A subscription of a name to a stream of its own.
sub subscribe_stream
{
	my ($name, $port) = @_;

	create_broker_server($node, $name, 'nats', "url 'nats://127.0.0.1:$port', stream '$name', timeout '1500'");
	return subscribe_broker($node, $name, "$name.{type}");
}

# Checks that a stream has all events of a subscription, once.
sub all_stored
{
	my ($name, $what) = @_;
	my @messages = map {
		+{ id => $_->{headers}{'Nats-Msg-Id'}, key => $_->{headers}{'ce-subject'}, n => decode_json($_->{body})->{n} }
	} $broker->read_stream($name);

	arrived_in_order($node, $name, $what, \@messages, 0);
	return;
}

# Away at the start.
subscribe_stream('direct', $broker->port);
subscribe_stream('proxied', $proxy->port);
emit_sql($node, 'direct', 50, 5);
last_error_like($node, 'direct', qr/could not connect to server nats:.*No server available/i, 'a server that is away is said to be');
ends_in_time($node, 'direct', 'away');
$broker->start;
$broker->stream('CREATE', $_, subjects => ["$_.>"], %window) foreach qw(direct proxied);
wait_for_worker($node, 'direct');
try_again($node, 'direct');
all_stored('direct', 'away at the start');

# Cut off in the middle of answers, again and again.
my $from = 1;
foreach my $bytes (1, 30, 300, 700, 1500, 5000)
{
	$proxy->tell("cut $bytes");
	emit_sql($node, 'proxied', 200, 20, $from);
	$from += 200;
	drained($node, 'proxied');
}
all_stored('proxied', 'cut off six times');

# Cut off while nothing is under way: the next delivery does not fail.
my $failed = $node->safe_psql('postgres', "SELECT last_error_at FROM $api.subscription_status WHERE name = 'proxied'");
my $bytes = $proxy->tell('count');
$proxy->tell('drop');
emit_sql($node, 'proxied', 10, 10, $from);
$from += 10;
drained($node, 'proxied');
cmp_ok($proxy->tell('count'), '>', $bytes, 'a connection that was lost while it was not used is made anew');

# A black hole: what is sent vanishes, and nobody answers.
$proxy->tell('hole');
emit_sql($node, 'proxied', 30, 10, $from);
$from += 30;
last_error_like($node, 'proxied', qr/no acknowledgement|could not connect/i, 'a black hole is an error');
ends_in_time($node, 'proxied', 'black hole');
$proxy->tell('pass');
wait_for_worker($node, 'proxied');
try_again($node, 'proxied');

# Messages arrive, and the answers do not: the stream knows what it has.
$proxy->tell('deaf');
emit_sql($node, 'proxied', 30, 10, $from);
$from += 30;
wait_for('some of them to be stored without an answer', sub { grep { decode_json($_->{body})->{n} >= $from - 30 } $broker->read_stream('proxied') });
$proxy->tell('pass');
$proxy->tell('drop');
try_again($node, 'proxied');
all_stored('proxied', 'lost answers');

# Nobody reads: large messages fill the socket.
$proxy->tell('stall');
$node->safe_psql('postgres', <<"SQL");
SELECT count($api.emit_event('proxied.event', 'k' || n, jsonb_build_object('n', n, 'text', repeat('x', 200000))))
FROM generate_series($from, $from + 59) n;
SQL
$from += 60;
last_error_like($node, 'proxied', qr/could not publish|no acknowledgement|connection was lost/, 'a full socket is an error');
ends_in_time($node, 'proxied', 'full socket');
$proxy->tell('pass');
$proxy->tell('drop');
wait_for_worker($node, 'proxied');
try_again($node, 'proxied');
all_stored('proxied', 'full socket');

# Standing still.
$broker->freeze;
emit_sql($node, 'direct', 50, 5, 100);
last_error_like($node, 'direct', qr/no acknowledgement|could not connect/i, 'a server that stands still is an error');
ends_in_time($node, 'direct', 'standing still');
$broker->thaw;
wait_for_worker($node, 'direct');
try_again($node, 'direct');
all_stored('direct', 'standing still');

# Full, by bytes, until there is room again.
$broker->stream('UPDATE', 'direct', subjects => ['direct.>'], %window, max_bytes => 60000, discard => 'new');
emit_sql($node, 'direct', 300, 30, 200);
last_error_like($node, 'direct', qr/stream answered 10077 maximum bytes exceeded/, 'a full stream is said');
ends_in_time($node, 'direct', 'full');
$broker->stream('UPDATE', 'direct', subjects => ['direct.>'], %window, max_bytes => -1, discard => 'new');
wait_for_worker($node, 'direct');
try_again($node, 'direct');
all_stored('direct', 'full');

# Killed under load, several times, and started again.
foreach my $round (1 .. 4)
{
	my $delivered = $node->safe_psql('postgres', "SELECT delivered FROM $api.subscription_status WHERE name = 'direct'");

	emit_sql($node, 'direct', 3000, 30, $round * 10000);
	wait_for('some of them to be delivered', sub {
		$node->safe_psql('postgres', "SELECT delivered > $delivered + 100 FROM $api.subscription_status WHERE name = 'direct'") eq 't' });
	$broker->kill9;
	$broker->start;
	try_again($node, 'direct');
}
all_stored('direct', 'killed under load four times');

# The database server killed under load.
emit_sql($node, 'direct', 3000, 30, 60000);
kill_server($node);
$node->start;
drained($node, 'direct');
all_stored('direct', 'the database server killed');

# A shutdown of the database server while the broker is a black hole.
$proxy->tell('hole');
emit_sql($node, 'proxied', 10, 10, $from);
my $begin = time;
$node->stop('fast');
cmp_ok(time - $begin, '<', 5, 'a fast shutdown with a server that does not answer');
no_crash($node);

$broker->kill9;
done_testing();
