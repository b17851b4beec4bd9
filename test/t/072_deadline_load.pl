# Promises 2, 8 and 10 for payment deadlines: many at once are dealt with in batches,
# beside which other databases and subscriptions get their turn; a held snapshot
# does not make looks slower; a crash, a termination or a shutdown in the middle
# of a batch loses no deadline and cancels nothing twice.
#
# Bugs that this catches: one database that has the maintenance process for
# itself; a look that reads all that was deleted since an old snapshot; a deadline
# that is forgotten with the process, or with the server's memory; a batch of
# which half is kept; deadlines of COMMIT PREPARED that nobody finds.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use OrderIdempotency::Drain;
use OrderIdempotency::Node;
use OrderIdempotency::Sessions;
use OrderIdempotency::Upkeep;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_drain_node('load');
my $api = 'order_idempotency';

# Orders that are all due when they are committed.
sub create_due
{
	my ($prefix, $n, $db) = @_;

	$node->safe_psql($db // 'postgres', <<~"SQL");
		BEGIN;
		SELECT count(*) FROM (SELECT $api.create_order('$prefix' || i, 100, 'EUR', 'acct' || i % 7, pay_within => '1 ms')
							  FROM generate_series(1, $n) i) x;
		COMMIT;
		SQL
	return;
}

# Lets each cancellation take so many seconds.
sub slow_down
{
	my ($seconds, $db) = @_;

	$node->safe_psql($db // 'postgres', <<~"SQL");
		CREATE OR REPLACE FUNCTION public.slow() RETURNS trigger LANGUAGE plpgsql AS
		'BEGIN PERFORM pg_sleep($seconds); RETURN NULL; END';
		DROP TRIGGER IF EXISTS slow ON $api.orders;
		CREATE TRIGGER slow AFTER UPDATE ON $api.orders FOR EACH ROW EXECUTE FUNCTION public.slow();
		SQL
	return;
}

sub speed_up
{
	my ($db) = @_;

	$node->safe_psql($db // 'postgres', "DROP TRIGGER slow ON $api.orders");
	return;
}

# Waits until some orders of a prefix are cancelled, and others are not.
sub in_the_middle
{
	my ($prefix, $db) = @_;

	$node->poll_query_until($db // 'postgres', <<~"SQL") or die "$prefix is not in the middle";
		SELECT count(DISTINCT state) = 2 FROM $api.orders WHERE starts_with(key, '$prefix')
		SQL
	return;
}

# Committed by COMMIT PREPARED, which tells nobody: found in the round of a minute.
# Looked for at the end.
$node->safe_psql('postgres', 'CREATE DATABASE third');
create_extension($node, 'third');
$node->safe_psql('third', <<~"SQL");
	BEGIN;
	SELECT $api.create_order('prepared', 100, 'EUR', 'alice', pay_within => '1 ms');
	PREPARE TRANSACTION 'p';
	SQL
create_due('before', 1, 'third');
deadlines_are_over($node, 'a look that sees nothing of a prepared order', 'third');
$node->safe_psql('third', "COMMIT PREPARED 'p'");

# Twelve thousand at once.
my $log = -s $node->logfile;
subscribe($node, 'audit');
create_due('many', 12000);
deadlines_are_over($node, 'twelve thousand at once');
is(states($node, 'many'), 'cancelled 12000', 'all are cancelled');
$node->wait_for_log(qr/LOG:  acted on \d{5} payment deadlines of database "postgres": \d{5} orders cancelled/, $log);
pass('progress is logged');
drained($node, 'audit');
is(scalar(grep { $_->{type} eq 'order.cancelled' && $_->{subject} =~ /^many/ } read_events($node, 'audit.jsonl')),
	12000, 'subscribers got each cancellation once');

# A snapshot that is held: what was deleted since is not read again at each look.
# One look a minute does, so the best of two is taken.
my $pool = OrderIdempotency::Sessions->new($node, 2);
$pool->run(0, 'BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1;');
create_due('dead', 5000);
deadlines_are_over($node, 'five thousand under a held snapshot');
my $best = 1e9;
foreach my $round (1 .. 2)
{
	my $read = "SELECT idx_tup_read FROM pg_stat_user_indexes WHERE indexrelname = 'payment_deadlines_due'";

	$node->poll_query_until('postgres',
		"SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'order_idempotency maintenance'") or die;
	my $before = $node->safe_psql('postgres', $read);
	create_due("single$round-", 1);
	$node->poll_query_until('postgres', "SELECT state = 'cancelled' FROM $api.orders WHERE key = 'single$round-1'") or die;
	$node->poll_query_until('postgres',
		"SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'order_idempotency maintenance'") or die;
	my $now = $node->safe_psql('postgres', $read) - $before;
	$best = $now if $now < $best;
}
no_more_than($best, 200, 'index entries read for one deadline, where 5000 are dead');
$pool->run(0, 'COMMIT;');

# Another database and its subscriptions, beside one that has much to do.
$node->safe_psql('postgres', 'CREATE DATABASE second');
create_extension($node, 'second');
create_sink($node, 'second');
slow_down(0.01);
create_due('slow', 3000);
in_the_middle('slow');
create_due('other', 3, 'second');
subscribe($node, 'other', db => 'second');
pass('a subscription of another database gets its worker');
deadlines_are_over($node, 'and its deadlines are acted upon', 'second');
is(states($node, 'other', 'second'), 'cancelled 3', 'its orders are cancelled');
like(states($node, 'slow'), qr/created/, 'while the first has still something to do');
subscribe($node, 'more');
pass('a new subscription of the first, too');
like(states($node, 'slow'), qr/created/, 'while it has');

# Both have much to do: they take turns.
slow_down(0.01, 'second');
create_due('turns', 3000, 'second');
in_the_middle('turns', 'second');
my $first = $node->safe_psql('postgres', "SELECT count(*) FROM $api.orders WHERE state = 'cancelled'");
$node->poll_query_until('postgres', "SELECT count(*) > $first FROM $api.orders WHERE state = 'cancelled'") or die;
like(states($node, 'turns', 'second'), qr/created/, 'two databases take turns');
my $second = $node->safe_psql('second', "SELECT count(*) FROM $api.orders WHERE state = 'cancelled'");
$node->poll_query_until('second', "SELECT count(*) > $second FROM $api.orders WHERE state = 'cancelled'") or die;
pass('and again');

# Ended in the middle: the process, then the server, in all ways.
my %ends = (
	cancel => sub { $node->safe_psql('postgres', "SELECT pg_cancel_backend(" . visitor_of() . ")") },
	terminate => sub { $node->safe_psql('postgres', "SELECT pg_terminate_backend(" . visitor_of() . ")") },
	kill => sub { kill 'KILL', visitor_of(); wait_until_up($node) },
	crash => sub { kill_server($node); $node->start },
	immediate => sub { $node->stop('immediate'); $node->start },
	fast => sub { $node->stop('fast'); $node->start },
);

# The process id of the maintenance process, wherever it is.
sub visitor_of
{
	my $pid = '';

	while ($pid eq '')
	{
		$pid = $node->safe_psql('postgres',
			"SELECT pid FROM pg_stat_activity WHERE backend_type = 'order_idempotency maintenance'");
	}
	return $pid;
}

$pool->quit;
foreach my $how (qw(cancel terminate kill crash immediate fast))
{
	create_due("$how-", 400);
	in_the_middle('slow') if states($node, 'slow') =~ /created/;
	$ends{$how}->();
	my $before = $node->safe_psql('postgres', "SELECT count(*) FROM $api.orders WHERE state = 'cancelled'");
	$node->poll_query_until('postgres', "SELECT count(*) > $before FROM $api.orders WHERE state = 'cancelled'") or die;
	pass("goes on after: $how");
}
speed_up();
speed_up('second');
deadlines_are_over($node, 'all deadlines are over at last');
deadlines_are_over($node, 'in the second database too', 'second');
is(states($node, $_), 'cancelled 400', "$_: all are cancelled") foreach qw(cancel- terminate- kill- crash- immediate- fast-);
is(states($node, 'slow'), 'cancelled 3000', 'those that were slow');
is(states($node, 'turns', 'second'), 'cancelled 3000', 'those that took turns');
sql_is($node, "SELECT count(*) FROM $api.orders WHERE version > 2", '0', 'nothing twice');
consistent($node, 'after all');
consistent($node, 'after all', 'second');

# The prepared one.
$node->poll_query_until('third', "SELECT state = 'cancelled' FROM $api.orders WHERE key = 'prepared'") or die;
pass('a deadline that COMMIT PREPARED brought');
drained($node, 'audit');
all_once($node, ['audit.jsonl'], 'after all');
unlike(slurp_file($node->logfile), qr/TRAP|PANIC|terminated by signal (?!9)/, 'nothing crashed but what was killed');
done_testing();
