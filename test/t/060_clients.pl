# Promises 1, 3 and 9 as applications meet them: the client example of every language does
# what examples/clients.md says, directly with prepared statements and through PgBouncer
# in transaction mode, as a role that has no more than grant_application gives.
#
# Bugs that this catches: arguments whose types a driver's users cannot give, results they
# cannot read, an error that does not come through as its SQLSTATE, a call that depends
# on what an earlier transaction left in its session, an example that does not run.
#
# Each client is planted with a bug by its own scenario: a connection cut after the
# commit, a rival between snapshot and write, a crash after the charge.  Prepared
# statements through the pooler, in whichever client, make most of its steps fail.
#
# scripts/setup-clients builds them before.  What it left out is skipped here; with
# CI=true only where the language's tools are not on the machine.

use strict;
use warnings;

use File::Basename qw(basename dirname);
use File::Spec;
use FindBin;
use IPC::Run;
use lib "$FindBin::RealBin/../lib";

use OrderIdempotency::Node;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my @languages = qw(go java node psql python);
my @steps = (
	'create with retry', 'retry on 40001',
	'outcome and SQLSTATE', 'pay with a lease',
	'webhook inbox', 'read the order');

my $examples = File::Spec->catdir($FindBin::RealBin, '..', '..', 'examples');
my $built = $ENV{OI_CLIENTS} // "$examples/../build/clients";
my ($role, $password) = ('shop', 'not a secret');
my $timeout = $PostgreSQL::Test::Utils::timeout_default;
my ($node, $bouncer, $bouncer_port);

# -- server and pooler -----------------------------------------------------------

# A server that asks for a password over TCP, with a database and a role for the clients.
# In a database without an encoding (SQL_ASCII) Python would get bytes for text.
sub start_server
{
	$node = new_node('clients', conf => <<~'CONF');
		listen_addresses = '127.0.0.1'
		log_line_prefix = '%m [%p] %q%u: '
		log_statement = all
		CONF
	my $hba = $node->data_dir . '/pg_hba.conf';
	my $lines = slurp_file($hba);
	open my $file, '>', $hba or die "could not write $hba: $!";
	print $file "host all all 127.0.0.1/32 scram-sha-256\n$lines";
	close $file;
	$node->reload;
	$node->safe_psql('postgres',
		"CREATE DATABASE shop ENCODING 'UTF8' TEMPLATE template0");
	create_extension($node, 'shop');
	$node->safe_psql('shop', <<~"SQL");
		CREATE ROLE $role LOGIN PASSWORD '$password';
		SELECT order_idempotency.grant_application('$role');
		SQL
	return;
}

# Where a client finds the database.
sub url
{
	my ($port) = @_;

	return "postgres://$role:" . ($password =~ s/ /%20/gr) . "\@127.0.0.1:$port/shop";
}

# PgBouncer in transaction mode.  It hands the few connections out in turn, so that a
# client's next transaction meets another session than its last one.
sub start_bouncer
{
	my $dir = PostgreSQL::Test::Utils::tempdir;
	my $log = "$PostgreSQL::Test::Utils::log_path/pgbouncer.log";
	my $port = $node->port;

	$bouncer_port = PostgreSQL::Test::Cluster::get_free_port();
	append_to_file("$dir/users.txt", qq("$role" "$password"\n));
	append_to_file("$dir/pgbouncer.ini", <<~"INI");
		[databases]
		shop = host=127.0.0.1 port=$port
		[pgbouncer]
		listen_addr = 127.0.0.1
		listen_port = $bouncer_port
		unix_socket_dir =
		auth_type = scram-sha-256
		auth_file = $dir/users.txt
		pool_mode = transaction
		default_pool_size = 4
		min_pool_size = 4
		server_round_robin = 1
		INI
	$bouncer = IPC::Run::start([ 'pgbouncer', "$dir/pgbouncer.ini" ],
		'<', \undef, '>', $log, '2>&1');
	wait_for_bouncer($log);
	return;
}

# Waits until the server can be reached through it.
sub wait_for_bouncer
{
	my ($log) = @_;
	my $deadline = time + $timeout;

	until (IPC::Run::run([ $node->installed_command('psql'), '-X', '-c', 'SELECT 1',
				url($bouncer_port) ], '>', \my $out, '2>', \my $err))
	{
		die "PgBouncer does not answer: $err" . slurp_file($log)
		  if !$bouncer->pumpable || time > $deadline;
		select undef, undef, undef, 0.1;
	}
	return;
}

# -- clients ---------------------------------------------------------------------

# Why a language is left out, or nothing.
sub left_out
{
	my ($language) = @_;

	return slurp_file("$built/$language/left-out") =~ s/\n//gr
	  if -e "$built/$language/left-out";
	return "scripts/setup-clients was not run"
	  if -e "$examples/$language/build" && !-d "$built/$language";
	return;
}

# Runs a client with nothing but what it is promised.  Returns its output and exit status.
sub run_client
{
	my ($language, $port, %env) = @_;
	local %ENV = (
		(map { $_ => $ENV{$_} // '' } qw(PATH HOME LC_ALL)),
		DATABASE_URL => url($port), %env);
	my ($out, $err) = ('', '');

	IPC::Run::run([ "$examples/$language/run", "$built/$language" ], '<', \undef,
		'>', \$out, '2>', \$err, IPC::Run::timeout($timeout));
	my $status = $?;
	diag("$language:\n$out$err") if $status;
	return ($out, $status);
}

# Checks what a client says of its steps.
sub check_client
{
	my ($language, $how, $port, %env) = @_;
	my ($out, $status) = run_client($language, $port, %env);
	my %said = map { /^(not ok|ok) - ([^:]+)/ ? ($2 => $1) : () } split /\n/, $out;

	is($said{$_} // 'not run', 'ok', "$language, $how: $_") foreach @steps;
	is($status, 0, "$language, $how: exit status");
	like($out, qr/^1\.\.6$/m, "$language, $how: it ran to its end");
	return;
}

# What the server logs of the clients while something is done: the processes that served
# them, and the statements.
sub logged
{
	my ($do) = @_;
	my $offset = -s $node->logfile;

	$do->();
	my @lines = slurp_file($node->logfile, $offset)
	  =~ /^\S+ \S+ \S+ \[(\d+)\] $role: LOG:  (.*)/mg;
	my %pids = @lines;
	return (scalar keys %pids, join "\n", @lines);
}

# by the protocol, where a name is there; and by SQL
my $prepared = qr/^execute (?!<unnamed>)[^:]+: |^statement: (?i:PREPARE|EXECUTE) /m;

# Runs a client directly, then through the pooler.
sub run_both
{
	my ($language) = @_;
	my ($sessions, $log) =
	  logged(sub { check_client($language, 'directly', $node->port) });

	like($log, $prepared, "$language, directly: statements are prepared");
	consistent($node, "$language, directly", 'shop');

	($sessions, $log) = logged(
		sub { check_client($language, 'pooled', $bouncer_port, POOLED => 1) });
	unlike($log, $prepared, "$language, pooled: no statement is prepared");
	cmp_ok($sessions, '>', 1, "$language, pooled: it met several sessions");
	consistent($node, "$language, pooled", 'shop');
	return;
}

# The keys of a run have the language in them.  Whatever crashed on the way, both runs left
# paid orders, and each payment that was begun is completed, by the second attempt.
sub check_database
{
	my ($language) = @_;

	sql_is($node, <<~"SQL", 't|2|2', "$language: what is left in the database", 'shop');
		SELECT (SELECT count(*) >= 4 FROM order_idempotency.orders
				WHERE key LIKE '$language-%' AND state = 'paid'),
			   count(*), count(*) FILTER (WHERE attempt = 2 AND completed_at IS NOT NULL)
		FROM order_idempotency.claims WHERE key LIKE '%$language-%'
		SQL
	return;
}

# -- the tests -------------------------------------------------------------------

# The links of a page of the examples that lead nowhere.
sub dead_links
{
	my ($page) = @_;

	return grep { !/^https?:/ && !-e dirname($page) . '/' . s/#.*//r }
	  slurp_file($page) =~ /\]\(([^)\s]+)\)/g;
}

is(join(' ', sort map { basename($_) } grep { -e "$_/run" && !/demo$/ } glob "$examples/*"),
	join(' ', @languages), 'every example is run');
is(join(' ', map { dead_links($_) } glob "$examples/*.md $examples/*/README.md"),
	'', 'every link in their pages leads somewhere');

start_server();
start_bouncer();
foreach my $language (@languages)
{
	my $why = left_out($language);

	if (defined $why)
	{
		if (($ENV{CI} // '') eq 'true' && $why !~ /^there is no /)
		{
			fail("$language: $why");
			next;
		}
	  SKIP: { skip "$language: $why", 2 * (@steps + 4); }
		next;
	}
	run_both($language);
	check_database($language);
}
$bouncer->kill_kill;
$node->stop;

# ends the pooler of a test that did not get to do so
END
{
	$bouncer->kill_kill if $bouncer && $bouncer->pumpable;
}

done_testing();
