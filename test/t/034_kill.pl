# Promises 4 to 7 across crashes: a worker killed with SIGKILL at any moment, and
# the whole server killed in mid-load, cost no event, make no ghost, and do
# not send anything twice to a file, which has no torn line either.
#
# Bugs that this catches: recording before delivering, or delivering what a crash
# undoes; trusting a line that was cut short; not looking at what the file has
# already; sending an event whose commit was not yet durable.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use OrderIdempotency::Drain;
use OrderIdempotency::Node;
use OrderIdempotency::Sessions;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

srand(4);
my $node = new_drain_node('kill');
my $load = <<~'SQL';
	BEGIN;
	UPDATE counters SET n = n + 1 WHERE key = 'key-' || :i;
	SELECT order_idempotency.emit_event('load', key, jsonb_build_object('n', n, 'text', repeat('x', n % 300)))
	FROM counters WHERE key = 'key-' || :i \g /dev/null
	COMMIT;
	SQL
my $pool = OrderIdempotency::Sessions->new($node, 4,
	setup => 'SET synchronous_commit = off;');

$node->safe_psql('postgres', <<~'SQL');
	CREATE TABLE counters (key text PRIMARY KEY, n int NOT NULL);
	INSERT INTO counters SELECT 'key-' || i, 0 FROM generate_series(0, 9) i;
	SQL
subscribe($node, 'big');
subscribe($node, 'small', options => q('{"batch_size": 7}'));

# A script of many short transactions.
sub script_file
{
	my ($round, $i) = @_;
	my $file = $node->basedir . "/load-$round-$i.sql";

	append_to_file($file,
		join '', map { "\\set i " . int(rand(10)) . "\n$load" } 1 .. 400);
	return $file;
}

# Loads the server while something happens to it, then checks the files.
sub round
{
	my ($round, $what, $happens) = @_;

	$pool->send($_, '\i ' . script_file($round, $_))
	  foreach 0 .. $pool->count - 1;
	$happens->();
	$pool->collect_all;
	wait_until_up($node);
	$pool->reconnect;
	foreach my $name (qw(big small))
	{
		drained($node, $name);
		all_once($node, "$name.jsonl", "round $round, $what, $name");
		in_key_order($node, "$name.jsonl", "round $round, $what, $name");
	}
	return;
}

# Waits until a worker has sent some more, so that it is killed at work.
sub wait_for_growth
{
	my ($name) = @_;
	my $path = sink_dir($node) . "/$name.jsonl";
	my $size = -s $path // 0;
	my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;

	while ((-s $path // 0) <= $size + rand 4000)
	{
		die "nothing comes from $name" if time > $deadline;
		usleep(500);
	}
	return;
}

foreach my $round (1 .. 4)
{
	my $name = $round % 2 ? 'small' : 'big';
	my $pid = wait_for_worker($node, $name);

	round($round, "worker of $name killed", sub {
		wait_for_growth($name);
		ok(kill('KILL', $pid), 'killed');
	});
}

foreach my $round (5 .. 8)
{
	wait_for_worker($node, 'small');
	round($round, 'server killed', sub {
		wait_for_growth('small');
		kill_server($node);
		$node->start;
	});
}

# At each place where a crash can cut a line short: the end of the file is what
# a kill in the middle of a write leaves.
$pool->quit;
my $path = sink_dir($node) . '/small.jsonl';
my $line = (split /\n/, slurp_file($path))[-1];
foreach my $length (1, 20, 50, 70, length($line) - 1, length $line)
{
	wait_for_worker($node, 'small');
	kill_server($node);
	append_to_file($path, substr $line =~ s/"id":"........-/"id":"00000000-/r, 0, $length);
	$node->start;
	$node->safe_psql('postgres',
		qq(SELECT order_idempotency.emit_event('last', 'last-$length', '{"n": 1}')));
	drained($node, 'small');
	all_once($node, 'small.jsonl', "a line cut after $length bytes");
}

# A batch that is in the file and not recorded: set the cursor back to where it
# was some events ago, as a crash before the recording would have left it.
$node->safe_psql('postgres', <<~'SQL');
	CREATE TABLE before AS SELECT * FROM order_idempotency.subscription_cursors;
	SELECT order_idempotency.emit_event('unrecorded', 'u', jsonb_build_object('n', i))
	FROM generate_series(1, 300) i;
	SQL
drained($node, $_) foreach qw(big small);
$node->append_conf('postgresql.conf', 'order_idempotency.publish = off');
$node->restart;
$node->safe_psql('postgres', <<~'SQL');
	UPDATE order_idempotency.subscription_cursors c
	SET behind = b.behind, behind_position = b.behind_position,
		behind_next_xid = b.behind_next_xid, batch = b.batch,
		batch_position = b.batch_position, batch_next_xid = b.batch_next_xid,
		progress = b.progress
	FROM before b WHERE b.subscription = c.subscription;
	SELECT order_idempotency.emit_event('next', 'u', '{"n": 301}');
	SQL
$node->append_conf('postgresql.conf', 'order_idempotency.publish = on');
$node->reload;
drained($node, $_) foreach qw(big small);
all_once($node, "$_.jsonl", "delivered and not recorded, $_") foreach qw(big small);
in_key_order($node, "$_.jsonl", "delivered and not recorded, $_") foreach qw(big small);
done_testing();
