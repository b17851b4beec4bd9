# Promises 4, 6 and 7 where the sink "file" rotates its file by size: every event
# is once in all of the files, in order, whole; also where the worker, or the
# server, is killed at any call around a rotation, or twice in a row, and where such
# a call fails.
#
# Bugs that this catches: ids looked for in the new file alone; a rename that is not
# durable before the new file is written to; a file that is renamed before it is
# durable, or over another; names that do not sort; another subscription's file
# taken for a rotated one; a write that failed and is not undone, which was planted.

use strict;
use warnings;

use File::Basename qw(basename);
use FindBin;
use lib "$FindBin::RealBin/../lib";

use OrderIdempotency::Drain;
use OrderIdempotency::Node;
use OrderIdempotency::Sessions;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

srand(43);
my $node = new_drain_node('rotation', conf => "fsync = on\n");
my $api = 'order_idempotency';
my $dir = sink_dir($node);
my $preload = $node->config_data('--pkglibdir') . '/kill_at.so';

# The file of a topic and its rotated ones, as the sink names them, oldest first.
sub files
{
	my ($topic) = @_;
	my @rotated = sort grep { /^\Q$topic\E\.[0-9]{8}T[0-9]{6}(\.[0-9]{6})?\+00$/ }
	  map { basename($_) } glob "$dir/$topic.*";

	push @rotated, $topic;
	return @rotated;
}

# Checks that these files have each event once, and each key in its order.
sub all_well
{
	my ($topic, $what) = @_;
	my @files = files($topic);
	my (%last, @wrong);

	all_once($node, \@files, $what);
	foreach my $event (map { read_events($node, $_) } @files)
	{
		my ($key, $n) = ($event->{subject}, $event->{data}{n});

		next if !defined $n;
		push @wrong, "$key: $n after $last{$key}" if defined $last{$key} && $n <= $last{$key};
		$last{$key} = $n;
	}
	is("@wrong", '', "$what: in order, from file to file");
	return;
}

# Events of some keys, as one statement: each about 400 bytes in the file.
my $n = 0;

sub events
{
	my ($count) = @_;
	my $from = $n + 1;

	$n += $count;
	return <<~"SQL";
		SELECT count($api.emit_event('test.event', 'key-' || i % 7,
			jsonb_build_object('n', i, 'text', repeat('x', 60 + i % 90))))
		FROM generate_series($from, $n) i;
		SQL
}

# -- the option ------------------------------------------------------------------

foreach my $size ('0', '-1', '1000', '2TB', 'large', '', '64 MB of it')
{
	my ($ret, $out, $err) = $node->psql('postgres', "ALTER SERVER files OPTIONS (ADD rotate_size '$size')");

	like($err, qr/option "rotate_size" must be a size from 1kB to 1TB/, "rotate_size is not '$size'");
}
foreach my $size ('1TB', '64MB', '1.5 GB', '1024', '1kB')
{
	$node->safe_psql('postgres', "ALTER SERVER files OPTIONS (ADD rotate_size '$size')");
	$node->safe_psql('postgres', 'ALTER SERVER files OPTIONS (DROP rotate_size)');
	pass("but it is '$size'");
}

# -- by size -----------------------------------------------------------------------

$node->safe_psql('postgres', "ALTER SERVER files OPTIONS (ADD rotate_size '6kB')");
subscribe($node, 'audit', options => q('{"batch_size": 5}'));
foreach (1 .. 40)
{
	$node->safe_psql('postgres', events(3));
	drained($node, 'audit');
}
my @files = files('audit.jsonl');
cmp_ok(scalar @files, '>=', 7, 'the file is rotated');
cmp_ok(scalar @files, '<=', 12, 'when it is full, and not before');
is(scalar(grep { -s "$dir/$_" > 6144 } @files), 0, 'no file is larger');
is(scalar(grep { -s "$dir/$_" == 0 } @files), 0, 'none is empty');
all_well('audit.jsonl', 'rotation');

# One event that is larger than any file.
$node->safe_psql('postgres', "SELECT $api.emit_event('test.event', 'large', jsonb_build_object('text', repeat('y', 9000)))");
$node->safe_psql('postgres', events(2));
drained($node, 'audit');
is(scalar(grep { -s "$dir/$_" > 6144 } files('audit.jsonl')), 1, 'an event that is larger has a file of its own');
all_well('audit.jsonl', 'a large event');

# The clock was ahead once: the names go on from there.
append_to_file("$dir/audit.jsonl.20990102T030405.000006+00", '');
$node->safe_psql('postgres', "SELECT pg_terminate_backend($_, 10000)") foreach wait_for_worker($node, 'audit');
$node->safe_psql('postgres', events(40));
drained($node, 'audit');
like((files('audit.jsonl'))[-2], qr/^audit\.jsonl\.20990102T030405\.0000(0[7-9]|1\d)\+00$/,
	'names follow each other though the clock was set back');
all_well('audit.jsonl', 'the clock set back');

# A directory that nothing can be renamed in, for a while.
chmod 0555, $dir or die;
$node->safe_psql('postgres', events(40));
ok($node->poll_query_until('postgres',
		"SELECT last_error ~ 'could not rename file' FROM $api.subscription_status"),
	'a directory that is read-only');
chmod 0755, $dir or die;
drained($node, 'audit');
all_well('audit.jsonl', 'a directory that was read-only');

# Neither is another subscription's file taken for a rotated one, nor what has
# the name but is none.
subscribe($node, 'other', topic => q('audit.jsonl.20250101T000000.000000'), options => q('{"from": "start"}'));
mkdir "$dir/audit.jsonl.20990103T000000+00" or die;
symlink '/etc/passwd', "$dir/audit.jsonl.20990104T000000+00" or die;
drained($node, 'other');
$node->append_conf('postgresql.conf', 'order_idempotency.publish = off');
$node->restart;
$node->safe_psql('postgres', events(30));
$node->append_conf('postgresql.conf', 'order_idempotency.publish = on');
$node->restart;
drained($node, $_) foreach qw(audit other);
rmdir "$dir/audit.jsonl.20990103T000000+00" or die;
unlink "$dir/audit.jsonl.20990104T000000+00" or die;
all_well('audit.jsonl', 'names that are alike');
all_well('audit.jsonl.20250101T000000.000000', 'the other one');
$node->safe_psql('postgres', "SELECT $api.drop_subscription('other')");

# A name that has no room for the time.
my $long = 'a' x 240;
$node->safe_psql('postgres', "SELECT $api.create_subscription('long', 'files', topic => '$long', options => '{\"from\": \"start\"}')");
ok($node->poll_query_until('postgres',
		"SELECT last_error ~ 'topic is too long for the names of rotated files' FROM $api.subscription_status WHERE name = 'long'"),
	'a topic that is too long');
$node->safe_psql('postgres', "SELECT $api.drop_subscription('long')");

# -- rotated files that cannot be read --------------------------------------------

# What is not to be read is not taken for empty; what only looks like a rotated file is left alone.
my @odd = map { "$dir/audit.jsonl.$_" } qw(20200131T000000+00 20200131T000000.0+00 20201331T000000+00);
append_to_file($_, '') foreach @odd;
chmod 0, $odd[0] or die;
my $reader = wait_for_worker($node, 'audit');
$node->safe_psql('postgres', "SELECT pg_terminate_backend($reader, 10000)");
$node->safe_psql('postgres', events(1));
ok($node->poll_query_until('postgres',
		"SELECT last_error ~ 'could not open file .*20200131T000000.00.: Permission denied' FROM $api.subscription_status WHERE name = 'audit'"),
	'a rotated file that cannot be read is said');
chmod 0600, $odd[0] or die;
drained($node, 'audit');
all_well('audit.jsonl', 'one that can be read again');
unlink @odd;

# -- killed at each call -----------------------------------------------------------

# Starts the server with the library that kills.
sub start_with_library
{
	local $ENV{LD_PRELOAD} = join ' ', $preload, $ENV{LD_PRELOAD} // ();
	local $ENV{KILL_AT} = $node->basedir;

	$node->start;
	return;
}

# Has the next process that comes to such a call die there.
sub order
{
	my ($call, $count, $when) = @_;
	my $file = $node->basedir . '/order';

	append_to_file("$file.new", "$call $count $when");
	rename "$file.new", $file or die;
	return;
}

# Waits until one did.
sub wait_for_death
{
	my ($what) = @_;
	my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;

	while (-e $node->basedir . '/order')
	{
		die "nobody came to $what" if time > $deadline;
		usleep(2000);
	}
	return;
}

$node->stop;
start_with_library();
foreach my $at (
	'rename 1 before', 'rename 1 after',
	'fsync 1 before', 'fsync 1 after', 'fsync 2 before', 'fsync 2 after', 'fsync 3 before', 'fsync 3 after',
	'fsync 4 before', 'fsync 5 after',
	'write 1 before', 'write 1 middle', 'write 1 after', 'write 2 middle', 'write 2 after', 'write 3 middle')
{
	wait_for_worker($node, 'audit');
	order(split / /, $at);
	# the crash may come before the last of them
	$node->psql('postgres', events(17));
	wait_for_death($at);
	wait_until_up($node);
	$node->psql('postgres', events(3));
	drained($node, 'audit');
	all_well('audit.jsonl', "killed at $at");
}

# Cut off a torn line, and die at that.
wait_for_worker($node, 'audit');
order('write', 1, 'middle');
$node->psql('postgres', events(17));
wait_for_death('write');
order('ftruncate', 1, 'before');
wait_for_death('ftruncate');
wait_until_up($node);
drained($node, 'audit');
all_well('audit.jsonl', 'killed where it repairs the file');

# -- a call that fails ---------------------------------------------------------------

# The worker says so, goes on, and nothing is lost, torn or there twice.  An fsync that failed
# proves nothing of what was written before it, so that is written again.
foreach my $at ('write 1', 'write 2', 'fsync 1', 'fsync 2', 'fsync 3', 'rename 1')
{
	my ($call, $count) = split / /, $at;
	my $pid = wait_for_worker($node, 'audit');

	order($call, $count, 'fail');
	$node->safe_psql('postgres', events(17));
	wait_for_death($at);
	drained($node, 'audit');
	like($node->safe_psql('postgres', "SELECT last_error FROM $api.subscription_status WHERE name = 'audit'"),
		qr/could not $call .*Input\/output error/, "that $at failed is said");
	is(worker_pid($node, 'audit'), $pid, 'by the same worker');
	all_well('audit.jsonl', "$at failed");
}
order('write', 1, 'middle');
$node->psql('postgres', events(17));
wait_for_death('write');
order('ftruncate', 1, 'fail');
wait_for_death('ftruncate');
wait_until_up($node);
drained($node, 'audit');
like(slurp_file($node->logfile), qr/could not truncate file .*Input\/output error/, 'a torn line that cannot be cut off is said');
all_well('audit.jsonl', 'it is cut off as soon as it can be');

# -- crashes in a row, nothing recorded in between ------------------------------------

# Sets publish, without a server or with one.
sub publish
{
	my ($value) = @_;

	$node->append_conf('postgresql.conf', "order_idempotency.publish = $value");
	$node->reload if -e $node->data_dir . '/postmaster.pid';
	return;
}

# Waits until the server has gone after a crash.
sub wait_until_down
{
	my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;

	while (system('pg_ctl', '-s', '-D', $node->data_dir, 'status') == 0)
	{
		die 'the server is still there' if time > $deadline;
		usleep(20000);
	}
	$node->_update_pid(0);
	return;
}

# Each delivery is one file here, so what is unrecorded comes to be in several.
$node->safe_psql('postgres', "SELECT $api.drop_subscription('audit')");
unlink glob "$dir/audit.jsonl*";
$node->safe_psql('postgres', "SELECT $api.create_subscription('audit', 'files', options => '{\"from\": \"start\", \"batch_size\": 5000}')");
drained($node, 'audit');
$node->safe_psql('postgres', "ALTER SERVER files OPTIONS (SET rotate_size '1kB')");
$node->append_conf('postgresql.conf', 'restart_after_crash = off');
publish('off');
$node->stop;
foreach my $round (1 .. 4)
{
	start_with_library();
	$node->safe_psql('postgres', events(9));
	order('write', 1, 'after');
	publish('on');
	wait_for_death('write');
	wait_until_down();
	publish('off');
}

# and somebody renamed the last one meanwhile
rename "$dir/audit.jsonl", "$dir/audit.jsonl.20990601T000000+00" or die;
publish('on');
start_with_library();
$node->safe_psql('postgres', events(1));
drained($node, 'audit');
cmp_ok(scalar(files('audit.jsonl')), '>=', 5, 'what was unrecorded is in several files');
all_well('audit.jsonl', 'four crashes with nothing recorded');

# -- killed at any moment ----------------------------------------------------------

$node->append_conf('postgresql.conf', 'restart_after_crash = on');
$node->restart;
$node->safe_psql('postgres', "ALTER SERVER files OPTIONS (SET rotate_size '3kB')");
my $pool = OrderIdempotency::Sessions->new($node, 2);
my $counter = 'CREATE TABLE counters AS SELECT i AS key, 1000000 AS n FROM generate_series(0, 6) i';

$node->safe_psql('postgres', $counter);
foreach my $round (1 .. 6)
{
	my $pid = wait_for_worker($node, 'audit');
	my $before = scalar(files('audit.jsonl'));
	my $statements = join '', map { my $key = int rand 7; <<~"SQL" } 1 .. 300;
		BEGIN;
		UPDATE counters SET n = n + 1 WHERE key = $key;
		SELECT $api.emit_event('test.event', 'key-' || key, jsonb_build_object('n', n)) FROM counters WHERE key = $key \\g /dev/null
		COMMIT;
		SQL
	my $script = $node->basedir . "/load-$round.sql";

	append_to_file($script, $statements);
	$pool->send($_, "\\i $script") foreach 0 .. $pool->count - 1;
	my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;
	while (scalar(files('audit.jsonl')) < $before + 2 + $round)
	{
		die 'nothing is rotated' if time > $deadline;
		usleep(300);
	}
	ok(kill('KILL', $pid), "round $round: killed");
	$pool->collect_all;
	wait_until_up($node);
	$pool->reconnect;
	drained($node, 'audit');
	all_well('audit.jsonl', "round $round, killed at any moment");
}
$pool->quit;
done_testing();
