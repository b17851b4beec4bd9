# A TCP proxy between a sink and a broker that breaks on command; what it can do is
# in tcp_proxy.py.

package OrderIdempotency::Proxy;

use strict;
use warnings;

use FindBin;
use IPC::Run qw(start);
use OrderIdempotency::Broker;
use PostgreSQL::Test::Utils;

my @proxies;

# A proxy on a free port to another one on this machine, at work.  It is at another address of this machine
# than 127.0.0.1 if that is given.
sub new
{
	my ($class, $target, $address) = @_;
	my $self = bless { port => free_port(), in => '', out => '' }, $class;

	$self->{run} = start(
		[ 'python3', "$FindBin::RealBin/../lib/tcp_proxy.py", $self->{port}, $target, $address // () ],
		'<', \$self->{in}, '>', \$self->{out},
		IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default * 10));
	$self->_answer;
	push @proxies, $self;
	return $self;
}

sub port { return $_[0]->{port} }

sub _answer
{
	my ($self) = @_;

	$self->{run}->pump while $self->{out} !~ s/^(.*)\n//;
	return $1;
}

# Gives a command, and returns what is said after "ok".
sub tell
{
	my ($self, $command) = @_;

	$self->{in} .= "$command\n";
	my $answer = $self->_answer;
	die "proxy: $answer" if $answer !~ s/^ok ?//;
	return $answer;
}

END
{
	my $status = $?;

	foreach (@proxies)
	{
		$_->{run}->kill_kill(grace => 0);
	}
	$? = $status;
}

1;
