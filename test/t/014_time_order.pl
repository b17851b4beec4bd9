# Promises 1 and 10: keys whose hashes were made by version 1.0, which have no order,
# and those of later generations, in which a UUIDv7 is stored by its time.  One winner
# from the objects of 1.0, over the update and the rotation that changes the format,
# to the last of the old claims; what moves gets its new hash; a dump from any point
# of that way, also one of 1.0, is restored with claims that are known.
#
# Bugs that this catches, each of which was planted: looking in older generations by the
# new hash only; moving a row with its old hash; an update that lets the current
# generation have the new format; a restored dump of 1.0 that is taken for a new
# database; a session that keeps the format of its first claim.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use OrderIdempotency::Node;
use OrderIdempotency::Sessions;
use PostgreSQL::Test::Utils;
use Test::More;

my $api = 'order_idempotency';
my $node = new_node('time_order', conf => "autovacuum = off\n");
my $rotate = "CALL $api.rotate_keys('0')";
my $time = '0192f0c1';

# The n-th UUIDv7 of one time.
sub uuid7
{
	my ($n) = @_;

	return sprintf "$time-77d1-7c3a-8a3e-%012x", $n;
}

# What claims of these keys say, one after the other.
sub claims
{
	my ($db, @keys) = @_;

	return join ' ', split /\n/, $node->safe_psql($db,
		join "\n", map { "SELECT outcome FROM $api.claim_key('$_');" } @keys);
}

# How many claims are in each slot, in the order of time or not: "0: 3 plain".
sub formats
{
	my ($db) = @_;

	return join ', ', split /\n/, $node->safe_psql($db, <<~"SQL");
		SELECT slot || ': ' || count(*) || CASE WHEN key_hash::text LIKE '$time%' THEN ' by time' ELSE ' plain' END
		FROM $api.claims GROUP BY slot, key_hash::text LIKE '$time%' ORDER BY slot, 1
		SQL
}

# Dumps a database and restores it as another one.
sub copy_database
{
	my ($from, $to, @options) = @_;
	my $dump = $node->basedir . "/$from.dump";

	$node->command_ok([ 'pg_dump', '--format=custom', "--file=$dump", $from ], "$from: dumped");
	$node->safe_psql('postgres', "CREATE DATABASE $to");
	$node->command_ok([ 'pg_restore', '--exit-on-error', @options, "--dbname=$to", $dump ],
		"$from: restored as $to");
	return;
}

#----------------------------------------------------------------------------
# The objects of 1.0, with the present library.  Keys 1 to 9 have claims of every
# kind, 10 on are done.

$node->safe_psql('postgres', 'CREATE DATABASE shop');
create_extension($node, 'shop', '1.0');
my $pool = OrderIdempotency::Sessions->new($node, 3, db => 'shop',
	setup => "SET order_idempotency.in_flight_wait = -1;\n");
my @old = map { uuid7($_) } 10 .. 59;

$node->safe_psql('shop', <<~"SQL");
	SELECT $api.claim_key('@{[uuid7(1)]}', lease => '1 hour'), $api.claim_key('@{[uuid7(2)]}', lease => '1 hour'),
		$api.claim_key('@{[uuid7(3)]}', lease => '1 ms'), $api.claim_key('@{[uuid7(4)]}', lease => '1 hour'),
		$api.claim_key('@{[uuid7(5)]}', lease => '1 hour'), $api.claim_key('order-1');
	SQL
is(claims('shop', @old), 'claimed ' x 49 . 'claimed', 'keys are claimed in 1.0');
is(formats('shop'), '0: 56 plain', 'under hashes without order');
# a session that knows the store from then
is($pool->run(0, "SELECT outcome FROM $api.claim_key('@{[uuid7(6)]}', lease => '1 hour');"), 'claimed', 'a session of then');

# a dump of 1.0 is restored as the present version, and has no word about formats
copy_database('shop', 'shop_of_1_0');
is(claims('shop_of_1_0', @old, uuid7(1), 'order-1'), 'replayed ' x 50 . 'in_progress replayed', 'a dump of 1.0: all is known');
is(claims('shop_of_1_0', uuid7(100)), 'claimed', 'a new one');
is(formats('shop_of_1_0'), '0: 58 plain', 'is as those beside it');
$node->safe_psql('shop_of_1_0', $rotate);
is(claims('shop_of_1_0', @old, uuid7(100), uuid7(101)), 'replayed ' x 51 . 'claimed', 'a generation later all is known');
is(formats('shop_of_1_0'), '0: 58 plain, 1: 1 by time', 'and new ones are by time');

#----------------------------------------------------------------------------
# Updated: the generation that is current keeps its format.

$node->safe_psql('shop', "ALTER EXTENSION $api UPDATE");
sql_is($node, "SELECT last_value FROM $api.time_ordered_from", '2', 'the next generation is the first one by time', 'shop');
is(claims('shop', @old, 'order-1'), 'replayed ' x 50 . 'replayed', 'updated: all is known');
is(claims('shop', uuid7(60)), 'claimed', 'a new one');
is($pool->run(0, "SELECT outcome FROM $api.claim_key('@{[uuid7(60)]}');"), 'replayed', 'is known to the session of then');
is($pool->run(0, "SELECT outcome FROM $api.claim_key('@{[uuid7(61)]}');"), 'claimed', 'as the one that it claims');
is(claims('shop', uuid7(61)), 'replayed', 'is to others');
is(formats('shop'), '0: 59 plain', 'in the old format');

# a dump before the rotation
copy_database('shop', 'shop_updated');
is(claims('shop_updated', @old, uuid7(60), uuid7(100)), 'replayed ' x 51 . 'claimed', 'a dump of an updated one: all is known');
is(formats('shop_updated'), '0: 60 plain', 'and its format goes on');

#----------------------------------------------------------------------------
# The rotation that changes the format, between two claimers of a key.

foreach my $end ([ 'COMMIT' => 'replayed' ], [ 'ROLLBACK' => 'claimed' ])
{
	my ($how, $outcome) = @$end;
	my $key = uuid7($how eq 'COMMIT' ? 70 : 71);

	$pool->run(1, "BEGIN; SELECT outcome FROM $api.claim_key('$key');");
	$node->safe_psql('shop', $rotate) if $how eq 'COMMIT';
	sql_is($node, "SELECT max(generation) FROM $api.generations", '2', 'the second generation', 'shop');
	$pool->send(2, "SELECT outcome FROM $api.claim_key('$key');");
	$pool->wait_blocked(1);
	$pool->run(1, "$how;");
	is($pool->collect(2), "$outcome\n", "two claimers on either side, $how");
}
is(claims('shop', @old, uuid7(60), uuid7(61), uuid7(70), uuid7(71), 'order-1'), 'replayed ' x 54 . 'replayed',
	'rotated: all is known');
is($pool->run(0, "SELECT outcome FROM $api.claim_key('@{[uuid7(72)]}');"), 'claimed', 'a new one, of the session of then');
is(claims('shop', uuid7(72)), 'replayed', 'is known to others');
is(formats('shop'), '0: 60 plain, 1: 2 by time', 'new ones are by time');

#----------------------------------------------------------------------------
# What changes moves, with its new hash, and is found by it.

sub calls
{
	my ($db, @calls) = @_;

	return join ' ', split /\n/, $node->safe_psql($db, "SET search_path = $api;\n" . join "\n", map { "SELECT $_;" } @calls);
}

my $moves = sub {
	my ($db) = @_;

	is( calls($db,
			"complete_key('@{[uuid7(1)]}', '\"one\"', attempt => 1)", "extend_key('@{[uuid7(2)]}', '2 hours', 'default', 1)",
			"outcome || attempt FROM claim_key('@{[uuid7(3)]}', lease => '1 hour')", "release_key('@{[uuid7(4)]}', attempt => 1)"),
		'completed extended claimed2 released', "$db: completed, extended, taken over, released");
	is(formats($db), '0: 56 plain, 1: 6 by time', "$db: each is in the new generation, by time");
	is( calls($db,
			"outcome || response FROM claim_key('@{[uuid7(1)]}')", "outcome FROM claim_key('@{[uuid7(2)]}')",
			"complete_key('@{[uuid7(3)]}', attempt => 1)", "complete_key('@{[uuid7(3)]}', attempt => 2)",
			"outcome || attempt FROM claim_key('@{[uuid7(4)]}', lease => '1 hour')", "outcome FROM claim_key('@{[uuid7(5)]}')"),
		'replayed"one" in_progress stale completed claimed2 in_progress', "$db: where they are found");
};

copy_database('shop', 'shop_between', '--jobs=2');
$moves->('shop');
is(claims('shop_between', @old, map({ uuid7($_) } 60, 61, 70, 71, 72), 'order-1', uuid7(1)),
	'replayed ' x 56 . 'in_progress', 'a dump with both formats: all is known');
$moves->('shop_between');

# 1.0's generation goes, with all that did not move
$node->safe_psql('shop', $rotate);
is($pool->run(0, "SELECT outcome FROM $api.claim_key('@{[uuid7(5)]}');"), 'in_progress', 'a lease keeps its generation');
is(calls('shop', map { "complete_key('@{[uuid7($_)]}', attempt => 1)" } 5, 6), 'completed completed', 'its work is completed');
$node->safe_psql('shop', $rotate);
unlike(formats('shop'), qr/plain/, 'then the last of the old claims go');
is(claims('shop', $old[0], uuid7(5), uuid7(6)), 'claimed replayed replayed', 'as they would have');

#----------------------------------------------------------------------------
# A new database, and a dump of it: one format, and no other.

is(claims('postgres', uuid7(1), 'order-1'), 'claimed claimed', 'a new database');
is(formats('postgres'), '0: 1 by time, 0: 1 plain', 'has it from the beginning');
copy_database('postgres', 'new_copy');
is(claims('new_copy', uuid7(1), 'order-1', uuid7(2)), 'replayed replayed claimed', 'a dump of it: all is known');
is(formats('new_copy'), '0: 1 plain, 0: 2 by time', 'and so it goes on');
$node->safe_psql('postgres', 'CREATE DATABASE never_used');
create_extension($node, 'never_used');
copy_database('never_used', 'never_copy');
is(claims('never_copy', uuid7(1), uuid7(1)), 'claimed replayed', 'a dump of one that was never used');
is(formats('never_copy'), '0: 1 by time', 'begins as a new one');

#----------------------------------------------------------------------------
# Many at once, from 1.0 over the update and two rotations: each key is won once.  One
# of those who race makes the changes on his way.

my $sessions = 6;
my $keys = $ENV{OI_TEST_KEYS} // 6000;
my $dir = PostgreSQL::Test::Utils::tempdir();
# the second rotation forgets nothing: no generation ended a day ago
my %changes = (
	int($keys / 6) => "ALTER EXTENSION $api UPDATE;",
	int($keys / 3) => "$rotate;",
	int($keys / 2) =>
	  "UPDATE $api.generations SET started_at = now() - interval '2 days';\nCALL $api.rotate_keys('1 day');");

$node->safe_psql('postgres', 'CREATE DATABASE storm');
create_extension($node, 'storm', '1.0');
my $storm = OrderIdempotency::Sessions->new($node, $sessions, db => 'storm',
	setup => "SET order_idempotency.in_flight_wait = -1;\n");

foreach my $n (1 .. $keys)
{
	my $claim = "SELECT outcome || ' $n' FROM $api.claim_key('@{[uuid7($n)]}');\n";

	append_to_file("$dir/races", $claim);
	append_to_file("$dir/changes", ($changes{$n} ? "$changes{$n}\n" : '') . $claim);
}
$storm->send_all(sub { $_[0] == 0 ? "\\i $dir/changes" : "\\i $dir/races" });

my %won;
my $answers = 0;
foreach my $got ($storm->collect_all)
{
	$answers++ while $got =~ /^(?:claimed|replayed) [0-9]+$/mg;
	$won{$1}++ while $got =~ /^claimed ([0-9]+)$/mg;
	unlike($got, qr/ERROR/, 'a session has no error');
}
is($answers, $sessions * $keys, 'a storm over the update and the rotations: every call has an answer');
is(scalar(keys %won), $keys, 'every key is won');
is(join(' ', grep { $won{$_} > 1 } sort keys %won), '', 'by one');
sql_is($node, "SELECT count(*) FROM $api.claims", $keys, 'the store has all of them, once', 'storm');
sql_is($node, "SELECT max(generation) FROM $api.generations", '3', 'in three generations', 'storm');
diag(formats('storm'));

unlike(slurp_file($node->logfile), qr/TRAP|PANIC|terminated by signal/, 'nothing crashed');
$storm->quit;
$pool->quit;
done_testing();
