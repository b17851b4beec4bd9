# The sink "rabbitmq" against a real RabbitMQ: promises 4 (no event lost), 6 (order per
# key) and 7 (the same id on every attempt), what goes out, and what is made of each
# answer of the broker: confirmed, returned, refused, closed.
#
# Bugs that this catches: a returned message taken for delivered since the broker
# confirms it too (planted, and seen); a confirm of several tags taken for one; an event
# sent while the one before it of its key is refused; a message that breaks the channel
# sent for ever; a certificate that is not checked; a secret in a message.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use JSON::PP;
use OrderIdempotency::Broker;
use OrderIdempotency::Drain;
use OrderIdempotency::Node;
use OrderIdempotency::RabbitMQ;
use OrderIdempotency::Receiver;
use PostgreSQL::Test::Utils;
use Test::More;

my $api = 'order_idempotency';
my $node = new_node('rabbitmq', conf => "max_worker_processes = 24\n");
my $base = $node->basedir;

require_broker([ 'sink rabbitmq (librabbitmq-dev)', OrderIdempotency::Receiver::sink_there($node, 'rabbitmq') ],
	OrderIdempotency::RabbitMQ->requirements);

# TLS, with certificates of the test's own.
sub certificate
{
	my ($name, $subject, @more) = @_;

	run_log([ 'openssl', 'req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-days', '2', '-subj', $subject, @more,
		'-keyout', "$base/$name.key", '-out', "$base/$name.pem" ]) or die 'openssl failed';
	return;
}
certificate('server', '/CN=localhost', '-addext', 'subjectAltName=DNS:localhost');
certificate('authority', '/CN=authority');
run_log($_) or die 'openssl failed'
  foreach [ 'openssl', 'req', '-newkey', 'rsa:2048', '-nodes', '-subj', '/CN=shop',
	'-keyout', "$base/client.key", '-out', "$base/client.csr" ],
  [ 'openssl', 'x509', '-req', '-in', "$base/client.csr", '-CA', "$base/authority.pem", '-CAkey', "$base/authority.key",
	'-CAcreateserial', '-days', '2', '-out', "$base/client.pem" ];
my $tls_port = free_port();
my $broker = OrderIdempotency::RabbitMQ->new("$base/broker",
	plugins => [ 'rabbitmq_consistent_hash_exchange', 'rabbitmq_auth_mechanism_ssl' ], conf => <<~"CONF");
	listeners.ssl.1 = 127.0.0.1:$tls_port
	ssl_options.cacertfile = $base/authority.pem
	ssl_options.certfile = $base/server.pem
	ssl_options.keyfile = $base/server.key
	ssl_options.verify = verify_peer
	ssl_options.fail_if_no_peer_cert = false
	ssl_cert_login_from = common_name
	auth_mechanisms.1 = PLAIN
	auth_mechanisms.2 = EXTERNAL
	max_message_size = 100000
	CONF
$broker->start;
my $port = $broker->port;
my $quorum = { 'x-queue-type' => 'quorum' };
$broker->declare(
	exchanges => [ [ 'events', 'topic', {} ], [ 'narrow', 'direct', {} ],
		[ 'spread', 'x-consistent-hash', { 'hash-header' => 'cloudEvents:partitionkey' } ] ],
	queues => [ [ 'all', $quorum ], [ 'later', $quorum ], (map { [ "part$_", $quorum ] } 1 .. 2),
		[ 'small', { %$quorum, 'x-max-length' => 5, 'x-overflow' => 'reject-publish' } ] ],
	bindings => [ [ 'all', 'events', '#' ], [ 'part1', 'spread', '1' ], [ 'part2', 'spread', '1' ] ]);

# The messages of a queue, as arrived_in_order() takes them.
sub take
{
	return map {
		my $data = $_->{body} ? decode_json($_->{body}) : {};
		+{ %$_, routing_key => $_->{key}, key => $_->{headers}{'cloudEvents:subject'}, n => $data->{n} }
	} $broker->take_all(@_);
}

# What goes out.
my $local = "host '127.0.0.1', port '$port', timeout '3000'";
create_broker_server($node, 'shop', 'rabbitmq', "$local, exchange 'events', max_in_flight '50'");
subscribe_broker($node, 'shop', '{type}.{key}');
$node->safe_psql('postgres', <<"SQL");
SELECT $api.emit_event('shop.event', 'a.#é *', '{"n": 1}', '{"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "note": "ü"}');
SELECT $api.emit_event('shop.event', 'bare');
SQL
drained($node, 'shop');
my ($first, $bare) = take('all');
my ($id, $at) = split /\|/, $node->safe_psql('postgres',
	"SELECT event_id, extract(epoch FROM created_at)::bigint FROM $api.outbox WHERE key LIKE 'a.%'");
is($first->{id}, $id, 'message_id is the event\'s id');
is($first->{routing_key}, 'shop.event.a_x2E_x23_xC3_xA9_x20_x2A', 'no wildcard and no other level by a key');
is("$first->{mode} $first->{content_type} $first->{type} $first->{app_id}",
	'2 application/json shop.event order_idempotency', 'persistent, and what it is');
cmp_ok(abs($first->{timestamp} - $at), '<=', 1, 'its time');
is_deeply(decode_json($first->{body}), { n => 1 }, 'the payload is the body');
my $headers = $first->{headers};
is(join(' ', map { $headers->{"cloudEvents:$_"} } qw(specversion id type source)),
	"1.0 $id shop.event /order_idempotency/postgres", 'attributes');
is("$headers->{'cloudEvents:subject'} $headers->{'cloudEvents:note'}", "a.#\x{e9} * \x{fc}", 'text as it is');
is($headers->{traceparent}, $headers->{'cloudEvents:traceparent'}, 'trace context under its own name too');
is($bare->{body} . ($bare->{content_type} // ''), '', 'no payload: no body and no type');

# Many, of many keys and of one, through a window of 50.
emit_sql($node, 'shop', 2000, 300);
emit_sql($node, 'shop', 100, 1, 5000);
drained($node, 'shop');
my @taken = take('all');
unshift @taken, map { +{ %$_, n => 1, key => $_->{id} } } $first, $bare;
arrived_in_order($node, 'shop', 'a stream of events', \@taken, 0);

# Spread over queues by key: all of a key in one queue.
create_broker_server($node, 'spread', 'rabbitmq', "$local, exchange 'spread'");
subscribe_broker($node, 'spread', 'any');
emit_sql($node, 'spread', 300, 60);
drained($node, 'spread');
my @parts = map { [ take("part$_") ] } 1 .. 2;
my %in_first = map { $_->{key} => 1 } @{ $parts[0] };
cmp_ok(scalar(@{ $parts[$_] }), '>', 0, "queue $_ has its share") foreach 0 .. 1;
is(scalar(grep { $in_first{ $_->{key} } } @{ $parts[1] }), 0, 'no key is in both');
arrived_in_order($node, 'spread', 'spread by key', [ map { @$_ } @parts ], 0);

# Unroutable: confirmed by the broker, and not delivered.
create_broker_server($node, 'narrow', 'rabbitmq', "$local, exchange 'narrow'");
subscribe_broker($node, 'narrow', 'later');
emit_sql($node, 'narrow', 20, 4);
last_error_like($node, 'narrow', qr/no queue is bound for routing key "later".*312 NO_ROUTE/, 'an unroutable message is not delivered');
$broker->declare(bindings => [ [ 'later', 'narrow', 'later' ] ]);
try_again($node, 'narrow');
arrived_in_order($node, 'narrow', 'bound afterwards', [ take('later') ], 0);

# What is behind an event that was returned does not overtake it, though a queue would take it.
create_broker_server($node, 'behind', 'rabbitmq', "$local, exchange 'narrow'");
$broker->declare(queues => [ [ 'behind', $quorum ] ], bindings => [ [ 'behind', 'narrow', 'behind.other' ] ]);
subscribe_broker($node, 'behind', '{type}');
$node->safe_psql('postgres', <<"SQL");
SELECT $api.alter_subscription('behind', event_types => ARRAY['behind.event', 'behind.other']);
BEGIN;
SELECT $api.emit_event('behind.other', 'free', '{"n": 1}');
SELECT $api.emit_event('behind.event', 'held', '{"n": 1}');
SELECT $api.emit_event('behind.other', 'held', '{"n": 2}');
COMMIT;
SQL
last_error_like($node, 'behind', qr/no queue is bound for routing key "behind.event"/, 'one is returned');
$broker->declare(bindings => [ [ 'behind', 'narrow', 'behind.event' ] ]);
try_again($node, 'behind');
is(join(' ', grep { /held/ } map { "$_->{key} $_->{n}" } take('behind')), 'held 1 held 2', 'what is behind it waits');

# A full queue refuses; what is behind a refused event does not overtake it.
create_broker_server($node, 'small', 'rabbitmq', $local);
subscribe_broker($node, 'small', 'small');
emit_sql($node, 'small', 60, 6);
last_error_like($node, 'small', qr/broker refused the message/, 'a full queue is said');
my @small;
wait_for('all of the small queue', sub { push @small, take('small');
	$node->safe_psql('postgres', "SELECT lag_events FROM $api.subscription_status WHERE name = 'small'") eq '0' });
push @small, take('small');
arrived_in_order($node, 'small', 'emptied bit by bit', \@small, 0);

# One message that the broker closes the channel for does not hold up others.
$node->safe_psql('postgres', <<"SQL");
SELECT $api.emit_event('shop.event', 'large', jsonb_build_object('n', 1, 'text', repeat('x', 150000)));
SQL
emit_sql($node, 'shop', 20, 20, 20000);
ok($node->poll_query_until('postgres', <<~SQL), 'a message that is too large is a dead letter');
	SELECT count(*) = 1 AND bool_and(key = 'large' AND reason ~ 'broker said (406|311)') FROM $api.dead_letters
	SQL
$node->safe_psql('postgres', "SELECT $api.discard('shop', key => 'large')");
try_again($node, 'shop');
my %arrived = map { ($_->{n} => 1) } take('all');
is(scalar(keys %arrived), 20, 'the others arrive');

# So is one whose routing key does not fit.
my $long = '/' x 100;
$node->safe_psql('postgres', "SELECT $api.emit_event('shop.event', '$long', '{}')");
ok($node->poll_query_until('postgres', <<~SQL), 'so is one with a routing key that is too long');
	SELECT count(*) = 1 FROM $api.dead_letters WHERE reason = 'routing key is longer than 255 bytes'
	SQL

# What is not there, and who is not let in.
my $canary = 'canary-8c1f27';
create_broker_server($node, 'wrong', 'rabbitmq', "$local, exchange 'missing'", "user 'shop', password '$canary'");
subscribe_broker($node, 'wrong', 'x');
emit_sql($node, 'wrong', 3, 3);
last_error_like($node, 'wrong', qr/could not log in.*403 ACCESS_REFUSED/, 'a user who is not known');
$broker->ctl('add_user', 'shop', "the-$canary");
last_error_like($node, 'wrong', qr/could not log in.*403 ACCESS_REFUSED/, 'a password that is wrong');
$node->safe_psql('postgres', "ALTER USER MAPPING FOR CURRENT_USER SERVER wrong OPTIONS (SET password 'the-$canary')");
$node->safe_psql('postgres', "SELECT $api.resume_subscription('wrong')");
last_error_like($node, 'wrong', qr/could not log in.*530 NOT_ALLOWED/, 'a virtual host that is not his');
$broker->ctl('set_permissions', 'shop', '.*', '^other$', '.*');
$node->safe_psql('postgres', "SELECT $api.resume_subscription('wrong')");
last_error_like($node, 'wrong', qr/exchange cannot be used.*404 NOT_FOUND/, 'an exchange that is not there');
$node->safe_psql('postgres', "ALTER SERVER wrong OPTIONS (SET exchange 'events')");
$node->safe_psql('postgres', "SELECT $api.resume_subscription('wrong')");
last_error_like($node, 'wrong', qr/channel was closed.*403 ACCESS_REFUSED.*exchange 'events'/, 'an exchange that he may not write to');
$broker->ctl('set_permissions', 'shop', '.*', '.*', '.*');
try_again($node, 'wrong');
arrived_in_order($node, 'wrong', 'let in at last', [ take('all') ]);

# The default exchange takes the names of all queues, so applications must not say them.
create_broker_server($node, 'bare', 'rabbitmq', $local);
subscribe_broker($node, 'bare', '{type}');
emit_sql($node, 'bare', 1, 1);
last_error_like($node, 'bare', qr/takes option "exchange"/, 'no queue by the name that an application chose');

# TLS.
create_broker_server($node, 'tls', 'rabbitmq', "host 'localhost', port '$tls_port', tls 'on', exchange 'events'");
subscribe_broker($node, 'tls', 'tls');
emit_sql($node, 'tls', 2, 2);
last_error_like($node, 'tls', qr/TLS|SSL|certificate/i, 'a certificate that nobody vouches for is refused');
$node->safe_psql('postgres', "ALTER SERVER tls OPTIONS (ca_file '$base/server.pem')");
try_again($node, 'tls');
arrived_in_order($node, 'tls', 'TLS', [ take('all') ]);
$node->safe_psql('postgres', "ALTER SERVER tls OPTIONS (SET host '127.0.0.1')");
emit_sql($node, 'tls', 1, 1, 100);
last_error_like($node, 'tls', qr/hostname|TLS|SSL|certificate/i, 'it is not for another name');
is(scalar(take('all')), 0, 'and nothing is sent there');
$broker->ctl('delete_user', 'shop');
$broker->ctl('add_user', 'shop', 'unused');
$broker->ctl('clear_password', 'shop');
$broker->ctl('set_permissions', 'shop', '.*', '.*', '.*');
$node->safe_psql('postgres',
	"ALTER SERVER tls OPTIONS (SET host 'localhost', auth 'external', cert_file '$base/client.pem', key_file '$base/client.key')");
try_again($node, 'tls');
is(scalar(take('all')), 1, 'external authentication, by a certificate of the client\'s');
like($broker->ctl('list_connections', 'user', 'client_properties'), qr/^shop.*order_idempotency tls/m,
	'as whom it is for, under a name for people');

# Options of which one is missing: no attempt is made with half of them.
my $file = "$base/client.pem";
not_configured($node, 'rabbitmq', "$local, exchange 'events', cert_file '$file'", undef, 'options "cert_file" and "key_file" go together');
not_configured($node, 'rabbitmq', "$local, exchange 'events', auth 'external'", undef, 'external authentication takes options');
not_configured($node, 'rabbitmq', "$local, exchange 'events'", "user 'somebody'", 'options "user" and "password" of the user mapping go together');

no_crash($node);
secrets_kept($node, qr/canary-8c1f27/);
$node->stop;
$broker->stop;
done_testing();
