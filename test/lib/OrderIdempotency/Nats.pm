# A NATS server with JetStream of the test's own, read by a client in Python that knows
# the protocol itself.

package OrderIdempotency::Nats;

use strict;
use warnings;

use parent -norequire, 'OrderIdempotency::Broker';

use FindBin;
use IO::Socket::INET;
use IPC::Run qw(run);
use JSON::PP;
use OrderIdempotency::Broker;
use PostgreSQL::Test::Utils;

my $client = "$FindBin::RealBin/../lib/nats_client.py";

# The server's program, or undef.
sub _program
{
	my ($found) = grep { -x } map { "$_/nats-server" } qw(/usr/bin /usr/sbin /usr/local/bin);

	return $found;
}

# What require_broker() is to be given.
sub requirements
{
	return ([ 'nats-server', defined _program() ]);
}

# A server, not started, with its files below a directory.  Options: conf, more lines
# for its configuration; user, password, which the client uses.
sub new
{
	my ($class, $dir, %opt) = @_;
	my $port = free_port();
	my $self = OrderIdempotency::Broker::new($class,
		name => 'nats', dir => $dir, port => $port, login => { map { $_ => $opt{$_} } grep { $opt{$_} } qw(user password) },
		command => [ _program(), '-c', "$dir/nats.conf" ]);

	append_to_file("$dir/nats.conf", <<~"CONF" . ($opt{conf} // ''));
		listen: "127.0.0.1:$port"
		jetstream { store_dir: "$dir/store", max_file_store: 1GB, max_memory_store: 256MB }
		CONF
	$self->{ready} = sub { $self->_is_up };
	return $self;
}

sub port { return $_[0]->{port} }

# Does it greet, and is JetStream ready?
sub _is_up
{
	my ($self) = @_;

	return eval { $self->client('request', { subject => '$JS.API.INFO', body => {} }) };
}

# Has the client do something, and returns what it says, decoded.
sub client
{
	my ($self, $command, $argument) = @_;
	my ($out, $err) = ('', '');

	run([ 'python3', $client, encode_json({ port => $self->port + 0, %{ $self->{login} } }), $command, encode_json($argument) ],
		'<', '/dev/null', '>', \$out, '2>', \$err)
	  or die "nats_client.py $command: $err";
	return map { decode_json($_) } split /\n/, $out;
}

# Makes or changes a stream.
sub stream
{
	my ($self, $how, $name, %config) = @_;
	my ($answer) = $self->client('request',
		{ subject => "\$JS.API.STREAM.$how.$name", body => { name => $name, %config } });

	die "stream $name: $answer->{error}{description}" if $answer->{error};
	return $answer;
}

# All messages of a stream, in its order.
sub read_stream
{
	my ($self, $name) = @_;

	return $self->client('read', { stream => $name });
}

1;
