# Servers with a sink of files, and what tests look for in those.

package OrderIdempotency::Drain;

use strict;
use warnings;

use Exporter 'import';
use JSON::PP;
use OrderIdempotency::Node;
use PostgreSQL::Test::Utils;
use Test::More;

our @EXPORT = qw(new_drain_node sink_dir create_sink subscribe emit read_events
  events_of drained wait_for_worker worker_pid kill_worker all_once in_key_order);

# A server as new_node() makes it, with server "files" for subscriptions in
# database postgres.
sub new_drain_node
{
	my ($name, %opt) = @_;
	my $node = new_node($name, %opt,
		conf => "max_worker_processes = 24\n" . ($opt{conf} // ''));

	mkdir sink_dir($node) or die "could not create directory: $!";
	create_sink($node, 'postgres');
	return $node;
}

# The directory that the files are in.
sub sink_dir
{
	my ($node) = @_;

	return $node->basedir . '/sink';
}

# Server "files", in that database.
sub create_sink
{
	my ($node, $db) = @_;
	my $dir = sink_dir($node);

	$node->safe_psql($db, <<~"SQL");
		CREATE SERVER files FOREIGN DATA WRAPPER order_idempotency_file
		OPTIONS (path '$dir')
		SQL
	return;
}

# A subscription with a worker that is at work.  Options: db; the rest are
# arguments of create_subscription, as SQL.
sub subscribe
{
	my ($node, $name, %opt) = @_;
	my $db = delete $opt{db} // 'postgres';
	my $args = join '', map { ", $_ => $opt{$_}" } sort keys %opt;

	$node->safe_psql($db,
		"SELECT order_idempotency.create_subscription('$name', 'files'$args)");
	wait_for_worker($node, $name, $db);
	return;
}

# One event of a key, as a statement.
sub emit
{
	my ($key, $type) = @_;

	$type //= 'test.event';
	return "SELECT order_idempotency.emit_event('$type', '$key');";
}

# Waits until the worker of a subscription is at work, and returns its process
# id.
sub wait_for_worker
{
	my ($node, $name, $db) = @_;

	poll($node, $db // 'postgres', <<~"SQL") or die "no worker of $name";
		SELECT count(*) = 1 FROM order_idempotency.subscription_status
		WHERE name = '$name' AND state IN ('idle', 'delivering', 'retrying')
		SQL
	return worker_pid($node, $name, $db);
}

# The process id of a subscription's worker, or an empty string.
sub worker_pid
{
	my ($node, $name, $db) = @_;

	return $node->safe_psql($db // 'postgres',
		"SELECT pid FROM order_idempotency.subscription_status WHERE name = '$name'"
	);
}

# Kills a worker with SIGKILL.  The server restarts all of its processes.
sub kill_worker
{
	my ($node, $name) = @_;
	my $pid = worker_pid($node, $name);

	return 0 if $pid eq '';
	return kill 'KILL', $pid;
}

# The events in a file, decoded, in their order.  Dies where a line is torn,
# or is not JSON in UTF-8.
sub read_events
{
	my ($node, $file) = @_;
	my $path = sink_dir($node) . "/$file";
	my $decoder = JSON::PP->new->utf8;

	return () if !-e $path;
	my $content = slurp_file($path);
	die "last line of $file is torn" if $content !~ /\n\z/ && $content ne '';
	return map { $decoder->decode($_) } split /\n/, $content;
}

# The keys of the events in a file, as one string.
sub events_of
{
	my ($node, $file) = @_;

	return join ' ', map { $_->{subject} } read_events($node, $file);
}

# Waits until nothing is left for a subscription to deliver.
sub drained
{
	my ($node, $name, $db) = @_;

	poll($node, $db // 'postgres', <<~"SQL") or die "$name is not drained";
		SELECT lag_events = 0 FROM order_idempotency.subscription_status
		WHERE name = '$name'
		SQL
	return;
}

# Checks that the files have every event of the log once, and nothing else.
sub all_once
{
	my ($node, $files, $what, $db) = @_;
	my @sent = map { read_events($node, $_) } ref $files ? @$files : $files;
	my @logged = split /\n/,
	  $node->safe_psql($db // 'postgres',
		'SELECT event_id FROM order_idempotency.outbox');
	my (%sent, %logged);

	$sent{ $_->{id} }++ foreach @sent;
	$logged{$_}++ foreach @logged;
	my @lost = grep { !$sent{$_} } keys %logged;
	my @ghosts = grep { !$logged{$_} } keys %sent;
	my @repeated = grep { $sent{$_} > 1 } keys %sent;

	is( scalar(@lost) . ' lost, '
		  . scalar(@ghosts)
		  . ' ghosts, '
		  . scalar(@repeated)
		  . ' repeated',
		'0 lost, 0 ghosts, 0 repeated',
		"$what: each of " . scalar(@logged) . ' events once');
	return;
}

# Checks that the events of each key come in the order in which its transactions
# followed each other, which data.n tells, where there is one.
sub in_key_order
{
	my ($node, $file, $what) = @_;
	my (%last, @wrong);

	foreach my $event (read_events($node, $file))
	{
		my ($key, $n) = ($event->{subject}, $event->{data}{n});

		next if !defined $n;
		push @wrong, "$key: $n after $last{$key}"
		  if defined $last{$key} && $n <= $last{$key};
		$last{$key} = $n;
	}
	is("@wrong[0 .. ($#wrong > 4 ? 4 : $#wrong)]", '', "$what: each key's events in order");
	return;
}

1;
