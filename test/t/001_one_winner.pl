# Promise 1, one winner: a hundred sessions with the same key at once, for claims
# and for orders, at each isolation level; and whatever becomes of the first one.
#
# One round: the first session takes the key and stays in its transaction, the
# other ninety-nine are let go together and come to wait for it; then the first
# ends in one of several ways.  In a "race" all hundred are let go together.
# Whoever is told that the key is his writes a row into work in the same
# transaction.  Whoever got no answer, or a serialization failure, asks again as a
# client would.  In the end there is one row, and everybody else was given
# the first one's result.
#
# Bugs that this catches: looking the key up with the statement's snapshot
# instead of a dirty one (23505, or two rows of work); waiting for a transaction
# and then not looking again (nobody does the work after a rollback); answering
# an older snapshot with "claimed" (two rows at REPEATABLE READ).

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use OrderIdempotency::Node;
use OrderIdempotency::Sessions;
use PostgreSQL::Test::Utils;
use Test::More;

my $sessions = 100;

my %call = (
	claim => q{order_idempotency.claim_key(:'key', '[1]')},
	create => q{order_idempotency.create_order(:'key', 100, 'EUR', 'alice')});

# How the first one ends, and whether it has to be in the middle of a statement.
my @endings = qw(race commit rollback savepoint cancel terminate crash);

my $node = new_node('one_winner');
$node->safe_psql('postgres',
	'CREATE TABLE work (key text, pid int)');

my $pool = OrderIdempotency::Sessions->new($node, $sessions,
	setup => 'SET order_idempotency.in_flight_wait = -1;');
my $control = OrderIdempotency::Sessions->new($node, 1);

# The script of a session's request, which says "answer", the outcome, the
# SQLSTATE of the call and that of the end of the transaction.
sub request
{
	my ($function, $level, $key, $end) = @_;

	return <<~"SQL";
	\\set key $key
	\\set outcome none
	SELECT pg_advisory_lock_shared(1) \\gset
	SELECT pg_advisory_unlock_shared(1) \\gset
	BEGIN ISOLATION LEVEL $level;
	SAVEPOINT before;
	WITH answer AS MATERIALIZED (SELECT outcome FROM $call{$function}),
		work AS (INSERT INTO work SELECT :'key', pg_backend_pid() FROM answer
				 WHERE outcome IN ('claimed', 'created'))
	SELECT outcome FROM answer \\gset
	\\set state :SQLSTATE
	$end
	\\echo answer :outcome :state :SQLSTATE
	SQL
}

# The answer in a session's output, or "none" where there is none.
sub answer
{
	my ($output) = @_;

	return $output =~ /^answer (.*)$/m ? $1 : 'none';
}

# What the first session does between its work and its end, by ending.
my %middle = (
	rollback => 'ROLLBACK;',
	savepoint => "ROLLBACK TO before;\nSELECT pg_advisory_lock(2) \\gset\n"
	  . "SELECT pg_advisory_unlock(2) \\gset\nCOMMIT;");

# Lets the first session end in that way, once the others wait for it.
sub finish_first
{
	my ($ending) = @_;
	my $pid = $pool->pid(0);

	if ($ending eq 'cancel')
	{
		$control->run(0, "SELECT pg_cancel_backend($pid) \\gset");
	}
	elsif ($ending eq 'terminate')
	{
		$control->run(0, "SELECT pg_terminate_backend($pid) \\gset");
	}
	elsif ($ending eq 'crash')
	{
		kill 'KILL', $pid;
		$pool->collect_all;
		wait_until_up($node);
		$control->reconnect;
	}
	else
	{
		$control->run(0, 'SELECT pg_advisory_unlock(3) \gset');
	}
	return;
}

# Runs one round up to the point where everybody has been answered once.
sub first_answers
{
	my ($function, $level, $key, $ending) = @_;
	my $request = request($function, $level, $key, 'COMMIT;');

	$control->run(0, 'SELECT pg_advisory_lock(1), pg_advisory_lock(2),'
		  . ' pg_advisory_lock(3) \gset');
	if ($ending eq 'race')
	{
		$pool->send_all($request);
		$pool->wait_blocked($sessions);
		$control->run(0, 'SELECT pg_advisory_unlock(1) \gset');
	}
	else
	{
		my $end =
		    "SELECT pg_advisory_lock(3) \\gset\n"
		  . "SELECT pg_advisory_unlock(3) \\gset\n"
		  . ($middle{$ending} // 'COMMIT;');
		my $first = request($function, $level, $key, $end);

		# only the others have to be held back until all are ready
		$first =~ s/^SELECT pg_advisory_(un)?lock_shared.*\n//mg;
		$pool->send(0, $first);
		$node->poll_query_until('postgres',
			"SELECT wait_event_type = 'Lock' FROM pg_stat_activity"
			  . ' WHERE pid = ' . $pool->pid(0))
		  or die 'the first session did not take its key';
		$pool->send($_, $request) foreach 1 .. $sessions - 1;
		$pool->wait_blocked($sessions);
		$control->run(0, 'SELECT pg_advisory_unlock(1) \gset');
		$node->poll_query_until('postgres',
			q{SELECT count(*) = } . ($sessions - 1)
			  . q{ FROM pg_locks WHERE NOT granted}
			  . q{ AND locktype IN ('transactionid', 'tuple')})
		  or die 'the others do not wait for the first';
		finish_first($ending);
	}
	$pool->collect(1 .. $sessions - 1);
	$control->run(0, 'SELECT pg_advisory_unlock_all() \gset');
	return map { answer($_) } $pool->collect_all;
}

# Asks again for those who have no result yet: all together, and then, since
# some of them may get a serialization failure again, one after the other.
sub ask_again
{
	my ($function, $level, $key, @answers) = @_;
	my $request = request($function, $level, $key, 'COMMIT;');
	my $result = qr/^(claimed|created|replayed) 00000 00000$/;

	$pool->revive;
	my @asking = grep { $answers[$_] !~ $result } 0 .. $sessions - 1;
	$pool->send($_, $request) foreach @asking;
	@answers[@asking] = map { answer($_) } $pool->collect(@asking);
	foreach my $i (grep { $answers[$_] !~ $result } @asking)
	{
		$answers[$i] = answer($pool->run($i, $request));
	}
	return @answers;
}

# One round; what everybody was told first, and in the end.
sub round
{
	my ($function, $level, $ending) = @_;
	my $key = lc "$function-$level-$ending";
	my $what = "$function, $level, $ending";
	my $won = $function eq 'claim' ? 'claimed' : 'created';

	$key =~ tr/ /-/;
	my @first = first_answers($function, $level, $key, $ending);
	my @unexpected = grep {
		!/^(claimed|created|replayed) 00000 00000$/
		  && !($level ne 'READ COMMITTED' && /^none 40001 00000$/)
		  && !($level eq 'SERIALIZABLE' && /^(claimed|created|replayed) 00000 40001$/)
	} $ending eq 'crash' ? () : @first[ ($ending =~ /^(race|commit)$/ ? 0 : 1) .. $sessions - 1 ];
	is_deeply(\@unexpected, [], "$what: nobody got an error but 40001");
	@first = ('none') x $sessions if $ending eq 'crash';
	# a winner that then took its work back has not done it
	$first[0] = 'none' if $ending ne 'race' && $ending ne 'commit';

	my @last = ask_again($function, $level, $key, @first);
	is(scalar(grep { /^$won 00000 00000/ } @last),
		1, "$what: one did the work");
	is(scalar(grep { /^replayed 00000 00000/ } @last),
		$sessions - 1, "$what: the others were given its result");
	sql_is($node, "SELECT count(*) FROM work WHERE key = '$key'",
		'1', "$what: the work was done once");
	return;
}

foreach my $level ('READ COMMITTED', 'REPEATABLE READ', 'SERIALIZABLE')
{
	foreach my $function ('claim', 'create')
	{
		round($function, $level, $_) foreach @endings;
	}
}

sql_is($node,
	q{SELECT count(*), count(DISTINCT key) FROM order_idempotency.outbox},
	3 * @endings . '|' . 3 * @endings,
	'each order has one event');
consistent($node, 'after all rounds');
$pool->quit;
$control->quit;
done_testing();
