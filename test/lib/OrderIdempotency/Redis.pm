# A Redis server of the test's own, and what is in its streams, as redis-cli tells it.

package OrderIdempotency::Redis;

use strict;
use warnings;

use Exporter 'import';
use IPC::Run ();
use JSON::PP;
use OrderIdempotency::Broker;
use OrderIdempotency::Node;
use PostgreSQL::Test::Utils;
use Test::More;

our @ISA = qw(OrderIdempotency::Broker);
our @EXPORT = qw(require_redis entries_once entries_in_key_order);

# Leaves the test out where something is missing.
sub require_redis
{
	my ($node) = @_;

	require_broker(
		[ 'redis-server', !system 'command -v redis-server >/dev/null' ],
		[ 'redis-cli', !system 'command -v redis-cli >/dev/null' ],
		[ 'the sink redis (libhiredis)', -e $node->config_data('--pkglibdir') . '/order_idempotency_redis.so' ]);
	return;
}

# A server, started, which has all that it acknowledged on disk.  Options: port,
# password, args, a list of further ones.
sub new
{
	my ($class, $name, $dir, %opt) = @_;
	my $port = $opt{port} // free_port();
	my $self = OrderIdempotency::Broker::new(
		$class,
		name => $name,
		dir => "$dir/$name",
		port => $port,
		auth => [ $opt{password} ? ('-a', $opt{password}, '--no-auth-warning') : () ],
		command => [
			'redis-server', '--port', $port, '--bind', '127.0.0.1', '--save', '', '--appendonly', 'yes',
			'--appendfsync', 'always', '--repl-diskless-sync-delay', '0', '--enable-protected-configs', 'yes',
			($opt{password} ? ('--requirepass', $opt{password}) : ()), @{ $opt{args} // [] } ]);

	$self->{ready} = sub { $self->try('PING') eq 'PONG' };
	return $self->start;
}

sub port { return $_[0]->{port} }

# What it answers to a command; nothing where it does not.
sub try
{
	my ($self, @command) = @_;
	my ($out, $err) = ('', '');

	IPC::Run::run([ 'redis-cli', '-p', $self->{port}, @{ $self->{auth} }, @command ],
		'<', \undef, '>', \$out, '2>', \$err, IPC::Run::timeout(60));
	chomp $out;
	return $out;
}

# The same, decoded; dies where it is an error.
sub ask
{
	my ($self, @command) = @_;
	my $out = $self->try('-3', '--json', @command);
	my $answer = eval { JSON::PP->new->utf8->allow_nonref->decode($out) };

	die "@command: $out" if !defined $answer && $out ne 'null' || ref $answer eq 'HASH' && $answer->{error};
	return $answer;
}

# The entries of a stream in their order: id, and the fields in a hash.
sub entries
{
	my ($self, $stream) = @_;

	return map { { id => $_->[0], field => { @{ $_->[1] } } } } @{ $self->ask('XRANGE', $stream, '-', '+') };
}

# Checks that streams have each event of the log of some types once, and nothing else.
sub entries_once
{
	my ($node, $redis, $streams, $types, $what) = @_;
	my %sent;
	my %logged = map { $_ => 1 } split /\n/, $node->safe_psql('postgres',
		"SELECT event_id FROM order_idempotency.outbox WHERE type ~ '$types'");

	$sent{ $_->{field}{id} }++ foreach map { $redis->entries($_) } ref $streams ? @$streams : $streams;
	my @lost = grep { !$sent{$_} } keys %logged;
	my @ghosts = grep { !$logged{$_} } keys %sent;
	my @repeated = grep { $sent{$_} > 1 } keys %sent;
	is(@lost . ' lost, ' . @ghosts . ' ghosts, ' . @repeated . ' repeated', '0 lost, 0 ghosts, 0 repeated',
		"$what: each of " . keys(%logged) . ' events once');
	return;
}

# Checks that each key's entries in a stream are in the order that data.n tells.
sub entries_in_key_order
{
	my ($redis, $stream, $what) = @_;
	my (%last, @wrong);

	foreach ($redis->entries($stream))
	{
		my $key = $_->{field}{subject};
		my $n = decode_json($_->{field}{data} // '{}')->{n} // next;

		push @wrong, "$key: $n after $last{$key}" if defined $last{$key} && $n <= $last{$key};
		$last{$key} = $n;
	}
	is("@wrong[0 .. ($#wrong > 4 ? 4 : $#wrong)]", '', "$what: each key's events in order");
	return;
}

1;
