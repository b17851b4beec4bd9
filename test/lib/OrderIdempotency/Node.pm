# A private server with the extension in it, and what tests do to servers.

package OrderIdempotency::Node;

use strict;
use warnings;

use Exporter 'import';
use File::Spec;
use FindBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

our @EXPORT = qw(init_node new_node create_extension kill_server sql_is consistent
  wait_until_up poll);

# Settings of every test's server.  fsync stays off, as Cluster.pm has it: the
# kills of these tests lose what the server had in its own memory, not what
# it had given to the operating system.
my $conf = q(
shared_preload_libraries = 'order_idempotency'
restart_after_crash = on
max_connections = 130
max_prepared_transactions = 10
autovacuum_naptime = '1h'
);

# A server of that name, not started, and with nothing in it.  Options: conf, more
# lines for postgresql.conf; streaming, true where it is going to have standbys;
# install_path, where the installation of PostgreSQL is, if not in PATH; encoding, of its
# databases, if not what the environment has.
sub init_node
{
	my ($name, %opt) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name,
		map { $_ => $opt{$_} } grep { $opt{$_} } 'install_path');

	$node->init(
		allows_streaming => $opt{streaming} // 0,
		extra => $opt{encoding} ? [ "--encoding=$opt{encoding}", '--no-locale' ] : []);
	$node->append_conf('postgresql.conf', $conf . ($opt{conf} // ''));
	return $node;
}

# A server of that name, started, with the extension in database postgres.
# Options: those of init_node(); version, of the extension, if not the default.
sub new_node
{
	my ($name, %opt) = @_;
	my $node = init_node($name, %opt);

	$node->start;
	create_extension($node, 'postgres', $opt{version});
	return $node;
}

# The extension, in that database, in the default version or another one.
sub create_extension
{
	my ($node, $db, $version) = @_;

	$node->safe_psql($db, 'CREATE EXTENSION order_idempotency'
		  . ($version ? " VERSION '$version'" : ''));
	return;
}

# The process ids of the children of one process, from /proc.
sub _children
{
	my ($parent) = @_;
	my @children;

	foreach my $file (glob '/proc/[0-9]*/stat')
	{
		open my $stat, '<', $file or next;
		my $line = <$stat> // '';
		close $stat;

		# pid (command) state ppid: the command may hold anything
		push @children, $1
		  if $line =~ /^([0-9]+) \(.*\) . ([0-9]+) / && $2 == $parent;
	}
	return @children;
}

# Whether a process is there and is not just waiting to be reaped.  While it has other
# threads than the one that is a zombie, it still holds its memory.
sub _alive
{
	my ($pid) = @_;

	open my $stat, '<', "/proc/$pid/stat" or return 0;
	my $line = <$stat> // '';
	close $stat;
	return 0 if $line eq '';

	# from the state on, which the command is before; the 18th is the number of threads
	my @fields = split / /, $line =~ s/^.*\) //sr;
	return $fields[0] !~ /^[ZX]/ || $fields[17] > 1;
}

# Ends a server as a power cut would: the postmaster and all of its processes
# at once, with SIGKILL.  What was in shared memory only, such as WAL that nobody
# had written yet, is gone.  Returns when all of them are.
sub kill_server
{
	my ($node) = @_;
	my $pid = (split /\n/, slurp_file($node->data_dir . '/postmaster.pid'))[0];
	my @pids = ($pid, _children($pid));
	my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;

	# stopped first, so that none can do another thing while others die
	kill 'STOP', @pids;
	@pids = ($pid, _children($pid));
	$node->kill9;
	kill 'KILL', @pids;
	while (grep { _alive($_) } @pids)
	{
		die 'a process of the server survived SIGKILL' if time > $deadline;
		select undef, undef, undef, 0.005;
	}

	# until somebody reaps the postmaster its lock files look like a live one's
	unlink $node->data_dir . '/postmaster.pid',
	  $node->host . '/.s.PGSQL.' . $node->port . '.lock';
	return;
}

# Waits until a query says "t", as poll_query_until does, but also where the server
# crashes meanwhile: a client that it does not let in may be gone before it was
# given its query, which is a broken pipe then.
sub poll
{
	my ($node, $db, $sql) = @_;
	my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;

	while (1)
	{
		my $answer = eval { $node->poll_query_until($db, $sql) };

		return $answer if defined $answer;
		die $@ if $@ !~ /Broken pipe/ || time > $deadline;
	}
}

# Waits until a server that restarts itself after a crash takes connections.
sub wait_until_up
{
	my ($node) = @_;

	poll($node, 'postgres', 'SELECT true') or die 'the server did not come back';
	return;
}

# Checks that a query's output is this.
sub sql_is
{
	my ($node, $sql, $expected, $what, $db) = @_;

	is($node->safe_psql($db // 'postgres', $sql), $expected, $what);
	return;
}

# Checks that state, history, ledger and events of every order in a database tell
# the same story; check_orders.sql says what that means.
sub consistent
{
	my ($node, $what, $db) = @_;
	my $file = File::Spec->catfile($FindBin::RealBin, '..', 'lib',
		'check_orders.sql');

	$db //= 'postgres';
	is($node->safe_psql($db, slurp_file($file)),
		'', "$what: state, history, ledger and events tell the same story");
	return;
}

1;
