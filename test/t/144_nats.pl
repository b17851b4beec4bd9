# The sink "nats" against a real NATS server: promises 4 (no event lost), 6 (order per key)
# and 7 (exactly once within the window of the stream), what goes out, and what is made
# of each answer of a stream.
#
# Bugs that this catches: a repeat without the id of the first attempt; an event sent
# while the one before it of its key is refused; a certificate that is not checked; a crash of
# the library at the worker's end (these were planted, or there, and seen); an answer with
# an error taken for a good one; a secret in a message.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use JSON::PP;
use OrderIdempotency::Broker;
use OrderIdempotency::Drain;
use OrderIdempotency::Nats;
use OrderIdempotency::Node;
use OrderIdempotency::Receiver;
use PostgreSQL::Test::Utils;
use Test::More;

my $api = 'order_idempotency';
my $node = new_node('nats', conf => "max_worker_processes = 24\n");
my $base = $node->basedir;

require_broker([ 'sink nats (libnats-dev)', OrderIdempotency::Receiver::sink_there($node, 'nats') ],
	OrderIdempotency::Nats->requirements);

# A key pair in the encoding of NATS, and tokens for it.
mkdir "$base/keys" or die "could not create directory: $!";
my ($out, $err) = run_command([ 'python3', "$FindBin::RealBin/../lib/nats_jwt.py", "$base/keys" ]);
my ($nkey, $nkey_seed, $token, $forged) = split ' ', $out;
like($nkey_seed, qr/^SU/, 'a key pair') or diag($err);
my $canary = 'canary-5d90e1';
my $broker = OrderIdempotency::Nats->new("$base/broker", user => 'admin', password => 'admin', conf => <<~"CONF");
	max_payload: 100000
	accounts {
		SHOP {
			jetstream: enabled
			users: [
				{ user: admin, password: admin },
				{ user: shop, password: "the-$canary" },
				{ user: narrow, password: narrow, permissions: { publish: ["other.>"] } },
				{ nkey: $nkey }
			]
		}
	}
	CONF
$broker->start;
my $port = $broker->port;
$broker->stream('CREATE', 'SHOP', subjects => ['shop.>'], duplicate_window => 600 * 10**9);
$broker->stream('CREATE', 'SMALL', subjects => ['small.>'], max_msgs => 5, discard => 'new', duplicate_window => 600 * 10**9);
$broker->stream('CREATE', 'TINY', subjects => ['tiny.>'], max_msg_size => 1000);

# The messages of a stream, as arrived_in_order() takes them.
sub stored
{
	return map {
		+{ %$_, id => $_->{headers}{'Nats-Msg-Id'}, key => $_->{headers}{'ce-subject'},
			n => $_->{body} ? decode_json($_->{body})->{n} : 1 }
	} $broker->read_stream(@_);
}

# What goes out.
my $url = "url 'nats://127.0.0.1:$port', timeout '3000'";
my $login = "user 'admin', password 'admin'";
create_broker_server($node, 'shop', 'nats', "$url, stream 'SHOP', max_in_flight '50'", $login);
subscribe_broker($node, 'shop', 'shop.{type}.{key}');
$node->safe_psql('postgres', <<"SQL");
SELECT $api.emit_event('shop.event', 'a.> é*', '{"n": 1}', '{"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "note": "a\\r\\nb: c"}');
SELECT $api.emit_event('shop.event', 'bare');
SQL
drained($node, 'shop');
my ($first, $bare) = stored('SHOP');
my $id = $node->safe_psql('postgres', "SELECT event_id FROM $api.outbox WHERE key LIKE 'a.%'");
my $headers = $first->{headers};
is($headers->{'Nats-Msg-Id'}, $id, 'Nats-Msg-Id is the event\'s id');
is($first->{subject}, 'shop.shop.event.a_x2E_x3E_x20_xC3_xA9_x2A', 'no wildcard and no other level by a key');
is(join(' ', map { $headers->{"ce-$_"} } qw(specversion id type source)),
	"1.0 $id shop.event /order_idempotency/postgres", 'attributes');
is($headers->{'ce-subject'}, 'a.>%20%C3%A9*', 'the key, percent-encoded');
is($headers->{'ce-note'}, 'a%0D%0Ab:%20c', 'no header can be smuggled in');
is($headers->{traceparent}, $headers->{'ce-traceparent'}, 'trace context under its own name too');
is($headers->{'Content-Type'}, 'application/json', 'content type');
is($headers->{'Nats-Expected-Stream'}, 'SHOP', 'the stream that it is for');
is_deeply(decode_json($first->{body}), { n => 1 }, 'the payload is the data');
is($bare->{body} . ($bare->{headers}{'Content-Type'} // ''), '', 'no payload: no data and no type');

# Many, of many keys and of one, through a window of 50.
emit_sql($node, 'shop', 2000, 300);
emit_sql($node, 'shop', 100, 1, 5000);
drained($node, 'shop');
arrived_in_order($node, 'shop', 'a stream of events', [ stored('SHOP') ], 0);
unlike(slurp_file($node->logfile), qr/may store events/, 'the window is long enough');

# All of it again: the stream knows the ids.
$node->safe_psql('postgres', "SELECT $api.seek_to_position('shop', 0)");
drained($node, 'shop');
arrived_in_order($node, 'shop', 'all of it sent again', [ stored('SHOP') ], 0);
cmp_ok($node->safe_psql('postgres', "SELECT delivered FROM $api.subscription_status WHERE name = 'shop'"),
	'>=', 4204, 'it was sent twice');

# No stream; then one.
create_broker_server($node, 'nowhere', 'nats', $url, $login);
subscribe_broker($node, 'nowhere', 'nowhere.{type}');
emit_sql($node, 'nowhere', 20, 4);
last_error_like($node, 'nowhere', qr/no stream takes subject "nowhere.nowhere.event"/, 'no stream for the subject');
$broker->stream('CREATE', 'LATER', subjects => ['nowhere.>'], duplicate_window => 10**8);
try_again($node, 'nowhere');
arrived_in_order($node, 'nowhere', 'a stream made afterwards', [ stored('LATER') ], 0);
like(slurp_file($node->logfile), qr/WARNING:.*stream "LATER" may store events of subscription "nowhere" twice\n.*for 100 ms.*after 500 ms/,
	'a window that is shorter than a wait is said');

# Another stream than the one that is meant.
create_broker_server($node, 'meant', 'nats', "$url, stream 'SHOP'", $login);
subscribe_broker($node, 'meant', 'small.meant');
emit_sql($node, 'meant', 1, 1);
last_error_like($node, 'meant', qr/stream answered 10060/, 'another stream than the one meant stores nothing');
$node->safe_psql('postgres', "SELECT $api.alter_subscription('meant', topic => 'shop.meant')");
drained($node, 'meant');

# A full stream refuses; what is behind a refused event does not overtake it.
create_broker_server($node, 'small', 'nats', $url, $login);
subscribe_broker($node, 'small', 'small.{type}');
emit_sql($node, 'small', 60, 6);
last_error_like($node, 'small', qr/stream answered 10077 maximum messages exceeded/, 'a full stream is said');
$broker->stream('UPDATE', 'SMALL', subjects => ['small.>'], max_msgs => 25, discard => 'new', duplicate_window => 600 * 10**9);
wait_for('some more of them', sub { stored('SMALL') == 25 });
$broker->stream('UPDATE', 'SMALL', subjects => ['small.>'], max_msgs => -1, discard => 'new', duplicate_window => 600 * 10**9);
try_again($node, 'small');
arrived_in_order($node, 'small', 'let in bit by bit', [ stored('SMALL') ], 0);

# What is too large for ever does not hold up others.
create_broker_server($node, 'tiny', 'nats', $url, $login);
subscribe_broker($node, 'tiny', 'tiny.{type}');
$node->safe_psql('postgres', <<"SQL");
BEGIN;
SELECT $api.emit_event('tiny.event', 'stream', jsonb_build_object('n', 1, 'text', repeat('x', 2000)));
SELECT $api.emit_event('tiny.event', 'stream', NULL, '{"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}');
COMMIT;
SELECT $api.emit_event('shop.event', 'server', jsonb_build_object('n', 1, 'text', repeat('x', 200000)));
SQL
emit_sql($node, 'shop', 20, 20, 20000);
ok($node->poll_query_until('postgres', <<~SQL), 'messages that are too large are dead letters');
	SELECT string_agg(key || ': ' || reason, ', ' ORDER BY key) =
		'server: message is larger than the server''s max_payload, stream: stream answered 10054 message size exceeds maximum allowed'
	FROM $api.dead_letters
	SQL
is(scalar($broker->read_stream('TINY')), 0, 'what is behind it waits');
$node->safe_psql('postgres', "SELECT $api.discard('tiny', key => 'stream')");
drained($node, 'shop') if $node->safe_psql('postgres', "SELECT $api.discard('shop', key => 'server')");
is(scalar(grep { $_->{n} >= 20000 } stored('SHOP')), 20, 'the others arrive');

# Who is not let in.
create_broker_server($node, 'login', 'nats', $url, "user 'shop', password '$canary'");
subscribe_broker($node, 'login', 'shop.login');
emit_sql($node, 'login', 3, 3);
last_error_like($node, 'login', qr/could not connect to server.*Authorization/i, 'a password that is wrong');
$node->safe_psql('postgres', "ALTER USER MAPPING FOR CURRENT_USER SERVER login OPTIONS (SET user 'narrow', SET password 'narrow')");
$node->safe_psql('postgres', "SELECT $api.resume_subscription('login')");
last_error_like($node, 'login', qr/no acknowledgement for 3000 ms: .*Permissions Violation/i, 'a subject that he may not publish to');
$node->safe_psql('postgres', "ALTER USER MAPPING FOR CURRENT_USER SERVER login OPTIONS (SET user 'shop', SET password 'the-$canary')");
try_again($node, 'login');
$node->safe_psql('postgres', <<"SQL");
ALTER USER MAPPING FOR CURRENT_USER SERVER login OPTIONS (DROP user, DROP password,
	nkey '$nkey',
	nkey_seed '$nkey_seed');
SQL
emit_sql($node, 'login', 1, 1, 10);
try_again($node, 'login');
is(scalar(grep { $_->{headers}{'ce-type'} eq 'login.event' } stored('SHOP')), 4, 'let in at last, with an nkey too');

# TLS.
run_log([ 'openssl', 'req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-days', '2', '-subj', '/CN=localhost',
	'-addext', 'subjectAltName=DNS:localhost', '-keyout', "$base/key.pem", '-out', "$base/cert.pem" ])
  or die 'openssl failed';
my $secure = OrderIdempotency::Nats->new("$base/secure", conf => <<~"CONF");
	tls { cert_file: "$base/cert.pem", key_file: "$base/key.pem" }
	authorization { token: "tok-$canary" }
	CONF
$secure->{ready} = sub { IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $secure->port) };
$secure->start;
my $secure_port = $secure->port;
create_broker_server($node, 'tls', 'nats', "url 'tls://127.0.0.1:1,tls://localhost:$secure_port'", "token 'tok-$canary'");
subscribe_broker($node, 'tls', 'tls.x');
emit_sql($node, 'tls', 1, 1);
last_error_like($node, 'tls', qr/could not connect to server tls:\/\/localhost.*SSL/, 'a certificate that nobody vouches for is refused');
$node->safe_psql('postgres', "ALTER SERVER tls OPTIONS (ca_file '$base/cert.pem')");
last_error_like($node, 'tls', qr/no stream takes subject "tls.x"/, 'with ca_file it is trusted, and the token too');
$node->safe_psql('postgres', "ALTER SERVER tls OPTIONS (SET url 'tls://127.0.0.1:$secure_port')");
$node->safe_psql('postgres', "SELECT $api.resume_subscription('tls')");
last_error_like($node, 'tls', qr/could not connect to server tls:\/\/127.*SSL/, 'but not for another name');

# Decentralized authentication, as by a file of credentials, with a certificate besides.
run_log([ 'openssl', 'req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-days', '2', '-subj', '/CN=client',
	'-keyout', "$base/client.key", '-out', "$base/client.pem" ]) or die 'openssl failed';
my $operated = OrderIdempotency::Nats->new("$base/operated", conf => slurp_file("$base/keys/operator.conf") . <<~"CONF");
	tls { cert_file: "$base/cert.pem", key_file: "$base/key.pem", ca_file: "$base/client.pem", verify: true }
	CONF
$operated->{ready} = sub { IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $operated->port) };
$operated->start;
create_broker_server($node, 'jwt', 'nats', "url 'tls://localhost:" . $operated->port . "', ca_file '$base/cert.pem'",
	"jwt '$forged', nkey_seed '$nkey_seed'");
subscribe_broker($node, 'jwt', 'jwt.x');
emit_sql($node, 'jwt', 1, 1);
last_error_like($node, 'jwt', qr/could not connect to server tls:/, 'who shows no certificate is not let in');
$node->safe_psql('postgres', "ALTER SERVER jwt OPTIONS (cert_file '$base/client.pem', key_file '$base/client.key')");
$node->safe_psql('postgres', "SELECT $api.resume_subscription('jwt')");
last_error_like($node, 'jwt', qr/could not connect to server tls:.*Authorization/i, 'nor is one whose token an unknown account signed');
$node->safe_psql('postgres', "ALTER USER MAPPING FOR CURRENT_USER SERVER jwt OPTIONS (SET jwt '$token')");
$node->safe_psql('postgres', "SELECT $api.resume_subscription('jwt')");
last_error_like($node, 'jwt', qr/no stream takes subject "jwt.x"/, 'with the token of an account that the operator knows, and its seed');

# The library must not take the server with it when its process ends.
foreach my $round (1 .. 2)
{
	my $pid = worker_pid($node, 'tls');

	$node->safe_psql('postgres', "SELECT pg_terminate_backend($pid)");
	wait_for('another worker', sub { my $other = worker_pid($node, 'tls'); $other && $other ne $pid });
	emit_sql($node, 'tls', 1, 1, $round * 100);
	$node->safe_psql('postgres', "SELECT $api.resume_subscription('tls')");
	wait_for('an attempt of it', sub {
		$node->safe_psql('postgres', "SELECT last_error_at > backend_start FROM $api.subscription_status s, pg_stat_activity a WHERE name = 'tls' AND a.pid = s.pid") eq 't' });
}
no_crash($node);

# Options of which one is missing: no attempt is made with half of them.
my $secured = "tls://localhost:$secure_port";
not_configured($node, 'nats', "url '$secured,nats://localhost:1'", undef, 'option "url" has servers with TLS and without');
not_configured($node, 'nats', "url '$secured', key_file '$base/client.key'", undef, 'options "cert_file" and "key_file" go together');
not_configured($node, 'nats', "url '$secured'", "password 'canary-5d90e1'", 'options "user" and "password" of the user mapping go together');
not_configured($node, 'nats', "url '$secured'", "jwt '$token'", 'option "nkey_seed" of the user mapping goes together with "nkey" or "jwt"');

secrets_kept($node, qr/canary-5d90e1|$nkey_seed|$token/);
$node->stop('fast');
done_testing();
