# Promise 1, never 23505: also while a unique index is being rebuilt beside the
# sessions.  REINDEX CONCURRENTLY gives the table a second unique index for a
# while, which is not the primary key and yet takes every new row.
#
# The rebuild is held where that index takes rows and is not yet the one:
# it waits for an older snapshot, which a session keeps open.  Meanwhile ten
# sessions race for the same keys, one after the other, in the same order.
#
# Bugs that this catches: naming only the primary key as the index whose conflict
# is no error.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use OrderIdempotency::Node;
use OrderIdempotency::Sessions;
use PostgreSQL::Test::Utils;
use Test::More;

my $api = 'order_idempotency';
my $sessions = 10;
my $keys = 1500;
my $node = new_node('reindex');
my $dir = PostgreSQL::Test::Utils::tempdir();
my $pool = OrderIdempotency::Sessions->new($node, $sessions);
my $locker = OrderIdempotency::Sessions->new($node, 1);
my $reader = OrderIdempotency::Sessions->new($node, 1);
my $owner = OrderIdempotency::Sessions->new($node, 1);

# Races for the keys of one kind while its table's primary key is rebuilt.
sub race
{
	my ($table, $won, $call) = @_;
	my $file = "$dir/$table.sql";

	append_to_file($file,
		join '', map { "SELECT outcome FROM $api." . $call->("$table-$_") . ";\n" }
		  1 .. $keys);

	# the rebuild first waits for those who hold the table
	$locker->run(0, "BEGIN; LOCK TABLE $api.$table IN ROW EXCLUSIVE MODE;");
	$owner->send(0, "REINDEX INDEX CONCURRENTLY $api.${table}_pkey;");
	$owner->wait_blocked(1);
	$reader->run(0, 'BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1');
	$locker->run(0, 'COMMIT');

	# then, when the new index takes rows, for those who have older snapshots
	ok( $node->poll_query_until('postgres', <<~"SQL"),
		SELECT count(*) = 1 FROM pg_stat_progress_create_index
		WHERE relid = '$api.$table'::regclass
		  AND phase = 'waiting for old snapshots'
		SQL
		"$table: a second unique index takes rows");
	sql_is($node, <<~"SQL", '2', "$table: there are two");
		SELECT count(*) FROM pg_index
		WHERE indrelid = '$api.$table'::regclass AND indisunique AND indisready
		SQL

	$pool->send_all("\\i $file");
	my %answers;
	$answers{$_}++ foreach map { s/^psql:\S+ //r } map { split /\n/ } $pool->collect_all;
	is_deeply(
		\%answers,
		{ $won => $keys, replayed => $keys * ($sessions - 1) },
		"$table: each key has one winner, and nobody an error");

	$reader->run(0, 'COMMIT');
	is($owner->collect(0), '', "$table: the rebuild goes on, and finds no duplicates");
	sql_is($node, "SELECT count(*) FROM $api.$table", $keys, "$table: one row a key");
	return;
}

race('claims_0', 'claimed', sub { "claim_key('$_[0]')" });
race('orders', 'created', sub { "create_order('$_[0]', 1, 'EUR', 'alice')" });
consistent($node, 'after the rebuild');
$_->quit foreach $pool, $locker, $reader, $owner;
done_testing();
