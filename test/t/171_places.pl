# Promise 9: events go where the server's definition says, and nowhere else.  A file sink writes to
# regular files of its directory that have no other name, whatever sink was there before it; requests
# and connections reach no address that is not allowed, however it is written.
#
# Bugs that this catches, planted and seen to fail: a hard link that leads out of the directory; a
# pipe taken for a file; a path of a URL that becomes one of files; a broker's sink that asks its
# library to look up a name, or to go where a server tells it to.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use IO::Select;
use IO::Socket::INET;
use IO::Socket::UNIX;
use IPC::Run qw(start);
use OrderIdempotency::Drain;
use OrderIdempotency::Node;
use POSIX qw(mkfifo);
use PostgreSQL::Test::Utils;
use Test::More;

my $api = 'order_idempotency';
my ($in, $out, $log) = ('', '', "$PostgreSQL::Test::Utils::tmp_check/receiver.log");
my $receiver = start([ 'python3', "$FindBin::RealBin/../lib/http_receiver.py", $log ], '<', \$in, '>', \$out);
$receiver->pump while $out !~ /^\d+\n/;
my $port = $out + 0;

# whoever starts the server may have these; nothing goes by them
$ENV{$_} = "http://127.0.0.1:$port" foreach qw(http_proxy https_proxy all_proxy HTTP_PROXY HTTPS_PROXY ALL_PROXY);
my $node = new_drain_node('places', conf => "max_worker_processes = 80\n");
my $dir = sink_dir($node);

# Waits until a subscription fails in these words.
sub fails
{
	my ($name, $error, $what) = @_;

	ok($node->poll_query_until('postgres', <<~SQL), $what);
		SELECT state = 'retrying' AND last_error ~ '$error' FROM $api.subscription_status WHERE name = '$name'
		SQL
	return;
}

# -- files ----------------------------------------------------------------------------------------

my $precious = $node->basedir . '/precious';
append_to_file($precious, 'no newline at its end');
link $precious, "$dir/linked.jsonl" or die "could not link: $!";
mkfifo("$dir/pipe.jsonl", 0600) or die "could not make a pipe: $!";
my $cwd = POSIX::getcwd();
chdir $dir or die;
my $socket = IO::Socket::UNIX->new(Local => 'socket.jsonl', Listen => 1) or die "could not make a socket: $!";
chdir $cwd or die;
symlink '/dev/full', "$dir/device.jsonl" or die;
symlink "$dir/new", "$dir/dangling.jsonl" or die;
my @files = qw(linked pipe socket device dangling);
$node->safe_psql('postgres', "SELECT $api.create_subscription('$_', 'files')") foreach @files;
$node->safe_psql('postgres', emit('file'));
fails('linked', 'has another name', 'a file that has another name elsewhere');
fails('pipe', 'is not a regular file', 'a pipe');
fails('socket', 'could not open file|is not a regular file', 'a socket');
fails('device', 'could not open file', 'a link to a device');
fails('dangling', 'could not open file', 'a link to nowhere');
is(slurp_file($precious), 'no newline at its end', 'what has another name is as it was');
ok(!-e "$dir/new", 'nothing is made where a link points to');
unlink map { "$dir/$_.jsonl" } @files;
foreach (@files)
{
	drained($node, $_);
	is(events_of($node, "$_.jsonl"), 'file', "$_: a file in its place");
}

# a file that gets another name while it is written to
link "$dir/linked.jsonl", $node->basedir . '/other-name' or die;
$node->safe_psql('postgres', emit('while-open'));
drained($node, $_) foreach @files;
is((stat "$dir/linked.jsonl")[3], 2, 'a file that is open keeps being written to');
$node->safe_psql('postgres', "SELECT $api.drop_subscription('$_')") foreach @files;

# A server of another sink takes the name: a topic that was a path there is none here.
mkdir "$dir/sub" or die;
$node->safe_psql('postgres', <<~SQL);
	CREATE SERVER moved FOREIGN DATA WRAPPER order_idempotency_http OPTIONS (url 'http://127.0.0.1:$port');
	SELECT $api.create_subscription('moved', 'moved', topic => 'sub/file');
	DROP SERVER moved;
	CREATE SERVER moved FOREIGN DATA WRAPPER order_idempotency_file OPTIONS (path '$dir');
	SQL
$node->safe_psql('postgres', emit('moved'));
fails('moved', 'invalid topic "sub/file" [(]For a file it is a file name', 'a topic that is none of this sink');
ok(!-e "$dir/sub/file", 'no file is made in another directory');
$node->safe_psql('postgres', "SELECT $api.alter_subscription('moved', topic => 'file')");
drained($node, 'moved');
is(events_of($node, 'file'), 'moved', 'with a topic of this sink it goes on');
$node->safe_psql('postgres', "SELECT $api.drop_subscription('moved')");

# -- addresses ----------------------------------------------------------------------------------

SKIP:
{
	skip 'the sink http was left out of the build (no libcurl)', 1
	  if !-e $node->config_data('--pkglibdir') . '/order_idempotency_http.so';

	my @hosts = qw(127.0.0.1 127.1 2130706433 0x7f000001 0177.0.0.1 0x7f.1 127.0.0.1. localhost LOCALHOST 0 0.0.0.0
	  [::1] [::] [::ffff:127.0.0.1] [::ffff:7f00:1] [0:0:0:0:0:ffff:127.0.0.1] [::127.0.0.1] [64:ff9b::127.0.0.1]);
	my $i = 0;

	foreach my $list ('', ", allow_addresses '198.51.100.0/24,2001:db8::/32'", ", allow_addresses '::/0'")
	{
		# an IPv4 address in the form of IPv6 is IPv4; so by the last list all but those of IPv6 are left
		my @those = grep { $list !~ m{::/0} || !/\[::\]|\[::1\]|localhost|LOCALHOST|::127|64:/ } @hosts;

		foreach my $host (@those)
		{
			$i++;
			$node->safe_psql('postgres', <<~SQL);
				CREATE SERVER h$i FOREIGN DATA WRAPPER order_idempotency_http OPTIONS (url 'http://$host:$port', timeout '2000'$list);
				SELECT $api.create_subscription('h$i', 'h$i', topic => 'x', options => '{"backoff_min": 100, "backoff_max": 200}');
				SQL
		}
	}
	$node->safe_psql('postgres', emit('http'));
	ok($node->poll_query_until('postgres', "SELECT count(*) = $i FROM $api.subscription_status WHERE last_error IS NOT NULL"),
		"$i ways to write an address: each fails");
	is($node->safe_psql('postgres', <<~SQL), '', 'since it is not allowed, or is no address at all');
		SELECT (SELECT srvoptions FROM pg_foreign_server WHERE srvname = server), last_error FROM $api.subscription_status
		WHERE last_error !~ 'not among those in option "allow_addresses"|Could not resolve host'
		SQL
	cmp_ok($node->safe_psql('postgres', "SELECT count(*) FROM $api.subscription_status WHERE last_error ~ 'allow_addresses'"),
		'>', $i - 6, 'nearly all are addresses');
	is(-s $log // 0, 0, 'nothing came to the receiver, by a proxy neither');
	$node->safe_psql('postgres', "SELECT $api.drop_subscription(name) FROM $api.subscriptions");

	# allowed, it does: all of the above could have come
	$node->safe_psql('postgres', <<~SQL);
		CREATE SERVER open FOREIGN DATA WRAPPER order_idempotency_http OPTIONS (url 'http://2130706433:$port', allow_addresses '127.0.0.1');
		SELECT $api.create_subscription('open', 'open', topic => 'x', options => '{"from": "start"}');
		SQL
	drained($node, 'open');
	like(slurp_file($log), qr/http/, 'allowed it comes');
	$node->safe_psql('postgres', "SELECT $api.drop_subscription('open')");
}

SKIP:
{
	skip 'the sink redis was left out of the build (no libhiredis)', 1
	  if !-e $node->config_data('--pkglibdir') . '/order_idempotency_redis.so';

	my @hosts = qw(127.0.0.1 127.1 2130706433 0x7f000001 localhost ::1 ::ffff:127.0.0.1);
	my $i = 0;
	my $before = -s $log // 0;

	foreach my $host (@hosts)
	{
		$i++;
		$node->safe_psql('postgres', <<~SQL);
			CREATE SERVER r$i FOREIGN DATA WRAPPER order_idempotency_redis OPTIONS (host '$host', port '$port', allow_addresses '10.0.0.0/8,fc00::/7');
			SELECT $api.create_subscription('r$i', 'r$i', topic => 'x', options => '{"backoff_min": 100, "backoff_max": 200}');
			SQL
	}
	$node->safe_psql('postgres', emit('redis'));
	ok($node->poll_query_until('postgres', <<~SQL), 'Redis at any of them is not connected to');
		SELECT count(*) = $i FROM $api.subscription_status WHERE last_error ~ 'not among those in option "allow_addresses"'
		SQL
	is(-s $log // 0, $before, 'nothing came');
}

# Brokers, where somebody listens who sees whoever comes.
my $listener = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 16) or die "could not listen: $!";
my $there = $listener->sockport;

# Has somebody come?  He is sent away.
sub came
{
	my ($seconds) = @_;

	return 0 if !IO::Select->new($listener)->can_read($seconds);
	close $listener->accept;
	return 1;
}

# A NATS server that tells of another one, and lets nobody in.
my ($nats_in, $nats_out) = ('', '');
my $nats = start([ 'python3', '-c', <<~'PYTHON', $there ], '<', \$nats_in, '>', \$nats_out);
	import json, socket, sys
	server = socket.create_server(("127.0.0.2", 0))
	print(server.getsockname()[1], flush=True)
	while True:
	    connection, _ = server.accept()
	    with connection:
	        info = {"server_id": "x", "version": "2.9.10", "max_payload": 1048576, "headers": True,
	                "auth_required": True, "connect_urls": ["127.0.0.1:" + sys.argv[1]]}
	        connection.sendall(b"INFO " + json.dumps(info).encode() + b"\r\n")
	        connection.recv(4096)
	        connection.sendall(b"-ERR 'Authorization Violation'\r\n")
	PYTHON
$nats->pump while $nats_out !~ /^\d+\n/;
my $told = $nats_out + 0;

my %option = (
	rabbitmq => sub { "host '$_[0]', port '$there'" },
	nats => sub { "url 'nats://" . ($_[0] =~ /:/ ? "[$_[0]]" : $_[0]) . ":$there'" },
	kafka => sub { "\"bootstrap.servers\" '" . ($_[0] =~ /:/ ? "[$_[0]]" : $_[0]) . ":$there'" });
foreach my $sink (sort keys %option)
{
  SKIP:
	{
		skip "the sink $sink was left out of the build", 1
		  if !-e $node->config_data('--pkglibdir') . "/order_idempotency_$sink.so";

		my $api_options = '{"backoff_min": 100, "backoff_max": 200}';
		my @hosts = ('127.0.0.1', 'localhost', '::1', '::ffff:127.0.0.1', $sink eq 'kafka' ? () : qw(127.1 2130706433));
		my @servers = map { $option{$sink}->($_) } @hosts;
		my $error = 'not among those in option "allow_addresses"';

		$node->safe_psql('postgres', join '', map { <<~"SQL" } 0 .. $#servers);
			CREATE SERVER $sink$_ FOREIGN DATA WRAPPER order_idempotency_$sink
				OPTIONS ($servers[$_], allow_addresses '10.0.0.0/8,127.0.0.2,fc00::/7');
			SELECT $api.create_subscription('$sink$_', '$sink$_', topic => 'x', options => '$api_options');
			SQL
		$node->safe_psql('postgres', emit($sink));
		ok($node->poll_query_until('postgres', <<~"SQL"), "$sink: no address that is not allowed is connected to")
			SELECT count(*) = @{[ scalar @servers ]} FROM $api.subscription_status
			WHERE name ~ '^$sink\\d' AND last_error ~ '$error'
			SQL
		  or diag($node->safe_psql('postgres', "SELECT name, last_error FROM $api.subscription_status WHERE name ~ '^$sink\\d'"));
		is(came(0), 0, "$sink: nobody came");

		# what makes the difference
		$node->safe_psql('postgres', "ALTER SERVER ${sink}0 OPTIONS (SET allow_addresses '127.0.0.1')");
		ok(came($PostgreSQL::Test::Utils::timeout_default), "$sink: where it is allowed, somebody comes");
		$node->safe_psql('postgres', "SELECT $api.drop_subscription(name) FROM $api.subscriptions WHERE name ~ '^$sink\\d'");
		1 while came(0.2);
	}
}

SKIP:
{
	skip 'the sink nats was left out of the build', 1
	  if !-e $node->config_data('--pkglibdir') . '/order_idempotency_nats.so';

	$node->safe_psql('postgres', <<~"SQL");
		CREATE SERVER told FOREIGN DATA WRAPPER order_idempotency_nats OPTIONS (url 'nats://127.0.0.2:$told');
		SELECT $api.create_subscription('told', 'told', topic => 'x', options => '{"backoff_min": 100, "backoff_max": 200}');
		SQL
	$node->safe_psql('postgres', emit('told'));
	fails('told', 'uthorization', 'a NATS server that lets nobody in');
	is(came(0.5), 0, 'and tells of another one: nobody goes there');
	$node->safe_psql('postgres', "SELECT $api.drop_subscription('told')");
}
$nats->kill_kill;

# what a URL must not have in it
foreach my $url ('http://user@127.0.0.1/', 'http://user:password@127.0.0.1/', 'http://a#@127.0.0.1/', 'http://a\@127.0.0.1/', 'http://a?b',
	'file:///etc/passwd', 'ftp://127.0.0.1/', 'gopher://127.0.0.1/', 'http:///127.0.0.1/', "http://a\tb", 'http://', '//127.0.0.1/', "http://\xc3\xa9/")
{
	my (undef, undef, $err) = $node->psql('postgres', "CREATE SERVER x FOREIGN DATA WRAPPER order_idempotency_http OPTIONS (url '$url')");
	like($err, qr/option "url" must be/, "no server: $url");
}

$receiver->kill_kill;
$node->stop('fast');
unlike(slurp_file($node->logfile), qr/TRAP|PANIC|terminated by signal|ERROR:  XX/, 'nothing crashed');
done_testing();
