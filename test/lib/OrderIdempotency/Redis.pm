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
our @EXPORT = qw(require_redis stream_is_right);

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

# The events in a stream in their order: [ id, key, n of the payload ].  Reads the lines
# that redis-cli writes, which is quicker than JSON for many of them.
sub events
{
	my ($self, $stream) = @_;
	my @lines = split /\n/, $self->try('XRANGE', $stream, '-', '+');
	my @events;

	foreach my $at (0 .. $#lines - 4)
	{
		next if $lines[$at] !~ /^[0-9]+-[0-9]+\z/ || $lines[ $at + 1 ] ne 'id';
		push @events, [ $lines[ $at + 2 ], $lines[ $at + 4 ] ];
	}
	my $n = -1;
	foreach my $line (@lines)
	{
		$n++ if $n < $#events && $line eq $events[ $n + 1 ][0];
		$events[$n][2] = $1 if $n >= 0 && $line =~ /^\{"n": ([0-9]+)/;
	}
	return @events;
}

# Checks that a stream has each event of a type once, and nothing else, and those of each
# key in the order that n tells.
sub stream_is_right
{
	my ($node, $redis, $stream, $type, $what) = @_;
	my %logged = map { $_ => 1 } split /\n/, $node->safe_psql('postgres',
		"SELECT event_id FROM order_idempotency.outbox WHERE type = '$type'");
	my (%sent, %last, @wrong);

	foreach ($redis->events($stream))
	{
		my ($id, $key, $n) = @$_;

		$sent{$id}++;
		next if !defined $n;
		push @wrong, "$key: $n after $last{$key}" if defined $last{$key} && $n <= $last{$key};
		$last{$key} = $n;
	}
	my @lost = grep { !$sent{$_} } keys %logged;
	my @ghosts = grep { !$logged{$_} } keys %sent;
	my @repeated = grep { $sent{$_} > 1 } keys %sent;
	is(@lost . ' lost, ' . @ghosts . ' ghosts, ' . @repeated . ' repeated', '0 lost, 0 ghosts, 0 repeated',
		"$what: each of " . keys(%logged) . ' events once');
	is("@wrong[0 .. ($#wrong > 4 ? 4 : $#wrong)]", '', "$what: each key's events in order");
	return;
}

1;
