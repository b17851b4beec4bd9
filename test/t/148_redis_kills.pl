# Promises 6 and 7: the sink "redis" through kills.  The worker is ended (SIGTERM) or killed
# (SIGKILL, after which the server restarts its processes) at each named point, and at
# any time between sending and recording; the server is killed, and Redis is, and
# connections are cut.  Events fail meanwhile and are parked, and get in under other numbers.
# After that redis-cli finds each event once, and those of each key in order.
#
# OI_SEED and OI_KILLS repeat and enlarge it.
#
# Bugs that this catches, planted and seen to fail: another id on a repeat; an event taken
# behind one of its key that was refused, in the same step or in one before; a loss that is looked
# for by the token alone, which an open delivery has moved on.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use OrderIdempotency::Broker;
use OrderIdempotency::Drain;
use OrderIdempotency::Fault;
use OrderIdempotency::Node;
use OrderIdempotency::Proxy;
use OrderIdempotency::Redis;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

my $api = 'order_idempotency';
my $seed = $ENV{OI_SEED} // 148;
my $kills = $ENV{OI_KILLS} // 66;
my @points = qw(drain:read drain:durable sink:before sink:after drain:record drain:recording drain:recorded);
my $node = new_node('kills', conf => fault_conf() . "max_worker_processes = 24\n");
require_redis($node);
prepare_faults($node);
note "seed $seed";
srand($seed);

my $redis = OrderIdempotency::Redis->new('redis', $node->basedir);
my $proxy = OrderIdempotency::Proxy->new($redis->port);
my ($n, $done) = (0, 0);
my %kinds;

$node->safe_psql('postgres', <<"SQL");
CREATE SERVER kills FOREIGN DATA WRAPPER order_idempotency_redis
OPTIONS (host '127.0.0.1', port '@{[ $proxy->port ]}', timeout '1000', max_in_flight '20');
SELECT $api.create_subscription('kills', 'kills', ARRAY['kills.a', 'kills.b'], 'k.{type}',
	'{"backoff_min": 1, "backoff_max": 20, "batch_size": 60, "max_attempts": 100000}');
SQL
wait_for_worker($node, 'kills');

# Writes events of ten keys and two types in some transactions.
sub write_events
{
	foreach (1 .. 3)
	{
		my $first = $n + 1;

		$n += 40;
		$node->safe_psql('postgres', <<~"SQL");
			SELECT $api.emit_event(CASE WHEN i % 3 = 0 THEN 'kills.b' ELSE 'kills.a' END, 'k' || i % 10, jsonb_build_object('n', i))
			FROM generate_series($first, $n) i
			SQL
	}
	return;
}

# Has the events of one stream fail for a while.
sub spoil
{
	my ($on) = @_;

	# in one step: the stream must not be missed in between
	$redis->ask('EVAL', $on ?
		  "if redis.call('TYPE', KEYS[1]).ok == 'stream' then redis.call('RENAME', KEYS[1], KEYS[2]) end redis.call('SET', KEYS[1], 'no stream')" :
		  "if redis.call('EXISTS', KEYS[2]) == 1 then redis.call('RENAME', KEYS[2], KEYS[1]) else redis.call('DEL', KEYS[1]) end",
		2, 'k.kills.b', 'aside');
	return;
}

# Kills or ends something at some time.
sub strike
{
	my ($what) = @_;

	$kinds{$what}++;
	usleep(rand 60_000);
	if ($what eq 'terminate')
	{
		eval { $node->psql('postgres', "SELECT pg_terminate_backend(pid) FROM $api.subscription_status WHERE name = 'kills'") };
	}
	elsif ($what eq 'kill')
	{
		my $pid = eval { worker_pid($node, 'kills') };

		kill 'KILL', $pid if $pid;
	}
	elsif ($what eq 'server')
	{
		kill_server($node);
		$node->start;
	}
	elsif ($what eq 'redis')
	{
		$redis->kill9;
		$redis->start;
	}
	else
	{
		$proxy->tell($what eq 'cut' ? 'cut ' . int(rand 300) : 'drop');
	}
	return;
}

my @strikes = (('terminate') x 4, ('kill') x 3, 'server', ('redis') x 2, ('cut') x 2, 'drop');
while ($done < $kills)
{
	my $spoilt = $done % 4 == 1;

	spoil(1) if $spoilt;
	if ($done % 3 == 0)
	{
		my $point = $points[ ($done / 3) % @points ];
		my $action = (qw(kill terminate kill))[ ($done / 3 / @points) % 3 ];

		$kinds{"$action at $point"}++;
		set_fault($node, $point, $action, n => 1 + int rand 3);
		wait_for("$point to be come to", sub { eval { write_events() }; usleep(20_000); !has_faults($node) });
	}
	else
	{
		eval { write_events() };
		strike($strikes[ rand @strikes ]);
	}
	$done++;
	spoil(0) if $spoilt;
}
is(has_faults($node), 0, 'each point had its turn');
wait_for('a server that stays up', sub { eval { write_events(); 1 } });
drained($node, 'kills');
note join ', ', map { "$_: $kinds{$_}" } sort keys %kinds;

stream_is_right($node, $redis, "k.kills.$_", "kills.$_", "stream of kills.$_ after $done kills") foreach qw(a b);
my $parked = $node->safe_psql('postgres', "SELECT retried FROM $api.subscription_status WHERE name = 'kills'");
cmp_ok($parked, '>', 0, "$parked events were parked, and got in under another number");
unlike(slurp_file($node->logfile), qr/Redis has lost events/, 'and Redis has lost nothing');

# A replica that has not got everything takes over while the server is down, which had a
# delivery under way: what that says nothing of, the last one before it does.
my $primary = OrderIdempotency::Redis->new('primary', $node->basedir);
my $replica = OrderIdempotency::Redis->new('replica', $node->basedir, args => [ '--replicaof', '127.0.0.1', $primary->port ]);
wait_for('the replica', sub { $primary->try('INFO', 'replication') =~ /state=online/ });
$node->safe_psql('postgres', <<"SQL");
CREATE SERVER tail FOREIGN DATA WRAPPER order_idempotency_redis
OPTIONS (host '127.0.0.1', port '@{[ $primary->port ]}', timeout '1000');
SELECT $api.create_subscription('tail', 'tail', ARRAY['tail.a'], 'tail', '{"backoff_min": 1, "backoff_max": 20}');
SQL
wait_for_worker($node, 'tail');

# Writes events for it.
sub write_tail
{
	my ($count) = @_;

	return $node->safe_psql('postgres', "SELECT $api.emit_event('tail.a', 'k' || i % 3) FROM generate_series(1, $count) i");
}

write_tail(20);
drained($node, 'tail');
wait_for('the replica to follow', sub { $replica->try('XLEN', 'tail') == 20 });
$replica->ask('REPLICAOF', '127.0.0.1', free_port());
write_tail(10);
drained($node, 'tail');
set_fault($node, 'intent:recorded', 'hang', of => 'tail');
write_tail(5);
ok(wait_for_fault($node, 'intent:recorded', of => 'tail'), 'a delivery is recorded');
$primary->kill9;
$replica->ask('REPLICAOF', 'NO', 'ONE');
$node->safe_psql('postgres', "ALTER SERVER tail OPTIONS (SET port '" . $replica->port . "')");
kill_server($node);
end_hang($node, 'intent:recorded', of => 'tail');
$node->start;
ok(poll($node, 'postgres', "SELECT last_error ~ 'Redis has lost events that it had acknowledged' FROM $api.subscription_status WHERE name = 'tail'"),
	'a tail that a replica has not got is noticed though a delivery was open');
drained($node, 'tail');
is($replica->ask('XLEN', 'tail'), 25, 'what was under way is there');
$node->safe_psql('postgres', "SELECT $api.seek_to_position('tail', 0)");
drained($node, 'tail');
my %there = map { $_->{field}{id} => 1 } $replica->entries('tail');
is(scalar keys %there, 35, 'and all of it, when it was sought');
my ($token, $settled) = split /\|/, $node->safe_psql('postgres',
	"SELECT token, settled FROM $api.subscription_cursors c JOIN $api.subscriptions s ON s.id = c.subscription WHERE name = 'tail'");
is($settled, $token, 'the last delivery is settled');

$node->stop;
done_testing();
