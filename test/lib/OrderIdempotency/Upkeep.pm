# The maintenance process, and what it does about payment deadlines.

package OrderIdempotency::Upkeep;

use strict;
use warnings;

use Exporter 'import';
use Test::More;

our @EXPORT = qw(deadlines_are_over wait_for_visit visitor states no_more_than);

my $api = 'order_idempotency';

# Waits until no deadline is left that is over by now.
sub deadlines_are_over
{
	my ($node, $what, $db) = @_;

	ok( $node->poll_query_until($db // 'postgres',
			"SELECT count(*) = 0 FROM $api.payment_deadlines WHERE due_at <= clock_timestamp()"
		),
		$what);
	return;
}

# The process id of the maintenance process in a database, or an empty string.
sub visitor
{
	my ($node, $db) = @_;

	$db //= 'postgres';
	return $node->safe_psql('postgres', <<~"SQL");
		SELECT pid FROM pg_stat_activity
		WHERE backend_type = 'order_idempotency maintenance' AND datname = '$db'
		SQL
}

# Waits until the maintenance process is in a database, and returns its
# process id.
sub wait_for_visit
{
	my ($node, $db) = @_;
	my $pid = '';

	$db //= 'postgres';
	$node->poll_query_until('postgres', <<~"SQL") or die "nobody visits $db";
		SELECT count(*) = 1 FROM pg_stat_activity
		WHERE backend_type = 'order_idempotency maintenance' AND datname = '$db'
		SQL
	return visitor($node, $db);
}

# How many orders are in which state, of those whose key begins so.
sub states
{
	my ($node, $prefix, $db) = @_;

	return $node->safe_psql($db // 'postgres', <<~"SQL");
		SELECT string_agg(state || ' ' || n, ', ' ORDER BY state)
		FROM (SELECT state, count(*) AS n FROM $api.orders
			  WHERE starts_with(key, '$prefix') GROUP BY state) s
		SQL
}

# Checks that a number is not over its bound, and shows both.
sub no_more_than
{
	my ($number, $bound, $what) = @_;

	cmp_ok($number, '<=', $bound, "$what: $number, at most $bound");
	return;
}

1;
