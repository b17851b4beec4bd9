# Promises 6 and 7: the sink "redis" through kills.  The worker is ended (SIGTERM) or killed
# (SIGKILL, after which the server restarts its processes) at each named point, and at
# any time between sending and recording; the server is killed, and Redis is, and
# connections are cut.  Events fail meanwhile and are parked, and get in under other numbers.
# After that redis-cli finds each event once, and those of each key in order.
#
# OI_SEED and OI_KILLS repeat and enlarge it.
#
# Bugs that this catches, planted and seen to fail: another id on a repeat; an event taken
# behind one of its key that was refused, in the same step or in one before.

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

$node->stop;
done_testing();
