# The sink "redis" against a real Redis whose append-only file is flushed at every
# write: what goes out, and promises 4 (no event lost), 6 (order per key) and 7 (exactly
# once) while it is away, killed, stopped, full, cut off, silent, emptied, replaced by a
# replica that has not got everything, or written to by others.  redis-cli looks at
# the streams.
#
# Bugs that this catches, planted and seen to fail: an answer that did not come taken for one that
# the event is not there; a refusal taken for "delivered" without a look at what is there; another
# id on each attempt; an old connection that may still write; an entry that a consumer has
# removed sent again; a script that writes although the books are gone; an event with so many headers that
# the script fails; an error within EXEC that the books take for none; a
# password in an answer.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use IO::Socket::INET;
use IPC::Run ();
use JSON::PP;
use OrderIdempotency::Broker;
use OrderIdempotency::Drain;
use OrderIdempotency::Node;
use OrderIdempotency::Proxy;
use OrderIdempotency::Redis;
use POSIX ();
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $api = 'order_idempotency';
my $node = new_node('redis', conf => "max_worker_processes = 24\n");
require_redis($node);
my $redis = OrderIdempotency::Redis->new('redis', $node->basedir);
my $canary = 'canary-7d20b1';
my %n;

# A subscription to events of types that begin with its name, on a server of its own.
sub create_redis
{
	my ($name, $port, %opt) = @_;
	my $options = $opt{options} // '';
	my $subscription = $opt{subscription} // '{"backoff_min": 10, "backoff_max": 200}';
	my $types = join ', ', map { "'$name.$_'" } @{ $opt{types} // ['event'] };
	my $topic = $opt{topic} // $name;

	$node->safe_psql('postgres', <<~"SQL");
		CREATE SERVER $name FOREIGN DATA WRAPPER order_idempotency_redis
		OPTIONS (host '127.0.0.1', port '$port', timeout '1000'$options);
		SELECT $api.create_subscription('$name', '$name', ARRAY[$types], '$topic', '$subscription');
		SQL
	wait_for_worker($node, $name);
	return;
}

# Writes events of some keys, several of each in one transaction.
sub write_events
{
	my ($name, $n, %opt) = @_;
	my $type = $opt{type} // 'event';
	my $keys = $opt{keys} // 7;
	my $first = ($n{$name} //= 0) + 1;

	$n{$name} += $n;
	$node->safe_psql('postgres', <<~"SQL");
		SELECT $api.emit_event('$name.$type', 'k' || i % $keys, jsonb_build_object('n', i))
		FROM generate_series($first, $n{$name}) i
		SQL
	return;
}

# Waits for an error of a subscription.
sub wait_for_error
{
	my ($name, $error, $what) = @_;

	ok($node->poll_query_until('postgres',
		"SELECT last_error ~ '$error' FROM $api.subscription_status WHERE name = '$name'"), $what)
	  or diag($node->safe_psql('postgres', "SELECT last_error FROM $api.subscription_status WHERE name = '$name'"));
	return;
}

# The worker's session may still be about to say so.
sub good
{
	my ($name, $server, $what) = @_;

	drained($node, $name);
	stream_is_right($node, $server, $name, "$name.event", $what);
	return;
}

# What goes out.
create_redis('plain', $redis->port, types => [ 'event', 'other' ], topic => 'shop.{type}');
$node->safe_psql('postgres', <<"SQL");
SELECT $api.emit_event('plain.event', 'cart é "7"', '{"n": 1}', '{"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "note": "a\\r\\nb"}');
SELECT $api.emit_event('plain.event', 'bare');
SELECT $api.emit_event('plain.other', 'elsewhere', '{"n": 1}');
SQL
drained($node, 'plain');
my ($first, $bare) = $redis->entries('shop.plain.event');
my ($id, $position) = split /\|/,
  $node->safe_psql('postgres', "SELECT event_id, position FROM $api.outbox ORDER BY position LIMIT 1");
is($first->{field}{time} =~ s/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$/ok/r, 'ok', 'its time');
delete $first->{field}{time};
is_deeply($first->{field}, {
		id => $id, subject => "cart \x{e9} \"7\"", specversion => '1.0', source => '/order_idempotency/postgres',
		type => 'plain.event', partitionkey => "cart \x{e9} \"7\"", sequence => $position, note => "a\r\nb",
		traceparent => '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01',
		datacontenttype => 'application/json', data => '{"n": 1}'
	}, 'the fields of an event');
like($first->{id}, qr/^1[0-9]{12}-0$/, 'the id');
is(join(' ', grep { /^data/ } keys %{ $bare->{field} }), '', 'no payload, no data');
is(scalar $redis->entries('shop.plain.other'), 1, 'the topic is the stream');
is($redis->ask('TYPE', 'shop.plain.other'), 'stream', 'indeed');

# Away at the start, killed under load, stopped, full.
my $port = free_port();
create_redis('away', $port);
write_events('away', 20);
wait_for_error('away', 'no connection to Redis at 127.0.0.1 port [0-9]+: Connection refused', 'away');
my $away = OrderIdempotency::Redis->new('away', $node->basedir, port => $port);
good('away', $away, 'away at the start');
foreach my $round (1 .. 4)
{
	my $had = $away->ask('XLEN', 'away');

	write_events('away', 3000, keys => 40);
	wait_for('some of them', sub { $away->ask('XLEN', 'away') > $had });
	$away->kill9;
	write_events('away', 100, keys => 40);
	$away->start;
	good('away', $away, "killed under load, round $round");
}
$away->freeze;
write_events('away', 200);
wait_for_error('away', 'no answer in time|timeout', 'stopped');
my $begin = time;
$node->safe_psql('postgres', "SELECT $api.pause_subscription('away'); SELECT $api.resume_subscription('away')");
cmp_ok(time - $begin, '<', 5, 'a Redis that is stopped holds up nobody');
$away->thaw;
good('away', $away, 'stopped and gone on');
$away->ask('CONFIG', 'SET', 'maxmemory', '1');
write_events('away', 50);
wait_for_error('away', 'Redis refused the events: OOM', 'out of memory');
$away->ask('CONFIG', 'SET', 'maxmemory', '0');
good('away', $away, 'out of memory and no longer');
mkdir "$away->{dir}/gone";
$away->ask('CONFIG', 'SET', 'dir', "$away->{dir}/gone");
rmdir "$away->{dir}/gone";
$away->ask('CONFIG', 'SET', 'save', '3600 1');
$away->try('BGSAVE');
wait_for('a save that fails', sub { $away->try('INFO', 'persistence') =~ /rdb_last_bgsave_status:err/ });
write_events('away', 50);
wait_for_error('away', 'MISCONF', 'no disk');
$away->ask('CONFIG', 'SET', 'save', '');
$away->ask('CONFIG', 'SET', 'dir', $away->{dir});
good('away', $away, 'no disk, and disk again');
my $busy = IPC::Run::start([ 'redis-cli', '-p', $port, 'EVAL', 'while true do end', '0' ], '<', \undef, '>', \my $out, '2>', \my $err);
$away->try('CONFIG', 'SET', 'busy-reply-threshold', '100');
wait_for('a busy Redis', sub { $away->try('PING') =~ /BUSY/ });
write_events('away', 50);
wait_for_error('away', 'BUSY|no answer in time', 'busy');
wait_for('the script to end', sub { $away->try('SCRIPT', 'KILL'); $away->try('PING') eq 'PONG' });
$busy->finish;
good('away', $away, 'busy, and no longer');

# Connections that break.
my $proxy = OrderIdempotency::Proxy->new($redis->port);
create_redis('cut', $proxy->port, options => ", max_in_flight '50'");
foreach my $bytes (1, 5, 40, 60, 77, 120, 150, 200, 400, 900)
{
	$proxy->tell("cut $bytes");
	write_events('cut', 300);
	good('cut', $redis, "cut off after $bytes bytes of answers");
}
foreach my $mode (qw(hole deaf stall refuse))
{
	$proxy->tell($mode);
	$proxy->tell('drop') if $mode eq 'refuse';
	write_events('cut', 300);
	wait_for_error('cut', $mode eq 'refuse' ? 'no connection' : 'no answer in time|timeout', "proxy: $mode");
	$proxy->tell('pass');
	good('cut', $redis, "proxy: $mode");
}

# What is stuck on an old connection arrives when a new one has done its work.
$proxy->tell('stall');
write_events('cut', 300);
wait_for_error('cut', 'no answer in time|timeout', 'stuck');
$node->safe_psql('postgres', "ALTER SERVER cut OPTIONS (SET port '" . $redis->port . "')");
drained($node, 'cut');
$redis->ask('DEL', 'cut');
$proxy->tell('pass');
$proxy->tell('count') foreach 1 .. 20;
write_events('cut', 5);
wait_for_error('cut', 'stream "cut", which had events up to [0-9]+-[0-9]+, is gone', 'a stream that was deleted is noticed');
drained($node, 'cut');
is(scalar $redis->entries('cut'), 5, 'an old connection writes nothing any more');
like(slurp_file($node->logfile), qr/WARNING:.*lost events that it had acknowledged: stream "cut"/, 'the log says so, too');

# What is stuck there is told to be surely not there, since its stream is none; when that was made
# good, and the old connection goes on, it must not get in beside the next attempt.
create_redis('fenced', $proxy->port, types => [ 'event', 'good' ], topic => 'f.{type}',
	subscription => '{"backoff_min": 2000, "backoff_max": 3000}');
write_events('fenced', 1, type => 'good');
drained($node, 'fenced');
$proxy->tell('stall');
write_events('fenced', 10);
wait_for_error('fenced', 'no answer in time|timeout', 'stuck, too');
$redis->ask('SET', 'f.fenced.event', 'no stream');
$node->safe_psql('postgres', "ALTER SERVER fenced OPTIONS (SET port '" . $redis->port . "')");
wait_for_error('fenced', 'WRONGTYPE', 'surely not there');
$node->safe_psql('postgres', "SELECT $api.emit_event('fenced.good', 'other')");
wait_for('a later delivery', sub { $redis->try('XLEN', 'f.fenced.good') == 2 });
$redis->ask('DEL', 'f.fenced.event');
$proxy->tell('pass');
drained($node, 'fenced');
stream_is_right($node, $redis, 'f.fenced.event', 'fenced.event', 'an old connection is shut out');

# Delivered, the answer lost, and removed by a consumer before the next attempt.
create_redis('eaten', $proxy->port);
write_events('eaten', 1);
drained($node, 'eaten');
$proxy->tell('deaf');
write_events('eaten', 29);
wait_for('entries', sub { $redis->try('XLEN', 'eaten') == 30 });
$redis->ask('XDEL', 'eaten', map { $_->{id} } $redis->entries('eaten'));
$proxy->tell('pass');
drained($node, 'eaten');
is($redis->ask('XLEN', 'eaten'), 0, 'what a consumer has had and removed is not sent again');
is($node->safe_psql('postgres', "SELECT delivered FROM $api.subscription_status WHERE name = 'eaten'"), '30', 'and counts as delivered');

# The same, with the books gone: the entries themselves tell.
$proxy->tell('deaf');
write_events('eaten', 30);
wait_for('entries', sub { $redis->try('XLEN', 'eaten') == 30 });
my ($book) = grep { $redis->try('HGET', $_, 'last:eaten') } split /\n/, $redis->try('KEYS', 'order_idempotency:*');
$redis->ask('DEL', $book);
$proxy->tell('pass');
drained($node, 'eaten');
is($redis->ask('XLEN', 'eaten'), 30, 'without the books the entries tell');
wait_for_error('eaten', 'Redis has lost events', 'and that the books are gone is noticed');

# A stream that cannot be written to holds up only itself.
create_redis('mixed', $redis->port, types => [ 'good', 'bad' ], topic => 'm.{type}');
$redis->ask('SET', 'm.mixed.bad', 'no stream');
write_events('mixed', 50, type => 'bad', keys => 3);
$node->safe_psql('postgres', "SELECT $api.emit_event('mixed.good', 'other-' || i, jsonb_build_object('n', i)) FROM generate_series(1, 50) i");
wait_for('those of the other stream', sub { $redis->try('XLEN', 'm.mixed.good') == 50 });
ok($node->poll_query_until('postgres', "SELECT count(*) > 0 AND bool_and(reason ~ 'stream \"m.mixed.bad\": WRONGTYPE') FROM $api.parked_events WHERE subscription = 'mixed' AND reason IS NOT NULL"), 'the reason');
$redis->ask('DEL', 'm.mixed.bad');
drained($node, 'mixed');
stream_is_right($node, $redis, "m.mixed.$_", "mixed.$_", "stream m.mixed.$_, after it was made good") foreach qw(good bad);

# An event that the script could not do: it is dead, alone and among many; those behind it of its key wait.
create_redis('headers', $redis->port);
foreach ([ 'few', 3 ], [ 'many', 100 ])
{
	my ($round, $n) = @$_;

	$node->safe_psql('postgres', <<~"SQL");
		WITH h AS (SELECT n, (SELECT jsonb_object_agg('h' || i, 'x') FROM generate_series(1, n) i) AS headers
				   FROM unnest(ARRAY[3900, 3901, 10000]) n),
			 e AS (SELECT headers, '$round-' || n AS key, 0 AS step FROM h
				   UNION ALL SELECT NULL, '$round-' || n, 1 FROM h
				   UNION ALL SELECT NULL, '$round-other-' || i, 2 FROM generate_series(1, $n) i
				   ORDER BY step, key)
		SELECT count($api.emit_event('headers.event', key, NULL, headers)) FROM e
		SQL
	ok($node->poll_query_until('postgres', <<~"SQL"), "headers, $round: too many are rejected")
		SELECT string_agg(key || ': ' || reason, ', ' ORDER BY key) =
			'$round-10000: event has more than 3900 headers, $round-3901: event has more than 3900 headers'
		FROM $api.dead_letters WHERE subscription = 'headers'
		SQL
	  or diag($node->safe_psql('postgres', "SELECT last_error FROM $api.subscription_status WHERE name = 'headers'"));
	$node->safe_psql('postgres', "SELECT $api.discard('headers', everything => true)");
	drained($node, 'headers');
	is(join(' ', map { $_->{field}{subject} } grep { $_->{field}{subject} =~ /^$round-\d/ } $redis->entries('headers')) =~
		s/\b(\S+-10000 \S+-3901|\S+-3901 \S+-10000)$/both/r, "$round-3900 $round-3900 both", "headers, $round: all others are there");
}
is($redis->ask('XLEN', 'headers'), 4 + 3 + 4 + 100, 'once each');

# Another writer.
create_redis('shared', $redis->port, subscription => '{"backoff_min": 10, "backoff_max": 100, "max_attempts": 1000}');
write_events('shared', 10);
drained($node, 'shared');
my $ahead = int(time * 1000) + 4000;
$redis->ask('XADD', 'shared', "$ahead-0", 'id', 'somebody else');
write_events('shared', 30, keys => 5);
wait_for_error('shared', "stream \"shared\" has another writer, which is at $ahead-0 already", 'another writer is noticed');
drained($node, 'shared');
$redis->ask('XDEL', 'shared', "$ahead-0");
good('shared', $redis, 'beside another writer');
is(join(' ', sort { $a <=> $b } map { (split /-/, $_->{id})[0] > $ahead ? 1 : 0 } $redis->entries('shared')), join(' ', (0) x 10, (1) x 30),
	'under numbers above the other writer\'s');

# Emptied.
my $emptied = OrderIdempotency::Redis->new('emptied', $node->basedir);
create_redis('emptied', $emptied->port);
write_events('emptied', 100);
good('emptied', $emptied, 'before');
$emptied->ask('FLUSHALL');
write_events('emptied', 10);
wait_for_error('emptied', 'Redis has lost events that it had acknowledged: it has none of this subscription', 'emptied: noticed');
drained($node, 'emptied');
is(scalar $emptied->entries('emptied'), 10, 'what came later is there');
like(slurp_file($node->logfile), qr/WARNING:.*Redis has lost events.*\n.*DETAIL:.*\n.*HINT:.*seek_to_position/, 'emptied: the log says what to do');
$node->safe_psql('postgres', "SELECT $api.seek_to_position('emptied', 0)");
drained($node, 'emptied');
my %there = map { $_->{field}{id} => 1 } $emptied->entries('emptied');
is(scalar keys %there, 110, 'and so all is there again');

# Emptied while no worker was there.
$node->safe_psql('postgres', "SELECT $api.pause_subscription('emptied')");
$emptied->ask('FLUSHALL');
my $errors = () = slurp_file($node->logfile) =~ /WARNING: .*Redis has lost events/g;
$node->safe_psql('postgres', "SELECT $api.resume_subscription('emptied')");
write_events('emptied', 10);
drained($node, 'emptied');
cmp_ok(scalar(() = slurp_file($node->logfile) =~ /WARNING: .*Redis has lost events/g), '>', $errors, 'emptied while no worker was there: noticed');

# A replica that has not got everything takes over.
my $primary = OrderIdempotency::Redis->new('primary', $node->basedir);
my $replica = OrderIdempotency::Redis->new('replica', $node->basedir, args => [ '--replicaof', '127.0.0.1', $primary->port ]);
wait_for('the replica', sub { $primary->try('INFO', 'replication') =~ /state=online/ });
create_redis('failover', $primary->port);
write_events('failover', 100);
drained($node, 'failover');
wait_for('the replica to follow', sub { $replica->try('XLEN', 'failover') == 100 });
my $last = ($replica->entries('failover'))[-1]{field}{id};
$replica->ask('REPLICAOF', '127.0.0.1', free_port());
write_events('failover', 20);
good('failover', $primary, 'on the primary');
$primary->kill9;
$node->safe_psql('postgres', "ALTER SERVER failover OPTIONS (SET port '" . $replica->port . "')");
write_events('failover', 5);
wait_for_error('failover', 'Redis is a replica', 'a replica gets nothing');
is(scalar $replica->entries('failover'), 100, 'indeed');
$replica->ask('REPLICAOF', 'NO', 'ONE');
wait_for_error('failover', "Redis has lost events that it had acknowledged: the last event that it has is $last, near position", 'a failover that lost events is noticed');
my ($near) = $node->safe_psql('postgres', "SELECT last_error FROM $api.subscription_status WHERE name = 'failover'") =~ /near position (\d+)/;
drained($node, 'failover');
is(scalar $replica->entries('failover'), 105, 'what came later is there');
$node->safe_psql('postgres', "SELECT $api.seek_to_position('failover', $near)");
drained($node, 'failover');
%there = map { $_->{field}{id} => 1 } $replica->entries('failover');
is(scalar keys %there, 125, 'and what was lost, when it was sought');

# Waiting for replicas.
create_redis('waiting', $replica->port, options => ", wait_replicas '1', wait_timeout '200'");
write_events('waiting', 20);
wait_for_error('waiting', '0 of 1 replicas of Redis have the events', 'without a replica nothing counts as delivered');
is($node->safe_psql('postgres', "SELECT delivered FROM $api.subscription_status WHERE name = 'waiting'"), '0', 'indeed');
my $second = OrderIdempotency::Redis->new('second', $node->basedir, args => [ '--replicaof', '127.0.0.1', $replica->port ]);
good('waiting', $replica, 'with one');
is(scalar $second->entries('waiting'), 20, 'which has them');

# How often Redis was called in some way.
sub calls
{
	my ($command) = @_;

	return $redis->try('INFO', 'commandstats') =~ /^cmdstat_$command:calls=([0-9]+)/m ? $1 : 0;
}

# A backlog goes out in transactions; where somebody touches what they rest on, they do not come
# about, and the script does the rest.  Without WATCH none would be given up.
create_redis('crowded', $redis->port);
my ($transactions, $given_up) = (calls('exec'), calls('discard'));
write_events('crowded', 2000, keys => 40);
good('crowded', $redis, 'a backlog');
cmp_ok(calls('exec'), '>=', $transactions + 4, 'in transactions');
is(calls('discard'), $given_up, 'none was given up');
my ($kept) = grep { $redis->try('HEXISTS', $_, 'last:crowded') } @{ $redis->ask('KEYS', 'order_idempotency:*') };
my $crowd = IPC::Run::start([ 'redis-cli', '-p', $redis->port, '-r', '100000000', 'HSET', $kept, 'touched', '1' ],
	'<', \undef, '>', '/dev/null', '2>', '/dev/null');
wait_for('somebody who touches the books', sub { $redis->try('HEXISTS', $kept, 'touched') });
write_events('crowded', 6000, keys => 40);
drained($node, 'crowded');
$crowd->kill_kill;
good('crowded', $redis, 'a backlog beside somebody who touches the books');
cmp_ok(calls('discard'), '>', $given_up, 'transactions did not come about');

# A right is lost between MULTI and EXEC, so that some of the events are there and others are not: the
# books must not say that all are.
my $holding = OrderIdempotency::Proxy->new($redis->port);
$redis->ask('ACL', 'SETUSER', 'revoked', 'on', ">user-$canary", '~*', '+@all');
create_redis('revoked', $holding->port, types => [ 'event', 'other' ], topic => 'r.{type}');
$node->safe_psql('postgres', <<~"SQL");
	CREATE USER MAPPING FOR CURRENT_USER SERVER revoked OPTIONS ("user" 'revoked', password 'user-$canary');
	ALTER SERVER revoked OPTIONS (SET timeout '25000');
	SQL
write_events('revoked', 1, type => $_) foreach qw(event other);
drained($node, 'revoked');
$holding->tell('hold EXEC');
$node->safe_psql('postgres', <<~"SQL");
	SELECT $api.emit_event('revoked.' || CASE WHEN i % 4 = 0 THEN 'other' ELSE 'event' END, 'k' || i % 8, jsonb_build_object('n', i))
	FROM generate_series(3, 62) i
	SQL
wait_for('EXEC', sub { $holding->tell('held') });
wait_for('what is before EXEC', sub { $redis->try('CLIENT', 'LIST') =~ /multi=61 / });
$redis->ask('ACL', 'SETUSER', 'revoked', 'resetkeys', '~r.revoked.other', '~order_idempotency:*');
$holding->tell('pass');
wait_for_error('revoked', 'NOPERM', 'a right is lost before EXEC');
is($redis->ask('XLEN', 'r.revoked.event') . ' ' . $redis->ask('XLEN', 'r.revoked.other'), '1 16', 'which did some of it');
$redis->ask('ACL', 'SETUSER', 'revoked', '~*');
drained($node, 'revoked');
stream_is_right($node, $redis, "r.revoked.$_", "revoked.$_", "a right was lost, and given back: r.revoked.$_") foreach qw(event other);

# Trimming.
create_redis('trimmed', $redis->port, options => ", maxlen '100'");
write_events('trimmed', 2000);
drained($node, 'trimmed');
cmp_ok($redis->ask('XLEN', 'trimmed'), '<', 400, 'a stream is trimmed');
is(decode_json(($redis->entries('trimmed'))[-1]{field}{data})->{n}, 2000, 'at its beginning');

# Authentication, and what is shown of it.
my $locked = OrderIdempotency::Redis->new('locked', $node->basedir, password => $canary);
create_redis('locked', $locked->port);
write_events('locked', 5);
wait_for_error('locked', 'NOAUTH', 'no password');
$node->safe_psql('postgres', "CREATE USER MAPPING FOR CURRENT_USER SERVER locked OPTIONS (password 'wrong-$canary')");
wait_for_error('locked', 'WRONGPASS', 'a wrong one');
$node->safe_psql('postgres', "ALTER USER MAPPING FOR CURRENT_USER SERVER locked OPTIONS (SET password '$canary')");
good('locked', $locked, 'the right one');
$locked->ask('ACL', 'SETUSER', 'orders', 'on', ">user-$canary", '~other.*', '+@all');
$node->safe_psql('postgres', "ALTER USER MAPPING FOR CURRENT_USER SERVER locked OPTIONS (SET password 'user-$canary', ADD \"user\" 'orders')");
write_events('locked', 5);
wait_for_error('locked', 'NOPERM', 'a user without the right to write there');
$locked->ask('ACL', 'SETUSER', 'orders', 'resetkeys', '~locked', '~order_idempotency:*', '-@all', '+eval', '+xadd',
	'+xrange', '+xinfo', '+hget', '+hmget', '+hset', '+hdel', '+exists');
good('locked', $locked, 'with the rights that the documentation names');
my $renamed = OrderIdempotency::Redis->new('renamed', $node->basedir, args => [ '--rename-command', 'AUTH', '' ]);
create_redis('renamed', $renamed->port);
$node->safe_psql('postgres', "CREATE USER MAPPING FOR CURRENT_USER SERVER renamed OPTIONS (\"user\" 'orders', password '@{[ $canary x 20 ]}')");
write_events('renamed', 5);
wait_for_error('renamed', 'Redis refused AUTH: ERR$', 'a Redis that repeats what it does not know, as much as it has room for');
my $shown = $node->safe_psql('postgres', <<~SQL);
	SELECT s::text FROM $api.subscription_status s;
	SELECT a::text FROM pg_stat_activity a WHERE pid <> pg_backend_pid();
	SELECT p::text FROM $api.parked_events p;
	SQL
my $spoken = join '', grep { !/STATEMENT|USER MAPPING/ } split /^/, slurp_file($node->logfile);
unlike($shown . $spoken, qr/canary-7d20b1/, 'no secret in views, activity and log');

# Where it may go, and by which way.
create_redis('limited', $redis->port, options => ", allow_addresses '10.0.0.0/8'");
write_events('limited', 5);
wait_for_error('limited', 'not among those in option "allow_addresses"', 'an address that is not allowed');
is($redis->try('EXISTS', 'limited'), '0', 'nothing went there');
$node->safe_psql('postgres', "ALTER SERVER limited OPTIONS (SET allow_addresses '127.0.0.0/8,::1', SET host 'localhost')");
good('limited', $redis, 'by name');
my $socket = PostgreSQL::Test::Utils::tempdir_short() . '/r';
my $local = OrderIdempotency::Redis->new('local', $node->basedir, args => [ '--unixsocket', $socket ]);
create_redis('local', 1, options => ", database '3'");
$node->safe_psql('postgres', "ALTER SERVER local OPTIONS (SET host '$socket')");
write_events('local', 20);
drained($node, 'local');
is($local->ask('-n', '3', 'XLEN', 'local'), 20, 'by a Unix socket, into another database');

# Where nobody is, or somebody who is no Redis: said, and tried again.  An IPv4 address in the form of
# IPv6 is judged as what it is.
sub moved
{
	my ($options, $error, $what) = @_;

	$node->safe_psql('postgres', "ALTER SERVER local OPTIONS ($options)");
	write_events('local', 1);
	$node->safe_psql('postgres', "SELECT $api.resume_subscription('local')");
	wait_for_error('local', $error, $what);
	return;
}

# The port of a server that answers whatever it is told with the same.
my @imitating;

sub start_imitation
{
	my ($answer) = @_;
	my $listen = IO::Socket::INET->new(Listen => 5, LocalAddr => '127.0.0.1') or die "could not listen: $!";
	my $port = $listen->sockport;
	my $pid = fork // die "could not fork: $!";

	if ($pid)
	{
		push @imitating, $pid;
		return $port;
	}
	local $SIG{PIPE} = 'IGNORE';
	while (my $client = $listen->accept)
	{
		sysread $client, my $said, 4096;
		print {$client} $answer;
	}
	POSIX::_exit(0);
}

END { kill 'KILL', @imitating if @imitating }

moved("SET host '$socket-away'", 'no connection to Redis at "[^"]*-away": No such file', 'no socket of that name');
moved("SET host 'nowhere.invalid'", 'no connection to Redis at nowhere.invalid port 1: ', 'no host of that name');
moved("SET host '::1', ADD allow_addresses '127.0.0.0/8,fd00::/8'", '::1 port 1: address is not among those', 'an IPv6 address that is not allowed');
moved("SET host '::ffff:127.0.0.1', SET allow_addresses '::/0'", 'ffff:127.0.0.1 port 1: address is not among', 'nor an IPv4 address in its form, by a network of IPv6');
my $other = start_imitation("SSH-2.0-imitation\r\n");
my $endless = start_imitation('$30000000' . "\r\n" . 'x' x 20_000_000);
moved("SET host '127.0.0.1', DROP allow_addresses, SET port '$other'", "port $other: Protocol error", 'an answer that is none of a Redis');
moved("SET port '$endless', SET timeout '25000'", "port $endless: answer is too long", 'an answer without end is not kept');
$node->safe_psql('postgres', "ALTER SERVER local OPTIONS (SET host '$socket'); SELECT $api.resume_subscription('local')");
drained($node, 'local');
is($local->ask('-n', '3', 'XLEN', 'local'), 26, 'what waited is there once');

# A Redis that is silent does not hold up anybody.
$proxy->tell('hole');
$node->safe_psql('postgres', "ALTER SERVER eaten OPTIONS (SET timeout '20000')");
write_events('eaten', 5);
ok($node->poll_query_until('postgres', "SELECT state = 'delivering' FROM $api.subscription_status WHERE name = 'eaten'"), 'under way');
$begin = time;
$node->stop('fast');
cmp_ok(time - $begin, '<', 5, 'fast shutdown with a Redis that is silent');

done_testing();
