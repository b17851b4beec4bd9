# Promise 4: events that a subscription has not delivered go only where the operator said
# so, by max_retained and on_full, and then loudly.  refuse: nothing is lost, events are
# refused with a clear error, what writes none goes on, and it heals when the subscription
# gets on, is dropped, or may hold more.  invalidate: what is said to be lost and what is
# delivered later are all there was.
#
# Bugs that this is to catch: refusing although nobody holds anything;
# not looking again when the log has room (it never heals); emptying what an invalidated
# subscription has not, without a word; leaving its worker at work; taking one for held up that
# a burst is a moment ahead of.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use OrderIdempotency::Drain;
use OrderIdempotency::Node;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

my $api = 'order_idempotency';
my $node = new_drain_node('max_retained',
	conf => "order_idempotency.environment = 'test'\norder_idempotency.max_retained = 1MB\nlog_statement = none\n");

$node->safe_psql('postgres', 'CREATE TABLE emitted (n serial, event_id uuid)');
my $fill = <<~"SQL";
	INSERT INTO emitted (event_id)
	SELECT $api.emit_event('test.fill', 'key', jsonb_build_object('text', repeat(md5(i::text), 30)))
	FROM generate_series(1, 100) i;
	SQL
my $size = "(SELECT sum(pg_total_relation_size('$api.outbox_' || i)) FROM generate_series(0, 3) i)";

# Writes events until that is refused, or there were so many; returns the error.
sub fill
{
	my ($most) = @_;
	my $error = '';

	for (my $i = 0; $error eq '' && $i < $most; $i++)
	{
		(undef, undef, $error) = $node->psql('postgres', "\\set VERBOSITY verbose\n$fill");
	}
	return $error;
}

# Waits until events are taken again.
sub heals
{
	my ($what) = @_;
	my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;
	my $status = 3;

	while ($status != 0 && time < $deadline)
	{
		($status) = $node->psql('postgres', "\\set ON_ERROR_STOP on\n$fill");
	}
	is($status, 0, $what);
	return;
}

# Sets a setting of the server's.
sub set
{
	my ($name, $value) = @_;

	$node->safe_psql('postgres', "ALTER SYSTEM SET order_idempotency.$name = '$value'");
	$node->reload;
	$node->poll_query_until('postgres', "SHOW order_idempotency.$name", $value) or die;
	return;
}

# The state of a subscription.
sub state
{
	my ($name) = @_;

	return $node->safe_psql('postgres', "SELECT state FROM $api.subscription_status WHERE name = '$name'");
}

# The ids of the events in a subscription's file.
sub ids
{
	my ($name) = @_;

	return slurp_file(sink_dir($node) . "/$name.jsonl") =~ /"id":"([0-9a-f-]+)"[^\n]*test\.fill/g;
}

#----------------------------------------------------------------------------
# Without a subscription nothing is refused, and the log does not grow.

is(fill(40), '', 'four times as much as may be kept is written');
$node->poll_query_until('postgres', "SELECT $size < 1024 * 1024") or die 'the log stays large';
pass('what nobody needs goes, young as it is');

#----------------------------------------------------------------------------
# refuse

$node->safe_psql('postgres', 'TRUNCATE emitted');
subscribe($node, 'quick');
subscribe($node, 'lazy');
$node->safe_psql('postgres', "SELECT outcome FROM $api.create_order('there', 1, 'EUR')");
drained($node, 'lazy');
$node->safe_psql('postgres', "SELECT $api.pause_subscription('lazy')");
my $error = fill(10000);
like($error, qr/ERROR:  53400: the log of events is full/, 'a subscription that does not get on fills the log');
like($error, qr/DETAIL: .*max_retained is 1024 kB\. Not delivered by: "lazy"\./, 'the error names it');
like($error, qr/HINT: .*resume or drop/, 'and says what to do');
cmp_ok($node->safe_psql('postgres', "SELECT $size"), '>', 1024 * 1024, 'the log is as large as it may be');
like(($node->psql('postgres', "\\set VERBOSITY sqlstate\nSELECT $api.create_order('new', 1, 'EUR')"))[2], qr/53400/,
	'an order is refused');
like(($node->psql('postgres', "\\set VERBOSITY sqlstate\nSELECT $api.create_order('new', 1, 'EUR', on_conflict => 'report')"))[2],
	qr/53400/, 'with on_conflict => report too');
sql_is($node, "SELECT outcome FROM $api.create_order('there', 1, 'EUR')", 'replayed', 'a repeat is answered');
sql_is($node, "SELECT outcome FROM $api.claim_key('k')", 'claimed', 'so are claims');
# that a generation has ended is seen a moment after the next has begun
$node->poll_query_until('postgres',
	"SELECT string_agg(DISTINCT held_by::text, ' ') FROM $api.outbox_store WHERE ended_at IS NOT NULL", '{lazy}')
  or die 'no generation that has ended and is held';
pass('outbox_store shows who holds it');
$node->safe_psql('postgres', "SELECT $api.resume_subscription('lazy')");
heals('it heals when the subscription gets on');

$node->safe_psql('postgres', "SELECT $api.pause_subscription('lazy')");
like(fill(10000), qr/53400/, 'again');
set('max_retained', '1GB');
heals('it heals when more may be kept');
set('max_retained', '1MB');
like(fill(10000), qr/53400/, 'and again');
$node->restart;
$node->poll_query_until('postgres', "SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'order_idempotency launcher'") or die;
like(fill(10000), qr/53400/, 'after a restart as well');
$node->safe_psql('postgres', "SELECT $api.resume_subscription('lazy')");
wait_for_worker($node, $_) foreach qw(quick lazy);
drained($node, $_) foreach qw(quick lazy);
foreach my $name (qw(quick lazy))
{
	my %count;

	$count{$_}++ foreach ids($name);
	my @emitted = split /\n/, $node->safe_psql('postgres', 'SELECT event_id FROM emitted');
	my @lost = grep { !$count{$_} } @emitted;
	my @repeated = grep { $count{$_} > 1 } keys %count;

	is(scalar(@lost) . ' lost, ' . (keys(%count) - @emitted) . ' ghosts, ' . scalar(@repeated) . ' repeated',
		'0 lost, 0 ghosts, 0 repeated', "$name: each of " . scalar(@emitted) . ' events once');
}
$node->safe_psql('postgres', "SELECT $api.pause_subscription('lazy')");
like(fill(10000), qr/53400/, 'once more');
$node->safe_psql('postgres', "SELECT $api.drop_subscription('lazy')");
heals('it heals when the subscription is dropped');

#----------------------------------------------------------------------------
# invalidate

set('on_full', 'invalidate');
my $worker = wait_for_worker($node, 'quick');
my $generation = "(SELECT max(generation) FROM $api.generations WHERE store = 'outbox')";
drained($node, 'quick');
$node->poll_query_until('postgres', "SELECT $size < 1024 * 1024") or die 'the log stays large';
my $current = $node->safe_psql('postgres', "SELECT $generation");
kill 'STOP', $worker;
$error = fill(40);
my $noticed = $node->poll_query_until('postgres', "SELECT $generation > $current");
usleep(500_000);
my $large = $node->safe_psql('postgres', "SELECT $size");
kill 'CONT', $worker;
ok($noticed, 'a burst fills the log while a worker is held up for a second');
is($error, '', 'it is taken');
cmp_ok($large, '>', 1024 * 1024, 'and is more than may be kept');
drained($node, 'quick');
isnt(state('quick'), 'invalidated', 'the subscription is not given up for that');
subscribe($node, 'loses');
drained($node, 'loses');
$node->safe_psql('postgres', "SELECT $api.pause_subscription('loses')");
my $before = $node->safe_psql('postgres', 'SELECT count(*) FROM emitted');
my $offset = -s $node->logfile;
until (state('loses') eq 'invalidated')
{
	$error = fill(1);
	last if $error ne '';
}
is($error, '', 'events are not refused');
like($node->safe_psql('postgres', "SELECT detail FROM $api.subscription_status WHERE name = 'loses'"),
	qr/^Invalidated at .*max_retained.*resume_subscription/, 'the status says what happened, and what to do');
like(slurp_file($node->logfile, $offset), qr/WARNING:  subscription "loses" was invalidated/, 'so does the log');
is(fill(40), '', 'more events are taken');
$node->poll_query_until('postgres', "SELECT $size < 1024 * 1024") or die 'the log stays large';
is(fill(1), '', 'and some that are kept');
$node->safe_psql('postgres', "SELECT $api.resume_subscription('loses')");
wait_for_worker($node, 'loses');
drained($node, $_) foreach qw(quick loses);
my $log = slurp_file($node->logfile, $offset);
my $lost = 0;
$lost += $1 while $log =~ /subscription "loses", which was invalidated, loses ([0-9]+) events/g;
my $written = $node->safe_psql('postgres', 'SELECT count(*) FROM emitted') - $before;
my @got = ids('loses');
my $late = @got;
cmp_ok($lost, '>', 0, "it lost $lost of $written events");
is($lost + $late, $written, "and got the other $late");
is($got[-1], $node->safe_psql('postgres', 'SELECT event_id FROM emitted ORDER BY n DESC LIMIT 1'), 'among them the last');
my @quick = ids('quick');
is(scalar(@quick), $node->safe_psql('postgres', 'SELECT count(*) FROM emitted'), 'the other subscription lost nothing');
$node->stop;
done_testing();
