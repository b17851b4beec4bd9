# Promises 4, 6 and 7 where the receiver fails: a directory that is not there, a
# file that another process writes to, that is full, that was renamed or
# replaced.  The batch is kept and comes out once, in order, when it can; the
# state says what is wrong, the log says it once; nobody has to wait for the
# worker in the meantime.  (101_parking.pl has failures of single events.)
#
# Bugs that this catches: a failed write that leaves a torn line, or is sent
# again behind its own beginning; two writers in one file; a failure that ends
# the worker, or spins; following a link out of the directory.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use Fcntl qw(:flock);
use OrderIdempotency::Drain;
use OrderIdempotency::Node;
use POSIX qw(mkfifo);
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_drain_node('sink_failures');
my $api = 'order_idempotency';
my $dir = sink_dir($node);

# Waits until the worker says that it fails, in these words.
sub fails
{
	my ($pattern, $what, $name) = @_;

	$name //= 'audit';
	ok( $node->poll_query_until('postgres', <<~SQL), $what);
		SELECT state = 'retrying' AND last_error ~ '$pattern'
		FROM $api.subscription_status WHERE name = '$name'
		SQL
	return;
}

# Checks what has come out since the last call; different keys may overtake each
# other where one fails.
my $seen = 0;

sub sent
{
	my ($expected, $what) = @_;

	drained($node, 'audit');
	my @keys = split / /, events_of($node, 'audit.jsonl');
	is(join(' ', sort @keys[ $seen .. $#keys ]), join(' ', sort split / /, $expected), $what);
	$seen = @keys;
	return;
}

# No directory at first.
rename $dir, "$dir-away" or die;
subscribe($node, 'audit', options => q('{"batch_size": 3}'));
my $log = -s $node->logfile;
$node->safe_psql('postgres', join '', map { emit("early-$_") } 1 .. 5);
fails('could not open file .*No such file', 'a directory that is not there');
my $pid = worker_pid($node, 'audit');
sql_is($node, "SELECT lag_events, delivered, last_error_at > now() - interval '1 hour' FROM $api.subscription_status",
	'5|0|t', 'and the events wait');
$node->poll_query_until('postgres',
	"SELECT last_error_at > now() - interval '1 hour' FROM $api.subscription_status") or die;
rename "$dir-away", $dir or die;
sent('early-1 early-2 early-3 early-4 early-5', 'they come when it is there');
is(worker_pid($node, 'audit'), $pid, 'from the same worker');
my @said = slurp_file($node->logfile, $log) =~ /WARNING:.*could not deliver/g;
is(scalar @said, 1, 'the log says it once');
sql_is($node, "SELECT state IN ('idle', 'delivering') FROM $api.subscription_status", 't',
	'the state is good again');

# Another writer has the file, ours or not.
subscribe($node, 'same', topic => q('audit.jsonl'));
$node->safe_psql('postgres', emit('two'));
fails('being written to by another process', 'a second subscription to one file', 'same');
sent('two', 'the first goes on');
$node->safe_psql('postgres', "SELECT $api.drop_subscription('same')");
$pid = $node->safe_psql('postgres', "SELECT pid FROM pg_stat_activity WHERE application_name = 'order_idempotency audit'");
$node->safe_psql('postgres', "SELECT pg_terminate_backend($pid, 10000)");
open my $lock, '>>', "$dir/audit.jsonl" or die;
flock $lock, LOCK_EX or die;
$node->safe_psql('postgres', emit('locked'));
fails('being written to by another process', 'a file that someone else has locked');
close $lock;
sent('locked', 'goes on when it is let go');

# Renamed, removed, replaced by what must not be written to.
rename "$dir/audit.jsonl", "$dir/rotated.jsonl" or die;
$seen = 0;
$node->safe_psql('postgres', emit('rotated'));
sent('rotated', 'a file that was renamed: a new one');
unlink "$dir/audit.jsonl" or die;
$seen = 0;
$node->safe_psql('postgres', emit('removed'));
sent('removed', 'a file that was removed: a new one');
rename "$dir/audit.jsonl", "$dir/removed.jsonl" or die;
append_to_file("$dir/target", "precious\n");
symlink "$dir/target", "$dir/audit.jsonl" or die;
$node->safe_psql('postgres', emit('linked'));
fails('could not open file', 'a symbolic link is not followed');
is(slurp_file("$dir/target"), "precious\n", 'what it points to is left alone');
unlink "$dir/audit.jsonl" or die;
link "$dir/target", "$dir/audit.jsonl" or die;
$node->safe_psql('postgres', emit('second'));
fails('has another name, too', 'nor is a file written to that has another name');
is(slurp_file("$dir/target"), "precious\n", 'it is left alone');
unlink "$dir/audit.jsonl" or die;
mkfifo("$dir/audit.jsonl", 0600) or die;
$node->safe_psql('postgres', emit('fifo'));
fails('is not a regular file', 'a pipe in its place');
unlink "$dir/audit.jsonl" or die;
mkdir "$dir/audit.jsonl" or die;
$node->safe_psql('postgres', emit('directory'));
fails('directory', 'a directory in its place');
rmdir "$dir/audit.jsonl" or die;
$seen = 0;
sent('linked second fifo directory', 'a new file in the end');

# A file that can grow no further: the write that crosses the limit is cut short.
# The limit is the worker's, for all of its files, so this one has to be the
# largest.
append_to_file("$dir/audit.jsonl",
	'{"subject":"padding","t":"' . 'x' x 20_000_000 . qq("}\n));
$pid = wait_for_worker($node, 'audit');
my $limit = (-s "$dir/audit.jsonl") + 1000;
command_ok([ 'prlimit', "--pid=$pid", "--fsize=$limit:" ], 'a limit');
$node->safe_psql('postgres', emit('fits'));
drained($node, 'audit');
my $before = -s "$dir/audit.jsonl";
$node->safe_psql('postgres',
	"SELECT $api.emit_event('large', 'large', jsonb_build_object('t', repeat('x', 2000)));"
	  . emit('large'));
fails('could not write to file', 'a file that can grow no further');
is(-s "$dir/audit.jsonl", $before, 'nothing is left of a write that failed');
is(join(' ', sort split / /, events_of($node, 'audit.jsonl')), 'directory fifo fits linked padding second', 'and no line is torn');
command_ok([ 'prlimit', "--pid=$pid", '--fsize=unlimited:' ], 'no limit');
$seen = 6;
sent('large large', 'all of it when there is room');

# The server's options change, or it goes away and comes back.
mkdir "$dir/moved" or die;
$node->safe_psql('postgres', "ALTER SERVER files OPTIONS (SET path '$dir/moved', ADD fsync 'off');"
	  . emit('moved'));
drained($node, 'audit');
is(events_of($node, 'moved/audit.jsonl'), 'moved', 'another path');
$node->safe_psql('postgres', 'DROP SERVER files;' . emit('no-server'));
fails('server "files" does not exist', 'no server');
create_sink($node, 'postgres');
$seen = 8;
sent('no-server', 'a server again');
$node->safe_psql('postgres', <<~SQL);
	CREATE ROLE operator LOGIN;
	SELECT $api.grant_operator('operator');
	GRANT USAGE ON FOREIGN SERVER files TO operator;
	SET ROLE operator;
	SELECT $api.create_subscription('theirs', 'files');
	SQL
wait_for_worker($node, 'theirs');
$node->safe_psql('postgres', 'REVOKE USAGE ON FOREIGN SERVER files FROM operator;' . emit('revoked'));
fails('permission denied for foreign server files', 'USAGE revoked', 'theirs');
is(events_of($node, 'theirs.jsonl'), '', 'nothing is sent without');
$node->safe_psql('postgres', 'GRANT USAGE ON FOREIGN SERVER files TO operator');
drained($node, 'theirs');
is(events_of($node, 'theirs.jsonl'), 'revoked', 'it is with it');
sent('revoked', 'the other one never stopped');

# In the middle of a wait for the next attempt, nothing has to wait for it.
rename $dir, "$dir-away" or die;
$node->safe_psql('postgres', emit('stuck'));
fails('could not open file', 'fails again');
my $began = time;
$node->safe_psql('postgres', "SELECT $api.drop_subscription('audit')");
$node->poll_query_until('postgres',
	q(SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = 'order_idempotency audit'))
  or die;
pass('a worker that waits for its next attempt sees its subscription dropped');
$node->stop('fast');
cmp_ok(time - $began, '<', 20, 'nor does a shutdown wait');
unlike(slurp_file($node->logfile), qr/TRAP|PANIC|terminated by signal/, 'nothing crashed');
done_testing();
