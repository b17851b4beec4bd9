# The sink "kafka" against a real broker, read by another client: promises 4 (no event
# lost), 6 (order per key) and 7 (exactly once, and the same id on every attempt), what
# goes out (CloudEvents in binary mode), what becomes of each answer, and what a server's
# options can say.
#
# Bugs that this catches: a message that was refused taken for delivered, or taking
# others along; one sent although an earlier one of its key was refused; an event among the markers of
# the state topic; a topic too long for Kafka, or a crowd of messages too large, that holds up all; what was found
# of them forgotten when time is up; what an
# aborted transaction had seen by a consumer that reads what is committed; an event without a
# payload that ends its key in a compacted topic; a secret in a message.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use JSON::PP;
use OrderIdempotency::Broker;
use OrderIdempotency::Drain;
use OrderIdempotency::Fault;
use OrderIdempotency::Kafka;
use OrderIdempotency::Node;
use OrderIdempotency::Proxy;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

my $api = 'order_idempotency';
my $node = new_node('kafka', conf => fault_conf() . "max_worker_processes = 24\n");
prepare_faults($node);
OrderIdempotency::Kafka::require_kafka($node);

my $canary = 'canary-4c81b2';
my ($certificate, $key) = map { $node->basedir . "/$_.pem" } qw(certificate key);
my ($client, $client_key) = map { $node->basedir . "/client_$_.pem" } qw(certificate key);
run_log([ 'openssl', 'req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-days', '2', '-subj', '/CN=localhost',
	'-addext', 'subjectAltName=DNS:localhost', '-keyout', $key, '-out', $certificate ])
  && run_log([ 'openssl', 'req', '-x509', '-newkey', 'rsa:2048', '-passout', "pass:$canary", '-days', '2',
	'-subj', '/CN=client', '-keyout', $client_key, '-out', $client ])
  or die 'openssl failed';
my $kafka = OrderIdempotency::Kafka->new($node->basedir . '/kafka', sasl => { shop => $canary },
	tls => [ $certificate, $key, $client ],
	conf => <<~'CONF');
	authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
	super.users=User:ANONYMOUS
	CONF

# A server of the sink, and a subscription to it.  Options: server and mapping, more
# options; topic; types, and options, of the subscription.
sub create_kafka
{
	my ($name, %opt) = @_;
	my $server = $opt{server} ? ", $opt{server}" : '';
	my $servers = $opt{servers} // $kafka->servers;
	my $types = join ', ', map { "'$_'" } @{ $opt{types} // [ "$name.event", "$name.other" ] };
	my $options = $opt{options} // '{"backoff_min": 50, "backoff_max": 200, "max_attempts": 1000}';

	$node->safe_psql('postgres',
		"CREATE SERVER $name FOREIGN DATA WRAPPER order_idempotency_kafka OPTIONS (\"bootstrap.servers\" '$servers'$server)");
	$node->safe_psql('postgres',
		"CREATE USER MAPPING FOR CURRENT_USER SERVER $name OPTIONS ($opt{mapping})") if $opt{mapping};
	$node->safe_psql('postgres',
		"SELECT $api.create_subscription('$name', '$name', ARRAY[$types], '$opt{topic}', '$options')");
	wait_for_worker($node, $name);
	return;
}

# An event for a subscription.
sub event
{
	my ($subscription, $key, $payload, %opt) = @_;
	my $type = $opt{type} // "$subscription.event";
	my $headers = $opt{headers} // 'NULL';

	$payload = defined $payload ? "'$payload'" : 'NULL';
	return "SELECT $api.emit_event('$type', '$key', $payload, $headers);\n";
}

# Events in one transaction.
sub emit_all { return $node->safe_psql('postgres', join '', 'BEGIN;', @_, 'COMMIT;') }

# Checks that a subscription's events are in topics once each, those of a key in one
# partition and in their order, but for those of keys that are excepted.  Option repeats:
# some may be there again later.
sub once_in_order
{
	my ($subscription, $topics, $what, %opt) = @_;
	my $except = $opt{except} // '^$';
	my @logged = split /\n/, $node->safe_psql('postgres', <<~"SQL");
		SELECT event_id FROM $api.outbox WHERE type LIKE '$subscription.%'
		AND key !~ '$except' ORDER BY position
		SQL
	my (%times, %place, %last, @wrong);
	my %logged = map { $logged[$_] => $_ } 0 .. $#logged;

	foreach my $record (grep { $_->{key} !~ /$except/ } map { $kafka->records($_) } @$topics)
	{
		my $id = $record->{headers}{ce_id}[0];
		my $key = "$record->{topic} $record->{key}";

		next if $opt{repeats} && $times{$id}++;
		push @wrong, "ghost $id of $key" if !defined $logged{$id};
		push @wrong, "$key in two partitions" if ($place{$key} //= $record->{partition}) != $record->{partition};
		push @wrong, "$key out of order" if ($last{$key} // -1) > ($logged{$id} // -1);
		$last{$key} = $logged{$id};
		$times{$id}++ if !$opt{repeats};
	}
	push @wrong, "$_ is lost" foreach grep { !$times{$_} } @logged;
	push @wrong, "$_ is there $times{$_} times" foreach grep { $times{$_} > 1 && !$opt{repeats} } keys %times;
	is(join(', ', @wrong > 5 ? @wrong[0 .. 4] : @wrong), '', "$what: " . @logged . ' events once each, in order');
	return;
}

# Has a worker that waits before it tries again not wait.
sub try_soon
{
	my ($name) = @_;

	$node->safe_psql('postgres', "SELECT $api.resume_subscription('$name')");
	return;
}

# The topics that are there.
$kafka->create_topic('large', 'max.message.bytes' => 20000, partitions => 1);
foreach my $mode ('transactions', 'acks')
{
	my $name = "plain_$mode";
	my $server = $mode eq 'acks' ? "exactly_once 'off'" : '';
	my $topic = "shop.$name";

	# What goes out.
	$kafka->create_topic($topic);
	create_kafka($name, server => $server, topic => $topic);
	emit_all(event($name, 'cart é "7"', '{"n": 1}',
			headers => q('{"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "note": "ü"}')),
		event($name, 'bare'));
	drained($node, $name);
	my ($first) = grep { $_->{key} =~ /^cart/ } $kafka->records($topic);
	my ($bare) = grep { $_->{key} eq 'bare' } $kafka->records($topic);
	my ($id, $position) = split /\|/, $node->safe_psql('postgres',
		"SELECT event_id, position FROM $api.outbox WHERE type = '$name.event' ORDER BY position LIMIT 1");
	my %headers = map { $_ => join '|', @{ $first->{headers}{$_} } } keys %{ $first->{headers} };
	like(delete $headers{ce_time}, qr/^\d{4}-\d\d-\d\dT[\d:]{8}\.\d{6}Z$/, "$mode: the event's time");
	is_deeply(\%headers, {
			ce_specversion => '1.0', ce_id => $id, ce_source => '/order_idempotency/postgres',
			ce_type => "$name.event", ce_subject => "cart \x{e9} \"7\"", ce_partitionkey => "cart \x{e9} \"7\"",
			ce_sequence => $position, ce_note => "\x{fc}", 'content-type' => 'application/json',
			traceparent => '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01',
			ce_traceparent => '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01' },
		"$mode: attributes, content type and trace context as headers");
	is($first->{key}, "cart \x{e9} \"7\"", "$mode: the key");
	is_deeply(decode_json($first->{payload}), { n => 1 }, "$mode: the payload is the value");
	is($bare->{payload}, '', "$mode: without a payload the value is empty, but there");
	ok(!$bare->{headers}{'content-type'}, "$mode: and has no type");

	# Many, of few keys.
	emit_all(map { event($name, 'key-' . $_ % 37, "{\"n\": $_}") } 1 .. 3000);
	drained($node, $name);
	once_in_order($name, [$topic], "$mode: a backlog");

	# Messages that are too large, for the broker and for the options; a batch of small
	# ones that is; one of a topic that there is not.
	my $mixed = "mixed_$mode";
	$kafka->create_topic("shop.$mixed.event", partitions => 1, 'max.message.bytes' => 20000);
	create_kafka($mixed, server => $server . ($server ? ', ' : '') . '"message.max.bytes" \'100000\'',
		topic => 'shop.{type}');
	my %large = map { $_ => '{"x": "' . 'x' x $_ . '"}' } 400, 40000, 200000;
	emit_all(
		(map { event($mixed, "small-$_", $large{400}) } 1 .. 100),
		event($mixed, 'broker', $large{40000}), event($mixed, 'broker', '{}'),
		event($mixed, 'options', $large{200000}), event($mixed, 'options', '{}'),
		event($mixed, 'elsewhere', '{}', type => "$mixed.other"), event($mixed, 'elsewhere', '{}'),
		(map { event($mixed, "small-$_", $large{400}) } 1 .. 100));
	ok(poll($node, 'postgres', <<~"SQL"), "$mode: what is refused is dead, what may be taken later is parked");
		SELECT (SELECT string_agg(key, ' ' ORDER BY key) FROM $api.dead_letters WHERE subscription = '$mixed'
				AND reason LIKE '%size too large%') = 'broker options'
		   AND (SELECT string_agg(key || ' ' || state, ', ' ORDER BY key, position) FROM $api.parked_events
				WHERE subscription = '$mixed' AND (reason LIKE '%nknown topic%') IS NOT FALSE)
			   = 'broker waiting, elsewhere parked, elsewhere waiting, options waiting'
		   AND lag_events = 4 FROM $api.subscription_status WHERE name = '$mixed'
		SQL
	once_in_order($mixed, ["shop.$mixed.event"], "$mode: among some that are refused",
		except => '^(broker|options|elsewhere)', repeats => $mode eq 'acks');
	$kafka->create_topic("shop.$mixed.other");
	$node->safe_psql('postgres', "SELECT $api.discard('$mixed', key => '$_')") foreach qw(broker options);
	drained($node, $mixed);
	once_in_order($mixed, [ "shop.$mixed.event", "shop.$mixed.other" ], "$mode: when there is the topic",
		except => '^(broker|options)', repeats => $mode eq 'acks');
	is(join(' ', map { "$_->{key}: $_->{payload}" } grep { $_->{key} =~ /^(broker|options)/ }
			$kafka->records("shop.$mixed.event")), 'broker: {} options: {}', "$mode: and what was behind dead ones");

	# Events whose types make a state topic of the topic, one of them like what a server on a later timeline writes at its start;
	# and names that are too long, for the broker and for librdkafka.
	my $strange = "strange_$mode";
	my @long = map { '/' x $_ } 70, 130;
	$kafka->create_topic("shop.$strange.event");
	$kafka->create_topic("shop.$strange.other") if $mode eq 'acks';    # else the sink makes it
	create_kafka($strange, server => $server . ($server ? ', ' : '') . "state_topic 'shop.$strange.other'",
		topic => 'shop.{type}', types => [ "$strange.event", "$strange.other", @long ]);
	my $start = $node->safe_psql('postgres', <<~"SQL");
		SELECT i.id || '.' || d.oid || '.' || s.id || '.start' FROM $api.installation i, $api.subscriptions s, pg_database d
		WHERE s.name = '$strange' AND datname = current_database()
		SQL
	emit_all(event($strange, 'before', '{}'),
		event($strange, $start, '{"number": 1, "timeline": 4294967295}', type => "$strange.other"),
		event($strange, $start, '{}'),
		(map { event($strange, 'long-' . length $_, '{}', type => $_) } @long),
		event($strange, 'after', '{}'));
	ok(poll($node, 'postgres', <<~"SQL"), "$mode: events whose topic cannot be one of events are dead")
		SELECT string_agg(reason, ', ' ORDER BY position) =
			'topic "shop.$strange.other" is the state topic, topic is longer than 249 bytes, topic is longer than 249 bytes'
		FROM $api.dead_letters WHERE subscription = '$strange'
		SQL
	  or diag($node->safe_psql('postgres', "SELECT * FROM $api.subscription_status WHERE name = '$strange'"));
	$node->safe_psql('postgres', "SELECT $api.discard('$strange', everything => true)");
	$node->safe_psql('postgres', "ALTER SERVER $strange OPTIONS (ADD \"client.id\" 'anew')");
	emit_all(event($strange, $start, '{}'));
	drained($node, $strange);
	is(join(' ', sort map { $_->{key} =~ s/\Q$start\E/it/r } $kafka->records("shop.$strange.event")),
		'after before it it', "$mode: the others are there, and it starts anew");
	is(scalar(grep { $_->{headers}{ce_id} } $kafka->records("shop.$strange.other")), 0,
		"$mode: no event is in the state topic");
}

# So many that are too large for the options that a transaction for each would take longer than a
# delivery may.
$kafka->create_topic('shop.crowd');
create_kafka('crowd', server => '"message.max.bytes" \'1000\'', topic => 'shop.crowd');
emit_all(map { event('crowd', "large-$_", '{"x": "' . 'x' x 1000 . '"}') . ($_ % 100 ? '' : event('crowd', "small-$_")) } 1 .. 1000);
ok(poll($node, 'postgres', <<~"SQL"), 'all of many that are too large are dead')
	SELECT count(*) = 1000 AND bool_and(reason LIKE '%size too large%') FROM $api.dead_letters WHERE subscription = 'crowd'
	SQL
  or diag($node->safe_psql('postgres', "SELECT * FROM $api.subscription_status WHERE name = 'crowd'"));
once_in_order('crowd', ['shop.crowd'], 'among many that are too large', except => '^large');
$node->safe_psql('postgres', "SELECT $api.drop_subscription('crowd')");

# So many that the broker refuses that they are not found in one call: here none finds more than eight.
my $refused = $ENV{OI_KAFKA_KILLS} ? 400 : 20;
$kafka->create_topic('shop.throng', 'max.message.bytes' => 2000, partitions => 1);
create_kafka('throng', topic => 'shop.throng');
set_fault($node, 'kafka:found', 'error', n => 8);
emit_all(map { event('throng', "large-$_", '{"x": "' . 'x' x 4000 . '"}') . ($_ % 10 ? '' : event('throng', "small-$_")) } 1 .. $refused);
my $late = time + $PostgreSQL::Test::Utils::timeout_default;
my $calls = 1;
my $found = '';
while ($found ne 't' && time < $late)
{
	if (!has_faults($node))
	{
		set_fault($node, 'kafka:found', 'error', n => 8);
		$calls++;
	}
	usleep(50_000);
	$found = $node->safe_psql('postgres', <<~"SQL");
		SELECT count(*) = $refused AND bool_and(reason LIKE '%size too large%') FROM $api.dead_letters WHERE subscription = 'throng'
		SQL
}
is($found, 't', "all of $refused that the broker refuses are dead")
  or diag($node->safe_psql('postgres', "SELECT * FROM $api.subscription_status WHERE name = 'throng'"));
cmp_ok($calls, '>', 1, "found in $calls calls");
cmp_ok($calls, '<=', 1 + $refused / 8, 'of which each found some');
unlink $node->data_dir . '/faults/kafka:found';
once_in_order('throng', ['shop.throng'], 'among many that the broker refuses', except => '^large');
$node->safe_psql('postgres', "SELECT $api.drop_subscription('throng')");

# The state topic was made as it has to be.
is($kafka->admin('describe', 'order_idempotency'), '1 compact', 'the state topic is compacted');

# A topic that is that of all events, and cannot be: nothing is sent, and nothing is dead.
create_kafka($_->[0], topic => $_->[1]) foreach [ 'own', 'order_idempotency' ], [ 'long', 'x' x 250 ];
emit_all(event('own', 'key', '{}'), event('long', 'key', '{}'));
ok(poll($node, 'postgres', <<~"SQL"), 'a topic that cannot be one of events is said');
	SELECT string_agg(last_error, ', ' ORDER BY name) = 'server "long" is not configured: topic is longer than 249 bytes, '
		'server "own" is not configured: topic "order_idempotency" is the state topic'
	FROM $api.subscription_status WHERE name IN ('own', 'long')
	SQL
$node->safe_psql('postgres', "SELECT $api.drop_subscription('long')");
$node->safe_psql('postgres', "ALTER SERVER own OPTIONS (ADD state_topic 'states_of_own')");
$kafka->create_topic('order_idempotency_events');
$node->safe_psql('postgres', "SELECT $api.alter_subscription('own', topic => 'order_idempotency_events')");
drained($node, 'own');
once_in_order('own', ['order_idempotency_events'], 'with another topic');

# SASL, and what a user may do.
$kafka->create_topic("allowed.$_", partitions => 1) foreach qw(one two);
$kafka->allow('shop', ['Write'], 'topic', 'allowed.one');
$kafka->allow('shop', [ 'Write', 'Describe' ], 'transactional-id', '*');
create_kafka('sasl', servers => '127.0.0.1:' . $kafka->sasl_port, topic => 'allowed.{key}',
	server => q("security.protocol" 'sasl_plaintext', "sasl.mechanism" 'PLAIN', state_topic 'states'),
	mapping => qq("sasl.username" 'shop', "sasl.password" 'wrong-$canary'));
emit_all(map { event('sasl', $_, '{}') } qw(one two one two));
ok(poll($node, 'postgres', "SELECT last_error ~ 'Authentication failed' FROM $api.subscription_status WHERE name = 'sasl'"),
	'a wrong password is not let in');
$node->safe_psql('postgres', qq(ALTER USER MAPPING FOR CURRENT_USER SERVER sasl OPTIONS (SET "sasl.password" '$canary')));
try_soon('sasl');
ok(poll($node, 'postgres', "SELECT last_error ~ 'topic \"states\".*uthorization' FROM $api.subscription_status WHERE name = 'sasl'"),
	'who may not use the state topic is told so');
$kafka->create_topic('states', 'cleanup.policy' => 'compact,delete');
$kafka->allow('shop', [ 'Read', 'Write', 'Describe_Configs' ], 'topic', 'states');
try_soon('sasl');
ok(poll($node, 'postgres', <<~"SQL"), 'a state topic that forgets is not used');
	SELECT last_error ~ 'topic "states" has cleanup.policy "compact,delete", and would forget what was delivered'
	FROM $api.subscription_status WHERE name = 'sasl'
	SQL
$kafka->admin('set', 'states', 'cleanup.policy=compact');
try_soon('sasl');
ok(poll($node, 'postgres', <<~"SQL"), 'a topic that one may not write to holds up its own keys only');
	SELECT parked = 2 AND lag_events = 2 FROM $api.subscription_status WHERE name = 'sasl'
	SQL
like($node->safe_psql('postgres', "SELECT reason FROM $api.parked_events WHERE subscription = 'sasl' AND state = 'parked'"),
	qr/opic authorization failed/, 'with the reason');
$kafka->allow('shop', ['Write'], 'topic', 'allowed.two');
try_soon('sasl');
drained($node, 'sasl');
once_in_order('sasl', [ 'allowed.one', 'allowed.two' ], 'with a user and a password');

# TLS.
$kafka->create_topic('tls');
create_kafka('tls', servers => 'localhost:' . $kafka->tls_port, topic => 'tls', server => q("security.protocol" 'ssl'));
emit_all(event('tls', 'key', '{}'));
ok(poll($node, 'postgres', "SELECT last_error ~* 'certificate' FROM $api.subscription_status WHERE name = 'tls'"),
	'a certificate that nobody vouches for is refused');
$node->safe_psql('postgres', qq(ALTER SERVER tls OPTIONS (ADD "ssl.ca.location" '$certificate')));
try_soon('tls');
drained($node, 'tls');
once_in_order('tls', ['tls'], 'with TLS');

# A file of certificates that is not there: said, and looked for again.
$node->safe_psql('postgres', qq(ALTER SERVER tls OPTIONS (SET "ssl.ca.location" '$certificate.away')));
emit_all(event('tls', 'unfounded', '{}'));
ok(poll($node, 'postgres', "SELECT last_error ~ 'could not make a handle of librdkafka: .*ssl.ca.location' FROM $api.subscription_status WHERE name = 'tls'"),
	'a file of certificates that is not there');
$node->safe_psql('postgres', qq(ALTER SERVER tls OPTIONS (SET "ssl.ca.location" '$certificate')));
try_soon('tls');
drained($node, 'tls');
once_in_order('tls', ['tls'], 'when it is there again');

# A certificate of the client's, whose key has a password.
$node->safe_psql('postgres', $_) foreach qq(CREATE USER MAPPING FOR CURRENT_USER SERVER tls OPTIONS ("ssl.key.password" '$canary')),
  qq(ALTER SERVER tls OPTIONS (ADD exactly_once 'off', ADD "ssl.certificate.location" '$client', ADD "ssl.key.location" '$client_key'));
emit_all(event('tls', 'certified', '{}'));
ok(poll($node, 'postgres', "SELECT last_error ~* 'authorization failed' FROM $api.subscription_status WHERE name = 'tls'"),
	'who shows a certificate is known by it, and may not do all');
$kafka->allow('CN=client', ['Write'], 'topic', 'tls');
try_soon('tls');
drained($node, 'tls');
once_in_order('tls', ['tls'], 'with a certificate of the client\'s', repeats => 1);

# Users over TLS, by SCRAM; one who may not ask for the policy of the state topic.
$kafka->admin('user', 'scram', "other-$canary");
$kafka->allow('scram', ['Write'], 'topic', 'allowed.one');
$kafka->allow('scram', [ 'Write', 'Describe' ], 'transactional-id', '*');
$kafka->allow('scram', [ 'Read', 'Write' ], 'topic', 'states');
create_kafka('scram', servers => 'localhost:' . $kafka->sasl_tls_port, topic => 'allowed.one',
	server => qq("security.protocol" 'sasl_ssl', "sasl.mechanism" 'SCRAM-SHA-512', "ssl.ca.location" '$certificate', state_topic 'states'),
	mapping => qq("sasl.username" 'scram', "sasl.password" '$canary'));
emit_all(event('scram', 'key', '{}'));
ok(poll($node, 'postgres', "SELECT last_error ~ 'Authentication failed' FROM $api.subscription_status WHERE name = 'scram'"),
	'SCRAM: a wrong password is not let in');
$node->safe_psql('postgres', qq(ALTER USER MAPPING FOR CURRENT_USER SERVER scram OPTIONS (SET "sasl.password" 'other-$canary')));
try_soon('scram');
drained($node, 'scram');
is(scalar(grep { $_->{headers}{ce_type}[0] eq 'scram.event' } $kafka->records('allowed.one')), 1, 'SCRAM: the right one is');

# A broker that we may connect to names one that we may not.
my $door = OrderIdempotency::Proxy->new($kafka->port, '127.0.0.2');
$kafka->create_topic('addresses');
create_kafka('addresses', servers => '127.0.0.2:' . $door->port, server => q(allow_addresses '127.0.0.2'), topic => 'addresses');
emit_all(event('addresses', 'key', '{}'));
ok(poll($node, 'postgres', <<~"SQL"), 'what brokers advertise has to be allowed, too');
	SELECT last_error ~ '; broker [^;]*127[.]0[.]0[.]1:[0-9]+ [(]127[.]0[.]0[.]1[)]: address is not among those in option "allow_addresses"'
	FROM $api.subscription_status WHERE name = 'addresses'
	SQL
is(scalar($kafka->records('addresses')), 0, 'it is not connected to');
$node->safe_psql('postgres', q(ALTER SERVER addresses OPTIONS (SET allow_addresses '127.0.0.1,127.0.0.2')));
try_soon('addresses');
drained($node, 'addresses');
once_in_order('addresses', ['addresses'], 'both are allowed');

is($node->safe_psql('postgres', "SELECT count(*) FROM $api.subscription_status WHERE last_error ~ '$canary'"), '0',
	'no password in an error');
unlike($node->safe_psql('postgres', "SELECT string_agg(reason, ' ') FROM $api.failed_events") . slurp_file($node->logfile)
	  =~ s/LOG:  statement: .*//gr, qr/$canary/, 'nor in the log');

$node->stop;
done_testing();
