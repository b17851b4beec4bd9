# Promises 4 to 6 with two thousand writers open at once, prepared ones and sessions,
# that end in any order, some of them by a rollback: each event of those that commit is
# delivered once, each key's in order; and what a batch costs the worker is in
# proportion to the open transactions, not to their square.
#
# Bugs that this catches: late rows sorted by transaction; late rows of which all
# transactions are looked at for each part of a batch.  Planted and seen to fail: a merge
# that loses its place where a batch is full.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use List::Util qw(shuffle);
use OrderIdempotency::Drain;
use OrderIdempotency::Load;
use OrderIdempotency::Node;
use OrderIdempotency::Sessions;
use PostgreSQL::Test::Utils;
use Test::More;

srand(105);
my $prepared = 2000;
my $node = new_drain_node('writers', conf => "max_prepared_transactions = 2100\n");
my @names = qw(small whole);

subscribe($node, 'small', options => q('{"batch_size": 7}'));
subscribe($node, 'whole');
my $pid = worker_pid($node, 'small');

# An event of a key, with a number that grows within it.
my %n;

sub numbered
{
	my ($key) = @_;

	return "SELECT order_idempotency.emit_event('writer', '$key', '{\"n\": " . ++$n{$key} . "}') \\g /dev/null\n";
}

# Runs a script in one session.
sub run_script
{
	my ($script) = @_;

	$node->safe_psql('postgres', $script);
	return;
}

# Delivers single events, each in a transaction of its own.  Returns the worker's CPU
# seconds for one.
sub trickle
{
	my ($count) = @_;
	my $cpu = cpu_of($pid);

	foreach (1 .. $count)
	{
		run_script(numbered('trickle'));
	}
	drained($node, $_) foreach @names;
	return (cpu_of($pid) - $cpu) / $count;
}

my $alone = trickle(30);

# Written in turns, so that positions of one are among those of others.
my @writers = (1 .. $prepared);
run_script(join '', map {
	my $i = $_;

	"BEGIN;\n" . numbered("p-$i") . ($i % 3 ? '' : 'SAVEPOINT s;' . numbered("p-$i") . "RELEASE s;\n") . numbered("p-$i")
	  . "PREPARE TRANSACTION 'p-$i';\n"
} @writers);
my $pool = OrderIdempotency::Sessions->new($node, 60);
foreach my $part (1 .. 3)
{
	$pool->send_all(sub { ($part == 1 ? "BEGIN;\n" : '') . numbered("s-$_[0]") });
	$pool->collect_all;
}
my $beside = trickle(30);
note(sprintf 'a batch of one event: %.0f us CPU alone, %.0f beside %d open writers', 1e6 * $alone, 1e6 * $beside, $prepared + 60);
cmp_ok($beside - $alone, '<', 0.02, 'a batch beside 2,060 open writers');

# In any order, a hundred at a time; who committed writes another event of the key.
my @order = shuffle @writers;
my @undone = splice @order, 0, 200;
my @sessions = shuffle 0 .. $pool->count - 1;
my $cpu = cpu_of($pid);
my $events = 0;
while (my @part = splice @order, 0, 300)
{
	run_script(join '', (map { "COMMIT PREPARED 'p-$_';\n" . numbered("p-$_") } @part),
		(map { "ROLLBACK PREPARED 'p-$_';\n" } splice @undone, 0, 34));
	foreach my $i (splice @sessions, 0, 10)
	{
		$pool->run($i, ($i % 5 ? 'COMMIT;' : 'ROLLBACK;') . "\n" . numbered("s-$i"));
	}
	$events += 3 * @part;
}
foreach my $name (@names)
{
	drained($node, $name);
	all_once($node, "$name.jsonl", "$prepared writers, $name");
	in_key_order($node, "$name.jsonl", "$prepared writers, $name");
}
my $each = (cpu_of($pid) - $cpu) / $events;
note(sprintf 'a late event: %.0f us CPU', 1e6 * $each);
cmp_ok($each, '<', 0.002, 'late events');
sql_is($node, 'SELECT count(*) FROM pg_prepared_xacts', '0', 'all of them have ended');
is(scalar(grep { $_->{subject} =~ /^p-/ } read_events($node, 'whole.jsonl')) > 3 * 1800, 1, 'and those were many');
is(memory_of($pid) < 30000, 1, 'the worker\'s memory');

# All at once: thousands of late rows in one batch, cut into parts of seven.
run_script(join '', map { my $i = $_; "BEGIN;\n" . numbered("q-$i") x 1 . "PREPARE TRANSACTION 'q-$i';\n" } @writers);
run_script(numbered('between'));
drained($node, $_) foreach @names;
$node->append_conf('postgresql.conf', 'order_idempotency.publish = off');
$node->reload;
$node->poll_query_until('postgres', "SELECT bool_and(state = 'off') FROM order_idempotency.subscription_status") or die;
run_script(join '', (map { "COMMIT PREPARED 'q-$_';\n" } shuffle @writers), numbered('between'));
$cpu = cpu_of($pid);
$node->append_conf('postgresql.conf', 'order_idempotency.publish = on');
$node->reload;
drained($node, $_) foreach @names;
$each = (cpu_of($pid) - $cpu) / $prepared;
note(sprintf 'a late event of one batch: %.0f us CPU', 1e6 * $each);
cmp_ok($each, '<', 0.002, "$prepared late transactions in one batch");
all_once($node, "$_.jsonl", "all at once, $_") foreach @names;
my @late = map { $_->{subject} } grep { $_->{subject} =~ /^q-/ } read_events($node, 'whole.jsonl');
is("@late", join(' ', map { "q-$_" } @writers), 'in the order of positions');
$pool->quit;
$node->stop;
done_testing();
