# Promises 1 and 3 where the row is there already: fifty sessions at once take over
# a lease that is over, pay one order, pay it under one request key, under a
# request key each, pay and cancel it, complete one claim, bury one order.  One of
# them does it; the others are told so, each in the words of its question.
#
# Bugs that this catches: judging by the row as it was before its lock was
# waited for (two attempts with one number, two payments); following a row's
# update only once; a request key looked up in the old version of the row.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use OrderIdempotency::Node;
use OrderIdempotency::Sessions;
use PostgreSQL::Test::Utils;
use Test::More;

my $sessions = 50;
my $api = 'order_idempotency';
my $node = new_node('storms');
my $pool = OrderIdempotency::Sessions->new($node, $sessions,
	setup => 'SET order_idempotency.in_flight_wait = -1;');
my $control = OrderIdempotency::Sessions->new($node, 1);

# Each storm: what is there before, what session i sends about key :k, how often
# each answer comes (at READ COMMITTED).
my @storms = (
	{
		name => 'a lease that is over',
		before => "SELECT $api.claim_key(:k, lease => '1 ms')",
		over => 1,
		call => sub {
			"SELECT outcome || ' ' || attempt AS answer FROM $api.claim_key(:k, lease => '1 hour')";
		},
		after => { 'claimed 2' => 1, 'in_progress 2' => $sessions - 1 }
	},
	{
		name => 'a lease that is over, without a new one',
		before => "SELECT $api.claim_key(:k, lease => '1 ms')",
		over => 1,
		call => sub {
			"SELECT outcome || ' ' || attempt AS answer FROM $api.claim_key(:k)";
		},
		after => { 'claimed 2' => 1, 'replayed 2' => $sessions - 1 }
	},
	{
		name => 'completions of one claim',
		before => "SELECT $api.claim_key(:k, lease => '1 hour')",
		call => sub {
			"SELECT $api.complete_key(:k, '1', attempt => 1) AS answer";
		},
		after => { completed => 1, replayed => $sessions - 1 }
	},
	{
		name => 'payments',
		before => "SELECT $api.create_order(:k, 100, 'EUR', 'alice')",
		call => sub {
			"SELECT outcome AS answer FROM $api.transition_order(:k, 'paid', on_conflict => 'report')";
		},
		after => { applied => 1, replayed => $sessions - 1 }
	},
	{
		name => 'payments under one request key',
		before => "SELECT $api.create_order(:k, 100, 'EUR', 'alice')",
		call => sub {
			"SELECT outcome AS answer FROM $api.transition_order(:k, 'paid', 'r', on_conflict => 'report')";
		},
		after => { applied => 1, replayed => $sessions - 1 }
	},
	{
		name => 'payments under a request key each',
		before => "SELECT $api.create_order(:k, 100, 'EUR', 'alice')",
		call => sub {
			"SELECT outcome AS answer FROM $api.transition_order(:k, 'paid', 'r$_[0]', on_conflict => 'report')";
		},
		after => { applied => 1, illegal => $sessions - 1 }
	},
	{
		name => 'payments against cancellations',
		before => "SELECT $api.create_order(:k, 100, 'EUR', 'alice')",
		call => sub {
			$_[0] % 2
			  ? "SELECT outcome AS answer FROM $api.transition_order(:k, 'paid', on_conflict => 'report')"
			  : "SELECT outcome AS answer FROM $api.cancel_order(:k, on_conflict => 'report')";
		},
		either => [
			{
				applied => 1,
				replayed => $sessions / 2 - 1,
				ignored => $sessions / 2
			},
			{
				cancelled => 1,
				replayed => $sessions / 2 - 1,
				illegal => $sessions / 2
			}
		]
	},
	{
		name => 'tombstones',
		before => 'SELECT 1',
		call => sub {
			"SELECT outcome AS answer FROM $api.cancel_order(:k, if_missing => 'tombstone', on_conflict => 'report')";
		},
		after => { tombstoned => 1, replayed => $sessions - 1 }
	});

# Sends the storm's calls from some sessions at once, and returns what they said,
# a serialization failure as its SQLSTATE.
sub send_storm
{
	my ($storm, $level, $key, @who) = @_;

	$control->run(0, 'SELECT pg_advisory_lock(1) \gset');
	foreach my $i (@who)
	{
		my $call = $storm->{call}->($i);

		$pool->send($i, <<~"SQL");
			\\set k '''$key'''
			\\set answer none
			SELECT pg_advisory_lock_shared(1) \\gset
			SELECT pg_advisory_unlock_shared(1) \\gset
			BEGIN ISOLATION LEVEL $level;
			$call \\gset
			\\set state :SQLSTATE
			COMMIT;
			SELECT CASE WHEN :'state' <> '00000' THEN :'state'
						WHEN :'SQLSTATE' <> '00000' THEN :'SQLSTATE'
						ELSE :'answer' END;
			SQL
	}
	$pool->wait_blocked(scalar @who);
	$control->run(0, 'SELECT pg_advisory_unlock(1) \gset');
	return map { (split /\n/)[-1] // 'nothing' } $pool->collect(@who);
}

# How often each answer came.
sub tally
{
	my %tally;

	$tally{$_}++ foreach @_;
	return \%tally;
}

# One storm.  Sessions that got a serialization failure ask again, as clients
# do, until all have an answer.
sub storm
{
	my ($storm, $level, $number) = @_;
	my $key = lc "$storm->{name} $level $number";
	my $what = "$storm->{name}, $level";
	my @who = 0 .. $sessions - 1;
	my @answers;

	$control->run(0, "\\set k '''$key'''\n$storm->{before} \\gset");
	$node->poll_query_until('postgres',
		"SELECT count(*) = 1 FROM $api.abandoned_claims WHERE key = '$key'")
	  if $storm->{over};

	while (@who)
	{
		my @got = send_storm($storm, $level, $key, @who);
		my @again = grep { $got[$_] eq '40001' } 0 .. $#who;

		# whoever was refused lost against one that was not
		last if !ok(@again < @who, "$what: one of " . @who . ' comes through');
		fail("$what: a serialization failure at READ COMMITTED")
		  if @again && $level eq 'READ COMMITTED';
		push @answers, grep { $_ ne '40001' } @got;
		@who = @who[@again];
	}
	if ($storm->{either})
	{
		my ($expected) =
		  grep { $_->{ tally(@answers)->{applied} ? 'applied' : 'cancelled' } }
		  @{ $storm->{either} };

		is_deeply(tally(@answers), $expected, $what);
	}
	else
	{
		is_deeply(tally(@answers), $storm->{after}, $what);
	}
	return;
}

foreach my $level ('READ COMMITTED', 'REPEATABLE READ', 'SERIALIZABLE')
{
	foreach my $number (1, 2)
	{
		storm($_, $level, $number) foreach @storms;
	}
}
consistent($node, 'after the storms');
$pool->quit;
$control->quit;
done_testing();
