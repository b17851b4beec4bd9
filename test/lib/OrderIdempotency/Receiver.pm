# What tests of sinks for brokers have in common: subscriptions, events of many keys,
# and what came out at the other end.  A message is a hash with id, key (of the
# order), n (in its payload).

package OrderIdempotency::Receiver;

use strict;
use warnings;

use Exporter 'import';
use OrderIdempotency::Broker;
use OrderIdempotency::Drain;
use OrderIdempotency::Node;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

our @EXPORT = qw(sink_there create_broker_server subscribe_broker numbered_events emit_sql
  last_error_like not_configured try_again arrived_in_order ends_in_time secrets_kept no_crash);

my $api = 'order_idempotency';

# Is a sink's library installed?
sub sink_there
{
	my ($node, $sink) = @_;

	return -e $node->config_data('--pkglibdir') . "/order_idempotency_$sink.so";
}

# A server of a sink, with a user mapping if one is given.
sub create_broker_server
{
	my ($node, $name, $sink, $options, $mapping) = @_;

	$node->safe_psql('postgres',
		"CREATE SERVER \"$name\" FOREIGN DATA WRAPPER order_idempotency_$sink OPTIONS ($options)");
	$node->safe_psql('postgres',
		"CREATE USER MAPPING FOR CURRENT_USER SERVER \"$name\" OPTIONS ($mapping)")
	  if $mapping;
	return;
}

# A subscription of that name to the server of that name, for events of type NAME.event.
# Failed events are tried again soon.
sub subscribe_broker
{
	my ($node, $name, $topic, $options) = @_;
	my $more = $options ? ", $options" : '';

	$node->safe_psql('postgres', <<~"SQL");
		SELECT $api.create_subscription('$name', '$name', ARRAY['$name.event'], '$topic',
			'{"backoff_min": 100, "backoff_max": 500, "max_attempts": 1000$more}')
		SQL
	return wait_for_worker($node, $name);
}

# Statements that write so many events for a subscription, of so many keys in turn,
# numbered from $from.
sub numbered_events
{
	my ($name, $count, $keys, $from) = @_;

	$from //= 1;
	return <<~"SQL";
		SELECT count($api.emit_event('$name.event', 'k' || n % $keys, jsonb_build_object('n', n)))
		FROM generate_series($from, $from + $count - 1) n;
		SQL
}

# Writes them.
sub emit_sql
{
	my ($node, @arguments) = @_;

	$node->safe_psql('postgres', numbered_events(@arguments));
	return;
}

# Waits until a subscription's last error is like that.
sub last_error_like
{
	my ($node, $name, $pattern, $what) = @_;
	my $found = wait_for("error of $name like $pattern",
		sub {
			$node->safe_psql('postgres',
				"SELECT last_error FROM $api.subscription_status WHERE name = '$name'") =~ $pattern;
		});

	ok($found, $what);
	return;
}

# Checks that options which do not make sense together are said to be why nothing is delivered.
sub not_configured
{
	my ($node, $sink, $options, $mapping, $pattern) = @_;

	create_broker_server($node, 'half', $sink, $options, $mapping);
	subscribe_broker($node, 'half', 'half');
	emit_sql($node, 'half', 1, 1);
	last_error_like($node, 'half', qr/server "half" is not configured: $pattern/, "not configured: $pattern");
	$node->safe_psql('postgres', "SELECT $api.drop_subscription('half'); DROP SERVER half CASCADE");
	return;
}

# What was wrong has been mended: have the worker not wait before it tries again,
# and wait until all is delivered.
sub try_again
{
	my ($node, $name) = @_;

	$node->safe_psql('postgres', "SELECT $api.resume_subscription('$name')");
	return if eval { drained($node, $name); 1 };
	die $@ . $node->safe_psql('postgres', "SELECT s FROM $api.subscription_status s WHERE name = '$name'");
}

# Checks that messages are all of the subscription's events, each key's in order when
# repeats of what was there are left out; and how many repeats there are at most,
# where that is given.
sub arrived_in_order
{
	my ($node, $name, $what, $messages, $repeats) = @_;
	my @ids = split /\n/,
	  $node->safe_psql('postgres',
		"SELECT event_id FROM $api.outbox WHERE type = '$name.event' ORDER BY position");
	my (%wanted, %seen, %last, @wrong);

	@wanted{@ids} = ();
	foreach my $message (@$messages)
	{
		next if $seen{ $message->{id} }++;
		push @wrong, "$message->{key}: $message->{n} after $last{ $message->{key} }"
		  if ($last{ $message->{key} } // 0) >= $message->{n};
		$last{ $message->{key} } = $message->{n};
	}
	my $lost = grep { !$seen{$_} } @ids;
	my $ghosts = grep { !exists $wanted{$_} } keys %seen;

	is("$lost lost, $ghosts ghosts", '0 lost, 0 ghosts', "$what: all " . scalar(@ids) . ' events arrived');
	is("@wrong[0 .. ($#wrong > 4 ? 4 : $#wrong)]", '', "$what: each key's in order");
	cmp_ok(@$messages - keys %seen, '<=', $repeats, "$what: at most $repeats repeats") if defined $repeats;
	return;
}

# Checks that a worker that is in trouble with its broker ends within five seconds when
# it is told to.
sub ends_in_time
{
	my ($node, $name, $what) = @_;
	my $pid = worker_pid($node, $name);
	my $begin = time;

	$node->safe_psql('postgres', "SELECT pg_terminate_backend($pid)");
	wait_for("worker $pid to end", sub { !-e "/proc/$pid" });
	cmp_ok(time - $begin, '<', 5, "$what: the worker ends when it is told to");
	return;
}

# Checks that no secret is to be seen in views and log.
sub secrets_kept
{
	my ($node, $pattern) = @_;
	my $shown = $node->safe_psql('postgres', <<~"SQL");
		SELECT s::text FROM $api.subscription_status s;
		SELECT p::text FROM $api.parked_events p;
		SELECT d::text FROM $api.dead_letters d;
		SELECT a::text FROM pg_stat_activity a WHERE pid <> pg_backend_pid();
		SQL
	# what the tests themselves say is logged too, over several lines
	my $spoken = slurp_file($node->logfile) =~ s/^\S[^\n]*(?:LOG:  statement|STATEMENT):.*\n(?:\t.*\n)*//mgr;

	ok("$shown$spoken" !~ $pattern, 'no secret in views, activity and log');
	return;
}

# Checks that no process of the server crashed, at its end either: libraries have
# handlers for that.
sub no_crash
{
	my ($node) = @_;

	ok(slurp_file($node->logfile) !~ /terminated by signal|because of crash of another/, 'no process crashed');
	return;
}

1;
