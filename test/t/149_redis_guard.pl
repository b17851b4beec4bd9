# Promise 1 with a layer of Redis in front of claims, as docs/redis-guard.md has it: each
# key has its effect exactly once with Redis, without it, with Redis emptied in the middle,
# and with Redis away; workers that die in the middle included.  And what that page says of
# Redis alone: emptied in the middle it charges twice, and who dies leaves keys that
# are never charged.
#
# Bugs that this catches, planted and seen to fail: work done because Redis has no
# entry; an entry "done" written before the commit; an entry "working" that does not
# end with who wrote it.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use IPC::Run ();
use JSON::PP;
use OrderIdempotency::Broker;
use OrderIdempotency::Node;
use OrderIdempotency::Redis;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_node('guard');
my $trial = "$FindBin::RealBin/../../examples/redis-guard/trial.py";

require_broker(
	[ 'redis-server', !system 'command -v redis-server >/dev/null' ],
	[ 'python3-redis', !system '/usr/bin/python3 -c "import redis, psycopg" 2>/dev/null' ]);
my $redis = OrderIdempotency::Redis->new('guard', $node->basedir);
$ENV{DATABASE_URL} = $node->connstr('postgres');
$ENV{PGCLIENTENCODING} = 'UTF8';	# a database without one has no text for psycopg

# Runs the trial; returns what it counted.
sub run_trial
{
	my (@args) = @_;
	my ($out, $err) = ('', '');

	local $ENV{REDIS_PORT} = $redis->port;
	$node->safe_psql('postgres', <<~'SQL');
		DROP TABLE IF EXISTS charges;
		CREATE TABLE charges (key text, dies boolean);
		CREATE OR REPLACE FUNCTION dies() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE 'died in the commit'; END$$;
		CREATE CONSTRAINT TRIGGER dies AFTER INSERT ON charges DEFERRABLE INITIALLY DEFERRED
			FOR EACH ROW WHEN (NEW.dies) EXECUTE FUNCTION dies();
		SQL
	$redis->try('FLUSHALL');
	IPC::Run::run([ '/usr/bin/python3', $trial, @args ], '<', \undef, '>', \$out, '2>', \$err,
		IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default))
	  or die "@args: $err";
	note "@args: $out";
	is($err, '', "@args: no complaint");
	return decode_json($out);
}

# Checks that each key was charged once, and each request answered.
sub once
{
	my ($what, $got) = @_;

	is("$got->{once} once, $got->{'more than once'} more, $got->{never} never, $got->{answered} answered",
		'100 once, 0 more, 0 never, 300 answered', "$what: each key exactly once, each request answered");
	is($got->{crashes}, 10, "$what: although 10 workers died on it");
	return;
}

# A name of the keys of its own for each run: claims stay.
sub fresh
{
	$node->safe_psql('postgres', 'DROP EXTENSION order_idempotency; CREATE EXTENSION order_idempotency');
	return;
}

my $with = run_trial('with');
once('with Redis', $with);
fresh();
once('without', run_trial('without'));
fresh();
once('with Redis emptied in the middle', run_trial('with', 'empty'));
fresh();
$redis->stop;
once('with Redis away', run_trial('with'));
fresh();
$redis->start;
my $usual = run_trial('usual', 'empty');
cmp_ok($usual->{'more than once'}, '>', 5, 'Redis alone, emptied in the middle: keys are charged twice');
cmp_ok(run_trial('usual')->{never}, '>', 0, 'Redis alone: what a worker died on is never charged');
cmp_ok($with->{'asked to charge'}, '==', 110, 'the work is asked for no more often than that');

$node->stop;
done_testing();
