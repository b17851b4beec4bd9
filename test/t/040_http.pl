# The sink "http" against a real server on the loopback interface, well and badly
# behaved: promises 4 (no event lost), 6 (order per key) and 7 (the same id on
# every attempt), what goes out (CloudEvents in binary mode, Standard Webhooks),
# and where it must not go.
#
# Bugs that this catches: a redirect, a cut or lying response taken for an
# acknowledgement; a retry under another id; two requests of one key at once; a
# request to an address that a name should not lead to; a certificate that is
# not checked; a secret in a message (tried at DEBUG5); a receiver that hangs holding up shutdown.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use Digest::SHA qw(hmac_sha256_base64);
use IPC::Run qw(start);
use JSON::PP;
use MIME::Base64;
use OrderIdempotency::Drain;
use OrderIdempotency::Node;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $api = 'order_idempotency';
# the log has all that the server would ever say
my $node = new_node('http', conf => <<~'CONF');
	max_worker_processes = 24
	log_min_messages = debug5
	log_statement = all
	CONF
my $base = $node->basedir;

plan skip_all => 'the sink http was left out of the build (no libcurl)'
  if !-e $node->config_data('--pkglibdir') . '/order_idempotency_http.so';

my $canary = 'canary-31f0a4';
my $secret = 'whsec_' . encode_base64('0123456789abcdef0123456789abcdef', '');
my @receivers;

# Starts a receiver; returns its port and the file of its log.
sub receiver
{
	my ($name, @tls) = @_;
	my ($in, $out) = ('', '');
	my $log = "$base/$name.log";
	my $run = start([ 'python3', "$FindBin::RealBin/../lib/http_receiver.py", $log, @tls ],
		'<', \$in, '>', \$out);

	push @receivers, $run;
	$run->pump while $out !~ /^\d+\n/;
	return ($out + 0, $log);
}

# What a receiver has logged.
sub logged
{
	my ($log, $what) = @_;
	my $decoder = JSON::PP->new->utf8;

	return () if !-e $log;
	my $content = slurp_file($log);
	return grep { !$what || $_->{what} eq $what }
	  map { $decoder->decode($_) } grep { /\}$/ } split /\n/, $content;
}

# A server of the sink, and a subscription to it.
sub create_http
{
	my ($name, $options, %opt) = @_;

	$node->safe_psql('postgres',
		"CREATE SERVER $name FOREIGN DATA WRAPPER order_idempotency_http OPTIONS ($options)");
	$node->safe_psql('postgres',
		"CREATE USER MAPPING FOR CURRENT_USER SERVER $name OPTIONS ($opt{mapping})") if $opt{mapping};
	$node->safe_psql('postgres',
		"SELECT $api.create_subscription('$name', '$name', ARRAY['$name.event'], '$opt{topic}')");
	wait_for_worker($node, $name);
	return;
}

# An event for a subscription, with what the receiver is to do.
sub event
{
	my ($subscription, $key, @do) = @_;
	my $do = encode_json({ do => \@do, key => $key });

	return "SELECT $api.emit_event('$subscription.event', '$key', '$do');\n";
}

my ($port, $log) = receiver('plain');
my $local = "allow_addresses '127.0.0.1'";

# What goes out.
create_http(
	'hooks', "url 'http://127.0.0.1:$port/base/', $local, max_in_flight '4', timeout '700'",
	topic => 'in/orders',
	mapping => "token '$canary', secret '$secret'");
$node->safe_psql('postgres', <<"SQL");
SELECT $api.emit_event('hooks.event', 'cart é "7"', '{"n": 1}', '{"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "note": "a\\r\\nb"}');
SQL
drained($node, 'hooks');
my ($first) = logged($log, 'request');
my $headers = $first->{headers};
my $id = $node->safe_psql('postgres', "SELECT event_id FROM $api.outbox ORDER BY position DESC LIMIT 1");
is("$first->{method} $first->{path}", 'POST /base/in/orders', 'method and path');
is($headers->{'ce-id'}, $id, 'ce-id is the event\'s id');
is($headers->{'idempotency-key'}, $id, 'so is Idempotency-Key');
is($headers->{'ce-subject'}, 'cart%20%C3%A9%20%227%22', 'the key, percent-encoded');
is($headers->{'ce-specversion'} . ' ' . $headers->{'ce-type'} . ' ' . $headers->{'ce-source'},
	'1.0 hooks.event /order_idempotency/postgres', 'further attributes');
is($headers->{'ce-note'}, 'a%0D%0Ab', 'no header can be smuggled in');
is($headers->{traceparent}, $headers->{'ce-traceparent'}, 'trace context under its own name too');
is($headers->{'content-type'}, 'application/json', 'content type');
is_deeply(decode_json($first->{body}), { n => 1 }, 'the payload is the body');
is($headers->{authorization}, "Bearer $canary", 'the token');
my $digest = hmac_sha256_base64("$id.$headers->{'webhook-timestamp'}.$first->{body}",
	'0123456789abcdef0123456789abcdef');
$digest .= '=' while length($digest) % 4;
is($headers->{'webhook-id'} . ' ' . $headers->{'webhook-signature'}, "$id v1,$digest", 'the signature');
cmp_ok(abs(time - $headers->{'webhook-timestamp'}), '<', 300, 'its time');

# Types and keys, which applications choose, as parts of the path, and no more.
my @places = (
	[ 'mail.sent', 'o-1', 'mail.sent/o-1' ],
	[ '../../admin', 'a/../b?c#d', '_x2E_x2E_x2F._x2E_x2Fadmin/a_x2F_x2E_x2E_x2Fb_x3Fc_x23d' ],
	[ '.a..b.', 'é_x_y', '_x2Ea._x2Eb_x2E/_xC3_xA9_x5Fx_y' ]);
my $types = join ', ', map { "'$_->[0]'" } @places;
$node->safe_psql('postgres', <<"SQL");
CREATE SERVER places FOREIGN DATA WRAPPER order_idempotency_http OPTIONS (url 'http://127.0.0.1:$port/p', $local);
SELECT $api.create_subscription('places', 'places', ARRAY[$types], 'in/{type}/{key}');
SQL
wait_for_worker($node, 'places');
$node->safe_psql('postgres', "SELECT $api.emit_event('$_->[0]', '$_->[1]')") foreach @places;
drained($node, 'places');
my %path = map { $_->{headers}{'ce-type'} => $_->{path} } grep { $_->{path} =~ m{^/p/} } logged($log, 'request');
is_deeply([ map { $path{ $_->[0] =~ s{([^a-z./])}{sprintf '%%%02X', ord $1}ger } } @places ],
	[ map { "/p/in/$_->[2]" } @places ], 'placeholders of the topic');

# Requests beside each other, never two of a key.
my @keys = map { "side-$_" } 1 .. 12;
$node->safe_psql('postgres', join '', 'BEGIN;',
	(map { my $n = $_; map { event('hooks', $_, 'slow 0.02') } @keys } 1 .. 5), 'COMMIT');
drained($node, 'hooks');
my @side = grep { $_->{key} =~ /^side-/ } logged($log, 'request');
is(scalar @side, 60, 'each event one request');
is((sort { $b <=> $a } map { $_->{busy} } @side)[0], 4, 'max_in_flight requests at once');
is((sort { $b <=> $a } map { $_->{same_key} } @side)[0], 1, 'never two of one key');
my %order;
push @{ $order{ $_->{key} } }, $_->{headers}{'ce-sequence'} foreach @side;
is(scalar(grep { my @at = @{ $order{$_} }; "@at" ne join ' ', sort { $a <=> $b } @at } keys %order),
	0, 'each key in order');

# Answers that are none.
my @bad = ('status 500', 'status 503', 'status 408', 'status 429 1', 'status 304', 'hang', 'reset', 'cut',
	'lie', 'endless', 'headers', 'garbage', "redirect http://127.0.0.1:$port/elsewhere");
my $n = 0;
$node->safe_psql('postgres', join '', 'BEGIN;',
	(map { $n++; event('hooks', "bad-$n", $_, $_) . event('hooks', "bad-$n") } @bad), 'COMMIT');
drained($node, 'hooks');
my @requests = logged($log, 'request');
foreach my $i (1 .. @bad)
{
	my @of = grep { $_->{key} eq "bad-$i" } @requests;

	is(join(' ', map { $_->{attempt} } @of), '1 2 3 1', "$bad[$i - 1]: sent again until it is taken, then the next");
	is($of[0]{event} . $of[1]{event}, $of[2]{event} x 2, "$bad[$i - 1]: under the same id");
}
is(scalar(grep { $_->{path} =~ /elsewhere/ } @requests), 0, 'no redirect was followed');

# What was given without a payload.
$node->safe_psql('postgres', "SELECT $api.emit_event('hooks.event', 'bare')");
drained($node, 'hooks');
my ($bare) = grep { $_->{key} eq 'bare' } logged($log, 'request');
is($bare->{body} . ($bare->{headers}{'content-type'} // ''), '', 'no payload: no body and no type');

# Options that change are in force without a restart.
my $pid = worker_pid($node, 'hooks');
$node->safe_psql('postgres', "ALTER USER MAPPING FOR CURRENT_USER SERVER hooks OPTIONS (SET token 'other-$canary')");
$node->safe_psql('postgres', event('hooks', 'rotated'));
drained($node, 'hooks');
my ($rotated) = grep { $_->{key} eq 'rotated' } logged($log, 'request');
is($rotated->{headers}{authorization}, "Bearer other-$canary", 'a new token is used at once');
is(worker_pid($node, 'hooks'), $pid, 'by the same worker');

# An address that is not allowed.
create_http('public', "url 'http://127.0.0.1:$port'", topic => 'x');
$node->safe_psql('postgres', event('public', 'forbidden'));
ok($node->poll_query_until('postgres', <<~SQL), 'the loopback interface is not public');
	SELECT last_error ~ 'not among those in option "allow_addresses"' FROM $api.subscription_status
	WHERE name = 'public'
	SQL
create_http('named', "url 'http://localhost:$port', allow_addresses '10.0.0.0/8'", topic => 'x');
$node->safe_psql('postgres', event('named', 'forbidden'));
ok($node->poll_query_until('postgres', <<~SQL), 'a name is judged by where it leads');
	SELECT last_error ~ 'not among those in option "allow_addresses"' FROM $api.subscription_status
	WHERE name = 'named'
	SQL
is(scalar(grep { $_->{key} eq 'forbidden' } logged($log, 'request')), 0, 'nothing went there');
$node->safe_psql('postgres', "ALTER SERVER named OPTIONS (SET allow_addresses '::1,127.0.0.0/8')");
drained($node, 'named');
is(scalar(grep { $_->{key} eq 'forbidden' } logged($log, 'request')), 1, 'until it is allowed');

# TLS.
run_log([ 'openssl', 'req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-days', '2', '-subj', '/CN=localhost',
	'-addext', 'subjectAltName=DNS:localhost', '-keyout', "$base/key.pem", '-out', "$base/cert.pem" ])
  or die 'openssl failed';
my ($tls_port, $tls_log) = receiver('tls', "$base/cert.pem", "$base/key.pem");
create_http('tls', "url 'https://localhost:$tls_port', $local", topic => 'x');
$node->safe_psql('postgres', event('tls', 'secure'));
ok($node->poll_query_until('postgres', <<~SQL), 'a certificate that nobody vouches for is refused');
	SELECT last_error ~* 'certificate' FROM $api.subscription_status WHERE name = 'tls'
	SQL
is(scalar logged($tls_log, 'request'), 0, 'and nothing is sent');
$node->safe_psql('postgres', "ALTER SERVER tls OPTIONS (ca_file '$base/cert.pem')");
drained($node, 'tls');
is(scalar logged($tls_log, 'request'), 1, 'with ca_file it is trusted');
$node->safe_psql('postgres', "ALTER SERVER tls OPTIONS (SET url 'https://127.0.0.1:$tls_port')");
$node->safe_psql('postgres', event('tls', 'other-name'));
ok($node->poll_query_until('postgres', <<~SQL), 'but not for another name');
	SELECT state = 'retrying' AND last_error ~* 'certificate|match' FROM $api.subscription_status WHERE name = 'tls'
	SQL
is(scalar logged($tls_log, 'request'), 1, 'and again nothing is sent');

# Secrets.  What a statement says is its user's matter, and in the log where log_statement
# has it there; nothing else may have them.
$node->safe_psql('postgres', event('hooks', 'canary', 'status 500', 'reset', 'hang', 'status 401'));
$node->poll_query_until('postgres', "SELECT parked > 0 OR dead > 0 FROM $api.subscription_status WHERE name = 'hooks'") or die;
my $everything = $node->safe_psql('postgres', <<~SQL);
	SELECT string_agg(format('SELECT to_jsonb(v) FROM %s v', c.oid::regclass), ' UNION ALL ')
	FROM pg_class c WHERE c.relnamespace = '$api'::regnamespace AND c.relkind IN ('r', 'v')
	SQL
my $shown = '';
foreach my $role ('postgres', 'watcher')
{
	$node->safe_psql('postgres', "CREATE ROLE watcher LOGIN IN ROLE pg_monitor; SELECT $api.grant_operator('watcher')")
	  if $role eq 'watcher';
	my $queries = $role eq 'watcher' ? "SELECT to_jsonb(v) FROM $api.subscription_status v" : $everything;
	my ($ret, $out, $err) = $node->psql('postgres', <<~SQL);
		SET SESSION AUTHORIZATION @{[ $role eq 'postgres' ? 'DEFAULT' : $role ]};
		SET client_min_messages = debug5;
		$queries;
		SELECT a::text FROM pg_stat_activity a WHERE pid <> pg_backend_pid();
		SELECT to_jsonb(m) FROM pg_user_mappings m WHERE '$role' <> 'postgres';
		SQL

	is($ret, 0, "$role looks at everything") or diag $err;
	$shown .= $out . $err;
}
$node->safe_psql('postgres', 'DROP OWNED BY watcher; DROP ROLE watcher');
drained($node, 'hooks');
my @said = split /^/, slurp_file($node->logfile);
cmp_ok(scalar(grep { /DEBUG/ } @said), '>', 1000, 'the log has all that there is to say');
is(join('', grep { /canary-31f0a4|MDEyMzQ1/ && !/(?:STATEMENT|statement): .*USER MAPPING/ } @said), '', 'no secret in the log');
unlike($shown, qr/canary-31f0a4|MDEyMzQ1/, 'nor in tables, views, activity and messages');
my ($ret, $out, $err) = $node->psql('postgres',
	"ALTER USER MAPPING FOR CURRENT_USER SERVER hooks OPTIONS (SET secret '$canary')");
like($err, qr/option "secret" must be/, 'a bad secret is refused');
unlike($err =~ s/^LINE.*//mr, qr/ERROR.*canary/, 'and not repeated in the error');

# A receiver that hangs does not hold up anybody.
$node->safe_psql('postgres', "ALTER SERVER hooks OPTIONS (SET timeout '20000')");
$node->safe_psql('postgres', join '', map { event('hooks', "hung-$_", ('hang') x 9) } 1 .. 3);
my $deadline = time + 180;
select undef, undef, undef, 0.01
  while time < $deadline && !grep { $_->{key} =~ /^hung/ } logged($log, 'request');
my $begin = time;
$node->stop('fast');
cmp_ok(time - $begin, '<', 5, 'fast shutdown with requests that hang');

$_->kill_kill(grace => 1) foreach @receivers;
done_testing();
