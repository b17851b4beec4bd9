# Servers with the sink that fails on demand (test/modules/faulty_sink), and what
# tests look for in its log.

package OrderIdempotency::Faulty;

use strict;
use warnings;

use Exporter 'import';
use OrderIdempotency::Drain;
use OrderIdempotency::Node;
use PostgreSQL::Test::Utils;
use Test::More;

our @EXPORT = qw(new_faulty_node faulty_log subscribe_faulty order_events attempts
  delivered_keys keys_in_order set_ahead wait_for_sql);

# A server with the wrapper of the sink, and the clock that can be set forward.
sub new_faulty_node
{
	my ($name, %opt) = @_;
	my $node = new_node($name, conf => <<~"CONF" . ($opt{conf} // ''));
		max_worker_processes = 24
		shared_preload_libraries = 'order_idempotency, test_clock'
		CONF

	$node->safe_psql('postgres', 'CREATE FOREIGN DATA WRAPPER order_idempotency_faulty');
	return $node;
}

# The file that the sink of a subscription logs to.
sub faulty_log
{
	my ($node, $name) = @_;

	return $node->basedir . "/$name.log";
}

# A subscription to events of type NAME.event, with a server of its own.  options:
# JSON; the file NAME.down makes all of its deliveries fail.
sub subscribe_faulty
{
	my ($node, $name, $options) = @_;
	my $log = faulty_log($node, $name);

	$options //= '{}';
	$node->safe_psql('postgres', <<~"SQL");
		CREATE SERVER $name FOREIGN DATA WRAPPER order_idempotency_faulty
			OPTIONS (log '$log', down '$log.down');
		SELECT order_idempotency.create_subscription('$name', '$name', ARRAY['$name.event'], options => '$options');
		SQL
	wait_for_worker($node, $name);
	return;
}

# Statements that write events for a subscription: each is [ key, what the sink is
# to do ].
sub order_events
{
	my $name = shift;

	return join '', map {
		my ($key, $do) = @$_;
		my $payload = $do ? qq(, '{"do": "$do"}') : '';

		"SELECT order_idempotency.emit_event('$name.event', '$key'$payload);\n"
	} @_;
}

# What the sink did: a list of [ what, position, key ].
sub attempts
{
	my ($node, $name) = @_;
	my $log = faulty_log($node, $name);

	return () if !-e $log;
	return map { [ (split /\t/)[ 1, 3, 5 ] ] } split /\n/, slurp_file($log);
}

# The keys of what was delivered, in that order.
sub delivered_keys
{
	my ($node, $name) = @_;

	return map { $_->[2] } grep { $_->[0] eq 'delivered' } attempts($node, $name);
}

# Checks that the events of each key were delivered once, by position.
sub keys_in_order
{
	my ($node, $name, $what) = @_;
	my (%last, @wrong);

	foreach my $one (grep { $_->[0] eq 'delivered' } attempts($node, $name))
	{
		my (undef, $position, $key) = @$one;

		push @wrong, "$key: $position after $last{$key}"
		  if defined $last{$key} && $position <= $last{$key};
		$last{$key} = $position;
	}
	is("@wrong[0 .. ($#wrong > 4 ? 4 : $#wrong)]", '', "$what: each key's events once, in order");
	return;
}

# Sets the workers' clock that many seconds ahead.
sub set_ahead
{
	my ($node, $seconds) = @_;

	$node->safe_psql('postgres', "ALTER SYSTEM SET test_clock.ahead = '${seconds}s'");
	$node->reload;
	return;
}

# Waits until a query says true.
sub wait_for_sql
{
	my ($node, $query, $what) = @_;

	ok($node->poll_query_until('postgres', $query), $what);
	return;
}

1;
