# Promise 9: events go where the server's definition says, and nowhere else.  A file sink writes to
# regular files of its directory that have no other name; requests and connections
# reach no address that is not allowed, however it is written.
#
# Bugs that this catches, planted and seen to fail: a hard link that leads out of the directory; a
# pipe taken for a file.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

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
