# Promises 4, 6, 7 and 9 for a sink of somebody else: what docs/writing-a-sink.md shows
# can be built against the installed header alone, in C and C++, loads, checks its
# options, and delivers every event once to the receiver of that page, through
# crashes of either.
#
# Bugs that this catches: a header that needs one that is not installed; a page
# that says what is not so any more; a symbol that sinks need and the library does
# not export.

use strict;
use warnings;

use Cwd qw(getcwd);
use Encode qw(encode_utf8);
use File::Compare;
use File::Spec;
use FindBin;
use lib "$FindBin::RealBin/../lib";

use IO::Select;
use IO::Socket::UNIX;
use IPC::Run qw(start);
use JSON::PP;
use OrderIdempotency::Drain;
use OrderIdempotency::Node;
use PostgreSQL::Test::Utils;
use Socket;
use Test::More;
use Time::HiRes qw(time usleep);

my $top = File::Spec->catdir($FindBin::RealBin, '..', '..');
my $page = slurp_file("$top/docs/writing-a-sink.md");
my $api = 'order_idempotency';
my $node = new_node('writing_a_sink', conf => "max_worker_processes = 24\n");
my $libdir = $node->config_data('--pkglibdir');
my $headers = $node->config_data('--includedir-server');
my $library = "$libdir/order_idempotency_socket.so";
my $dir = PostgreSQL::Test::Utils::tempdir;
my $sockets = PostgreSQL::Test::Utils::tempdir_short;

plan skip_all => "this user may not install into $libdir" if !-w $libdir;

END
{
	my $status = $?;

	unlink $library if defined $library;
	$? = $status;
}

# The block of code of a language in the page; there has to be one.
sub block
{
	my ($language, $which) = @_;
	my @blocks = $page =~ /^```\Q$language\E\n(.*?)^```$/gms;

	return $blocks[ $which // 0 ] // die "no block of $language";
}

# Writes a file into the directory of sources.
sub write_source
{
	my ($name, $content) = @_;

	unlink "$dir/$name";
	append_to_file("$dir/$name", $content);
	return;
}

# Runs a command in that directory.
sub in_dir
{
	my ($command, $what) = @_;
	my $back = getcwd;

	chdir $dir or die;
	command_ok($command, $what);
	chdir $back or die;
	return;
}

# -- the header and the build ------------------------------------------------------

is(compare("$headers/extension/order_idempotency/order_sink.h", "$top/src/order_sink.h"), 0,
	'the header is installed as it is');
my @warnings = qw(-Wall -Wextra -Werror -Wno-unused-parameter -fsyntax-only);
my $include = qq(#include "postgres.h"\n#include "extension/order_idempotency/order_sink.h"\n);
write_source('alone.c', "$include extern int alone;");
in_dir([ 'gcc', @warnings, '-isystem', $headers, 'alone.c' ], 'it needs no other header than postgres.h');
SKIP:
{
	skip 'no C++ compiler', 1 if system('g++ --version >/dev/null 2>&1') != 0;
	write_source('alone.cc', <<~"CODE");
		extern "C" {
		$include
		#include "fmgr.h"
		PG_MODULE_MAGIC;
		}
		static void deliver(OiSinkState *state, OiSinkEvent *events, int n, TimestampTz deadline) {}
		static OiSinkCallbacks callbacks;
		const OiSinkCallbacks *_PG_order_sink_init(void)
		{
			callbacks.magic = OI_SINK_MAGIC;
			callbacks.deliver = deliver;
			return &callbacks;
		}
		CODE
	in_dir([ 'g++', @warnings, '-Wno-register', '-isystem', $headers, 'alone.cc' ], 'in C++ too');
}

my $source = block('c');
cmp_ok(scalar(split /\n/, $source), '<', 100, 'the sink of the page has less than 100 lines');
write_source('socket.c', $source);
write_source('Makefile', block('make'));
write_source('receive.py', block('python'));
my @make = ('make', '-s', 'PG_CONFIG=' . ($ENV{PG_CONFIG} || 'pg_config'), 'with_llvm=no',
	"PG_CFLAGS=-Wall -Wextra -Werror -Wno-unused-parameter -isystem $headers");
in_dir([ @make, 'all' ], 'it is built without a warning');
in_dir([ @make, 'install' ], 'and installed');
ok(-e $library, 'to where the worker looks');

# -- the wrapper -------------------------------------------------------------------

$node->safe_psql('postgres', block('SQL'));
sub refused
{
	my ($sql, $pattern, $what) = @_;
	my ($ret, $out, $err) = $node->psql('postgres', $sql);

	like($err, $pattern, $what);
	return;
}
my $create = 'CREATE SERVER wrong FOREIGN DATA WRAPPER order_idempotency_socket';
refused($create, qr/option "path" is required/, 'the validator wants a path');
refused("$create OPTIONS (path 'events')", qr/must be an absolute path/, 'an absolute one');
refused("$create OPTIONS (path '/@{[ 'x' x 107 ]}')", qr/at most 107 bytes/, 'that fits');
refused("$create OPTIONS (path '/x', host 'y')", qr/invalid option "host"/, 'and nothing else');
refused('ALTER FOREIGN DATA WRAPPER order_idempotency_socket OPTIONS (ADD path \'/x\')',
	qr/invalid option "path"/, 'and not there');

my $sql = block('SQL', 1);
$sql =~ s{/run/orders}{$sockets} or die 'the page uses another path';
$node->safe_psql('postgres', $sql);
wait_for_worker($node, 'local');

# -- the receiver of the page --------------------------------------------------------

my $receiver;

# Starts it.
sub start_receiver
{
	unlink "$sockets/events";
	$receiver = start([ 'python3', "$dir/receive.py", "$sockets/events", "$dir/received.db" ]);
	return;
}

# Kills it.
sub kill_receiver
{
	$receiver->kill_kill(grace => 0);
	return;
}

# What it has got: ids in the order in which they came first.
sub received
{
	my ($stdout, $stderr);

	IPC::Run::run([ 'python3', '-c', <<~'PYTHON', "$dir/received.db" ], '>', \$stdout, '2>', \$stderr);
		import sqlite3, sys
		for row in sqlite3.connect(sys.argv[1]).execute("SELECT event FROM events ORDER BY rowid"):
		    print(row[0])
		PYTHON
	my $decoder = JSON::PP->new->utf8;
	return map { $decoder->decode($_) } split /\n/, $stdout;
}

# Checks that it has every event, and those of each key in the order of the log.
sub has_all
{
	my ($what) = @_;
	my @logged = map { [ split /\|/, $_, 2 ] } split /\n/,
	  $node->safe_psql('postgres', "SELECT event_id, key FROM $api.outbox ORDER BY position");
	my (%logged, %received);

	push @{ $logged{ $_->[1] } }, $_->[0] foreach @logged;
	push @{ $received{ encode_utf8($_->{subject}) } }, $_->{id} foreach received();
	is_deeply(\%received, \%logged, "$what: all " . scalar(@logged) . ', each key in order');
	return;
}

# As many events.
sub events
{
	my ($count) = @_;

	return "SELECT count($api.emit_event('test.event', 'key-' || i % 5, jsonb_build_object('n', i))) "
	  . "FROM generate_series(1, $count) i;\n";
}

$node->safe_psql('postgres', events(3));
ok($node->poll_query_until('postgres',
		"SELECT last_error ~ 'could not connect to .*events' FROM $api.subscription_status"),
	'no receiver: the status says so');
start_receiver();
drained($node, 'local');
has_all('a receiver');
$node->safe_psql('postgres', "SELECT $api.create_order('cart é \"7\"', 100, 'EUR', 'alice', '{\"items\": [1, 2.50]}')");
drained($node, 'local');
my $last = (received())[-1];
is_deeply([ @$last{qw(type subject source)}, $last->{data}{payload} ],
	[ 'order.created', "cart \x{e9} \"7\"", '/order_idempotency/postgres', { items => [ 1, 2.5 ] } ],
	'an order, as a CloudEvent');

# Crashes of the receiver, and of the worker.
foreach my $round (1 .. 4)
{
	my $pid = wait_for_worker($node, 'local');
	my $before = scalar received();
	my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;

	$node->safe_psql('postgres', events(900));
	while (scalar(received()) < $before + 50)
	{
		die 'nothing comes' if time > $deadline;
		usleep(1000);
	}
	$round % 2 ? kill_receiver() : kill 'KILL', $pid;
	start_receiver() if $round % 2;
	wait_until_up($node);
	drained($node, 'local');
	has_all($round % 2 ? 'the receiver killed' : 'the worker killed');
}

# Another path, while it runs.
kill_receiver();
$node->safe_psql('postgres', "ALTER SERVER local OPTIONS (SET path '$sockets/moved')");
$receiver = start([ 'python3', "$dir/receive.py", "$sockets/moved", "$dir/received.db" ]);
$node->safe_psql('postgres', events(5));
drained($node, 'local');
has_all('another path');
kill_receiver();

# -- receivers that answer something else -------------------------------------------

my @got;

# Has a receiver on the path that gives these answers, one an event, ID standing for
# the event's; "close" and "silence" are none.
sub receive
{
	my ($until, @answers) = @_;
	my $path = "$sockets/moved";

	unlink $path;
	my $listener = IO::Socket::UNIX->new(Type => SOCK_SEQPACKET, Local => $path, Listen => 5) or die "socket: $!";
	my $peers = IO::Select->new($listener);
	my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;

	while (@answers && time < $deadline)
	{
		foreach my $peer ($peers->can_read(1))
		{
			if ($peer == $listener)
			{
				$peers->add(scalar $listener->accept);
				next;
			}
			my $data = '';
			$peer->recv($data, 1 << 20);
			if ($data eq '')
			{
				$peers->remove($peer);
				$peer->close;
				next;
			}
			my $event = JSON::PP->new->utf8->decode($data);
			my $answer = (shift @answers) =~ s/ID/$event->{id}/r;
			push @got, "$event->{subject} $event->{data}{n}";
			$peer->send($answer) if $answer !~ /^(close|silence)$/;
			if ($answer eq 'close')
			{
				$peers->remove($peer);
				$peer->close;
			}
			last if !@answers;
		}
	}
	die 'no event came' if @answers;
	$until->() if $until;
	return;
}

# An event of a key of its own.
sub event
{
	my ($key, $n) = @_;

	return "SELECT $api.emit_event('test.event', '$key', '{\"n\": $n}');\n";
}

# Waits until the status shows such an error.
sub shows
{
	my ($pattern, $what) = @_;

	return sub {
		ok($node->poll_query_until('postgres',
				"SELECT last_error ~ '$pattern' FROM $api.subscription_status"), $what);
	};
}

$node->safe_psql('postgres', event('a', 1) . event('a', 2));
receive(shows('receiver said "later, please"', 'another answer: try again'), 'later, please');
receive(shows('connection lost|could not connect|receiver said ""', 'no answer, and the connection closed'), 'close');
receive(shows('receiver said "ok 0000"', 'the answer to another event'), 'ok 0000');
receive(undef, 'ok ID', 'ok ID');
drained($node, 'local');
is(join(', ', @got), 'a 1, a 1, a 1, a 1, a 2', 'each answer ends an attempt, and the order is kept');

# A receiver that says nothing holds up nobody.
$node->safe_psql('postgres', event('b', 1));
receive(sub {
	my $began = time;

	$node->stop('fast');
	cmp_ok(time - $began, '<', 15, 'a receiver that says nothing holds up no shutdown');
}, 'silence');
unlike(slurp_file($node->logfile), qr/TRAP|PANIC|terminated by signal (?!9)/, 'nothing crashed');
done_testing();
